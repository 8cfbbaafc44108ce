"""Exact Hessians and Fisher information against their definitions."""

import numpy as np
import pytest
import tensorflow as tf
import toys

from pae_zoo import inference
from pae_zoo.inference import derivatives, search

DRAWS = 40_000
U = np.array([[0.4, -0.7]])


def parts(kind):
    """Returns (decode, observation, draw(outputs, generator)) for one likelihood."""
    generator = np.random.default_rng(2)
    inner = tf.constant(generator.normal(size=(2, 5)))
    outer = tf.constant(generator.normal(size=(5, 12)) * 0.5)

    def decode(u):
        return tf.einsum("...h,hd->...d", tf.tanh(tf.einsum("...k,kh->...h", u, inner)), outer)

    if kind == "bernoulli":
        observation = inference.Bernoulli()
        return decode, observation, lambda g, rng: rng.random((DRAWS, 12)) < observation.mean(g).numpy()

    def variance(g):
        return tf.exp(0.7 * tf.sin(g) - 1.0) if kind == "varying" else tf.fill(tf.shape(g), tf.constant(0.3, g.dtype))

    observation = inference.Gaussian(tf.identity, variance, noise=0.2, constant_variance=kind == "constant")
    return decode, observation, lambda g, rng: g + np.sqrt(observation.variance(g)) * rng.normal(size=(DRAWS, 12))


@pytest.mark.parametrize("kind", ["constant", "varying", "bernoulli"])
def test_fisher_is_the_mean_of_scores_and_of_hessians(kind):
    decode, observation, draw = parts(kind)
    y = np.asarray(draw(decode(tf.constant(U)), np.random.default_rng(3)), np.float64)
    seen = np.arange(12) % 3 > 0
    problem = inference.Problem(toys.log_prior, decode, observation, y, seen)
    points = tf.constant(np.repeat(U, DRAWS, axis=0))
    fisher = problem.fisher(points).numpy()[0]
    _, score = derivatives.value_and_gradient(problem.log_likelihood, points)
    scale = np.sqrt(np.outer(np.diag(fisher), np.diag(fisher)))
    np.testing.assert_allclose((score.numpy().T @ score.numpy() / DRAWS - fisher) / scale, 0.0, atol=0.05)
    mean_hessian = -derivatives.hessian(problem.log_likelihood, points).numpy().mean(axis=0)
    np.testing.assert_allclose((mean_hessian - fisher) / scale, 0.0, atol=0.05)
    np.testing.assert_allclose(fisher, fisher.T)
    assert np.linalg.eigvalsh(fisher).min() > 0
    np.testing.assert_allclose(problem.gauss_newton(points)[0], fisher + np.eye(2), rtol=1e-12)


def test_fisher_changes_with_coordinates():
    decode, observation, _ = parts("varying")
    warp = tf.constant([[1.2, 0.3], [-0.4, 0.8]], tf.float64)

    def flow(u):
        return u + 0.3 * tf.tanh(tf.einsum("...k,jk->...j", u, warp))

    y, u = np.zeros((1, 12)), tf.constant(U)
    inner = inference.Problem(toys.log_prior, lambda v: decode(flow(v)), observation, y, True)
    outer = inference.Problem(toys.log_prior, decode, observation, y, True)
    change = derivatives.jacobian(flow, u).numpy()[:, 0].T  # dz_j / du_k
    expected = change.T @ outer.fisher(flow(u)).numpy()[0] @ change
    np.testing.assert_allclose(inner.fisher(u)[0], expected, rtol=1e-10)


@pytest.mark.parametrize("rows", [1, 700])
def test_products_in_turn_and_at_once_agree_with_reverse_mode(rows):
    matrix = tf.constant(np.random.default_rng(0).normal(size=(7, 4)))

    def function(u):
        return tf.sin(tf.einsum("...k,dk->...d", u, tf.transpose(matrix) @ tf.ones((7, 4), tf.float64) / 7))

    u = tf.constant(np.random.default_rng(1).normal(size=(rows, 4)))
    with tf.GradientTape() as tape:
        tape.watch(u)
        values = function(u)
    expected = tape.batch_jacobian(values, u)
    found = tf.function(lambda v: derivatives.jacobian(function, v), autograph=False)(u)
    np.testing.assert_allclose(tf.transpose(found, (1, 2, 0)), expected, rtol=1e-12, atol=1e-12)


def test_curvatures_of_active_runs_alone_are_those_of_all():
    toy = toys.Toy(curvature=0.8, seed=1)
    y, *rest, seen = toy.arrays
    problem = toys.make_problem(y[:50], *rest, seen[:50])
    generator = np.random.default_rng(0)
    u = tf.constant(generator.normal(size=(3, 50, toys.SIZE)))
    active = generator.random((3, 50)) < 0.3
    found = tf.function(lambda: search._curvature(problem, u, tf.constant(active)), jit_compile=True)().numpy()
    np.testing.assert_allclose(found[active], problem.gauss_newton(u).numpy()[active], rtol=1e-9)
    # Parts of 19 runs: of 150 runs some 45 are active, so that five parts or more have none.
    assert np.mean(found == 0) > 0.5


@pytest.mark.full
def test_hessian_of_a_curved_decoder(curved):
    toy, found = curved
    problem, u = toy.problem(), tf.constant(found.runs.u[:1, :3])
    step = 1e-4
    for i in range(2):
        shift = tf.constant(step * np.eye(2)[i])
        up = derivatives.value_and_gradient(problem_of(toy, 3).log_joint, u + shift)[1]
        down = derivatives.value_and_gradient(problem_of(toy, 3).log_joint, u - shift)[1]
        np.testing.assert_allclose(found.hessian[0, :3, i], -((up - down) / (2 * step))[0], rtol=1e-5, atol=1e-5)
    assert np.abs(found.hessian - found.gauss_newton).max() > 0.1
    assert problem.log_joint(tf.constant(found.runs.u)).shape == (4, toys.CASES)


def problem_of(toy, cases):
    y, weight, inner, outer, seen = toy.arrays
    return toys.make_problem(y[:cases], weight, inner, outer, seen[:cases])
