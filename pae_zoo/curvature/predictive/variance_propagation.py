"""Variances of a network's outputs in one forward pass, values of a layer taken to be independent.

With v the variances of a layer's input a and S those of its weights, a layer y = W a + b has
v' = W^2 v + S_W a^2 + S_b, and an activation v' = phi'(a)^2 v. Exact where no two inputs of a value come from one
weight or value; elsewhere covariances within a layer are lost.
"""

import math
from typing import Any, Callable, Sequence, Union

import keras
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.core.forward_mode import jvp
from pae_zoo.curvature.matrices import record
from pae_zoo.curvature.network import matrix_form
from pae_zoo.curvature.network import steps as network_steps
from pae_zoo.curvature.network.graph import Chain, Graph, Parallel, Step, Web
from pae_zoo.curvature.posteriors.base import WeightPosterior
from pae_zoo.curvature.rules import linear, registry

# Each output is one of the inputs, or 0, whatever they are.
SELECTIONS = (
    keras.layers.Flatten, keras.layers.Reshape, keras.layers.Permute, keras.layers.RepeatVector,
    keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D, keras.layers.ZeroPadding3D,
    keras.layers.Cropping1D, keras.layers.Cropping2D, keras.layers.Cropping3D, keras.layers.UpSampling1D,
    keras.layers.UpSampling3D,
)  # fmt: skip
MAXIMA = (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.GlobalMaxPooling1D,
          keras.layers.GlobalMaxPooling2D)  # fmt: skip
AVERAGES = (keras.layers.AveragePooling1D, keras.layers.AveragePooling2D)
GLOBAL_AVERAGES = (keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D)


def variance(posterior: WeightPosterior, model: Union[Graph, keras.Model, Sequence[keras.Model]],
             x: tf.Tensor) -> tf.Tensor:
    """Returns variances (B, *event) of the outputs at x (B, *event); the cost is that of about three forward passes.

    `model` is the posterior's network or the models at its beginning, at its weights as they are now. Raises UserError
    for layers that it has no formula for.
    """
    graph = posterior.graph_of(model)
    x = graph.cast(x)
    run = record.forward(graph, x)
    layout = posterior.layout
    spread = iter(layout.unflatten(posterior.variance_diag()))
    weights: dict[Step, list[tf.Tensor]] = {}
    for block in graph.blocks:
        found = [tf.cast(next(spread), x.dtype) for _ in block.variables]
        weights.update((use, found) for use in graph.uses(graph.step_of(block)))
    return _through(graph.chain, run, tf.zeros_like(x), weights)


def _through(chain: Chain, run: record.Record, v: tf.Tensor, weights: dict[Step, list[tf.Tensor]]) -> tf.Tensor:
    for step in chain.steps:
        if isinstance(step, Parallel):
            found = [_through(branch, run, v, weights) for branch in step.branches]
            v = _joined(step.merge, found, run.ends(step))
        elif isinstance(step, Web):
            found = [v]
            for node in step.nodes:
                given = [found[place] for place in node.inputs]
                if isinstance(node.item, Step):
                    found.append(_step(node.item, run, given[0], weights.get(node.item, [])))
                else:
                    found.append(_joined(node.item, given, [run.inside[step][place] for place in node.inputs]))
            v = found[-1]
        else:
            v = _step(step, run, v, weights.get(step, []))
    return v


def _joined(merge: Any, variances: Sequence[tf.Tensor], values: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the variances of joined values, which are taken to be independent."""
    if network_steps.kind(merge) is keras.layers.Concatenate:
        return network_steps.merge(merge, variances)
    return tf.add_n([v * slope**2 for v, slope in zip(variances, network_steps.slopes(merge, values))])


def _step(step: Step, run: record.Record, v: tf.Tensor, spread: list[tf.Tensor]) -> tf.Tensor:
    layer, a = matrix_form.plain(step.layer), run.inputs[step]
    if step.activation is None:
        for classes, function in _RULES:
            if type(layer) in classes:
                return function(layer, a, v, spread)
    slope = run.rule(step).slope
    if slope is None or spread:
        what = f"layers of class {type(layer).__name__}, such as" if step.activation is None else "the activation of"
        raise UserError(f"Variances are not carried through {what} {layer.name!r}; take output='exact', or samples.")
    return v * slope(layer, a) ** 2


def _linear(layer, a, v, spread):
    op = linear.LINEAR[type(layer)].op
    kernel, *bias = spread
    found = op(layer, v, registry.weight(layer.kernel, a.dtype) ** 2) + op(layer, a**2, kernel)
    return found + bias[0] if bias else found


def _selection(layer, a, v, spread):
    return layer.call(v)


def _maximum(layer, a, v, spread):
    return jvp(layer.call, a, v)[1]


def _average(layer, a, v, spread):
    # A row of the derivative holds n times 1/n, n being smaller at borders that padding goes over.
    rank = a.shape.rank - 2
    ones = tf.ones((1, *a.shape[1:-1], 1), a.dtype)
    kernel = tf.ones((*layer.pool_size, 1, 1), a.dtype)
    counts = tf.nn.convolution(ones, kernel, strides=list(layer.strides)[:rank], padding=layer.padding.upper())
    return layer.call(v) / counts


def _global_average(layer, a, v, spread):
    return layer.call(v) / math.prod(a.shape[1:-1])


def _upsampled(layer, a, v, spread):
    if layer.interpolation == "nearest":
        return layer.call(v)
    # Interpolation is separate along the axes; its weights are what unit vectors become.
    rows, columns = (tf.eye(size, dtype=a.dtype) for size in a.shape[1:3])
    rows = layer.call(tf.repeat(rows[:, :, None, None], 2, axis=2))[:, :, 0, 0]
    columns = layer.call(tf.repeat(columns[:, None, :, None], 2, axis=1))[:, 0, :, 0]
    return tf.einsum("bhwc,hp,wq->bpqc", v, rows**2, columns**2)


def _batch_norm(layer, a, v, spread):
    axes = [axis for axis in range(a.shape.rank) if axis != layer.axis % a.shape.rank]
    shape = [1 if axis in axes else a.shape[axis] for axis in range(a.shape.rank)]

    def like(value):
        return tf.reshape(registry.weight(value, a.dtype), shape)

    scale = tf.math.rsqrt(like(layer.moving_variance) + layer.epsilon)
    found = v * (scale * (like(layer.gamma) if layer.scale else 1.0)) ** 2
    for variable, value in zip(layer.trainable_variables, spread):
        found += like(value) * (((a - like(layer.moving_mean)) * scale) ** 2 if variable is layer.gamma else 1.0)
    return found


_RULES: tuple[tuple[tuple[type, ...], Callable], ...] = (
    (tuple(linear.LINEAR), _linear),
    (SELECTIONS, _selection),
    (MAXIMA, _maximum),
    (AVERAGES, _average),
    (GLOBAL_AVERAGES, _global_average),
    ((keras.layers.UpSampling2D,), _upsampled),
    ((keras.layers.BatchNormalization,), _batch_norm),
)
