"""hf: an orthogonal map of the vae's posterior, whatever the encoder; without reflections it is the vae."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, LATENT_DIM, build, images

import pae_zoo
from pae_zoo import networks
from pae_zoo.models.hf import ReflectedPosterior
from pae_zoo.models.parts.posteriors import DiagonalPosterior

DIMS, BATCH = 5, 3


def posterior(num_flows, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda: tf.constant(rng.normal(size=(BATCH, DIMS)).astype(np.float32))  # noqa: E731
    return ReflectedPosterior(DiagonalPosterior(draw(), tf.exp(0.5 * draw())), [draw() for _ in range(num_flows)])


def matrix(q):
    """The matrices M (batch, K, K) of a posterior: its map of the unit vectors."""
    columns = q.turn(tf.repeat(tf.eye(DIMS)[:, None], BATCH, axis=1))
    return np.transpose(columns, (1, 2, 0))


@pytest.mark.parametrize("num_flows", [0, 1, 2, 3, 4])
def test_the_map_is_orthogonal_with_the_sign_of_its_reflections(num_flows):
    q = posterior(num_flows)
    turned = matrix(q)
    np.testing.assert_allclose(turned @ turned.transpose(0, 2, 1), np.tile(np.eye(DIMS), (BATCH, 1, 1)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(turned), (-1.0) ** num_flows, atol=1e-5)
    z = tf.constant(np.random.default_rng(1).normal(size=(7, BATCH, DIMS)).astype(np.float32))
    np.testing.assert_allclose(tf.norm(q.turn(z), axis=-1), tf.norm(z, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(q.turn_back(q.turn(z)), z, atol=1e-5)


def test_the_posterior_is_the_gaussian_that_the_matrix_says():
    q = posterior(3)
    turned, d = matrix(q), q.distribution()
    scaled = turned * np.asarray(q.diagonal.stddev)[:, None]
    np.testing.assert_allclose(d.covariance(), scaled @ scaled.transpose(0, 2, 1), atol=1e-5)
    np.testing.assert_allclose(d.mean(), np.einsum("bij,bj->bi", turned, q.diagonal.mean), atol=1e-5)
    np.testing.assert_allclose(d.mean(), q.point(), atol=1e-6)
    noise = tf.constant(np.random.default_rng(2).normal(size=(6, BATCH, DIMS)).astype(np.float32))
    z, log_q = q.from_noise(noise)
    np.testing.assert_allclose(q.log_prob(z), log_q, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(d.log_prob(z), log_q, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(q.stopped().log_prob(z), log_q, rtol=1e-4, atol=1e-4)


def test_the_kl_to_the_prior_is_that_of_the_full_gaussian():
    q = posterior(3)
    mean, covariance = np.asarray(q.point(), np.float64), np.asarray(q.distribution().covariance(), np.float64)
    trace = np.trace(covariance, axis1=1, axis2=2)
    expected = 0.5 * (trace + (mean**2).sum(-1) - DIMS - np.linalg.slogdet(covariance)[1])
    np.testing.assert_allclose(q.kl_to_prior(), expected, rtol=1e-4, atol=1e-4)


def test_without_reflections_it_is_the_vae():
    none, plain = build("hf", num_flows=0), build("vae")
    x, seed = images(8), (1, 2)
    assert len(none.trainable_variables) == len(plain.trainable_variables)
    np.testing.assert_allclose(none.elbo(x, seed), plain.elbo(x, seed), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(none.log_likelihood(x, 5, seed), plain.log_likelihood(x, 5, seed), rtol=1e-5, atol=1e-4)


def test_a_normal_of_zero_leaves_all_as_it_is():
    q = posterior(0)
    normal = tf.Variable(tf.zeros((BATCH, DIMS)))
    with tf.GradientTape() as tape:
        z, log_q = ReflectedPosterior(q.diagonal, [normal]).from_noise(tf.ones((BATCH, DIMS)))
        loss = tf.reduce_sum(z) + tf.reduce_sum(log_q)
    np.testing.assert_allclose(z, q.from_noise(tf.ones((BATCH, DIMS)))[0])
    assert np.isfinite(tape.gradient(loss, normal)).all()


def test_the_planes_depend_on_the_datum_through_the_last_hidden_layer():
    model = build("hf", num_flows=2, hidden_units=(12, 8))
    y = tf.constant(images(4))
    mean, raw, hidden = model.encoder_features(y)
    assert hidden.shape == (4, 8)  # the second of hidden_units
    for mine, theirs in zip((mean, raw), model.encoder_outputs(y)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    first, second = model.reflections(hidden)
    weights = [np.array(w) for w in model.reflections.weights]
    np.testing.assert_allclose(first, hidden @ weights[0] + weights[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(second, first @ weights[2] + weights[3], rtol=1e-4, atol=1e-5)
    assert np.ptp(first, axis=0).min() > 1e-4


@pytest.mark.parametrize("kind, options", [
    ("infogan", dict(dropout_rate=0.2)), ("conv", dict(num_filters=2)), ("resnet_fc", dict(dense_size=8, num_layers=1)),
])
def test_every_kind_of_encoder_has_a_last_hidden_layer(kind, options):
    shape = (8, 8, 1)
    encoder = networks.build_encoder(kind, shape, LATENT_DIM, **options)
    outputs, hidden = networks.outputs_and_hidden(encoder, tf.constant(images(2, event_shape=shape)))
    assert hidden.shape == (2, networks.hidden_size(encoder, shape)) and hidden.shape != outputs.shape
    np.testing.assert_allclose(outputs, encoder(images(2, event_shape=shape)), rtol=1e-4, atol=1e-5)


def test_outputs_are_the_context_of_an_encoder_of_another_kind():
    inputs = keras.Input(EVENT_SHAPE)
    encoder = keras.Model(inputs, keras.layers.Dense(2 * LATENT_DIM)(keras.layers.Flatten()(inputs)))
    decoder = networks.build_decoder("mlp", EVENT_SHAPE, LATENT_DIM, hidden_units=(8,))
    model = pae_zoo.HF(encoder, decoder, num_flows=1)
    _, _, hidden = model.encoder_features(tf.constant(images(3)))
    np.testing.assert_allclose(hidden, encoder(images(3)), rtol=1e-6)
    assert np.isfinite(model.elbo(images(3), (0, 1))).all()


def test_the_published_size():
    # H = 500, K = 50, F = 4: 32,700 weights more than the vae.
    networks_of = {what: getattr(networks, f"build_{what}")("vlae", (4,), 50, hidden_units=(500, 500))
                   for what in ("encoder", "decoder")}
    extra = pae_zoo.HF(**networks_of).reflections.count_params()
    assert extra == 32_700
