"""Any two Keras models as encoder and decoder."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import networks


class Subclassed(keras.Model):
    """A model that knows its input's shape only once it was called, and that uses raw TensorFlow."""

    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, inputs):
        return tf.nn.relu(self.dense(inputs))


def pair(codes=8, output=(6, 6, 2)):
    encoder = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(codes)])
    z = keras.Input((4,))
    x = keras.layers.Reshape(output)(keras.layers.Dense(int(np.prod(output)))(z))
    return encoder, keras.Model(z, x)


def test_shapes_are_read_off_the_models():
    encoder, decoder = pair(output=(6, 6, 1))
    assert networks.check_pair(encoder, decoder) == ((6, 6, 1), 4)
    assert networks.check_pair(encoder, decoder, event_shape=[6, 6, 1], latent_dim=4) == ((6, 6, 1), 4)
    assert networks.check_pair(encoder, pair()[1], channels_factor=2) == ((6, 6, 1), 4)
    assert networks.check_pair(pair(codes=4)[0], decoder, deterministic=True) == ((6, 6, 1), 4)
    assert networks.check_pair(encoder, decoder, deterministic=True) == ((6, 6, 1), 4)


def test_subclassed_models():
    encoder, decoder = Subclassed(6), Subclassed(5)
    with pytest.raises(ValueError, match="call it once on data, or give event_shape"):
        networks.check_pair(encoder, decoder)
    with pytest.raises(ValueError, match="give latent_dim"):
        networks.check_pair(encoder, decoder, event_shape=(5,))
    assert networks.check_pair(encoder, decoder, event_shape=(5,), latent_dim=3) == ((5,), 3)
    assert encoder.built and decoder.built
    assert networks.check_pair(encoder, decoder) == ((5,), 3)


def test_models_of_any_size_need_the_shape():
    layers = [keras.layers.Conv2D(8, 3, padding="same"), keras.layers.GlobalAveragePooling2D()]
    encoder = keras.Sequential([keras.Input((None, None, 1)), *layers])
    decoder = pair(output=(6, 6, 1))[1]
    with pytest.raises(ValueError, match="give event_shape"):
        networks.check_pair(encoder, decoder)
    assert networks.check_pair(encoder, decoder, event_shape=(6, 6, 1)) == ((6, 6, 1), 4)


@pytest.mark.parametrize(
    "models, options, what",
    [
        (pair(codes=7, output=(6, 6, 1)), {}, r"gives shape \(batch, 7\).*must give \(batch, 8\)"),
        (pair(codes=4, output=(6, 6, 1)), {}, r"must give \(batch, 8\): mean, then raw scale"),
        (pair(codes=7, output=(6, 6, 1)), dict(deterministic=True), r"\(batch, 8\).* or \(batch, 4\)"),
        (pair(), {}, r"decoder gives shape \(batch, 6, 6, 2\).*must give \(batch, 6, 6, 1\)"),
        (pair(output=(6, 6, 1)), dict(channels_factor=2), "log-variance along the last axis"),
        (pair(), dict(event_shape=(8, 8, 1)), r"takes shape \(batch, 6, 6, 1\), but event_shape=\(8, 8, 1\)"),
        (pair(), dict(latent_dim=3), r"takes shape \(batch, 4\), but latent_dim=\(3,\)"),
        (("encoder.keras", pair()[1]), {}, "must be a Keras 3 model; received str"),
        ((pair()[0], pair()[0]), {}, "a latent is a vector"),
    ],
)
def test_misfits_are_told(models, options, what):
    with pytest.raises(ValueError, match=what):
        networks.check_pair(*models, **options)


def test_several_inputs_or_outputs_are_refused():
    a, b = keras.Input((4,)), keras.Input((4,))
    two_in, two_out = keras.Model([a, b], a + b), keras.Model(a, [a, a])
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="one input"):
        networks.check_pair(two_in, decoder)
    with pytest.raises(ValueError, match="one tensor"):
        networks.check_pair(two_out, decoder)
