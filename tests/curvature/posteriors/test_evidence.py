"""The evidence of a linear model is the density of its data; its fixed point is its numerical optimum."""

import math

import numpy as np
import pytest
from scipy import stats

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.posteriors.evidence import Evidence, Fit, LowRank, Separate

VARIANCE, GAMMA = 0.3, 1.7


@pytest.fixture(scope="module")
def linear():
    """y = W x + b with noise: features with a 1 (N, f + 1), targets (N, D)."""
    generator = np.random.default_rng(0)
    features = np.concatenate([generator.normal(size=(12, 3)), np.ones((12, 1))], axis=1)
    weights = generator.normal(size=(4, 2))
    return features, features @ weights + math.sqrt(VARIANCE) * generator.normal(size=(12, 2))


def ridge(features, targets, gamma, variance):
    """The most probable weights (f + 1, D), and the squared error there."""
    precision = features.T @ features / variance + gamma * np.eye(features.shape[1])
    weights = np.linalg.solve(precision, features.T @ targets / variance)
    return weights, float(((targets - features @ weights) ** 2).sum())


def evidence_of(linear, gamma, variance):
    features, targets = linear
    weights, sse = ridge(features, targets, gamma, variance)
    values = np.linalg.eigvalsh(features.T @ features)
    spectrum = Separate([np.repeat(values, targets.shape[1])])
    return Evidence(spectrum, [(weights**2).sum()], Fit(sse=sse, num_values=targets.size))


def log_density(linear, gamma, variance):
    """log N(y; 0, (X X^T / gamma + sigma^2) for each output), over all N D values."""
    features, targets = linear
    covariance = features @ features.T / gamma + variance * np.eye(len(features))
    return sum(stats.multivariate_normal.logpdf(column, cov=covariance) for column in targets.T)


def test_linear_model_has_the_density_of_its_data(linear):
    np.testing.assert_allclose(evidence_of(linear, GAMMA, VARIANCE)(GAMMA, VARIANCE),
                               log_density(linear, GAMMA, VARIANCE), rtol=1e-10)


def test_scales_found_in_turn_with_the_weights_maximise_the_density_of_the_data(linear):
    from scipy import optimize

    gamma, variance = 1.0, 1.0
    for _ in range(60):
        scales = evidence_of(linear, gamma, variance).fixed_point(gamma, variance)
        gamma, variance = scales.prior_precision[0], scales.noise_variance
    best = optimize.minimize(lambda logs: -log_density(linear, *np.exp(logs)), [0.0, 0.0],
                             options={"gtol": 1e-8})
    np.testing.assert_allclose([gamma, variance], np.exp(best.x), rtol=1e-5)
    np.testing.assert_allclose(scales.log_evidence, -best.fun, rtol=1e-8)


def separate(generator):
    values = [generator.uniform(0, 50, 7), generator.uniform(0, 3, 5), generator.uniform(0, 400, 2)]
    return Separate(values)


def joint(generator):
    vectors, _ = np.linalg.qr(generator.normal(size=(14, 4)))
    return LowRank(np.split(vectors, [7, 12]), generator.uniform(1, 200, 4))


def joint_with_rest(generator):
    vectors, _ = np.linalg.qr(generator.normal(size=(14, 4)))
    return LowRank(np.split(vectors, [7, 12]), generator.uniform(1, 200, 4),
                   np.split(generator.uniform(0, 3, 14), [7, 12]))


@pytest.mark.parametrize("make", [separate, joint, joint_with_rest])
@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("fit", [Fit(sse=40.0, num_values=60), Fit(log_likelihood=-12.0)], ids=["gaussian", "other"])
def test_fixed_point_is_the_optimum(make, per_layer, fit):
    evidence = Evidence(make(np.random.default_rng(1)), [2.0, 4.0, 0.5], fit, kappa=0.8)
    point = evidence.fixed_point(per_layer=per_layer)
    best = evidence.by_gradient(per_layer=per_layer)
    np.testing.assert_allclose(point.prior_precision, best.prior_precision, rtol=2e-5)
    np.testing.assert_allclose(point.noise_variance, best.noise_variance, rtol=2e-5)
    np.testing.assert_allclose(point.log_evidence, best.log_evidence, rtol=1e-9)
    assert per_layer == (np.ptp(point.prior_precision) > 1e-9)
    assert fit.is_gaussian == (point.noise_variance != 1)
    for gamma, variance in [(1.01, 1.0), (0.99, 1.0)] + [(1.0, 1.01), (1.0, 0.99)] * fit.is_gaussian:
        assert evidence(gamma * point.prior_precision, variance * point.noise_variance) < point.log_evidence


def test_low_rank_beyond_a_diagonal_agrees_with_the_whole_matrix():
    generator = np.random.default_rng(2)
    vectors, _ = np.linalg.qr(generator.normal(size=(14, 4)))
    rest, values, gamma, scale = generator.uniform(0, 5, 14), [3.0, 1.0, 20.0, 8.0], np.array([0.4, 2.0, 7.0]), 1.3
    found = LowRank(np.split(vectors, [7, 12]), values, np.split(rest, [7, 12]))
    precision = scale * (vectors @ np.diag(values) @ vectors.T + np.diag(rest)) + np.diag(np.repeat(gamma, [7, 5, 2]))
    np.testing.assert_allclose(found.log_det(gamma, scale), np.linalg.slogdet(precision)[1], rtol=1e-12)
    left = np.diag(np.linalg.inv(precision))
    expected = [7 - 0.4 * left[:7].sum(), 5 - 2.0 * left[7:12].sum(), 2 - 7.0 * left[12:].sum()]
    np.testing.assert_allclose(found.effective(gamma, scale), expected, rtol=1e-10)


def test_low_rank_agrees_with_the_whole_matrix():
    generator = np.random.default_rng(2)
    spectrum = joint(generator)
    vectors, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(14, 4)))
    gamma, scale = np.array([0.4, 2.0, 7.0]), 1.3
    prior = np.diag(np.repeat(gamma, [7, 5, 2]))
    values = LowRank(np.split(vectors, [7, 12]), [3.0, 1.0, 20.0, 8.0])
    precision = scale * vectors @ np.diag([3.0, 1.0, 20.0, 8.0]) @ vectors.T + prior
    np.testing.assert_allclose(values.log_det(gamma, scale), np.linalg.slogdet(precision)[1], rtol=1e-12)
    left = np.diag(np.linalg.inv(precision))
    expected = [7 - 0.4 * left[:7].sum(), 5 - 2.0 * left[7:12].sum(), 2 - 7.0 * left[12:].sum()]
    np.testing.assert_allclose(values.effective(gamma, scale), expected, rtol=1e-10)
    assert spectrum.sizes.tolist() == [7, 5, 2]


def test_fixed_point_with_next_to_no_data_is_reached_quickly():
    evidence = Evidence(Separate([np.full(100, 1e-3)]), [1e-4], Fit(log_likelihood=0.0))
    assert evidence.fixed_point().iterations < 40


@pytest.mark.parametrize("values, norms, fit, message", [
    ([1.0], [0.0], Fit(log_likelihood=0.0), "not all 0"),
    ([1.0], [np.nan], Fit(log_likelihood=0.0), "finite"),
    ([0.0], [1.0], Fit(log_likelihood=0.0), "curvature of a group of weights is 0"),
    ([np.nan], [1.0], Fit(log_likelihood=0.0), "not finite"),
    ([1e9, 1e9], [1.0], Fit(sse=1.0, num_values=1), "no noise is left"),
    ([1.0], [1.0], Fit(sse=0.0, num_values=5), "squared error is 0"),
])
def test_fixed_points_that_lead_nowhere_say_so(values, norms, fit, message):
    with pytest.raises(UserError, match=message):
        Evidence(Separate([values]), norms, fit).fixed_point()


@pytest.mark.parametrize("arguments", [
    {}, {"sse": 1.0}, {"num_values": 3}, {"sse": 1.0, "num_values": 3, "log_likelihood": 0.0},
    {"sse": -1.0, "num_values": 3}, {"sse": np.nan, "num_values": 3}, {"log_likelihood": np.nan},
])
def test_bad_fits_are_refused(arguments):
    with pytest.raises(UserError, match="sse|log_likelihood"):
        Fit(**arguments)


@pytest.mark.parametrize("gamma, variance", [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (np.nan, 1.0), ([1.0, 2.0], 1.0)])
def test_bad_scales_are_refused(gamma, variance):
    evidence = Evidence(Separate([[1.0, 2.0]]), [1.0], Fit(sse=1.0, num_values=4))
    with pytest.raises(UserError, match="prior_precision|noise_variance"):
        evidence(gamma, variance)


def test_a_noise_variance_needs_a_gaussian_likelihood():
    with pytest.raises(UserError, match="Gaussian"):
        Evidence(Separate([[1.0]]), [1.0], Fit(log_likelihood=0.0))(1.0, 0.5)
