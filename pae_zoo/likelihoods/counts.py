"""Observation models of counts: y is a whole number, 0 or more, and g the log of its mean."""

import math
from typing import Any, Optional, Sequence

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.core import distributions, seeds
from pae_zoo.core.errors import UserError
from pae_zoo.likelihoods.base import Likelihood, full_precision

tfd = tfp.distributions
# Means beyond exp of this are taken for it, so that no decoder gives a count that no float holds.
MOST_LOG_MEAN = 30.0
# The least and largest log of theta: a Poisson in all but name, and almost only zeros.
LOG_DISPERSIONS = (-7.0, 12.0)


class Counts(Likelihood):
    """What likelihoods of counts share."""

    is_linear = True
    has_gaussian_values = False

    def adapt(self, y: np.ndarray) -> None:
        """Checks training data y (n, *event), NaN where missing; raises UserError for values that are no counts."""
        y = np.asarray(y)
        wrong = ((y < 0) | (y != np.round(y)) | np.isinf(y)) & ~np.isnan(y)
        if wrong.any():
            raise UserError("A likelihood of counts takes whole numbers of 0 or more; "
                            f"{np.mean(wrong):.2%} of the data are none, such as {y[wrong].ravel()[0]:g}. Leave out "
                            "the preprocessing that changes them (--preprocess=), or take another likelihood.")

    def _log_mean(self, output: tf.Tensor, y: Optional[tf.Tensor] = None) -> tf.Tensor:
        """Returns log mu, (..., batch, *event), of the decoder's output; `y` are the data, where they are known."""
        return tf.minimum(full_precision(output), MOST_LOG_MEAN)


@keras.saving.register_keras_serializable("pae_zoo")
class Poisson(Counts):
    """Poisson counts, mean and variance exp(g).

        log p(y|z) = sum_p (y_p g_p - exp(g_p) - log y_p!)

    The Fisher information of g is exp(g).
    """

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        return self._independent(_Poisson(log_rate=self._log_mean(output)))

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        return tf.exp(self._log_mean(output))

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        return self.mean(output)

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        output, y = self._both(output, y)
        log_mean = self._log_mean(output, y)
        return self._sum(y * log_mean - tf.exp(log_mean) - tf.math.lgamma(y + 1.0))

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        self._no_scale(scale)
        output, y = self._both(output, y)
        mean = tf.exp(self._log_mean(output, y))
        return y - mean, mean


@keras.saving.register_keras_serializable("pae_zoo")
class NegativeBinomial(Counts):
    """Counts with mean mu = exp(g) and variance mu + mu^2 / theta, theta learned for each value of a datum.

        log p(y|z) = sum_p (log G(y + theta) - log G(theta) - log y! + theta log(theta / (theta + mu))
                            + y log(mu / (theta + mu)))

    A Poisson whose rate is Gamma(theta, theta / mu). log theta is a trainable weight, kept within [-7, 12], that starts
    at log `dispersion`. The Fisher information of g is mu theta / (theta + mu). Raises UserError unless dispersion > 0.
    """

    def __init__(self, event_shape: Sequence[int], dispersion: float = 1.0, **kwargs: Any) -> None:
        super().__init__(event_shape, **kwargs)
        self.dispersion = float(dispersion)
        if not (math.isfinite(self.dispersion) and self.dispersion > 0):
            raise UserError(f"dispersion={dispersion!r} must be a finite number above 0.")
        start = keras.initializers.Constant(math.log(self.dispersion))
        self.log_theta = self.add_weight(shape=self.event_shape, initializer=start, name="log_theta")

    def theta(self, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Returns theta, one for each value of a datum."""
        return tf.exp(tf.clip_by_value(tf.cast(self.log_theta.value, dtype), *LOG_DISPERSIONS))

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        log_mean = self._log_mean(output)
        return self._independent(_NegativeBinomial.of(self.theta(log_mean.dtype), log_mean))

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        return tf.exp(self._log_mean(output))

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        mean = self.mean(output)
        return mean + mean**2 / self.theta(mean.dtype)

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        output, y = self._both(output, y)
        log_mean = self._log_mean(output, y)
        return self._sum(_log_prob(y, log_mean, self.theta(output.dtype)))

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        self._no_scale(scale)
        output, y = self._both(output, y)
        mean, theta = tf.exp(self._log_mean(output, y)), self.theta(output.dtype)
        share = theta / (theta + mean)
        return share * (y - mean), share * mean

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dispersion": self.dispersion}


@keras.saving.register_keras_serializable("pae_zoo")
class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """A count of `negative_binomial`, or 0 with probability pi = sigmoid(r): g = [log mu, r] along the last axis.

        p(0|z) = pi + (1 - pi) NB(0),    p(y|z) = (1 - pi) NB(y) of y > 0

    Its mean is (1 - pi) mu, its variance (1 - pi) (mu + mu^2 / theta) + pi (1 - pi) mu^2. `score_and_fisher` has the
    diagonal of the Fisher information of [g, r]. Lopez et al., Nature Methods 2018 (scVI).
    """

    channels_factor = 2

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        log_mean, logit = self._split(output)
        return self._independent(_ZeroInflated.of(self.theta(log_mean.dtype), log_mean, logit))

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        log_mean, logit = self._split(output)
        return tf.sigmoid(-logit) * tf.exp(log_mean)

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        log_mean, logit = self._split(output)
        mean, kept = tf.exp(log_mean), tf.sigmoid(-logit)
        return kept * (mean + mean**2 / self.theta(mean.dtype)) + kept * (1.0 - kept) * mean**2

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        output, y = self._both(output, y)
        log_mean, logit = self._split(output, y)
        return self._sum(_inflated(y, log_mean, logit, self.theta(output.dtype)))

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        self._no_scale(scale)
        output, y = self._both(output, y)
        log_mean, logit = self._split(output, y)
        theta, mean, pi = self.theta(output.dtype), tf.exp(log_mean), tf.sigmoid(logit)
        nothing = tf.exp(_log_prob(tf.zeros_like(mean), log_mean, theta))
        zero = pi + (1.0 - pi) * nothing
        share = theta / (theta + mean)
        fall = (1.0 - pi) * nothing * share * mean  # -d p(0) / d log mu
        rise = pi * (1.0 - pi) * (1.0 - nothing)  # d p(0) / d logit
        is_zero = y < 0.5
        score = tf.where(is_zero, -fall / zero, share * (y - mean))
        logit_score = tf.where(is_zero, rise / zero, -pi)
        fisher = (1.0 - pi) * (share * mean - nothing * (share * mean) ** 2) + fall**2 / zero
        logit_fisher = (1.0 - pi) * (1.0 - nothing) * pi**2 + rise**2 / zero
        return tf.concat([score, logit_score], axis=-1), tf.concat([fisher, logit_fisher], axis=-1)

    def _split(self, output: tf.Tensor, y: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        log_mean, logit = tf.split(full_precision(output), 2, axis=-1)
        return self._log_mean(log_mean, y), logit


def _log_prob(y: tf.Tensor, log_mean: tf.Tensor, theta: tf.Tensor) -> tf.Tensor:
    """Returns log NB(y; mu, theta) of every value."""
    # log(theta + mu) - log theta, without the difference of two large numbers where mu is far below theta.
    more = tf.math.softplus(log_mean - tf.math.log(theta))
    choices = tf.math.lgamma(y + theta) - tf.math.lgamma(theta) - tf.math.lgamma(y + 1.0)
    return choices - (y + theta) * more + y * (log_mean - tf.math.log(theta))


def _inflated(y: tf.Tensor, log_mean: tf.Tensor, logit: tf.Tensor, theta: tf.Tensor) -> tf.Tensor:
    """Returns log p(y) of every value of a zero-inflated negative binomial with sigmoid(logit) more zeros."""
    log_prob = _log_prob(y, log_mean, theta) - tf.math.softplus(logit)
    zero = tf.reduce_logsumexp(tf.stack([log_prob, -tf.math.softplus(-logit)]), axis=0)
    return tf.where(y < 0.5, zero, log_prob)


class _Poisson(tfd.Poisson):
    """Poisson counts whose draws come from a pair of integers."""

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        return distributions.poisson(n, tf.exp(self.log_rate), seed)


class _NegativeBinomial(tfd.NegativeBinomial):
    """Counts of mean exp(log_mean) and variance mean + mean^2 / theta."""

    # With an `__init__` of its own, TFP would warn that it knows no parameters of the class.
    @classmethod
    def of(cls, theta: tf.Tensor, log_mean: tf.Tensor, logit: Any = None) -> "_NegativeBinomial":
        found = cls(theta + 0.0 * log_mean, logits=log_mean - tf.math.log(theta), name=cls.__name__.strip("_"))
        found.theta, found.log_mean, found.logit = theta, log_mean, logit
        return found

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return _log_prob(value, self.log_mean, self.theta)

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        rate_seed, count_seed = seeds.split(seed, 2)
        shape = tf.concat([[n], tf.shape(self.log_mean)], axis=0)
        rate = distributions.gamma(shape, self.theta, rate_seed, self.dtype) * tf.exp(self.log_mean) / self.theta
        return distributions.poisson(1, rate, count_seed)[0]


class _ZeroInflated(_NegativeBinomial):
    """Such a count, or 0 with probability sigmoid(logit)."""

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return _inflated(value, self.log_mean, self.logit, self.theta)

    def _mean(self) -> tf.Tensor:
        return tf.sigmoid(-self.logit) * tf.exp(self.log_mean)

    def _variance(self) -> tf.Tensor:
        mean, kept = tf.exp(self.log_mean), tf.sigmoid(-self.logit)
        return kept * (mean + mean**2 / self.theta) + kept * (1.0 - kept) * mean**2

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        count_seed, zero_seed = seeds.split(seed, 2)
        counts = super()._sample_n(n, count_seed)
        levels = seeds.uniform(tf.shape(counts), zero_seed, counts.dtype)
        return tf.where(levels < tf.sigmoid(self.logit), tf.zeros_like(counts), counts)
