"""Columns of whole numbers, which a density would make spikes of, and the noise that spreads them over their cells."""

from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds

# Columns of more different values, or with fewer rows to each than these, are taken for measurements.
MOST_VALUES, LEAST_ROWS = 256, 2


def whole_columns(x: np.ndarray, num_dims: int) -> np.ndarray:
    """Returns for each column of x (n, width) whether it is among the first num_dims and holds few whole numbers alone.

    Few are up to 256 different ones, with two rows or more to each of them on average.
    """
    found = np.zeros(x.shape[1], bool)
    for i in range(num_dims):
        values = np.unique(x[:, i])
        few = len(values) <= min(MOST_VALUES, len(x) / LEAST_ROWS)
        found[i] = few and bool(np.isfinite(values).all() and (values == np.round(values)).all())
    return found


def spread(x: Any, whole: np.ndarray, seed: Any) -> tf.Tensor:
    """Returns x (n, width) with uniform noise on [-1/2, 1/2) in the columns `whole`; the same seed, the same noise."""
    x = tf.convert_to_tensor(x)
    return x + tf.cast(whole, x.dtype) * (seeds.uniform(tf.shape(x), seed, x.dtype) - 0.5)
