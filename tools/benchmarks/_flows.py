"""What takes turns in `benchmark.py flow`: one flow in three libraries; each function runs in a process of its own.

All have 8 blocks of [coupling, LU matrix] over K = 32 dimensions, the second half driven by the first through a
relu network of 128-128 units; splines of 16 bins on [-5, 5]; Adam at 1e-3 on the mean of -log p.
"""

import functools
import math

import numpy as np

from benchmarks._rounds import Baton

DIMS, BLOCKS, UNITS, BINS, BOUND = 32, 8, (128, 128), 16, 5.0
LEARNING_RATE = 1e-3
NUM_DRAWS = 10_000
OURS = {"spline": "nsf", "affine": "realnvp"}
# Rows of the training data, standard normal: what they are does not change the time of a step.
NUM_ROWS = 10_000


def data() -> np.ndarray:
    """Returns the training rows of every contender, (NUM_ROWS, DIMS), float32."""
    return np.random.default_rng(0).normal(size=(NUM_ROWS, DIMS)).astype(np.float32)


# ---- ours ------------------------------------------------------------------------------------------------


def build(coupling: str):
    """Returns our flow, compiled for training."""
    import keras

    from pae_zoo import flows

    flow = flows.Flow(DIMS, layers=(OURS[coupling],), depth=BLOCKS, hidden_units=UNITS, bins=BINS, bound=BOUND)
    flow.compile(keras.optimizers.Adam(LEARNING_RATE), jit_compile=True)
    flow.adapt(data())
    return flow


def train(baton: Baton, coupling: str, batch_size: int, steps: int) -> None:
    """One XLA program per step: loss, gradients, Adam."""
    import tensorflow as tf

    flow, x = build(coupling), tf.constant(data())
    flow.optimizer.build(flow.trained_variables)

    @tf.function(jit_compile=True)
    def step(rows):
        return flow.update(tf.gather(x, rows))

    _steps(baton, lambda rows: float(step(rows)), tf.constant, batch_size, steps)


def fit(baton: Baton, coupling: str, batch_size: int, steps: int) -> None:
    """Plain `flow.fit(array)`, an epoch of `steps` batches per turn."""
    flow, x = build(coupling), data()[: steps * batch_size]

    def epoch() -> int:
        flow.fit(x, batch_size=batch_size, verbose=0)
        return len(x) // batch_size

    baton.repeat(epoch)


def sample(baton: Baton, coupling: str) -> None:
    """One XLA program that draws NUM_DRAWS rows."""
    import tensorflow as tf

    flow = build(coupling)

    @tf.function(jit_compile=True)
    def draw(seed):
        return flow.sample(NUM_DRAWS, seed)

    _draws(baton, lambda number: draw(tf.constant([0, number])).numpy())


# ---- PyTorch ---------------------------------------------------------------------------------------------


def nflows(coupling: str):
    """Returns the flow of the package nflows (https://github.com/bayesiains/nflows)."""
    import torch
    from nflows import distributions, flows, transforms
    from nflows.nn.nets import MLP

    mask = torch.cat([torch.zeros(DIMS // 2), torch.ones(DIMS // 2)])

    class Network(MLP):
        def forward(self, inputs, context=None):
            return super().forward(inputs)

    def network(inputs, outputs):
        return Network([inputs], [outputs], list(UNITS))

    def block():
        if coupling == "affine":
            return transforms.AffineCouplingTransform(mask, network)
        return transforms.PiecewiseRationalQuadraticCouplingTransform(
            mask, network, num_bins=BINS, tails="linear", tail_bound=BOUND
        )

    chain = [part for _ in range(BLOCKS) for part in (block(), transforms.LULinear(DIMS))]
    return flows.Flow(transforms.CompositeTransform(chain), distributions.StandardNormal([DIMS]))


def zuko(coupling: str):
    """Returns the flow of the package zuko (https://github.com/probabilists/zuko)."""
    import torch
    from zuko import distributions, lazy, transforms
    from zuko.flows.coupling import GeneralCouplingTransform

    mask = torch.arange(DIMS) < DIMS // 2
    options = {}
    if coupling == "spline":
        univariate = functools.partial(transforms.MonotonicRQSTransform, bound=BOUND)
        options = dict(univariate=univariate, shapes=[(BINS,), (BINS,), (BINS - 1,)])

    def block():
        return GeneralCouplingTransform(DIMS, mask=mask, hidden_features=UNITS, activation=torch.nn.ReLU, **options)

    chain = [
        part
        for _ in range(BLOCKS)
        for part in (block(), lazy.UnconditionalTransform(transforms.LULinearTransform, torch.eye(DIMS)))
    ]
    base = lazy.UnconditionalDistribution(
        distributions.DiagNormal, torch.zeros(DIMS), torch.ones(DIMS), buffer=True
    )
    flow = lazy.Flow(chain, base)
    # Called as a distribution, as nflows' flows are.
    flow.log_prob = lambda x: flow().log_prob(x)
    flow.sample = lambda num: flow().sample((num,))
    return flow


PEERS = {"nflows": nflows, "zuko": zuko}


def train_peer(baton: Baton, peer: str, coupling: str, batch_size: int, steps: int) -> None:
    """The same step in PyTorch, eager, with its fused Adam."""
    import torch

    flow, x = PEERS[peer](coupling), torch.from_numpy(data())
    optimizer = torch.optim.Adam(flow.parameters(), lr=LEARNING_RATE, fused=True)

    def step(rows):
        optimizer.zero_grad()
        loss = -flow.log_prob(x[rows]).mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    _steps(baton, step, torch.from_numpy, batch_size, steps)


def sample_peer(baton: Baton, peer: str, coupling: str) -> None:
    """The same draws in PyTorch, without gradients."""
    import torch

    flow = PEERS[peer](coupling)

    def draw(number):
        torch.manual_seed(number)
        with torch.no_grad():
            return flow.sample(NUM_DRAWS).numpy()

    _draws(baton, draw)


def _steps(baton: Baton, step, to_tensor, batch_size: int, steps: int) -> None:
    generator = np.random.default_rng(0)

    def turn() -> int:
        for rows in generator.integers(0, NUM_ROWS, (steps, batch_size)):
            loss = step(to_tensor(rows))
        if not math.isfinite(loss):
            raise RuntimeError(f"the loss is {loss}; there is nothing to compare.")
        return steps

    baton.repeat(turn)


def _draws(baton: Baton, draw) -> None:
    numbers = iter(range(1 << 30))

    def turn() -> int:
        found = draw(next(numbers))
        if found.shape != (NUM_DRAWS, DIMS) or not np.isfinite(found).all():
            raise RuntimeError(f"{NUM_DRAWS} draws of {DIMS} finite numbers are due; got shape {found.shape}.")
        return 1

    baton.repeat(turn)
