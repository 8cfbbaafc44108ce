"""How far the nearest rows are, in the sum of absolute differences of columns."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable
from sklearn.neighbors import NearestNeighbors

# Added to a distance, for each column: rows that repeat others have a distance too.
LEAST = 1e-6


@register_keras_serializable("pae_zoo")
class Neighbours(keras.layers.Layer):
    """The mean over the nearest rows of log |x - x_j|_1, a score that grows away from them.

    Args:
      num_columns: d.
      num_rows: n.
      ranked: whether each column is its normal quantile first: ndtri((#{less} + #{at most}) / 2 n), cut at half a row
        from the ends. Rare values of skewed and discrete columns are then far; it does not go beyond the data.
      count: of neighbours.
    """

    def __init__(self, num_columns: int, num_rows: int, ranked: bool = False, count: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_columns, self.num_rows, self.ranked = int(num_columns), int(num_rows), bool(ranked)
        self.count = int(count)
        self.rows = self.add_weight(shape=(self.num_rows, self.num_columns), initializer="zeros", trainable=False,
                                    name="rows")
        self.built, self._index = True, None

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def fit(self, x: np.ndarray) -> None:
        """Takes the rows x (n, d)."""
        self.rows.assign(x)
        self._index = None

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Returns the scores (m,) of rows x (m, d), as `call` does, by scikit-learn's search."""
        if self._index is None:
            rows = self._placed(tf.convert_to_tensor(self.rows.value)).numpy()
            self._index = NearestNeighbors(n_neighbors=self._searched, metric="manhattan", algorithm="brute").fit(rows)
        placed = self._placed(tf.convert_to_tensor(x)).numpy()
        return self._of(self._index.kneighbors(placed)[0])

    @property
    def _searched(self) -> int:
        return min(self.count, self.num_rows)

    def _of(self, distances: np.ndarray) -> np.ndarray:
        return np.mean(np.log(distances + LEAST * self.num_columns), axis=-1)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the scores (m,) of rows x (m, d)."""
        rows = self._placed(tf.cast(self.rows.value, x.dtype))

        def one(row: tf.Tensor) -> tf.Tensor:
            away = tf.reduce_sum(tf.abs(row - rows), axis=-1)
            nearest = -tf.math.top_k(-away, self._searched).values
            return tf.reduce_mean(tf.math.log(nearest + LEAST * self.num_columns))

        return tf.map_fn(one, self._placed(x))

    def _placed(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the columns of x (m, d) as they are compared."""
        if not self.ranked:
            return x
        columns = tf.sort(tf.transpose(tf.cast(self.rows.value, x.dtype)), axis=-1)
        values = tf.transpose(x)
        found = [tf.searchsorted(columns, values, side=side) for side in ("left", "right")]
        share = tf.cast(found[0] + found[1], x.dtype) / (2.0 * self.num_rows)
        edge = 0.5 / self.num_rows
        return tf.transpose(tf.math.ndtri(tf.clip_by_value(share, edge, 1.0 - edge)))

    def get_config(self) -> dict[str, Any]:
        own = ("num_columns", "num_rows", "ranked", "count")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}
