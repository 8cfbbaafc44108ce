"""bbb_ae: the KL against TFP and by hand, gradients, the objective, its options."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from battery import EVENT_SHAPE, build, hparams, images

from pae_zoo import models
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.models.bbb_ae import NETWORKS
from pae_zoo.models.parts import builder, weights

tfd = tfp.distributions
SEED = (4, 5)


def normals(model):
    """q over all weights as one TFP distribution, float64."""
    mean = np.concatenate([np.ravel(w) for w in model.means]).astype(np.float64)
    std = np.concatenate([np.ravel(s) for s in model.stds()]).astype(np.float64)
    return tfd.Normal(mean, std)


def test_closed_form_kl_is_tfps():
    model = build("bbb_ae", weight_prior="gaussian", prior_std=0.7)
    q, p = normals(model), tfd.Normal(np.float64(0), np.float64(0.7))
    found = model.objective(tf.constant(images(4)), SEED, training=False)
    np.testing.assert_allclose(found["kl"], np.full(4, tf.reduce_sum(tfd.kl_divergence(q, p))), rtol=1e-5)
    np.testing.assert_allclose(found["log_posterior"], np.full(4, -tf.reduce_sum(q.entropy())), rtol=1e-5)


def test_sampled_kl_is_tfps_at_the_drawn_weights():
    model = build("bbb_ae", prior_std=1.5, prior_narrow_std=0.05, prior_share=0.25)
    x = tf.constant(images(4))
    found = model.objective(x, SEED, training=False)
    drawn = weights.drawn(model.means, model.stds(), seeds.fold_in(seeds.stream(SEED, NETWORKS), 0))
    values = np.concatenate([np.ravel(v) for v in drawn]).astype(np.float64)
    mixture = tfd.MixtureSameFamily(
        tfd.Categorical(probs=np.array([0.25, 0.75])), tfd.Normal(np.zeros(2), np.array([1.5, 0.05])))
    log_q, log_p = (float(tf.reduce_sum(d.log_prob(values))) for d in (normals(model), mixture))
    np.testing.assert_allclose(found["log_posterior"][0], log_q, rtol=1e-4)
    np.testing.assert_allclose(found["log_prior"][0], log_p, rtol=1e-4)
    np.testing.assert_allclose(found["kl"][0], log_q - log_p, rtol=1e-4)


def test_the_mixture_is_finite_far_out():
    model = build("bbb_ae")
    values = tf.constant([0.0, 1e-3, 1.0, 1e4, -1e6])
    with tf.GradientTape() as tape:
        tape.watch(values)
        found = model._log_mixture(values)
    assert np.isfinite(found).all() and np.isfinite(tape.gradient(found, values)).all()
    np.testing.assert_allclose(found[0], math.log(0.5 + 0.5 * math.exp(6.0)), rtol=1e-6)


def test_loss_is_the_negative_bound_of_a_datum():
    model = build("bbb_ae", kl_weight=0.5, train_samples=3)
    x = tf.constant(images(4))
    assert float(model.num_data) == 128  # what the battery adapts to
    found = model.objective(x, SEED, training=False)
    np.testing.assert_allclose(found["loss"], found["nll"] + 0.5 * found["kl"] / 128, rtol=1e-5)
    base, log_probs = seeds.stream(SEED, NETWORKS), []
    for number in range(3):
        network = model.network(seeds.fold_in(base, number))
        log_probs.append(model.likelihood.log_prob(network.decode(network.encode(x)), x))
    np.testing.assert_allclose(found["nll"], -np.mean(log_probs, axis=0), rtol=1e-4)
    published = build("bbb_ae_published").objective(x, SEED, training=False)
    np.testing.assert_allclose(published["loss"], published["mse"] + published["kl"] * 4 / 128, rtol=1e-5)
    bound = build("bbb_ae_published", bbb_loss="elbo").objective(x, SEED, training=False)
    np.testing.assert_allclose(bound["loss"], bound["nll"] + bound["kl"] / 128, rtol=1e-5)


def test_gradient_is_that_at_the_drawn_weights():
    model = build("bbb_ae", kl_weight=0.0, likelihood="gaussian")
    x = tf.constant(images(8))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.objective(x, SEED, training=True)["loss"])
    gradients = tape.gradient(loss, [*model.means, *model.rhos])
    drawn = weights.drawn(model.means, model.stds(), seeds.fold_in(seeds.stream(SEED, NETWORKS), 0))
    noise = [(value - tf.convert_to_tensor(mean)) / std for value, mean, std in zip(drawn, model.means, model.stds())]
    for variable, value in zip(model.means, drawn):
        variable.assign(value)
    with tf.GradientTape() as tape:
        loss = -tf.reduce_sum(model.likelihood.log_prob(model.decoder(model.codes(x)), x))
    plain = tape.gradient(loss, model.means)
    for found, expected in zip(gradients, plain):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    for found, expected, eps, rho in zip(gradients[len(plain):], plain, noise, model.rhos):
        chained = expected * eps * tf.sigmoid(tf.convert_to_tensor(rho))
        np.testing.assert_allclose(found, chained, rtol=1e-2, atol=1e-3)


def test_initial_weights():
    model, published = build("bbb_ae"), build("bbb_ae_published")
    plain = builder.parts(hparams("bbb_ae"), EVENT_SHAPE, codes_only=True)[0]
    for mine, theirs in zip(model.means, plain.trainable_weights):
        np.testing.assert_array_equal(mine, theirs)
    rho = np.concatenate([np.ravel(r) for r in model.rhos])
    assert -5 <= rho.min() < -4.95 and -4.05 < rho.max() <= -4
    means = np.concatenate([np.ravel(w) for w in published.means])
    assert -0.2 <= means.min() < -0.19 and 0.19 < means.max() <= 0.2 and abs(means.mean()) < 0.02


def test_counts_and_averages_move_in_training():
    model = build("bbb_ae", dropout_rate=0.2)
    model.compile("adam", jit_compile=False)
    model.fit(images(32), batch_size=16, epochs=1, verbose=0)
    counts = [int(v) for v in model.non_trainable_variables if v.name == "count"]
    assert counts and set(counts) == {2}


def test_validation_is_deterministic():
    model = build("bbb_ae")
    model.compile("adam", jit_compile=False)
    x = images(16)
    first = model.evaluate(x, verbose=0, return_dict=True)
    assert first == model.evaluate(x, verbose=0, return_dict=True)


@pytest.mark.parametrize("changes, words", [
    (dict(weight_prior="laplace"), "weight_prior='laplace' is unknown; allowed: mixture, gaussian"),
    (dict(prior_share=1.0), "its share between 0 and 1"),
    (dict(bbb_loss="mse"), "bbb_loss='mse' is unknown; allowed: legacy, elbo"),
])
def test_settings_that_do_not_exist_are_refused(changes, words):
    model = build("bbb_ae", adapted=False)
    with pytest.raises(UserError, match=words):
        models.find("bbb_ae_published").MODEL(model.encoder, model.decoder, **changes)


def test_the_published_loss_measures_its_noise_after_training():
    model, x = build("bbb_ae_published", likelihood="gaussian_learned"), images(64)
    model.measure(x, x)
    found = model.moments(tf.constant(x), model.test_samples, SEED)
    square = np.mean(np.square(found["mean"] - x) + found["epistemic_variance"])
    assert float(model.likelihood.scale) ** 2 == pytest.approx(square, rel=0.3)
    assert not set(map(id, model.likelihood.trainable_variables)) & set(map(id, model.trained_variables))
    with pytest.raises(UserError, match="gaussian_decoder"):
        build("bbb_ae_published", likelihood="gaussian_decoder")
