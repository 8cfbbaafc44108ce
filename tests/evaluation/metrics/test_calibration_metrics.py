"""Calibration and rejection from arrays: stored figures, hand examples and exact toys."""

import numpy as np
import pytest
from scipy import stats

from pae_zoo.evaluation.metrics import calibration as metrics

# The bins that upstream stored for its imputation of half digits (LaplaceAE, figures/mnist).
STORED = dict(
    accuracy=[0, 0, 0, .4038, .3147, .2768, .3489, .3750, .4651, .4941, .5637, .5594, .7025, .7646, .8000],
    confidence=[0, 0, .1751, .2387, .3040, .3686, .4357, .4994, .5674, .6325, .6998, .7667, .8338, .8992, .9673],
    share=[0, 0, .0002, .0104, .0394, .0708, .0986, .1328, .1118, .1016, .0958, .0876, .0706, .0824, .0980],
)  # fmt: skip


def test_errors_of_stored_bins():
    found = metrics.confidence_errors(metrics.ConfidenceBins(**{k: np.array(v) for k, v in STORED.items()}))
    assert found == pytest.approx({"ece": 0.1272, "mce": 0.2074, "rmsce": 0.1334}, abs=2e-4)


def test_confidence_bins_by_hand():
    found = metrics.confidence_bins(np.array([1.0, 0.5, 0.4, 0.0, 0.51]), np.array([1, 0, 1, 0, 1]), num_bins=2)
    np.testing.assert_allclose(found.accuracy, [1 / 3, 1.0])
    np.testing.assert_allclose(found.confidence, [0.3, 0.755])
    np.testing.assert_allclose(found.share, [0.6, 0.4])
    errors = metrics.confidence_errors(found)
    gaps = np.array([1 / 3 - 0.3, 0.245])
    shares = np.array([0.6, 0.4])
    expected = {"ece": shares @ gaps, "mce": 0.245, "rmsce": np.sqrt(shares @ gaps**2)}
    assert errors == pytest.approx(expected)


def test_a_calibrated_classifier_has_no_error():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.1, 1.0, 100_000)
    correct = generator.uniform(size=len(confidence)) < confidence
    errors = metrics.confidence_errors(metrics.confidence_bins(confidence, correct))
    assert errors["ece"] < 0.008 and errors["mce"] < 0.025
    certain = metrics.confidence_bins(np.ones(10), np.ones(10))
    assert metrics.confidence_errors(certain) == {"ece": 0.0, "mce": 0.0, "rmsce": 0.0}


def test_rank_correlation_with_and_without_ties():
    a, b = np.random.default_rng(0).normal(size=(2, 60))
    assert metrics.spearman(a, a**3) == pytest.approx(1.0)
    assert metrics.spearman(a, -a) == pytest.approx(-1.0)
    tied = np.round(b, 1)
    assert metrics.spearman(a, tied) == pytest.approx(stats.spearmanr(a, tied).statistic)
    assert metrics.spearman(a, np.zeros(60)) == 0.0


def test_bins_of_equal_count_and_width_by_hand():
    scores, errors = np.array([0.0, 1.0, 2.0, 10.0]), np.array([1.0, 3.0, 5.0, 7.0])
    found = metrics.equal_count(scores, errors, 2)
    np.testing.assert_allclose(found.error, [2.0, 6.0])
    np.testing.assert_allclose((found.low, found.high), [(0, 2), (1, 10)])
    found = metrics.equal_width(scores, errors, 5)
    np.testing.assert_allclose(found.error, [2.0, 5.0, np.nan, np.nan, 7.0])
    np.testing.assert_array_equal(found.count, [2, 1, 0, 0, 1])
    assert metrics.equal_width(np.ones(4), errors, 5).count.sum() == 4
    assert len(metrics.equal_count(scores, errors, 10).error) == 4


def test_top_decile():
    errors = np.arange(1.0, 101.0)
    assert metrics.top_decile_ratio(errors, errors) == pytest.approx(95.5 / 50.5)
    assert metrics.top_decile_ratio(np.zeros(100), errors) == pytest.approx(1.0)


def exact_toy(num=100_000):
    generator = np.random.default_rng(1)
    variance = np.exp(generator.uniform(-6, 2, num))
    return generator.normal(size=num) * np.sqrt(variance), variance


def test_an_exact_gaussian_covers_its_level():
    errors, variance = exact_toy()
    found = metrics.VarianceCalibration()
    for part in np.array_split(np.arange(len(errors)), 3):
        found.add(errors[part], variance[part])
    assert found.count == len(errors)
    np.testing.assert_allclose(found.coverage(), metrics.LEVELS, atol=0.008)
    assert found.ence() < 0.02
    assert found.root_mean_variance == pytest.approx(np.sqrt(variance.mean()))
    rmv, rmse, count = found.bins(15)
    assert count.max() / count.min() < 1.1 and (np.diff(rmv) > 0).all()
    assert (rmse**2 * count).sum() == pytest.approx(np.square(errors).sum())


def test_overconfidence_is_its_factor():
    errors, variance = exact_toy()
    found = metrics.VarianceCalibration()
    found.add(errors, variance / 4.0)
    assert found.ence() == pytest.approx(1.0, abs=0.02)  # RMSE is twice RMV
    shares = dict(zip(metrics.LEVELS, found.coverage()))
    assert shares[0.9] == pytest.approx(2 * stats.norm.cdf(stats.norm.ppf(0.95) / 2) - 1, abs=0.008)


def test_ence_by_hand_and_in_its_limits():
    found = metrics.VarianceCalibration()
    found.add(np.array([3.0, -3.0]), np.array([4.0, 4.0]))
    found.add(np.array([10.0, 10.0]), np.array([400.0, 400.0]))
    assert found.ence(2) == pytest.approx(0.5 * (0.5 + 0.5))
    alone = metrics.VarianceCalibration()
    alone.add(np.zeros(5), np.zeros(5))
    assert alone.ence() == 0.0
    alone.add(np.ones(50), np.zeros(50))
    assert alone.ence() == np.inf


REJECTED = np.arange(0.0, 0.96, 0.05)


def test_an_oracle_falls_and_chance_is_flat():
    errors = np.random.default_rng(0).gamma(1.0, size=400)
    oracle = metrics.retained_error(errors, errors, REJECTED)
    assert (np.diff(oracle) <= 0).all() and oracle[0] == pytest.approx(errors.mean())
    np.testing.assert_allclose(oracle[-1], np.sort(errors)[:20].mean())
    np.testing.assert_allclose(metrics.retained_error(errors, np.zeros(400), REJECTED), errors.mean())
    worst = metrics.retained_error(errors, -errors, REJECTED)
    assert (np.diff(worst) >= 0).all() and metrics.area(oracle) < errors.mean() < metrics.area(worst)


def test_ties_are_averaged_over_their_orders():
    errors, scores = np.array([0.0, 6.0, 9.0]), np.array([1.0, 1.0, 2.0])
    np.testing.assert_allclose(metrics.average_ties(errors, scores), [3.0, 3.0, 9.0])
    np.testing.assert_allclose(metrics.retained_error(errors, scores, np.array([0, 1 / 3, 2 / 3, 0.99])), [5, 3, 3, 3])


def test_area_of_a_line():
    assert metrics.area(np.linspace(1.0, 0.0, 11)) == pytest.approx(0.5)
