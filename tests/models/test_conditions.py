"""Labels as conditions: against closed forms of a linear model, training, saving, serving, bad input."""

import battery
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from scipy.special import logsumexp
from tiers import some

from pae_zoo import PAE, VAE, VLAE, densities, networks, serving
from pae_zoo.core.errors import UserError

CENTRES = np.array([[2.0, 0.0, 0.0], [-2.0, 1.0, 0.0]])


def data(num=300):
    generator = np.random.default_rng(1)
    labels = generator.choice(2, num, p=[0.7, 0.3])
    return (0.5 * generator.normal(size=(num, 3)) + CENTRES[labels]).astype(np.float32), labels


def built(kind, **more):
    encoder = networks.build_encoder("mlp", (3,), latent_dim=2, hidden_units=(8,))
    decoder = networks.build_decoder("mlp", (3,), latent_dim=2, hidden_units=(8,))
    return kind(encoder, decoder, **more)


@pytest.fixture(scope="module")
def linear():
    """A VAE of a linear decoder, refined: its posterior given a label is exact, and so is one draw of the bound."""
    encoder = networks.build_encoder("mlp", (3,), latent_dim=2, hidden_units=())
    decoder = networks.build_decoder("mlp", (3,), latent_dim=2, hidden_units=())
    model = VAE(encoder, decoder, likelihood="gaussian", scale=0.7, num_labels=2)
    generator = np.random.default_rng(0)
    for weight in decoder.weights:
        weight.assign(generator.normal(size=weight.shape))
    model.learned_prior.means.assign([[1.0, 0.5], [-1.0, 0.0]])
    model.learned_prior.packed.assign([[[0.3, 0.0], [0.4, -0.2]], [[0.0, 0.0], [-0.5, 0.1]]])
    model.count_labels(np.array([0, 0, 0, 1]))
    return model


def log_joint(model, x):
    """Returns log p(x, c) of the linear model, (n, 2), by SciPy."""
    kernel, bias = (np.asarray(weight, np.float64) for weight in model.decoder.weights)
    prior = model.learned_prior.parameters()
    return np.stack([
        stats.multivariate_normal(m @ kernel + bias, kernel.T @ s @ kernel + 0.49 * np.eye(3)).logpdf(x) + np.log(share)
        for m, s, share in zip(prior.means, prior.scales, (0.75, 0.25))], axis=1)


def test_bounds_of_a_label_equal_the_closed_form(linear):
    x, _ = data(20)
    expected = log_joint(linear, x) - np.log([0.75, 0.25])
    for label in (0, 1):
        given = linear.refined().given(label)
        np.testing.assert_allclose(given.elbo(x, (0, 1)), expected[:, label], rtol=1e-4, atol=2e-3)
    labels = np.arange(20) % 2
    each = linear.refined().given(labels).log_likelihood(x, 5, (0, 1))
    np.testing.assert_allclose(each, expected[np.arange(20), labels], rtol=1e-4, atol=2e-3)


def test_probabilities_of_labels_equal_the_closed_form(linear):
    x, _ = data(20)
    joint = log_joint(linear, x)
    found = linear.refined().log_label_prob(x, 4000, (0, 1))
    np.testing.assert_allclose(np.exp(found), np.exp(joint - logsumexp(joint, axis=1, keepdims=True)), atol=0.05)
    np.testing.assert_allclose(linear.refined().log_likelihood(x, 4000, (0, 1)), logsumexp(joint, axis=1), atol=0.1)


@pytest.mark.parametrize("kind", [VAE, pytest.param(VLAE, marks=pytest.mark.full)])
def test_training_with_labels(kind, tmp_path):
    x, labels = data()
    model = built(kind, num_labels=2)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    model.fit(x, labels, sample_weight=np.ones(300), validation_data=(x, labels), epochs=10, batch_size=20, verbose=0)
    np.testing.assert_allclose(np.exp(model.learned_prior.log_label_weights()), np.bincount(labels) / 300, rtol=1e-5)
    assert np.mean(model.log_label_prob(x, 20, (0, 1)).numpy().argmax(axis=1) == labels) > 0.9
    # A label's bound is better than that of p(x) by what the label says.
    assert np.mean(model.given(labels).elbo(x, (0, 1))) > np.mean(model.elbo(x, (0, 1)))
    assert model.predict(x, verbose=0).shape == x.shape
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.given(1).elbo(x, (0, 1)), model.given(1).elbo(x, (0, 1)))


def test_the_density_of_a_pae_is_one_for_each_label():
    x, labels = data()
    model = built(PAE, flow=densities.make("gaussian", 2, num_labels=2))
    model.compile("adam", jit_compile=False)
    weights = np.ones(300)
    weights[:20] = 0
    model.fit(x, labels, sample_weight=weights, epochs=8, batch_size=20, verbose=0)
    assert int(np.sum(model.flow.base.label_counts)) == 280 - 28  # a tenth judges
    assert np.mean(model.log_label_prob(x).numpy().argmax(axis=1) == labels) > 0.9
    for label in (0, 1):
        away = np.linalg.norm(model.given(label).sample(100, (0, 1)).numpy().mean(axis=0) - CENTRES, axis=1)
        assert away.argmin() == label
    joint = model.log_joint_latent(model.codes(x))
    np.testing.assert_allclose(tf.reduce_logsumexp(joint, axis=1), model.log_prob_latent(model.codes(x)), atol=1e-4)
    functions, _ = serving.trace(model, only=("sample_label", "labels"))
    assert {"sample_label", "labels"} <= set(functions)
    drawn = functions["sample_label"](tf.constant(1), tf.constant(4), tf.constant([0, 1]))["x"]
    np.testing.assert_allclose(drawn, model.given(1).sample(4, (0, 1)), rtol=1e-5, atol=1e-5)


def test_bad_input_is_told():
    x, labels = data(20)
    model = built(VAE, num_labels=2)
    model.compile("adam", jit_compile=False)
    with pytest.raises(UserError, match=r"trained with labels, 0 to 1: give them as y"):
        model.fit(x, verbose=0)
    with pytest.raises(UserError, match="Labels are 0 to 1; received 1 to 2"):
        model.fit(x, labels + 1, verbose=0)
    with pytest.raises(UserError, match="Labels are whole numbers"):
        model.fit(x, labels + 0.5, verbose=0)
    with pytest.raises(UserError, match="holds another"):
        model.fit(tf.data.Dataset.from_tensor_slices((x, labels + 1)).batch(10), verbose=0)
    with pytest.raises(UserError, match="0 to 1; received 5"):
        model.given(5)
    with pytest.raises(UserError, match="no labels"):
        built(VAE).given(0)
    with pytest.raises(UserError, match="no labels"):
        built(PAE).log_label_prob(x)
    with pytest.raises(UserError, match="vamp"):
        built(VAE, num_labels=2, prior="vamp", kl="mc")


@pytest.mark.parametrize("name", some(
    ["vae", "vlae", "iaf", "hf", "savae", "ensemble_vae", "rbf_vae", "flow_vae", "pae", "rae"], ["iaf", "flow_vae"]))
def test_every_model(name):
    """One label for all data and one for each are the same on the data of that label; p(c|x) sums to one."""
    model, x, labels = battery.build(name, condition="label", num_labels=2), battery.images(32), np.arange(32) % 2
    if name in ("pae", "rae"):
        model.compile("adam", jit_compile=False)
        model.fit(x, labels, batch_size=16, verbose=0)
    else:
        model.count_labels(labels)
        assert np.isfinite(model.given(labels).objective(tf.constant(x), tf.constant((0, 1)), True)["loss"]).all()
    each, one = (model.given(label).ood_scores(x, (0, 1)) for label in (labels, 1))
    for score in each:
        np.testing.assert_allclose(each[score][1::2], one[score][1::2], rtol=1e-4, atol=1e-4)
    differ = "latent_density" if "latent_density" in each else "elbo"
    assert np.abs(each[differ] - one[differ])[::2].min() > 1e-3
    assert np.isfinite(model.given(labels).sample(32, (0, 1))).all()
    np.testing.assert_allclose(np.exp(model.log_label_prob(x, 5, (0, 1))).sum(axis=1), 1, atol=1e-4)
