"""The mixture over principal components against joint Gaussians conditioned by hand."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from pae_zoo.evaluation.metrics import coverage
from pae_zoo.evaluation.metrics.linear_restoration import LinearMixture


def two_hills(num, seed):
    generator = np.random.default_rng(seed)
    codes = np.where(generator.random((num, 1)) < 0.3, -3.0, 2.0) + generator.normal(size=(num, 2))
    axes = np.array([[1.0, 0.5, 0.0, -1.0, 0.2], [0.0, 1.0, 1.0, 0.3, -0.7]])
    return 5.0 + codes @ axes + 0.1 * generator.normal(size=(num, 5))


def test_the_posterior_is_that_of_the_joint_gaussians():
    fitted = LinearMixture(two_hills(2000, 0), 2, 0)
    values, axes, variances = np.array([0.3, -0.8, 1.1]), fitted.axes[:3], np.array([0.2, 0.3, 0.1])
    log_weights, means, precisions = fitted.posterior(values, axes, variances)
    joint = []
    for weight, centre, precision, mean, posterior in zip(
        fitted.weights, fitted.centres, fitted.precisions, means, precisions
    ):
        prior = np.linalg.inv(precision)
        marginal = axes @ prior @ axes.T + np.diag(variances)
        gain = prior @ axes.T @ np.linalg.inv(marginal)
        np.testing.assert_allclose(mean, centre + gain @ (values - axes @ centre), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(np.linalg.inv(posterior), prior - gain @ axes @ prior, rtol=1e-6, atol=1e-8)
        joint.append(weight * multivariate_normal(axes @ centre, marginal).pdf(values))
    np.testing.assert_allclose(np.exp(log_weights), np.array(joint) / sum(joint), rtol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_further_data_lie_within_its_intervals(noise):
    fitted, x = LinearMixture(two_hills(4000, 0), 2, 0), two_hills(300, 1)
    seen = np.broadcast_to(np.array([True, True, False, False, False]), x.shape)
    given = x + noise * np.random.default_rng(2).normal(size=x.shape)
    mean, bounds = fitted.restore(np.where(seen, given, np.nan), seen, noise)
    found = coverage.shares(x, bounds, ~seen)
    for name, level in (("coverage_50", 0.5), ("coverage_80", 0.8), ("coverage_90", 0.9)):
        assert abs(found[name] - level) < 4 * found[f"{name}_stderr"] + 0.01, name
    assert np.square(mean - x)[~seen].mean() < 0.5 * x.var(axis=0)[2:].mean()


def test_means_of_blocks_are_averages_of_values():
    """Of blocks of one value each nothing is averaged; of one block the mean comes back."""
    fitted, x = LinearMixture(two_hills(4000, 0), 2, 0), two_hills(40, 1)
    seen = np.ones(x.shape, bool)
    plain, _ = fitted.restore(x, seen, 0.1)
    np.testing.assert_allclose(fitted.restore(x, seen, 0.1, np.arange(5))[0], plain, rtol=1e-9)
    means = np.broadcast_to(x.mean(axis=1, keepdims=True), x.shape)
    found, _ = fitted.restore(means, seen, 0.0, np.zeros(5, int))
    np.testing.assert_allclose(found.mean(axis=1), x.mean(axis=1), atol=0.1)
