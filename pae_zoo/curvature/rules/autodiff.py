"""Rules of any layer by automatic differentiation of its call."""

import keras
import tensorflow as tf

from pae_zoo import networks
from pae_zoo.curvature.rules import registry


def call(layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
    """Returns the layer's output at inference."""
    with networks.unrolled(layer):
        return layer(x, training=False) if layer._call_has_training_arg else layer(x)


def rows(layer: keras.Layer, a: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
    """Returns the gradients (R, B, P_l) of delta^T y by the trainable variables, one datum and row at a time."""
    forward = registry.rule_of(layer, fallback=True).forward
    weights = [registry.weight(variable, a.dtype) for variable in layer.trainable_variables]
    # A scope hides the one around it, whose values the other variables must keep.
    others = [(variable, tf.convert_to_tensor(variable)) for variable in layer.non_trainable_variables]

    def one(pair):
        x, row = pair
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            with keras.StatelessScope(state_mapping=[*others, *zip(layer.trainable_variables, weights)]):
                value = forward(layer, x[None])
        gradients = tape.gradient(value, weights, output_gradients=row[None], unconnected_gradients="zero")
        return tf.concat([tf.reshape(gradient, (-1,)) for gradient in gradients], axis=0)

    flat = tf.vectorized_map(one, (registry.tile(a, registry.size(delta, 0)), registry.fold(delta)))
    return registry.unfold(flat, registry.size(delta, 0))
