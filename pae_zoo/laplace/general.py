"""Systems beyond one decoder and N(0, I): any function of z, any prior."""

from typing import Any, Callable, Optional

import tensorflow as tf

from pae_zoo.inference import derivatives
from pae_zoo.laplace import algebra
from pae_zoo.laplace import chain as chains
from pae_zoo.laplace.systems import Local, System

# Least curvature of -log p(z) that is believed, of a prior whose unit is 1: q stays that wide at most.
LEAST_CURVATURE = 1e-2


class FunctionSystem(System):
    """The system of any differentiable function of z, by forward mode.

    Args:
      outputs: maps z (batch, K) to values (batch, n), which the observation model takes.
      log_prob: maps such values to log p(y|z) in nats, (batch,).
      score_and_fisher: maps them to d log p(y|z)/d values and the diagonal of their Fisher information, (batch, n)
        each.
    """

    def __init__(self, outputs: Callable[[tf.Tensor], tf.Tensor], log_prob: Callable[[tf.Tensor], tf.Tensor],
                 score_and_fisher: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]):
        self.outputs, self.log_prob_of, self.score_and_fisher_of = outputs, log_prob, score_and_fisher

    def at(self, mu: tf.Tensor) -> Local:
        score, fisher = self.score_and_fisher_of(self.outputs(mu))
        rows = tf.transpose(derivatives.jacobian(self._anywhere, mu), (1, 0, 2))
        return Local(algebra.weighted_gram(rows, fisher), tf.linalg.matvec(rows, score) - mu)

    def _anywhere(self, points: tf.Tensor) -> tf.Tensor:
        """Returns `outputs` at points (..., batch, K), with their leading axes."""
        values = self.outputs(tf.reshape(points, (-1, points.shape[-1])))
        return tf.reshape(values, (*chains.leading(points), values.shape[-1]))

    def log_joint(self, mu: tf.Tensor) -> tf.Tensor:
        # Data are those of one batch, so points beside it are taken one after the other.
        flat = tf.reshape(mu, (-1, *chains.leading(mu)[-1:], mu.shape[-1]))
        found = tf.map_fn(lambda points: self.log_prob_of(self.outputs(points)), flat, fn_output_signature=mu.dtype)
        return tf.reshape(found, chains.leading(mu)) - 0.5 * tf.reduce_sum(tf.square(mu), axis=-1)


class WithPrior(System):
    """A system whose prior is not N(0, I): its gradient, and the Hessian of its log density by differentiation.

    -d^2 log p(z)/dz^2 may be indefinite where the prior is not log-concave. Its eigenvalues are replaced by their
    absolute values (Dauphin et al., arXiv 1406.2572), at least 0.01, so that Lambda stays a precision.

    Args:
      system: the system under N(0, I).
      log_prior: maps z (..., K) to log p(z) in nats, (...).
      curvature: maps z (batch, K) to a positive definite -d^2 log p(z)/dz^2, (batch, K, K), where it is known; None
        takes it by differentiation.
    """

    def __init__(self, system: System, log_prior: Callable[[tf.Tensor], tf.Tensor],
                 curvature: Optional[Callable[[tf.Tensor], tf.Tensor]] = None):
        self.system, self.log_prior, self.known_curvature = system, log_prior, curvature

    def at(self, mu: tf.Tensor) -> Local:
        gram, gradient = self.system.at(mu)
        eye = tf.eye(mu.shape[-1], dtype=gram.dtype)
        return Local(gram + tf.cast(self._curvature(mu), gram.dtype) - eye, self._risen(mu, gradient))

    def products(self, mu: tf.Tensor) -> tuple[algebra.Product, tf.Tensor]:
        product, gradient = self.system.products(mu)

        def with_prior(v):
            return product(v) - v + tf.linalg.matvec(self._curvature(mu), v)

        return with_prior, self._risen(mu, gradient)

    def _curvature(self, mu: tf.Tensor) -> tf.Tensor:
        if self.known_curvature is not None:
            return self.known_curvature(mu)
        return algebra.function_of(-derivatives.hessian(self.log_prior, mu), _absolute)

    def _risen(self, mu: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        return gradient + mu + derivatives.value_and_gradient(self.log_prior, mu)[1]

    def gain(self, mu: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
        prior = 0.5 * tf.reduce_sum((points - mu) * (points + mu), axis=-1)
        return self.system.gain(mu, points) + prior + self.log_prior(points) - self.log_prior(mu)

    def log_joint(self, mu: tf.Tensor) -> tf.Tensor:
        return self.system.log_joint(mu) + 0.5 * tf.reduce_sum(tf.square(mu), axis=-1) + self.log_prior(mu)


def _absolute(values: Any) -> tuple[Any, Any]:
    size = tf.abs(values)
    return tf.maximum(size, LEAST_CURVATURE), tf.where(size > LEAST_CURVATURE, tf.sign(values), tf.zeros_like(values))
