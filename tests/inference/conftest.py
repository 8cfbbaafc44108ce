"""The toy decoder's posteriors, found by one compiled program for all tests."""

import numpy as np
import pytest
import tensorflow as tf
import toys


@pytest.fixture(scope="session")
def solve():
    """Returns solve(toy) -> Found; the search, Laplace, mixture and NUTS as one XLA program, compiled once."""
    compiled = tf.function(toys.solve, jit_compile=True, autograph=False)
    starts = np.random.default_rng(5).normal(size=(4, 1, toys.SIZE)) * np.ones((1, toys.CASES, 1))

    def run(toy):
        return tf.nest.map_structure(lambda value: value.numpy(), compiled(*toy.arrays, tf.constant(starts)))

    return run


@pytest.fixture(scope="session")
def linear(solve):
    toy = toys.Toy(curvature=0.0)
    return toy, solve(toy)


@pytest.fixture(scope="session")
def curved(solve):
    toy = toys.Toy(curvature=0.8, seed=1)
    return toy, solve(toy)
