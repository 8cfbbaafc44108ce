"""Layers that Keras lacks or that do not fit the zoo: dropout that repeats, spectral and inert batch norm."""

import contextlib
import threading
from typing import Any, Iterator, Optional, Sequence, Union

import keras
import tensorflow as tf

from pae_zoo.core import seeds

_noise = threading.local()


@contextlib.contextmanager
def dropout_noise(seed: seeds.Seed, always: bool = False) -> Iterator[None]:
    """Makes every `Dropout` called inside with training=True draw from `seed` and leave its count alone.

    For results that must not depend on hidden state: `with dropout_noise(seed): net(x, training=True)`. With `always`
    they drop whatever `training` is, so that nothing but dropout is as in training.
    Layers still draw differently from each other. Works while a tf.function is traced; the seed may be a
    tensor.
    """
    former = getattr(_noise, "seed", None), getattr(_noise, "always", False)
    _noise.seed, _noise.always = seeds.as_seed(seed), always
    try:
        yield
    finally:
        _noise.seed, _noise.always = former


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
        if self.rate == 0 or not (training or getattr(_noise, "always", False)):
            return inputs
        explicit = getattr(_noise, "seed", None)
        if explicit is not None:
            seed = self._seed_from(explicit)
        else:
            seed = seeds.fold_in(self.seed, self.count.value)
            self.count.assign_add(1)
        keep = seeds.uniform(tf.shape(inputs), seed, batch=0) >= self.rate
        return tf.where(keep, inputs / (1 - self.rate), tf.zeros((), inputs.dtype))

    def mask(self, shape: Union[Sequence[Any], tf.Tensor], seed: seeds.Seed) -> tf.Tensor:
        """Returns what inputs of `shape`, batch first, are multiplied by inside `dropout_noise(seed, always=True)`."""
        keep = seeds.uniform(shape, self._seed_from(seed)) >= self.rate
        return tf.cast(keep, tf.float32) / (1 - self.rate)

    def _seed_from(self, explicit: seeds.Seed) -> tf.Tensor:
        return seeds.fold_in(seeds.fold_in(explicit, self.seed[0]), self.seed[1])

    def compute_output_shape(self, input_shape: Sequence[Optional[int]]) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable("pae_zoo")
class SpectralNorm(keras.layers.Wrapper):
    """A Dense, Conv2D or Conv2DTranspose layer whose kernel W is divided by an estimate of its largest singular value.

    W is seen as a matrix (all other axes, outputs), also that of a transposed convolution, whose outputs are its last
    axis but one; and y = activation(op(x, W / sigma) + bias) with
        v = W u / |W u|,  u' = W^T v / |W^T v|,  sigma = v^T W u',
    no gradient through u' and v. The raw W stays the trainable weight and is always divided. u is a
    persistent, non-trainable weight: a training call replaces it by u', an inference call leaves it, so that
    the output at inference depends on neither earlier calls nor the rest of the batch. `seed` draws the first
    u ~ N(0, I). Raises ValueError for another layer. Miyato et al., arXiv 1802.05957, algorithm 1.
    """

    def __init__(self, layer: keras.Layer, seed: int = 0, **kwargs: Any) -> None:
        if not isinstance(layer, (keras.layers.Dense, keras.layers.Conv2D, keras.layers.Conv2DTranspose)):
            raise ValueError(
                f"SpectralNorm wraps a Dense, a Conv2D or a Conv2DTranspose layer; got {type(layer).__name__}.")
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            raise ValueError(f"SpectralNorm needs channels_last; {layer.name} has {layer.data_format}.")
        super().__init__(layer, **kwargs)
        self.seed = int(seed)

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        super().build(input_shape)
        self.u = self.add_weight(
            shape=(self.layer.kernel.shape[-2 if self._is_transposed else -1],),
            initializer=keras.initializers.RandomNormal(stddev=1.0, seed=self.seed),
            trainable=False,
            name="u",
        )
        self.built = True

    def sigma(self) -> tf.Tensor:
        """Returns the estimate of the largest singular value, a scalar; differentiable in the kernel."""
        return self._power_step()[0]

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        layer = self.layer
        sigma, u = self._power_step()
        if training:
            self.u.assign(u)
        kernel = tf.convert_to_tensor(layer.kernel)
        if isinstance(layer, keras.layers.Dense):
            outputs = keras.ops.matmul(inputs, kernel)
        else:
            strides: Any = tuple(layer.strides)
            options: dict[str, Any] = dict(strides=strides, padding=layer.padding, data_format=layer.data_format,
                                           dilation_rate=layer.dilation_rate)
            if isinstance(layer, keras.layers.Conv2DTranspose):
                outputs = keras.ops.conv_transpose(inputs, kernel, output_padding=layer.output_padding, **options)
            else:
                outputs = keras.ops.conv(inputs, kernel, **options)
        # op(x, W / sigma) = op(x, W) / sigma, and outputs are far fewer than weights.
        outputs = outputs / tf.cast(sigma, outputs.dtype)
        if layer.use_bias:
            outputs = outputs + tf.convert_to_tensor(layer.bias)
        return layer.activation(outputs)

    def compute_output_shape(self, input_shape: Sequence[Optional[int]]) -> tuple:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}

    @property
    def _is_transposed(self) -> bool:
        return isinstance(self.layer, keras.layers.Conv2DTranspose)

    def _power_step(self) -> tuple[tf.Tensor, tf.Tensor]:
        kernel = tf.convert_to_tensor(self.layer.kernel)
        if kernel.dtype.size < 4:
            kernel = tf.cast(kernel, tf.float32)
        if self._is_transposed:
            kernel = tf.linalg.matrix_transpose(kernel)
        matrix = tf.reshape(kernel, (-1, kernel.shape[-1]))
        fixed = tf.stop_gradient(matrix)
        v = _unit(tf.linalg.matvec(fixed, tf.cast(self.u.value, fixed.dtype)))
        u = _unit(tf.linalg.matvec(fixed, v, transpose_a=True))
        return tf.tensordot(v, tf.linalg.matvec(matrix, u), 1), u


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


@keras.saving.register_keras_serializable("pae_zoo")
class WithMask(keras.layers.Layer):
    """Data whose missing values are NaN as the values, 0 where there is none, and the mask, 1 where there is one.

    (batch, *event) becomes (batch, *event[:-1], 2 event[-1]). An encoder that begins with it makes a model one of data
    with missing values (Mattei & Frellsen, arXiv 1812.02633, section 2.4).
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        missing = tf.math.is_nan(inputs)
        values = tf.where(missing, tf.zeros_like(inputs), inputs)
        return tf.concat([values, tf.cast(~missing, inputs.dtype)], axis=-1)

    def compute_output_shape(self, input_shape: Sequence[Optional[int]]) -> tuple:
        channels = input_shape[-1]
        return (*input_shape[:-1], None if channels is None else 2 * channels)


def sees_mask(encoder: keras.Model) -> bool:
    """Whether an encoder takes NaN for values that are missing: whether it begins with `WithMask`."""
    return any(isinstance(layer, WithMask) for layer in getattr(encoder, "layers", ()))


def _unit(vector: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(tf.stop_gradient(vector), epsilon=1e-12)
