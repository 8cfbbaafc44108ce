"""Rules of layers that act on each value by itself, and of those that scale and shift values by weights."""

from typing import Callable, Optional, Sequence

import keras
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.network import pieces
from pae_zoo.curvature.rules import registry
from pae_zoo.curvature.rules.shape import call
from pae_zoo.networks import layers as zoo_layers

# (variable, its shape as an event's with ones where it is shared, dy/dvariable (B, *event) or None for ones)
_Local = tuple[keras.Variable, Sequence[int], Optional[tf.Tensor]]


def _gradients(local: Callable[[keras.Layer, tf.Tensor], list[_Local]], layer, a, delta) -> dict[int, tf.Tensor]:
    """Returns gradients (R, B, *shape) by the id of the variable, for weights that are broadcast over an event."""
    found = {}
    for variable, aligned, slope in local(layer, a):
        products = delta if slope is None else delta * slope[None]
        shared = [axis + 2 for axis, length in enumerate(aligned) if length == 1]
        summed = tf.reduce_sum(products, shared) if shared else products
        found[id(variable)] = tf.reshape(summed, (pieces.size(delta, 0), pieces.size(delta, 1), *variable.shape))
    return found


def _register(layer_class: type, local: Callable[[keras.Layer, tf.Tensor], list[_Local]], **functions) -> None:
    def squares(layer, a, delta):
        found = _gradients(local, layer, a, delta)
        return registry.in_order(layer, {key: tf.reduce_sum(one**2, (0, 1)) for key, one in found.items()})

    registry.register_rule(
        layer_class,
        squares=squares,
        rows=lambda layer, a, delta: registry.flat_rows(layer, _gradients(local, layer, a, delta)),
        **functions,
    )


def _register_elementwise(layer_class: type, forward: Callable, local: Optional[Callable] = None, **functions) -> None:
    functions = {
        "forward": forward,
        "slope": lambda layer, a: registry.slope_by_tape(lambda x: forward(layer, x), a),
        **functions,
    }
    if local is None:
        registry.register_rule(layer_class, **functions)
    else:
        _register(layer_class, local, **functions)


def _prelu(layer, a):
    return tf.nn.relu(a) - registry.weight(layer.alpha, a.dtype) * tf.nn.relu(-a)


def _rescaling(layer, a):
    return a * tf.cast(layer.scale, a.dtype) + tf.cast(layer.offset, a.dtype)


def _affine(layer, a):
    return a * _affine_scale(layer, a) + registry.weight(layer.beta, a.dtype)


def _affine_scale(layer, a):
    return registry.weight(layer.gamma, a.dtype) / (1 + 1e-5) ** 0.5


def _affine_local(layer, a):
    shape = _aligned(a, [a.shape.rank - 1])
    return [(layer.gamma, shape, a / (1 + 1e-5) ** 0.5), (layer.beta, shape, None)]


def _aligned(a: tf.Tensor, axes: Sequence[int]) -> list[int]:
    """Returns the event's shape with ones for all axes of a (B, *event) but `axes`."""
    return [a.shape[axis] if axis in axes else 1 for axis in range(1, a.shape.rank)]


def _axes(layer: keras.Layer, a: tf.Tensor) -> list[int]:
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return [axis % a.shape.rank for axis in axes]


def _scaled(layer: keras.Layer, a: tf.Tensor, unit: tf.Tensor) -> tf.Tensor:
    """Returns gamma unit + beta of a normalisation, either of which may be missing."""
    shape = _aligned(a, _axes(layer, a))
    if layer.gamma is not None:
        unit = unit * tf.reshape(registry.weight(layer.gamma, a.dtype), shape)
    return unit if layer.beta is None else unit + tf.reshape(registry.weight(layer.beta, a.dtype), shape)


def _scaled_local(unit: Callable) -> Callable:
    def local(layer, a):
        shape = _aligned(a, _axes(layer, a))
        found = [(layer.gamma, shape, unit(layer, a)), (layer.beta, shape, None)]
        return [one for one in found if one[0] is not None]

    return local


def _batch_unit(layer, a):
    """Returns (a - mean) / sqrt(variance + epsilon) by the moving statistics."""
    shape = _aligned(a, _axes(layer, a))
    mean = tf.reshape(registry.weight(layer.moving_mean, a.dtype), shape)
    variance = tf.reshape(registry.weight(layer.moving_variance, a.dtype), shape)
    return (a - mean) * tf.math.rsqrt(variance + layer.epsilon)


def _layer_unit(layer, a):
    """Returns (a - mean) / sqrt(variance + epsilon) by the statistics of a datum along the axes."""
    if getattr(layer, "rms_scaling", False):
        raise UserError(f"Layer {layer.name!r} has rms_scaling=True, which the curvature does not know.")
    mean, variance = tf.nn.moments(a, _axes(layer, a), keepdims=True)
    return (a - mean) * tf.math.rsqrt(variance + layer.epsilon)


for _class in (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU, zoo_layers.MeanSigmoid):
    _register_elementwise(_class, call)
_register_elementwise(
    keras.layers.PReLU, _prelu, lambda layer, a: [(layer.alpha, tuple(layer.alpha.shape), -tf.nn.relu(-a))])
_register_elementwise(
    keras.layers.Rescaling,
    _rescaling,
    slope=lambda layer, a: tf.ones_like(a) * tf.cast(layer.scale, a.dtype),
    is_linear=True,
)
_register_elementwise(
    zoo_layers.Affine,
    _affine,
    _affine_local,
    slope=lambda layer, a: tf.ones_like(a) * _affine_scale(layer, a),
    is_linear=True,
)
_register_elementwise(
    keras.layers.BatchNormalization,
    lambda layer, a: _scaled(layer, a, _batch_unit(layer, a)),
    _scaled_local(_batch_unit),
    is_linear=True,
)
_register(
    keras.layers.LayerNormalization,
    _scaled_local(_layer_unit),
    forward=lambda layer, a: _scaled(layer, a, _layer_unit(layer, a)),
)
