"""A linear decoder has a posterior in closed form, which every approximation must meet."""

import numpy as np
import pytest
import tensorflow as tf
import toys

from pae_zoo import inference

pytestmark = pytest.mark.full  # chains of NUTS


def test_maximum_hessian_and_evidence_are_exact(linear):
    toy, found = linear
    for case in range(toys.CASES):
        mean, precision, evidence = toy.exact(case)
        # A run may stop when the quadratic model promises 1e-4 nats: within sqrt(2e-4) standard deviations.
        off = (found.runs.u[:, case] - mean) @ np.linalg.cholesky(precision)
        assert np.linalg.norm(off, axis=1).max() < 0.015
        np.testing.assert_allclose(found.hessian[0, case], precision, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found.gauss_newton[0, case], precision, rtol=1e-8, atol=1e-10)
        assert found.evidence[case] == pytest.approx(evidence, abs=2e-4)
        np.testing.assert_allclose(found.mean[case], mean, atol=0.01)
        np.testing.assert_allclose(found.covariance[case], np.linalg.inv(precision), rtol=1e-6, atol=1e-9)
    assert found.runs.converged.all() and found.mixture.valid.all() and found.runs.newton_steps <= 5


def test_all_runs_are_one_mode(linear):
    _, found = linear
    np.testing.assert_array_equal(found.mixture.kept.sum(axis=0), 1)
    np.testing.assert_allclose(found.mixture.weights.sum(axis=0), 1.0, rtol=1e-12)


def test_draws_have_the_moments(linear):
    toy, found = linear
    draws = {"mixture": found.draws, "nuts": found.chains.draws.reshape(-1, toys.CASES, toys.SIZE)}
    exact = [toy.exact(case)[:2] for case in range(toys.CASES)]
    for name, values in draws.items():
        # Whitened by the exact posterior, the draws of all cases together are standard normal.
        white = [(values[:, i] - mean) @ np.linalg.cholesky(precision) for i, (mean, precision) in enumerate(exact)]
        white = np.stack(white)
        covariance = np.einsum("cni,cnj->ij", white, white) / white.shape[0] / white.shape[1]
        np.testing.assert_allclose(white.mean(axis=(0, 1)), 0.0, atol=0.04, err_msg=name)
        np.testing.assert_allclose(covariance, np.eye(toys.SIZE), atol=0.04, err_msg=name)
        error = np.abs(white.mean(axis=1)).max(axis=1)
        assert np.quantile(error, 0.95) < 0.2, name


def test_chains_agree(linear):
    _, found = linear
    chains = found.chains
    assert chains.draws.shape == (200, 4, toys.CASES, toys.SIZE)
    assert np.quantile(chains.r_hat, 0.95) < 1.05 and np.median(chains.effective_samples) > 200
    assert (chains.divergences == 0).all() and np.all((chains.acceptance > 0.5) & (chains.acceptance < 1.0))
    assert np.all(chains.step_size > 0.1)


def test_eager_graph_and_xla_agree_in_any_batch(linear):
    toy, found = linear
    starts = tf.constant(np.random.default_rng(5).normal(size=(4, 1, toys.SIZE)))

    def search(rows):
        y, weight, inner, outer, seen = toy.arrays
        problem = toys.make_problem(y[rows], weight, inner, outer, seen[rows])
        runs = inference.find_modes(problem, tf.tile(starts, (1, problem.y.shape[0], 1)), inference.Schedule(
            steps=(4, 2), newton_steps=5))
        return runs.u, runs.log_joint, problem.hessian(runs.u)

    part, whole = slice(2, 4), slice(0, 6)
    eager = search(part)
    compiled = tf.function(lambda: search(part), jit_compile=True, autograph=False)()
    larger = [value[:, part] for value in tf.function(lambda: search(whole), autograph=False)()]
    for other in (compiled, larger):
        for a, b in zip(eager, other):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_hidden_values_do_not_matter(linear):
    toy, found = linear
    y, *rest, seen = toy.arrays
    broken = toys.make_problem(tf.where(seen, y, float("nan")), *rest, seen)
    u = tf.constant(found.runs.u[0])
    np.testing.assert_array_equal(broken.log_joint(u), toy.problem().log_joint(u))
    np.testing.assert_array_equal(broken.num_seen, toys.VALUES // 2)
    assert np.isfinite(broken.gauss_newton(u)).all() and np.isfinite(broken.chi_square(u)).all()


def test_float32_keeps_the_evidence_within_a_thousandth(linear):
    toy, _ = linear
    y, weight, inner, outer, seen = toy.arrays
    single = [tf.cast(a, tf.float32) for a in (y[:5], weight, inner, outer)]
    problem = toys.make_problem(*single, seen[:5])
    runs = inference.find_modes(problem, tf.zeros((1, 5, toys.SIZE)), inference.Schedule(steps=(), learning_rates=()))
    evidence = inference.laplace(runs.u, runs.log_joint, problem.hessian(runs.u)).evidence[0]
    np.testing.assert_allclose(evidence, [toy.exact(case)[2] for case in range(5)], atol=1e-3)
