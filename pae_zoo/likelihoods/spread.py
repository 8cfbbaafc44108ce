"""Observation models with heavier tails than a Gaussian: a value that is far off costs less."""

import math
from typing import Any, Optional, Sequence

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.core import distributions, seeds
from pae_zoo.core.errors import UserError
from pae_zoo.likelihoods.base import Likelihood, full_precision, positive

tfd = tfp.distributions
# The least scale, as that of `gaussian_learned`.
MIN_LOG_SCALE = -6.0


class Spread(Likelihood):
    """A location g, and one learned scale b for all values and data, or with `per_value` for each value, b >= exp(-6).

    The log of b is a trainable weight that starts at log `scale`; `adapt(y)` sets it by the data. Raises UserError
    unless scale > 0.
    """

    has_gaussian_values = False

    def __init__(self, event_shape: Sequence[int], scale: float = 1.0, per_value: bool = False, **kwargs: Any) -> None:
        super().__init__(event_shape, **kwargs)
        self.initial_scale, self.per_value = positive("scale", scale), bool(per_value)
        start = keras.initializers.Constant(max(math.log(self.initial_scale), MIN_LOG_SCALE))
        self.log_scale = self.add_weight(shape=self.event_shape if per_value else (), initializer=start,
                                         name="log_scale")

    def scale(self, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Returns b as it is now, a scalar, or one for each value."""
        return tf.exp(tf.maximum(tf.cast(self.log_scale.value, dtype), MIN_LOG_SCALE))

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        return full_precision(output)

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        output = full_precision(output)
        # Of a mean that is NaN the variance is not known.
        return self.scale(output.dtype) ** 2 * self.variance_over_scale + 0.0 * output

    def _log_det(self, b: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.math.log(b)) * (1 if self.per_value else self.num_values)

    @property
    def variance_over_scale(self) -> float:
        """The variance of a value with b = 1."""
        raise NotImplementedError(f"{type(self).__name__} does not define this part of a likelihood.")

    def adapt(self, y: np.ndarray) -> None:
        """Sets b by the mean absolute deviation of training data y (n, *event) from the medians of their values."""
        y = np.asarray(y, np.float64)
        y = np.where(np.isnan(y).all(axis=0), 0.0, y)  # a value that was never seen
        away = np.nanmean(np.abs(y - np.nanmedian(y, axis=0)), axis=0 if self.per_value else None)
        self.log_scale.assign(np.maximum(np.log(np.maximum(away, 1e-300)), MIN_LOG_SCALE))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.initial_scale, "per_value": self.per_value}


@keras.saving.register_keras_serializable("pae_zoo")
class StudentT(Spread):
    """Student t about g with one learned scale b and v = `dof` degrees of freedom.

        log p(y|z) = sum_p (log G((v+1)/2) - log G(v/2) - 1/2 log(v pi) - log b
                            - (v+1)/2 log(1 + ((y_p - g_p)/b)^2 / v))

    The Fisher information of g is (v + 1) / ((v + 3) b^2). Raises UserError unless dof > 2, so that there is a
    variance.
    """

    def __init__(self, event_shape: Sequence[int], scale: float = 1.0, dof: float = 4.0, **kwargs: Any) -> None:
        super().__init__(event_shape, scale, **kwargs)
        self.dof = float(dof)
        if not (math.isfinite(self.dof) and self.dof > 2):
            raise UserError(f"dof={dof!r}: a Student t has a variance where its degrees of freedom are above 2.")

    @property
    def variance_over_scale(self) -> float:
        return self.dof / (self.dof - 2.0)

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        output = full_precision(output)
        return self._independent(_StudentT(tf.constant(self.dof, output.dtype), output, self.scale(output.dtype)))

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        output, y = self._both(output, y)
        b, v = self.scale(output.dtype), self.dof
        constant = math.lgamma(0.5 * (v + 1)) - math.lgamma(0.5 * v) - 0.5 * math.log(v * math.pi)
        terms = tf.math.log1p(((y - output) / b) ** 2 / v)
        return self.num_values * constant - self._log_det(b) - 0.5 * (v + 1) * self._sum(terms)

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        self._no_scale(scale)
        output, y = self._both(output, y)
        square, v, away = self.scale(output.dtype) ** 2, self.dof, y - output
        score = (v + 1.0) * away / (v * square + away**2)
        return score, tf.broadcast_to((v + 1.0) / ((v + 3.0) * square), tf.shape(output))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dof": self.dof}


@keras.saving.register_keras_serializable("pae_zoo")
class Laplace(Spread):
    """Laplace about g with one learned scale b: absolute errors count.

        log p(y|z) = -sum_p |y_p - g_p| / b - D log 2 b,    variance = 2 b^2

    The Fisher information of g is 1 / b^2.
    """

    @property
    def variance_over_scale(self) -> float:
        return 2.0

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        output = full_precision(output)
        return self._independent(_Laplace(output, self.scale(output.dtype)))

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        output, y = self._both(output, y)
        b = self.scale(output.dtype)
        return -self._sum(tf.abs(y - output) / b) - self.num_values * math.log(2.0) - self._log_det(b)

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        self._no_scale(scale)
        output, y = self._both(output, y)
        b = self.scale(output.dtype)
        return tf.sign(y - output) / b, tf.broadcast_to(b**-2, tf.shape(output))


class _StudentT(tfd.StudentT):
    """A Student t whose draws come from a pair of integers."""

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        noise_seed, scale_seed = seeds.split(seed, 2)
        loc = tf.convert_to_tensor(self.loc)
        shape = tf.concat([[n], tf.shape(loc)], axis=0)
        half = 0.5 * tf.convert_to_tensor(self.df)
        gamma = distributions.gamma(shape, half, scale_seed, loc.dtype)
        return loc + self.scale * seeds.normal(shape, noise_seed, loc.dtype) * tf.sqrt(half / gamma)


class _Laplace(tfd.Laplace):
    """A Laplace distribution whose draws come from a pair of integers."""

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        loc = tf.convert_to_tensor(self.loc)
        shape = tf.concat([[n], tf.shape(loc)], axis=0)
        level = seeds.uniform(shape, seed, loc.dtype) - 0.5
        tiny = tf.constant(np.finfo(loc.dtype.as_numpy_dtype).tiny, loc.dtype)
        return loc - self.scale * tf.sign(level) * tf.math.log(tf.maximum(1.0 - 2.0 * tf.abs(level), tiny))
