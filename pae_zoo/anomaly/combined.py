"""Scores of any model, calibrated by data that it has not seen, and put together."""

from collections.abc import Mapping
from typing import NamedTuple, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.anomaly import calibration
from pae_zoo.core.errors import UserError


class Scores(NamedTuple):
    """What is said of m data.

    Attributes:
      scores: (m,), nats: the higher the more unusual.
      pvalues: (m,), the share of usual data that score as high, at least 1 / (n + 1) of n calibration data.
      parts: the surprise -log p of each part, nats, (m,), by its name.
    """

    scores: np.ndarray
    pvalues: np.ndarray
    parts: dict[str, np.ndarray]


class Combined:
    """The smooth maximum of the surprises of several scores, calibrated by held-out data.

    Each score becomes a surprise -log p (`calibration.Tail`), whatever its units; the combination is calibrated again,
    so that its p-values are conformal: `calibration.pvalues`.

    Args:
      held_out: {name: scores (n,) of data that the model was not fitted to}, higher where more unusual.
      weights: {name: weight} in the smooth maximum; None weighs all alike.

    Raises UserError for no score, or scores that are not finite.
    """

    def __init__(self, held_out: Mapping[str, np.ndarray], weights: Optional[Mapping[str, float]] = None) -> None:
        if not held_out:
            raise UserError("A combination of scores needs one score or more; received none.")
        self.weights = {name: 1.0 if weights is None else float(weights[name]) for name in held_out}
        self.tails = {name: calibration.tail(np.asarray(scores)) for name, scores in held_out.items()}
        self.calibration = self._combine(self.surprises(held_out))

    def surprises(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns -log p of scores (m,) by each name, nats."""
        return {name: tail.surprise(tf.constant(np.asarray(scores[name]), tf.float64)).numpy()
                for name, tail in self.tails.items()}

    def _combine(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        values = [tf.constant(parts[name], tf.float64) for name in self.weights]
        return calibration.smooth_maximum(values, list(self.weights.values())).numpy()

    def traced(self, scores: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns {"score", "pvalue"}, each (m,) float32, of scores (m,): as `score`, in a function that is traced."""
        values = [self.tails[name].surprise(tf.cast(scores[name], tf.float64)) for name in self.weights]
        together = calibration.smooth_maximum(values, list(self.weights.values()))
        count = len(self.calibration)
        below = tf.searchsorted(tf.constant(np.sort(self.calibration)), together, side="left")
        pvalue = (1.0 + count - tf.cast(below, tf.float64)) / (1.0 + count)
        pvalue = tf.where(tf.math.is_nan(together), together, pvalue)
        return {"score": tf.cast(together, tf.float32), "pvalue": tf.cast(pvalue, tf.float32)}

    def score(self, scores: Mapping[str, np.ndarray]) -> Scores:
        """Returns what the scores (m,) of new data come to together."""
        parts = self.surprises(scores)
        together = self._combine(parts)
        return Scores(together, calibration.pvalues(together, self.calibration), parts)
