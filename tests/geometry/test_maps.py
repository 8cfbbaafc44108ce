"""Exponential and logarithm maps on surfaces where both are known, and the gradient of the squared distance."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import forwardprop
from test_gaussian_process import process

from pae_zoo.core.errors import UserError
from pae_zoo.geometry.manifold import Deterministic, Ensemble, as_manifold
from pae_zoo.geometry.maps import ExponentialMap, connect, coupled, expmap, logmap, squared_distance
from pae_zoo.geometry.metric_fields import MetricField
from pae_zoo.geometry.solver import Settings, Solver

RNG = np.random.default_rng(0)


def sphere(z):
    """The unit sphere by its stereographic chart from the south pole, (n, 2) -> (n, 3)."""
    square = tf.reduce_sum(tf.square(z), axis=-1, keepdims=True)
    return tf.concat([2 * z, 1 - square], axis=-1) / (1 + square)


@functools.lru_cache
def solver(energy="decorrelated"):
    return Solver(as_manifold(sphere, 2), Settings(energy=energy, num_points=128, jit_compile=False))


def pairs(num, size=0.9):
    radius, angle = size * np.sqrt(RNG.uniform(size=(2, num))), RNG.uniform(0, 2 * np.pi, (2, num))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def arc(p, q):
    """The great circle distance of chart points."""
    a, b = (sphere(tf.constant(x, tf.float64)).numpy() for x in (p, q))
    return np.arccos(np.clip(np.sum(a * b, axis=-1), -1, 1))


def norms(manifold, p, v):
    metric = manifold.metric(tf.constant(p, manifold.dtype)).numpy()
    return np.sqrt(np.einsum("...i,...ij,...j->...", v, metric, v))


def test_log_then_exp_is_the_identity_on_the_sphere():
    p, q = pairs(16)
    vectors = logmap(solver(), p, q)
    np.testing.assert_allclose(norms(solver().manifold, p, vectors), arc(p, q), rtol=5e-3)
    follow = ExponentialMap(solver().manifold)
    np.testing.assert_allclose(follow(p, vectors), q, atol=1e-2)
    points, velocities = follow.path(p, vectors)
    speed = norms(solver().manifold, points, velocities.numpy())
    np.testing.assert_allclose(speed, np.broadcast_to(speed[0], speed.shape), rtol=1e-2)
    # Half the time is half the way.
    half = follow(p, vectors, time=0.5)
    np.testing.assert_allclose(arc(p, half.numpy()), 0.5 * arc(p, q), rtol=1e-2)


def test_exp_of_the_sphere_is_known_in_closed_form():
    v = np.array([[0.4, 0.0], [0.0, -0.7], [0.3, 0.3]], np.float32)
    # From the pole, where G = 4 I, a velocity v goes the way 2 |v| on the sphere, which the chart has at tan(way / 2).
    size = np.linalg.norm(v, axis=1, keepdims=True)
    found = expmap(as_manifold(sphere, 2), np.zeros((3, 2)), v)
    np.testing.assert_allclose(found, np.tan(size) * v / size, atol=1e-5)


def test_both_forms_of_the_equation_agree():
    z, v = pairs(6)[0].astype(np.float32), RNG.normal(size=(6, 2)).astype(np.float32)
    embedded = as_manifold(sphere, 2)
    by_metric = MetricField(embedded.metric, 2)
    np.testing.assert_allclose(expmap(embedded, z, v, 40), expmap(by_metric, z, v, 40), rtol=1e-3, atol=1e-4)


def test_it_compiles():
    """A decoder of dense layers; XLA has no second derivative of `tf.concat`."""
    weights = [tf.constant(RNG.normal(size=size), tf.float32) for size in ((2, 8), (8, 5))]
    manifold = Deterministic(lambda z: tf.tanh(z @ weights[0]) @ weights[1], 2)
    z, v = pairs(3).astype(np.float32)
    np.testing.assert_allclose(expmap(manifold, z, v, 20, jit_compile=True), expmap(manifold, z, v, 20), atol=1e-4)


class Pair:
    """Two decoders of the plane, as an ensemble."""

    def mean_and_members(self, z):
        members = tf.stack([tf.concat([z, tf.sin(z)], 1), tf.concat([z, 0.5 * z**2], 1)])
        return tf.reduce_mean(members, axis=0), members


def test_geodesics_of_the_gaussian_process_keep_their_speed():
    p = np.array([[1.0, 0.9], [0.4, -1.2]], np.float32)
    v = np.array([[0.3, 0.4], [-0.2, 0.3]], np.float32)
    points, velocities = ExponentialMap(process()).path(p, v)
    speed = norms(process(), points, velocities.numpy())
    np.testing.assert_allclose(speed, np.broadcast_to(speed[0], speed.shape), rtol=1e-2)


def test_log_then_exp_on_an_ensemble():
    manifold = Ensemble(Pair(), 2)
    p, q = np.array([[1.0, 0.9], [0.4, -1.2]]), np.array([[0.1, 0.3], [-0.9, 0.5]])
    geodesics = Solver(manifold, Settings(jit_compile=False))
    np.testing.assert_allclose(expmap(manifold, p, logmap(geodesics, p, q)), q, atol=1e-2)


def test_a_flat_or_broken_metric_gives_numbers_or_nan_and_no_error():
    flat = Deterministic(lambda z: 0.0 * z, 2)
    found = expmap(flat, np.zeros((1, 2)), np.ones((1, 2)))
    np.testing.assert_allclose(found, [[1.0, 1.0]], rtol=1e-5)
    broken = Deterministic(lambda z: float("nan") * z, 2)
    assert np.isnan(expmap(broken, np.zeros((1, 2)), np.ones((1, 2)))).all()
    connected = connect(Solver(broken, Settings(jit_compile=False)), np.zeros((1, 2)), np.ones((1, 2)))
    assert not connected.converged.any() and np.isnan(connected.distance).all() and np.isnan(connected.at_start).all()


def test_the_logarithm_is_of_the_expected_metric():
    decorrelated = solver()
    assert coupled(decorrelated).settings.energy == "coupled" and coupled(decorrelated) is coupled(decorrelated)
    assert coupled(solver("coupled")) is solver("coupled")
    p, q = pairs(3)
    there, back = connect(decorrelated, p, q), connect(decorrelated, q, p)
    np.testing.assert_allclose(there.at_end, back.at_start, atol=5e-3)
    np.testing.assert_allclose(there.distance, back.distance, rtol=1e-3)
    assert there.converged.all()


def test_gradient_of_the_squared_distance_in_the_plane():
    flat = Solver(Deterministic(lambda z: z, 2), Settings(jit_compile=False))
    p, q = tf.constant([[0.0, 0.0]]), tf.constant([[1.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch([p, q])
        found = squared_distance(flat, p, q)
    np.testing.assert_allclose(found, [5.0], rtol=1e-4)
    at_p, at_q = tape.gradient(found, [p, q])
    np.testing.assert_allclose(at_p, [[-2.0, -4.0]], atol=1e-2)
    np.testing.assert_allclose(at_q, [[2.0, 4.0]], atol=1e-2)


def test_gradient_of_the_squared_distance_on_the_sphere_is_that_of_finite_differences():
    p, q = pairs(4)
    with tf.GradientTape() as tape:
        points = tf.constant(p), tf.constant(q)
        tape.watch(points)
        # Weights show that the incoming gradient is used.
        total = tf.reduce_sum(tf.constant([1.0, 2.0, 3.0, 4.0], tf.float64) * squared_distance(solver(), *points))
    found = np.stack(tape.gradient(total, points))
    step, expected = 1e-5, np.zeros((2, 4, 2))
    for which in range(2):
        for axis in range(2):
            moved = np.stack([[p, q], [p, q]])
            moved[0, which, :, axis] += step
            moved[1, which, :, axis] -= step
            up, down = (np.square(arc(*one)) for one in moved)
            expected[which, :, axis] = [1, 2, 3, 4] * (up - down) / (2 * step)
    size = np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(found / size, expected / size, atol=1e-2)
    # And by the solver's own distances, whose error is the same on both sides.
    step = 0.02
    moved = np.repeat(p[:1], 2, axis=0) + [[step, 0.0], [-step, 0.0]]
    up, down = np.square(coupled(solver()).solve(moved, np.repeat(q[:1], 2, axis=0)).lengths["rms"])
    np.testing.assert_allclose(found[0, 0, 0], (up - down) / (2 * step), atol=0.02 * size[0, 0, 0])


def test_squared_distance_of_a_keras_decoder_has_a_gradient_beside_its_variables():
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, kernel_initializer="orthogonal")])
    geodesics = Solver(as_manifold(decoder), Settings(energy="mean", jit_compile=False))
    p = tf.Variable([[0.0, 0.0]])
    with tf.GradientTape() as tape:
        found = squared_distance(geodesics, p, tf.constant([[1.0, 2.0]]))
    np.testing.assert_allclose(found, [5.0], rtol=1e-4)
    np.testing.assert_allclose(tape.gradient(found, p), [[-2.0, -4.0]], atol=1e-2)


def test_a_point_is_at_distance_0_from_itself_with_finite_gradients():
    for geodesics in (solver(), Solver(process(), Settings(jit_compile=False))):
        p = tf.constant([[0.3, 0.4], [0.0, 0.0]])
        with tf.GradientTape() as tape:
            tape.watch(p)
            found = squared_distance(geodesics, p, tf.identity(p))
        np.testing.assert_array_equal(found, [0.0, 0.0])
        np.testing.assert_array_equal(tape.gradient(found, p), np.zeros((2, 2)))


def test_bad_input_is_one_clear_line():
    with pytest.raises(UserError, match="num_steps=0"):
        ExponentialMap(solver().manifold, 0)
    with pytest.raises(UserError, match=r"\(B, 2\)"):
        expmap(solver().manifold, np.zeros((1, 2)), np.zeros((2, 2)))


def test_ends_of_two_float_types_have_gradients():
    solver = Solver(Deterministic(lambda z: z, 2), Settings(jit_compile=False))
    p = tf.Variable([[0.0, 0.0]])
    with tf.GradientTape() as tape:
        square = squared_distance(solver, p, np.array([[1.0, 2.0]]))
    np.testing.assert_allclose(tape.gradient(square, p), [[-2.0, -4.0]], atol=1e-4)


def test_where_the_metric_is_no_number_the_logarithm_is_none():
    def cone(z):
        return tf.concat([z, tf.norm(z, axis=-1, keepdims=True)], axis=-1)

    found = connect(Solver(Deterministic(cone, 2), Settings(jit_compile=False)), [[0.0, 0.0]], [[1.0, 0.0]])
    assert np.isnan(found.at_start).all()


def test_shapes_that_tensorflow_forgets_change_nothing(monkeypatch):
    """After 32 derivatives of one operation in a process, and calls of several ranks, its next ones have no rank."""
    z, v = pairs(7)[0].astype(np.float32), RNG.normal(size=(7, 2)).astype(np.float32)
    before = expmap(Ensemble(Pair(), 2), z[:3], v[:3], 5)
    monkeypatch.setattr(forwardprop, "_TRACE_COUNT_LIMIT", 0)

    @tf.function(autograph=False)
    def others(x):
        def function(x):
            members = tf.stack([x, tf.concat([x, tf.sin(x) * x - x], axis=-1)[..., : x.shape[-1]]])
            return tf.reshape((members - tf.reduce_mean(members, axis=0)) / 2.0 * x, (-1, *x.shape))

        with tf.autodiff.ForwardAccumulator(x, x) as outer, tf.autodiff.ForwardAccumulator(x, x) as inner:
            value = function(x)
        return outer.jvp(inner.jvp(value), tf.UnconnectedGradients.ZERO)

    for rank in range(1, 5):
        others(tf.ones([3] * rank))
    np.testing.assert_allclose(expmap(Ensemble(Pair(), 2), z, v, 5)[:3], before, rtol=1e-6)
