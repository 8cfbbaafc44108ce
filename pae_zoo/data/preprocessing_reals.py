"""Preprocessing of reals, columns of a table above all: steps whose statistics are those of the training rows.

Each takes every column, or value of a datum, by itself, and says by `reals` that the data need not lie in [0, 1].
"""

from typing import Any, Callable, Iterator, Optional

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.core import seeds
from pae_zoo.data.preprocessing_steps import Preprocessor, Range

#: rows that quartiles and quantiles are taken of, evenly spread over the training data
MOST_ROWS = 20_000
#: knots of `Quantile`, and distinct values below which a column is taken for discrete
KNOTS, FEWEST = 33, 10
_NORMAL_IQR = 1.3489795003921634  # of the standard normal


class _Affine(Preprocessor):
    """y = (x - location) / scale, value by value; log_det = -sum log scale."""

    has_statistics = True
    for_reals = True

    def _add_statistics(self):
        self.location = self.add_weight(shape=self.event_shape, initializer="zeros", trainable=False, name="location")
        self.scale = self.add_weight(shape=self.event_shape, initializer="ones", trainable=False, name="scale")

    def forward_and_log_det(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        scale = tf.cast(self.scale, x.dtype)
        return (x - tf.cast(self.location, x.dtype)) / scale, self._sum(tf.zeros_like(x) - tf.math.log(scale), x)

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        return y * tf.cast(self.scale, y.dtype) + tf.cast(self.location, y.dtype)

    def _assign(self, location: np.ndarray, scale: np.ndarray) -> None:
        self.location.assign(location)
        self.scale.assign(np.where(scale > 1e-7 * np.abs(location), scale, 1.0))  # 1 for a constant


@keras.saving.register_keras_serializable("pae_zoo")
class Robust(_Affine):
    """y = (x - median) / (IQR / 1.349), with the deviation where the quartiles are equal: outliers move neither."""

    def adapt_chunks(self, chunks: Callable[[], Iterator[np.ndarray]]) -> None:
        rows = _some_rows(chunks)
        low, median, high = np.nanquantile(rows, (0.25, 0.5, 0.75), axis=0)
        scale = (high - low) / _NORMAL_IQR
        self._assign(median, np.where(scale > 1e-7 * np.abs(median), scale, np.nanstd(rows, axis=0)))


@keras.saving.register_keras_serializable("pae_zoo")
class MinMax(_Affine):
    """y = (x - min) / (max - min), of the training data: other data may leave [0, 1]."""

    def adapt_chunks(self, chunks: Callable[[], Iterator[np.ndarray]]) -> None:
        low, high = np.inf, -np.inf
        for chunk in chunks():
            low, high = np.fmin(low, np.fmin.reduce(chunk)), np.fmax(high, np.fmax.reduce(chunk))
        low, high = (np.where(np.isfinite(one), one, 0.0) for one in (low, high))  # of a column never seen
        self._assign(low, high - low)


@keras.saving.register_keras_serializable("pae_zoo")
class Log1p(Preprocessor):
    """y = sign(x) log(1 + |x|), for counts and other values over orders of magnitude; log_det = -sum log(1 + |x|)."""

    for_reals = True

    def forward_and_log_det(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        y = _odd(tf.math.log1p, x)
        return y, -self._sum(tf.abs(y), x)

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        return _odd(tf.math.expm1, y)


@keras.saving.register_keras_serializable("pae_zoo")
class Quantile(Preprocessor):
    """A monotone map of each column to a standard normal: straight lines between quantiles of the training data.

    Beyond the outermost the lines go on. Columns of fewer than ten values are standardised, for which quantiles mean
    little. log_det = sum log slope.
    """

    has_statistics = True
    for_reals = True

    def _add_statistics(self):
        scores: Any = _scores()
        even = keras.initializers.Constant(scores)
        assert self.event_shape is not None  # `build` has set it
        shape = (*self.event_shape, KNOTS)
        self.knots_of_values = self.add_weight(shape=shape, initializer=even, trainable=False, name="values")
        self.knots_of_scores = self.add_weight(shape=shape, initializer=even, trainable=False, name="scores")

    def forward_and_log_det(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        y, slope = _lines(x, tf.cast(self.knots_of_values, x.dtype), tf.cast(self.knots_of_scores, x.dtype))
        return y, self._sum(tf.math.log(slope), x)

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        return _lines(y, tf.cast(self.knots_of_scores, y.dtype), tf.cast(self.knots_of_values, y.dtype))[0]

    def adapt_chunks(self, chunks: Callable[[], Iterator[np.ndarray]]) -> None:
        rows = _some_rows(chunks)
        flat = rows.reshape(len(rows), -1)
        knots = [_knots(flat[:, column]) for column in range(flat.shape[1])]
        for place, weight in enumerate((self.knots_of_values, self.knots_of_scores)):
            weight.assign(np.stack([pair[place] for pair in knots]).reshape(weight.shape))


@keras.saving.register_keras_serializable("pae_zoo")
class Reals(Preprocessor):
    """y = x: says that the data are any reals, images too, so that nothing is held against [0, 1] or clipped to it."""

    for_reals = True

    def forward_and_log_det(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.identity(x), self._zeros(x)

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        return tf.identity(y)

    def value_range(self, x_range: Range = (0.0, 1.0)) -> Range:
        return None


def _odd(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Returns the function, 0 at 0, made odd: f(x) for x >= 0, else -f(-x), with its slope at 0 too."""
    return tf.where(x >= 0, function(tf.maximum(x, 0)), -function(tf.maximum(-x, 0)))


def _lines(x: tf.Tensor, knots: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the piecewise linear function through (knots, images), each (*event, Q), at x, and its slope there."""
    flat = tf.transpose(tf.reshape(x, (tf.shape(x)[0], -1)))  # (values of a datum, batch)
    knots, images = tf.reshape(knots, (-1, KNOTS)), tf.reshape(images, (-1, KNOTS))
    place = tf.zeros(tf.shape(flat), tf.int32)
    for inner in range(1, KNOTS - 1):
        place += tf.cast(flat >= knots[:, inner, None], tf.int32)
    left, right = (tf.gather(knots, place + step, batch_dims=1) for step in (0, 1))
    low, high = (tf.gather(images, place + step, batch_dims=1) for step in (0, 1))
    slope = (high - low) / (right - left)
    y = low + slope * (flat - left)
    return tuple(tf.reshape(tf.transpose(one), tf.shape(x)) for one in (y, slope))


def _scores() -> np.ndarray:
    """Normal scores of evenly spaced probabilities."""
    chances = (np.arange(KNOTS) + 0.5) / KNOTS
    return tfp.distributions.Normal(np.float64(0), np.float64(1)).quantile(chances).numpy()


def _knots(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns strictly increasing knots of a column's values and of their scores."""
    scores = _scores()
    # Equal to float32, in which the map is computed, is equal.
    values = values[~np.isnan(values)]
    quantiles = np.quantile(values, (np.arange(KNOTS) + 0.5) / KNOTS).astype(np.float32).astype(np.float64)
    width = quantiles[-1] - quantiles[0]
    found, start = [quantiles[0]], [0]
    for place in range(1, KNOTS):
        if quantiles[place] - found[-1] > 1e-6 * max(width, abs(quantiles[place])):
            found.append(quantiles[place])
            start.append(place)
    if len(np.unique(values[:10_000])) < FEWEST or len(found) < 4:
        deviation = values.std()
        scale = deviation if deviation > 1e-7 * np.abs(values).max() else 1.0
        return values.mean() + scale * scores, scores
    ends = [*start[1:], KNOTS]
    heights = [scores[first:last].mean() for first, last in zip(start, ends)]  # ties share the mean of their scores
    while len(found) < KNOTS:  # the last line goes on
        found.append(2 * found[-1] - found[-2])
        heights.append(2 * heights[-1] - heights[-2])
    return np.array(found), np.array(heights)


def _some_rows(chunks: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
    """Returns up to `MOST_ROWS` of all rows, evenly spread, as float64; a value that none of them shows is 0."""
    total = sum(len(chunk) for chunk in chunks())
    wanted = np.unique(np.linspace(0, total - 1, min(total, MOST_ROWS)).astype(np.int64))
    found, start = [], 0
    for chunk in chunks():
        here = wanted[(wanted >= start) & (wanted < start + len(chunk))] - start
        found.append(chunk[here])
        start += len(chunk)
    rows = np.concatenate(found).astype(np.float64)
    return np.where(np.isnan(rows).all(axis=0), 0.0, rows)
