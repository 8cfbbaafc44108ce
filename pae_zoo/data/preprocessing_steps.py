"""Single preprocessing steps y = f(x) with inverse and log |dy/dx|; `preprocessing.Chain` puts them in a row.

Each step is a Keras layer whose statistics are non-trainable weights, so that they travel with the model. All
methods take and return float tensors of shape (batch, *event); images are pixels in [0, 1]. With `seed=None`
a random step takes its deterministic form. A value of NaN is one that nobody has seen: it stays NaN, counts nothing in
statistics, and has no part in the change of density.
"""

import math
from typing import Any, Callable, Iterator, Optional, Sequence

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds

Range = Optional[tuple[float, float]]
ADAPT_SEED = 42
_CHUNK = 4096


class Preprocessor(keras.layers.Layer):
    """An invertible map y = f(x) of one datum; subclasses implement `forward_and_log_det` and `inverse`."""

    has_statistics = False
    #: whether steps of the class say that the data are any reals, which need not lie in [0, 1] though they are images
    for_reals: bool = False

    def __init__(self, **kwargs):
        kwargs.setdefault("dtype", "float32")  # densities need all their bits, whatever the global policy
        super().__init__(trainable=kwargs.pop("trainable", False), **kwargs)
        self.event_shape = None

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the statistics for data of shape (batch, *event)."""
        if self.built:
            return
        self.event_shape = tuple(int(size) for size in input_shape[1:])
        self._add_statistics()
        self.built = True

    def _add_statistics(self) -> None:
        """Hook: creates the non-trainable weights of shape `event_shape`."""

    def call(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns `forward(x, seed)`."""
        return self.forward(x, seed)

    def compute_output_shape(self, input_shape: Sequence[Optional[int]]) -> tuple:
        return tuple(input_shape)

    def forward(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns y, shape and dtype of x."""
        return self.forward_and_log_det(x, seed)[0]

    def log_det(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns log |dy/dx| per datum in nats, (batch,); the same seed means the same noise as `forward`."""
        return self.forward_and_log_det(x, seed)[1]

    def forward_and_log_det(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns y and log |dy/dx|."""
        raise NotImplementedError(f"{type(self).__name__} does not implement forward_and_log_det.")

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        """Returns x with forward(x) = y, where there is one."""
        raise NotImplementedError(f"{type(self).__name__} does not implement inverse.")

    @property
    def reals(self) -> bool:
        """Whether it says that the data are any reals."""
        return self.for_reals

    @property
    def is_stochastic(self) -> bool:
        """Whether `forward` uses its seed."""
        return False

    def value_range(self, x_range: Range = (0.0, 1.0)) -> Range:
        """Returns the (low, high) that y stays within when x stays within `x_range`; None means unbounded."""
        return None

    def adapt(self, x: np.ndarray) -> None:
        """Sets the statistics from training data (n, *event), uint8 or float; reads it in chunks."""
        if not self.built:
            self.build((None, *x.shape[1:]))
        if self.has_statistics:
            self.adapt_chunks(lambda: unit_chunks(x))

    def adapt_chunks(self, chunks: Callable[[], Iterator[np.ndarray]]) -> None:
        """Sets the statistics from float chunks of the data; `chunks()` starts over."""

    def _zeros(self, x) -> tf.Tensor:
        return tf.zeros_like(self._sum(x, x))

    def _sum(self, terms: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Sums the terms of the values of x that were seen over the event axes: of the build, or all but the first."""
        rank = len(self.event_shape) if self.event_shape is not None else x.shape.rank - 1
        terms = tf.where(tf.math.is_nan(x), tf.zeros_like(terms), terms)
        return tf.reduce_sum(terms, axis=list(range(-rank, 0)))


def unit_chunks(x: np.ndarray) -> Iterator[np.ndarray]:
    """Yields float32 chunks of x; uint8 is divided by 255."""
    for start in range(0, len(x), _CHUNK):
        chunk = x[start : start + _CHUNK]
        yield (
            chunk.astype(np.float32) / np.float32(255)
            if chunk.dtype == np.uint8
            else chunk.astype(np.float32)
        )


def _log(value: float, where: str) -> float:
    if not value > 0:
        raise ValueError(f"{where} must be positive; received {value}.")
    return math.log(value)


@keras.saving.register_keras_serializable("pae_zoo")
class Scale(Preprocessor):
    """y = low + (high - low) x, the affine map of [0, 1] to [low, high]; log_det = D log(high - low)."""

    def __init__(self, low: float = -0.5, high: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        self.low, self.high = float(low), float(high)
        self._log_width = _log(self.high - self.low, "high - low of Scale")

    def forward_and_log_det(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        y = self.low + (self.high - self.low) * x
        return y, self._sum(tf.fill(tf.shape(x), tf.cast(self._log_width, x.dtype)), x)

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        return (y - self.low) / (self.high - self.low)

    def value_range(self, x_range: Range = (0.0, 1.0)) -> Range:
        width = self.high - self.low
        return x_range and (self.low + width * x_range[0], self.low + width * x_range[1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "low": self.low, "high": self.high}


@keras.saving.register_keras_serializable("pae_zoo")
class Centre(Preprocessor):
    """y = x - m with m the mean of every pixel over the training data; log_det = 0."""

    has_statistics = True

    def _add_statistics(self):
        self.mean = self.add_weight(shape=self.event_shape, initializer="zeros", trainable=False, name="mean")

    def forward_and_log_det(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        return x - tf.cast(self.mean, x.dtype), self._zeros(x)

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        return y + tf.cast(self.mean, y.dtype)

    def value_range(self, x_range: Range = (0.0, 1.0)) -> Range:
        return x_range and (x_range[0] - x_range[1], x_range[1] - x_range[0])

    def adapt_chunks(self, chunks: Callable[[], Iterator[np.ndarray]]) -> None:
        self.mean.assign(_moments(chunks)[0])


@keras.saving.register_keras_serializable("pae_zoo")
class Standardise(Preprocessor):
    """y = (x - m) / max(s, floor) with every pixel's mean m and deviation s; log_det = -sum log max(s, floor).

    The floor keeps pixels that hardly vary in training from exploding on other data. With 0, for data of any unit,
    a constant has deviation 1.
    """

    has_statistics = True

    def __init__(self, floor: float = 1e-2, **kwargs):
        super().__init__(**kwargs)
        self.floor = float(floor)
        if not self.floor >= 0:
            raise ValueError(f"floor of Standardise must be 0 or more; received {floor}.")

    def _add_statistics(self):
        self.mean = self.add_weight(shape=self.event_shape, initializer="zeros", trainable=False, name="mean")
        self.std = self.add_weight(shape=self.event_shape, initializer="ones", trainable=False, name="std")

    def _statistics(self, dtype):
        return tf.cast(self.mean, dtype), tf.maximum(tf.cast(self.std, dtype), tf.cast(self.floor, dtype))

    def forward_and_log_det(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        mean, std = self._statistics(x.dtype)
        return (x - mean) / std, self._sum(tf.zeros_like(x) - tf.math.log(std), x)

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        mean, std = self._statistics(y.dtype)
        return y * std + mean

    def adapt_chunks(self, chunks: Callable[[], Iterator[np.ndarray]]) -> None:
        mean, variance = _moments(chunks)
        std = np.sqrt(variance)
        self.mean.assign(mean)
        self.std.assign(std if self.floor else np.where(std > 1e-7 * np.abs(mean), std, 1.0))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "floor": self.floor}


@keras.saving.register_keras_serializable("pae_zoo")
class StandardiseReal(Standardise):
    """`Standardise` of some columns, those that `which` says, and the others as they are."""

    def __init__(self, which: Sequence[bool] = (), **kwargs):
        super().__init__(**kwargs)
        self.which = tuple(bool(one) for one in which)

    def adapt_chunks(self, chunks: Callable[[], Iterator[np.ndarray]]) -> None:
        super().adapt_chunks(chunks)
        if self.which:
            self.mean.assign(np.where(self.which, self.mean, 0.0))
            self.std.assign(np.where(self.which, self.std, 1.0))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "which": self.which}


@keras.saving.register_keras_serializable("pae_zoo")
class StandardiseChannels(Standardise):
    """`Standardise` with one mean and one deviation for each channel, over all pixels and data."""

    def adapt_chunks(self, chunks: Callable[[], Iterator[np.ndarray]]) -> None:
        mean, variance = _moments(chunks)
        axes = tuple(range(mean.ndim - 1))
        # The variance over pixels is the mean of theirs, and that of their means.
        total = variance.mean(axis=axes) + mean.var(axis=axes)
        self.mean.assign(np.broadcast_to(mean.mean(axis=axes), mean.shape))
        self.std.assign(np.broadcast_to(np.sqrt(total), mean.shape))


def _moments(chunks: Callable[[], Iterator[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of what was seen in float64, merged chunk by chunk (Chan, Golub, LeVeque 1983)."""
    rows, count, mean, squares = 0, 0, 0.0, 0.0
    for chunk in chunks():
        seen = ~np.isnan(chunk)
        size, rows = seen.sum(axis=0), rows + len(chunk)
        here = np.maximum(size, 1)
        chunk_mean = np.where(seen, chunk, 0).sum(axis=0, dtype=np.float64) / here
        variance = np.square(np.where(seen, chunk - chunk_mean, 0), dtype=np.float64).sum(axis=0) / here
        delta, total = chunk_mean - mean, np.maximum(count + size, 1)
        squares = squares + size * variance + delta**2 * (count * size / total)
        mean = mean + delta * (size / total)
        count = count + size
    if not rows:
        raise ValueError("adapt received no rows; at least one is needed.")
    return np.asarray(mean), np.asarray(squares / np.maximum(count, 1))


@keras.saving.register_keras_serializable("pae_zoo")
class Dequantise(Preprocessor):
    """u = (255 x + U) / 256 with U uniform on (0, 1), or 1/2 without a seed; makes 8-bit pixels continuous.

    log_det counts 0: densities are those of u on [0, 1]. The inverse, x = (256 u - 1/2) / 255, undoes the
    deterministic form and is off by (U - 1/2) / 255 for the random one.
    """

    def forward_and_log_det(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        noise = 0.5 if seed is None else seeds.uniform(tf.shape(x), seed, x.dtype, batch=0)
        return (255.0 * x + noise) / 256.0, self._zeros(x)

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        return (256.0 * y - 0.5) / 255.0

    @property
    def is_stochastic(self) -> bool:
        return True

    def value_range(self, x_range: Range = (0.0, 1.0)) -> Range:
        return x_range and (255 * x_range[0] / 256, (255 * x_range[1] + 1) / 256)


@keras.saving.register_keras_serializable("pae_zoo")
class Logit(Preprocessor):
    """v = a + (1 - 2 a) u, y = log v - log(1 - v); log_det = sum [log(1 - 2 a) - log v - log(1 - v)].

    Takes u in [0, 1]. a is the margin; with the default 0.05, |y| <= 2.9445.
    """

    def __init__(self, margin: float = 0.05, **kwargs):
        super().__init__(**kwargs)
        self.margin = float(margin)
        if not 0 < self.margin < 0.5:
            raise ValueError(f"margin of Logit must lie in (0, 0.5); received {margin}.")

    def forward_and_log_det(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        v = self.margin + (1 - 2 * self.margin) * x
        log_v, log_rest = tf.math.log(v), tf.math.log1p(-v)
        return log_v - log_rest, self._sum(math.log(1 - 2 * self.margin) - log_v - log_rest, x)

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        return (tf.sigmoid(y) - self.margin) / (1 - 2 * self.margin)

    def value_range(self, x_range: Range = (0.0, 1.0)) -> Range:
        if x_range is None:
            return None
        low, high = (self.margin + (1 - 2 * self.margin) * bound for bound in x_range)
        return (math.log(low / (1 - low)), math.log(high / (1 - high))) if 0 < low and high < 1 else None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin}


@keras.saving.register_keras_serializable("pae_zoo")
class Binarise(Preprocessor):
    """y in {0, 1}: y = 1[U < x] ("dynamic", redrawn at every use) or y = 1[x >= 1/2] ("threshold").

    Without a seed, "dynamic" thresholds. log_det counts 0, since probabilities of y are masses; the inverse is
    the identity: probabilities of y = 1 are grey levels.
    """

    MODES = ("dynamic", "threshold")

    def __init__(self, mode: str = "dynamic", **kwargs):
        super().__init__(**kwargs)
        if mode not in self.MODES:
            raise ValueError(f"mode of Binarise must be one of {self.MODES}; received {mode!r}.")
        self.mode = mode

    def forward_and_log_det(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        if self.mode == "dynamic" and seed is not None:
            bits = seeds.uniform(tf.shape(x), seed, x.dtype, batch=0) < x
        else:
            bits = x >= 0.5
        # What is not finite is neither 0 nor 1.
        return tf.where(tf.math.is_finite(x), tf.cast(bits, x.dtype), x), self._zeros(x)

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        return tf.identity(y)

    @property
    def is_stochastic(self) -> bool:
        return self.mode == "dynamic"

    def value_range(self, x_range: Range = (0.0, 1.0)) -> Range:
        return (0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": self.mode}
