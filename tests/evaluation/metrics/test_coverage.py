"""Intervals of draws hold so much of what is drawn like them; neighbours against a search by hand."""

import numpy as np
import pytest

from pae_zoo.evaluation.metrics import coverage, similar


def test_further_draws_lie_within_as_often_as_the_names_say():
    """Also of few draws, of which plain quantiles would hold too little."""
    generator = np.random.default_rng(0)
    draws, truth = generator.normal(size=(19, 4000, 5)), generator.normal(size=(4000, 5))
    found = coverage.shares(truth, coverage.quantiles(draws), np.ones(truth.shape, bool))
    for name, level in (("coverage_50", 0.5), ("coverage_80", 0.8), ("coverage_90", 0.9)):
        assert found[name] == pytest.approx(level, abs=4 * found[f"{name}_stderr"])
        # 20,000 independent values: the binomial standard error.
        assert found[f"{name}_stderr"] == pytest.approx(np.sqrt(level * (1 - level) / 20_000), rel=0.1)


def test_only_counted_values_count():
    bounds = np.stack([np.full((2, 3), b, float) for b in (-1, -1, -1, 1, 1, 1)])
    truth = np.array([[0.0, 5.0, 0.0], [5.0, 5.0, 0.0]])
    counted = np.array([[True, False, True], [True, False, False]])
    found = coverage.shares(truth, bounds, counted)
    assert found["coverage_90"] == pytest.approx(2 / 3)
    # Two data: 2 of 2 and 0 of 1, of which 4/3 and 2/3 were expected.
    assert found["coverage_90_stderr"] == pytest.approx(np.sqrt(2 * (2 / 3) ** 2) / 3)


def test_neighbours_are_those_of_a_search_by_hand():
    generator = np.random.default_rng(1)
    train, x = generator.normal(5.0, 1.0, (200, 6)), generator.normal(5.0, 1.0, (4, 6))
    seen = generator.random((4, 6)) < 0.5
    seen[:, 0] = True
    mean, bounds = similar.restore(np.where(seen, x, np.nan), seen, train, train)
    for i in range(4):
        nearest = np.argsort((((train - x[i]) ** 2) * seen[i]).sum(1))[: similar.NUM_NEIGHBOURS]
        np.testing.assert_allclose(mean[i], train[nearest].mean(0), rtol=1e-6)
        np.testing.assert_allclose(bounds[:, i], coverage.quantiles(train[nearest]), rtol=1e-6)
