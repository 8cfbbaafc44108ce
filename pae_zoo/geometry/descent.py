"""Minimisation of many curves' energies at once by their gradients: Adam, and L-BFGS to finish."""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

# value(weights (B, m, d)) -> energies (B,), and the part of each that the shape of the curve decides, (B,)
Energy = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

FIRST_MOMENT, SECOND_MOMENT, EPSILON = 0.9, 0.999, 1e-12


class Found(NamedTuple):
    """What a minimisation of B curves gives: the best of each curve, whatever came after it.

    weights (B, m, d), energy (B,), steps (B,) taken until each curve stopped, converged (B,), trace (steps + 1, B).
    """

    weights: tf.Tensor
    energy: tf.Tensor
    steps: tf.Tensor
    converged: tf.Tensor
    trace: tf.Tensor


def adam(
    objective: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
    start: tf.Tensor,
    rates: tf.Tensor,
    steps: int,
    tolerance: float,
    patience: int,
    cosine: bool = True,
) -> Found:
    """Minimises the energies of B curves by Adam (Kingma & Ba, arXiv 1412.6980), each as if it were alone.

    Args:
      objective: (weights (B, m, d), step) -> (what is differentiated (B,), the energy that is kept count of (B,), the
        movable part of that (B,)).
      start: the first weights (B, m, d).
      rates: learning rates (B,); with `cosine` they fall to 0 over `steps`.
      tolerance, patience: a curve has converged when its best energy fell by less than the share `tolerance` of the
        movable part over `patience` steps; it then stays as it is. Those that go on do so to the last step. A curve
        whose gradient is no number has not converged.
    """

    def evaluate(weights, step):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss, value, part = objective(weights, step)
        gradient = tape.gradient(loss, weights)
        sound = tf.reduce_all(tf.math.is_finite(gradient), axis=(1, 2))
        return value, tf.stop_gradient(part), tf.where(sound[:, None, None], gradient, 0.0), sound

    def body(search):
        (step, weights, first, second, best, scale, best_weights, mark, mark_step, done, taken, finite, smooth,
         trace) = search  # fmt: skip
        value, part, gradient, sound = evaluate(weights, step)
        finite = tf.where(step == 0, tf.math.is_finite(value), finite)
        smooth = tf.where(done, smooth, sound)
        best, scale = tf.where(step == 0, value, best), tf.where(step == 0, part, scale)
        done |= ~finite
        better = (value < best) & ~done
        best, scale = tf.where(better, value, best), tf.where(better, part, scale)
        best_weights = tf.where(better[:, None, None], weights, best_weights)
        # Progress is counted from the last step that brought enough of it.
        moved = best < mark - tolerance * scale
        mark, mark_step = tf.where(moved, best, mark), tf.where(moved, step, mark_step)
        taken = tf.where(done, taken, step)
        done |= step - mark_step >= patience
        first = FIRST_MOMENT * first + (1 - FIRST_MOMENT) * gradient
        second = SECOND_MOMENT * second + (1 - SECOND_MOMENT) * tf.square(gradient)
        time = tf.cast(step + 1, weights.dtype)
        unbiased = tf.sqrt(1 - SECOND_MOMENT**time) / (1 - FIRST_MOMENT**time)
        decay = 0.5 * (1.0 + tf.cos(math.pi * tf.cast(step, weights.dtype) / steps)) if cosine else 1.0
        moves = (rates * decay * unbiased)[:, None, None] * first / (tf.sqrt(second) + EPSILON)
        weights = tf.where(done[:, None, None], weights, weights - moves)
        trace = trace.write(step, best)
        return [_Descent(step=step + 1, weights=weights, first=first, second=second, best=best, scale=scale,
                         best_weights=best_weights, mark=mark, mark_step=mark_step, done=done, taken=taken,
                         finite=finite, smooth=smooth, trace=trace)]  # fmt: skip

    zeros, none = tf.zeros_like(start), tf.zeros(tf.shape(start)[:1], tf.int32)
    energy = tf.fill(tf.shape(start)[:1], tf.constant(math.inf, start.dtype))
    trace = tf.TensorArray(start.dtype, steps + 1, element_shape=(start.shape[0],))
    no = none > 0
    search = _Descent(
        step=tf.constant(0), weights=start, first=zeros, second=zeros, best=energy, scale=energy, best_weights=start,
        mark=energy, mark_step=none, done=no, taken=none, finite=no, smooth=no, trace=trace)  # fmt: skip
    [end] = tf.while_loop(
        lambda search: (search.step <= steps) & ~tf.reduce_all(search.done), body, [search], parallel_iterations=1)
    converged = end.done & end.finite & end.smooth
    return Found(end.best_weights, end.best, end.taken, converged, filled(end.trace.stack(), end.step))


class _Descent(NamedTuple):
    """The state of Adam, for B curves.

    weights, first, second (B, m, d): where it stands, and its moments. best, scale (B,), best_weights (B, m, d): the
    lowest energy, its movable part, and where it is. mark, mark_step (B,): energy and step of the last real gain.
    done, taken, finite, smooth (B,): whether a curve has ended, when, and whether its energies and gradients were
    numbers. trace: the lowest energies after each step.
    """

    step: tf.Tensor
    weights: tf.Tensor
    first: tf.Tensor
    second: tf.Tensor
    best: tf.Tensor
    scale: tf.Tensor
    best_weights: tf.Tensor
    mark: tf.Tensor
    mark_step: tf.Tensor
    done: tf.Tensor
    taken: tf.Tensor
    finite: tf.Tensor
    smooth: tf.Tensor
    trace: tf.TensorArray


def lbfgs(value: Energy, start: tf.Tensor, energy: tf.Tensor, steps: int, tolerance: float) -> Found:
    """Finishes B curves by L-BFGS with a line search for each (Nocedal & Wright, 2006, algorithm 7.5), from TFP.

    A curve whose energy it does not lower below `energy` (B,) keeps its weights `start` (B, m, d). TFP counts steps for
    all curves together: `steps` is that of the slowest.
    """
    shape = tf.shape(start)
    flat = tf.reshape(start, (shape[0], start.shape[1] * start.shape[2]))

    def value_and_gradient(weights):
        return tfp.math.value_and_gradient(lambda w: value(tf.reshape(w, shape))[0], weights)

    found = tfp.optimizer.lbfgs_minimize(
        value_and_gradient, initial_position=flat, max_iterations=steps, tolerance=0.0,
        f_relative_tolerance=tolerance, max_line_search_iterations=20)  # fmt: skip
    better = tf.math.is_finite(found.objective_value) & (found.objective_value < energy)
    weights = tf.where(better[:, None, None], tf.reshape(found.position, shape), start)
    best = tf.where(better, found.objective_value, energy)
    taken = tf.fill([shape[0]], found.num_iterations)
    return Found(weights, best, taken, found.converged & tf.math.is_finite(best), tf.stack([energy, best]))


def filled(trace: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    """Returns a trace (K, B) whose rows from `steps` on, which were never written, repeat the last one."""
    rows = tf.minimum(tf.range(tf.shape(trace)[0]), steps - 1)
    return tf.gather(trace, rows)
