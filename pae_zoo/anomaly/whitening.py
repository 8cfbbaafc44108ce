"""Coordinates in which strong directions are divided by their size and weak ones are left alone."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable


@register_keras_serializable("pae_zoo")
class HalfWhitening(keras.layers.Layer):
    """z = (x - m) V / sqrt(lambda + floor), with mean m and covariance V diag(lambda) V' of the rows it is fitted to.

    Whole whitening (floor 0) blows noise up, none loses to correlated columns. Of rows in fewer directions than columns
    only those directions are kept, and the length of what is left, over sqrt(floor), is one more coordinate.

    Args:
      num_columns: d.
      num_directions: kept; d of more rows than columns.
      floor: variance that counts as none.
    """

    def __init__(self, num_columns: int, num_directions: int, floor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_columns, self.num_directions = int(num_columns), int(num_directions)
        self.floor = float(floor)
        self.centre = self.add_weight(shape=(self.num_columns,), initializer="zeros", trainable=False, name="centre")
        shape = (self.num_columns, self.num_directions)
        self.matrix = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="matrix")
        self.scales = self.add_weight(shape=shape[1:], initializer="ones", trainable=False, name="scales")
        self.built = True

    @property
    def num_dims(self) -> int:
        """The number of coordinates of z."""
        return self.num_directions + (self.num_directions < self.num_columns)

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def fit(self, x: np.ndarray) -> None:
        """Takes mean and covariance of x (n, d)."""
        x = np.asarray(x, np.float64)
        mean = x.mean(axis=0)
        away = x - mean
        if len(x) > self.num_columns:
            values, vectors = np.linalg.eigh(away.T @ away / len(x))
            values, vectors = values[::-1], vectors[:, ::-1]
        else:
            _, singular, directions = np.linalg.svd(away, full_matrices=False)
            values, vectors = singular**2 / len(x), directions.T
        keep = self.num_directions
        self.centre.assign(mean)
        self.matrix.assign(vectors[:, :keep])
        self.scales.assign(np.sqrt(np.maximum(values[:keep], 0.0) + self.floor))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns z of x (..., d), (..., num_dims)."""
        away = x - tf.cast(self.centre.value, x.dtype)
        along = tf.matmul(away, tf.cast(self.matrix.value, x.dtype))
        z = along / tf.cast(self.scales.value, x.dtype)
        if self.num_directions == self.num_columns:
            return z
        rest = tf.reduce_sum(away**2, axis=-1) - tf.reduce_sum(along**2, axis=-1)
        return tf.concat([z, tf.sqrt(tf.maximum(rest, 0.0) / self.floor)[..., None]], axis=-1)

    def get_config(self) -> dict[str, Any]:
        own = {"num_columns": self.num_columns, "num_directions": self.num_directions, "floor": self.floor}
        return {**super().get_config(), **own}
