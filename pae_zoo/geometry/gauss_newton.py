"""Gauss-Newton steps for curves: exact gradients, and the metric as the curvature of the energy.

Every energy here is a sum of squares of what the decoder makes of a curve, so that its curvature in the coefficients w
of the curve is, but for second derivatives of the decoder,

    H = 2 int phi' phi'^T (x) (a G_mean + b G_spread) dt + 2 c int phi phi^T (x) G_spread dt,

with the metric along the curve. That is smooth and can be had from a few points of it, by d forward-mode products each.
What it lacks is learned from the steps themselves: H is the first matrix of an L-BFGS search (Nocedal & Wright, 2006,
algorithm 7.4), whose secants carry the decoder's own bends. Dozens of steps take the place of hundreds of gradient
steps, and the metric is looked at in a few of them.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from pae_zoo.core import cholesky
from pae_zoo.geometry.curves import Family, Polyline
from pae_zoo.geometry.descent import Energy, Found, filled
from pae_zoo.geometry.energies import Weights
from pae_zoo.geometry.manifold import UNROLLED, Manifold

# Secants that are kept, and the least cosine between a step and the change of the gradient for one to be kept.
MEMORY, LEAST_COSINE = 10, 1e-6
# A step is taken if it brings this share of what the gradient promises; else it is cut by a factor between these two.
ARMIJO, LEAST_CUT, MOST_CUT = 1e-4, 0.1, 0.5
# A search that begins anew without its secants and gains less than so many tolerances had ended before.
AGAIN = 10.0
# Evaluations without a fall by the tolerance after which a curve has settled.
IDLE = 12


class Plan(NamedTuple):
    """How a search goes about its steps.

    ridge: added to the diagonal of H, once that is scaled to 1. refresh: H is computed before step 0, 1 and the powers
    of this number. steps: evaluations that a search may take, if nobody says otherwise.
    """

    ridge: float
    refresh: int
    steps: int


FEW_LATENTS = Plan(ridge=1e-3, refresh=2, steps=200)
# H takes as long as several steps here; and relu kinks lie near every curve: without a ridge H promises ways that end
# at the next of them.
MANY_LATENTS = Plan(ridge=1e-1, refresh=8, steps=400)


def plan(latent_dim: int) -> Plan:
    """Returns how searches in so many latents go about their steps."""
    return FEW_LATENTS if latent_dim <= UNROLLED else MANY_LATENTS


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


def refresh_steps(steps: int, latent_dim: int) -> tuple[int, ...]:
    """Returns the steps of a search of up to `steps` before which H is computed; the first ones go furthest."""
    base, found = plan(latent_dim).refresh, [0, 1]
    while found[-1] < steps:
        found.append(found[-1] * base)
    return tuple(step for step in found if step < max(steps, 1))


def minimise(
    value: Energy,
    hessian: Callable[[tf.Tensor], tf.Tensor],
    start: tf.Tensor,
    steps: int,
    tolerance: float,
    refresh: Sequence[int] = (0,),
) -> Found:
    """Minimises the energies of B curves by Gauss-Newton steps with secants, each curve by itself.

    Args:
      value: weights (B, m, d) -> energies and their movable parts, (B,) each. hessian: weights -> H (B, m d, m d).
      start: the first weights, (B, m, d).
      steps: most evaluations of the energy after the first; a step that is cut and tried again counts anew.
      tolerance: a curve has converged when H without secants promises to lower its energy by less than this share of
        the movable part, when a step of full length by it did no more, when a dozen steps did no more, however small,
        or when the search began anew without secants and gained no more than ten times that. Where the metric or the
        gradient is no number the search ends, and the curve has not converged.
      refresh: steps before which H is computed.
    """
    shape, size, dtype = tf.shape(start), start.shape[1] * start.shape[2], start.dtype
    ridge = plan(start.shape[2]).ridge

    def evaluate(weights):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            energy, part = value(weights)
        return energy, tf.stop_gradient(part), tf.reshape(tape.gradient(energy, weights), (-1, size))

    def body(search):
        step, trial, now, model, secants, move, alone, length, mark, since, done, converged, taken, trace = search
        energy, part, gradient = evaluate(trial)
        first = step == 0
        promised = tf.reduce_sum(now.gradient * move, axis=-1)
        better = (energy < now.energy + ARMIJO * length * promised) & ~done
        kept = _remember(secants, tf.reshape(trial - now.weights, (-1, size)), gradient - now.gradient)
        secants = tf.where((better & ~first)[:, None], kept, secants)
        cut = _cut(length, promised, energy - now.energy)
        take = better | first
        gain = now.energy - energy
        now = _Place(tf.where(take[:, None, None], trial, now.weights), tf.where(take, energy, now.energy),
                     tf.where(take, part, now.part), tf.where(take[:, None], gradient, now.gradient))  # fmt: skip
        # A small gain of a step that was cut says nothing of the way that is left, one of many such steps does.
        slow = better & (gain < tolerance * part) & (length == 1.0)
        since = tf.where(take & ~(gain < tolerance * part), step, since)
        idle = (step - since >= IDLE) | ~better & (-0.5 * promised < tolerance * now.part)
        # Secants across a kink may promise and find nothing: the search begins anew with the metric alone.
        settled = (slow | idle) & ~first & ~done
        since = tf.where(settled, step, since)
        secants = tf.where((settled | done)[:, None], tf.zeros_like(secants), secants)
        again = mark - now.energy < AGAIN * tolerance * now.part
        mark = tf.where(settled, now.energy, mark)
        # A first energy that is no number, or one that no shape of the curve would change, leaves nothing to do.
        ended = settled & (alone | again) | first & ~(tf.math.is_finite(energy) & (part > 0))
        looks = tf.reduce_any(step == tf.constant(refresh))
        model = tf.cond(looks, lambda: _Model(*_invert(hessian(now.weights), ridge)), lambda: model)
        usable = model.usable & tf.reduce_all(tf.math.is_finite(now.gradient), axis=1)
        fresh = take | settled
        move = tf.where(fresh[:, None], _move(now.gradient, model, secants, usable & ~done), move)
        alone = tf.where(fresh, tf.reduce_all(secants == 0.0, axis=(0, 1, 3)), alone)
        length = tf.where(fresh, tf.ones_like(cut), cut)
        # Where the metric alone promises nothing the curve is there; rounding would refuse the step anyway.
        promise = -0.5 * tf.reduce_sum(now.gradient * move, axis=-1)
        there = ~(done | ended) & usable & fresh & alone & (promise < tolerance * now.part)
        taken = tf.where(done, taken, step)
        converged |= (ended & ~done & tf.math.is_finite(now.energy)) | there
        done |= ended | there | ~usable
        trial = now.weights + tf.reshape(tf.where(done[:, None], blank, length[:, None] * move), shape)
        trace = trace.write(step, now.energy)
        return [_Search(step=step + 1, trial=trial, now=now, model=model, secants=secants, move=move, alone=alone,
                        length=length, mark=mark, since=since, done=done, converged=converged, taken=taken,
                        trace=trace)]  # fmt: skip

    none, blank = tf.zeros(shape[:1], tf.int32), tf.zeros((shape[0], size), dtype)
    infinite, no = tf.fill(shape[:1], tf.constant(math.inf, dtype)), none > 0
    search = _Search(
        step=tf.constant(0), trial=start, now=_Place(start, infinite, infinite, blank),
        model=_Model(blank, tf.zeros((shape[0], size, size), dtype), no),
        secants=tf.zeros((MEMORY, 2, shape[0], size), dtype), move=blank, alone=no, length=tf.ones(shape[:1], dtype),
        mark=infinite, since=none, done=no, converged=no, taken=none,
        trace=tf.TensorArray(dtype, steps + 1, element_shape=(start.shape[0],)),
    )  # fmt: skip
    [found] = tf.while_loop(
        lambda search: (search.step <= steps) & ~tf.reduce_all(search.done), body, [search], parallel_iterations=1)
    trace = filled(found.trace.stack(), found.step)
    return Found(found.now.weights, found.now.energy, found.taken, found.converged, trace)


class _Place(NamedTuple):
    """Where the search stands: weights (B, m, d), energy and its movable part (B,), gradient (B, m d)."""

    weights: tf.Tensor
    energy: tf.Tensor
    part: tf.Tensor
    gradient: tf.Tensor


class _Model(NamedTuple):
    """H^-1 as R M R: the diagonal of R, (B, m d), M, (B, m d, m d), and whether these are numbers, (B,)."""

    root: tf.Tensor
    inverse: tf.Tensor
    usable: tf.Tensor


class _Search(NamedTuple):
    """The state of the search, for B curves.

    step: evaluations after the first. trial (B, m, d): the weights that are tried next. now: the best so far. model,
    secants (K, 2, B, m d): H, and what L-BFGS adds to it. move (B, m d), length (B,): the step, and the share of it
    that is tried. alone (B,): whether the move is by H without secants. mark (B,): the energy at which the search
    began anew. since (B,): the step of the last real gain. done, converged, taken (B,): whether a curve has ended,
    how, and when. trace: the energies after each step.
    """

    step: tf.Tensor
    trial: tf.Tensor
    now: _Place
    model: _Model
    secants: tf.Tensor
    move: tf.Tensor
    alone: tf.Tensor
    length: tf.Tensor
    mark: tf.Tensor
    since: tf.Tensor
    done: tf.Tensor
    converged: tf.Tensor
    taken: tf.Tensor
    trace: tf.TensorArray


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


def _invert(metric, ridge):
    """Returns the parts of a `_Model` of H (B, n, n), with a ridge."""
    diagonal = tf.linalg.diag_part(metric)
    scale = tf.maximum(diagonal, 1e-6 * tf.reduce_max(diagonal, axis=-1, keepdims=True)) + 1e-30
    # Scaled to a unit diagonal before the ridge is added, so that float32 is enough.
    root = tf.math.rsqrt(scale)
    scaled = metric * root[:, :, None] * root[:, None, :]
    scaled = tf.linalg.set_diag(scaled, tf.linalg.diag_part(scaled) + ridge)
    scaled, usable = cholesky.finite_or_identity(scaled)
    # With the inverse a step is a product; a solution with the factor, one column at a time, took longer than decoding.
    eye = tf.eye(scaled.shape[-1], batch_shape=tf.shape(scaled)[:1], dtype=scaled.dtype)
    inverse = tf.linalg.cholesky_solve(cholesky.guarded(scaled)[0], eye)
    inverse = 0.5 * (inverse + tf.linalg.matrix_transpose(inverse))
    return tf.where(usable[:, None], root, tf.zeros_like(root)), inverse, usable


def _remember(secants, step, change):
    """Returns the secants (K, 2, B, n) of L-BFGS, with the newest last: a step and the gradient's change, if usable."""
    inner = tf.reduce_sum(step * change, axis=-1)
    usable = inner > LEAST_COSINE * tf.norm(step, axis=-1) * tf.norm(change, axis=-1)
    usable &= tf.math.is_finite(inner)
    return tf.where(usable[:, None], tf.concat([secants[1:], tf.stack([step, change])[None]], axis=0), secants)


def _cut(length, promised, risen):
    """Returns the next length to try (B,): the lowest point of the parabola through what is known, within bounds."""
    lowest = -0.5 * promised * tf.square(length) / tf.maximum(risen - promised * length, 1e-30)
    cut = tf.where(tf.math.is_finite(risen), lowest, tf.zeros_like(lowest))
    return tf.clip_by_value(cut, LEAST_CUT * length, MOST_CUT * length)


def _move(gradient, model, secants, moves):
    """Returns -B^-1 g for the matrix B of L-BFGS that begins with H; 0 for curves that do not move."""
    rest = tf.where(moves[:, None], gradient, tf.zeros_like(gradient))
    products = tf.reduce_sum(secants[:, 0] * secants[:, 1], axis=-1)

    # Loops, since XLA took longer to compile ten secants side by side than all else in the search.
    def down(number, rest, shares):
        step, change = secants[number, 0], secants[number, 1]
        share = tf.math.divide_no_nan(tf.reduce_sum(step * rest, axis=-1), products[number])
        return number - 1, rest - share[:, None] * change, shares.write(number, share)

    def up(number, move):
        step, change = secants[number, 0], secants[number, 1]
        back = tf.math.divide_no_nan(tf.reduce_sum(change * move, axis=-1), products[number])
        return number + 1, move + (found[number] - back)[:, None] * step

    shares = tf.TensorArray(gradient.dtype, MEMORY, element_shape=(gradient.shape[0],))
    _, rest, shares = tf.while_loop(lambda number, *_: number >= 0, down, (MEMORY - 1, rest, shares))
    found = shares.stack()
    move = model.root * tf.linalg.matvec(model.inverse, model.root * rest)
    return -tf.while_loop(lambda number, *_: number < MEMORY, up, (0, move))[1]
