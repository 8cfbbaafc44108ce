"""Posteriors of a curved decoder cover the truths that the data were simulated from."""

import numpy as np
import pytest
import tensorflow as tf
import toys
from scipy import stats

pytestmark = pytest.mark.full  # chains of NUTS

CREDIBLE = {0.68: (0.60, 0.76), 0.95: (0.90, 0.98)}


def coverage(toy, low, high):
    return np.mean((low < toy.truth) & (toy.truth < high))


def test_intervals_of_nuts_cover_the_truth(curved):
    toy, found = curved
    draws = found.chains.draws.reshape(-1, toys.CASES, toys.SIZE)
    for level, (low, high) in CREDIBLE.items():
        bounds = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        assert low <= coverage(toy, *bounds) <= high


def test_ranks_of_the_truth_are_uniform(curved):
    """Simulation-based calibration (Talts et al., arXiv 1804.06788)."""
    toy, found = curved
    draws = found.chains.draws[::8].reshape(-1, toys.CASES, toys.SIZE)[:99]
    assert len(draws) == 99
    ranks = (draws < toy.truth).sum(axis=0).ravel()
    counts = np.bincount(ranks // 10, minlength=10)
    assert stats.chisquare(counts).pvalue > 0.01


def test_laplace_is_near_where_the_decoder_is_not_too_curved(curved):
    toy, found = curved
    draws = found.draws
    for level, (low, high) in CREDIBLE.items():
        bounds = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        assert low - 0.06 <= coverage(toy, *bounds) <= high + 0.02


def test_evidence_is_near_the_integral_over_a_grid(curved):
    toy, found = curved
    axis = np.linspace(-4.5, 4.5, 121)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 1, 2)
    num = 80
    y, weight, inner, outer, seen = toy.arrays
    problem = toys.make_problem(y[:num], weight, inner, outer, seen[:num])
    values = problem.log_joint(tf.constant(grid * np.ones((1, num, 1)))).numpy()
    peak = values.max(axis=0)
    exact = peak + np.log(np.exp(values - peak).sum(axis=0) * (axis[1] - axis[0]) ** 2)
    assert np.median(np.abs(found.evidence[:num] - exact)) < 0.15
    # The maximum is the highest point of the grid, or higher; four starts may miss it now and then.
    assert np.mean(found.runs.log_joint.max(axis=0)[:num] >= peak - 1e-9) > 0.95
