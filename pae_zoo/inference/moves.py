"""Moves draws of an approximate posterior until they are draws of the posterior: Hamiltonian trajectories and jumps."""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.inference.derivatives import value_and_gradient
from pae_zoo.inference.laplace import Mixture
from pae_zoo.inference.problem import Problem


@dataclasses.dataclass(frozen=True)
class Moves:
    """How draws are moved.

    Args:
      rounds: of jumps, then trajectories.
      jumps: proposals of each round from the mixture, which lead from mode to mode.
      steps: trajectories of each round, which find the shape of a mode.
      leapfrogs: steps of each trajectory, a gradient each; 1 makes Langevin steps.
      step_size: to start with, in posterior standard deviations; adapted datum by datum over all draws.
      acceptance: rate that it is adapted to, the best one of trajectories in many dimensions (Beskos et al. 2013).
      kept: states of each chain that are kept, evenly from the second half of the rounds: few chains of many rounds
        forget their start, where as many draws of one state each would not, for the same work.

    Raises UserError for counts below 1.
    """

    rounds: int = 12
    jumps: int = 2
    steps: int = 2
    leapfrogs: int = 4
    step_size: float = 0.5
    acceptance: float = 0.65
    kept: int = 4

    def __post_init__(self):
        if min(self.rounds, self.jumps, self.steps, self.leapfrogs, self.kept) < 1:
            raise UserError(f"Moves need at least 1 round, jump, step, leapfrog and state kept; received {self}.")


class Moved(NamedTuple):
    """What became of S draws of each datum.

    Attributes:
      draws: (kept S, batch, K), the last states last; of fewer rounds than states that are kept, one of each round.
      log_joint: (S, batch), nats, of the last S draws.
      acceptance: (batch,), share of the trajectories of the last round that were taken.
      jumps: (batch,), share of the mixture's proposals that were taken, over all rounds.
      step_size: (batch,), in the end.
    """

    draws: tf.Tensor
    log_joint: tf.Tensor
    acceptance: tf.Tensor
    jumps: tf.Tensor
    step_size: tf.Tensor


class _State(NamedTuple):
    u: tf.Tensor
    value: tf.Tensor
    gradient: tf.Tensor
    step_size: tf.Tensor
    acceptance: tf.Tensor
    jumps: tf.Tensor
    proposed: tf.Tensor  # log density of the mixture at u
    draws: tf.Tensor


def move(problem: Problem, draws: tf.Tensor, mixture: Mixture, seed: seeds.Seed,
         settings: Moves = Moves()) -> Moved:
    """Returns states of S chains that start at `draws` (S, batch, K), by moves that leave the posterior as it is.

    A jump proposes a draw of the mixture, whatever the state; a step follows Hamilton's equations for a while, in units
    of the covariance of the best mode (Neal, arXiv 1206.1901). Both are accepted by Metropolis and Hastings, so that a
    mixture that is too narrow or too wide costs time alone. The data of a batch share their noise and nothing else.
    """
    num, size = draws.shape[0], draws.shape[-1]
    dtype, factor = draws.dtype, mixture.modes.factor[0]
    kept = min(settings.kept, settings.rounds)
    apart = max(settings.rounds // 2 // kept, 1)

    def jump(state: _State, seed) -> _State:
        proposal_seed, level_seed = seeds.split(seed, 2)
        proposal = mixture.sample(num, proposal_seed)
        value, proposed = problem.log_joint(proposal), mixture.log_prob(proposal)
        taken = _accepted(value - state.value + state.proposed - proposed, level_seed)
        return state._replace(
            u=tf.where(taken[..., None], proposal, state.u), value=tf.where(taken, value, state.value),
            proposed=tf.where(taken, proposed, state.proposed),
            jumps=state.jumps + tf.reduce_mean(tf.cast(taken, dtype), axis=0))  # fmt: skip

    def step(number, state: _State, seed) -> _State:
        noise_seed, length_seed, level_seed = seeds.split(seed, 3)
        jitter = seeds.uniform((num, 1), length_seed, dtype)
        length = (state.step_size * (0.7 + 0.6 * jitter))[..., None]  # no two trajectories are of one period
        first = tf.broadcast_to(seeds.normal((num, 1, size), noise_seed, dtype), tf.shape(draws))

        def kick(momentum, gradient, share):
            return momentum + share * length * tf.einsum("bji,sbj->sbi", factor, gradient)

        def leap(i, u, value, gradient, momentum):
            u = u + length * tf.einsum("bij,sbj->sbi", factor, momentum)
            value, gradient = value_and_gradient(problem.log_joint, u)
            return i + 1, u, value, gradient, kick(momentum, gradient, 1.0)

        start = (tf.constant(0), state.u, state.value, state.gradient, kick(first, state.gradient, 0.5))
        found = tf.while_loop(lambda i, *_: i < settings.leapfrogs, leap, start)
        _, u, value, gradient, momentum = found
        momentum = kick(momentum, gradient, -0.5)
        kinetic = 0.5 * tf.reduce_sum(momentum**2 - first**2, axis=-1)
        log_ratio = value - state.value - kinetic
        taken = _accepted(log_ratio, level_seed)
        rate = tf.reduce_mean(tf.exp(tf.minimum(_finite(log_ratio), 0.0)), axis=0)
        # All draws of a datum say how long its steps may be; what the first say is forgotten (Robbins & Monro 1951).
        gain = 2.0 * tf.cast(number + 1, dtype) ** -0.6
        longer = tf.exp(tf.clip_by_value(gain * (rate - settings.acceptance), -0.7, 0.7))
        return state._replace(
            u=tf.where(taken[..., None], u, state.u), value=tf.where(taken, value, state.value),
            gradient=tf.where(taken[..., None], gradient, state.gradient), acceptance=state.acceptance + rate,
            step_size=tf.clip_by_value(state.step_size * longer, 1e-4, 2.0))  # fmt: skip

    def one_round(number, state: _State):
        jump_seed, step_seed = seeds.split(seeds.fold_in(seed, number), 2)
        state = state._replace(proposed=mixture.log_prob(state.u))
        _, state = tf.while_loop(
            lambda i, _: i < settings.jumps, lambda i, state: (i + 1, jump(state, seeds.fold_in(jump_seed, i))),
            (tf.constant(0), state))
        value, gradient = value_and_gradient(problem.log_joint, state.u)
        state = state._replace(value=value, gradient=gradient, acceptance=tf.zeros_like(state.acceptance))
        first = number * settings.steps
        _, state = tf.while_loop(
            lambda i, _: i < settings.steps,
            lambda i, state: (i + 1, step(first + i, state, seeds.fold_in(step_seed, i))), (tf.constant(0), state))
        # Each place takes the last of the rounds that fall to it; the first one all before, too.
        place = tf.maximum((number - (settings.rounds - kept * apart)) // apart, 0)
        chosen = tf.reshape(tf.range(kept) == place, (-1, 1, 1, 1))
        return number + 1, state._replace(draws=tf.where(chosen, state.u, state.draws))

    none = tf.zeros(draws.shape[1:2], dtype)
    start = _State(draws, problem.log_joint(draws), tf.zeros_like(draws), none + settings.step_size, none, none,
                   tf.zeros(draws.shape[:2], dtype), tf.repeat(draws[None], kept, axis=0))
    _, state = tf.while_loop(lambda number, _: number < settings.rounds, one_round, (tf.constant(0), start))
    states = tf.reshape(state.draws, (kept * num, *draws.shape[1:]))
    return Moved(states, state.value, state.acceptance / settings.steps,
                 state.jumps / (settings.jumps * settings.rounds), state.step_size)  # fmt: skip


def _finite(log_ratio: tf.Tensor) -> tf.Tensor:
    """Returns log ratios with -1e30 for what leads out of the numbers."""
    return tf.where(tf.math.is_nan(log_ratio), tf.constant(-1e30, log_ratio.dtype), log_ratio)


def _accepted(log_ratio: tf.Tensor, seed) -> tf.Tensor:
    """Returns which of the proposals (S, batch) are taken; the data of a batch share the levels."""
    level = seeds.uniform((log_ratio.shape[0], 1), seed, log_ratio.dtype)
    return tf.math.log(level) < _finite(log_ratio)
