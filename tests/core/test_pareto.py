"""The shape of the tail of importance weights: known tails, and what has none."""

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from pae_zoo.core import pareto


def largest(log_weights):
    """Returns the log weights of the tail and the one that it begins at, descending, of (batch, S)."""
    return -np.sort(-log_weights, axis=1)[:, : pareto.tail_length(log_weights.shape[1]) + 1]


@pytest.mark.parametrize("shape", [0.2, 0.7, 1.5])
def test_the_shape_of_a_pareto_tail_is_found(shape):
    weights = stats.genpareto(shape).rvs((40, 20_000), random_state=np.random.default_rng(0)) + 1e-3
    found = pareto.shape(tf.constant(largest(np.log(weights)))).numpy()
    assert found.dtype == np.float64 and found.mean() == pytest.approx(shape, abs=0.05)


def test_the_estimate_is_that_of_maximum_likelihood():
    # SciPy maximises the likelihood; the estimate of Zhang & Stephens is a mean over its profile, with a weak prior.
    weights = stats.genpareto(0.5).rvs((5, 20_000), random_state=np.random.default_rng(1))
    tails = largest(np.log(weights))
    for row, found in zip(tails, pareto.shape(tf.constant(tails)).numpy()):
        excess = np.exp(row[:-1] - row[0]) - np.exp(row[-1] - row[0])
        length = len(excess)
        fitted = (length * stats.genpareto.fit(excess, floc=0.0)[0] + 10 * 0.5) / (length + 10)
        assert found == pytest.approx(fitted, abs=0.03)


@pytest.mark.parametrize("samples,length", [(10, 0), (20, 0), (21, 5), (100, 20), (1000, 95), (10_000, 300)])
def test_the_length_of_the_tail(samples, length):
    assert pareto.tail_length(samples) == length


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equal_weights_have_no_tail_and_others_that_are_not_finite_no_shape(dtype):
    rounded = -3000.0 + 1e-4 * np.random.default_rng(0).normal(size=(1, 100))
    rows = np.concatenate([np.full((1, 100), -5.0), rounded, np.full((1, 100), np.nan)])
    found = pareto.shape(tf.constant(largest(rows), dtype)).numpy()
    assert list(found[:2]) == [-math.inf] * 2 and np.isnan(found[2])


def test_scale_does_not_matter():
    logs = largest(np.random.default_rng(2).normal(size=(3, 400)))
    np.testing.assert_allclose(pareto.shape(tf.constant(logs + 700.0)), pareto.shape(tf.constant(logs)), rtol=1e-9)
