"""What takes turns in `benchmark.py curvature` on the side of PyTorch: laplace-torch with BackPACK and curvlinops."""

import resource

import torch
from torch import nn

from benchmarks._curvature_zoo import Net, _turns, data
from benchmarks._rounds import Baton, cores

# One library asks for tens of gigabytes; beyond this it is told that there is no more, before the machine swaps.
MEMORY_LIMIT = 12 << 30


def build(net: Net) -> nn.Sequential:
    """Returns the dense autoencoder of `net` as one chain."""
    torch.manual_seed(0)
    torch.set_num_threads(cores())
    layers: list[nn.Module] = []
    for widths in (net.widths, net.widths[::-1]):
        for number, (fan_in, fan_out) in enumerate(zip(widths, widths[1:])):
            layers += [nn.Tanh()] if number else []
            layers.append(nn.Linear(fan_in, fan_out))
    return nn.Sequential(*layers)


def step(baton: Baton, net: Net, steps: int) -> None:
    """The gradient of half the squared error by all weights."""
    model, x = build(net), torch.from_numpy(data(net))

    def run(number):
        model.zero_grad()
        (0.5 * (model(x) - x).square().sum()).backward()
        return model[0].weight.grad[0]

    _turns(baton, steps, run)


def diagonal(baton: Baton, net: Net, steps: int, backend: str, stochastic: bool = False) -> None:
    """One diagonal of the generalised Gauss-Newton matrix by laplace-torch's back-end of that name."""
    from laplace import curvature

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    model, x = build(net), torch.from_numpy(data(net))
    found = getattr(curvature, backend)(model, "regression", stochastic=stochastic)
    _turns(baton, steps, lambda number: found.diag(x, x)[1].detach())
