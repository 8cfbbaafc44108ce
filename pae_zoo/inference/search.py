"""Maximum a posteriori: Adam with tempering from many starts, then damped Gauss-Newton steps, all at once."""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from pae_zoo.core import cholesky
from pae_zoo.core.errors import UserError
from pae_zoo.inference.derivatives import value_and_gradient
from pae_zoo.inference.problem import Problem

# Runs are worked on in so many parts, of at least so many runs each.
PARTS, LEAST_PART = 8, 16


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How the maxima are searched.

    Args:
      learning_rates, steps: the phases of Adam, the number of steps in each at most.
      tempering: weight of the log likelihood at the beginning and the end of the first phase; 1 afterwards.
      patience: a run leaves Adam when so many steps at full weight have brought it less than `gain` nats.
      newton_steps: damped Gauss-Newton steps at most.
      tolerance: a run has converged when the quadratic model promises less than so many nats.
      idle_steps: a run stops, too, after so many Gauss-Newton steps in turn that brought less than a thousandth nat:
        the maximum may lie on the kink of a relu, where the promise does not vanish.

    Raises UserError for phases that do not pair or are negative.
    """

    learning_rates: tuple[float, ...] = (1e-1, 1e-2)
    steps: tuple[int, ...] = (100, 50)
    tempering: tuple[float, float] = (0.2, 0.5)
    patience: int = 25
    gain: float = 1.0
    newton_steps: int = 30
    tolerance: float = 1e-4
    idle_steps: int = 4

    def __post_init__(self):
        if len(self.learning_rates) != len(self.steps) or min((*self.steps, self.newton_steps)) < 0:
            raise UserError(f"A schedule needs as many learning rates as numbers of steps, none negative; received "
                            f"learning_rates={self.learning_rates}, steps={self.steps}, "
                            f"newton_steps={self.newton_steps}.")


class Runs(NamedTuple):
    """Where the runs ended; S starts for each of `batch` data.

    Attributes:
      u: (S, batch, K).
      log_joint: (S, batch), nats.
      decrement: (S, batch), what a further Gauss-Newton step promised, nats.
      converged: (S, batch), bool: that it was below the tolerance.
      adam_steps, newton_steps: scalars, how many steps were taken until the last run stopped.
    """

    u: tf.Tensor
    log_joint: tf.Tensor
    decrement: tf.Tensor
    converged: tf.Tensor
    adam_steps: tf.Tensor
    newton_steps: tf.Tensor


def find_modes(problem: Problem, starts: tf.Tensor, schedule: Schedule = Schedule()) -> Runs:
    """Climbs log p(u, y_seen) from starts (S, batch, K), every run on its own; one program for all of them.

    Adam's first phase sees the log likelihood at a weight that rises from 0.2 to 0.5, as in the notebooks of Boehm
    & Seljak, arXiv 2006.05479. A run never ends below its start. A run that has converged stands still, so that a
    result does not depend on the other data of the batch.
    """
    u, adam_steps = _adam(problem, starts, schedule)
    # One evaluation of both: the fewer copies of the model in the program, the sooner it is compiled.
    both = tf.stack([starts, u])
    values, gradients = value_and_gradient(problem.log_joint, both)
    better = values[1] > values[0]  # False where a run diverged to NaN
    u, gradient = (tf.where(better[..., None], pair[1], pair[0]) for pair in (both, gradients))
    value = tf.where(better, values[1], values[0])
    return _newton(problem, u, value, gradient, schedule)._replace(adam_steps=adam_steps)


def _adam(problem: Problem, u: tf.Tensor, schedule: Schedule) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns u after the phases of Adam, and the number of steps taken."""
    total, first = sum(schedule.steps), schedule.steps[0] if schedule.steps else 0
    if not total:
        return u, tf.constant(0)
    low, high = schedule.tempering
    rates = [rate for rate, count in zip(schedule.learning_rates, schedule.steps) for _ in range(count)]
    weights = [low + (high - low) * i / max(first - 1, 1) if i < first else 1.0 for i in range(total)]
    rates, weights = tf.constant(rates, u.dtype), tf.constant(weights, u.dtype)

    def body(t, u, m, v, reference, active):
        weight = weights[t]
        value, gradient = value_and_gradient(
            lambda points: problem.log_prior(points) + weight * problem.log_likelihood(points), u
        )
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        power = tf.cast(t + 1, u.dtype)
        step = rates[t] * (m / (1 - 0.9**power)) / (tf.sqrt(v / (1 - 0.999**power)) + 1e-8)
        u = tf.where(active[..., None], u + step, u)
        since = t - first
        check = (since >= 0) & (since % schedule.patience == 0)
        stuck = (since > 0) & (value - reference < schedule.gain)
        active = tf.where(check, active & ~stuck, active)
        return t + 1, u, m, v, tf.where(check, value, reference), active

    shape = tf.shape(u)[:-1]
    zeros = tf.zeros_like(u)
    found = tf.while_loop(
        lambda t, u, m, v, reference, active: (t < total) & tf.reduce_any(active), body,
        (tf.constant(0), u, zeros, zeros, tf.zeros(shape, u.dtype), tf.ones(shape, tf.bool)),
    )
    return found[1], found[0]


def _newton(problem: Problem, u: tf.Tensor, value: tf.Tensor, gradient: tf.Tensor, schedule: Schedule) -> Runs:
    """Levenberg-Marquardt: solves (G + damping diag G) step = gradient, and takes the steps that climb."""
    least = tf.constant(1e-5 if u.dtype == tf.float32 else 1e-12, u.dtype)

    def body(t, u, value, gradient, damping, decrement, idle, active):
        matrix, scale = normalised(_curvature(problem, u, active))
        scaled = gradient * scale
        ascent = 0.5 * tf.reduce_sum(scaled * _solve(matrix, scaled, least), axis=-1)
        candidate = u + scale * _solve(matrix, scaled, damping)
        new_value, new_gradient = value_and_gradient(problem.log_joint, candidate)
        climbs = active & (new_value >= value)
        idle = tf.where(climbs & (new_value - value >= 1e-3), 0, idle + 1)
        u, gradient = tf.where(climbs[..., None], candidate, u), tf.where(climbs[..., None], new_gradient, gradient)
        value = tf.where(climbs, new_value, value)
        decrement = tf.where(active, ascent, decrement)
        damping = tf.where(climbs, tf.maximum(0.2 * damping, least), 5.0 * damping)
        active = active & (ascent > schedule.tolerance) & (idle < schedule.idle_steps)
        return t + 1, u, value, gradient, damping, decrement, idle, active

    shape = tf.shape(value)
    start = (tf.constant(0), u, value, gradient, tf.fill(shape, tf.constant(1e-2, u.dtype)),
             tf.fill(shape, tf.constant(float("inf"), u.dtype)), tf.zeros(shape, tf.int32), tf.ones(shape, tf.bool))
    t, u, value, _, _, decrement, *_ = tf.while_loop(
        lambda t, *state: (t < schedule.newton_steps) & tf.reduce_any(state[-1]), body, start
    )
    return Runs(u, value, decrement, decrement <= schedule.tolerance, tf.constant(0), t)


def _curvature(problem: Problem, u: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
    """Returns Gauss-Newton matrices (S, batch, K, K) at u (S, batch, K), zeros where few runs are active (S, batch).

    After some steps most runs have converged: the active ones are brought together, and parts without any are left out.
    """
    starts, batch, size = u.shape
    if batch is None or starts * batch < PARTS * LEAST_PART:
        return problem.gauss_newton(u)
    rows = starts * batch
    part = -(-rows // PARTS)
    order = tf.argsort(tf.cast(~tf.reshape(active, (-1,)), tf.int32), stable=True)
    chosen = tf.reshape(tf.gather(order, tf.minimum(tf.range(PARTS * part), rows - 1)), (PARTS, part))
    flat, works = tf.reshape(u, (rows, size)), tf.gather(tf.reshape(active, (-1,)), chosen)

    def some(inputs):
        index, busy = inputs
        return tf.cond(
            tf.reduce_any(busy), lambda: problem.of_data(index % batch).gauss_newton(tf.gather(flat, index)),
            lambda: tf.zeros((part, size, size), u.dtype))

    found = tf.reshape(tf.map_fn(some, (chosen, works), fn_output_signature=u.dtype), (-1, size, size))
    return tf.reshape(tf.gather(found, tf.argsort(order)), (starts, batch, size, size))


def normalised(matrix: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (D^-1/2 M D^-1/2, the diagonal of D^-1/2), with D the diagonal of M (..., K, K).

    Units of u that differ by orders of magnitude leave no trace in the first. A diagonal that is not positive, and
    a matrix that is not finite, count as 1.
    """
    matrix, _ = cholesky.finite_or_identity(matrix)
    diagonal = tf.linalg.diag_part(matrix)
    scale = tf.math.rsqrt(tf.where(diagonal > 0, diagonal, tf.ones_like(diagonal)))
    return matrix * scale[..., None] * scale[..., None, :], scale


def _solve(matrix: tf.Tensor, vector: tf.Tensor, damping: tf.Tensor) -> tf.Tensor:
    """Returns (M + damping I)^-1 v for a normalised M (..., K, K), v (..., K) and damping (...)."""
    vector = tf.where(tf.math.is_finite(vector), vector, tf.zeros_like(vector))
    damped = matrix + damping[..., None, None] * tf.eye(matrix.shape[-1], dtype=matrix.dtype)
    return cholesky.solve(cholesky.guarded(damped)[0], vector)
