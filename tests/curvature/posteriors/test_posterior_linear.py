"""For y = W x + b with Gaussian noise the Laplace approximation is Bayesian linear regression, evidence included."""

import numpy as np
import pytest
import reference
import tensorflow as tf
from scipy import optimize, stats

from pae_zoo.curvature.matrices import hessians, kron, last_layer, low_rank
from pae_zoo.curvature.network import graph as graphs
from pae_zoo.curvature.posteriors import build as posteriors

NUM_DATA, NUM_INPUTS, NUM_OUTPUTS = 10, 3, 2
STRUCTURES = ("block", "kron", "low_rank", "last_layer")


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(NUM_DATA, NUM_INPUTS))
    weights = generator.normal(size=(NUM_INPUTS + 1, NUM_OUTPUTS))
    noise = 0.6 * generator.normal(size=(NUM_DATA, NUM_OUTPUTS))
    return features, with_one(features) @ weights + noise


def with_one(features):
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def ridge(data, gamma, variance):
    """The most probable weights, the bias in the last row."""
    seen = with_one(data[0])
    return np.linalg.solve(seen.T @ seen / variance + gamma * np.eye(NUM_INPUTS + 1), seen.T @ data[1] / variance)


@pytest.fixture(scope="module", params=STRUCTURES)
def posterior(request, data):
    """A posterior of each structure, its curvature that of any weights."""
    with reference.double_precision():
        model = reference.sequential((NUM_INPUTS,), reference.L.Dense(NUM_OUTPUTS))
        graph, x, hessian = graphs.read(model), tf.constant(data[0]), hessians.resolve("gaussian")
        if request.param == "block":
            curvature = [reference.gauss_newton(model, data[0])]
        elif request.param == "kron":
            curvature = kron.compute(graph, x, hessian, graph.blocks)
        elif request.param == "low_rank":
            curvature = low_rank.compute(graph, x, hessian, graph.blocks, 8, (0, 1))
        else:
            curvature = last_layer.compute(graph, x, hessian, graph.blocks)
        return posteriors.build(request.param, model, curvature, dtype="float64")


def fit(posterior, data, gamma, variance):
    """Puts the posterior at the most probable weights; returns the squared error there and the number of values."""
    weights = ridge(data, gamma, variance)
    posterior.assign_mean([weights[:-1], weights[-1]])
    posterior.assign_scales(gamma, variance)
    return {"sse": float(((data[1] - with_one(data[0]) @ weights) ** 2).sum()), "num_values": data[1].size}


def log_density(data, gamma, variance):
    """log N(y; 0, X X^T / gamma + sigma^2), X with a 1, summed over outputs."""
    seen = with_one(data[0])
    covariance = seen @ seen.T / gamma + variance * np.eye(NUM_DATA)
    return sum(stats.multivariate_normal.logpdf(column, cov=covariance) for column in data[1].T)


def test_mean_and_covariance_are_those_of_the_regression(posterior, data):
    fit(posterior, data, 0.8, 0.5)
    seen = with_one(data[0])
    # The flat order is that of rows (inputs, then the bias) of outputs.
    precision = np.kron(seen.T @ seen / 0.5, np.eye(NUM_OUTPUTS)) + 0.8 * np.eye(8)
    found = posterior.solve(tf.eye(8, dtype=tf.float64))
    np.testing.assert_allclose(found, np.linalg.inv(precision), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(posterior.mean, np.ravel(ridge(data, 0.8, 0.5)), rtol=1e-12)


def test_evidence_is_the_density_of_the_data(posterior, data):
    found = posterior.log_evidence(**fit(posterior, data, 0.8, 0.5))
    np.testing.assert_allclose(found, log_density(data, 0.8, 0.5), rtol=1e-8)


def test_scales_found_in_turn_with_the_weights_are_the_optimum(posterior, data):
    gamma, variance = 1.0, 1.0
    for _ in range(40):
        found = posterior.optimise(**fit(posterior, data, gamma, variance))
        gamma, variance = float(found.prior_precision[0]), found.noise_variance
    best = optimize.minimize(lambda logs: -log_density(data, *np.exp(logs)), [0.0, 0.0], options={"gtol": 1e-8})
    np.testing.assert_allclose([gamma, variance], np.exp(best.x), rtol=1e-5)
