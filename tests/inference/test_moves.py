"""Moved draws against posteriors in closed form: Gaussian ones, two hills of known weights, blocks of pixels."""

import types

import numpy as np
import pytest
import tensorflow as tf
import toys

from pae_zoo import inference
from pae_zoo.core.errors import UserError
from pae_zoo.inference.observation import block_means

SETTINGS, CASES = inference.Moves(rounds=8), 60


def problem_of(toy, cases=slice(CASES)):
    """The posterior of some cases of a toy."""
    y, *weights, seen = toy.arrays
    return toys.make_problem(y[cases], *weights, seen[cases])


def one_hill(mean, precision):
    """A mixture of one mode for each datum."""
    log_joint = tf.zeros(mean.shape[:1], mean.dtype)
    return inference.mixture(inference.laplace(mean[None], log_joint[None], precision[None]))


@pytest.mark.parametrize("precision_is", [0.3, 4.0])
def test_draws_of_a_linear_decoder_are_those_of_the_closed_form(precision_is):
    """They start at a wrong mean, too wide or too narrow by far, and end at the posterior."""
    toy = toys.Toy(curvature=0.0)
    exact, problem = [toy.exact(case)[:2] for case in range(CASES)], problem_of(toy)
    mean, precision = (np.stack(parts) for parts in zip(*exact))
    proposal = one_hill(tf.constant(mean + 0.5), tf.constant(precision_is * precision))
    found = inference.move(problem, proposal.sample(150, (1, 2)), proposal, (3, 4), SETTINGS)
    std = np.sqrt(np.diagonal(np.linalg.inv(precision), axis1=1, axis2=2))
    draws = found.draws.numpy()
    assert np.abs((draws.mean(0) - mean) / std).mean() < 0.1
    np.testing.assert_allclose((draws.std(0) / std).mean(), 1.0, atol=0.05)
    # Truths are drawn from the posteriors: so many lie between the quantiles.
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    truth = toy.truth[:CASES]
    assert np.mean((truth > low) & (truth < high)) == pytest.approx(0.9, abs=0.08)
    assert 0.4 < np.median(found.acceptance) < 0.9
    assert draws.shape == (4 * 150, CASES, toys.SIZE)
    np.testing.assert_allclose(found.log_joint, problem.log_joint(found.draws[-150:]), rtol=1e-9)


def test_states_of_the_last_rounds_are_kept():
    toy = toys.Toy(curvature=0.8, seed=1)
    mean = tf.constant(toy.truth[:3])
    proposal = one_hill(mean, tf.eye(toys.SIZE, batch_shape=mean.shape[:1], dtype=tf.float64))

    def moved(rounds, kept):
        settings = inference.Moves(rounds=rounds, kept=kept)
        return inference.move(problem_of(toy, slice(3)), proposal.sample(20, (1, 2)), proposal, (3, 4), settings).draws

    both = moved(4, 2)
    np.testing.assert_allclose(both[:20], moved(3, 1), rtol=1e-9)
    np.testing.assert_allclose(both[20:], moved(4, 1), rtol=1e-9)
    assert moved(1, 2).shape == (20, 3, toys.SIZE)


def test_jumps_mend_the_weights_of_hills():
    """Hills of weights 0.8 and 0.2 that no step crosses; the mixture has them the other way round."""
    centres = np.array([-6.0, 6.0])

    def log_joint(u):
        terms = [np.log(w) - 0.5 * tf.reduce_sum((u - c) ** 2, axis=-1) for w, c in zip((0.8, 0.2), centres)]
        return tf.reduce_logsumexp(tf.stack(terms), axis=0)

    means = tf.constant(centres[:, None, None] * np.ones((2, 1, 1)))
    wrong = inference.laplace(means, tf.constant(np.log([[0.2], [0.8]])), tf.ones((2, 1, 1, 1), tf.float64))
    mixture = inference.mixture(wrong)
    problem = types.SimpleNamespace(log_joint=log_joint)
    start = mixture.sample(2000, (0, 1))
    assert np.mean(start < 0) == pytest.approx(0.2, abs=0.03)
    found = inference.move(problem, start, mixture, (5, 6), inference.Moves(rounds=12))
    assert np.mean(found.draws < 0) == pytest.approx(0.8, abs=0.03)
    assert 0.1 < float(found.jumps[0]) < 0.9


def test_data_do_not_see_one_another():
    toy, settings = toys.Toy(curvature=0.8, seed=1), inference.Moves(rounds=2)

    def moved(cases):
        mean = tf.constant(toy.truth[cases])
        proposal = one_hill(mean, tf.eye(toys.SIZE, batch_shape=mean.shape[:1], dtype=tf.float64))
        start = proposal.sample(20, (1, 2))
        return inference.move(problem_of(toy, cases), start, proposal, (3, 4), settings).draws

    np.testing.assert_allclose(moved(slice(3, 5)), moved(slice(8))[:, 3:5], rtol=1e-6)


def test_a_decoder_that_leaves_the_numbers_is_not_followed():
    def log_joint(u):
        return tf.where(tf.abs(u[..., 0]) > 1.0, tf.constant(float("nan"), u.dtype), -0.5 * u[..., 0] ** 2)

    mixture = one_hill(tf.zeros((1, 1), tf.float64), tf.ones((1, 1, 1), tf.float64))
    start = tf.zeros((300, 1, 1), tf.float64)
    found = inference.move(types.SimpleNamespace(log_joint=log_joint), start, mixture, (1, 2))
    assert np.abs(found.draws).max() <= 1.0 and found.draws.numpy().std() > 0.4


def test_settings_below_one_are_refused():
    with pytest.raises(UserError, match="at least 1 round"):
        inference.Moves(jumps=0)


def test_block_means_are_gaussian_with_the_variance_of_a_mean():
    generator = np.random.default_rng(0)
    images, variances = generator.normal(size=(2, 3, 6, 4, 2)), generator.uniform(0.5, 2.0, (3, 6, 4, 2))
    blocks = images.reshape(2, 3, 3, 2, 2, 2, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(block_means(tf.constant(images), 2), blocks, rtol=1e-12)
    pixels = inference.Gaussian(tf.identity, lambda outputs: tf.constant(variances))
    observation = inference.Averaged(pixels, 2, 0.3)
    variance = variances.reshape(3, 3, 2, 2, 2, 2).mean(axis=(2, 4)) / 4 + 0.3**2
    y = generator.normal(size=(3, 3, 2, 2))
    expected = -0.5 * ((y - blocks) ** 2 / variance + np.log(2 * np.pi * variance))
    np.testing.assert_allclose(observation.log_prob(tf.constant(images), tf.constant(y)), expected, rtol=1e-9)


def test_the_prior_says_what_its_curvature_is():
    toy = toys.Toy(curvature=0.8, seed=1)
    y, weight, inner, outer, seen = toy.arrays
    plain = toy.problem()
    told = inference.Problem(plain.log_prior, plain.decode, plain.observation, y, seen,
                             lambda u: 7.0 * tf.eye(toys.SIZE, batch_shape=u.shape[:-1], dtype=u.dtype))
    u = tf.constant(toy.truth)
    more = told.gauss_newton(u) - plain.gauss_newton(u)
    np.testing.assert_allclose(more, np.broadcast_to(6.0 * np.eye(toys.SIZE), more.shape), atol=1e-9)
