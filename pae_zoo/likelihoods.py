"""Observation models p(y|z), as layers that turn a decoder's output into a distribution over one datum y.

D is the number of values in a datum, y the data after preprocessing, g the decoder's output. Log densities
are natural logarithms, summed over the D values. All of it runs eagerly, in tf.function and under XLA.
"""

import math
from typing import Any, Iterable, Iterator, Optional, Sequence, Union

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo import seeds
from pae_zoo.errors import UserError

tfd = tfp.distributions

LOG_2PI = math.log(2 * math.pi)
MIN_LOG_VARIANCE = -12.0

Arrays = Union[np.ndarray, Iterable[np.ndarray]]


class Normal(tfd.Normal):
    """tfd.Normal whose draws, from a pair of integers as seed, are the same eagerly and under XLA."""

    def _sample_n(self, n, seed=None):
        loc, scale = tf.convert_to_tensor(self.loc), tf.convert_to_tensor(self.scale)
        shape = tf.concat([[n], tf.broadcast_dynamic_shape(tf.shape(loc), tf.shape(scale))], axis=0)
        return loc + scale * seeds.normal(shape, seed, self.dtype)


class Bernoulli(tfd.Bernoulli):
    """tfd.Bernoulli whose draws, from a pair of integers as seed, are the same eagerly and under XLA."""

    def _sample_n(self, n, seed=None):
        probs = self.probs_parameter()
        shape = tf.concat([[n], tf.shape(probs)], axis=0)
        return tf.cast(seeds.uniform(shape, seed, probs.dtype) < probs, self.dtype)


class Likelihood(keras.layers.Layer):
    """Base of the observation models.

    `likelihood(output)` is a tfd.Independent over y with event shape `event_shape`. `output` has the shape
    (..., batch, *event), with the last axis doubled where `channels_factor` is 2; y has (batch, *event), and
    extra leading axes of `output`, such as samples of z, broadcast against it. Weights are made at
    construction, since the shape of a datum is known. Outputs in half precision are computed with in float32.
    """

    channels_factor = 1
    is_discrete = False

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
        raise NotImplementedError

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        """Returns the mean of y, shape (..., batch, *event)."""
        raise NotImplementedError

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        """Returns the variance of every value of y, shape (..., batch, *event)."""
        raise NotImplementedError

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        """Returns log p(y|z) in nats, shape (..., batch).

        `scale` overrides the standard deviation of `gaussian`, `gaussian_learned` and `gaussian_pixel` for
        this call: a scalar, or anything that broadcasts to one datum. Raises ValueError where there is none.
        """
        raise NotImplementedError

    def adapt(self, y: Arrays) -> None:
        """Sets what the model can learn from training data y before training: here nothing."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "event_shape": self.event_shape}

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


class _SharedGaussian(Likelihood):
    """Gaussian whose variance does not depend on z: g is the mean.

        log p(y|z) = -1/2 sum_p ((y_p - g_p) / sigma_p)^2 - sum_p log sigma_p - D/2 log 2 pi
    """

    def sigma(self, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Returns the standard deviation, a scalar or one per value of a datum."""
        raise NotImplementedError

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        output = _full_precision(output)
        return self._independent(Normal(output, self.sigma(output.dtype)))

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        return _full_precision(output)

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        output = _full_precision(output)
        return tf.broadcast_to(self.sigma(output.dtype) ** 2, tf.shape(output))

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        output = _full_precision(output)
        sigma = self.sigma(output.dtype) if scale is None else tf.cast(scale, output.dtype)
        residual = tf.cast(y, output.dtype) - output
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
class Gaussian(_SharedGaussian):
    """Gaussian with one constant standard deviation sigma = `scale`.

        log p(y|z) = -||y - g||^2 / (2 sigma^2) - D log sigma - D/2 log 2 pi

    `log_prob(..., scale=s)` takes s in place of sigma, for annealing. Raises UserError unless scale > 0.
    """

    def __init__(self, event_shape: Sequence[int], scale: float = 0.1, **kwargs: Any) -> None:
        super().__init__(event_shape, **kwargs)
        self.scale = _positive("scale", scale)

    def sigma(self, dtype: tf.DType = tf.float32) -> tf.Tensor:
        return tf.constant(self.scale, dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable("pae_zoo")
class LearnedGaussian(_SharedGaussian):
    """Gaussian with one learned log-variance s, shared by all values and data.

        log p(y|z) = -1/2 sum_p (log 2 pi + s + exp(-s) (y_p - g_p)^2),     s >= -12

    s is a trainable weight, kept above its floor by projection after each step of a Keras optimizer. It
    starts at 2 log `scale`; `adapt(y)` sets it to the log of the mean over data and values of (y - per-value
    mean)^2, so that the quadratic term starts near D/2. Park et al., Variational Laplace Autoencoders, ICML
    2019.
    """

    def __init__(self, event_shape: Sequence[int], scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(event_shape, **kwargs)
        self.scale = _positive("scale", scale)
        self.log_variance = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(max(2 * math.log(self.scale), MIN_LOG_VARIANCE)),
            constraint=_above_floor,
            name="log_variance",
        )

    def sigma(self, dtype: tf.DType = tf.float32) -> tf.Tensor:
        return tf.exp(0.5 * tf.cast(_above_floor(self.log_variance.value), dtype))

    def adapt(self, y: Arrays) -> None:
        """Sets s from training data y of shape (n, *event), or from an iterable of such batches."""
        _, variance = _moments(y, self.event_shape, "adapt")
        self.log_variance.assign(math.log(max(float(variance.mean()), math.exp(MIN_LOG_VARIANCE))))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable("pae_zoo")
class PixelGaussian(_SharedGaussian):
    """Gaussian with a measured standard deviation sigma_p for each value p of a datum.

        log p(y|z) = -1/2 sum_p ((y_p - g_p) / sigma_p)^2 - sum_p log sigma_p - D/2 log 2 pi

    The map is a non-trainable weight: `scale` everywhere until `measure(residuals)` or `assign_scale(map)`
    sets it; values below `min_scale` are raised to it, since constant pixels would have sigma_p near 0. Boehm
    & Seljak, arXiv 2006.05479, section 3. Raises UserError unless scale and min_scale are > 0.
    """

    def __init__(
        self, event_shape: Sequence[int], scale: float = 0.1, min_scale: float = 0.01, **kwargs: Any
    ) -> None:
        super().__init__(event_shape, **kwargs)
        self.scale, self.min_scale = _positive("scale", scale), _positive("min_scale", min_scale)
        self.scale_map = self.add_weight(
            shape=self.event_shape,
            initializer=keras.initializers.Constant(max(self.scale, self.min_scale)),
            trainable=False,
            name="scale_map",
        )

    def sigma(self, dtype: tf.DType = tf.float32) -> tf.Tensor:
        return tf.cast(self.scale_map.value, dtype)

    def measure(self, residuals: Arrays) -> None:
        """Sets sigma_p = sqrt(mean_n r_np^2) from residuals y - g, (n, *event), or an iterable of batches."""
        mean, variance = _moments(residuals, self.event_shape, "measure")
        self.assign_scale(np.sqrt(variance + mean**2))

    def assign_scale(self, scale: Any) -> None:
        """Sets the map from anything that broadcasts to one datum; raises ValueError if not finite."""
        scale = np.broadcast_to(np.asarray(scale, np.float64), self.event_shape)
        if not np.isfinite(scale).all() or (scale < 0).any():
            raise ValueError("A map of standard deviations must be finite and not negative.")
        self.scale_map.assign(np.maximum(scale, self.min_scale))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "min_scale": self.min_scale}


@keras.saving.register_keras_serializable("pae_zoo")
class DecoderGaussian(Likelihood):
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
        return self._independent(Normal(mean, tf.exp(0.5 * log_variance)))

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        return tf.split(_full_precision(output), 2, axis=-1)[0]

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        return tf.exp(self.log_variance(output))

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        mean, log_variance = self._split(output)
        residual = tf.cast(y, mean.dtype) - mean
        terms = log_variance + residual**2 * tf.exp(-log_variance)
        return -0.5 * self._sum(terms) - 0.5 * self.num_values * LOG_2PI

    def get_config(self) -> dict[str, Any]:
        bounds = {"min_log_variance": self.min_log_variance, "max_log_variance": self.max_log_variance}
        return {**super().get_config(), **bounds}

    def _split(self, output: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean, raw = tf.split(_full_precision(output), 2, axis=-1)
        below = self.max_log_variance - tf.nn.softplus(self.max_log_variance - raw)
        return mean, self.min_log_variance + tf.nn.softplus(below - self.min_log_variance)


@keras.saving.register_keras_serializable("pae_zoo")
class BernoulliLogits(Likelihood):
    """Independent Bernoulli values from logits g; y may be anything in [0, 1], not only 0 and 1.

        log p(y|z) = sum_p (y_p g_p - softplus(g_p)),    mean = sigmoid(g),    variance = mean (1 - mean)

    For y inside (0, 1) this is a cross-entropy, no normalised density. Finite, with finite gradients, for any
    logits.
    """

    is_discrete = True

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        output = _full_precision(output)
        return self._independent(Bernoulli(logits=output, dtype=output.dtype))

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(_full_precision(output))

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        output = _full_precision(output)
        return tf.sigmoid(output) * tf.sigmoid(-output)

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        output = _full_precision(output)
        return self._sum(tf.cast(y, output.dtype) * output - tf.nn.softplus(output))


_CLASSES: dict[str, type[Likelihood]] = {
    "gaussian": Gaussian,
    "gaussian_learned": LearnedGaussian,
    "gaussian_pixel": PixelGaussian,
    "gaussian_decoder": DecoderGaussian,
    "bernoulli": BernoulliLogits,
}
NAMES: tuple[str, ...] = tuple(_CLASSES)


def describe() -> dict[str, str]:
    """Returns {name: one line} for help texts."""
    return {name: cls.__doc__.split("\n", 1)[0] for name, cls in _CLASSES.items()}


def build(
    name: str, event_shape: Sequence[int], scale: Optional[float] = None, **options: Any
) -> Likelihood:
    """Returns the named observation model for data of shape `event_shape`.

    `scale` is the standard deviation of gaussian (0.1 if None), and the one that gaussian_learned (1) and
    gaussian_pixel (0.1) start from; the others have none and ignore it. `options` go to the class. Raises
    UserError for an unknown name or a scale that is not positive.
    """
    if name not in _CLASSES:
        raise UserError(f"Unknown likelihood {name!r}; the names are {', '.join(NAMES)}.")
    cls = _CLASSES[name]
    if scale is not None and issubclass(cls, _SharedGaussian):
        options["scale"] = scale
    return cls(event_shape, **options)


def _full_precision(output: tf.Tensor) -> tf.Tensor:
    output = tf.convert_to_tensor(output)
    return tf.cast(output, tf.float32) if output.dtype in (tf.float16, tf.bfloat16) else output


def _above_floor(log_variance: tf.Tensor) -> tf.Tensor:
    return tf.maximum(log_variance, tf.cast(MIN_LOG_VARIANCE, log_variance.dtype))


def _positive(name: str, value: float) -> float:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
        raise UserError(f"{name}={value!r}: a standard deviation must be a finite number above 0.")
    return float(value)


def _batches(values: Arrays) -> Iterator[np.ndarray]:
    if hasattr(values, "shape"):
        for start in range(0, len(values), 4096):
            yield np.asarray(values[start : start + 4096], np.float64)
    else:
        for batch in values:
            yield np.asarray(batch, np.float64)


def _moments(values: Arrays, event_shape: tuple[int, ...], method: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns per-value mean and variance over data in one pass; a shift by the first batch keeps digits."""
    count, shift, first, second = 0, 0.0, 0.0, 0.0
    for batch in _batches(values):
        if batch.shape[1:] != event_shape:
            raise ValueError(f"{method} takes shape (n, *{event_shape}); received shape {batch.shape}.")
        if count == 0 and len(batch):
            shift = batch.mean(0)
        count += len(batch)
        first = first + (batch - shift).sum(0)
        second = second + ((batch - shift) ** 2).sum(0)
    if count == 0:
        raise ValueError(f"{method} needs at least one datum; received none.")
    variance = np.maximum(second / count - (first / count) ** 2, 0)
    if not np.isfinite(variance).all():
        raise ValueError(f"{method} received values that are not finite.")
    return shift + first / count, variance
