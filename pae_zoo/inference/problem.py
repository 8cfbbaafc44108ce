"""The posterior of a base variable u given what is seen of a batch of data."""

from collections.abc import Callable
from typing import Optional, Union

import tensorflow as tf

from pae_zoo.inference.derivatives import hessian, jacobian
from pae_zoo.inference.observation import Averaged, Bernoulli, Gaussian


class Problem:
    """log p(u, y_seen) = log p(u) + sum over seen p of log p(y_p|u), for a batch of data at once.

    Boehm & Seljak, arXiv 2006.05479, section 3.4, and the notebooks on corrupted images. u has the shape
    (..., batch, K); leading axes may be starts, chains or draws. All methods run eagerly, in tf.function and under
    XLA.

    Args:
      log_prior: u (..., K) -> log p(u), shape (...).
      decode: u (..., K) -> outputs of the decoder, shape (..., *event) for y, with any number of leading axes.
      observation: `Gaussian` or `Bernoulli`.
      y: data (batch, *event); hidden values do not matter, they need not even be finite.
      seen: (batch, *event) or (*event), True or 1 where y is known.
      prior_precision: u (..., K) -> a positive definite matrix (..., K, K) that has the place of the Hessian of
        -log p(u) in `gauss_newton`; None takes the Hessian, which a mixture need not have positive definite.
    """

    def __init__(self, log_prior: Callable, decode: Callable, observation: Union[Gaussian, Averaged, Bernoulli], y,
                 seen, prior_precision: Optional[Callable] = None):
        self.log_prior, self.decode, self.observation = log_prior, decode, observation
        self.prior_precision = prior_precision
        y = tf.convert_to_tensor(y)
        seen = tf.broadcast_to(tf.cast(seen, tf.bool), tf.shape(y))
        self.seen = tf.cast(seen, y.dtype)
        self.y = tf.where(seen, y, tf.zeros_like(y))
        self._event_axes = list(range(1 - y.shape.rank, 0))

    def of_data(self, index: tf.Tensor) -> "Problem":
        """Returns the problem of the data `index` (n,), which may repeat."""
        return Problem(self.log_prior, self.decode, self.observation, tf.gather(self.y, index),
                       tf.gather(self.seen, index) > 0, self.prior_precision)

    @property
    def num_seen(self) -> tf.Tensor:
        """The number of seen values of every datum, (batch,)."""
        return self._sum(self.seen)

    def log_likelihood(self, u: tf.Tensor) -> tf.Tensor:
        """Returns log p(y_seen|u) in nats, a density of y, shape (..., batch)."""
        return self.log_likelihood_of(self.decode(u))

    def log_likelihood_of(self, outputs: tf.Tensor) -> tf.Tensor:
        """Returns log p(y_seen) in nats given outputs of the decoder (..., batch, *event), or (..., 1, *event)."""
        values = self.observation.log_prob(outputs, self.y)
        return self._sum(values * tf.cast(self.seen, values.dtype))

    def log_joint(self, u: tf.Tensor) -> tf.Tensor:
        """Returns log p(u) + log p(y_seen|u) in nats, shape (..., batch)."""
        return self.log_prior(u) + self.log_likelihood(u)

    def chi_square(self, u: tf.Tensor) -> tf.Tensor:
        """Returns the mean over seen values of (y - mean)^2 / variance, shape (..., batch)."""
        return self._sum(self.squares(u)) / self.num_seen

    def squares(self, u: tf.Tensor) -> tf.Tensor:
        """Returns (y - mean)^2 / variance of every seen value, 0 of others, shape (..., batch, *event)."""
        outputs = self.decode(u)
        return (self.y - self.observation.mean(outputs)) ** 2 / self.observation.variance(outputs) * self.seen

    def hessian(self, u: tf.Tensor) -> tf.Tensor:
        """Returns the Hessian of -log p(u, y_seen), exact, shape (..., batch, K, K)."""
        return -hessian(self.log_joint, u)

    def fisher(self, u: tf.Tensor) -> tf.Tensor:
        """Returns the Fisher information J^T S^-1 J of the seen values about u, shape (..., batch, K, K).

        It is E[score score^T] and the mean Hessian of -log p(y_seen|u) over y ~ p(y|u); J by K forward products.
        """

        def features(points):
            parts = self.observation.features(self.decode(points))
            parts = [part * tf.cast(self.seen, part.dtype) for part in parts]
            lead = [tf.shape(points)[axis] if size is None else size for axis, size in enumerate(points.shape[:-1])]
            shape = (*lead, self.y.shape[1:].num_elements())
            return tf.concat([tf.reshape(part, shape) for part in parts], axis=-1)

        found = jacobian(features, u)  # (K, ..., batch, values)
        found = tf.transpose(found, [*range(1, len(found.shape) - 1), 0, len(found.shape) - 1])
        return tf.matmul(found, found, transpose_b=True)

    def gauss_newton(self, u: tf.Tensor) -> tf.Tensor:
        """Returns the Hessian of -log p(u), or `prior_precision`, plus `fisher`: I + J^T S^-1 J under N(0, I)."""
        curvature = -hessian(self.log_prior, u) if self.prior_precision is None else self.prior_precision(u)
        return self.fisher(u) + curvature

    def _sum(self, values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(values, axis=self._event_axes)
