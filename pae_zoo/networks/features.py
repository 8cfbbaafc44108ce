"""What an encoder knew before its last layer, as a context for what comes after it."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from pae_zoo.networks.layers import SpectralNorm


def _has_head(encoder: keras.Model) -> bool:
    """Whether the encoder is a chain that ends in a dense layer, as all kinds of the zoo are."""
    if not isinstance(encoder, keras.Sequential):
        return False
    return isinstance(_unwrapped(encoder.layers[-1]), keras.layers.Dense)


def _unwrapped(layer: keras.Layer) -> keras.Layer:
    return layer.layer if isinstance(layer, SpectralNorm) else layer


def outputs_and_hidden(encoder: keras.Model, y: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the outputs of an encoder at y (batch, *event) and its last hidden layer (batch, H), in one pass.

    The hidden layer of a `keras.Sequential` that ends in a dense layer is what that layer is given; any other model's
    is its outputs.
    """
    if not _has_head(encoder):
        outputs = encoder(y, training=training)
        return outputs, outputs
    hidden = y
    for layer in encoder.layers[:-1]:
        hidden = layer(hidden, training=training)
    return encoder.layers[-1](hidden, training=training), hidden


def hidden_size(encoder: keras.Model, event_shape: Sequence[int]) -> int:
    """Returns the width H of the last hidden layer that `outputs_and_hidden` gives for data of shape `event_shape`."""
    if not _has_head(encoder):
        return int(encoder(keras.KerasTensor((None, *event_shape))).shape[-1])
    return int(_unwrapped(encoder.layers[-1]).kernel.shape[0])
