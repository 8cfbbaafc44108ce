"""Normal densities over latents, and the proposal of a VAE."""

import math

import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo import distributions

tfd = tfp.distributions

LOG_2PI = math.log(2.0 * math.pi)


def diag_normal(mean: tf.Tensor, stddev: tf.Tensor) -> tfd.Independent:
    """Returns N(mean, diag(stddev^2)) with one event axis; mean and stddev have shape (..., K)."""
    return tfd.Independent(distributions.Normal(mean, stddev), reinterpreted_batch_ndims=1)


def standard_normal_log_prob(z: tf.Tensor) -> tf.Tensor:
    """Returns log N(z; 0, I) in nats, summed over the last axis: (..., K) -> (...)."""
    num_dims = tf.cast(tf.shape(z)[-1], z.dtype)
    return -0.5 * (tf.reduce_sum(tf.square(z), axis=-1) + num_dims * LOG_2PI)


class DiagonalPosterior:
    """q(z|x) = N(mean, diag(stddev^2)), the proposal of a VAE; mean and stddev have shape (batch, K).

    A proposal maps standard normal noise to latents together with their log density. Every model of
    the amortisation line offers one with these members, so that objective and evaluation are shared.
    """

    def __init__(self, mean: tf.Tensor, stddev: tf.Tensor):
        self.mean = mean
        self.stddev = stddev

    def from_noise(self, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Maps noise (..., batch, K) to (z, log q(z|x)) of shapes (..., batch, K) and (..., batch)."""
        z = self.mean + self.stddev * noise
        log_q = standard_normal_log_prob(noise) - tf.reduce_sum(tf.math.log(self.stddev), axis=-1)
        return z, log_q

    def kl_to_prior(self) -> tf.Tensor:
        """Returns KL(q || N(0, I)) = 1/2 sum(stddev^2 + mean^2 - 1 - log stddev^2), nats, (batch,)."""
        variance = tf.square(self.stddev)
        return 0.5 * tf.reduce_sum(
            variance + tf.square(self.mean) - 1.0 - 2.0 * tf.math.log(self.stddev), axis=-1
        )

    def distribution(self) -> tfd.Distribution:
        """Returns the same density as a `tfd` distribution over z, event shape (K,)."""
        return diag_normal(self.mean, self.stddev)
