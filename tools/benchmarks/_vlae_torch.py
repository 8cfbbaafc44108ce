"""The published training step and evaluation of VAE and VLAE in plain PyTorch, written after their description.

Park et al., "Variational Laplace Autoencoders", ICML 2019, sections 3 and 4: a relu network of two hidden layers on
each side, a Gaussian with one learned log variance, the Jacobian of the decoder built layer by layer along with its
outputs, the precision inverted and the inverse factored, one sample of z, Adam. It is eager and makes no effort to save
work, as the published algorithm; only names that PyTorch has retired since are replaced.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

LOG_2PI = math.log(2 * math.pi)


class Proposal(NamedTuple):
    """q(z|x) = N(mean, precision^-1) and the lower root of its covariance: (batch, K), (batch, K, K) twice."""

    mean: torch.Tensor
    precision: torch.Tensor
    root: torch.Tensor

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """Returns log q(z|x) in nats, (batch,), for z (batch, K)."""
        away = (z - self.mean)[:, :, None]
        square = torch.matmul(torch.matmul(away.transpose(1, 2), self.precision), away)[:, 0, 0]
        log_det = torch.log(torch.diagonal(self.root, dim1=1, dim2=2)).sum(1)
        return -0.5 * (square + z.shape[1] * LOG_2PI) - log_det


class Published:
    """VLAE and VAE of one pair of networks.

    Args:
      arrays: kernel (inputs, outputs) and bias of each dense layer in turn, encoder first, three layers each side;
        the encoder's last has 2 K outputs, the means and the log variances.
      log_variance: of the observations, to start from.
      updates: T, updates of the mean of q.
      update_lr: update t takes the step update_lr / (t + 1).
      adam: options of torch.optim.Adam.
    """

    def __init__(self, arrays: list[np.ndarray], log_variance: float, updates: int, update_lr: float = 0.5, **adam):
        self.weights = [torch.nn.Parameter(torch.from_numpy(np.ascontiguousarray(array.T))) for array in arrays]
        self.log_variance = torch.nn.Parameter(torch.tensor([float(log_variance)]))
        self.updates, self.update_lr = updates, update_lr
        self.latents = self.weights[6].shape[1]
        self.optimizer = torch.optim.Adam([*self.weights, self.log_variance], **{"lr": 5e-4, **adam})

    # ---- networks --------------------------------------------------------------------------------------

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns means and log variances, each (batch, K), of x (batch, D)."""
        first, first_bias, second, second_bias, last, last_bias = self.weights[:6]
        h = torch.relu(functional.linear(x, first, first_bias))
        h = torch.relu(functional.linear(h, second, second_bias))
        means = functional.linear(h, last[: self.latents], last_bias[: self.latents])
        return means, functional.linear(h, last[self.latents :], last_bias[self.latents :])

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the means of the data, (batch, D), for z (batch, K)."""
        first, first_bias, second, second_bias, last, last_bias = self.weights[6:]
        h = torch.relu(functional.linear(z, first, first_bias))
        h = torch.relu(functional.linear(h, second, second_bias))
        return functional.linear(h, last, last_bias)

    def linearise(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the means (batch, D) and their Jacobian (batch, D, K) at z."""
        first, first_bias, second, second_bias, last, last_bias = self.weights[6:]
        h = torch.relu(functional.linear(z, first, first_bias))
        jacobian = (h > 0).to(h.dtype)[:, :, None] * first
        h = torch.relu(functional.linear(h, second, second_bias))
        jacobian = (h > 0).to(h.dtype)[:, :, None] * torch.matmul(second, jacobian)
        return functional.linear(h, last, last_bias), torch.matmul(last, jacobian)

    # ---- the proposal ----------------------------------------------------------------------------------

    def search(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the mean after T updates, (batch, K), and the precision there, (batch, K, K)."""
        mean = self.encode(x)[0]
        for t in range(self.updates):
            outputs, jacobian = self.linearise(mean)
            scaled = self._scaled(jacobian)
            bias = outputs[:, :, None] - torch.matmul(jacobian, mean[:, :, None])
            inverse = torch.linalg.inv(self._precision(scaled, jacobian))
            solved = torch.matmul(inverse, torch.matmul(scaled, x[:, :, None] - bias))[:, :, 0]
            rate = self.update_lr / (t + 1)
            mean = (1 - rate) * mean + rate * solved
        jacobian = self.linearise(mean)[1]
        return mean, self._precision(self._scaled(jacobian), jacobian)

    def _scaled(self, jacobian: torch.Tensor) -> torch.Tensor:
        """Returns J^T / sigma^2, (batch, K, D)."""
        return jacobian.transpose(1, 2) * torch.exp(-self.log_variance)

    def _precision(self, scaled: torch.Tensor, jacobian: torch.Tensor) -> torch.Tensor:
        return torch.matmul(scaled, jacobian) + torch.eye(self.latents)

    # ---- objectives ------------------------------------------------------------------------------------

    def loss(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Returns minus the evidence lower bound of VLAE for x (batch, D) and noise (batch, K), batch mean, nats."""
        mean, precision = self.search(x)
        proposal = Proposal(mean, precision, torch.linalg.cholesky(torch.linalg.inv(precision)))
        z = mean + torch.matmul(proposal.root, noise[:, :, None])[:, :, 0]
        return -(self.log_joint(x, z) - proposal.log_prob(z)).mean()

    def vae_loss(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Returns the same for a VAE, whose proposal has the encoder's means and variances."""
        mean, log_variance = self.encode(x)
        z = mean + torch.exp(0.5 * log_variance) * noise
        return -(self.log_joint(x, z) - _log_normal(z, mean, log_variance)).mean()

    def log_joint(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Returns log p(x|z) + log p(z) in nats, (batch,)."""
        return _log_normal(x, self.decode(z), self.log_variance) + _log_normal(z, torch.zeros(1), torch.zeros(1))

    def step(self, x: torch.Tensor, vae: bool = False) -> float:
        """Takes one step of Adam on the batch and returns its loss."""
        noise = torch.randn(len(x), self.latents)
        self.optimizer.zero_grad()
        loss = (self.vae_loss if vae else self.loss)(x, noise)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def log_likelihood(self, x: torch.Tensor, samples: int) -> torch.Tensor:
        """Returns the importance-sampled log p(x), nats, (batch,), one datum at a time.

        As published the precision is repeated for every sample, and every copy inverted and factored.
        """
        found = []
        for one in x[:, None]:
            mean, precision = self.search(one)
            mean, precision = mean.repeat(samples, 1), precision.repeat(samples, 1, 1)
            proposal = Proposal(mean, precision, torch.linalg.cholesky(torch.linalg.inv(precision)))
            z = mean + torch.matmul(proposal.root, torch.randn(samples, self.latents, 1))[:, :, 0]
            log_weights = self.log_joint(one.repeat(samples, 1), z) - proposal.log_prob(z)
            found.append(torch.logsumexp(log_weights, 0) - math.log(samples))
        return torch.stack(found)


def _log_normal(x: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    return -0.5 * (LOG_2PI + log_variance + (x - mean) ** 2 / torch.exp(log_variance)).sum(1)
