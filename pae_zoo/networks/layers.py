"""Layers that Keras lacks or that do not fit the zoo: dropout that repeats, spectral and inert batch norm."""

import contextlib
import threading
from typing import Any, Iterator, Optional, Sequence

import keras
import tensorflow as tf

from pae_zoo import seeds

_noise = threading.local()


@contextlib.contextmanager
def dropout_noise(seed: seeds.Seed) -> Iterator[None]:
    """Makes every `Dropout` called inside with training=True draw from `seed` and leave its count alone.

    For results that must not depend on hidden state: `with dropout_noise(seed): net(x, training=True)`.
    Layers still draw differently from each other. Works while a tf.function is traced; the seed may be a
    tensor.
    """
    former = getattr(_noise, "seed", None)
    _noise.seed = seeds.as_seed(seed)
    try:
        yield
    finally:
        _noise.seed = former


@keras.saving.register_keras_serializable("pae_zoo")
class Dropout(keras.layers.Layer):
    """Dropout whose masks are the same eagerly, under XLA and after a resumed run.

    y = x * keep / (1 - rate), keep ~ Bernoulli(1 - rate) for each value; the identity at inference. The mask
    is a function of (seed, count); `count` is a saved, non-trainable weight that grows by one with each
    training call. Any shape, batch first. `seed` is (base, index of the layer). Raises ValueError unless 0 <=
    rate < 1. Srivastava et al., JMLR 15 (2014) 1929.
    """

    def __init__(self, rate: float, seed: Sequence[int] = (0, 0), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"Dropout's rate must lie in [0, 1); received {rate!r}.")
        self.rate = float(rate)
        self.seed = tuple(int(word) for word in seed)
        seeds.as_seed(self.seed)
        self.supports_masking = True

    def build(self, input_shape: Sequence[Optional[int]]) -> None:
        if self.built:
            return
        # 64 bits, because TensorFlow keeps 32-bit integer variables in host memory, out of XLA's reach on
        # GPUs.
        self.count = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="count")
        self.built = True

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        if not training or self.rate == 0:
            return inputs
        explicit = getattr(_noise, "seed", None)
        if explicit is not None:
            seed = seeds.fold_in(seeds.fold_in(explicit, self.seed[0]), self.seed[1])
        else:
            seed = seeds.fold_in(self.seed, self.count.value)
            self.count.assign_add(1)
        keep = seeds.uniform(tf.shape(inputs), seed) >= self.rate
        return tf.where(keep, inputs / (1 - self.rate), tf.zeros((), inputs.dtype))

    def compute_output_shape(self, input_shape: Sequence[Optional[int]]) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable("pae_zoo")
class Affine(keras.layers.Layer):
    """Batch normalisation that never saw a statistic: y = gamma * x / sqrt(1 + 1e-5) + beta, per channel.

    Shape (batch, ..., channels). The reference code of the PAE (Boehm & Seljak, arXiv 2006.05479) never
    updates its moving mean 0 and variance 1 and never sets the training flag, so this is what its published
    networks compute.
    """

    def build(self, input_shape: Sequence[Optional[int]]) -> None:
        if self.built:
            return
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(shape=shape, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=shape, initializer="zeros", name="beta")
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs * (self.gamma.value / (1 + 1e-5) ** 0.5) + self.beta.value

    def compute_output_shape(self, input_shape: Sequence[Optional[int]]) -> tuple:
        return tuple(input_shape)


@keras.saving.register_keras_serializable("pae_zoo")
class MeanSigmoid(keras.layers.Layer):
    """sigmoid(mean) + shift on the first half of the last axis; the second, a raw log-variance, passes."""

    def __init__(self, shift: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shift = float(shift)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        mean, rest = tf.split(inputs, 2, axis=-1)
        return tf.concat([tf.sigmoid(mean) + self.shift, rest], axis=-1)

    def compute_output_shape(self, input_shape: Sequence[Optional[int]]) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "shift": self.shift}
