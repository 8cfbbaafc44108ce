"""The contract of observation models, Gaussians, and values in [0, 1].

D is the number of values in a datum, y the data after preprocessing, g the decoder's output. Log densities
are natural logarithms, summed over the D values. All of it runs eagerly, in tf.function and under XLA.
"""

import math
from typing import Any, Optional, Sequence

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.core import distributions, inputs
from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.core.errors import UserError

tfd = tfp.distributions

MIN_LOG_VARIANCE = -12.0


class Likelihood(keras.layers.Layer):
    """Base of the observation models.

    `likelihood(output)` is a tfd.Independent over y with event shape `event_shape`. `output` has the shape
    (..., batch, *event), with the last axis doubled where `channels_factor` is 2; y has (batch, *event), and
    extra leading axes of `output`, such as samples of z, broadcast against it. Weights are made at
    construction, since the shape of a datum is known. Outputs in half precision are computed with in float32.
    """

    channels_factor = 1
    is_discrete = False
    #: whether g is a logit or a log, so that the decoder's last map is linear whatever the range of the data
    is_linear = False
    #: whether values are Gaussian about their mean, where they are not discrete
    has_gaussian_values = True
    #: whether p(y|z) is a product over the values of y
    has_independent_values = True
    #: whether the precision of y is the same for every datum, whatever the decoder gives
    has_shared_precision = False
    #: whether the Fisher information of g has no other values than those on its diagonal
    has_diagonal_fisher = True
    #: whether log p(y|z) is that of bytes, so that it has bits per dimension
    has_bits = False

    def __init__(self, event_shape: Sequence[int], **kwargs: Any) -> None:
        # Observation models are full precision under a mixed policy: a sum over 784 pixels is not one for
        # float16.
        kwargs.setdefault("dtype", keras.config.dtype_policy().variable_dtype)
        super().__init__(autocast=False, **kwargs)
        self.event_shape = tuple(int(size) for size in event_shape)
        self.num_values = math.prod(self.event_shape)
        self.built = True

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        """Returns the distribution over y, a tfd.Independent."""
        raise NotImplementedError(f"{type(self).__name__} does not define this part of a likelihood.")

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        """Returns the mean of y, shape (..., batch, *event)."""
        raise NotImplementedError(f"{type(self).__name__} does not define this part of a likelihood.")

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        """Returns the variance of every value of y, shape (..., batch, *event)."""
        raise NotImplementedError(f"{type(self).__name__} does not define this part of a likelihood.")

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        """Returns log p(y|z) in nats, shape (..., batch); raises UserError for y of another shape than `event_shape`.

        `scale` overrides the standard deviation of `gaussian`, `gaussian_learned` and `gaussian_pixel` for
        this call: a scalar, or anything that broadcasts to one datum. Raises ValueError where there is none.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define this part of a likelihood.")

    def log_probs(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        """Returns the terms of `log_prob`, one for each value, (..., batch, *event), where values are independent."""
        if scale is not None:
            self._no_scale(scale)
        output, y = self._both(output, y)
        return self(output).distribution.log_prob(y)

    def score_and_fisher(
        self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns d log p(y|g)/dg and the diagonal of the Fisher information of g, both of the shape of `output`.

        `output` is (batch, *event), the last axis doubled where `channels_factor` is 2. For g the natural parameter or
        the mean of a Gaussian the Fisher information is the negative Hessian of log p(y|g).
        """
        raise NotImplementedError(f"{type(self).__name__} does not define this part of a likelihood.")

    def fisher_root(self, output: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Returns R^T noise, of the shape of the noise (..., batch, *event), where R^T R is the Fisher information."""
        raise NotImplementedError(f"{type(self).__name__} does not define this part of a likelihood.")

    def fisher_product(self, output: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        """Returns the Fisher information of g times v (..., batch, *event), of the shape of v."""
        raise NotImplementedError(f"{type(self).__name__} does not define this part of a likelihood.")

    def adapt(self, y: np.ndarray) -> None:
        """Sets what the model can learn from training data y before training: here nothing."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "event_shape": self.event_shape}

    def _both(self, output, y, factor: Optional[int] = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns output and y in full precision, of one type; raises UserError unless both end in a datum's shape.

        That of the output has the last axis times `factor` (None: `channels_factor`).
        """
        *event, channels = self.event_shape
        wanted = (*event, channels * (factor or self.channels_factor))
        output = inputs.ending(full_precision(output), wanted, "the decoder's output")
        return output, inputs.ending(tf.cast(y, output.dtype), self.event_shape, "y")

    def _sum(self, values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(values, axis=list(range(-len(self.event_shape), 0)))

    def _independent(self, distribution: tfd.Distribution) -> tfd.Distribution:
        return tfd.Independent(distribution, reinterpreted_batch_ndims=len(self.event_shape))

    def _no_scale(self, scale: Optional[tf.Tensor]) -> None:
        if scale is not None:
            raise ValueError(
                f"{type(self).__name__} has no standard deviation to override; `scale` must be None. "
                "Take the likelihood gaussian, gaussian_learned or gaussian_pixel to set one."
            )


class SharedGaussian(Likelihood):
    """Gaussian whose variance does not depend on z: g is the mean.

        log p(y|z) = -1/2 sum_p ((y_p - g_p) / sigma_p)^2 - sum_p log sigma_p - D/2 log 2 pi
    """

    has_shared_precision = True

    def shared_precision(self, dtype: tf.DType = tf.float32, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        """Returns 1/sigma^2, a scalar or one per value of a datum; `scale` overrides sigma."""
        return (self.sigma(dtype) if scale is None else tf.cast(scale, dtype)) ** -2

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        output, y = self._both(output, y)
        precision = tf.broadcast_to(self.shared_precision(output.dtype, scale), tf.shape(output))
        return precision * (y - output), precision

    def log_probs(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        output, y = self._both(output, y)
        sigma = self.sigma(output.dtype) if scale is None else tf.cast(scale, output.dtype)
        return -0.5 * ((y - output) / sigma) ** 2 - tf.math.log(sigma) - 0.5 * LOG_2PI

    def sigma(self, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Returns the standard deviation, a scalar or one per value of a datum."""
        raise NotImplementedError(f"{type(self).__name__} does not define this part of a likelihood.")

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        output = full_precision(output)
        return self._independent(distributions.Normal(output, self.sigma(output.dtype)))

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        return full_precision(output)

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        output = full_precision(output)
        variance = tf.broadcast_to(self.sigma(output.dtype) ** 2, tf.shape(output))
        return inputs.only_finite(variance, output[..., None], axes=0)  # of what is not known there is no variance

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        output, y = self._both(output, y)
        sigma = self.sigma(output.dtype) if scale is None else tf.cast(scale, output.dtype)
        residual = y - output
        log_sigma = tf.math.log(sigma)
        if sigma.shape.rank == 0:
            # One factor outside the sum saves a division per value.
            square = self._sum(residual**2) / sigma**2
            log_det = self.num_values * log_sigma
        else:
            square = self._sum((residual / sigma) ** 2)
            log_det = tf.reduce_sum(tf.broadcast_to(log_sigma, self.event_shape))
        return -0.5 * square - log_det - 0.5 * self.num_values * LOG_2PI


@keras.saving.register_keras_serializable("pae_zoo")
class Gaussian(SharedGaussian):
    """Gaussian with one constant standard deviation sigma = `scale`.

        log p(y|z) = -||y - g||^2 / (2 sigma^2) - D log sigma - D/2 log 2 pi

    `log_prob(..., scale=s)` takes s in place of sigma, for annealing. Raises UserError unless scale > 0.
    """

    def __init__(self, event_shape: Sequence[int], scale: float = 0.1, **kwargs: Any) -> None:
        super().__init__(event_shape, **kwargs)
        self.scale = positive("scale", scale)

    def sigma(self, dtype: tf.DType = tf.float32) -> tf.Tensor:
        return tf.constant(self.scale, dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable("pae_zoo")
class GaussianLearned(SharedGaussian):
    """Gaussian with one learned log-variance s, shared by all values and data; with `per_value` one for each value.

        log p(y|z) = -1/2 sum_p (log 2 pi + s + exp(-s) (y_p - g_p)^2),     s >= -12

    s is a trainable weight, kept above its floor by projection after each step of a Keras optimizer. It
    starts at 2 log `scale`; `adapt(y)` sets it to the log of the mean over data and values of (y - per-value
    mean)^2, so that the quadratic term starts near D/2. Park et al., Variational Laplace Autoencoders, ICML
    2019.
    """

    def __init__(self, event_shape: Sequence[int], scale: float = 1.0, per_value: bool = False, **kwargs: Any) -> None:
        super().__init__(event_shape, **kwargs)
        self.initial_scale, self.per_value = positive("scale", scale), bool(per_value)
        self.log_variance = self.add_weight(
            shape=self.event_shape if per_value else (),
            initializer=keras.initializers.Constant(max(2 * math.log(self.initial_scale), MIN_LOG_VARIANCE)),
            constraint=_AboveFloor(),
            name="log_variance",
        )

    def sigma(self, dtype: tf.DType = tf.float32) -> tf.Tensor:
        return tf.exp(0.5 * tf.cast(_above_floor(self.log_variance.value), dtype))

    @property
    def scale(self) -> tf.Tensor:
        """The standard deviation as it is now, a scalar."""
        return self.sigma(self.log_variance.value.dtype)

    def adapt(self, y: np.ndarray) -> None:
        """Sets s from training data y of shape (n, *event); raises ValueError for another shape."""
        _, variance = _moments(y, self.event_shape, "adapt")
        variance = variance if self.per_value else variance.mean()
        self.log_variance.assign(np.log(np.maximum(variance, math.exp(MIN_LOG_VARIANCE))))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.initial_scale, "per_value": self.per_value}


@keras.saving.register_keras_serializable("pae_zoo")
class GaussianPixel(SharedGaussian):
    """Gaussian with a measured standard deviation sigma_p for each value p of a datum.

        log p(y|z) = -1/2 sum_p ((y_p - g_p) / sigma_p)^2 - sum_p log sigma_p - D/2 log 2 pi

    The map is a non-trainable weight: `scale` everywhere until `measure(residuals)` or `assign_scale(map)`
    sets it; values below `min_scale` (None: 0.01, or `scale` if that is less) are raised to it, since
    constant pixels would have sigma_p near 0. Boehm & Seljak, arXiv 2006.05479, section 3. Raises UserError
    unless scale and min_scale are > 0.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        scale: float = 0.1,
        min_scale: Optional[float] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, **kwargs)
        self.initial_scale = positive("scale", scale)
        self.min_scale = min(0.01, scale) if min_scale is None else positive("min_scale", min_scale)
        self.scale = self.add_weight(
            shape=self.event_shape,
            initializer=keras.initializers.Constant(max(self.initial_scale, self.min_scale)),
            trainable=False,
            name="scale",
        )

    def sigma(self, dtype: tf.DType = tf.float32) -> tf.Tensor:
        return tf.cast(self.scale.value, dtype)

    def measure(self, residuals: np.ndarray) -> None:
        """Sets sigma_p = sqrt(mean_n r_np^2) from residuals r = y - g of shape (n, *event)."""
        mean, variance = _moments(residuals, self.event_shape, "measure")
        self.assign_scale(np.sqrt(variance + mean**2))

    def assign_scale(self, scale: Any) -> None:
        """Sets the map from anything that broadcasts to one datum, also inside a compiled function.

        Raises ValueError for values that are negative or not finite, where they are known when it is called.
        """
        scale = tf.cast(scale, self.scale.dtype)
        if tf.executing_eagerly() and not bool(tf.reduce_all(tf.math.is_finite(scale) & (scale >= 0))):
            raise ValueError("A map of standard deviations must be finite and not negative.")
        self.scale.assign(tf.maximum(tf.broadcast_to(scale, self.event_shape), self.min_scale))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.initial_scale, "min_scale": self.min_scale}


@keras.saving.register_keras_serializable("pae_zoo")
class GaussianDecoder(Likelihood):
    """Gaussian whose mean and log-variance both come from the decoder: g = [mean, r] along the last axis.

        log p(y|z) = -1/2 sum_p (log 2 pi + s_p + exp(-s_p) (y_p - mean_p)^2)
        s = softclip(r) = a + softplus(t - a),  t = b - softplus(b - r),  a = min_log_variance, b =
        max_log_variance

    The soft clip is smooth and strictly increasing, so that no pixel's variance loses its gradient at a
    bound; between the bounds and some units away from them s is r. The default floor -6 is sigma = 0.05, the
    clip -3 on log sigma of Miani et al., Laplacian Autoencoders for Learning Stochastic Representations,
    NeurIPS 2022. Raises UserError unless min_log_variance < max_log_variance.
    """

    channels_factor = 2

    def __init__(
        self,
        event_shape: Sequence[int],
        min_log_variance: float = -6.0,
        max_log_variance: float = 12.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, **kwargs)
        self.min_log_variance, self.max_log_variance = float(min_log_variance), float(max_log_variance)
        if not self.min_log_variance < self.max_log_variance:
            raise UserError(
                f"min_log_variance={min_log_variance!r} must lie below "
                f"max_log_variance={max_log_variance!r}."
            )

    def log_variance(self, output: tf.Tensor) -> tf.Tensor:
        """Returns s, shape (..., batch, *event)."""
        return self._split(output)[1]

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        mean, log_variance = self._split(output)
        return self._independent(distributions.Normal(mean, tf.exp(0.5 * log_variance)))

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        return tf.split(full_precision(output), 2, axis=-1)[0]

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        return tf.exp(self.log_variance(output))

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        output, y = self._both(output, y)
        mean, log_variance = self._split(output)
        residual = y - mean
        terms = log_variance + residual**2 * tf.exp(-log_variance)
        return -0.5 * self._sum(terms) - 0.5 * self.num_values * LOG_2PI

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Likelihood.score_and_fisher`; g = [mean, r], and the Fisher information of s is 1/2."""
        self._no_scale(scale)
        output, y = self._both(output, y)
        mean, log_variance = self._split(output)
        precision = tf.exp(-log_variance)
        residual = y - mean
        raw = tf.split(output, 2, axis=-1)[1]
        below = self.max_log_variance - tf.nn.softplus(self.max_log_variance - raw)
        slope = tf.sigmoid(self.max_log_variance - raw) * tf.sigmoid(below - self.min_log_variance)
        score = tf.concat([precision * residual, 0.5 * (precision * residual**2 - 1.0) * slope], axis=-1)
        return score, tf.concat([precision, 0.5 * slope**2], axis=-1)

    def get_config(self) -> dict[str, Any]:
        bounds = {"min_log_variance": self.min_log_variance, "max_log_variance": self.max_log_variance}
        return {**super().get_config(), **bounds}

    def _split(self, output: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean, raw = tf.split(full_precision(output), 2, axis=-1)
        below = self.max_log_variance - tf.nn.softplus(self.max_log_variance - raw)
        return mean, self.min_log_variance + tf.nn.softplus(below - self.min_log_variance)


@keras.saving.register_keras_serializable("pae_zoo")
class Bernoulli(Likelihood):
    """Independent Bernoulli values from logits g; y may be anything in [0, 1], not only 0 and 1.

        log p(y|z) = sum_p (y_p g_p - softplus(g_p)),    mean = sigmoid(g),    variance = mean (1 - mean)

    For y inside (0, 1) this is a cross-entropy, no normalised density. Finite, with finite gradients, for any
    logits.
    """

    is_discrete = True
    is_linear = True

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        output = full_precision(output)
        return self._independent(distributions.Bernoulli(logits=output, dtype=output.dtype))

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(full_precision(output))

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        output = full_precision(output)
        return tf.sigmoid(output) * tf.sigmoid(-output)

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        self._no_scale(scale)
        output, y = self._both(output, y)
        mean = tf.sigmoid(output)
        return y - mean, mean * tf.sigmoid(-output)

    def adapt(self, y: np.ndarray) -> None:
        """Checks training data y of shape (n, *event); raises UserError for values outside [0, 1]."""
        least, most = float(np.nanmin(y)), float(np.nanmax(y))
        if not (least >= 0 and most <= 1):
            raise UserError(
                f"likelihood 'bernoulli' takes values in [0, 1]; the data reach from {least:.4g} to {most:.4g}. Leave "
                "out the preprocessing that maps them elsewhere, scale them, or take a Gaussian likelihood."
            )

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        output, y = self._both(output, y)
        return self._sum(y * output - tf.nn.softplus(output))


def full_precision(output: tf.Tensor) -> tf.Tensor:
    output = tf.convert_to_tensor(output)
    return tf.cast(output, tf.float32) if output.dtype in (tf.float16, tf.bfloat16) else output


def _above_floor(log_variance: tf.Tensor) -> tf.Tensor:
    return tf.maximum(log_variance, tf.cast(MIN_LOG_VARIANCE, log_variance.dtype))


class _AboveFloor(keras.constraints.Constraint):
    """Keeps a log-variance above its floor; a class, since Keras 3.12 takes no function as constraint."""

    def __call__(self, log_variance: tf.Tensor) -> tf.Tensor:
        return _above_floor(log_variance)


def positive(name: str, value: float) -> float:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
        raise UserError(f"{name}={value!r}: a standard deviation must be a finite number above 0.")
    return float(value)


def _moments(
    values: np.ndarray, event_shape: tuple[int, ...], method: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns per-value mean and variance over data, in float64 and in chunks that spare memory.

    NaN stands for a value that was not seen; one that was never seen has mean and variance 0.
    """
    values = np.asarray(values)
    if values.shape[1:] != event_shape or len(values) == 0:
        raise ValueError(f"{method} takes data of shape (n, *{event_shape}); received shape {values.shape}.")
    chunks = [values[start : start + 4096] for start in range(0, len(values), 4096)]
    seen = np.asarray(sum((~np.isnan(chunk)).sum(0) for chunk in chunks))
    if not seen.any():
        raise ValueError(f"{method} received values that are not finite.")
    count = np.maximum(seen, 1)
    mean = np.asarray(sum(np.nansum(chunk, 0, dtype=np.float64) for chunk in chunks)) / count
    variance = np.asarray(sum(np.nansum((chunk - mean) ** 2, 0) for chunk in chunks)) / count
    if not np.isfinite(variance).all():
        raise ValueError(f"{method} received values that are not finite.")
    return mean, variance
