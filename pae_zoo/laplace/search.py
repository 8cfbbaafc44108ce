"""The search for the mode of p(z|y) by damped Newton steps on the linearised decoder."""

import dataclasses
from typing import Callable, NamedTuple, Optional

import tensorflow as tf

from pae_zoo.core import cholesky
from pae_zoo.core.errors import UserError
from pae_zoo.laplace import algebra
from pae_zoo.laplace.systems import System

SCHEDULES = ("harmonic", "constant", "line_search", "levenberg", "backtracking")
SOLVERS = ("newton", "cg", "chord")
# Step lengths that a line search tries, in units of its largest.
LINE_SEARCH_STEPS = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.015625)
# Damping of Levenberg's steps in units of the mean diagonal: at first, and how it falls and rises.
FIRST_DAMPING, DAMPING_FALLS, DAMPING_RISES = 1e-2, 0.3, 4.0


@dataclasses.dataclass(frozen=True)
class Search:
    """How the mode is searched from the encoder's mean.

        mu_{t+1} = mu_t + a_t Lambda_t^-1 [J_t^T s_t - mu_t],    t = 0 .. num_updates - 1

    Args:
      num_updates: T; 0 stays at the start.
      update_lr: a in (0, 1]: a_t = a / (t + 1) ("harmonic", as published) or a ("constant"). "line_search" takes of
        a, a/2, .. a/64 and 0 the step of the greatest log p(y, z), "levenberg" adds a damping to the diagonal that
        falls after a step that does not lower log p(y, z) and rises after one that would, which is not taken.
        "backtracking" takes the longest of the line search's steps that does not lower log p(y, z).
      schedule: "harmonic", "constant", "line_search", "levenberg" or "backtracking".
      solver: "newton" factors every Lambda_t; "cg" takes `iterations` conjugate-gradient steps instead, from the second
        update on preconditioned by the factor of the first (or never factors, if not `precondition`); "chord" factors
        Lambda_0 alone and takes it for every Lambda_t, so that an update after the first costs a gradient.
      iterations: conjugate-gradient steps in an update.
      precondition: whether "cg" may form and factor Lambda_0.
      double: whether factorisations and solves take place in float64.

    Raises UserError for a value out of its range.
    """

    num_updates: int = 4
    update_lr: float = 0.5
    schedule: str = "harmonic"
    solver: str = "newton"
    iterations: int = 3
    precondition: bool = True
    double: bool = False

    def __post_init__(self):
        if self.num_updates < 0:
            raise UserError(f"num_updates={self.num_updates} must be 0 or more.")
        if not 0 < self.update_lr <= 1:
            raise UserError(f"update_lr={self.update_lr} must lie in (0, 1].")
        if self.schedule not in SCHEDULES or self.solver not in SOLVERS:
            raise UserError(f"The schedule is one of {', '.join(SCHEDULES)}, the solver one of {', '.join(SOLVERS)}; "
                            f"received {self.schedule!r} and {self.solver!r}.")
        if self.iterations < 1:
            raise UserError(f"Conjugate gradients need 1 iteration or more; received {self.iterations}.")

        if self.solver == "chord" and self.schedule == "levenberg":
            raise UserError("The solver 'chord' keeps one factor, whose damping cannot change; take the schedule "
                            "'backtracking' or 'line_search'.")

    def step(self, gram: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        """Returns the full Newton step (I + gram)^-1 gradient, (batch, K)."""
        return self.solve(gram + tf.eye(gram.shape[-1], dtype=gram.dtype), gradient)[0]

    def solve(self, precision: tf.Tensor, gradient: tf.Tensor) -> tuple[tf.Tensor, algebra.Factor]:
        """Returns precision^-1 gradient (batch, K), in the dtype of `gradient`, and the factor."""
        precision = tf.cast(precision, tf.float64) if self.double else precision
        step, factor = algebra.solve(precision, tf.cast(gradient, precision.dtype))
        return tf.cast(step, gradient.dtype), factor


class Found(NamedTuple):
    """What a search went through.

    Args:
      path: mu_0 .. mu_T, each (batch, K).
      kept: the derivative of mu_T by mu_0 where the decoder is affine, prod(1 - a_t), (batch,).
      jitter: the largest jitter that a factorisation took, in units of the mean diagonal, (batch,).
      rise: the gradient of log p(y, z) at mu_0, (batch, K); None where there was no update.
      factor: the Cholesky factor of Lambda_0 that "cg" and "chord" kept, a constant (batch, K, K); else None.
    """

    path: list[tf.Tensor]
    kept: tf.Tensor
    jitter: tf.Tensor
    rise: Optional[tf.Tensor] = None
    factor: Optional[tf.Tensor] = None


def run(search: Search, system: System, start: tf.Tensor) -> Found:
    """Searches the mode of p(z|y) from `start` (batch, K), differentiably; see `Search`."""
    return _Runner(search, system, start).found()


class _Runner:
    def __init__(self, search: Search, system: System, start: tf.Tensor):
        self.search, self.system = search, system
        self.path = [start]
        self.kept = tf.ones_like(start[:, 0])
        self.jitter = tf.zeros_like(start[:, 0])
        self.damping = FIRST_DAMPING * tf.ones_like(start[:, 0])
        self.factor: Optional[tf.Tensor] = None
        self.rise: Optional[tf.Tensor] = None

    def found(self) -> Found:
        for t in range(self.search.num_updates):
            mu = self.path[-1]
            self.path.append(self._move(mu, self._step(mu, first=t == 0), t))
        return Found(self.path, self.kept, self.jitter, self.rise, self.factor)

    def _step(self, mu: tf.Tensor, first: bool) -> tf.Tensor:
        if self.search.solver == "cg":
            return self._cg(mu, first)
        return self._newton(mu) if first or self.search.solver == "newton" else self._chord(mu)

    def _newton(self, mu: tf.Tensor) -> tf.Tensor:
        gram, gradient = self.system.at(mu)
        self._note(gradient)
        return self._solve(self._precision(gram), gradient)

    def _chord(self, mu: tf.Tensor) -> tf.Tensor:
        factor = self.factor
        assert factor is not None  # the first step's
        gradient = tf.cast(self.system.products(mu)[1], factor.dtype)
        return tf.cast(cholesky.solve(factor, gradient), mu.dtype)

    def _cg(self, mu: tf.Tensor, first: bool) -> tf.Tensor:
        if first and self.search.precondition:
            return self._newton(mu)
        undamped, gradient = self.system.products(mu)
        self._note(gradient)
        product: Callable[[tf.Tensor], tf.Tensor] = undamped
        if self.search.schedule == "levenberg":
            # No diagonal is at hand; the curvature along the gradient stands for its mean.
            curvature = tf.reduce_sum(gradient * undamped(gradient), -1) / tf.reduce_sum(gradient**2, -1)
            damping = (self.damping * tf.stop_gradient(curvature))[:, None]

            def damped(v):
                return undamped(v) + damping * v

            product = damped

        factor = self.factor

        def precondition(r):
            return r if factor is None else tf.cast(cholesky.solve(factor, tf.cast(r, factor.dtype)), r.dtype)

        return algebra.conjugate_gradients(product, gradient, self.search.iterations, precondition)

    def _note(self, gradient: tf.Tensor) -> None:
        self.rise = gradient if self.rise is None else self.rise

    def _precision(self, gram: tf.Tensor) -> tf.Tensor:
        precision = gram + tf.eye(gram.shape[-1], dtype=gram.dtype)
        if self.search.schedule == "levenberg":
            scale = tf.stop_gradient(tf.reduce_mean(tf.linalg.diag_part(precision), axis=-1))
            precision += (self.damping * scale)[:, None, None] * tf.eye(gram.shape[-1], dtype=gram.dtype)
        return precision

    def _solve(self, precision: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        step, factor = self.search.solve(precision, gradient)
        self.jitter = tf.maximum(self.jitter, tf.cast(factor.jitter, self.jitter.dtype))
        if self.search.solver != "newton":
            # The preconditioner shapes the path to a solution, not the solution: it needs no gradient.
            self.factor = tf.stop_gradient(factor.lower)
        return step

    def _move(self, mu: tf.Tensor, step: tf.Tensor, t: int) -> tf.Tensor:
        """Returns mu_{t+1} and notes how much of the start it keeps."""
        length = self.search.update_lr / (t + 1) if self.search.schedule == "harmonic" else self.search.update_lr
        if self.search.schedule == "line_search":
            taken = self._best_length(mu, step)
        elif self.search.schedule == "backtracking":
            taken = self._longest_length(mu, step)
        elif self.search.schedule == "levenberg":
            taken = self._accepted_length(mu, step, length)
        else:
            taken = length * tf.ones_like(self.kept)
        self.kept *= 1.0 - taken
        # 0 times a step that is not finite would be no step.
        return mu + tf.where(taken[:, None] > 0, taken[:, None] * step, tf.zeros_like(step))

    def _best_length(self, mu: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Returns for each datum the length of LINE_SEARCH_STEPS with the greatest log p(y, z), or 0; a constant."""
        lengths = tf.constant([0.0, *(self.search.update_lr * part for part in LINE_SEARCH_STEPS)], mu.dtype)
        gains = self._gains(mu, step, lengths[1:])
        best = tf.argmax(tf.concat([tf.zeros_like(gains[:1]), gains], axis=0), axis=0)
        return tf.stop_gradient(tf.gather(lengths, best))

    def _longest_length(self, mu: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Returns for each datum the longest of LINE_SEARCH_STEPS that does not lower log p(y, z), or 0; a constant."""
        lengths = tf.constant([self.search.update_lr * part for part in LINE_SEARCH_STEPS], mu.dtype)
        full = self._gains(mu, step, lengths[:1])

        def shorter():
            falls = tf.concat([full, self._gains(mu, step, lengths[1:])], axis=0) < 0
            first = tf.argmin(tf.cast(falls, tf.int32), axis=0)
            return tf.where(tf.reduce_all(falls, axis=0), tf.zeros_like(full[0]), tf.gather(lengths, first))

        # Most often no datum needs a shorter step, and none is decoded.
        taken = tf.cond(tf.reduce_all(full >= 0), lambda: lengths[0] * tf.ones_like(full[0]), shorter)
        return tf.stop_gradient(taken)

    def _gains(self, mu: tf.Tensor, step: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Returns what steps of some lengths (n,) add to log p(y, z), (n, batch), least where it is not finite."""
        gains = self.system.gain(mu, mu + lengths[:, None, None] * step)
        return tf.where(tf.math.is_finite(gains), gains, tf.constant(mu.dtype.min, mu.dtype))

    def _accepted_length(self, mu: tf.Tensor, step: tf.Tensor, length: float) -> tf.Tensor:
        """Returns `length` where such a step does not lower log p(y, z), else 0, and adapts the damping."""
        good = tf.stop_gradient(self.system.gain(mu, (mu + length * step)[None])[0]) >= 0
        self.damping *= tf.where(good, tf.constant(DAMPING_FALLS, mu.dtype), tf.constant(DAMPING_RISES, mu.dtype))
        return tf.where(good, tf.constant(length, mu.dtype), tf.constant(0.0, mu.dtype))
