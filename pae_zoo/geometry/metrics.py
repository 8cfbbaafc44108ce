"""What a metric says of a point: its magnification, and the ellipse of unit speed."""

import numpy as np
import tensorflow as tf

from pae_zoo.geometry.batching import RowMap
from pae_zoo.geometry.manifold import Manifold


def log_volume(metric: tf.Tensor) -> tf.Tensor:
    """Returns 1/2 log det G of metrics (..., d, d), the log of the magnification factor, shape (...).

    Minus infinity where the decoder is constant along some direction (Bishop et al., "Magnification factors for the
    GTM algorithm", 1997), NaN where the metric is no number.

    Examples:
      >>> round(float(log_volume(tf.constant([[4.0, 0.0], [0.0, 9.0]]))), 3)  # log (2 * 3)
      1.792
    """
    metric = tf.convert_to_tensor(metric)
    usable = tf.reduce_all(tf.math.is_finite(metric), axis=(-2, -1))
    # The decomposition of one bad metric would fail for all of them.
    safe = tf.where(usable[..., None, None], metric, tf.eye(metric.shape[-1], dtype=metric.dtype))
    found = 0.5 * tf.reduce_sum(tf.math.log(tf.maximum(tf.linalg.eigvalsh(safe), 0.0)), axis=-1)
    return tf.where(usable, found, tf.constant(np.nan, metric.dtype))


def indicatrices(metric: np.ndarray, num_points: int = 64) -> np.ndarray:
    """Returns the vectors v with v' G v = 1 of plane metrics (..., 2, 2), shape (..., num_points, 2).

    Long axes are directions in which the data change little. A direction without any change is cut at 1e6.
    """
    values, vectors = np.linalg.eigh(np.asarray(metric, np.float64))
    radii = 1.0 / np.sqrt(np.maximum(values, 1e-12))
    angles = np.linspace(0.0, 2 * np.pi, num_points)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return np.einsum("...ij,...j,nj->...ni", vectors, radii, circle)


class Fields:
    """Metric, magnification and uncertainty of one manifold at many points, compiled once."""

    def __init__(self, manifold: Manifold, memory_mib: float = 256, jit_compile: bool = True):
        dtype = manifold.dtype.as_numpy_dtype
        row = (2 + manifold.latent_dim) * manifold.size * manifold.dtype.size
        self._dtype = dtype
        self._metric = RowMap(manifold.metric, row, memory_mib, jit_compile)
        self._uncertainty = RowMap(manifold.uncertainty, row, memory_mib, jit_compile)

    def metric(self, z: np.ndarray) -> np.ndarray:
        """Returns E[G] at z (n, d), shape (n, d, d)."""
        return self._metric(np.asarray(z, self._dtype))

    def log_volume(self, z: np.ndarray) -> np.ndarray:
        """Returns the log magnification factor at z (n, d), shape (n,)."""
        return log_volume(tf.constant(self.metric(z).astype(np.float64))).numpy()

    def uncertainty(self, z: np.ndarray) -> np.ndarray:
        """Returns the mean over outputs of the decoder's std at z (n, d), shape (n,)."""
        return self._uncertainty(np.asarray(z, self._dtype))
