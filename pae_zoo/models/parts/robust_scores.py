"""Statistics of data in units of their spread over validation data, so that statistics of other units can be added."""

from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

# The distance of the quartiles of a standard normal distribution.
NORMAL_QUARTILES = 1.349


@register_keras_serializable("pae_zoo")
class RobustScores(keras.layers.Layer):
    """r = (s - median) / (quartile distance / 1.349) of statistics s (batch, num), after `measure` has seen some.

    Args:
      num: how many statistics a datum has.
    """

    def __init__(self, num: int, **kwargs: Any):
        super().__init__(trainable=False, **kwargs)
        self.num = int(num)
        # Each row is median and scale; a scale of 0 says that nothing has been measured.
        self.units = self.add_weight(name="units", shape=(self.num, 2), initializer="zeros", trainable=False)
        self.built = True

    @property
    def measured(self) -> bool:
        """Whether `measure` has been called; False in models that were saved before there was anything to measure."""
        with tf.init_scope():
            return bool(np.asarray(self.units)[:, 1].all())

    def measure(self, statistics: np.ndarray) -> None:
        """Keeps median and quartile distance of the finite rows of statistics (n, num); without any it keeps nothing.

        A statistic without spread has the least scale that its numbers resolve.
        """
        rows = np.asarray(statistics, np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        if not len(rows):
            return
        low, median, high = np.quantile(rows, (0.25, 0.5, 0.75), axis=0)
        scale = np.maximum((high - low) / NORMAL_QUARTILES, 1e-6 * np.maximum(np.abs(median), 1.0))
        self.units.assign(np.stack([median, scale], axis=1))

    def call(self, statistics: tf.Tensor) -> tf.Tensor:
        """Returns r (batch, num)."""
        units = tf.cast(self.units, statistics.dtype)
        return (statistics - units[:, 0]) / units[:, 1]

    def load_own_variables(self, store: Any) -> None:
        """Takes the units from a file; one of before has none."""
        if len(store.keys()):
            super().load_own_variables(store)

    def build(self, input_shape: Optional[Any] = None) -> None:
        self.built = True

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num": self.num}
