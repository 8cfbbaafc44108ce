"""Sets of codes against closed forms: areas of known overlaps, shares, variances."""

import numpy as np
import pytest
from scipy.stats import norm

from pae_zoo.evaluation.metrics import two_samples


def normal(num, seed, shift=0.0, scale=1.0, dims=3):
    rows = scale * np.random.default_rng(seed).normal(size=(num, dims))
    rows[:, 0] += shift
    return rows


def test_codes_of_one_density_cannot_be_told_apart():
    area, stderr = two_samples.c2st(normal(2000, 0), normal(2000, 1), 0)
    # Two sets of n and m held-out rows: sqrt((n + m + 1) / (12 n m)).
    assert stderr == pytest.approx(np.sqrt(2001 / (12 * 1000**2)), rel=0.05)
    assert abs(area - 0.5) < 4 * stderr


def test_a_shift_is_found_as_far_as_it_can_be():
    """No score tells N(0, I) from N(s, I) better than the projection on s: Phi(|s| / sqrt 2)."""
    area, stderr = two_samples.c2st(normal(3000, 0), normal(3000, 1, shift=1.0), 0)
    best = norm.cdf(1.0 / np.sqrt(2.0))
    assert best - 0.03 < area < best + 3 * stderr


def test_a_spread_is_found_though_means_agree():
    area, _ = two_samples.c2st(normal(2000, 0), normal(2000, 1, scale=2.0), 0)
    assert area > 0.7


def test_a_constant_column_and_the_same_seed():
    first, second = normal(300, 0), normal(300, 1)
    first[:, 2] = second[:, 2] = 4.0
    found = [two_samples.c2st(first, second, 5) for _ in range(2)]
    assert found[0] == found[1] and np.isfinite(found[0]).all()


def test_too_few_rows_are_told():
    with pytest.raises(ValueError, match="needs 20 rows of each set; received 300 and 19"):
        two_samples.c2st(normal(300, 0), normal(19, 1), 0)


def test_variances_are_taken_in_the_units_of_the_first():
    mixing = np.array([[100.0, 0.0], [3.0, 0.01]])
    first, second = (normal(4000, seed, dims=2) @ mixing for seed in (0, 1))
    assert two_samples.variance_ratio(first, first) == pytest.approx(1.0, rel=1e-6)
    assert two_samples.variance_ratio(first, 0.5 * second) == pytest.approx(0.25, rel=0.05)


def test_shares_that_move():
    assert two_samples.total_variation(np.array([0.5, 0.5, 0.0]), np.array([0.2, 0.5, 0.3])) == pytest.approx(0.3)


def test_what_sampling_alone_gives():
    generator = np.random.default_rng(0)
    shares = np.full(50, 0.02)
    draws = [[generator.multinomial(n, shares) / n for n in (10_000, 55_000)] for _ in range(50)]
    expected = np.mean([two_samples.total_variation(*pair) for pair in draws])
    assert two_samples.variation_of_sampling(shares, 10_000, 55_000) == pytest.approx(expected, rel=0.03)
