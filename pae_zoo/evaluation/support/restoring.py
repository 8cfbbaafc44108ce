"""Restores partly seen, noisy data under a model: what the task `restoration` and `pae_zoo.apply` share."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Optional, Union

import numpy as np
import tensorflow as tf

from pae_zoo import inference
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.data import masks
from pae_zoo.evaluation.context import Context, sentence

SHOWN_DRAWS = 4
CHAINS = 4
FILLING_ROUNDS = 3
FILLING_DRAWS = 16
# Bytes that the derivatives of a batch of data may take, and rows that the decoder gets at once.
JACOBIAN_BYTES, DECODER_ROWS = 2**27, 2**13
# Draws of a mixture that are resampled by the posterior, for each one that is kept.
CANDIDATES = 8
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
    restoration_starts: int = option(8, "Prior draws that the search of the maximum starts from, besides the encoding.",
                                     low=0, high=10_000, group=EVALUATION, smoke=1)
    restoration_posterior: str = option(
        "mixture", "What restorations are drawn from: Laplace at the maximum, a mixture over the maxima, or NUTS.",
        choices=("laplace", "mixture", "nuts"), group=EVALUATION)
    restoration_draws: int = option(200, "Posterior draws of each datum behind its mean and std (nuts: of each of 4 "
                                    "chains).", low=4, high=1_000_000, group=EVALUATION, smoke=8)

    def check(self) -> None:
        """Raises UserError when --mask is given and not in the grammar of `pae_zoo.data.masks`."""
        if self.mask:
            masks.parse(self.mask)


@dataclasses.dataclass
class Restoration:
    """What is known of n data; pictures are decoder means in the units of x, log densities nats of y.

    Attributes:
      map, mean, std: (n, *event): at the maximum; mean and standard deviation over posterior draws.
      draws: (n, 4, *event), some of the draws.
      log_joint, encoding_log_joint: (n,), log p(u, y_seen) at the maximum and at the encoding.
      chi2: (n,), at the maximum, per seen value.
      decrement: (n,), what a further Gauss-Newton step from the maximum promised.
      evidence: (n,), log p(y_seen) by Laplace; NaN where the Hessian at the maximum is not positive definite.
      information_gain: (n,), of the posterior of u over N(0, I).
      modes: (n,), distinct maxima with at least a thousandth of the weight.
      positive_definite: (n,), bool, at the maximum.
      flagged_runs: (n,), share of the runs whose Hessian is not positive definite.
      draws_ess: (n,), effective number of the candidates that mixture draws are resampled from; None for others.
      r_hat, ess, divergences: (n,), worst over u, from NUTS; None for other posteriors.
    """

    map: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    draws: np.ndarray
    log_joint: np.ndarray
    encoding_log_joint: np.ndarray
    chi2: np.ndarray
    decrement: np.ndarray
    evidence: np.ndarray
    information_gain: np.ndarray
    modes: np.ndarray
    positive_definite: np.ndarray
    flagged_runs: np.ndarray
    draws_ess: Optional[np.ndarray] = None
    r_hat: Optional[np.ndarray] = None
    ess: Optional[np.ndarray] = None
    divergences: Optional[np.ndarray] = None


def observation_of(model: Any, noise: float) -> Union[inference.Gaussian, inference.Bernoulli]:
    """Returns what a model takes data with noise of std `noise` in the pixels for.

    Raises NotImplementedError for a mixture for a likelihood, UserError for noise that has no Gaussian form in y.
    """
    likelihood = model.likelihood
    if not likelihood.has_independent_values:
        raise NotImplementedError("Restoration sums over the values that are seen, and "
                                  f"{type(likelihood).__name__} is a mixture, not a product over values.")
    if not likelihood.is_discrete:
        return inference.Gaussian(likelihood.mean, likelihood.variance, noise and _noise_of_y(model, noise),
                                  likelihood.has_shared_precision)
    if noise:
        raise UserError(f"--noise={noise}: {type(likelihood).__name__} has no Gaussian noise to add to; leave --noise "
                        "out, or train with a Gaussian likelihood.")
    return inference.Bernoulli()


def _noise_of_y(model: Any, noise: float) -> tf.Tensor:
    """Returns the std of the noise in units of y, one per value: the preprocessing must be affine."""
    shape = (1, *model.event_shape)
    low, between, high = (model.preprocess(tf.fill(shape, value))[0].numpy()[0] for value in (0.0, 0.3, 1.0))
    slope = high - low
    if np.abs(between - low - 0.3 * slope).max() > 1e-4 * np.abs(slope).max():
        raise UserError(f"--noise={noise}: the model's --preprocess is not affine, so that Gaussian noise in the "
                        "pixels is not Gaussian for it; leave --noise out.")
    return tf.constant(noise * np.abs(slope), tf.float32)


class Restorer:
    """Finds u behind data of which some values are hidden and the others noisy.

    Args:
      context: gives the model, the compiler and the progress bar.
      options: noise, restoration_starts, restoration_posterior and restoration_draws.
      seed: pair of integers; results do not depend on how data are batched, but for those of NUTS.

    Raises NotImplementedError for a model without a prior or with a mixture for a likelihood, UserError for noise that
    has no Gaussian form in y.
    """

    def __init__(self, context: Context, options: Any, seed):
        self.context, self.model, self.options, self.seed = context, context.model, options, seed
        self.prior = self.model.prior()
        self.observation = observation_of(self.model, options.noise)
        self._curvatures = tf.function(self._both_curvatures, autograph=False)

    # ---- the loop over data ------------------------------------------------------------------------

    def restore(self, x: np.ndarray, seen: np.ndarray) -> Restoration:
        """Returns the restoration of x (n, *event), of which the values with True in `seen`, alike, are known."""
        parts = []
        size = min(self.batch_size(), len(x))
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
        runs, at_encoding = self.context.compile(self._search)(x, seen, search_seed)
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
        draws_ess = None
        chi2, picture = self.context.compile(self._at_maximum)(x, seen, best)
        chains = None
        if self.options.restoration_posterior == "nuts":
            starts = proposal.sample(CHAINS, draw_seed)
            chains = self.context.compile(self._chains)(
                x, seen, starts, best, proposal.modes.factor[0], seeds.fold_in(chain_seed, number))
            draws = tf.reshape(chains.draws, (-1, *best.shape))
            mean, variance = (moment.numpy() for moment in tf.nn.moments(draws, axes=[0]))
        else:
            draws, draws_ess = self._draws(x, seen, proposal, single, draw_seed)
            mean, covariance = proposal.moments()
            variance = tf.linalg.diag_part(covariance)
        pixel_mean, pixel_std, shown = self._decoded_moments(draws)
        index = tf.argmax(runs.log_joint, axis=0)
        return Restoration(
            picture.numpy(), pixel_mean, pixel_std, shown, mixture.modes.log_joint[0].numpy(), at_encoding.numpy(),
            chi2.numpy(), tf.gather(tf.transpose(runs.decrement), index, batch_dims=1).numpy(),
            mixture.evidence.numpy(), inference.information_gain(mean, variance).numpy(),
            np.sum(mixture.weights.numpy() >= LEAST_WEIGHT, axis=0), mixture.valid.numpy(),
            np.mean(~modes.positive_definite.numpy(), axis=0),
            **({} if chains is None else {
                "r_hat": chains.r_hat.numpy().max(axis=-1), "ess": chains.effective_samples.numpy().min(axis=-1),
                "divergences": chains.divergences.numpy(),
            }),
            **({} if draws_ess is None else {"draws_ess": draws_ess.numpy()}),
        )

    def _draws(self, x, seen, proposal: inference.Mixture, single: bool, seed):
        """Returns draws (S, batch, K), those of a mixture resampled by the posterior, and their ESS or None."""
        num = self.options.restoration_draws
        if single:
            return proposal.sample(num, seed), None
        draw_seed, choice_seed = seeds.split(seed, 2)
        candidates = proposal.sample(CANDIDATES * num, draw_seed)
        log_joint = self.context.compile(self._log_joint)
        found = [log_joint(x, seen, candidates[i * num : (i + 1) * num]) for i in range(CANDIDATES)]
        log_weight = tf.concat(found, axis=0) - proposal.log_prob(candidates)
        return inference.resample(candidates, log_weight, num, choice_seed)

    # ---- compiled functions of one batch -----------------------------------------------------------

    def problem(self, x: tf.Tensor, seen: tf.Tensor) -> inference.Problem:
        """Returns the posterior of u given the seen values of x (batch, *event)."""

        def decode(u):
            return self.model.decoder_outputs(self.model.latent_from_base(u))

        return inference.Problem(self.prior.log_prob, decode, self.observation, self.model.preprocess(x)[0], seen)

    def _search(self, x, seen, seed):
        problem = self.problem(x, seen)
        start_seed, filling_seed, encode_seed = seeds.split(seed, 3)
        encoding = self._encoding(x, seen, filling_seed, encode_seed)
        starts, count = encoding[None], self.options.restoration_starts
        if count:
            draws = self.prior.sample(count, seed=start_seed)[:, None]
            starts = tf.concat([starts, tf.broadcast_to(draws, (count, *encoding.shape))], axis=0)
        runs = inference.find_modes(problem, starts)
        return runs, problem.log_joint(encoding)

    def _encoding(self, x, seen, filling_seed, encode_seed) -> tf.Tensor:
        """Returns u of the encoder for x whose hidden values are filled in, at last by what it decodes to itself."""
        filling = tf.reduce_mean(self._decode_mean(self.prior.sample(FILLING_DRAWS, seed=filling_seed)), axis=0)
        filling = tf.broadcast_to(filling, x.shape)

        def fill_in(i, filling, u):
            posterior = self.model.encode(tf.where(seen, x, filling), encode_seed)
            try:
                z = posterior.mean()
            except NotImplementedError as error:
                self.context.say("restoration: the encoding is a draw, for the encoder's posterior has no mean. "
                                 f"{sentence(error)}")
                z = posterior.sample(seed=encode_seed)
            u = self.model.base_from_latent(z)
            return i + 1, self._decode_mean(u), u

        nothing = tf.zeros((x.shape[0], self.model.latent_dim), x.dtype)
        return tf.while_loop(lambda i, *_: i < FILLING_ROUNDS, fill_in, (0, filling, nothing))[2]

    def _at_maximum(self, x, seen, u):
        return self.problem(x, seen).chi_square(u), self._decode_mean(u)

    def _log_joint(self, x, seen, u):
        return self.problem(x, seen).log_joint(u)

    def _both_curvatures(self, x, seen, u):
        problem = self.problem(x, seen)
        return problem.hessian(u), problem.gauss_newton(u)

    def _chains(self, x, seen, starts, mean, factor, seed):
        settings = inference.Sampler(draws=self.options.restoration_draws)
        return inference.sample(self.problem(x, seen), starts, mean, factor, seed, settings)

    def _decode_mean(self, u: tf.Tensor) -> tf.Tensor:
        """Returns pictures (rows, *event) in the units of x for u (rows, K)."""
        return self.model.decode_mean(self.model.latent_from_base(u))

    def _decoded_moments(self, draws: tf.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns mean and std over draws (S, batch, K) of their pictures, and some pictures (batch, 4, *event)."""
        decode = self.context.compile(self._decode_mean)
        num, batch, size = draws.shape
        step = max(1, DECODER_ROWS // batch)
        kept = np.linspace(0, num - 1, min(SHOWN_DRAWS, num)).astype(int)
        total, squares, shown = 0.0, 0.0, []
        for start, pictures in self._pictures(decode, draws, step):
            total = total + pictures.sum(axis=0, dtype=np.float64)
            squares = squares + np.square(pictures, dtype=np.float64).sum(axis=0)
            shown += [pictures[k - start] for k in kept if start <= k < start + len(pictures)]
        mean = total / num
        std = np.sqrt(np.maximum(squares / num - mean**2, 0.0))
        return mean.astype(np.float32), std.astype(np.float32), np.stack(shown, axis=1)

    def _pictures(self, decode, draws: tf.Tensor, step: int) -> Iterator[tuple[int, np.ndarray]]:
        num, batch, size = draws.shape
        for start in range(0, num, step):
            part = draws[start : start + step]
            count = len(part)
            if count < step <= num:  # one shape, one compilation
                part = tf.concat([part, tf.repeat(part[-1:], step - count, axis=0)], axis=0)
            pictures = decode(tf.reshape(part, (-1, size))).numpy()
            yield start, pictures.reshape(len(part), batch, *pictures.shape[1:])[:count]
