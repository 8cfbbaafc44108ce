"""Networks with recurrent layers, by automatic differentiation, and networks without a weight that trains."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import pae_zoo
from pae_zoo import curvature
from pae_zoo.core.errors import UserError

X = np.random.default_rng(0).uniform(size=(5, 6, 2)).astype(np.float32)


def recurrent(kind):
    layers = keras.layers
    cell = {"lstm": layers.LSTM(3), "gru": layers.GRU(3), "both": layers.Bidirectional(layers.SimpleRNN(2))}[kind]
    return keras.Sequential([keras.Input((6, 2)), cell, layers.Dense(1)])


@pytest.mark.parametrize("kind", ["lstm", "gru", "both"])
def test_the_curvature_of_recurrent_layers_is_that_of_their_derivatives(kind):
    model = recurrent(kind)
    expected = 0.0
    for row in X:
        with tf.GradientTape() as tape:
            output = model(row[None])
        gradients = tape.gradient(output, model.trainable_variables)
        expected = expected + np.concatenate([np.ravel(np.square(gradient)) for gradient in gradients])
    np.testing.assert_allclose(curvature.ggn(model, X, fallback=True), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="fallback=True"):
        curvature.ggn(model, X)
    assert not any(layer.unroll for layer in model._flatten_layers() if isinstance(layer, keras.layers.RNN))


def test_the_callback_follows_a_recurrent_network():
    model, x = recurrent("gru"), np.random.default_rng(1).uniform(size=(80, 6, 2)).astype(np.float32)
    y = np.random.default_rng(2).normal(size=(80, 1))
    model.compile("sgd", "mse", run_eagerly=True)
    laplace = curvature.LaplaceCallback(x, y, fallback=True, method="exact", final=True)
    model.fit(x, y, verbose=0, callbacks=[laplace])
    np.testing.assert_allclose(laplace.estimate(), curvature.ggn(model, x, fallback=True), rtol=1e-4, atol=1e-6)
    assert float(laplace.posterior().noise_variance.numpy()) > 0


def test_a_recurrent_decoder_is_linearised():
    layers = keras.layers
    encoder = keras.Sequential([keras.Input((6,)), layers.Dense(4)])
    decoder = keras.Sequential([keras.Input((2,)), layers.RepeatVector(6), layers.LSTM(3, return_sequences=True),
                                layers.Dense(1), layers.Flatten()])  # fmt: skip
    model = pae_zoo.VLAE(encoder, decoder, likelihood="gaussian", num_updates=1)
    z = tf.constant([[0.3, -0.7]])
    value, jacobian = pae_zoo.laplace.linearise(decoder, z)
    steps = np.eye(2, dtype=np.float32) * 1e-2
    slopes = [(decoder(z + step) - decoder(z - step))[0] / 2e-2 for step in steps]
    np.testing.assert_allclose(value, decoder(z), atol=1e-6)
    np.testing.assert_allclose(jacobian[0], slopes, rtol=1e-2, atol=1e-4)
    model.compile("adam", run_eagerly=True, jit_compile=False)
    assert np.isfinite(model.fit(X[:, :, 0], verbose=0).history["loss"]).all()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_network_without_weights_that_train_is_told(frozen):
    layers = keras.layers

    def networks():
        if frozen:
            parts = [keras.Sequential([keras.Input((4,)), layers.Dense(2)]),
                     keras.Sequential([keras.Input((2,)), layers.Dense(4)])]  # fmt: skip
            for part in parts:
                part.trainable = False
            return parts
        return [keras.Sequential([keras.Input((4,)), layers.Reshape((4, 1)), layers.Cropping1D(1), layers.Flatten()]),
                keras.Sequential([keras.Input((2,)), layers.Reshape((2, 1)), layers.UpSampling1D(2), layers.Flatten()])]

    x = np.random.default_rng(0).uniform(size=(8, 4)).astype(np.float32)
    for structure in ("diag", "block", "kron", "low_rank", "last_layer"):
        with pytest.raises(UserError, match="no weight that trains"):
            curvature.ggn(networks(), x, structure=structure, seed=(0, 1))
    for model in (pae_zoo.LAE, pae_zoo.LAEPosthoc, pae_zoo.BBBAE):
        with pytest.raises(UserError, match="no weight that trains"):
            model(*networks())
    # Nothing to train, but an autoencoder all the same.
    flow = pae_zoo.Flow(2, layers=("affine",), hidden_units=(4,))
    for model, options in ((pae_zoo.AE, {}), (pae_zoo.PAE, dict(flow=flow, flow_settings={"epochs": 1}))):
        built = model(*networks(), likelihood="gaussian", **options)
        built.compile("adam", run_eagerly=True, jit_compile=False)
        built.fit(x, verbose=0)
