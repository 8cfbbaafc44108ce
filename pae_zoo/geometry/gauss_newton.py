"""Gauss-Newton steps for curves: every energy here is a sum of squares of the decoder's features.

With few latents the derivatives of the features along a curve cost d forward products a point, and a curve has a few
dozen unknowns, so that a dozen damped steps (Levenberg-Marquardt) take the place of hundreds of gradient steps.
"""

import math

import tensorflow as tf

from pae_zoo.geometry.descent import Found, filled
from pae_zoo.geometry.energies import Weights
from pae_zoo.geometry.manifold import Embedded

# Damping relative to the diagonal: where it starts, how it falls and rises, and where no step is left to try.
FIRST, FALL, RISE, LEAST, MOST = 1e-3, 0.2, 6.0, 1e-9, 1e7


def minimise(
    manifold: Embedded, line: tf.Tensor, basis: tf.Tensor, by: Weights, start: tf.Tensor, steps: int, tolerance: float
) -> Found:
    """Minimises the energies of B curves z = line + basis w by damped Gauss-Newton steps, each curve by itself.

    Args:
      line: the straight lines at T times, (B, T, d). basis: (T, m). by: the energy's weights.
      start: the first w, (B, m, d).
      tolerance: a curve has converged when a step lowered its energy by less than this share, or when no step lowers
        it however small.
    """
    shape, size = tf.shape(start), start.shape[1] * start.shape[2]

    def body(step, trial, weights, energy, gradient, curvature, damping, done, converged, taken, trace):
        found = _system(manifold, line + tf.einsum("tm,bmd->btd", basis, trial), basis, by)
        # A first energy that is no number, or 0, leaves nothing to do.
        first = step == 0
        better = (found[0] < energy) & ~done
        gain = (energy - found[0]) / tf.maximum(energy, 1e-30)
        ended = (better & (gain < tolerance)) | (~better & (damping >= MOST))
        ended |= first & ~(tf.math.is_finite(found[0]) & (found[0] > 0))
        taken = tf.where(done, taken, step)
        converged |= ended & ~done & tf.math.is_finite(found[0])
        weights, energy, gradient, curvature = (
            tf.where(tf.reshape(better | first, [-1] + [1] * (new.shape.rank - 1)), new, old)
            for new, old in zip((trial, *found), (weights, energy, gradient, curvature)))
        damping = tf.where(better, tf.maximum(damping * FALL, LEAST), damping * RISE)
        damping = tf.where(first, tf.fill(shape[:1], tf.constant(FIRST, start.dtype)), damping)
        done |= ended
        trial = weights + tf.reshape(_move(gradient, curvature, damping, done), shape)
        trace = trace.write(step, energy)
        return step + 1, trial, weights, energy, gradient, curvature, damping, done, converged, taken, trace

    none = tf.zeros(shape[:1], tf.int32)
    energy = tf.fill(shape[:1], tf.constant(math.inf, start.dtype))
    trace = tf.TensorArray(start.dtype, steps + 1, element_shape=(start.shape[0],))
    blank = tf.zeros((shape[0], size), start.dtype)
    state = (tf.constant(0), start, start, energy, blank, tf.zeros((shape[0], size, size), start.dtype), energy,
             none > 0, none > 0, none, trace)  # fmt: skip
    state = tf.while_loop(
        lambda step, *rest: (step <= steps) & ~tf.reduce_all(rest[6]), body, state, parallel_iterations=1)  # fmt: skip
    step, weights, energy, converged, taken, trace = (state[i] for i in (0, 2, 3, 8, 9, 10))
    return Found(weights, energy, taken, converged, filled(trace.stack(), step))


def _move(gradient, curvature, damping, done):
    """Returns the damped Gauss-Newton step (B, m d) of each curve."""
    diagonal = tf.linalg.diag_part(curvature)
    scale = tf.maximum(diagonal, 1e-6 * tf.reduce_max(diagonal, axis=-1, keepdims=True)) + 1e-30
    # Scaled to a unit diagonal before the damping, so that float32 is enough.
    root = tf.math.rsqrt(scale)
    scaled = curvature * root[:, :, None] * root[:, None, :]
    damped = tf.linalg.set_diag(scaled, tf.linalg.diag_part(scaled) + damping[:, None] + 1e-6)
    safe = tf.where(done[:, None, None], tf.eye(damped.shape[-1], dtype=damped.dtype), damped)
    return -root * tf.linalg.cholesky_solve(tf.linalg.cholesky(safe), (root * gradient)[..., None])[..., 0]


def _system(manifold, z, basis, by):
    """Returns energies (B,), their gradients (B, m d) and Gauss-Newton matrices (B, m d, m d) of curves z (B, T, d)."""
    size, points, d = tf.shape(z)[0], z.shape[1], z.shape[2]
    flat = tf.reshape(z, (-1, d))
    (mean, spread), (mean_slopes, spread_slopes) = manifold.derivatives(flat)
    curve = lambda part: tf.reshape(part, (*part.shape[:-2], size, points, part.shape[-1]))  # noqa: E731
    inner = tf.constant([1.0] + [2.0] * (points - 2) + [1.0], z.dtype)
    energy, slope, own, next_ = _terms(curve(mean), _columns(curve(mean_slopes), d), by.mean, inner, 0.0)
    if spread is not None and (by.spread or by.point):
        found = _terms(curve(spread), _columns(curve(spread_slopes), d), by.spread, inner, by.point)
        energy, slope, own, next_ = (a + b for a, b in zip((energy, slope, own, next_), found))
    gradient = tf.einsum("tm,bti->bmi", basis, slope)
    curvature = tf.einsum("tm,tn,btij->bminj", basis, basis, own)
    across = tf.einsum("tm,tn,btij->bminj", basis[:-1], basis[1:], next_)
    curvature += across + tf.transpose(across, (0, 3, 4, 1, 2))
    unknowns = basis.shape[1] * d
    return energy, tf.reshape(gradient, (size, unknowns)), tf.reshape(curvature, (size, unknowns, unknowns))


def _columns(slopes, d):
    return [slopes[i] for i in range(d)]


def _dot(a, b):
    """Returns the inner products of features (..., B, T, P), (q, B, T, P) included: (B, T)."""
    product = tf.reduce_sum(a * b, axis=-1)
    return tf.reduce_sum(product, axis=0) if product.shape.rank == 3 else product


def _terms(value, columns, along, inner, point):
    """Returns energy (B,), gradient (B, T, d), blocks (B, T, d, d) and (B, T - 1, d, d) of one sort of features.

    The energy is along * sum_k |value_{k+1} - value_k|^2 + point * sum_k inner_k |value_k|^2.
    """
    d = len(columns)
    zero = tf.zeros_like(_dot(columns[0], columns[0]))
    energy, slope = tf.zeros_like(zero[:, 0]), [zero] * d
    weight = (along + point) * inner
    own = {(i, j): 2.0 * weight * _dot(columns[i], columns[j]) for i in range(d) for j in range(i, d)}
    next_ = {(i, j): zero[:, 1:] for i in range(d) for j in range(d)}
    if point:
        energy += point * tf.reduce_sum(inner * _dot(value, value), axis=-1)
        slope = [2.0 * point * inner * _dot(column, value) for column in columns]
    if along:
        steps = value[..., 1:, :] - value[..., :-1, :]
        energy += along * tf.reduce_sum(_dot(steps, steps), axis=-1)
        for i, column in enumerate(columns):
            before = tf.pad(_dot(column[..., 1:, :], steps), [[0, 0], [1, 0]])
            after = tf.pad(_dot(column[..., :-1, :], steps), [[0, 0], [0, 1]])
            slope[i] += 2.0 * along * (before - after)
            for j in range(d):
                next_[i, j] = -2.0 * along * _dot(column[..., :-1, :], columns[j][..., 1:, :])

    def blocks(entry):
        return tf.stack([tf.stack([entry(i, j) for j in range(d)], axis=-1) for i in range(d)], axis=-2)

    own_blocks = blocks(lambda i, j: own[min(i, j), max(i, j)])
    return energy, tf.stack(slope, axis=-1), own_blocks, blocks(lambda i, j: next_[i, j])
