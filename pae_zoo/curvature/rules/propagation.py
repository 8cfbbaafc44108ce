"""How the diagonal of M = J^T H J goes through each layer, and what it gives for the layer's weights.

Of a linear layer y = J a the diagonal m by y becomes (J * J)^T m, with the elementwise square of J; where all values of
J are 0 or 1 that is J^T m. m (batch, *out) may have batch 1, for all data the same.
"""

import functools
import math
from typing import Any, Callable

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.curvature.network import pieces
from pae_zoo.curvature.rules import elementwise, linear, registry
from pae_zoo.networks import layers as zoo_layers

L = keras.layers
Op = Callable[[keras.Layer, tf.Tensor, tf.Tensor], tf.Tensor]


def _linear_input(op: Op) -> Callable:
    """The transposed operation with the squared kernel."""

    def diag_input(layer, a, y, m):
        kernel = registry.weight(_kernel(layer), a.dtype) ** 2
        return registry.vjp_by_tape(lambda x: op(layer, x, kernel), a[: pieces.size(m, 0)], m[None], is_linear=True)[0]

    return diag_input


def _kernel(layer: keras.Layer) -> keras.Variable:
    # DepthwiseConv2D has a kernel of its own name in some versions of Keras.
    return layer.kernel if hasattr(layer, "kernel") else layer.depthwise_kernel


def _by_kernel(op: Op, layer: keras.Layer, a: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
    """Returns the gradient of delta^T op(a, kernel) by the kernel, summed over the batch."""
    kernel = registry.weight(_kernel(layer), a.dtype)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(kernel)
        value = op(layer, a, kernel)
    return tape.gradient(value, kernel, output_gradients=delta)


def _same_batch(a: tf.Tensor, m: tf.Tensor) -> tf.Tensor:
    """Returns a (batch, ...), summed over the data where m is the same for all of them."""
    return tf.reduce_sum(a, 0, keepdims=True) if m.shape[0] == 1 else a


def _linear_sums(op: Op, layer: keras.Layer, a: tf.Tensor, m: tf.Tensor) -> dict[int, tf.Tensor]:
    """Returns the diagonals by the id of the variable: for the kernel the gradient at a * a and m."""
    return _with_bias(layer, a, m, _by_kernel(op, layer, _same_batch(a**2, m), m))


def _with_bias(layer: keras.Layer, a: tf.Tensor, m: tf.Tensor, kernel: tf.Tensor) -> dict[int, tf.Tensor]:
    found = {id(_kernel(layer)): kernel}
    if layer.use_bias:
        count = pieces.size(a, 0) if m.shape[0] == 1 else 1
        found[id(layer.bias)] = tf.cast(count, m.dtype) * tf.reduce_sum(m, list(range(m.shape.rank - 1)))
    return found


def _linear_weights(op: Op) -> Callable:
    return lambda layer, a, m: registry.in_order(layer, _linear_sums(op, layer, a, m))


def _dense_input(layer, a, y, m):
    kernel = registry.weight(layer.kernel, a.dtype) ** 2
    flat = tf.matmul(tf.reshape(m, (-1, m.shape[-1])), kernel, transpose_b=True)
    return tf.reshape(flat, (pieces.size(m, 0), *a.shape[1:]))


def _dense_weights(layer, a, m):
    flat = tf.reshape(_same_batch(a**2, m), (-1, a.shape[-1]))
    kernel = tf.matmul(flat, tf.reshape(m, (-1, m.shape[-1])), transpose_a=True)
    return registry.in_order(layer, _with_bias(layer, a, m, kernel))


def _dense_full_input(layer, a, y, full):
    kernel, num = registry.weight(layer.kernel, a.dtype), math.prod(a.shape[1:-1])
    full = tf.reshape(full, (-1, num, kernel.shape[1], num, kernel.shape[1]))
    half = tf.tensordot(full, kernel, [[4], [1]])
    whole = tf.tensordot(half, kernel, [[2], [1]])
    return tf.reshape(tf.transpose(whole, (0, 1, 4, 2, 3)), (-1, num * kernel.shape[0], num * kernel.shape[0]))


def _dense_full_weights(layer, a, full):
    if a.shape.rank == 2:
        return _dense_weights(layer, a, tf.linalg.diag_part(full))
    # One kernel at all positions: what the values of a unit have in common between positions counts too.
    num, units = math.prod(a.shape[1:-1]), layer.kernel.shape[1]
    full = tf.transpose(tf.reshape(full, (-1, num, units, num, units)), (0, 1, 3, 2, 4))
    full, a = tf.linalg.diag_part(full), tf.reshape(a, (-1, num, a.shape[-1]))
    found = {id(layer.kernel): tf.einsum("btsw,btn,bsn->nw", full, a, a)}
    if layer.use_bias:
        found[id(layer.bias)] = tf.reduce_sum(full, (0, 1, 2))
    return registry.in_order(layer, found)


def _moved(layer, a, y, m):
    """Values that are moved, repeated or chosen: all of J is 0 or 1."""
    return registry.rule_of(layer).vjp(layer, a[: pieces.size(m, 0)], m[None])[0]


def _chosen(layer, a, y, m):
    """The largest of each window: J depends on the datum."""
    return registry.rule_of(layer).vjp(layer, a, tf.broadcast_to(m, tf.shape(y))[None])[0]


def _chosen_globally(layer, a, y, m):
    """The largest of all positions: a J of their own for those that share the maximum."""
    slope = registry.rule_of(layer).vjp(layer, a, tf.ones_like(y)[None])[0]
    return slope * _chosen(layer, a, y, m)


def _upsampled(layer, a, y, m):
    if getattr(layer, "interpolation", "nearest") == "nearest":
        return _moved(layer, a, y, m)
    # Interpolation acts on rows and columns one after the other, so J is a product of two small matrices.
    rows, columns = (_interpolation(layer, a, axis) ** 2 for axis in (1, 2))
    return tf.einsum("bhwc,hi,wj->bijc", m, rows, columns)


def _interpolation(layer: keras.Layer, a: tf.Tensor, axis: int) -> tf.Tensor:
    """Returns the matrix (out, in) by which an UpSampling2D interpolates along an axis."""
    size = a.shape[axis]
    unit = tf.reshape(tf.eye(size, dtype=a.dtype), (1, size, 1, size) if axis == 1 else (1, 1, size, size))
    values = layer.call(unit)
    return values[0, :, 0] if axis == 1 else values[0, 0]


def _averaged(layer, a, y, m):
    """Averages over windows: values of J are one over the number of values in the window."""
    counts = functools.reduce(np.multiply.outer, _window_counts(layer, a))
    return _moved(layer, a, y, m / tf.constant(counts[..., None], m.dtype))


def _window_counts(layer: keras.Layer, a: tf.Tensor) -> list[np.ndarray]:
    """Returns, for each axis of positions, how many values of the input each window holds."""
    counts = []
    for length, window, stride in zip(a.shape[1:-1], layer.pool_size, layer.strides):
        if layer.padding == "valid":
            starts = np.arange((length - window) // stride + 1) * stride
        else:
            number = -(-length // stride)
            before = max((number - 1) * stride + window - length, 0) // 2
            starts = np.arange(number) * stride - before
        counts.append(np.minimum(starts + window, length) - np.maximum(starts, 0))
    return counts


def _averaged_globally(layer, a, y, m):
    return _moved(layer, a, y, m / math.prod(a.shape[1:-1]))


def _local_weights(local: Callable) -> Callable:
    """Weights that are broadcast over an event, each of which touches a value through the value itself."""

    def diag_weights(layer, a, m):
        m, found = tf.broadcast_to(m, tf.shape(a)), {}
        for variable, aligned, slope in local(layer, a):
            products = m if slope is None else m * slope**2
            shared = [axis + 1 for axis, length in enumerate(aligned) if length == 1]
            found[id(variable)] = tf.reshape(tf.reduce_sum(products, [0, *shared]), variable.shape)
        return registry.in_order(layer, found)

    return diag_weights


def _layer_norm_input(layer, a, y, m):
    """J_ji = g_j / s (delta_ij - (1 + u_i u_j) / n), with u = (a - mean) / s over n values."""
    axes = elementwise._axes(layer, a)
    unit = elementwise._layer_unit(layer, a)
    shape = elementwise._aligned(a, axes)
    inverse = tf.math.rsqrt(tf.math.reduce_variance(a, axes, keepdims=True) + layer.epsilon)
    scale = inverse if layer.gamma is None else inverse * tf.reshape(registry.weight(layer.gamma, a.dtype), shape)
    m, n = m * scale**2, math.prod(a.shape[axis] for axis in axes)
    sums = [tf.reduce_sum(m * unit**power, axes, keepdims=True) for power in (0, 1, 2)]
    return m * (1 - 2 * (1 + unit**2) / n) + (sums[0] + 2 * unit * sums[1] + unit**2 * sums[2]) / n**2


def _projected(m: tf.Tensor, values: tf.Tensor, axes) -> tf.Tensor:
    """The diagonal for J = I - v v^T."""
    return m * (1 - 2 * values**2) + values**2 * tf.reduce_sum(m * values**2, axes, keepdims=True)


def _unit_norm_input(layer, a, y, m):
    axes = elementwise._axes(layer, a)
    return _projected(m, y, axes) / tf.reduce_sum(a**2, axes, keepdims=True)


def softmax_input(layer: keras.Layer, a: tf.Tensor, y: tf.Tensor, m: tf.Tensor) -> tf.Tensor:
    """J = diag(p) - p p^T along the last axis."""
    return y**2 * (m * (1 - 2 * y) + tf.reduce_sum(m * y**2, -1, keepdims=True))


def _softmax_layer(layer, a, y, m):
    if layer.axis not in (-1, a.shape.rank - 1):
        axis = layer.axis % a.shape.rank
        return y**2 * (m * (1 - 2 * y) + tf.reduce_sum(m * y**2, axis, keepdims=True))
    return softmax_input(layer, a, y, m)


def _normed_input(layer, a, y, m):
    return _of_inner("diag_input")(layer, a, y, m) / linear._sigma(layer, a.dtype)[0] ** 2


def _normed_weights(layer, a, m):
    """dy_o/dW = g_o / sigma - r_o / sigma^2 dsigma/dW, with r = op(a, W) and g_o = dr_o/dW."""
    inner, op = layer.layer, linear._normed(layer).op
    sigma, slope = linear._sigma(layer, a.dtype)
    raw = op(inner, a, registry.weight(inner.kernel, a.dtype))
    m = tf.broadcast_to(m, tf.shape(raw))
    found = _linear_sums(op, inner, a, m)
    mixed = _by_kernel(op, inner, a, m * raw)
    squares = found[id(inner.kernel)] - 2 * mixed * slope / sigma + tf.reduce_sum(m * raw**2) * (slope / sigma) ** 2
    # The three terms may cancel; their sum is a square.
    found[id(inner.kernel)] = tf.maximum(squares, 0) / sigma**2
    return registry.in_order(inner, found)


def _of_inner(name: str) -> Callable:
    return lambda layer, *args: getattr(registry.rule_of(layer.layer), name)(layer.layer, *args)


def _reshaped_full(layer, a, y, full):
    return full


def _depthwise(layer: Any, a: tf.Tensor, kernel: tf.Tensor) -> Any:
    return keras.ops.depthwise_conv(a, kernel, **linear._options(layer))


for _class, _op in (
    (L.Conv1D, linear._conv),
    (L.Conv2D, linear._conv),
    (L.Conv3D, linear._conv),
    (L.DepthwiseConv2D, _depthwise),
    (L.Conv1DTranspose, linear._transposed),
    (L.Conv2DTranspose, linear._transposed),
):
    registry.register_rule(_class, diag_input=_linear_input(_op), diag_weights=_linear_weights(_op))
registry.register_rule(
    L.Dense,
    diag_input=_dense_input,
    diag_weights=_dense_weights,
    full_input=_dense_full_input,
    full_weights=_dense_full_weights,
)
for _class in (L.Flatten, L.Reshape):
    registry.register_rule(_class, diag_input=_moved, full_input=_reshaped_full)
for _class in (
    L.Permute, L.RepeatVector, L.ZeroPadding1D, L.ZeroPadding2D, L.ZeroPadding3D, L.Cropping1D, L.Cropping2D,
    L.Cropping3D, L.UpSampling1D, L.UpSampling3D,
):  # fmt: skip
    registry.register_rule(_class, diag_input=_moved)
registry.register_rule(L.UpSampling2D, diag_input=_upsampled)
for _class in (L.MaxPooling1D, L.MaxPooling2D, L.MaxPooling3D):
    registry.register_rule(_class, diag_input=_chosen)
for _class in (L.GlobalMaxPooling1D, L.GlobalMaxPooling2D, L.GlobalMaxPooling3D):
    registry.register_rule(_class, diag_input=_chosen_globally)
for _class in (L.AveragePooling1D, L.AveragePooling2D, L.AveragePooling3D):
    registry.register_rule(_class, diag_input=_averaged)
for _class in (L.GlobalAveragePooling1D, L.GlobalAveragePooling2D, L.GlobalAveragePooling3D):
    registry.register_rule(_class, diag_input=_averaged_globally)
for _class, _local in (
    (L.BatchNormalization, elementwise._scaled_local(elementwise._batch_unit)),
    (L.LayerNormalization, elementwise._scaled_local(elementwise._layer_unit)),
    (zoo_layers.Affine, elementwise._affine_local),
    (L.PReLU, lambda layer, a: [(layer.alpha, tuple(layer.alpha.shape), -tf.nn.relu(-a))]),
):
    registry.register_rule(_class, diag_weights=_local_weights(_local))
registry.register_rule(L.LayerNormalization, diag_input=_layer_norm_input)
registry.register_rule(L.UnitNormalization, diag_input=_unit_norm_input)
registry.register_rule(L.Softmax, diag_input=_softmax_layer)
registry.register_rule(zoo_layers.SpectralNorm, diag_input=_normed_input, diag_weights=_normed_weights)
registry.register_rule(
    L.SpectralNormalization, **{name: _of_inner(name) for name in ("diag_input", "diag_weights")})
