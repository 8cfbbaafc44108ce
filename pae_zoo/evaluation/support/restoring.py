"""Restores partly seen, noisy data under a model: what the task `restoration` and `pae_zoo.apply` share."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo import inference
from pae_zoo.core import seeds
from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.core.errors import UserError
from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.data import masks
from pae_zoo.evaluation.context import Context, sentence
from pae_zoo.evaluation.metrics import coverage
from pae_zoo.evaluation.support import maxima
from pae_zoo.evaluation.support.observing import noise_of, observation_of
from pae_zoo.evaluation.support.restored import Pictures, Restoration

# Bytes that the derivatives of a batch of data may take.
JACOBIAN_BYTES = 2**27
# Draws of a mixture that are resampled by the posterior, for each one that is kept, and the least effective number of
# them, for each one that is kept: with fewer a few draws would stand for all.
CANDIDATES, LEAST_EFFECTIVE = 8, 0.5
# Prior draws of which the search starts from the best, and values that are compared with data at once.
BANK, BANK_VALUES, COMPARED_VALUES = 2**12, 2**25, 2**24
# Pixels of a maximum's picture from here on are bright.
BRIGHT = 0.5
# A mode counts when it has so much of the posterior's weight.
LEAST_WEIGHT = 1e-3


@dataclasses.dataclass(frozen=True)
class RestorationFlags:
    """The flags of inpainting and denoising, which the task restoration and `pae_zoo.apply` share."""

    mask: str = option("", "What is hidden: none, columns:0-13, rows:8-15, rectangle:TOP,LEFT,HEIGHT,WIDTH, "
                       "pixels:0.95 (share hidden at random), or a file (.npy, .npz, .png; 1 or white is seen).",
                       group=EVALUATION, path=True)
    noise: float = option(0.0, "Std of the Gaussian noise in the data to be restored, for pixels in [0, 1].", low=0.0,
                          group=EVALUATION)
    noise_map: str = option("", "File .npy with the std of the noise in each value, in the place of --noise.",
                            group=EVALUATION, path=True)
    noise_gain: float = option(0.0, "Noise that grows with the signal: a value x has this times x more variance.",
                               low=0.0, group=EVALUATION)
    downsample: int = option(0, "Side of blocks of pixels whose means are seen in the place of the pixels (0: the "
                             "pixels are seen).", low=0, high=1000, group=EVALUATION)
    restoration_starts: int = option(8, "Prior draws, those that explain best what is seen, that the search of the "
                                     "maximum starts from besides the encoding.",
                                     low=0, high=4096, group=EVALUATION, smoke=1)
    restoration_posterior: str = option(
        "moved", "What restorations are drawn from: Laplace at the maximum, a mixture over the maxima, draws of the "
        "mixture that are moved until they are posterior draws, or NUTS.",
        choices=("laplace", "mixture", "moved", "nuts"), group=EVALUATION)
    restoration_rounds: int = option(12, "Rounds of moves: 2 jumps from maximum to maximum and 2 trajectories of 4 "
                                     "steps each.", low=1, high=10_000, group=EVALUATION, smoke=1)
    restoration_draws: int = option(200, "Posterior draws of each datum behind its mean and std (nuts: of each "
                                    "chain).", low=4, high=1_000_000, group=EVALUATION, smoke=8)
    restoration_chains: int = option(4, "nuts: chains.", low=2, high=1000, group=EVALUATION)
    restoration_burn_in: int = option(150, "nuts: steps before the draws, of which 80 % adapt the step size.", low=5,
                                      high=1_000_000, group=EVALUATION, smoke=5)
    restoration_depth: int = option(6, "nuts: largest depth of a tree, of 2^depth leaves.", low=1, high=12,
                                    group=EVALUATION, smoke=3)
    restoration_in_z: bool = option(False, "Evidence by Laplace in the decoder's latent z too, a search of its own.",
                                    group=EVALUATION)

    def check(self) -> None:
        """Raises UserError when --mask is not in the grammar of `pae_zoo.data.masks`, or comes with --downsample."""
        if self.mask or self.downsample:
            mask_of(self)


def mask_of(options: RestorationFlags) -> masks.Mask:
    """Returns what --mask hides, nothing with --downsample; raises UserError for both, or what is not understood."""
    if options.downsample and options.mask not in ("", "none"):
        raise UserError(f"--downsample={options.downsample} with --mask={options.mask}: of an image that is "
                        "downsampled all is seen; leave one of the two out.")
    return masks.parse("none" if options.downsample else options.mask)


class Restorer:
    """Finds u behind data of which some values are hidden and the others noisy.

    Args:
      context: gives the model, the compiler and the progress bar.
      options: noise, downsample and those that begin with restoration_.
      seed: pair of integers; results do not depend on how data are batched, but for those of NUTS.

    Raises NotImplementedError for a model without a prior or with a mixture for a likelihood, UserError for noise or
    blocks that have no Gaussian form in y.
    """

    def __init__(self, context: Context, options: Any, seed):
        self.context, self.model, self.options, self.seed = context, context.model, options, seed
        self.prior, self.side = self.model.prior(), options.downsample
        self.pictures = Pictures(self.model, context.compile, seeds.stream(seed, "restoration/noise"))
        self.noise = noise_of(options, tuple(self.model.event_shape))
        self.observation = observation_of(self.model, self.noise, self.side)
        self.incomplete = inference.Incomplete(self.model, self.observation, self.side)
        self.prior_precision, self.problem = self.incomplete.prior_precision, self.incomplete.problem
        rounds = options.restoration_rounds
        self._settings = inference.Moves(rounds=rounds, kept=min(inference.Moves.kept, rounds))
        self._curvatures = tf.function(self._both_curvatures, autograph=False)
        self._evidence_in_z = tf.function(self._in_z, autograph=False)

    # ---- the loop over data ------------------------------------------------------------------------

    def restore(self, x: np.ndarray, seen: np.ndarray) -> Restoration:
        """Returns the restoration of x (n, *event), of which the values with True in `seen`, alike, are known.

        Where means of blocks are known, they are those of the pixels of x, which all are seen.
        """
        parts = []
        size = -(-len(x) // -(-len(x) // self.batch_size()))  # evenly, so that the last batch is not padded
        pairs = zip(self.context.batches(x, size), self.context.batches(seen, size))
        with self.context.progress(-(-len(x) // size), "restoration") as bar:
            for number, ((batch, count), (batch_seen, _)) in enumerate(pairs):
                found = self._batch(tf.constant(batch), tf.constant(batch_seen > 0.5), number)
                parts.append({name: None if v is None else v[:count] for name, v in vars(found).items()})
                bar.update()
        whole: dict[str, Any] = {}
        for name, first in parts[0].items():
            whole[name] = None if first is None else np.concatenate([part[name] for part in parts])
        return Restoration(**whole)

    def simulated(self, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns latents (num, K) of the prior and data (num, *event) that the model makes of them, noise included."""
        draw_seed, noise_seed = seeds.split(seeds.stream(self.seed, "restoration/simulated"), 2)
        u = self.prior.sample(num, seed=draw_seed)
        noise = tf.clip_by_value(seeds.uniform((num, *self.model.event_shape), noise_seed), 1e-6, 1.0 - 1e-6)
        return self.model.latent_from_base(u).numpy(), self.pictures.predict(u, noise).numpy()

    def batch_size(self) -> int:
        """Returns how many data fit into memory with the derivatives of all their runs."""
        runs = self.options.restoration_starts + 1
        bytes_each = 4 * runs * self.model.latent_dim * math.prod(self.model.event_shape)
        return int(np.clip(JACOBIAN_BYTES // bytes_each, 1, 64))

    def _batch(self, x: tf.Tensor, seen: tf.Tensor, number: int) -> Restoration:
        """Returns the restoration of a batch; data whose seen values are not all finite get NaN."""
        finite = tf.math.is_finite(x)
        broken = tf.reduce_any(seen & ~finite, axis=list(range(1, x.shape.rank))).numpy()
        found = self._restored(tf.where(finite, x, tf.constant(0.5, x.dtype)), seen, number)
        for values in vars(found).values():
            if values is not None:
                values[broken] = np.nan if np.issubdtype(values.dtype, np.floating) else 0
        return found

    def _restored(self, x: tf.Tensor, seen: tf.Tensor, number: int) -> Restoration:
        search_seed, draw_seed, chain_seed = seeds.split(self.seed, 3)
        runs, at_encoding = self.context.compile(self._search)(x, seen, self._best_of_prior(x, seen), search_seed)
        # Outside XLA, which takes longer to compile second derivatives of a deep flow than they take to compute, and
        # whose CPU kernel for eigenvalues is slow.
        hessian, gauss_newton = self._curvatures(x, seen, runs.u)
        single = self.options.restoration_posterior == "laplace"
        modes = inference.laplace(runs.u, runs.log_joint, hessian)
        mixture = inference.mixture(modes, single)
        # Draws come from the Gauss-Newton curvature: it is positive definite everywhere and never below the prior's,
        # where the exact one of a decoder with kinks may be nearly flat and lead far away.
        proposal = inference.mixture(inference.laplace(runs.u, runs.log_joint, gauss_newton), single)
        best = proposal.modes.mean[0]
        chi2, dark, bright, picture = self.context.compile(self._at_maximum)(x, seen, best)
        draws, told = self._draws(x, seen, proposal, draw_seed, seeds.fold_in(chain_seed, number))
        pixel_mean, pixel_std, shown = self.pictures.moments(draws)
        predictive_std, quantiles = self.pictures.predictive(draws)
        if self.options.restoration_posterior in ("laplace", "mixture"):
            mean, covariance = proposal.moments()
            variance = tf.linalg.diag_part(covariance)
        else:
            mean, variance = tf.nn.moments(draws, axes=[0])
        index = tf.argmax(runs.log_joint, axis=0)
        told |= maxima.record(runs, hessian, gauss_newton, mixture, proposal, draws,
                              self.context.compile(self.model.latent_from_base))
        if not self.side:
            told |= {"chi2_dark": dark.numpy(), "chi2_bright": bright.numpy()}
        if self.options.restoration_in_z:
            found = self._evidence_in_z(x, seen, self.model.latent_from_base(best))
            told |= dict(zip(("evidence_z", "evidence_z_gauss_newton"), (one.numpy() for one in found)))
        return Restoration(
            picture.numpy(), pixel_mean, pixel_std, predictive_std, quantiles,
            np.moveaxis(coverage.quantiles(draws.numpy()), 0, 1), shown, mixture.modes.log_joint[0].numpy(),
            at_encoding.numpy(), chi2.numpy(), tf.gather(tf.transpose(runs.decrement), index, batch_dims=1).numpy(),
            mixture.evidence.numpy(), self._information_gain(draws, mean, variance).numpy(),
            np.sum(mixture.weights.numpy() >= LEAST_WEIGHT, axis=0), mixture.valid.numpy(),
            np.mean(~modes.positive_definite.numpy(), axis=0), **told,
        )

    def _information_gain(self, draws: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        if self.prior_precision is None:
            return inference.information_gain(mean, variance)
        # What N(0, I) has in closed form is a mean over draws for another prior.
        entropy = 0.5 * tf.reduce_sum(tf.math.log(variance) + 1.0 + LOG_2PI, axis=-1)
        return -entropy - tf.reduce_mean(self.prior.log_prob(draws), axis=0)

    def _draws(
        self, x: tf.Tensor, seen: tf.Tensor, proposal: inference.Mixture, seed: tf.Tensor, chain_seed: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, np.ndarray]]:
        """Returns draws (S, batch, K) of the posterior that was asked for, and what is told of them, each (batch,)."""
        kind, num = self.options.restoration_posterior, self.options.restoration_draws
        if kind == "laplace":
            return proposal.sample(num, seed), {}
        if kind == "nuts":
            best, factor = proposal.modes.mean[0], proposal.modes.factor[0]
            chains = self.context.compile(self._chains)(
                x, seen, proposal.sample(self.options.restoration_chains, seed), best, factor, chain_seed)
            told = {"r_hat": chains.r_hat.numpy().max(axis=-1), "ess": chains.effective_samples.numpy().min(axis=-1),
                    "divergences": chains.divergences.numpy()}
            return tf.reshape(chains.draws, (-1, *best.shape)), told
        draw_seed, choice_seed = seeds.split(seed, 2)
        if kind == "moved":
            start = proposal.sample(-(-num // self._settings.kept), draw_seed)
            found = self.context.compile(self._moves)(x, seen, start, proposal, choice_seed)
            return found.draws[-num:], {"acceptance": found.acceptance.numpy(), "jumps": found.jumps.numpy()}
        candidates = proposal.sample(CANDIDATES * num, draw_seed)
        log_joint = self.context.compile(self._log_joint)
        found = [log_joint(x, seen, candidates[i * num : (i + 1) * num]) for i in range(CANDIDATES)]
        log_weight = tf.concat(found, axis=0) - proposal.log_prob(candidates)
        draws, effective = inference.resample(candidates, log_weight, num, choice_seed)
        enough = effective >= LEAST_EFFECTIVE * num
        draws = tf.where(enough[:, None], draws, candidates[:num])
        return draws, {"draws_ess": effective.numpy(), "resampled": enough.numpy()}

    # ---- the bank of prior draws -------------------------------------------------------------------

    @functools.cached_property
    def _bank(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Prior draws (m, K) and the decoder's outputs there (m, ...); m is a power of two."""
        most = max(BANK_VALUES // math.prod(self.model.event_shape), self.options.restoration_starts, 1)
        num = min(BANK, 2 ** math.ceil(math.log2(most)))
        u = self.prior.sample(num, seed=seeds.stream(self.seed, "restoration/bank"))
        decode = self.context.compile(self.incomplete.decode)
        rows = min(num, 256)
        return u, tf.concat([decode(u[i : i + rows]) for i in range(0, num, rows)], axis=0)

    def _best_of_prior(self, x: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
        """Returns the prior draws (starts, batch, K) that explain best what is seen of x, the best first."""
        count = self.options.restoration_starts
        if not count:
            return tf.zeros((0, x.shape[0], self.model.latent_dim), x.dtype)
        u, outputs = self._bank
        rows = max(COMPARED_VALUES // (x.shape[0] * math.prod(self.model.event_shape)), 1)
        rows = min(2 ** int(math.log2(rows)), len(u))
        explain = self.context.compile(self._explained)
        found = tf.concat([explain(x, seen, outputs[i : i + rows]) for i in range(0, len(u), rows)], axis=0)
        return inference.best(u, found, count)

    # ---- compiled functions of one batch -----------------------------------------------------------

    def _explained(self, x, seen, outputs):
        return self.problem(x, seen).log_likelihood_of(outputs[:, None])

    def _search(self, x, seen, starts, seed):
        problem = self.problem(x, seen)
        filling_seed, encode_seed = seeds.split(seed, 2)
        encoding = self.incomplete.encoding(x, seen, filling_seed, encode_seed, self._no_mean)
        runs = inference.find_modes(problem, tf.concat([encoding[None], starts], axis=0))
        return runs, problem.log_joint(encoding)

    def _no_mean(self, error: NotImplementedError) -> None:
        self.context.say("restoration: the encoding is a draw, for the encoder's posterior has no mean. "
                         f"{sentence(error)}")

    def _at_maximum(self, x, seen, u):
        """Returns chi^2 of all seen values, of dark and of bright ones (0 for blocks), and the picture."""
        problem, picture = self.problem(x, seen), self.pictures.decode_mean(u)
        squares, known = problem.squares(u), problem.seen
        if self.side:
            nothing = tf.zeros_like(u[:, 0])
            return problem.chi_square(u), nothing, nothing, picture
        axes = list(range(1, squares.shape.rank))
        is_dark = tf.cast(picture < BRIGHT, squares.dtype)
        parts = [tf.reduce_sum(squares * part, axes) / tf.reduce_sum(known * part, axes)
                 for part in (tf.ones_like(is_dark), is_dark, 1.0 - is_dark)]  # fmt: skip
        return *parts, picture

    def _in_z(self, x, seen, z):
        problem = self.problem(x, seen)
        of_latents = inference.Problem(self.model.log_prob_latent, self.model.decoder_outputs, self.observation,
                                       problem.y, problem.seen)  # fmt: skip
        return maxima.evidence_of_latents(of_latents, z)

    def _log_joint(self, x, seen, u):
        return self.problem(x, seen).log_joint(u)

    def _both_curvatures(self, x, seen, u):
        problem = self.problem(x, seen)
        return problem.hessian(u), problem.gauss_newton(u)

    def _moves(self, x, seen, draws, mixture, seed):
        return inference.move(self.problem(x, seen), draws, mixture, seed, self._settings)

    def _chains(self, x, seen, starts, mean, factor, seed):
        options = self.options
        settings = inference.Sampler(draws=options.restoration_draws, burn_in=options.restoration_burn_in,
                                     max_tree_depth=options.restoration_depth)
        return inference.sample(self.problem(x, seen), starts, mean, factor, seed, settings)
