"""Damped Gauss-Newton steps for curves: exact gradients, and the metric as the curvature of the energy.

Every energy here is a sum of squares of what the decoder makes of a curve, so that its curvature in the coefficients w
of the curve is, but for second derivatives of the decoder,

    H = 2 int phi' phi'^T (x) (a G_mean + b G_spread) dt + 2 c int phi phi^T (x) G_spread dt,

with the metric along the curve. That is smooth and can be had from a few points of it, by d forward-mode products each;
a dozen steps with it (Levenberg-Marquardt) take the place of hundreds of gradient steps.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from pae_zoo.geometry.curves import Family, Polyline
from pae_zoo.geometry.descent import Energy, Found, filled
from pae_zoo.geometry.energies import Weights
from pae_zoo.geometry.manifold import Manifold

# Damping relative to the diagonal: where it starts, how it falls and rises, and where no step is left to try.
FIRST, FALL, RISE, LEAST, MOST = 1e-2, 0.2, 10.0, 1e-4, 1e6
# Damping below which a step is nearly the one to the minimum of the quadratic model.
QUIET = 1e-2


class Curvature(NamedTuple):
    """Points of a curve at which the metric is looked at, and what it weighs there.

    times (M,). basis (M, m). stiff, heavy: phi' and phi at the points with the roots of quadrature weights, (M, m).
    """

    times: np.ndarray
    basis: np.ndarray
    stiff: np.ndarray
    heavy: np.ndarray


def curvature(family: Family, num_points: int, energy_points: int) -> Curvature:
    """Returns where and how the metric enters H: at `num_points` Gauss points, or as many as the functions need.

    A polyline is not smooth and has two in each of its pieces: one rule for all of it would miss some pieces.
    """
    blocks = family.num_pieces if isinstance(family, Polyline) else 1
    nodes, weights = np.polynomial.legendre.leggauss(2 if blocks > 1 else max(num_points, family.size + 5))
    times = ((nodes + 1) / 2 + np.arange(blocks)[:, None]).ravel() / blocks
    weights = np.tile(weights / 2, blocks) / blocks
    pieces = energy_points - 1
    # by.mean |f(z_{k+1}) - f(z_k)|^2 summed over k is by.mean / pieces times the integral of |df/dt|^2.
    root = np.sqrt(weights)[:, None]
    return Curvature(times, family.basis(times), root * family.derivative(times) / math.sqrt(pieces),
                     root * family.basis(times) * math.sqrt(2.0 * pieces))  # fmt: skip


def minimise(
    value: Energy,
    hessian: Callable[[tf.Tensor], tf.Tensor],
    start: tf.Tensor,
    steps: int,
    tolerance: float,
    refresh: int = 1,
) -> Found:
    """Minimises the energies of B curves by damped Gauss-Newton steps, each curve by itself.

    Args:
      value: weights (B, m, d) -> energies and their movable parts, (B,) each. hessian: weights -> H (B, m d, m d).
      start: the first weights, (B, m, d).
      tolerance: a curve has converged when a step with next to no damping lowered its energy by less than this share of
        the movable part, when the quadratic model promises no more than that, or when no step lowers it however small.
        Where the metric or the gradient is no number the search ends, and the curve has not converged.
      refresh: H is computed anew every so many steps.
    """
    shape, size = tf.shape(start), start.shape[1] * start.shape[2]

    def evaluate(weights):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            energy, part = value(weights)
        return energy, tf.stop_gradient(part), tf.reshape(tape.gradient(energy, weights), (-1, size))

    def body(step, trial, weights, energy, scale, gradient, metric, damping, done, converged, taken, trace):
        found, part, slope = evaluate(trial)
        first = step == 0
        better = (found < energy) & ~done
        # A small gain of a step that the damping has shortened says nothing of the way that is left.
        slow = better & (energy - found < tolerance * part) & (damping <= QUIET)
        ended = slow | (~better & (damping >= MOST))
        # A first energy that is no number, or one that no shape of the curve would change, leaves nothing to do.
        ended |= first & ~(tf.math.is_finite(found) & (part > 0))
        taken = tf.where(done, taken, step)
        converged |= ended & ~done & tf.math.is_finite(found)
        take = better | first
        weights, gradient = tf.where(take[:, None, None], trial, weights), tf.where(take[:, None], slope, gradient)
        energy, scale = tf.where(take, found, energy), tf.where(take, part, scale)
        damping = tf.where(better, tf.maximum(damping * FALL, LEAST), damping * RISE)
        damping = tf.where(first, tf.fill(shape[:1], tf.constant(FIRST, start.dtype)), damping)
        if refresh == 1:
            metric = hessian(weights)
        else:
            metric = tf.cond(step % refresh == 0, lambda: hessian(weights), lambda: metric)
        move, promise, usable = _move(gradient, metric, damping, done | ended)
        # Where a nearly undamped step promises nothing, the curve is there; rounding would refuse the step anyway.
        there = ~(done | ended) & usable & (damping <= QUIET) & (promise < tolerance * scale)
        converged |= there
        done |= ended | there | ~usable
        trial = weights + tf.reshape(tf.where(done[:, None], tf.zeros_like(move), move), shape)
        trace = trace.write(step, energy)
        return step + 1, trial, weights, energy, scale, gradient, metric, damping, done, converged, taken, trace

    none = tf.zeros(shape[:1], tf.int32)
    energy = tf.fill(shape[:1], tf.constant(math.inf, start.dtype))
    trace = tf.TensorArray(start.dtype, steps + 1, element_shape=(start.shape[0],))
    blank = tf.zeros((shape[0], size), start.dtype)
    state = (tf.constant(0), start, start, energy, energy, blank, tf.zeros((shape[0], size, size), start.dtype), energy,
             none > 0, none > 0, none, trace)  # fmt: skip
    state = tf.while_loop(
        lambda step, *rest: (step <= steps) & ~tf.reduce_all(rest[7]), body, state, parallel_iterations=1)  # fmt: skip
    step, weights, energy, converged, taken, trace = (state[i] for i in (0, 2, 3, 9, 10, 11))
    return Found(weights, energy, taken, converged, filled(trace.stack(), step))


def hessian(manifold: Manifold, points: tf.Tensor, where: Curvature, by: Weights) -> tf.Tensor:
    """Returns H (B, m d, m d) of curves whose points at `where.times` are given, (B, M, d)."""
    mean, spread = manifold.metric_parts(points)
    dtype, size = points.dtype, where.basis.shape[1] * points.shape[-1]
    stiff, heavy = tf.constant(where.stiff, dtype), tf.constant(where.heavy, dtype)
    along = by.mean * mean if spread is None else by.mean * mean + by.spread * spread
    found = 2.0 * tf.einsum("tm,tn,btij->bminj", stiff, stiff, along)
    if spread is not None and by.point:
        found += 2.0 * by.point * tf.einsum("tm,tn,btij->bminj", heavy, heavy, spread)
    return tf.reshape(found, (-1, size, size))


def _move(gradient, metric, damping, done):
    """Returns the damped Gauss-Newton step of each curve (B, m d), the fall of its energy that it promises (B,), and
    whether there are numbers to compute it from (B,); curves that are done have a step of 0.
    """
    diagonal = tf.linalg.diag_part(metric)
    scale = tf.maximum(diagonal, 1e-6 * tf.reduce_max(diagonal, axis=-1, keepdims=True)) + 1e-30
    # Scaled to a unit diagonal before the damping, so that float32 is enough.
    root = tf.math.rsqrt(scale)
    scaled = metric * root[:, :, None] * root[:, None, :]
    damped = tf.linalg.set_diag(scaled, tf.linalg.diag_part(scaled) + damping[:, None] + 1e-6)
    usable = tf.reduce_all(tf.math.is_finite(damped), axis=(1, 2)) & tf.reduce_all(tf.math.is_finite(gradient), axis=1)
    moves = usable & ~done
    safe = tf.where(moves[:, None, None], damped, tf.eye(damped.shape[-1], dtype=damped.dtype))
    slope = tf.where(moves[:, None], root * gradient, 0.0)
    move = tf.linalg.cholesky_solve(tf.linalg.cholesky(safe), slope[..., None])[..., 0]
    root = tf.where(moves[:, None], root, 0.0)
    return -root * move, 0.5 * tf.reduce_sum(slope * move, axis=-1), usable
