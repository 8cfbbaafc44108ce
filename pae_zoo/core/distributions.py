"""TFP distributions whose draws come from `pae_zoo.core.seeds`: the same eagerly and under XLA.

`sample` takes a pair of integers as seed and raises ValueError for anything else, so that no draw has hidden
state.
"""

import math
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.core import seeds

LOG_2PI = math.log(2.0 * math.pi)


class Normal(tfp.distributions.Normal):
    """N(loc, scale^2); the shapes of loc and scale broadcast.

    Examples:
      >>> normal = Normal(0.0, 2.0)
      >>> bool(normal.sample(seed=(0, 1)) == normal.sample(seed=(0, 1)))
      True
      >>> round(float(normal.log_prob(0.0)), 3)
      -1.612
    """

    def _sample_n(self, n, seed: Any = None):
        loc, scale = tf.convert_to_tensor(self.loc), tf.convert_to_tensor(self.scale)
        shape = tf.broadcast_dynamic_shape(tf.shape(loc), tf.shape(scale))
        return loc + scale * seeds.normal(tf.concat([[n], shape], axis=0), seed, self.dtype)


class Bernoulli(tfp.distributions.Bernoulli):
    """Bernoulli(sigmoid(logits)) or Bernoulli(probs)."""

    def _sample_n(self, n, seed: Any = None):
        probs = self.probs_parameter()
        shape = tf.concat([[n], tf.shape(probs)], axis=0)
        return tf.cast(seeds.uniform(shape, seed, probs.dtype) < probs, self.dtype)


class RootNormal(tfp.distributions.Distribution):
    """N(loc, root root^T) of vectors; loc has shape (..., K), root (..., K, K) is any invertible matrix.

    Examples:
      >>> RootNormal(tf.zeros(2), tf.constant([[2.0, 0.0], [1.0, 1.0]])).covariance().numpy().tolist()
      [[4.0, 2.0], [2.0, 2.0]]
    """

    def __init__(self, loc, root, name: str = "RootNormal"):
        parameters = dict(loc=loc, root=root)
        self.loc, self.root = tf.convert_to_tensor(loc), tf.convert_to_tensor(root)
        super().__init__(
            dtype=self.loc.dtype, reparameterization_type=tfp.distributions.FULLY_REPARAMETERIZED,
            validate_args=False, allow_nan_stats=True, parameters=parameters, name=name,
        )  # fmt: skip

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        properties = tfp.util.ParameterProperties
        return dict(loc=properties(event_ndims=1), root=properties(event_ndims=2))

    def _event_shape(self):
        return self.loc.shape[-1:]

    def _event_shape_tensor(self):
        return tf.shape(self.loc)[-1:]

    def _sample_n(self, n, seed: Any = None):
        noise = seeds.normal(tf.concat([[n], tf.shape(self.loc)], axis=0), seed, self.dtype)
        return self.loc + tf.linalg.matvec(self.root, noise)

    def _log_prob(self, value):
        # |det root| by its QR factors: XLA has no LU, and the root need not be triangular.
        q, r = tf.linalg.qr(self.root)
        rotated = tf.linalg.matvec(q, value - self.loc, adjoint_a=True)
        noise = tf.linalg.triangular_solve(r, rotated[..., None], lower=False)
        log_det = tf.reduce_sum(tf.math.log(tf.abs(tf.linalg.diag_part(r))), axis=-1)
        num_dims = tf.cast(tf.shape(self.loc)[-1], self.dtype)
        square = tf.reduce_sum(tf.square(noise[..., 0]), axis=-1)
        return -0.5 * square - 0.5 * num_dims * LOG_2PI - log_det

    def _mean(self):
        return tf.broadcast_to(self.loc, tf.shape(self.loc))

    def _covariance(self):
        return tf.matmul(self.root, self.root, transpose_b=True)

    def _variance(self):
        return tf.reduce_sum(tf.square(self.root), axis=-1)

    def _stddev(self):
        return tf.sqrt(self._variance())


def gamma(shape: tf.Tensor, concentration: tf.Tensor, seed: seeds.Seed, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Draws from Gamma(concentration, 1) by inversion; the shape of the concentration broadcasts to `shape`."""
    concentration = tf.broadcast_to(tf.cast(concentration, dtype), shape)
    return tfp.math.igammainv(concentration, seeds.uniform(shape, seed, dtype))


def poisson(num: Any, rate: tf.Tensor, seed: seeds.Seed) -> tf.Tensor:
    """Draws counts of mean `rate` (...), (num, ...), by inversion: the first k with P(Y <= k) = Q(k + 1, rate) >= u."""
    rate = tf.convert_to_tensor(rate)
    shape = tf.concat([[num], tf.shape(rate)], axis=0)
    rate = tf.broadcast_to(rate, shape)
    level = seeds.uniform(shape, seed, rate.dtype)
    away = 12.0 * tf.sqrt(rate) + 40.0  # no level is so near to 0 or 1
    low, high = tf.maximum(tf.floor(rate - away), -1.0), tf.math.ceil(rate + away)

    def halve(step, low, high):
        middle = tf.floor(0.5 * (low + high))
        enough = tf.math.igammac(middle + 1.0, rate) >= level
        return step + 1, tf.where(enough, low, middle), tf.where(enough, middle, high)

    def wide(step, low, high):
        return (step < 64) & tf.reduce_any(high - low > 1.0)

    return tf.while_loop(wide, halve, (tf.constant(0), low, high))[2]
