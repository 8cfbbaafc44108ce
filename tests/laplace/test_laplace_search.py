"""Precisions against Hessians by autodiff, Newton steps against closed forms, and the search's schedules."""

import numpy as np
import pytest
import tensorflow as tf
from linearised import BATCH, LATENTS, VALUES, affine, data, decoder, likelihood, points

from pae_zoo import laplace
from pae_zoo.core.errors import UserError
from pae_zoo.inference import derivatives
from pae_zoo.laplace.systems import ExplicitSystem, GramSystem

EYE = tf.eye(LATENTS, dtype="float64")


def hessian(net, observed, y, z):
    """Returns -d^2 log p(y, z) / dz^2 by automatic differentiation."""

    def log_joint(points):
        outputs = tf.reshape(net(tf.reshape(points, (-1, LATENTS))), (*points.shape[:-1], -1))
        return observed.log_prob(outputs, y) - 0.5 * tf.reduce_sum(points**2, -1)

    return -derivatives.hessian(log_joint, z)


@pytest.mark.parametrize("name", ["gaussian", "gaussian_pixel", "bernoulli"])
def test_the_precision_is_the_negative_hessian_of_a_relu_decoder(name):
    net, observed, y, z = decoder(), likelihood(name), data(), points()
    if name == "gaussian_pixel":
        observed.assign_scale(np.linspace(0.2, 0.9, VALUES))
    expected = hessian(net, observed, y, z)
    found = ExplicitSystem(net, observed, y).at(z)
    np.testing.assert_allclose(found.gram + EYE, expected, atol=1e-8)
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = observed.log_prob(net(z), y) - 0.5 * tf.reduce_sum(z**2, -1)
    np.testing.assert_allclose(found.gradient, tape.gradient(value, z), atol=1e-9)
    if name != "bernoulli":
        gram = GramSystem(net, observed, y).at(z)
        np.testing.assert_allclose(gram.gram + EYE, expected, atol=1e-8)
        np.testing.assert_allclose(gram.gradient, found.gradient, atol=1e-8)


def test_a_smooth_decoder_gives_the_gauss_newton_matrix():
    net, observed, y, z = decoder("tanh"), likelihood(), data(), points()
    precision = ExplicitSystem(net, observed, y).at(z).gram + EYE
    assert np.abs(precision - hessian(net, observed, y, z)).max() > 1e-3
    assert np.linalg.eigvalsh(precision).min() >= 1 - 1e-12


def test_fisher_information_is_the_mean_square_of_the_score():
    for name, factor in [("bernoulli", 1), ("gaussian_decoder", 2), ("gaussian", 1)]:
        observed = likelihood(name, values=2, dtype="float32")
        outputs = tf.constant(np.random.default_rng(1).normal(size=(3, 2 * factor)).astype(np.float32))
        draws = observed(outputs).sample(20_000, seed=(0, 1))
        flat = tf.reshape(draws, (-1, 2))
        score, fisher = observed.score_and_fisher(tf.tile(outputs, (20_000, 1)), flat)
        score = tf.reshape(score, (20_000, *outputs.shape))
        np.testing.assert_allclose(tf.reduce_mean(score**2, 0), fisher[:3], rtol=0.06, atol=0.01)
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            value = observed.log_prob(outputs, draws[0])
        np.testing.assert_allclose(observed.score_and_fisher(outputs, draws[0])[0], tape.gradient(value, outputs),
                                   rtol=1e-4, atol=1e-4)


def test_both_forms_of_the_gaussian_step_agree():
    net, observed, y, z = decoder(), likelihood(), data(), points()
    beta = 1 / 0.3**2
    value, rows = laplace.linearise(net, z)
    precision = EYE + beta * rows @ tf.linalg.matrix_transpose(rows)
    bias = value - tf.linalg.matvec(rows, z, transpose_a=True)
    mode = np.linalg.solve(precision, beta * tf.linalg.matvec(rows, y - bias)[..., None])[..., 0]
    for system in (ExplicitSystem(net, observed, y), GramSystem(net, observed, y)):
        found = laplace.run(laplace.Search(1, 1.0), system, z).path[-1]
        np.testing.assert_allclose(found, mode, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rate,weight", [(1.0, 0.0), (0.5, 0.5)])
def test_one_step_on_an_affine_decoder(rate, weight):
    net, observed, y, z = affine(), likelihood(), data(), points()
    kernel, bias = (v.numpy() for v in net.layers[-1].weights)
    precision = np.eye(LATENTS) + kernel @ kernel.T / 0.09
    mode = np.linalg.solve(precision, kernel @ (y - bias).numpy().T / 0.09).T
    for system in (ExplicitSystem(net, observed, y), GramSystem(net, observed, y)):
        found = laplace.run(laplace.Search(1, rate), system, z)
        np.testing.assert_allclose(found.path[-1], weight * z + (1 - weight) * mode, atol=1e-8)
        np.testing.assert_allclose(system.at(z).gram + EYE, np.tile(precision, (BATCH, 1, 1)), atol=1e-8)


@pytest.mark.parametrize("schedule,kept", [("harmonic", 0.5 * 0.75 * (1 - 0.5 / 3)), ("constant", 0.125)])
def test_the_start_fades_by_the_product_of_the_steps(schedule, kept):
    system, start = GramSystem(decoder(), likelihood(), data()), points()
    search = laplace.Search(3, 0.5, schedule)
    with tf.GradientTape() as tape:
        tape.watch(start)
        found = laplace.run(search, system, start)
    np.testing.assert_allclose(found.kept, kept, rtol=1e-12)
    jacobian = tape.batch_jacobian(found.path[-1], start, experimental_use_pfor=True)
    np.testing.assert_allclose(jacobian, np.tile(kept * np.eye(LATENTS), (BATCH, 1, 1)), atol=1e-5)


@pytest.mark.parametrize("schedule", ["line_search", "levenberg", "backtracking"])
def test_guarded_schedules_never_go_down(schedule):
    # A sharp likelihood and far starts make plain Newton steps overshoot across the kinks.
    net, observed, y = decoder(hidden=(16, 16)), likelihood(scale=0.02), data(40)
    start = 4 * points(40, seed=9)
    system = GramSystem(net, observed, y)
    path = laplace.run(laplace.Search(6, 1.0, schedule), system, start).path
    values = np.stack([system.log_joint(mu) for mu in path])
    assert np.all(np.diff(values, axis=0) >= -1e-7 * np.abs(values[:-1]))
    assert np.mean(values[-1] > values[0]) > 0.95
    plain = laplace.run(laplace.Search(6, 1.0, "constant"), system, start).path
    assert np.any(np.diff(np.stack([system.log_joint(mu) for mu in plain]), axis=0) < 0)


def test_conjugate_gradients_replace_the_factorisations():
    system, start = GramSystem(decoder("tanh"), likelihood(), data()), points()
    exact = laplace.run(laplace.Search(3), system, start).path[-1]
    for precondition in (True, False):
        search = laplace.Search(3, solver="cg", iterations=LATENTS + 3, precondition=precondition)
        np.testing.assert_allclose(laplace.run(search, system, start).path[-1], exact, rtol=1e-6, atol=1e-8)


def test_chords_take_one_factor_and_reach_the_mode(monkeypatch):
    system, start = GramSystem(decoder("tanh"), likelihood(), data()), points()
    points_of_factors = []
    plain = GramSystem.at
    monkeypatch.setattr(GramSystem, "at", lambda self, mu: points_of_factors.append(mu) or plain(self, mu))
    found = laplace.run(laplace.Search(60, 1.0, "backtracking", "chord"), system, start)
    assert len(points_of_factors) == 1 and points_of_factors[0] is start
    values = np.stack([system.log_joint(mu) for mu in found.path])
    assert np.all(np.diff(values, axis=0) >= -1e-12)
    before, after = (np.abs(system.products(mu)[1]).max(axis=-1) for mu in (start, found.path[-1]))
    assert np.all(after < 1e-2 * before)
    first = found.factor @ tf.linalg.matrix_transpose(found.factor)
    np.testing.assert_allclose(first, plain(system, start).gram + EYE, atol=1e-8)


@pytest.mark.parametrize("solver,precondition", [("newton", True), ("cg", True), ("cg", False)])
def test_log_joint_is_raised_by_every_solver(solver, precondition):
    system, start = GramSystem(decoder(), likelihood("gaussian_learned", dtype="float64"), data()), points()
    search = laplace.Search(4, 0.5, solver=solver, iterations=2, precondition=precondition)
    path = laplace.run(search, system, start).path
    values = np.stack([system.log_joint(mu) for mu in path]).mean(axis=1)
    assert np.all(np.diff(values) > 0)


@pytest.mark.parametrize("changes,message", [
    (dict(num_updates=-1), "num_updates=-1 must be 0 or more"),
    (dict(update_lr=0.0), r"update_lr=0.0 must lie in \(0, 1\]"),
    (dict(update_lr=1.5), r"update_lr=1.5 must lie in \(0, 1\]"),
    (dict(schedule="square"), "received 'square'"),
    (dict(solver="jacobi"), "received 'newton|'jacobi'"),
    (dict(iterations=0), "1 iteration or more"),
    (dict(solver="chord", schedule="levenberg"), "take the schedule 'backtracking'"),
])  # fmt: skip
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        laplace.Search(**changes)


def test_no_tensor_of_data_size_by_latents_is_formed():
    values = 31  # a size that nothing else has
    net, observed, y = decoder(values=values), likelihood(values=values), data(values=values)

    def shapes(system):
        def step(y, z):
            with tf.GradientTape() as tape:
                local = system(net, observed, y).at(z)
                loss = tf.reduce_sum(local.gram) + tf.reduce_sum(local.gradient)
            return tape.gradient(loss, [v.value for v in net.trainable_variables])

        graph = tf.function(step).get_concrete_function(y, points()).graph
        return [output.shape for op in graph.get_operations() for output in op.outputs if output.shape.rank]

    least = BATCH * LATENTS * values
    assert not [s for s in shapes(GramSystem) if values in s.as_list() and (s.num_elements() or 0) >= least]
    assert any(s.as_list() == [BATCH, LATENTS, values] for s in shapes(ExplicitSystem))


@pytest.mark.parametrize("name", ["gaussian", "gaussian_pixel"])
def test_the_quadratic_likelihood_is_that_of_the_decoded(name):
    net, observed, y, z = decoder(), likelihood(name), data(), points()
    found = laplace.QuadraticLikelihood(net, observed, y, z)
    for draws in (z, points(seed=7), tf.stack([z + 0.1, 3 * z])):
        outputs = tf.reshape(net(tf.reshape(draws, (-1, LATENTS))), (*draws.shape[:-1], VALUES))
        np.testing.assert_allclose(found(draws), observed.log_prob(outputs, y), rtol=1e-10, atol=1e-10)


def test_the_quadratic_likelihood_loses_no_digits():
    # Sharp and far from zero: |y|^2 / sigma^2 = 1e6 would leave float32 errors of 0.1 nat without a centre.
    values = 100
    net, observed = decoder(dtype="float32", values=values), likelihood(values=values, scale=0.01, dtype="float32")
    z = points(dtype="float32")
    y = net(z) + 0.01 * data(values=values, dtype="float32")
    draws = z + 1e-3 * points(dtype="float32", seed=3)
    exact = likelihood(values=values, scale=0.01).log_prob(tf.cast(net(draws), "float64"), tf.cast(y, "float64"))
    np.testing.assert_allclose(laplace.QuadraticLikelihood(net, observed, y, z)(draws), exact, atol=0.02)
