"""Exponential and logarithm maps, and the squared distance with its own gradient."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from pae_zoo.core import cholesky
from pae_zoo.core.errors import UserError
from pae_zoo.core.forward_mode import jvp
from pae_zoo.core.inputs import TensorLike
from pae_zoo.geometry.manifold import Embedded, Manifold
from pae_zoo.geometry.solver import Solver


class ExponentialMap:
    """Follows geodesics from a point: exp_p(v), by fixed steps of the Runge-Kutta scheme of fourth order.

    The geodesic of the expected metric G with c(0) = p, c'(0) = v solves c'' = G^-1 (1/2 d_c(c' G c') - G' c'). For
    manifolds with features F, G = J' J, that is c'' = -G^-1 J' d^2F[c', c'], of d + 1 forward-mode products; for others
    the derivatives of the metric are taken. Piecewise linear decoders (relu) have d^2F = 0 almost everywhere, so that
    they need smooth activations to be followed at all.

    Args:
      manifold: where the geodesics run.
      num_steps: steps of each geodesic.
      jit_compile: whether XLA compiles the loop. Of decoders with `tf.concat` or slices TensorFlow 2.21 has no second
        derivative under XLA.

    Raises UserError for less than one step.
    """

    def __init__(self, manifold: Manifold, num_steps: int = 100, jit_compile: bool = False):
        if num_steps < 1:
            raise UserError(f"num_steps={num_steps} is out of range; allowed: at least 1.")
        self.manifold, self.num_steps = manifold, int(num_steps)
        acceleration = _acceleration_by_features if isinstance(manifold, Embedded) else _acceleration_by_metric
        self._acceleration = functools.partial(acceleration, manifold)
        # TensorFlow tells functions apart by their code, partial objects by themselves: no warning of retracing.
        self._flow = tf.function(functools.partial(self._integrate), jit_compile=jit_compile, autograph=False)

    def __call__(self, p, v, time: float = 1.0) -> tf.Tensor:
        """Returns exp_p(time v) for p and v (B, d), shape (B, d)."""
        return self.path(p, v, time)[0][-1]

    def path(self, p: TensorLike, v: TensorLike, time: float = 1.0) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns points and velocities at num_steps + 1 even times from 0 to `time`, each (num_steps + 1, B, d)."""
        point, velocity = self._given(p), self._given(v)
        if point.shape.rank != 2 or point.shape != velocity.shape or point.shape[1] != self.manifold.latent_dim:
            raise UserError(f"The exponential map takes points and velocities (B, {self.manifold.latent_dim}); "
                            f"received shapes {tuple(point.shape)} and {tuple(velocity.shape)}.")
        return self._flow(point, velocity, tf.cast(time, point.dtype))

    def _given(self, value: TensorLike) -> tf.Tensor:
        return tf.cast(tf.convert_to_tensor(value), self.manifold.dtype)

    def _integrate(self, p, v, time):
        step = time / self.num_steps
        # Stage k stands half a step, half a step and a step further on; one copy of the manifold, traced once.
        ahead, share = tf.constant([0.5, 0.5, 1.0, 0.0], p.dtype), tf.constant([1 / 6, 1 / 3, 1 / 3, 1 / 6], p.dtype)
        points = tf.TensorArray(p.dtype, self.num_steps + 1, element_shape=p.shape).write(0, p)
        velocities = tf.TensorArray(p.dtype, self.num_steps + 1, element_shape=p.shape).write(0, v)

        def body(i, c, u, points, velocities):
            def stage(k, here, speed, by_c, by_u):
                bend = self._acceleration(here, speed)
                by_c, by_u = by_c + share[k] * speed, by_u + share[k] * bend
                return k + 1, c + ahead[k] * step * speed, u + ahead[k] * step * bend, by_c, by_u

            zeros = tf.zeros_like(c)
            *_, by_c, by_u = tf.while_loop(
                lambda k, *state: k < 4, stage, (tf.constant(0), c, u, zeros, zeros), maximum_iterations=4)
            c, u = c + step * by_c, u + step * by_u
            return i + 1, c, u, points.write(i + 1, c), velocities.write(i + 1, u)

        *_, points, velocities = tf.while_loop(
            lambda i, *state: i < self.num_steps, body, (tf.constant(0), p, v, points, velocities),
            maximum_iterations=self.num_steps)
        return points.stack(), velocities.stack()


def expmap(manifold: Manifold, p: TensorLike, v: TensorLike, num_steps: int = 100, time: float = 1.0,
           jit_compile: bool = False) -> tf.Tensor:
    """Returns exp_p(time v) for p and v (B, d), shape (B, d); `ExponentialMap` is for repeated calls.

    Examples:
      >>> from pae_zoo.geometry.manifold import as_manifold
      >>> plane = as_manifold(lambda z: 2.0 * z, latent_dim=2)
      >>> expmap(plane, [[0.0, 0.0]], [[3.0, 4.0]], num_steps=10).numpy().round(3).tolist()
      [[3.0, 4.0]]
    """
    return ExponentialMap(manifold, num_steps, jit_compile)(p, v, time)


def _acceleration_by_features(manifold: Embedded, c: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
    """Returns c'' = -G^-1 J' d^2F[u, u] at c (B, d) with velocity u (B, d)."""
    _, second = jvp(lambda here: jvp(lambda z: _features(manifold, z), here, u)[1], c, u)
    metric, force = tf.zeros((), c.dtype), tf.zeros((), c.dtype)
    for column, bend in zip(_columns(manifold, c), second):
        # The mean has (n, P) values, the spread (q, n, P).
        bend = bend if bend.shape.rank == 3 else bend[None]
        metric += tf.einsum("qinp,qjnp->nij", column, column)
        force += tf.einsum("qinp,qnp->ni", column, bend)
    return -_solve(metric, force)


def _columns(manifold: Embedded, c: tf.Tensor) -> list[tf.Tensor]:
    """Returns the derivatives of the features at c (n, d) by each latent, (q, d, n, P), by one product for all."""
    num, size = c.shape
    points = tf.tile(c, (size, 1))
    directions = tf.repeat(tf.eye(size, dtype=c.dtype), num, axis=0)
    _, found = jvp(lambda z: _features(manifold, z), points, directions)
    return [tf.reshape(part, (-1, size, num, part.shape[-1])) for part in found]


def _features(manifold: Embedded, z: tf.Tensor) -> list[tf.Tensor]:
    return [part for part in manifold.features(z) if part is not None]


def _acceleration_by_metric(manifold: Manifold, c: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
    """Returns c'' = G^-1 (1/2 d_c(u' G u) - G' u) at c (B, d) with velocity u (B, d)."""
    with tf.GradientTape() as tape:
        tape.watch(c)
        metric, change = jvp(manifold.metric, c, u)
        square = tf.einsum("ni,nij,nj->n", u, metric, u)
    slope = tape.gradient(square, c, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return _solve(metric, 0.5 * slope - tf.linalg.matvec(change, u))


def _solve(metric: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
    """Returns G^-1 v for G (B, d, d) and v (B, d); NaN where G is not finite, finite where it is singular."""
    metric, finite = cholesky.finite_or_identity(metric)
    eye = tf.eye(metric.shape[-1], dtype=metric.dtype)
    scale = tf.linalg.trace(metric)[:, None, None]
    ridge = scale * (1e-7 if metric.dtype == tf.float32 else 1e-14)
    lower, _ = cholesky.guarded(metric + tf.where(scale > 0, ridge, tf.ones_like(ridge)) * eye)
    found = cholesky.solve(lower, vector)
    return tf.where(finite[:, None], found, float("nan") * tf.ones_like(found))


class Connections(NamedTuple):
    """Geodesics of the expected metric between pairs p, q, seen from their ends, as numpy arrays.

    at_start (B, d): log_p(q), the velocity at p of the geodesic that reaches q at time 1. at_end (B, d): log_q(p).
    distance (B,): L, the length under the expected metric, |log_p(q)|_G = L. converged (B,): whether the solver had
    converged; where not, the numbers are those of the best curve found. All are NaN where no curve is finite.
    """

    at_start: np.ndarray
    at_end: np.ndarray
    distance: np.ndarray
    converged: np.ndarray


def coupled(solver: Solver) -> Solver:
    """Returns a solver whose energy is that of the expected metric: `solver` itself if it is, else one made of it.

    Logarithms and squared distances belong to a metric; minimisers of the decorrelated energy are geodesics of none.
    The solver made is kept, so that it is compiled once.
    """
    if solver.settings.energy == "coupled":
        return solver
    if solver.coupled is None:
        settings = dataclasses.replace(solver.settings, energy="coupled")
        solver.coupled = Solver(solver.manifold, settings, solver.graph)
    return solver.coupled


def connect(solver: Solver, p: TensorLike, q: TensorLike) -> Connections:
    """Returns the geodesics from p (B, d) to q (B, d) of the expected metric, seen from both ends.

    A curve is followed at constant speed: its velocity at an end is rescaled to L c' / |c'|_G, so that the parameter
    of the curve has no part in it. A vector is NaN where the metric is no number at its end, or gives the
    curve no speed there although it has a length.
    """
    return _connect(solver, p, q)[0]


def _connect(solver: Solver, p, q) -> tuple[Connections, np.ndarray]:
    """Returns the connections, and the metric at both ends, (B, 2, d, d), float64."""
    solver = coupled(solver)
    found = solver.solve(p, q)
    distance = found.lengths["rms"].astype(np.float64)
    velocity = found.curves.velocity(np.array([0.0, 1.0]))
    ends = np.stack([found.curves.start, found.curves.end], axis=1)
    size = ends.shape[-1]
    metric = solver.fields.metric(ends.reshape(-1, size)).reshape(*ends.shape, size).astype(np.float64)
    speed = np.sqrt(np.maximum(np.einsum("bti,btij,btj->bt", velocity, metric, velocity), 0.0))
    # A curve that does not move where it has a length, or whose speed is no number, has no velocity to rescale.
    still = np.where(distance[:, None] > 0, np.nan, np.zeros_like(speed))
    scale = np.divide(distance[:, None], speed, out=still, where=speed > 0)
    vectors = velocity * scale[..., None] * np.array([1.0, -1.0])[:, None]
    vectors[~found.finite] = np.nan
    distance = np.where(found.finite, distance, np.nan)
    return Connections(vectors[:, 0], vectors[:, 1], distance, found.converged), metric


def logmap(solver: Solver, p: TensorLike, q: TensorLike) -> np.ndarray:
    """Returns log_p(q) for p and q (B, d), (B, d): exp_p of it is q, its length under G(p) the distance.

    The geodesics are those of the expected metric, whatever the solver's own energy (see `coupled`). `connect` also
    tells which have converged.
    """
    return connect(solver, p, q).at_start


def squared_distance(solver: Solver, p: TensorLike, q: TensorLike) -> tf.Tensor:
    """Returns d^2(p, q) under the expected metric for p and q (B, d), shape (B,), with exact first derivatives.

    The gradient is -2 G(p) log_p(q) by p and -2 G(q) log_q(p) by q: the first variation of the length, without a
    derivative through the search. Runs eagerly, in the float type of p. Where p = q both are 0.
    """
    start: tf.Tensor = tf.convert_to_tensor(p)
    end: tf.Tensor = tf.cast(q, start.dtype)
    found, metric = _connect(solver, start.numpy(), end.numpy())
    vectors = np.stack([found.at_start, found.at_end], axis=1)
    # Outside of the function with its own gradient, which must not meet the decoder's variables.
    forces = tf.constant(-2 * np.einsum("beij,bej->ebi", metric, vectors), start.dtype)

    @tf.custom_gradient
    def squared(p, q):
        return tf.constant(found.distance**2, p.dtype), lambda up: tuple(tf.unstack(up[:, None] * forces))

    return squared(p, q)
