"""Rules of layers without weights: those that move values, add them up, take their maximum, or do nothing."""

import keras
import tensorflow as tf

from pae_zoo.curvature.rules import registry
from pae_zoo.networks import layers as zoo_layers

# At inference the identity.
IDENTITIES = (
    keras.layers.Identity, keras.layers.Dropout, keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D, keras.layers.GaussianNoise, keras.layers.GaussianDropout, keras.layers.AlphaDropout,
    keras.layers.ActivityRegularization, zoo_layers.Dropout,
)  # fmt: skip
# Linear, so that their derivative is the same everywhere.
LINEAR = (
    keras.layers.Flatten, keras.layers.Reshape, keras.layers.Permute, keras.layers.RepeatVector,
    keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D, keras.layers.ZeroPadding3D,
    keras.layers.Cropping1D, keras.layers.Cropping2D, keras.layers.Cropping3D,
    keras.layers.UpSampling1D, keras.layers.UpSampling2D, keras.layers.UpSampling3D,
    keras.layers.AveragePooling1D, keras.layers.AveragePooling2D, keras.layers.AveragePooling3D,
    keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D, keras.layers.GlobalAveragePooling3D,
)  # fmt: skip
# Neither linear nor of single values.
MIXING = (
    keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D, keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D, keras.layers.GlobalMaxPooling3D, keras.layers.Softmax,
    keras.layers.UnitNormalization,
)  # fmt: skip


def call(layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
    """Returns the layer's output in the precision of x: Keras' __call__ would round x to that of the layer."""
    return layer.call(x)


for _class in IDENTITIES:
    registry.register_rule(
        _class,
        forward=lambda layer, a: a,
        vjp=lambda layer, a, delta: delta,
        slope=lambda layer, a: tf.ones_like(a),
        is_linear=True,
    )
for _class in LINEAR:
    registry.register_rule(_class, forward=call, is_linear=True)
for _class in MIXING:
    registry.register_rule(_class, forward=call)
