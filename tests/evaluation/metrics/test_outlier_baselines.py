"""Simple detectors against closed forms, and what they make of broken rows."""

import numpy as np
import pytest

from pae_zoo.evaluation.metrics import outlier_baselines
from pae_zoo.evaluation.metrics.detection import auroc

DETECTORS = outlier_baselines.DETECTORS


def rows(num, seed):
    return np.random.default_rng(seed).normal(size=(num, 4)) * np.array([3.0, 2.0, 0.1, 0.1])


@pytest.mark.parametrize("name", list(DETECTORS))
def test_what_lies_far_off_is_found_and_the_same_seed_gives_the_same(name):
    score = outlier_baselines.fit(DETECTORS[name], rows(400, 0), 2, 0)
    far = rows(100, 2) + np.array([0.0, 0.0, 2.0, 2.0])
    assert auroc(score(rows(100, 1)), score(far)) > 0.95
    again = outlier_baselines.fit(DETECTORS[name], rows(400, 0), 2, 0)
    np.testing.assert_array_equal(score(far), again(far))


def test_the_error_of_the_plane_is_the_distance_from_it():
    points = np.random.default_rng(0).normal(size=(300, 2))
    score = outlier_baselines.fit(DETECTORS["pca_error"], np.c_[points, np.zeros((300, 2))], 2, 0)
    np.testing.assert_allclose(score(np.array([[5.0, -2.0, 3.0, 4.0], [1.0, 1.0, 0.0, 0.0]])), [25.0, 0.0], atol=1e-9)


def test_the_distance_is_in_units_of_the_covariance():
    train = rows(20_000, 0)
    score = outlier_baselines.fit(DETECTORS["mahalanobis"], train, 2, 0)
    np.testing.assert_allclose(score(np.array([[3.0, 0.0, 0.0, 0.2]])), [1.0 + 4.0], rtol=0.05)


def test_the_neighbour_is_the_fifth():
    train = np.arange(10.0)[:, None]
    score = outlier_baselines.fit(DETECTORS["knn_pixels"], train, 1, 0)
    np.testing.assert_allclose(score(np.array([[-1.0], [4.0]])), [5.0, 2.0], atol=1e-6)


def test_rows_that_are_not_finite_score_nan_and_are_not_fitted():
    train = rows(100, 0)
    broken = np.concatenate([train, np.full((3, 4), np.nan)])
    whole, cut = (outlier_baselines.fit(DETECTORS["mahalanobis"], x, 2, 0) for x in (train, broken))
    np.testing.assert_array_equal(np.isnan(cut(broken)), np.repeat([False, True], [100, 3]))
    np.testing.assert_array_equal(whole(train), cut(train))
    with pytest.raises(ValueError, match="0 training rows are finite"):
        outlier_baselines.fit(DETECTORS["knn_codes"], broken[100:], 2, 0)
