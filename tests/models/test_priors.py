"""Learned priors of the VAE: against scipy's Gaussians, the models that they become in limits, and through saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, LATENT_DIM, build, hparams, images
from scipy import stats
from scipy.special import logsumexp
from tiers import some

from pae_zoo import models
from pae_zoo.core.errors import UserError

LEARNED = ("vamp", "mixture")


def learned(kind, name="vae", count=4, **changes):
    return build(name, prior=kind, prior_components=count, kl="mc", **changes)


def gaussians(model):
    """Returns the means (M, K) and covariances (M, K, K) of a model's learned prior, computed here."""
    if model.prior_kind == "vamp":
        # The encoder's second half is the raw scale: std = softplus(raw) + 1e-6.
        outputs = np.asarray(model.encoder(model.learned_prior.y(tf.float32)), np.float64)
        means, raw = outputs[:, :LATENT_DIM], outputs[:, LATENT_DIM:]
        return means, np.stack([np.diag((np.log1p(np.exp(row)) + 1e-6) ** 2) for row in raw])
    found = model.learned_prior.parameters()
    return found.means, found.scales


@pytest.mark.parametrize("kind", LEARNED)
def test_the_density_is_that_of_scipy(kind):
    model = learned(kind)
    z = np.random.default_rng(0).normal(size=(2, 5, LATENT_DIM)).astype(np.float32)
    parts = [stats.multivariate_normal(mean, covariance).logpdf(z) for mean, covariance in zip(*gaussians(model))]
    np.testing.assert_allclose(model.log_prob_latent(z), logsumexp(parts, axis=0) - np.log(4), rtol=2e-5, atol=2e-5)
    assert model.prior().event_shape == (LATENT_DIM,)


@pytest.mark.parametrize("kind", LEARNED)
def test_draws_have_the_moments_of_the_density(kind):
    model = learned(kind)
    means, covariances = gaussians(model)
    z = np.asarray(model.sample_latent(20_000, (0, 1)), np.float64)
    mean = means.mean(axis=0)
    variance = covariances.mean(axis=0)[range(LATENT_DIM), range(LATENT_DIM)] + means.var(axis=0)
    assert np.all(np.abs(z.mean(axis=0) - mean) < 5 * np.sqrt(variance / len(z)))
    np.testing.assert_allclose(z.var(axis=0), variance, rtol=0.08)


@pytest.mark.parametrize("kind", LEARNED)
def test_a_chunked_density_is_the_whole_one(kind, monkeypatch):
    model, z = learned(kind), np.random.default_rng(1).normal(size=(11, LATENT_DIM)).astype(np.float32)
    whole = model.log_prob_latent(z)
    monkeypatch.setattr("pae_zoo.densities.mixture.MOST_VALUES", 4 * LATENT_DIM * 3)
    np.testing.assert_allclose(model.log_prob_latent(z), whole, rtol=1e-5)


@pytest.mark.parametrize("kind", LEARNED)
def test_the_prior_is_trained_and_saved(kind, tmp_path):
    model, x = learned(kind), images(64)
    before = [np.array(v) for v in model.learned_prior.trainable_variables]
    model.compile("adam", jit_compile=False)
    model.fit(x, epochs=2, batch_size=16, verbose=0)
    assert all(np.abs(old - new).max() > 0 for old, new in zip(before, model.learned_prior.trainable_variables))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    z = model.sample_latent(5, (0, 1))
    np.testing.assert_array_equal(loaded.sample_latent(5, (0, 1)), z)
    np.testing.assert_array_equal(loaded.log_prob_latent(z), model.log_prob_latent(z))
    np.testing.assert_array_equal(loaded.elbo(x, (1, 2)), model.elbo(x, (1, 2)))


def test_a_mixture_is_that_of_the_flow_vae():
    density = {"density": "gaussian_mixture", "density_components": 4}
    mine, theirs = learned("mixture"), build("flow_vae", **density)
    source = theirs.encoder.weights + theirs.decoder.weights + theirs.flow.base.weights
    for weight, value in zip(mine.encoder.weights + mine.decoder.weights + mine.learned_prior.weights, source):
        weight.assign(value)
    x, seed = images(8), (1, 2)
    np.testing.assert_allclose(mine.elbo(x, seed), theirs.elbo(x, seed), rtol=1e-5)
    np.testing.assert_allclose(mine.log_likelihood(x, 7, seed), theirs.log_likelihood(x, 7, seed), rtol=1e-5)


def test_one_gaussian_of_unit_covariance_at_zero_is_the_plain_prior():
    model, plain = learned("mixture", count=1), build("vae", kl="mc")
    model.learned_prior.means.assign(tf.zeros_like(model.learned_prior.means))
    x, seed = images(8), (1, 2)
    np.testing.assert_allclose(model.elbo(x, seed), plain.elbo(x, seed), rtol=1e-5)
    np.testing.assert_allclose(model.objective(x, tf.constant(seed), True)["loss"],
                               plain.objective(x, tf.constant(seed), True)["loss"], rtol=1e-5)


def test_pseudo_inputs_at_the_data_have_no_kl_on_average():
    """With u_m = x_m the prior is the aggregate of q: its KL to it is 0, that of z given x the mutual information."""
    x = images(16)
    model = learned("vamp", count=16)
    model.learned_prior.values.assign(tf.reshape(model.preprocess(x)[0], (16, -1)))
    kl = np.asarray(model._elbo_terms(x, tf.constant((0, 1)))["kl"])
    assert kl.mean() < np.log(16) + 1e-4  # no more than the log of the number of data can be known about which it is
    assert np.all(kl <= np.log(16) + 1e-4)  # log q(z|x) - log(q(z|x) / 16 + ...) for each of them


def test_pseudo_inputs_start_at_training_data():
    x = images(128)
    values = np.asarray(learned("vamp").learned_prior.y(tf.float32))
    nearest = np.sqrt(((values[:, None] - x[None]) ** 2).mean(axis=(2, 3, 4)).min(axis=1))
    assert np.all(nearest < 0.02) and np.abs(values[0] - values[1]).max() > 0.05


@pytest.mark.parametrize("kind", LEARNED)
def test_a_trained_vae_is_the_start(kind):
    plain, model = build("vae"), learned(kind, seed=5)
    model.initialise_from(plain)
    for mine, theirs in zip(model.decoder.weights, plain.decoder.weights):
        np.testing.assert_array_equal(mine, theirs)
    again = learned(kind, seed=6)
    again.initialise_from(model)
    for mine, theirs in zip(again.learned_prior.weights, model.learned_prior.weights):
        np.testing.assert_array_equal(mine, theirs)
    if kind == "vamp":
        fresh = learned(kind, seed=5, adapted=False).learned_prior.values
        assert np.std(np.asarray(model.learned_prior.values)) < 0.8 * np.std(np.asarray(fresh))  # decoded, not noise


@pytest.mark.parametrize(("name", "kind"), [("ensemble_vae", "vamp"), ("rbf_vae", "mixture"), ("hf", "mixture"),
                                            ("iaf", "mixture"), ("savae", "mixture"), ("vlae", "vamp"),
                                            ("vlae", "mixture")])
def test_models_that_share_the_posterior_take_it(name, kind):
    model = learned(kind, name)
    x = images(4)
    assert np.all(np.isfinite(model.elbo(x, (0, 1)))) and np.all(np.isfinite(model.log_likelihood(x, 3, (0, 1))))
    assert model.sample(2, (0, 1)).shape == (2, *EVENT_SHAPE)
    terms = model.objective(x, tf.constant((0, 1)), True)
    assert np.all(np.isfinite(terms["loss"]))


@pytest.mark.parametrize("kind", LEARNED)
def test_the_curvature_is_that_of_the_density_of_one_component(kind):
    model = learned(kind, count=1)
    z = np.zeros((2, LATENT_DIM), np.float32)
    wanted = np.linalg.inv(gaussians(model)[1])
    np.testing.assert_allclose(model.prior().precision(z), np.repeat(wanted, 2, axis=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", LEARNED)
def test_refined_codes_go_by_the_learned_prior(kind):
    model, x = learned(kind, activation="tanh"), images(8)  # smooth, so that the mode is no kink
    path = model.refined("line_search", 3).latent_path(x)
    y = model.preprocess(x)[0]
    joint = np.stack([model.log_prob_latent(z) + model.likelihood.log_prob(model.decoder_outputs(z), y) for z in path])
    assert np.all(np.diff(joint, axis=0) >= -1e-3) and np.all(joint[-1] > joint[0])
    # At a mode nothing is left of the gradient of log p(y, z).
    z = tf.constant(model.refined("line_search", 30).latent_path(x)[-1])
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = model.log_prob_latent(z) + model.likelihood.log_prob(model.decoder_outputs(z), y)
    assert np.abs(tape.gradient(value, z)).max() < 0.1


@pytest.mark.parametrize(("name", "flags", "match"), [
    ("vae", {"prior": "vamp"}, "kl='mc'"),
    ("vae", {"prior": "vampire", "kl": "mc"}, "standard, vamp, mixture; received 'vampire'"),
    ("iaf", {"prior": "vamp"}, "The prior of IAF is one of standard, mixture; received 'vamp'"),
    ("flow_vae", {"prior": "mixture"}, "The prior of FlowVAE is one of standard; received 'mixture'"),
    ("vlae_published", {"prior": "mixture", "kl": "mc"}, "needs search_gradient='held'; received 'full'"),
])
def test_what_is_refused(name, flags, match):
    with pytest.raises(UserError, match=match):
        model = build(name)
        config = {**model.get_config(), **flags}
        type(model).from_config(config)


SEARCHES = [(kind, search) for kind in LEARNED for search in ("chord", "newton", "cg")]


@pytest.mark.parametrize(("kind", "search"), some(SEARCHES, [("mixture", "chord"), ("vamp", "newton")]))
def test_vlae_searches_and_trains_under_the_learned_prior(kind, search):
    model, x = learned(kind, "vlae", activation="tanh", warmup_steps=0, search=search), images(16)
    path, y = model.latent_path(x), model.preprocess(x)[0]
    joint = np.stack([model.log_prob_latent(z) + model.likelihood.log_prob(model.decoder_outputs(z), y) for z in path])
    assert len(path) == 5 and np.all(np.diff(joint, axis=0) >= -1e-3) and np.all(joint[-1] > joint[0])
    before = [np.array(v) for v in model.learned_prior.trainable_variables]
    model.compile("adam", jit_compile=False)
    assert np.isfinite(model.fit(x, epochs=2, batch_size=8, verbose=0).history["loss"]).all()
    assert all(np.abs(old - new).max() > 0 for old, new in zip(before, model.learned_prior.trainable_variables))


def test_flow_vae_has_no_flag():
    assert not hasattr(models.find("flow_vae").HParams(), "prior") and not hasattr(hparams("flow_vae"), "prior")
