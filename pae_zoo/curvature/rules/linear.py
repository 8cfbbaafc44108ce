"""Rules of layers whose output is linear in a kernel: dense ones, convolutions, and those with a spectral norm."""

import dataclasses
import math
from typing import Any, Callable

import keras
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.network import pieces
from pae_zoo.curvature.rules import correlations, registry
from pae_zoo.networks import layers as zoo_layers


@dataclasses.dataclass(frozen=True)
class Linear:
    """A layer y = op(a, W) + b, where the gradient of delta^T y by W is a sum over positions of outer products.

    Args:
      op: (layer, a, kernel) -> op(a, kernel).
      products: (layer, a, delta (R, B, *out)) -> the gradients by the kernel of each datum and row, (R, B, *shape).
      values: (layer, a, delta) -> how many numbers `products` makes for one datum and all rows.
    """

    op: Callable[[keras.Layer, tf.Tensor, tf.Tensor], tf.Tensor]
    products: Callable[[keras.Layer, tf.Tensor, tf.Tensor], tf.Tensor]
    values: Callable[[keras.Layer, tf.Tensor, tf.Tensor], int]

    def forward(self, layer: keras.Layer, a: tf.Tensor) -> tf.Tensor:
        """Returns the layer's output without its activation."""
        y = self.op(layer, a, registry.weight(layer.kernel, a.dtype))
        return y + registry.weight(layer.bias, a.dtype) if layer.use_bias else y

    def vjp(self, layer: keras.Layer, a: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
        """Returns the rows by the input."""
        kernel = registry.weight(layer.kernel, a.dtype)
        return registry.vjp_by_tape(lambda x: self.op(layer, x, kernel), a, delta, is_linear=True)

    def gradients(self, layer: keras.Layer, a: tf.Tensor, delta: tf.Tensor) -> dict[int, tf.Tensor]:
        """Returns the gradients (R, B, *shape) by the id of the variable."""
        found = {id(layer.kernel): self.products(layer, a, delta)}
        if layer.use_bias:
            found[id(layer.bias)] = tf.reduce_sum(delta, list(range(2, delta.shape.rank - 1)))
        return found

    def rows(self, layer: keras.Layer, a: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
        """Returns the gradients (R, B, P_l)."""
        return registry.flat_rows(layer, self.gradients(layer, a, delta))

    def squares(self, layer: keras.Layer, a: tf.Tensor, delta: tf.Tensor) -> list[tf.Tensor]:
        """Returns the sums of squared gradients."""
        return registry.in_order(layer, self.sums(layer, a, delta))

    def sums(self, layer: keras.Layer, a: tf.Tensor, delta: tf.Tensor) -> dict[int, tf.Tensor]:
        """Returns the sums of squared gradients by the id of the variable, a few data at a time if need be."""
        shapes = {id(variable): tuple(variable.shape) for variable in self.variables(layer)}

        def some(a, delta):
            found = self.gradients(layer, a, delta)
            return [tf.reduce_sum(found[key] ** 2, (0, 1)) for key in shapes]

        values = pieces.over_batch(some, a, delta, list(shapes.values()), self.datum_bytes(layer, a, delta))
        return dict(zip(shapes, values))

    def variables(self, layer: keras.Layer) -> list[keras.Variable]:
        """Returns the kernel and, if there is one, the bias."""
        return [layer.kernel, layer.bias] if layer.use_bias else [layer.kernel]

    def datum_bytes(self, layer: keras.Layer, a: tf.Tensor, delta: tf.Tensor) -> int:
        """Returns the bytes that the gradients and their factors take for one datum and all rows."""
        return a.dtype.size * self.values(layer, a, delta)


class _Dense(Linear):
    """The special case of one position, in which no gradient of one datum is ever made."""

    def vjp(self, layer: keras.Layer, a: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
        flat = tf.matmul(
            tf.reshape(delta, (-1, delta.shape[-1])), registry.weight(layer.kernel, a.dtype), transpose_b=True)
        return tf.reshape(flat, (*_leading(delta), *a.shape[1:]))

    def sums(self, layer: keras.Layer, a: tf.Tensor, delta: tf.Tensor) -> dict[int, tf.Tensor]:
        if a.shape.rank > 2:
            return super().sums(layer, a, delta)
        squares = tf.reduce_sum(delta**2, 0)
        found = {id(layer.kernel): tf.matmul(a**2, squares, transpose_a=True)}
        if layer.use_bias:
            found[id(layer.bias)] = tf.reduce_sum(squares, 0)
        return found


def _dense(layer, a, kernel):
    _check(layer)
    return tf.matmul(a, kernel) if a.shape.rank == 2 else tf.tensordot(a, kernel, 1)


def _dense_products(layer, a, delta):
    rows = tf.reshape(delta, (*_leading(delta), math.prod(delta.shape[2:-1]), delta.shape[-1]))
    at_positions = tf.reshape(a, (1, pieces.size(a, 0), math.prod(a.shape[1:-1]), a.shape[-1]))
    return tf.reshape(tf.matmul(at_positions, rows, transpose_a=True), (*_leading(delta), *layer.kernel.shape))


def _dense_values(layer, a, delta):
    return (delta.shape[0] or 1) * math.prod(layer.kernel.shape) + math.prod(a.shape[1:])


def _conv(layer: Any, a: tf.Tensor, kernel: tf.Tensor) -> Any:
    _check(layer)
    if a.shape[-1] != kernel.shape[-2]:
        raise UserError(f"Layer {layer.name!r} has {layer.groups} groups; the curvature knows convolutions with "
                        "groups=1.")
    a, padding = _padded(layer, a)
    strides: Any = tuple(layer.strides)
    return keras.ops.conv(
        a, kernel, strides=strides, padding=padding, dilation_rate=layer.dilation_rate,
        data_format=layer.data_format)


def _padded(layer, a):
    """Returns the input and the padding that is left to the operation: causal padding is none of TensorFlow's."""
    if layer.padding != "causal":
        return a, layer.padding
    return tf.pad(a, [[0, 0], [layer.dilation_rate[0] * (layer.kernel_size[0] - 1), 0], [0, 0]]), "valid"


def _conv_products(layer, a, delta):
    a, padding = _padded(layer, a)
    window = correlations.geometry(layer, a.shape[1:-1], padding)
    return correlations.correlations(a[None], delta, window)


def _conv_values(layer, a, delta):
    window = correlations.geometry(layer, a.shape[1:-1], layer.padding)
    return window.values(math.prod(delta.shape[2:-1]), a.shape[-1], (delta.shape[0] or 1) * delta.shape[-1])


def _transposed(layer: Any, a: tf.Tensor, kernel: tf.Tensor) -> Any:
    _check(layer)
    strides: Any = tuple(layer.strides)
    return keras.ops.conv_transpose(
        a, kernel, strides=strides, padding=layer.padding, output_padding=layer.output_padding,
        dilation_rate=layer.dilation_rate, data_format=layer.data_format)


def _transposed_products(layer, a, delta):
    # The transposed convolution is the adjoint of a convolution, which takes delta to the shape of a.
    window = correlations.geometry(layer, delta.shape[2:-1], layer.padding)
    return correlations.correlations(delta, a[None], window)


def _transposed_values(layer, a, delta):
    window = correlations.geometry(layer, delta.shape[2:-1], layer.padding)
    return window.values(math.prod(a.shape[1:-1]), (delta.shape[0] or 1) * delta.shape[-1], a.shape[-1])


def _leading(delta: tf.Tensor) -> tuple:
    return pieces.size(delta, 0), pieces.size(delta, 1)


def _check(layer: keras.Layer) -> None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise UserError(f"Layer {layer.name!r} has data_format={layer.data_format!r}; the curvature knows "
                        "channels_last.")
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        raise UserError(f"Layer {layer.name!r} has a low-rank or quantised kernel, which the curvature does not know.")


DENSE = _Dense(_dense, _dense_products, _dense_values)
CONV = Linear(_conv, _conv_products, _conv_values)
CONV_TRANSPOSE = Linear(_transposed, _transposed_products, _transposed_values)
LINEAR = {
    keras.layers.Dense: DENSE,
    keras.layers.Conv1D: CONV,
    keras.layers.Conv2D: CONV,
    keras.layers.Conv1DTranspose: CONV_TRANSPOSE,
    keras.layers.Conv2DTranspose: CONV_TRANSPOSE,
}


def _normed(layer: zoo_layers.SpectralNorm) -> Linear:
    linear = LINEAR.get(type(layer.layer))
    if linear is None:
        raise UserError(f"The curvature knows no SpectralNorm around a {type(layer.layer).__name__}, such as "
                        f"{layer.name!r}.")
    return linear


def _sigma(layer: zoo_layers.SpectralNorm, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns sigma and its derivative by the raw kernel."""
    kernel = tf.convert_to_tensor(layer.layer.kernel)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(kernel)
        mapping = [(layer.layer.kernel, kernel), (layer.u, tf.convert_to_tensor(layer.u))]
        with keras.StatelessScope(state_mapping=mapping):
            sigma = layer.sigma()
    return tf.cast(sigma, dtype), tf.cast(tape.gradient(sigma, kernel), dtype)


def _normed_forward(layer, a):
    inner, kernel = layer.layer, registry.weight(layer.layer.kernel, a.dtype)
    y = _normed(layer).op(inner, a, kernel) / _sigma(layer, a.dtype)[0]
    return y + registry.weight(inner.bias, a.dtype) if inner.use_bias else y


def _normed_vjp(layer, a, delta):
    return _normed(layer).vjp(layer.layer, a, delta) / _sigma(layer, a.dtype)[0]


# y = op(a, W) / sigma(W), so with G the gradient of delta^T op(a, W) by W, which is linear in W, and c = <G, W> =
# delta^T op(a, W), the gradient of delta^T y is G / sigma - (c / sigma^2) dsigma/dW.
def _normed_products(layer, a, delta):
    raw = _normed(layer).op(layer.layer, a, registry.weight(layer.layer.kernel, a.dtype))
    return tf.reduce_sum(delta * raw[None], list(range(2, delta.shape.rank)))


def _normed_rows(layer, a, delta):
    inner = layer.layer
    sigma, slope = _sigma(layer, a.dtype)
    found = _normed(layer).gradients(inner, a, delta)
    products = tf.reshape(_normed_products(layer, a, delta), (*_leading(delta), *[1] * slope.shape.rank))
    found[id(inner.kernel)] = found[id(inner.kernel)] / sigma - products / sigma**2 * slope
    return registry.flat_rows(inner, found)


def _normed_squares(layer, a, delta):
    inner, linear = layer.layer, _normed(layer)
    sigma, slope = _sigma(layer, a.dtype)
    products = _normed_products(layer, a, delta)
    weighted = tf.reduce_sum(delta * tf.reshape(products, (*_leading(delta), *[1] * (delta.shape.rank - 2))), 0)
    kernel = registry.weight(inner.kernel, a.dtype)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(kernel)
        value = linear.op(inner, a, kernel)
    mixed = tape.gradient(value, kernel, output_gradients=weighted)
    found = linear.sums(inner, a, delta)
    squares = found[id(inner.kernel)] - 2 * mixed * slope / sigma + tf.reduce_sum(products**2) * (slope / sigma) ** 2
    # The three terms may cancel; their sum is a square.
    found[id(inner.kernel)] = tf.maximum(squares, 0) / sigma**2
    return registry.in_order(inner, found)


def _of_inner(name: str) -> Callable:
    """Returns a rule's function of the layer inside a wrapper."""
    return lambda layer, *args: getattr(registry.rule_of(layer.layer), name)(layer.layer, *args)


def _apply(op: Callable) -> Callable:
    """Returns the forward function of a layer whose gradients are left to automatic differentiation."""

    def forward(layer, a):
        _check(layer)
        y = op(layer, a)
        return y + registry.weight(layer.bias, a.dtype) if layer.use_bias else y

    return forward


def _options(layer: keras.Layer) -> dict:
    return {name: getattr(layer, name) for name in ("strides", "padding", "dilation_rate", "data_format")}


for _class, _linear in LINEAR.items():
    registry.register_rule(
        _class, forward=_linear.forward, vjp=_linear.vjp, squares=_linear.squares, rows=_linear.rows, is_linear=True)
registry.register_rule(
    zoo_layers.SpectralNorm, forward=_normed_forward, vjp=_normed_vjp, squares=_normed_squares, rows=_normed_rows,
    is_linear=True)
# Keras' own divides the kernel itself, in training; at inference it is the layer that it wraps.
registry.register_rule(
    keras.layers.SpectralNormalization,
    **{name: _of_inner(name) for name in ("forward", "vjp", "squares", "rows")},
    is_linear=True,
)
registry.register_rule(
    keras.layers.Conv3D,
    forward=_apply(lambda layer, a: _conv(layer, a, registry.weight(layer.kernel, a.dtype))),
    is_linear=True,
)
registry.register_rule(
    keras.layers.DepthwiseConv2D,
    forward=_apply(
        lambda layer, a: keras.ops.depthwise_conv(a, registry.weight(layer.kernel, a.dtype), **_options(layer))),
    is_linear=True,
)
registry.register_rule(
    keras.layers.SeparableConv2D,
    forward=_apply(lambda layer, a: keras.ops.separable_conv(
        a, registry.weight(layer.depthwise_kernel, a.dtype), registry.weight(layer.pointwise_kernel, a.dtype),
        **_options(layer))),
    is_linear=True,
)
