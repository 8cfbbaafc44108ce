"""Statistics of distances over models, against numbers worked out by hand."""

import numpy as np
import pytest
from scipy import integrate, stats

from pae_zoo.evaluation.metrics import agreement as statistics

# Two models, three pairs: means 2, 4, 9; stds (n - 1) sqrt(2), sqrt(2), 0.
HAND = np.array([[1.0, 3.0, 9.0], [3.0, 5.0, 9.0]])


def test_variation_by_hand():
    np.testing.assert_allclose(statistics.variation(HAND), [np.sqrt(2) / 2, np.sqrt(2) / 4, 0.0])


def test_spread_by_hand():
    assert statistics.spread(HAND) == pytest.approx(np.std([2, 4, 9], ddof=1) / 5)


def test_intraclass_correlation_by_hand():
    between, within = 2 * np.var([2, 4, 9], ddof=1), (2 + 2 + 0) / 3
    assert statistics.intraclass_correlation(HAND) == pytest.approx((between - within) / (between + within))


def test_intraclass_correlation_of_shrout_and_fleiss():
    """Their example of six targets and four judges has ICC(1, 1) = 0.17."""
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
    assert statistics.intraclass_correlation(ratings.T) == pytest.approx(0.166, abs=5e-4)


def test_a_constant_distance_has_no_variation_and_tells_nothing_apart():
    found = statistics.describe(np.full((4, 7), 3.7), reference=np.random.default_rng(0).uniform(size=(4, 7)))
    assert found["cv"] == found["cv_scale_free"] == found["spread"] == found["spearman"] == 0.0
    assert np.isnan(found["cv_over_spread"]) and np.isnan(found["icc"])


def test_models_that_agree_but_for_their_unit():
    pairs = np.array([1.0, 2.0, 5.0, 6.0])
    found = statistics.describe(np.outer([1.0, 2.0, 4.0], pairs), reference=pairs[None])
    assert found["cv"] == pytest.approx(np.std([1, 2, 4], ddof=1) / np.mean([1, 2, 4]))
    assert found["cv_scale_free"] == pytest.approx(0.0, abs=1e-12)
    assert found["icc_scale_free"] == pytest.approx(1.0)
    assert found["spearman"] == pytest.approx(1.0)
    assert found["cv_over_spread"] == pytest.approx(found["cv"] / found["spread"])


def test_noise_without_pairs_has_no_intraclass_correlation():
    values = 10 + np.random.default_rng(1).normal(size=(200, 50))
    assert abs(statistics.intraclass_correlation(values)) < 0.01
    assert statistics.variation(values).mean() == pytest.approx(0.1, rel=0.02)


def test_scale_free_distances_of_a_model_have_mean_one():
    np.testing.assert_allclose(statistics.scale_free(HAND).mean(axis=1), 1.0)


def test_distances_of_zero_have_no_variation_to_speak_of():
    values = np.zeros((3, 2))
    assert np.isnan(statistics.variation(values)).all() and np.isnan(statistics.scale_free(values)).all()
    assert np.isnan(statistics.spread(values))


def test_jackknife_is_near_the_error_over_repetitions():
    generator = np.random.default_rng(2)
    many = 10 + generator.normal(size=(300, 8, 30)) + generator.normal(size=(300, 8, 1))
    truth = np.std([statistics.variation(values).mean() for values in many])
    found = np.mean([statistics.jackknife_error(values) for values in many[:100]])
    assert 0.6 * truth < found < 1.7 * truth
    assert np.isnan(statistics.jackknife_error(many[0, :2]))


def test_paired_test_by_hand():
    first, second = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 2.5, 2.8, 6.0])
    found = statistics.paired_test(first, second)
    difference = first - second
    t = difference.mean() / (difference.std(ddof=1) / 2)
    assert found.t == pytest.approx(t) and found.df == 3 and (found.lower, found.pairs) == (3, 4)
    assert found.p == pytest.approx(stats.t.cdf(t, 3))
    assert found.difference == pytest.approx(difference.mean())
    assert statistics.paired_test(second, first).p == pytest.approx(1 - found.p)


@pytest.mark.parametrize("first, second", [([1.0, 2.0], [2.0, 3.0]), ([1.0], [2.0]), ([0.5, 0.5],) * 2, ([], [])])
def test_paired_test_without_differences_to_test(first, second):
    found = statistics.paired_test(np.array(first), np.array(second))
    assert np.isnan(found.t) and np.isnan(found.p) and found.pairs == len(first)


def test_pairs_are_left_out_in_all_columns():
    a = np.array([[True, True, False, True], [True, True, True, True]])
    b = np.array([[True, False, True, True]])
    assert statistics.listwise({"a": a, "b": b}).tolist() == [True, False, False, True]


def test_density_integrates_to_one():
    places = np.linspace(-1, 2, 2001)
    values = np.random.default_rng(3).uniform(0.2, 0.4, 40)
    assert integrate.trapezoid(statistics.density(values, places), places) == pytest.approx(1.0, abs=1e-3)
    assert statistics.density(np.full(5, 0.3), places) is None
    assert statistics.density(np.array([0.3]), places) is None
