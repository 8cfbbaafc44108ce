"""Densities over latents: the proposals q(z|x) of the VAE family."""

from typing import Any, Callable

import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.core import distributions, seeds
from pae_zoo.core.distributions import LOG_2PI

tfd = tfp.distributions



def diag_normal(mean: tf.Tensor, stddev: tf.Tensor) -> tfd.Independent:
    """Returns N(mean, diag(stddev^2)) with one event axis; mean and stddev have shape (..., K)."""
    return tfd.Independent(distributions.Normal(mean, stddev), reinterpreted_batch_ndims=1)


def standard_normal(latent_dim: int, dtype: tf.DType) -> tfd.Independent:
    """Returns N(0, I) over latent_dim dimensions."""
    return diag_normal(tf.zeros([latent_dim], dtype), tf.ones([latent_dim], dtype))


def standard_normal_log_prob(z: tf.Tensor) -> tf.Tensor:
    """Returns log N(z; 0, I) in nats, summed over the last axis: (..., K) -> (...)."""
    num_dims = tf.cast(tf.shape(z)[-1], z.dtype)
    return -0.5 * (tf.reduce_sum(tf.square(z), axis=-1) + num_dims * LOG_2PI)


class Posterior:
    """q(z|x) of a batch of data, as a map from standard normal noise to latents and their log density.

    Every model of the amortisation line offers one with these members, so that objective and evaluation are shared.
    """

    #: named numbers of shape (batch,) about how q was found, tracked beside the objective's terms
    diagnostics: dict[str, tf.Tensor] = {}
    #: (batch,), added to the objective's loss: zeros whose gradient trains what proposed q and is not reached through q
    lesson: Any = 0.0

    def from_noise(self, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Maps noise (..., batch, K) to (z, log q(z|x)) of shapes (..., batch, K) and (..., batch)."""
        raise NotImplementedError(f"{type(self).__name__} does not draw latents.")

    def log_prob(self, z: tf.Tensor) -> tf.Tensor:
        """Returns log q(z|x) in nats for any z (..., batch, K), shape (..., batch)."""
        raise NotImplementedError(f"{type(self).__name__} has no density for a given z.")

    def point(self) -> tf.Tensor:
        """Returns the latent that stands for each datum, (batch, K): the image of zero noise, a Gaussian's mean."""
        raise NotImplementedError(f"{type(self).__name__} has no central latent.")

    def moments(self, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and variance, each (batch, K): those of `distribution`, or else those of draws (S, batch, K)."""
        distribution = self.distribution()
        return distribution.mean(), distribution.variance()

    def kl_to_prior(self) -> tf.Tensor:
        """Returns KL(q || N(0, I)) in nats, (batch,), where it has a closed form."""
        raise NotImplementedError(f"{type(self).__name__} has no closed form of its KL; estimate it with --kl=mc.")

    def distribution(self) -> tfd.Distribution:
        """Returns the same density as a `tfd` distribution over z, event shape (K,)."""
        raise NotImplementedError(f"{type(self).__name__} is no tfd distribution.")

    def stopped(self) -> "Posterior":
        """Returns the same density without gradients to its parameters, for sticking the landing."""
        raise NotImplementedError(f"{type(self).__name__} cannot be held fixed; take --gradient=pathwise.")


class PosteriorDistribution(tfd.Distribution):
    """A posterior without closed-form moments as a `tfd` distribution: draws, and the density at any z.

    Args:
      posterior: a `Posterior` with `from_noise` and `log_prob`.
      like: a tensor of the shape of one draw, (batch, K).
    """

    def __init__(self, posterior: Posterior, like: tf.Tensor, name: str = "PosteriorDistribution"):
        self._posterior, self._like = posterior, like
        super().__init__(
            dtype=like.dtype, reparameterization_type=tfd.FULLY_REPARAMETERIZED, validate_args=False,
            allow_nan_stats=True, parameters=dict(posterior=posterior, like=like, name=name), name=name,
        )  # fmt: skip

    def _batch_shape(self):
        return self._like.shape[:-1]

    def _batch_shape_tensor(self):
        return tf.shape(self._like)[:-1]

    def _event_shape(self):
        return self._like.shape[-1:]

    def _event_shape_tensor(self):
        return tf.shape(self._like)[-1:]

    def _sample_n(self, n, seed: Any = None):
        noise = seeds.normal(tf.concat([[n], tf.shape(self._like)], axis=0), seed, self.dtype)
        return self._posterior.from_noise(noise)[0]

    def _log_prob(self, value):
        return self._posterior.log_prob(value)

    def _mean(self):
        raise NotImplementedError("The moments of noise sent through a flow have no closed form; draw from it.")

    _variance = _stddev = _covariance = _mean


class DiagonalPosterior(Posterior):
    """q(z|x) = N(mean, diag(stddev^2)), the proposal of a VAE; mean and stddev have shape (batch, K)."""

    def __init__(self, mean: tf.Tensor, stddev: tf.Tensor):
        self.mean = mean
        self.stddev = stddev

    def from_noise(self, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        z = self.mean + self.stddev * noise
        log_q = standard_normal_log_prob(noise) - tf.reduce_sum(tf.math.log(self.stddev), axis=-1)
        return z, log_q

    def log_prob(self, z: tf.Tensor) -> tf.Tensor:
        log_det = tf.reduce_sum(tf.math.log(self.stddev), axis=-1)
        return standard_normal_log_prob((z - self.mean) / self.stddev) - log_det

    def point(self) -> tf.Tensor:
        return self.mean

    def kl_to_prior(self) -> tf.Tensor:
        """Returns 1/2 sum(stddev^2 + mean^2 - 1 - log stddev^2), nats, (batch,)."""
        variance = tf.square(self.stddev)
        return 0.5 * tf.reduce_sum(
            variance + tf.square(self.mean) - 1.0 - 2.0 * tf.math.log(self.stddev), axis=-1
        )

    def distribution(self) -> tfd.Distribution:
        return diag_normal(self.mean, self.stddev)

    def stopped(self) -> "DiagonalPosterior":
        return DiagonalPosterior(tf.stop_gradient(self.mean), tf.stop_gradient(self.stddev))


class PrecisionPosterior(Posterior):
    """q(z|x) = N(mean, Lambda^-1) from the Cholesky factor R of the precision Lambda = R R^T; no matrix is inverted.

        z = mean + R^-T eps,    log q(z) = -|R^T (z - mean)|^2 / 2 - K/2 log 2 pi + sum log diag R

    mean has shape (batch, K), R (batch, K, K), lower triangular (Park et al., ICML 2019, eq. 13).
    """

    def __init__(self, mean: tf.Tensor, factor: tf.Tensor):
        self.mean = mean
        self.factor = factor

    @property
    def log_det(self) -> tf.Tensor:
        """sum log diag R = 1/2 log |Lambda|, (batch,)."""
        return tf.reduce_sum(tf.math.log(tf.linalg.diag_part(self.factor)), axis=-1)

    def from_noise(self, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        z = self.mean + self._columns(noise, lambda e: tf.linalg.triangular_solve(self.factor, e, adjoint=True))
        return z, standard_normal_log_prob(noise) + self.log_det

    def log_prob(self, z: tf.Tensor) -> tf.Tensor:
        noise = self._columns(z - self.mean, lambda d: tf.matmul(self.factor, d, transpose_a=True))
        return standard_normal_log_prob(noise) + self.log_det

    def _columns(self, values: tf.Tensor, solve: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """Applies a map of matrices (batch, K, n) to vectors (..., batch, K)."""
        if values.shape.rank == 2:
            return solve(values[..., None])[..., 0]
        shape = tf.shape(values)
        columns = tf.transpose(tf.reshape(values, (-1, shape[-2], shape[-1])), (1, 2, 0))
        return tf.reshape(tf.transpose(solve(columns), (2, 0, 1)), shape)

    def point(self) -> tf.Tensor:
        return self.mean

    def covariance_root(self) -> tf.Tensor:
        """Returns R^-T, upper triangular with covariance = root root^T, (batch, K, K)."""
        eye = tf.eye(self.factor.shape[-1], batch_shape=[tf.shape(self.factor)[0]], dtype=self.factor.dtype)
        return tf.linalg.triangular_solve(self.factor, eye, adjoint=True)

    def kl_to_prior(self) -> tf.Tensor:
        """Returns 1/2 (|R^-1|_F^2 + |mean|^2 - K + 2 sum log diag R), nats, (batch,)."""
        return gaussian_kl(self.mean, tf.reduce_sum(tf.square(self.covariance_root()), axis=[-2, -1]), self.log_det)

    def distribution(self) -> tfd.Distribution:
        return distributions.RootNormal(self.mean, self.covariance_root())

    def stopped(self) -> "Posterior":
        return PrecisionPosterior(tf.stop_gradient(self.mean), tf.stop_gradient(self.factor))


class RootPosterior(Posterior):
    """q(z|x) = N(mean, root root), root symmetric and (batch, K, K), of which the inverse is known too.

    `log_det` is log |root^-1|, (batch,).
    """

    def __init__(self, mean: tf.Tensor, root: tf.Tensor, inverse_root: tf.Tensor, log_det: tf.Tensor):
        self.mean, self.root, self.inverse_root, self.log_det = mean, root, inverse_root, log_det

    def from_noise(self, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self.mean + tf.linalg.matvec(self.root, noise), standard_normal_log_prob(noise) + self.log_det

    def log_prob(self, z: tf.Tensor) -> tf.Tensor:
        return standard_normal_log_prob(tf.linalg.matvec(self.inverse_root, z - self.mean)) + self.log_det

    def point(self) -> tf.Tensor:
        return self.mean

    def kl_to_prior(self) -> tf.Tensor:
        """Returns 1/2 (|root|_F^2 + |mean|^2 - K + 2 log |root^-1|), nats, (batch,)."""
        return gaussian_kl(self.mean, tf.reduce_sum(tf.square(self.root), axis=[-2, -1]), self.log_det)

    def distribution(self) -> tfd.Distribution:
        return distributions.RootNormal(self.mean, self.root)

    def stopped(self) -> "Posterior":
        parts = (self.mean, self.root, self.inverse_root, self.log_det)
        return RootPosterior(*(tf.stop_gradient(part) for part in parts))


def gaussian_kl(mean: tf.Tensor, trace: tf.Tensor, half_log_precision: tf.Tensor) -> tf.Tensor:
    """Returns KL(N(mean, C) || N(0, I)) in nats from mean (batch, K), tr C and -1/2 log |C|, both (batch,)."""
    num_dims = tf.cast(tf.shape(mean)[-1], mean.dtype)
    return 0.5 * (trace + tf.reduce_sum(tf.square(mean), axis=-1) - num_dims) + half_log_precision
