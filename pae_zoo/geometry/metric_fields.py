"""Metrics that are given as functions of the latents, without a decoder's features."""

from collections.abc import Callable
from typing import Optional

import tensorflow as tf

from pae_zoo.geometry.manifold import Manifold, Segments, differences, flatten


class MetricField(Manifold):
    """A metric given as a function: G: z (n, d) -> (n, d, d); a piece of a curve has the metric of its middle.

    size: floats that the metric of one point keeps alive while it is computed; None: those of the metric.
    """

    def __init__(self, metric: Callable[[tf.Tensor], tf.Tensor], latent_dim: int, dtype: tf.DType = tf.float32,
                 size: Optional[int] = None):  # fmt: skip
        self._metric, self.latent_dim, self.dtype = metric, latent_dim, dtype
        self._size = latent_dim**2 if size is None else size

    @property
    def size(self) -> int:
        return self._size

    def metric(self, z: tf.Tensor) -> tf.Tensor:
        flat, lead = flatten(z, self.dtype)
        return tf.reshape(tf.cast(self._metric(flat), self.dtype), (*lead, self.latent_dim, self.latent_dim))

    def segments(self, z: tf.Tensor) -> Segments:
        z = tf.cast(z, self.dtype)
        step = differences(z)
        found = tf.einsum("...i,...ij,...j->...", step, self.metric(z[..., :-1, :] + 0.5 * step), step)
        return Segments(found, found, tf.zeros_like(z[..., 0]))


def conformal(base: Manifold, factor: Callable[[tf.Tensor], tf.Tensor]) -> MetricField:
    """Returns the metric factor(z) E[G](z) of a manifold: its angles with other lengths.

    factor: z (n, d) -> (n,), positive.
    """
    size = (base.latent_dim + 1) * base.size  # one forward-mode product for each direction
    return MetricField(lambda z: factor(z)[:, None, None] * base.metric(z), base.latent_dim, base.dtype, size)


def local_variance(points: tf.Tensor, width: float, floor: float) -> MetricField:
    """Returns the diagonal metric G_jj(z) = 1 / (sum_n w_n(z) (x_n - z)_j^2 + floor), w_n a Gaussian of std `width`.

    points x: (n, d). Geodesics stay where data are (Arvanitidis et al., "A locally adaptive normal distribution",
    arXiv 1606.02518, eq. 5).
    """
    points = tf.convert_to_tensor(points)

    def metric(z):
        squares = tf.square(points - z[:, None])
        weights = tf.exp(-tf.reduce_sum(squares, axis=-1) / (2 * width**2))
        return tf.linalg.diag(1.0 / (tf.einsum("zn,znj->zj", weights, squares) + floor))

    return MetricField(metric, points.shape[-1], points.dtype, 2 * points.shape[0] * points.shape[1])
