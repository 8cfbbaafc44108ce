"""A Gaussian process as decoder: mean, variance and expected metric in closed form, computed in float64."""

from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.core.errors import UserError
from pae_zoo.geometry.manifold import Manifold, Segments


class Factors(NamedTuple):
    """What a Gaussian process keeps of its N data, all float64.

    latents Z: (N, d). coefficients a = K^-1 (X - offset): (N, D), with K = k(Z, Z) + noise_std^2 I. whitening W:
    (N, N), lower triangular, with W' W = K^-1. offset: (D,), the mean of the data.
    """

    latents: Any
    coefficients: Any
    whitening: Any
    offset: Any


def factorise(latents: np.ndarray, data: np.ndarray, length_scale: float, signal_std: float,
              noise_std: float) -> Factors:
    """Returns the factors of N latents (N, d) and data (N, ...), as numpy arrays.

    Raises UserError for numbers that do not pair or are not finite, and for scales that are not positive.
    """
    latents, data, root = _covariance(latents, data, length_scale, signal_std, noise_std)
    whitening = np.linalg.solve(root, np.eye(len(root)))
    offset = data.mean(axis=0)
    return Factors(latents, whitening.T @ (whitening @ (data - offset)), np.tril(whitening), offset)


def log_evidence(latents: np.ndarray, data: np.ndarray, length_scale: float, signal_std: float,
                 noise_std: float) -> float:
    """Returns log p(X - mean | Z) of data X (N, ...), nats, the sum over the outputs.

    For latents on a ring it grows with the length scale, far beyond where the process still knows of the hole in the
    ring: maximising it closes the hole.
    """
    latents, data, root = _covariance(latents, data, length_scale, signal_std, noise_std)
    white = np.linalg.solve(root, data - data.mean(axis=0))
    log_det = 2 * np.sum(np.log(np.diag(root)))
    return float(-0.5 * np.sum(white**2) - 0.5 * data.shape[1] * (log_det + len(data) * LOG_2PI))


class GaussianProcess(Manifold):
    """One Gaussian process for each of D outputs, with the kernel k(z, z') = signal_std^2 exp(-|z - z'|^2 / 2 l^2).

        mean      m(z) = offset + a' k_z,                       k_z = k(Z, z) (N,)
        variance  c(z, z) = signal_std^2 - |W k_z|^2            of each output
        metric    E[G] = E[J]' E[J] + D C,   E[J] = a' dk_z,    C = signal_std^2 / l^2 I - (W dk_z)' (W dk_z)
        segment   E |f(b) - f(a)|^2 = |m(b) - m(a)|^2 + D s,
                  s = 2 signal_std^2 (1 - exp(-|b - a|^2 / 2 l^2)) - |W (k_b - k_a)|^2

    dk_z (N, d) is the derivative of k_z, and a, W are those of `Factors` (Tosi et al., "Metrics for probabilistic
    geometries", UAI 2014; Hauberg, "Only Bayes should learn a manifold", arXiv 1806.04994). The scales are given, not
    fitted. All is computed in float64 and returned in the type of z.

    Args:
      latents: (N, d).
      data: (N, ...), flattened to D outputs.
      length_scale, signal_std, noise_std: l and the stds of signal and observation noise.
      num_outputs: D' >= D where the data lie in a linear subspace of so many dimensions: each further output has mean
        0 and the same variance.
      dtype: float type that solvers compute with.

    Raises UserError as `factorise` does, and for fewer outputs than the data have.
    """

    def __init__(self, latents, data, length_scale: float = 0.5, signal_std: float = 1.0, noise_std: float = 0.1,
                 num_outputs: Optional[int] = None, dtype: tf.DType = tf.float32):
        factors = factorise(latents, data, length_scale, signal_std, noise_std)
        self._set(factors, length_scale, signal_std, num_outputs, dtype)

    @classmethod
    def from_factors(cls, factors: Factors, length_scale: float, signal_std: float, num_outputs: Optional[int] = None,
                     dtype: tf.DType = tf.float32) -> "GaussianProcess":
        """Returns the process that `factors`, arrays or float64 tensors, are of; they bring the noise with them."""
        self = cls.__new__(cls)
        self._set(factors, length_scale, signal_std, num_outputs, dtype)
        return self

    def _set(self, factors, length_scale, signal_std, num_outputs, dtype):
        self.factors = Factors(*(tf.convert_to_tensor(part, tf.float64) for part in factors))
        self.latent_dim, self.dtype = int(self.factors.latents.shape[1]), dtype
        self.length_scale, self.signal_std = float(length_scale), float(signal_std)
        size = int(self.factors.coefficients.shape[1])
        self.num_outputs = int(num_outputs or size)
        if self.num_outputs < size:
            raise UserError(f"num_outputs={num_outputs} is less than the {size} numbers of one datum; take at least "
                            "as many, or leave it out.")

    def mean(self, z: tf.Tensor) -> tf.Tensor:
        return _in_float64(z, lambda z: self._mean(self._kernel(z)))

    def variance(self, z: tf.Tensor) -> tf.Tensor:
        """Returns the posterior variance c(z, z) of each output at z (..., d), without observation noise: (...)."""
        return _in_float64(z, lambda z: self._variance(self._whiten(self._kernel(z))))

    def correlation(self, z: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        """Returns the posterior correlation of an output at z and at other, each (..., d), without noise: (...).

        NaN where one of the two has no variance left.
        """
        def found(both):
            here, there = both
            white, white_there = (self._whiten(self._kernel(part)) for part in (here, there))
            square = tf.reduce_sum(tf.square(here - there), axis=-1)
            prior = self.signal_std**2 * tf.exp(-0.5 * square / self.length_scale**2)
            joint = prior - tf.reduce_sum(white * white_there, axis=-1)
            return joint / tf.sqrt(self._variance(white) * self._variance(white_there))

        z = tf.convert_to_tensor(z)
        return tf.cast(found([tf.cast(part, tf.float64) for part in (z, other)]), z.dtype)

    def mean_and_std(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and std of the outputs at z (..., d), each (..., D), without observation noise."""
        mean, std = self.mean(z), self.uncertainty(z)
        return mean, tf.broadcast_to(std[..., None], tf.shape(mean))

    def uncertainty(self, z: tf.Tensor) -> tf.Tensor:
        return tf.sqrt(self.variance(z))

    def jacobian(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the Gaussian of the Jacobian J at z (..., d): its mean (..., D, d), and the covariance (..., d, d).

        The rows of J are independent, and the covariance is that of each.
        """
        return _in_float64(z, self._jacobian)

    def metric(self, z: tf.Tensor) -> tf.Tensor:
        return tf.add(*self.metric_parts(z))

    def metric_parts(self, z: tf.Tensor) -> tuple[tf.Tensor, Optional[tf.Tensor]]:
        def parts(z):
            mean, covariance = self._jacobian(z)
            return tf.matmul(mean, mean, transpose_a=True), self.num_outputs * covariance

        return _in_float64(z, parts)

    def segments(self, z: tf.Tensor) -> Segments:
        def parts(z):
            kernel = self._kernel(z)
            white = self._whiten(kernel)
            mean = _square_steps(self._mean(kernel))
            prior = -2 * self.signal_std**2 * tf.math.expm1(-0.5 * _square_steps(z) / self.length_scale**2)
            spread = tf.maximum(prior - _square_steps(white), 0.0)
            return Segments(mean, mean + self.num_outputs * spread, self.num_outputs * self._variance(white))

        return _in_float64(z, parts)

    @property
    def size(self) -> int:
        # Differences to the latents, k_z and W k_z, of two floats each.
        num, dim = self.factors.latents.shape
        return 2 * int(num) * (int(dim) + 2) + self.num_outputs

    def _kernel(self, z: tf.Tensor) -> tf.Tensor:
        """Returns k_z for z (..., d), (..., N)."""
        square = tf.reduce_sum(tf.square(z[..., None, :] - self.factors.latents), axis=-1)
        return self.signal_std**2 * tf.exp(-0.5 * square / self.length_scale**2)

    def _whiten(self, kernel: tf.Tensor) -> tf.Tensor:
        return tf.tensordot(kernel, self.factors.whitening, [[-1], [1]])

    def _mean(self, kernel: tf.Tensor) -> tf.Tensor:
        return self.factors.offset + tf.tensordot(kernel, self.factors.coefficients, 1)

    def _variance(self, white: tf.Tensor) -> tf.Tensor:
        return tf.maximum(self.signal_std**2 - tf.reduce_sum(tf.square(white), axis=-1), 0.0)

    def _jacobian(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        away = tf.linalg.matrix_transpose(z[..., None, :] - self.factors.latents)
        slopes = -away * self._kernel(z)[..., None, :] / self.length_scale**2  # (..., d, N)
        white = self._whiten(slopes)
        prior = (self.signal_std / self.length_scale) ** 2 * tf.eye(self.latent_dim, dtype=tf.float64)
        mean = tf.linalg.matrix_transpose(tf.tensordot(slopes, self.factors.coefficients, 1))
        return mean, prior - tf.matmul(white, white, transpose_b=True)


def _in_float64(z: tf.Tensor, function: Callable[[tf.Tensor], Any]) -> Any:
    """Returns function(z), computed in float64 and given back in the type of z."""
    z = tf.convert_to_tensor(z)
    return tf.nest.map_structure(lambda part: tf.cast(part, z.dtype), function(tf.cast(z, tf.float64)))


def _square_steps(values: tf.Tensor) -> tf.Tensor:
    """Returns |values[k + 1] - values[k]|^2 along the axis before the last."""
    return tf.reduce_sum(tf.square(values[..., 1:, :] - values[..., :-1, :]), axis=-1)


def _covariance(latents, data, length_scale, signal_std, noise_std):
    """Returns (Z, X, lower Cholesky factor of K), checked, in float64."""
    for name, value in (("length_scale", length_scale), ("signal_std", signal_std), ("noise_std", noise_std)):
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"{name}={value}: a scale of a Gaussian process is a finite number above 0.")
    latents, data = np.asarray(latents, np.float64), np.asarray(data, np.float64)
    if latents.ndim != 2 or len(latents) != len(data) or not len(data):
        raise UserError("A Gaussian process takes N latents (N, d) and N data (N, ...); received shapes "
                        f"{latents.shape} and {data.shape}.")
    data = data.reshape(len(data), -1)
    if not (np.isfinite(latents).all() and np.isfinite(data).all()):
        raise UserError("A Gaussian process takes latents and data that are finite numbers; some here are not.")
    square = np.sum((latents[:, None] - latents) ** 2, axis=-1)
    covariance = signal_std**2 * np.exp(-0.5 * square / length_scale**2) + noise_std**2 * np.eye(len(latents))
    try:
        return latents, data, np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError as error:
        raise UserError(f"noise_std={noise_std} is too small beside signal_std={signal_std}: with length_scale="
                        f"{length_scale} the covariance of the latents cannot be factored. Raise noise_std.") from error
