"""Observation models of values on a grid of levels, such as the 256 of a pixel: probabilities, not densities."""

from collections.abc import Callable, Sequence
from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.likelihoods.base import Likelihood, full_precision

tfd = tfp.distributions
#: the least log of the scale, in units of the whole range: a tenth of a level
MIN_LOG_SCALE = -8.0
_AT_ONCE = 32


@keras.saving.register_keras_serializable("pae_zoo")
class DiscretisedLogistic(Likelihood):
    """Levels k / (levels - 1) of a logistic distribution with mean m and scale s, g = [m, r] along the last axis.

        p(y|z) = F((y + h - m) / s) - F((y - h - m) / s),    F = sigmoid,    h = 1 / (2 (levels - 1))
        log s  = -8 + softplus(r + 8)

    with F(-inf) = 0 below the least level and F(inf) = 1 above the largest, so that log p(y|z) is that of a byte and
    -log2 p / D are bits per dimension as the literature has them. Mean, variance and the diagonal of the Fisher
    information of [m, r] are sums over all levels. Salimans et al., PixelCNN++, ICLR 2017, eq. 2, with one component.
    Raises UserError for fewer than two levels.
    """

    channels_factor = 2
    has_gaussian_values = False
    has_bits = True

    def __init__(self, event_shape: Sequence[int], levels: int = 256, **kwargs: Any) -> None:
        super().__init__(event_shape, **kwargs)
        self.levels = int(levels)
        if self.levels < 2:
            raise UserError(f"levels={levels!r}: a grid has at least 2.")

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        mean, scale, _ = self._split(output)
        return self._independent(_Levels.of(mean, scale, self))

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        mean, scale, _ = self._split(output)
        return self.expectation(mean, scale)

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        mean, scale, _ = self._split(output)
        return self.spread(mean, scale)

    def expectation(self, mean: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """Returns E[y], the sum over levels of P(Y >= y) / (levels - 1)."""
        return self._over_levels(lambda k: self._from(k, mean, scale), mean.dtype) / (self.levels - 1)

    def spread(self, mean: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """Returns the variance of y, from E[k^2], the sum over levels of (2 k - 1) P(K >= k)."""
        # About the middle level, so that no large numbers are subtracted.
        middle = 0.5 * (self.levels - 1)
        weight = lambda k: 2.0 * (k - middle) - 1.0  # noqa: E731
        second = self._over_levels(lambda k: weight(k) * self._from(k, mean, scale), mean.dtype) + middle**2
        first = self.expectation(mean, scale) * (self.levels - 1) - middle
        return tf.maximum(second - first**2, 0.0) / (self.levels - 1) ** 2

    def _from(self, k: tf.Tensor, mean: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """P(K >= k) for k in 1, ..., levels - 1."""
        return tf.sigmoid((mean[..., None] - (k - 0.5) / (self.levels - 1)) / scale[..., None])

    def _over_levels(self, term: Callable[[tf.Tensor], tf.Tensor], dtype: tf.DType, first: int = 1) -> tf.Tensor:
        """Returns the sum of term(k) (..., K) over k = first, ..., levels - 1, some at a time."""
        total = None
        for start in range(first, self.levels, _AT_ONCE):
            k = tf.range(start, min(start + _AT_ONCE, self.levels))
            found = term(tf.cast(k, dtype))
            total = tf.reduce_sum(found, axis=-1) + (0.0 if total is None else total)
        assert total is not None  # there are two levels or more
        return total

    def adapt(self, y: np.ndarray) -> None:
        """Checks training data y (n, *event); raises UserError for values off the grid."""
        y, n = np.asarray(y, np.float32), self.levels - 1
        away = np.abs(y * n - np.round(y * n))
        if not (y.min() >= 0 and y.max() <= 1 and away.max() < 1e-3):
            raise UserError(f"likelihood 'discretised_logistic' takes pixels of {self.levels} levels, whole numbers "
                            f"over {n}; the data reach from {y.min():.4g} to {y.max():.4g} and lie between levels or "
                            "outside. Give images of uint8 without a --preprocess, or take another likelihood.")

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        output, y = self._both(output, y)
        mean, spread, _ = self._split(output)
        return self._sum(self.log_mass(y, mean, spread))

    def log_mass(self, y: tf.Tensor, mean: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """Returns the log probability of every value."""
        above, below, is_least, is_most, width = self._edges(y, mean, scale)
        # F(a) - F(b) = F(a) F(-b) (1 - exp(b - a)), of which no factor loses digits.
        found = tf.where(is_most, 0.0, tf.math.log_sigmoid(above))
        found += tf.where(is_least, 0.0, tf.math.log_sigmoid(-below))
        return found + tf.where(is_least | is_most, 0.0, tf.math.log(-tf.math.expm1(-width)))

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        self._no_scale(scale)
        output, y = self._both(output, y)
        mean, spread, slope = self._split(output)
        score = self._score(y, mean, spread)
        wide, size = (mean[..., None], spread[..., None]), tf.cast(self.levels - 1, output.dtype)

        def squares(number: int) -> tf.Tensor:
            def term(k: tf.Tensor) -> tf.Tensor:
                level = tf.broadcast_to(k / size, tf.shape(wide[0] + k))
                return tf.exp(self.log_mass(level, *wide)) * self._score(level, *wide)[number] ** 2

            return self._over_levels(term, output.dtype, first=0)

        fisher = tf.concat([squares(0), squares(1) * slope**2], axis=-1)
        return tf.concat([score[0], score[1] * slope], axis=-1), fisher

    def _score(self, y: tf.Tensor, mean: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the derivatives of the log mass by the mean and by the log of the scale."""
        above, below, is_least, is_most, width = self._edges(y, mean, scale)
        right = tf.where(is_most, 0.0, tf.sigmoid(-above))
        left = tf.where(is_least, 0.0, tf.sigmoid(below))
        inner = tf.where(is_least | is_most, 0.0, -width / tf.math.expm1(tf.minimum(width, 80.0)))
        return (left - right) / scale, left * below - right * above + inner

    def _edges(self, y: tf.Tensor, mean: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, ...]:
        half = 0.5 / (self.levels - 1)
        above, below = (y + half - mean) / scale, (y - half - mean) / scale
        return above, below, y < half, y > 1.0 - half, 2.0 * half / scale

    def _split(self, output: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns m, s and d log s / dr, each (..., batch, *event)."""
        mean, raw = tf.split(full_precision(output), 2, axis=-1)
        return mean, tf.exp(MIN_LOG_SCALE + tf.nn.softplus(raw - MIN_LOG_SCALE)), tf.sigmoid(raw - MIN_LOG_SCALE)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "levels": self.levels}


class _Levels(tfd.Logistic):
    """A logistic distribution cut into levels, drawn from a pair of integers."""

    # With an `__init__` of its own, TFP would warn that it knows no parameters of the class.
    @classmethod
    def of(cls, mean: tf.Tensor, scale: tf.Tensor, likelihood: DiscretisedLogistic) -> "_Levels":
        found = cls(mean, scale, name="Levels")
        found.of_levels = likelihood
        return found

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return self.of_levels.log_mass(value, self.loc, self.scale)

    def _mean(self) -> tf.Tensor:
        return self.of_levels.expectation(tf.convert_to_tensor(self.loc), tf.convert_to_tensor(self.scale))

    def _variance(self) -> tf.Tensor:
        return self.of_levels.spread(tf.convert_to_tensor(self.loc), tf.convert_to_tensor(self.scale))

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        shape = tf.concat([[n], tf.shape(self.loc)], axis=0)
        level = seeds.uniform(shape, seed, self.dtype)
        tiny = np.finfo(self.dtype.as_numpy_dtype).tiny
        logit = tf.math.log(tf.maximum(level, tiny)) - tf.math.log1p(-level)
        most = tf.cast(self.of_levels.levels - 1, self.dtype)
        return tf.clip_by_value(tf.round((self.loc + self.scale * logit) * most), 0.0, most) / most
