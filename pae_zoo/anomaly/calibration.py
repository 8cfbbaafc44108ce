"""From scores to probabilities: conformal p-values, tails that go beyond the data, and which rows to report."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from pae_zoo.core.errors import UserError

# The share of calibration scores that the Pareto tail stands for, and its largest shape.
TAIL, MOST_SHAPE = 0.1, 0.3


class Tail(NamedTuple):
    """Calibration scores, and a generalised Pareto tail beyond their 90 % quantile.

    Attributes:
      scores: (n,), sorted.
      threshold: the quantile u.
      shape, scale: xi and sigma of P(S > u + e | S > u) = (1 + xi e / sigma)^(-1/xi); scale 0: no tail.
    """

    scores: np.ndarray
    threshold: float
    shape: float
    scale: float

    def surprise(self, scores: tf.Tensor) -> tf.Tensor:
        """Returns -log p of scores (m,), nats: p the share of calibration scores as large, beyond them the tail's."""
        scores = tf.convert_to_tensor(scores)
        count = float(len(self.scores))
        below = tf.searchsorted(tf.constant(self.scores, scores.dtype), scores, side="left")
        found = -tf.math.log((count - tf.cast(below, scores.dtype) + 0.5) / (count + 1.0))
        if self.scale > 0:
            excess = tf.maximum(scores - self.threshold, 0.0) / self.scale
            if self.shape > 0:
                excess = tf.math.log1p(self.shape * excess) / self.shape
            found = tf.where(scores > self.threshold, excess - float(np.log(TAIL)), found)
        return tf.where(tf.math.is_nan(scores), scores, found)


def tail(scores: np.ndarray) -> Tail:
    """Returns the `Tail` of calibration scores (n,), by the moments of what exceeds their 90 % quantile.

    Hosking & Wallis 1987: with mean m and variance v of the excess, xi = (1 - m^2 / v) / 2, here within [0, 0.3], and
    sigma = m (1 - xi). Raises UserError for scores that are none, or not finite.
    """
    scores = np.sort(np.asarray(scores, np.float64).ravel())
    if not len(scores) or not np.all(np.isfinite(scores)):
        raise UserError(f"Calibration needs finite scores of one row or more; received {len(scores)} scores, "
                        f"{int(np.sum(~np.isfinite(scores)))} of them not finite.")
    threshold = float(np.quantile(scores, 1.0 - TAIL))
    excess = scores[scores > threshold] - threshold
    if len(excess) < 2:
        return Tail(scores, threshold, 0.0, 0.0)
    mean, variance = excess.mean(), excess.var()
    shape = float(np.clip(0.5 * (1.0 - mean**2 / variance), 0.0, MOST_SHAPE)) if variance > 0 else 0.0
    return Tail(scores, threshold, shape, float(mean * (1.0 - shape)))


def smooth_maximum(values: Sequence[tf.Tensor], weights: Sequence[float], power: float = 16.0) -> tf.Tensor:
    """Returns (sum_i w_i v_i^power)^(1 / power) of values v_i (n,) at or above 0: almost their maximum."""
    stacked = tf.stack(values)
    logs = power * tf.math.log(stacked) + tf.constant(np.log(weights), stacked.dtype)[:, None]
    return tf.exp(tf.reduce_logsumexp(logs, axis=0) / power)


def pvalues(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Returns conformal p-values (n,) of scores (n,): (1 + #{calibration scores >= s}) / (1 + m), NaN for NaN.

    Of a row that is exchangeable with those of the calibration it is at most alpha with a probability of at most alpha
    (Vovk, Gammerman & Shafer 2005; Bates et al., Ann. Stat. 2023). m calibration scores give no p below 1 / (m + 1).
    Raises UserError for calibration scores that are none, or NaN.
    """
    calibration = np.sort(np.asarray(calibration, np.float64).ravel())
    if not len(calibration) or np.isnan(calibration).any():
        raise UserError(f"p-values need calibration scores that are numbers; received {len(calibration)}, "
                        f"{int(np.isnan(calibration).sum())} of them NaN.")
    scores = np.asarray(scores, np.float64)
    above = len(calibration) - np.searchsorted(calibration, scores, side="left")
    return np.where(np.isnan(scores), np.nan, (1.0 + above) / (1.0 + len(calibration)))


def discoveries(p: np.ndarray, fdr: float) -> np.ndarray:
    """Returns which of the p-values (n,) are reported so that at most a share `fdr` of these is false, in the mean.

    Benjamini & Hochberg 1995, which holds for conformal p-values that share their calibration (Bates et al. 2023). NaN
    is not reported and does not count. Raises UserError for a share outside (0, 1).
    """
    if not 0.0 < fdr < 1.0:
        raise UserError(f"The false discovery rate lies between 0 and 1; received {fdr:g}.")
    p = np.asarray(p, np.float64)
    ordered = np.sort(p[~np.isnan(p)])
    small = np.flatnonzero(ordered <= fdr * np.arange(1, len(ordered) + 1) / max(len(ordered), 1))
    return p <= ordered[small[-1]] if len(small) else np.zeros(p.shape, bool)
