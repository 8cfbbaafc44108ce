"""What is known of a datum given the decoder's outputs: log density and Fisher information, value by value."""

import math
from collections.abc import Callable
from typing import Any, Optional, Union

import numpy as np
import tensorflow as tf

from pae_zoo.core.distributions import LOG_2PI


class Gaussian:
    """y_p ~ N(mean_p, variance_p + noise_p^2), values independent of one another.

    Args:
      mean, variance: functions of the decoder's outputs.
      noise: std of further Gaussian noise in the data, in units of y: a number, or one per value.
      constant_variance: that the variance does not depend on u, which halves the work of `features`.
      signal_variance: a function of the decoder's outputs, the variance of noise that grows with the signal.
    """

    def __init__(self, mean: Callable, variance: Callable, noise: Any = 0.0,
                 constant_variance: bool = False, signal_variance: Optional[Callable] = None):
        self.mean, self._variance, self._signal_variance = mean, variance, signal_variance
        self.noise = noise if tf.is_tensor(noise) else tf.constant(np.asarray(noise, np.float64))
        self.constant_variance = constant_variance and signal_variance is None

    def variance(self, outputs: tf.Tensor) -> tf.Tensor:
        """Returns the variance of y, noise included."""
        variance = self._variance(outputs)
        variance += tf.cast(self.noise, variance.dtype) ** 2
        return variance if self._signal_variance is None else variance + self._signal_variance(outputs)

    def log_prob(self, outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Returns log N(y_p; mean_p, variance_p + noise_p^2) in nats for every value."""
        variance = self.variance(outputs)
        square = (tf.cast(y, variance.dtype) - self.mean(outputs)) ** 2 / variance
        return -0.5 * (square + tf.math.log(variance) + LOG_2PI)

    def features(self, outputs: tf.Tensor) -> list[tf.Tensor]:
        """Returns values f whose derivatives, at fixed scale, give the Fisher information sum_p df_p df_p^T.

        The information of a Gaussian is dm dm^T / v + dv dv^T / (2 v^2), the second part being d(log v)^2 / 2.
        """
        variance = self.variance(outputs)
        found = [self.mean(outputs) * tf.stop_gradient(tf.math.rsqrt(variance))]
        return found if self.constant_variance else [*found, math.sqrt(0.5) * tf.math.log(variance)]


class Averaged:
    """Means over blocks of side x side pixels of an image whose values are Gaussian, and noise in these means.

    Args:
      gaussian: the observation of each pixel, without noise.
      side: of a block; height and width of an image are multiples of it.
      noise: std of further Gaussian noise in the means: a number, or one per mean.

    Data are images of means, (..., H / side, W / side, C).
    """

    def __init__(self, gaussian: Gaussian, side: int, noise: Any = 0.0):
        self.gaussian, self.side = gaussian, side
        self.inner = Gaussian(lambda outputs: block_means(gaussian.mean(outputs), side),
                              lambda outputs: block_means(gaussian.variance(outputs), side) / side**2, noise,
                              gaussian.constant_variance)
        self.mean, self.variance = self.inner.mean, self.inner.variance
        self.log_prob, self.features = self.inner.log_prob, self.inner.features


def block_means(images: tf.Tensor, side: int) -> tf.Tensor:
    """Returns the means of blocks of side x side pixels of images (..., H, W, C)."""
    # Products, for forward derivatives of a reshaped mean are more than TensorFlow can trace.
    for axis, equation in ((-3, "hi,...ijc->...hjc"), (-2, "wj,...hjc->...hwc")):
        size = images.shape[axis]
        matrix = np.repeat(np.eye(size // side), side, axis=1) / side
        images = tf.einsum(equation, tf.constant(matrix, images.dtype), images)
    return images


class Bernoulli:
    """y_p ~ Bernoulli(sigmoid(g_p)) from logits g, the decoder's outputs; y may lie inside (0, 1)."""

    def mean(self, outputs: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(outputs)

    def variance(self, outputs: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(outputs) * tf.sigmoid(-outputs)

    def log_prob(self, outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Returns y_p g_p - softplus(g_p) for every value."""
        return tf.cast(y, outputs.dtype) * outputs - tf.nn.softplus(outputs)

    def features(self, outputs: tf.Tensor) -> list[tf.Tensor]:
        """Returns values whose derivatives give the Fisher information sum_p v_p dg_p dg_p^T."""
        return [outputs * tf.stop_gradient(tf.sqrt(self.variance(outputs)))]


def observed(likelihood: Any) -> Union[Gaussian, Bernoulli]:
    """Returns what values without further noise are for a `pae_zoo.likelihoods.Likelihood`.

    Raises NotImplementedError for a mixture and for values that are neither Gaussian nor Bernoulli.
    """
    if not likelihood.has_independent_values:
        raise NotImplementedError("Restoration sums over the values that are seen, and "
                                  f"{type(likelihood).__name__} is a mixture, not a product over values.")
    if likelihood.is_discrete:
        return Bernoulli()
    if not likelihood.has_gaussian_values:
        raise NotImplementedError("Restoration knows Gaussian and Bernoulli values, and "
                                  f"{type(likelihood).__name__} is neither.")
    return Gaussian(likelihood.mean, likelihood.variance, 0.0, likelihood.has_shared_precision)
