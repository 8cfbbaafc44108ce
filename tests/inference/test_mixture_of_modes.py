"""Distinct modes: found from many starts, counted once, weighted by their share of the evidence."""

import math

import numpy as np
import pytest
import tensorflow as tf
import toys

from pae_zoo import inference
from pae_zoo.core.errors import UserError

STARTS = 12


@pytest.fixture(scope="module")
def two_hills():
    """y = (u_0^2, u_0^2 + u_1 + u_0 / 10): +-u_0 explain y almost alike, for three data."""
    y = tf.constant([[1.0, 1.0], [1.5, 1.2], [2.0, 2.5]], tf.float64)

    def decode(u):
        first, second = u[..., 0], u[..., 1]
        return tf.stack([first**2, first**2 + second + 0.1 * first], axis=-1)

    observation = inference.Gaussian(tf.identity, lambda g: tf.fill(tf.shape(g), tf.constant(0.04, g.dtype)))
    problem = inference.Problem(toys.log_prior, decode, observation, y, True)
    starts = tf.constant(np.random.default_rng(0).normal(size=(STARTS, 1, 2)) * np.ones((1, 3, 1)))
    runs = tf.function(lambda: inference.find_modes(problem, starts), autograph=False)()
    return problem, runs, inference.laplace(runs.u, runs.log_joint, problem.hessian(runs.u))


def test_both_modes_are_found_once_and_weighted(two_hills):
    problem, runs, modes = two_hills
    mixture = inference.mixture(modes)
    kept, weights = mixture.kept.numpy(), mixture.weights.numpy()
    np.testing.assert_array_equal(kept.sum(axis=0), 2)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, rtol=1e-12)
    assert (weights[kept] > 0.2).all() and (weights[~kept] == 0).all()
    signs = np.sign(mixture.modes.mean[..., 0].numpy())
    for case in range(3):
        assert set(signs[kept[:, case], case]) == {-1.0, 1.0}
        log_weight = (mixture.modes.log_joint - 0.5 * mixture.modes.log_det).numpy()[kept[:, case], case]
        expected = np.exp(log_weight - log_weight.max())
        np.testing.assert_allclose(weights[kept[:, case], case], expected / expected.sum(), rtol=1e-9)
    assert (np.diff(mixture.modes.log_joint.numpy(), axis=0) <= 0).all()


def test_evidence_and_moments_are_those_of_the_posterior(two_hills):
    problem, _, modes = two_hills
    mixture = inference.mixture(modes)
    axis = np.linspace(-4, 4, 321)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 1, 2)
    values = problem.log_joint(tf.constant(grid * np.ones((1, 3, 1)))).numpy()
    weights = np.exp(values - values.max(axis=0))
    evidence = values.max(axis=0) + np.log(weights.sum(axis=0) * (axis[1] - axis[0]) ** 2)
    np.testing.assert_allclose(mixture.evidence, evidence, atol=0.08)
    alone = inference.mixture(modes, single=True)
    assert (alone.evidence.numpy() < mixture.evidence.numpy() - 0.2).all()
    np.testing.assert_array_equal(alone.weights.numpy().max(axis=0), 1.0)
    mean, covariance = mixture.moments()
    weights /= weights.sum(axis=0)
    exact = np.einsum("gc,gi->ci", weights, grid[:, 0])
    second = np.einsum("gc,gi,gj->cij", weights, grid[:, 0], grid[:, 0])
    np.testing.assert_allclose(mean, exact, atol=0.05)
    np.testing.assert_allclose(covariance, second - exact[:, :, None] * exact[:, None], atol=0.08)
    draws = mixture.sample(20_000, (1, 2)).numpy()
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.04)
    np.testing.assert_allclose(np.stack([np.cov(draws[:, c].T) for c in range(3)]), covariance, atol=0.04)
    np.testing.assert_array_equal(draws, mixture.sample(20_000, (1, 2)).numpy())
    assert not np.array_equal(draws[:9], mixture.sample(9, (1, 3)).numpy())


def test_resampled_draws_follow_the_posterior(two_hills):
    problem, _, modes = two_hills
    mixture = inference.mixture(modes)
    axis = np.linspace(-4, 4, 321)
    grid = tf.constant(np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 1, 2) * np.ones((1, 3, 1)))
    cell = (axis[1] - axis[0]) ** 2
    np.testing.assert_allclose(tf.reduce_sum(tf.exp(mixture.log_prob(grid)), axis=0) * cell, 1.0, atol=2e-3)
    log_joint = problem.log_joint(grid).numpy()
    weights = np.exp(log_joint - log_joint.max(axis=0))
    weights /= weights.sum(axis=0)
    second = np.einsum("gc,gci,gcj->cij", weights, grid, grid)
    draws = mixture.sample(40_000, (1, 2))
    log_weight = problem.log_joint(draws) - mixture.log_prob(draws)
    kept, effective = inference.resample(draws, log_weight, 20_000, (3, 4))
    assert kept.shape == (20_000, 3, 2) and (effective.numpy() > 5_000).all() and (effective.numpy() < 40_000).all()
    np.testing.assert_allclose(np.einsum("sci,scj->cij", kept, kept) / 20_000, second, atol=0.03)


def test_equal_weights_keep_every_draw_and_one_heavy_draw_is_all():
    draws = tf.reshape(tf.range(8.0), (4, 2, 1))
    kept, effective = inference.resample(draws, tf.zeros((4, 2)), 4, (0, 1))
    np.testing.assert_array_equal(kept, draws)
    np.testing.assert_allclose(effective, 4.0, rtol=1e-6)
    heavy = tf.constant([[0.0, 0.0], [99.0, 0.0], [0.0, 99.0], [0.0, 0.0]])
    kept, effective = inference.resample(draws, heavy, 3, (0, 1))
    np.testing.assert_array_equal(kept[..., 0], [[2.0, 5.0]] * 3)
    np.testing.assert_allclose(effective, 1.0, rtol=1e-6)


def laplace_of(means, hessians, log_joint):
    return inference.laplace(*(tf.constant(a, tf.float64) for a in (means, log_joint, hessians)))


def test_copies_are_told_by_the_distance_under_the_hessian():
    means = np.array([[[0.0, 0.0]], [[0.3, 0.0]], [[0.0, 0.3]], [[0.0, 0.32]]])
    hessian = np.broadcast_to(np.diag([4.0, 100.0]), (4, 1, 2, 2))
    mixture = inference.mixture(laplace_of(means, hessian, np.array([[0.0], [-0.1], [-0.2], [-0.3]])))
    # 0.3 is 0.6 standard deviations along the first axis, 3 along the second; the last copies the third.
    np.testing.assert_array_equal(mixture.kept.numpy()[:, 0], [True, False, True, False])
    assert mixture.weights.numpy()[0, 0] == pytest.approx(1 / (1 + math.exp(-0.2)))


def test_saddles_are_flagged_and_left_out():
    means = np.array([[[0.0, 0.0]], [[2.0, 0.0]], [[3.0, 1.0]]])
    hessians = np.stack([np.diag([1.0, 2.0]), np.diag([5.0, -1.0]), np.full((2, 2), np.nan)])[:, None]
    found = laplace_of(means, hessians, np.array([[1.0], [0.5], [0.2]]))
    np.testing.assert_array_equal(found.positive_definite[:, 0], [True, False, False])
    np.testing.assert_array_equal(np.isnan(found.evidence.numpy()[:, 0]), [False, True, True])
    np.testing.assert_allclose(found.evidence[0, 0], 1.0 + math.log(2 * math.pi) - 0.5 * math.log(2))
    mixture = inference.mixture(found)
    np.testing.assert_array_equal(mixture.weights[:, 0], [1.0, 0.0, 0.0])
    # When the highest run is a saddle nothing is claimed: no evidence, and draws of a surrogate to look at.
    mixture = inference.mixture(laplace_of(means[:2], hessians[:2], np.array([[0.5], [1.0]])))
    assert not mixture.valid.numpy()[0] and np.isnan(mixture.evidence.numpy()[0])
    np.testing.assert_array_equal(mixture.weights[:, 0], [1.0, 0.0])
    np.testing.assert_array_equal(mixture.modes.mean[0, 0], [2.0, 0.0])
    assert np.isfinite(mixture.sample(5, (0, 1))).all()


def test_a_rounded_zero_is_not_a_curvature():
    hessian = np.array([[[1e4, 1e4], [1e4, 1e4 * (1 + 1e-9)]]], np.float32)
    found = inference.laplace(tf.zeros((1, 2)), tf.zeros(1), tf.constant(hessian))
    assert not found.positive_definite.numpy()[0]


def test_information_gain_of_known_gaussians():
    zero = inference.information_gain(tf.zeros((3, 4)), tf.ones((3, 4)))
    np.testing.assert_array_equal(zero, np.zeros(3))
    gain = inference.information_gain(tf.constant([1.0, 0.0]), tf.constant([0.5, 1.0]))
    assert float(gain) == pytest.approx(0.5 * (0.5 + 1.0 - 1.0 - math.log(0.5)))


def test_a_run_never_ends_below_its_start():
    """A decoder that is NaN off the start: the search stays and says that it has not converged."""
    observation = inference.Gaussian(tf.identity, lambda g: tf.ones_like(g))
    problem = inference.Problem(
        toys.log_prior, lambda u: tf.sqrt(0.01 - tf.reduce_sum((u - 1.0) ** 2, -1, keepdims=True)), observation,
        tf.constant([[3.0]], tf.float64), True)  # fmt: skip
    start = tf.constant([[[1.02, 1.0]]], tf.float64)
    runs = inference.find_modes(problem, start)
    assert runs.log_joint.numpy()[0, 0] >= problem.log_joint(start).numpy()[0, 0]
    assert np.isfinite(runs.u).all()


@pytest.mark.parametrize("make, words", [
    (lambda: inference.Schedule(steps=(10,)), "as many learning rates as numbers of steps"),
    (lambda: inference.Schedule(steps=(10, -1)), "none negative"),
    (lambda: inference.Sampler(draws=0), "at least 1 draw"),
])  # fmt: skip
def test_bad_settings_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
