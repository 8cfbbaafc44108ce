"""Draws from the posterior by the no-U-turn sampler, several chains for every datum of a batch at once."""

import dataclasses
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.inference.problem import Problem


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Settings of NUTS.

    Args:
      draws: kept from each chain.
      burn_in: steps before them; the step size is adapted over the first 80 % of these.
      step_size: to start with, in units of the whitened space.
      max_tree_depth: 2^depth leapfrog steps at most for one draw.
      acceptance: rate that the step size is adapted to.

    Raises UserError for counts below 1.
    """

    draws: int = 250
    burn_in: int = 150
    step_size: float = 0.3
    max_tree_depth: int = 6
    acceptance: float = 0.8

    def __post_init__(self):
        if min(self.draws, self.burn_in, self.max_tree_depth) < 1:
            raise UserError(f"NUTS needs at least 1 draw, 1 burn-in step and depth 1; received {self}.")


class Chains(NamedTuple):
    """What the sampler found.

    Attributes:
      draws: (draws, chains, batch, K).
      log_joint: (draws, chains, batch), nats.
      r_hat: (batch, K), split R-hat (Gelman & Rubin 1992); near 1 where chains agree.
      effective_samples: (batch, K), over all chains (Geyer's monotone sequence).
      divergences: (batch,), draws whose trajectory left the energy surface.
      acceptance: (batch,), mean acceptance rate.
      step_size: (batch,), adapted, in the whitened space.
    """

    draws: tf.Tensor
    log_joint: tf.Tensor
    r_hat: tf.Tensor
    effective_samples: tf.Tensor
    divergences: tf.Tensor
    acceptance: tf.Tensor
    step_size: tf.Tensor


def sample(problem: Problem, starts: tf.Tensor, mean: tf.Tensor, factor: tf.Tensor, seed: seeds.Seed,
           settings: Sampler = Sampler()) -> Chains:
    """Runs NUTS (Hoffman & Gelman, arXiv 1111.4246) with dual averaging from starts (chains, batch, K).

    The chains move in w with u = mean + A w, A A^T a guess of the covariance such as Laplace's: mean (batch, K) and
    factor (batch, K, K). In w the posterior is about N(0, I), whatever the scales of u. Every datum has a step size
    of its own. TFP's sampler draws by TensorFlow's default algorithm, whose stream is not the same eagerly and under
    XLA: the same seed repeats a run of one kind, not the other's.
    """
    batch = starts.shape[1]

    def to_u(w):
        return mean + tf.einsum("bij,...bj->...bi", factor, w)

    step_size = tf.fill([1, batch, 1], tf.constant(settings.step_size, starts.dtype))
    kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(
        tfp.mcmc.NoUTurnSampler(
            lambda w: problem.log_joint(to_u(w)), step_size=step_size, max_tree_depth=settings.max_tree_depth
        ),
        num_adaptation_steps=max(1, int(0.8 * settings.burn_in)), target_accept_prob=settings.acceptance,
    )
    first = tf.linalg.solve(factor, tf.transpose(starts - mean, (1, 2, 0)))

    def trace(_, results):
        inner = results.inner_results
        return inner.target_log_prob, inner.has_divergence, inner.log_accept_ratio, results.new_step_size

    w, (log_joint, diverged, log_ratio, step_size) = tfp.mcmc.sample_chain(
        settings.draws, tf.transpose(first, (2, 0, 1)), kernel=kernel, num_burnin_steps=settings.burn_in,
        trace_fn=trace, seed=seeds.as_seed(seed),
    )
    rate = tf.reduce_mean(tf.minimum(tf.exp(log_ratio), 1.0), axis=(0, 1))
    return Chains(
        to_u(w), log_joint, tfp.mcmc.potential_scale_reduction(w, split_chains=True),
        tfp.mcmc.effective_sample_size(w, cross_chain_dims=1, filter_beyond_positive_pairs=True),
        tf.reduce_sum(tf.cast(diverged, tf.int32), axis=(0, 1)), rate, step_size[-1, 0, :, 0],
    )
