"""Layers and flows as TFP bijectors: inside distributions and composites, never stale."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import pae_zoo
from pae_zoo import flows

tfb, tfd = tfp.bijectors, tfp.distributions
SPEC = ("lu", "spline", "maf", "actnorm", "householder", "affine")


def build(seed=0):
    flow = pae_zoo.Flow(4, layers=SPEC, hidden_units=(8,), bins=5, seed=seed)
    rng = np.random.default_rng(seed)
    flow.adapt(rng.normal(size=(200, 4)) ** 2)
    for weight in flow.trainable_weights:
        weight.assign_add(0.2 * rng.normal(size=weight.shape))
    return flow


def data(count=7):
    return tf.constant(np.random.default_rng(5).normal(size=(count, 4)), tf.float32)


def test_distribution_equals_the_flow():
    flow, z = build(), data()
    distribution = flow.distribution()
    assert distribution.event_shape == (4,) and distribution.batch_shape == ()
    np.testing.assert_allclose(distribution.log_prob(z), flow.log_prob(z), rtol=1e-5)
    np.testing.assert_array_equal(distribution.sample(6, seed=(1, 2)), flow.sample(6, seed=(1, 2)))
    assert distribution.sample((2, 3), seed=(1, 2)).shape == (2, 3, 4)
    draws, log_prob = distribution.experimental_sample_and_log_prob(5, seed=(0, 1))
    np.testing.assert_allclose(log_prob, flow.log_prob(draws), rtol=1e-4, atol=1e-4)


def test_gradients_reach_all_weights_through_the_distribution():
    flow = build()
    for loss_of in (
        lambda: tf.reduce_sum(flow.distribution().log_prob(data())),
        lambda: tf.reduce_sum(tf.sin(flow.distribution().sample(9, seed=(0, 1)))),
    ):
        with tf.GradientTape() as tape:
            loss = loss_of()
        for weight, gradient in zip(flow.trainable_weights, tape.gradient(loss, flow.trainable_weights)):
            assert gradient is not None and np.any(gradient), weight.path


@pytest.mark.parametrize("kind", sorted(flows.LAYERS))
def test_every_layer_is_a_bijector(kind):
    (layer,) = flows.build([kind], 4, hidden_units=(8,), bins=5)
    bijector, z = layer.bijector(), data()
    x, log_det = layer(z, inverse=True)
    np.testing.assert_allclose(bijector.inverse(z), x, rtol=1e-6)
    np.testing.assert_allclose(bijector.inverse_log_det_jacobian(z), log_det, rtol=1e-6)
    np.testing.assert_allclose(bijector.forward_log_det_jacobian(x, event_ndims=1), -log_det, atol=1e-5)
    base = tfd.MultivariateNormalDiag(tf.zeros(4), tf.ones(4))
    log_prob = tfd.TransformedDistribution(base, layer.bijector()).log_prob(z)
    np.testing.assert_allclose(log_prob, base.log_prob(x) + log_det, rtol=1e-5)


def test_it_stands_beside_tfp_bijectors():
    flow, z = build(), data()
    chain = tfb.Chain([tfb.Shift(1.0), tfb.Scale(2.0), flow.bijector()])
    base = tfd.MultivariateNormalDiag(tf.zeros(4), tf.ones(4))
    log_prob = tfd.TransformedDistribution(base, chain).log_prob(z)
    np.testing.assert_allclose(log_prob, flow.log_prob((z - 1) / 2) - 4 * np.log(2), rtol=1e-5)
    np.testing.assert_allclose(chain.forward(chain.inverse(z)), z, atol=1e-4)
    np.testing.assert_allclose(tfb.Invert(flow.bijector()).forward(z), flow.inverse(z)[0], atol=1e-6)


def test_a_call_outside_a_tape_does_not_hide_the_gradient():
    flow, z = build(), data()
    bijector = flow.bijector()
    bijector.inverse(z), bijector.inverse_log_det_jacobian(z)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(bijector.inverse(z)) + tf.reduce_sum(bijector.inverse_log_det_jacobian(z))
    assert all(g is not None for g in tape.gradient(loss, flow.trainable_weights))


def test_new_weights_show_for_the_same_input():
    flow, z = build(), data()
    bijector = flow.bijector()
    before = bijector.inverse(z), bijector.inverse_log_det_jacobian(z), tfb.Chain([flow.bijector()]).inverse(z)
    for weight in flow.trainable_weights:
        weight.assign_add(tf.ones_like(weight) * 0.1)
    after = bijector.inverse(z), bijector.inverse_log_det_jacobian(z), tfb.Chain([flow.bijector()]).inverse(z)
    for old, new in zip(before, after):
        assert np.all(np.abs(np.asarray(old) - new).max() > 1e-3)


def test_under_xla():
    flow, z = build(), data()
    compiled = tf.function(lambda z: flow.distribution().log_prob(z), jit_compile=True)
    np.testing.assert_allclose(compiled(z), flow.log_prob(z), rtol=1e-4)
