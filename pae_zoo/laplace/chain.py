"""A decoder read as a chain of dense and elementwise maps, whose tangents and products are plain matrix products."""

import math
from typing import Any, Callable, NamedTuple, Optional, Union

import keras
import tensorflow as tf

from pae_zoo.networks import layers as zoo_layers
from pae_zoo.networks.activations import is_elementwise

_ACTIVATION_LAYERS = (
    keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.PReLU, keras.layers.ELU, keras.layers.Rescaling,
    zoo_layers.Affine, zoo_layers.MeanSigmoid,
)  # fmt: skip
_SHAPE_LAYERS = (keras.layers.InputLayer, keras.layers.Reshape, keras.layers.Flatten)
# At inference, in which a decoder is linearised, they are the identity.
_TRAINING_LAYERS = (keras.layers.Dropout, zoo_layers.Dropout)


class Dense(NamedTuple):
    """x (..., a) -> x kernel + bias (..., b); `dtype` is that of the product."""

    kernel: tf.Tensor
    bias: Optional[tf.Tensor]
    dtype: str

    def linear(self, x: tf.Tensor) -> tf.Tensor:
        """Returns x kernel, without the bias, in the precision of x."""
        return _product(x, self.kernel, self.dtype)

    def adjoint(self, x: tf.Tensor) -> tf.Tensor:
        """Returns x kernel^T, in the precision of x."""
        return _product(x, self.kernel, self.dtype, transpose_b=True)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        value = self.linear(x)
        return value if self.bias is None else value + tf.cast(self.bias, value.dtype)


class Elementwise(NamedTuple):
    """x -> function(x), value by value; `piecewise` says that it is a relu, with a constant 0/1 derivative."""

    function: Callable[[tf.Tensor], tf.Tensor]
    piecewise: bool

    def value_and_slope(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns f(x) and f'(x); at the kink of a relu the slope is 0."""
        if self.piecewise:
            return self.function(x), tf.cast(x > 0, x.dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = self.function(x)
        return value, tape.gradient(value, x)


Step = Union[Dense, Elementwise]


class Local(NamedTuple):
    """A chain at points z (batch, K): its value (batch, n) and the slopes of its elementwise steps, in order."""

    value: tf.Tensor
    slopes: list[tf.Tensor]


class Chain:
    """Dense and elementwise maps applied in turn, R^K -> R^n, on flattened values; shapes are (batch, ...)."""

    def __init__(self, steps: list[Step]):
        self.steps = steps

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        """Returns the value at z (..., K), shape (..., n)."""
        for step in self.steps:
            z = step(z) if isinstance(step, Dense) else step.function(z)
        return z

    def at(self, z: tf.Tensor) -> Local:
        """Returns the value and the slopes at z (batch, K)."""
        value, slopes = z, []
        for step in self.steps:
            if isinstance(step, Dense):
                value = step(value)
            else:
                value, slope = step.value_and_slope(value)
                slopes.append(slope)
        return Local(value, slopes)

    def jacobian(self, local: Local) -> tf.Tensor:
        """Returns dvalue/dz at a point as (batch, K, n): row k is the derivative by z_k."""
        slopes = iter(local.slopes)
        # rows are one matrix (m, n) for all data until slopes, kept aside in `scale`, have been multiplied in.
        rows, scale = tf.eye(self._input_size(local), dtype=local.value.dtype), None
        for number, step in enumerate(self.steps):
            if isinstance(step, Elementwise):
                slope = next(slopes)
                if rows.shape.rank == 2:
                    scale = slope if scale is None else scale * slope
                else:
                    rows = slope[:, None, :] * rows
            elif number == 0:
                rows = tf.cast(step.kernel, rows.dtype)
            elif scale is not None:
                rows, scale = scaled_product(scale, rows, step), None
            else:
                rows = step.linear(rows)
        if scale is not None:
            rows = scale[:, None, :] * rows
        if rows.shape.rank == 3:
            return rows
        return tf.broadcast_to(rows, (tf.shape(local.value)[0], *rows.shape))

    def _input_size(self, local: Local) -> int:
        first = self.steps[0] if self.steps else None
        return int(first.kernel.shape[0] if isinstance(first, Dense) else local.value.shape[-1])

    def forward(self, local: Local, tangents: tf.Tensor) -> tf.Tensor:
        """Returns J v for v (..., batch, K), shape (..., batch, n)."""
        slopes = iter(local.slopes)
        for step in self.steps:
            tangents = step.linear(tangents) if isinstance(step, Dense) else tangents * next(slopes)
        return tangents

    def backward(self, local: Local, cotangents: tf.Tensor) -> tf.Tensor:
        """Returns J^T w for w (..., batch, n), shape (..., batch, K)."""
        slopes = reversed(local.slopes)
        for step in reversed(self.steps):
            cotangents = step.adjoint(cotangents) if isinstance(step, Dense) else cotangents * next(slopes)
        return cotangents

    def split_last(self) -> tuple["Chain", Optional[Dense]]:
        """Returns what precedes a last dense step and that step, or (self, None) where the last is none."""
        if self.steps and isinstance(self.steps[-1], Dense):
            return Chain(self.steps[:-1]), self.steps[-1]
        return self, None


def scaled_product(scale: tf.Tensor, rows: tf.Tensor, step: Dense) -> tf.Tensor:
    """Returns (scale * rows) kernel, (batch, m, n), for scale (batch, h) and one matrix rows (m, h) for all data.

    The scaled rows, as large as the result, are not kept for the backward pass but made again.
    """

    @tf.custom_gradient
    def apply(scale, rows, kernel):
        product = Dense(kernel, None, step.dtype)

        def gradient(upstream):
            # Tied to the upstream gradient, or else the graph optimiser would share the forward pass's tensor.
            with tf.control_dependencies([upstream]):
                again = tf.identity(scale)[:, None, :] * rows
            flat = tf.reshape(again, (-1, again.shape[-1]))
            by_kernel = tf.matmul(flat, tf.reshape(upstream, (-1, upstream.shape[-1])), transpose_a=True)
            by_rows = product.adjoint(upstream)
            by_scale = tf.reduce_sum(by_rows * rows, axis=1)
            return by_scale, tf.reduce_sum(by_rows * scale[:, None, :], axis=0), tf.cast(by_kernel, kernel.dtype)

        return product.linear(scale[:, None, :] * rows), gradient

    return apply(scale, rows, tf.convert_to_tensor(step.kernel))


def is_chain(decoder: keras.Model) -> bool:
    """Whether `read` can read the decoder: layers one after another, each dense, elementwise or a change of shape."""
    layers = _in_order(decoder)
    return layers is not None and all(_readable(layer) for layer in layers)


def read(decoder: keras.Model) -> Chain:
    """Returns the decoder at inference as a chain on flattened values; raises ValueError where `is_chain` is False."""
    layers = _in_order(decoder)
    if layers is None or not is_chain(decoder):
        raise ValueError(f"{decoder.name} is not a chain of dense and elementwise layers.")
    steps: list[Step] = []
    for layer in layers:
        if isinstance(layer, keras.layers.Dense):
            bias = tf.convert_to_tensor(layer.bias) if layer.use_bias else None
            steps.append(Dense(tf.convert_to_tensor(layer.kernel), bias, layer.compute_dtype))
            if layer.activation is not keras.activations.linear:
                steps.append(Elementwise(layer.activation, layer.activation is keras.activations.relu))
        elif isinstance(layer, keras.layers.Activation):
            if layer.activation is not keras.activations.linear:
                steps.append(Elementwise(layer.activation, layer.activation is keras.activations.relu))
        elif isinstance(layer, _ACTIVATION_LAYERS):
            steps.append(Elementwise(_flattened(layer), _is_plain_relu(layer)))
    return Chain(steps)


def _in_order(decoder: keras.Model) -> Optional[list[keras.Layer]]:
    """Returns the layers of a model that is one line of layers, nested ones unrolled; None for any other model."""
    if isinstance(decoder, keras.Sequential):
        layers = []
        for layer in decoder.layers:
            inner = _in_order(layer) if isinstance(layer, keras.Model) else [layer]
            if inner is None:
                return None
            layers += inner
        return layers
    return None


def _readable(layer: Any) -> bool:
    # A subclass may compute anything, so classes are compared, not tested by isinstance.
    kernel: Any = getattr(layer, "kernel", None)
    if type(layer) is keras.layers.Dense:
        return len(kernel.shape) == 2 and layer.lora_rank is None and is_elementwise(layer.activation)
    if type(layer) is keras.layers.Activation:
        return is_elementwise(layer.activation)
    return type(layer) in (*_ACTIVATION_LAYERS, *_SHAPE_LAYERS, *_TRAINING_LAYERS)


def _is_plain_relu(layer: keras.Layer) -> bool:
    if type(layer) is not keras.layers.ReLU:
        return False
    return layer.max_value is None and not layer.negative_slope and not layer.threshold


def _flattened(layer: Any) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the layer as a function of flattened values (batch, n)."""
    shape = tuple(layer.input.shape[1:]) if len(layer.input.shape) > 2 else None
    if shape is None:
        return layer
    size = math.prod(shape)
    return lambda x: tf.reshape(layer(tf.reshape(x, (-1, *shape))), (-1, size))


def _product(x: tf.Tensor, kernel: tf.Tensor, dtype: str, transpose_b: bool = False) -> tf.Tensor:
    """Returns x kernel for x (..., a) as one product of two matrices, in `dtype` if that is less precise than x."""
    precision = tf.as_dtype(dtype)
    low = precision if precision.size < x.dtype.size else x.dtype
    rows = tf.reshape(tf.cast(x, low), (-1, x.shape[-1]))
    value = tf.cast(tf.matmul(rows, tf.cast(kernel, low), transpose_b=transpose_b), x.dtype)
    return value if x.shape.rank == 2 else tf.reshape(value, (*leading(x), value.shape[-1]))


def leading(x: tf.Tensor) -> list:
    """Returns all sizes of x but the last, static where they are known."""
    return [static if static is not None else tf.shape(x)[i] for i, static in enumerate(x.shape[:-1])]
