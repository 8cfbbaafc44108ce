"""The Frechet distance against closed forms: identical sets, Gaussians of known moments, singular ones."""

import numpy as np
import pytest
from scipy import linalg

from pae_zoo.evaluation.metrics import frechet
from pae_zoo.evaluation.metrics.frechet import Moments


def random_rotation(size, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


@pytest.mark.parametrize("shape", [(200, 5), (30, 64), (2, 3)])
def test_identical_sets_have_no_distance(shape):
    x = 40.0 * np.random.default_rng(0).normal(size=shape) ** 2
    shuffled = np.random.default_rng(1).permutation(x)
    assert frechet.distance(frechet.moments(x), frechet.moments(x)) < 1e-3
    assert 0.0 <= frechet.distance(frechet.moments(x), frechet.moments(shuffled)) < 1e-3


@pytest.mark.parametrize("zeros", [(), (0,), (0, 1, 2, 3)])
def test_gaussians_with_common_axes(zeros):
    """Covariances R diag(s^2) R^T, singular or not, with factor diag(s) R^T: |m1 - m2|^2 + sum (s1 - s2)^2."""
    generator = np.random.default_rng(3)
    rotation, (m1, m2), (s1, s2) = random_rotation(6), generator.normal(size=(2, 6)), generator.uniform(0.1, 3, (2, 6))
    s1[list(zeros)] = 0.0
    s2[list(zeros)[1:]] = 0.0
    first, second = (Moments(m, s[:, None] * rotation.T) for m, s in ((m1, s1), (m2, s2)))
    expected = np.sum((m1 - m2) ** 2) + np.sum((s1 - s2) ** 2)
    assert frechet.distance(first, second) == pytest.approx(expected, rel=1e-12)


def test_gaussians_with_different_axes_agree_with_the_matrix_root():
    generator = np.random.default_rng(5)
    a, b = generator.normal(size=(2, 8, 8))
    first, second = Moments(np.zeros(8), a), Moments(np.ones(8), b)
    root = linalg.sqrtm(a.T @ a @ b.T @ b).real
    expected = 8.0 + np.trace(a.T @ a + b.T @ b - 2.0 * root)
    assert frechet.distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet.distance(second, first) == pytest.approx(expected, rel=1e-9)


def test_a_line_and_a_plane():
    """Singular with different ranges: N(0, e1 e1^T) and N(0, e2 e2^T) are sqrt(2) apart, a point and the first 1."""
    line, other, point = (np.diag(d).astype(float) for d in ([1, 0, 0], [0, 1, 0], [0, 0, 0]))
    mean = np.zeros(3)
    assert frechet.distance(Moments(mean, line), Moments(mean, other)) == pytest.approx(2.0, abs=1e-12)
    assert frechet.distance(Moments(mean, line), Moments(mean, point)) == pytest.approx(1.0, abs=1e-12)


def test_moments_and_what_is_left_of_the_inputs():
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    kept = x.copy()
    found = frechet.moments(x)
    np.testing.assert_allclose(found.factor.T @ found.factor, np.cov(x.astype(np.float64).T), atol=1e-12)
    assert found.mean.dtype == found.factor.dtype == np.float64
    before = [array.copy() for array in found]
    value = frechet.distance(found, Moments(found.mean + 1.0, 2.0 * found.factor))
    assert type(value) is float
    np.testing.assert_array_equal(x, kept)
    for array, expected in zip(found, before):
        np.testing.assert_array_equal(array, expected)


def test_what_is_refused():
    x = np.ones((4, 3))
    x[2, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 4 feature vectors are not finite"):
        frechet.moments(x)
    with pytest.raises(ValueError, match="n of at least 2"):
        frechet.moments(np.ones((1, 3)))
