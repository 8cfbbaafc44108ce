"""Dense and convolution layers as one matrix of weights: outputs = [inputs, 1] W at every position.

For a convolution the inputs of a position are the values that its kernel sees there, and for a transposed one the same
after zeros were put between the values of its input. Then the gradient by W is the sum over positions t of a_t d_t^T,
a_t the inputs with a 1 for the bias (n_in,) and d_t the derivative by the outputs (n_out,).
"""

import math
from typing import Any, Sequence

import keras
import tensorflow as tf

PLAIN, TRANSPOSED, NONE = "plain", "transposed", ""


def form_of(layer: Any) -> str:
    """Returns how the weights of a layer make a matrix: `PLAIN`, `TRANSPOSED` for kernels (..., out, in), or `NONE`."""
    layer = plain(layer)
    # Frozen parts and low-rank adapters leave other variables than a kernel and a bias.
    if len(layer.trainable_variables) != 1 + bool(getattr(layer, "use_bias", False)):
        return NONE
    kernel: Any = getattr(layer, "kernel", None)
    if type(layer) is keras.layers.Dense:
        return PLAIN if layer.trainable_variables[0].shape == kernel.shape else NONE
    if getattr(layer, "data_format", "") != "channels_last":
        return NONE
    if type(layer) in (keras.layers.Conv1D, keras.layers.Conv2D) and layer.groups == 1:
        return PLAIN
    transposed = type(layer) in (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose)
    if transposed and layer.output_padding is None and set(layer.dilation_rate) == {1}:
        return TRANSPOSED
    return NONE


def plain(layer: Any) -> Any:
    """Returns the layer whose kernel is multiplied at inference: of Keras' SpectralNormalization the one inside."""
    return layer.layer if type(layer) is keras.layers.SpectralNormalization else layer


def matrix_shape(form: str, shapes: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Returns (n_in, n_out) of W, the bias a row of it, for variables of these shapes."""
    kernel = shapes[0]
    outputs = kernel[-1] if form == PLAIN else kernel[-2]
    return math.prod(kernel) // outputs + len(shapes) - 1, outputs


def to_matrix(flat: tf.Tensor, form: str, shapes: Sequence[Sequence[int]]) -> tf.Tensor:
    """Returns vectors (n, P_l), in the order of the variables, as matrices (n, n_in, n_out)."""
    if form == TRANSPOSED:
        kernel, *bias = shapes
        size = math.prod(kernel)
        front = tf.linalg.matrix_transpose(tf.reshape(flat[:, :size], (-1, *kernel)))
        flat = tf.concat([tf.reshape(front, (-1, size)), flat[:, size:]], axis=1) if bias else front
    return tf.reshape(flat, (-1, *matrix_shape(form, shapes)))


def to_flat(matrix: tf.Tensor, form: str, shapes: Sequence[Sequence[int]]) -> tf.Tensor:
    """Returns matrices (n, n_in, n_out) as vectors (n, P_l), the inverse of `to_matrix`."""
    flat = tf.reshape(matrix, (-1, math.prod(matrix_shape(form, shapes))))
    if form == TRANSPOSED:
        *places, outputs, inputs = shapes[0]
        size = math.prod(shapes[0])
        front = tf.linalg.matrix_transpose(tf.reshape(flat[:, :size], (-1, *places, inputs, outputs)))
        flat = tf.concat([tf.reshape(front, (-1, size)), flat[:, size:]], axis=1)
    return flat


def inputs(layer: keras.Layer, a: tf.Tensor) -> tf.Tensor:
    """Returns what the weights of a layer multiply at every position, (B, T, n_in), from its input a (B, *in)."""
    layer = plain(layer)
    if type(layer) is keras.layers.Dense:
        seen = tf.reshape(a, (-1, math.prod(a.shape[1:-1]), a.shape[-1]))
    else:
        seen = _seen(layer, a)
        seen = tf.reshape(seen, (-1, math.prod(seen.shape[1:-1]), seen.shape[-1]))
    return tf.concat([seen, tf.ones_like(seen[..., :1])], axis=-1) if layer.use_bias else seen


def _seen(layer: keras.Layer, a: tf.Tensor) -> tf.Tensor:
    """Returns the values under a convolution's kernel at every position, (B, *positions, places * channels)."""
    rank = a.shape.rank - 2
    sizes, strides, rates = layer.kernel_size, layer.strides, layer.dilation_rate
    transposed = form_of(layer) == TRANSPOSED
    starts, lengths, paddings, steps = [], [], [(0, 0)], []
    for axis in range(rank):
        length, size, stride = a.shape[axis + 1], sizes[axis], strides[axis]
        if transposed:
            a = _spread(a, axis + 1, stride)
            total = max(size - stride, 0)
            result = length * stride + (0 if layer.padding == "same" else total)
            before = size - 1 - (total // 2 if layer.padding == "same" else 0)
            after = result + size - 1 - before - a.shape[axis + 1]
            starts.append([size - 1 - place for place in range(size)])
            steps.append(1)
        else:
            reach = (size - 1) * rates[axis]
            if layer.padding == "valid":
                before = after = 0
            elif layer.padding == "causal":
                before, after = reach, 0
            else:
                total = max((-(-length // stride) - 1) * stride + reach + 1 - length, 0)
                before, after = total // 2, total - total // 2
            result = (length + before + after - reach - 1) // stride + 1
            starts.append([place * rates[axis] for place in range(size)])
            steps.append(stride)
        lengths.append(result)
        paddings.append((before, after))
    padded = tf.pad(a, [*paddings, (0, 0)])
    pieces = []
    for place in range(math.prod(sizes[:rank])):
        at, rest = [], place
        for axis in reversed(range(rank)):
            rest, index = divmod(rest, sizes[axis])
            start = starts[axis][index]
            at.insert(0, slice(start, start + (lengths[axis] - 1) * steps[axis] + 1, steps[axis]))
        pieces.append(padded[(slice(None), *at)])
    return tf.concat(pieces, axis=-1)


def _spread(a: tf.Tensor, axis: int, stride: int) -> tf.Tensor:
    """Returns a with stride - 1 zeros between neighbours along an axis."""
    if stride == 1:
        return a
    shape = a.shape.as_list()
    margins = [(0, stride - 1) if index == axis + 1 else (0, 0) for index in range(len(shape) + 1)]
    wide = tf.pad(tf.expand_dims(a, axis + 1), margins)
    spread = tf.reshape(wide, (-1, *shape[1:axis], shape[axis] * stride, *shape[axis + 1 :]))
    return spread[(*[slice(None)] * axis, slice(0, (shape[axis] - 1) * stride + 1))]
