"""Jacobians of decoders: three backends, central differences, what can be read as a chain."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from linearised import BATCH, LATENTS, VALUES, data, decoder, likelihood, points

from pae_zoo import laplace, networks
from pae_zoo.core.errors import UserError
from pae_zoo.laplace import chain as chains
from pae_zoo.laplace.systems import ExplicitSystem


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus", "elu"])
def test_backends_agree_with_each_other_and_with_central_differences(activation):
    net, z = decoder(activation), points()
    found = {backend: laplace.linearise(net, z, backend) for backend in laplace.BACKENDS}
    step = 1e-6
    columns = [(net(z + step * e) - net(z - step * e)) / (2 * step) for e in tf.eye(LATENTS, dtype="float64")]
    expected = tf.stack(columns, axis=1)
    for value, rows in found.values():
        assert rows.shape == (BATCH, LATENTS, VALUES)
        np.testing.assert_allclose(value, net(z), atol=1e-12)
        np.testing.assert_allclose(rows, expected, atol=1e-6)
        np.testing.assert_allclose(rows, found["reverse"][1], atol=1e-10)


def test_parameter_gradients_of_the_backends_agree():
    net, z = decoder("tanh"), points()

    def gradients(backend):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(laplace.linearise(net, z, backend)[1] ** 2)
        return tape.gradient(loss, [v.value for v in net.trainable_variables[:-1]])

    for backend in ("forward", "reverse"):
        for one, other in zip(gradients("layerwise"), gradients(backend)):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["mlp", "vlae", "vae10"])
@pytest.mark.parametrize("factor", [1, 2])
def test_dense_kinds_of_the_zoo_are_chains(kind, factor):
    net = networks.build_decoder(kind, (4, 4, 1), LATENTS, channels_factor=factor, output="sigmoid", dropout_rate=0.2)
    assert laplace.choose(net) == "layerwise"
    z = points(dtype="float32")
    for backend in ("layerwise", "forward"):
        value, rows = laplace.linearise(net, z, backend)
        np.testing.assert_allclose(value, tf.reshape(net(z), (BATCH, -1)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(rows, laplace.linearise(net, z, "reverse")[1], rtol=1e-4, atol=1e-6)


def test_convolutions_are_pushed_forward():
    net = networks.build_decoder("conv", (8, 8, 1), LATENTS, num_filters=2)
    assert laplace.choose(net) == "forward"
    z = points(dtype="float32")
    (value, rows), (_, expected) = (laplace.linearise(net, z, backend) for backend in ("auto", "reverse"))
    assert value.shape == (BATCH, 64)
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-6)


def test_what_mixes_values_is_no_chain():
    layers = [keras.layers.Softmax(), keras.layers.Dense(4, "softmax"), keras.layers.LayerNormalization()]
    for layer in layers:
        net = keras.Sequential([keras.Input((LATENTS,)), keras.layers.Dense(4), layer, keras.layers.Dense(4)])
        assert not chains.is_chain(net)
        with pytest.raises(UserError, match="'layerwise' takes a keras.Sequential"):
            laplace.choose(net, "layerwise")
        auto, reverse = (laplace.linearise(net, points(dtype="float32"), b)[1] for b in ("auto", "reverse"))
        np.testing.assert_allclose(auto, reverse, rtol=1e-4, atol=1e-6)


def test_the_slope_at_the_kink_of_a_relu_is_zero():
    net = decoder()
    for layer in net.layers:
        layer.bias.assign(tf.zeros_like(layer.bias))
    assert not np.any(laplace.linearise(net, tf.zeros((1, LATENTS), tf.float64), "layerwise")[1])


def test_an_unknown_backend_is_refused():
    with pytest.raises(UserError, match="'backward' is unknown; it is auto, layerwise, forward, reverse"):
        laplace.choose(decoder(), "backward")


@keras.saving.register_keras_serializable("tests")
class Rounded(keras.layers.Layer):
    def call(self, x):
        return tf.cast(tf.cast(x, tf.int32), x.dtype)


def test_a_decoder_without_derivative_is_refused():
    net = keras.Sequential([keras.Input((LATENTS,)), Rounded(), keras.layers.Dense(VALUES)])
    with pytest.raises(UserError, match="has no derivative by its latent"):
        laplace.check_differentiable(net, LATENTS)


@pytest.mark.parametrize("backend", ["layerwise", "forward"])
def test_products_are_those_with_the_matrix(backend):
    net, z = decoder("tanh"), points()
    system = ExplicitSystem(net, likelihood("bernoulli"), data(), backend=backend)
    local = system.at(z)
    product, gradient = system.products(z)
    v = points(seed=4, num=2 * BATCH)
    v = tf.reshape(v, (2, BATCH, LATENTS))
    precision = local.gram + tf.eye(LATENTS, dtype="float64")
    np.testing.assert_allclose(product(v), tf.linalg.matvec(precision, v), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(gradient, local.gradient, rtol=1e-8, atol=1e-10)
