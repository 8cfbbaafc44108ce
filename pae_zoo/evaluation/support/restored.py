"""What a restoration says of data, and the moments and quantiles of its pictures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.evaluation.metrics import coverage

SHOWN_DRAWS = 10
# Rows that the decoder gets at once.
DECODER_ROWS = 2**13
# Draws with the decoder's noise that quantiles are taken from.
PREDICTED = 400


@dataclass
class Restoration:
    """What is known of n data; pictures are decoder means in the units of x, log densities nats of y.

    Attributes:
      map, mean, std: (n, *event): at the maximum; mean and standard deviation over posterior draws.
      predictive_std: (n, *event), with the decoder's noise: of the clean datum about `mean`.
      quantiles: (n, 6, *event), of the clean datum, with the decoder's noise, in the order of `coverage.QUANTILES`.
      code_quantiles: (n, 6, K), of u.
      draws: (n, 10, *event), some of the draws.
      log_joint, encoding_log_joint: (n,), log p(u, y_seen) at the maximum and at the encoding.
      chi2: (n,), at the maximum, per seen value.
      decrement: (n,), what a further Gauss-Newton step from the maximum promised.
      evidence: (n,), log p(y_seen) by Laplace; NaN where the Hessian at the maximum is not positive definite.
      information_gain: (n,), of the posterior of u over its prior.
      modes: (n,), distinct maxima with at least a thousandth of the weight.
      positive_definite: (n,), bool, at the maximum.
      flagged_runs: (n,), share of the runs whose Hessian is not positive definite.
      draws_ess: (n,), effective number of the candidates that mixture draws are resampled from; None for others.
      resampled: (n,), bool, whether they were; None for others.
      acceptance, jumps: (n,), shares of steps and jumps that were taken by moved draws; None for others.
      r_hat, ess, divergences: (n,), worst over u, from NUTS; None for other posteriors.
      chi2_dark, chi2_bright: (n,), as chi2, over the seen values below and above 0.5 in the maximum's picture; NaN
        where there are none; None for blocks.
      evidence_gauss_newton, evidence_z, evidence_z_gauss_newton: (n,), as evidence, by other curvatures and in z.
      u and the others of `maxima.RECORDED`: see `maxima.record`.
    """

    map: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    predictive_std: np.ndarray
    quantiles: np.ndarray
    code_quantiles: np.ndarray
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
    resampled: Optional[np.ndarray] = None
    acceptance: Optional[np.ndarray] = None
    jumps: Optional[np.ndarray] = None
    r_hat: Optional[np.ndarray] = None
    ess: Optional[np.ndarray] = None
    divergences: Optional[np.ndarray] = None
    chi2_dark: Optional[np.ndarray] = None
    chi2_bright: Optional[np.ndarray] = None
    evidence_gauss_newton: Optional[np.ndarray] = None
    evidence_z: Optional[np.ndarray] = None
    evidence_z_gauss_newton: Optional[np.ndarray] = None
    u: Optional[np.ndarray] = None
    z: Optional[np.ndarray] = None
    log_joint_of_runs: Optional[np.ndarray] = None
    weights: Optional[np.ndarray] = None
    hessians: Optional[np.ndarray] = None
    gauss_newtons: Optional[np.ndarray] = None
    stds: Optional[np.ndarray] = None
    draws_u: Optional[np.ndarray] = None
    draws_z: Optional[np.ndarray] = None


class Pictures:
    """The pictures of draws of u under a model.

    Args:
      model: an autoencoder with a prior.
      compile: returns a compiled function for a function.
      seed: of the decoder's noise, which all data share.
    """

    def __init__(self, model: Any, compile: Callable, seed: tf.Tensor):
        self.model, self.compile, self.seed = model, compile, seed

    def decode_mean(self, u: tf.Tensor) -> tf.Tensor:
        """Returns pictures (rows, *event) in the units of x for u (rows, K)."""
        return self.model.decode_mean(self.model.latent_from_base(u))

    def predict(self, u: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Returns data (rows, *event) in the units of x for u (rows, K) and uniform noise of their shape.

        Images are not clipped: a value that may be 0 or less is no certain 0.
        """
        likelihood = self.model.likelihood
        outputs = self.model.decoder_outputs(self.model.latent_from_base(u))
        mean = likelihood.mean(outputs)
        if likelihood.is_discrete:
            return self.model.preprocessing.inverse(tf.cast(noise < mean, mean.dtype))
        normal = tf.cast(tf.math.ndtri(noise), mean.dtype)
        return self.model.preprocessing.inverse(mean + tf.sqrt(likelihood.variance(outputs)) * normal)

    def moments(self, draws: tf.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns mean and std over draws (S, batch, K) of their pictures, and some pictures (batch, 10, *event)."""
        num = draws.shape[0]
        kept = np.linspace(0, num - 1, min(SHOWN_DRAWS, num)).astype(int)
        total, squares, shown = 0.0, 0.0, []
        for start, pictures in _in_parts(self.compile(self.decode_mean), draws):
            total = total + pictures.sum(axis=0, dtype=np.float64)
            squares = squares + np.square(pictures, dtype=np.float64).sum(axis=0)
            shown += [pictures[k - start] for k in kept if start <= k < start + len(pictures)]
        mean = total / num
        std = np.sqrt(np.maximum(squares / num - mean**2, 0.0))
        return mean.astype(np.float32), std.astype(np.float32), np.stack(shown, axis=1)

    def predictive(self, draws: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Returns std (batch, *event) and quantiles (batch, 6, *event) of data with u among draws (S, batch, K).

        400 data are drawn: with fewer draws each has several.
        """
        draws = tf.gather(draws, np.linspace(0, draws.shape[0] - 1, PREDICTED).astype(int))
        event = self.model.event_shape
        noise = seeds.uniform((PREDICTED, 1, *event), self.seed)
        noise = tf.broadcast_to(tf.clip_by_value(noise, 1e-6, 1.0 - 1e-6), (PREDICTED, draws.shape[1], *event))
        parts = [found for _, found in _in_parts(self.compile(self.predict), draws, noise)]
        data = np.concatenate(parts)
        bounds = np.moveaxis(coverage.quantiles(data), 0, 1)
        return data.std(axis=0, dtype=np.float64).astype(np.float32), bounds


def _in_parts(function: Callable, *arrays: tf.Tensor) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (start, function of rows start.. of arrays (S, batch, ...)), so many at a time that memory allows."""
    num, batch = arrays[0].shape[:2]
    step = max(1, DECODER_ROWS // batch)
    for start in range(0, num, step):
        parts = [array[start : start + step] for array in arrays]
        count = len(parts[0])
        if count < step <= num:  # one shape, one compilation
            parts = [tf.concat([part, tf.repeat(part[-1:], step - count, axis=0)], axis=0) for part in parts]
        found = function(*(tf.reshape(part, (-1, *part.shape[2:])) for part in parts)).numpy()
        yield start, found.reshape(-1, batch, *found.shape[1:])[:count]
