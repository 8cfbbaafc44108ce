"""Missing values: what is seen is what counts, and what is not is filled in as a linear Gaussian model says."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiers
from scipy.stats import multivariate_normal

from pae_zoo import likelihoods, models, networks
from pae_zoo.core.errors import UserError
from pae_zoo.likelihoods.partial import Partial

D, K, SCALE = 5, 2, 0.5
RNG = np.random.default_rng(0)
WEIGHTS, BIAS = RNG.normal(size=(K, D)).astype(np.float32), RNG.normal(size=D).astype(np.float32)
COVARIANCE = WEIGHTS.T @ WEIGHTS + SCALE**2 * np.eye(D)


@pytest.fixture(scope="module")
def rows():
    x = RNG.multivariate_normal(BIAS, COVARIANCE, 6).astype(np.float32)
    x[RNG.random(x.shape) < 0.4] = np.nan
    x[0], x[1, :] = np.nan, np.nan_to_num(x[1])  # nothing seen, and everything
    return x


def pair(missing=True):
    encoder = networks.build_encoder("mlp", (D,), latent_dim=K, hidden_units=(8,), missing=missing)
    decoder = keras.Sequential([keras.Input((K,)), keras.layers.Dense(D)])
    decoder.layers[0].set_weights([WEIGHTS, BIAS])
    return encoder, decoder


@pytest.fixture(scope="module")
def vae():
    return models.find("vae").MODEL(*pair(), likelihood="gaussian", scale=SCALE)


def conditional(row):
    """Mean and covariance of a row given what was seen of it, and the log density of that."""
    seen = ~np.isnan(row)
    here, across = COVARIANCE[np.ix_(seen, seen)], COVARIANCE[np.ix_(~seen, seen)]
    gain = across @ np.linalg.inv(here)
    mean, covariance = row.copy(), np.zeros((D, D))
    mean[~seen] = BIAS[~seen] + gain @ (row[seen] - BIAS[seen])
    covariance[np.ix_(~seen, ~seen)] = COVARIANCE[np.ix_(~seen, ~seen)] - gain @ across.T
    log_prob = multivariate_normal(BIAS[seen], here).logpdf(row[seen]) if seen.any() else 0.0
    return mean, covariance, log_prob


def test_the_likelihood_is_that_of_what_was_seen(vae, rows):
    """With the posterior of a linear Gaussian model every weight is p(x_seen)."""
    found = vae.refined("newton", 1).importance_estimate(rows, 4, (0, 1))
    np.testing.assert_allclose(found.log_likelihood, [conditional(row)[2] for row in rows], atol=2e-5)
    np.testing.assert_allclose(found.elbo, found.log_likelihood, atol=2e-5)


def test_what_is_missing_has_the_conditional_moments(vae, rows):
    mean, std = vae.refined("newton", 1).impute_mean(rows, (0, 1), num_proposals=20_000)
    exact = [conditional(row) for row in rows]
    np.testing.assert_allclose(mean, [one[0] for one in exact], atol=0.03)
    np.testing.assert_allclose(std, [np.sqrt(np.diag(one[1])) for one in exact], atol=0.03)
    # A proposal that is far from the posterior gets there by its weights.
    np.testing.assert_allclose(vae.impute_mean(rows[2:], (0, 2), num_proposals=200_000)[0],
                               [one[0] for one in exact[2:]], atol=0.3)


def test_draws_of_what_is_missing(vae, rows):
    draws = vae.refined("newton", 1).impute(rows, 4000, (0, 3), num_proposals=8000).numpy()
    for place, row in enumerate(rows):
        mean, covariance, _ = conditional(row)
        np.testing.assert_allclose(draws[:, place].mean(axis=0), mean, atol=0.08)
        np.testing.assert_allclose(np.cov(draws[:, place].T), covariance, atol=0.12)
    seen = ~np.isnan(rows)
    np.testing.assert_array_equal(draws[:, seen], np.broadcast_to(rows[seen], (4000, seen.sum())))


def test_a_datums_draws_are_its_own(vae, rows):
    whole, part = vae.impute(rows, 3, (0, 1)), vae.impute(rows[:2], 3, (0, 1))
    np.testing.assert_allclose(whole[:, :2], part, atol=1e-6)


def test_what_stands_in_a_gap_does_not_matter(rows):
    """The loss of data with gaps has the gradient of one in which the gaps' terms are left out."""
    model = models.find("vae").MODEL(*pair(), likelihood="gaussian", scale=SCALE)
    x = tf.constant(rows[2:])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.objective(x, tf.constant([0, 1]), training=True)["loss"])
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(np.isfinite(one).all() for one in gradients)
    outputs = model.decoder_outputs(tf.zeros((1, K)))
    terms = model.likelihood.component.log_probs(outputs, tf.where(tf.math.is_nan(x), 7.0, x))
    expected = np.where(np.isnan(x), 0, terms).sum(axis=1)
    np.testing.assert_allclose(model.likelihood.log_prob(outputs, x), expected, rtol=1e-6)


@pytest.mark.parametrize("name", tiers.some(
    sorted(likelihoods.NAMES - {"categorical", "mixed", "discretised_logistic"}), ("bernoulli", "student_t")))
def test_observation_models_of_what_was_seen(name):
    """Without gaps as the component; with a gap the term, the score and the information of the value are 0."""
    own = likelihoods.build(name, (3,))
    partial = Partial(own)
    factor = own.channels_factor
    output = tf.constant(RNG.normal(size=(4, 3 * factor)), tf.float32)
    y = tf.constant(RNG.integers(0, 2, (4, 3)), tf.float32)
    np.testing.assert_allclose(partial.log_prob(output, y), own.log_prob(output, y), rtol=2e-5)
    gaps = tf.where(tf.constant([[False, True, False]]), np.nan, y)
    terms = own.log_probs(output, y)
    np.testing.assert_allclose(partial.log_prob(output, gaps), terms[:, 0] + terms[:, 2], rtol=2e-5)
    for found, whole in zip(partial.score_and_fisher(output, gaps), own.score_and_fisher(output, y)):
        expected = np.array(whole).reshape(4, factor, 3)
        expected[:, :, 1] = 0
        np.testing.assert_allclose(found, expected.reshape(4, -1), rtol=1e-5)


TAKING = sorted(name for name, module in models.every().items() if module.MODEL.may_take_gaps)


@pytest.mark.parametrize("name", tiers.some(TAKING, ("pae", "vlae")))
def test_models_train_on_gaps_and_are_saved(name, rows, tmp_path):
    """Every model that may: fit, bounds or scores that are finite, and the same after loading."""
    x = np.tile(rows, (8, 1))
    encoder, decoder = pair()
    if name == "ensemble_vae":
        decoder = networks.StackedDecoder.stack([decoder, pair()[1]], name="decoder")
    model = models.find(name).MODEL(encoder, decoder)
    model.compile("adam", jit_compile=False)
    history = model.fit(x, epochs=2, batch_size=16, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert again.takes_gaps and likelihoods.takes_gaps(again.likelihood)
    for key, values in model.ood_scores(rows, (0, 1)).items() if "scores" in model.offers else ():
        assert np.isfinite(values).all(), key
        np.testing.assert_allclose(again.ood_scores(rows, (0, 1))[key], values, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(again(rows), model(rows), rtol=1e-5)


def test_infinity_is_no_gap(vae):
    x = np.zeros((2, D), np.float32)
    x[1, 0] = np.inf
    assert np.isfinite(vae.encode(x).mean()[0]).all() and np.isnan(vae.encode(x).mean()[1]).all()
    with pytest.raises(UserError, match="infinity, first in row 1"):
        vae.compile("adam")
        vae.fit(x)


def test_models_without_a_mask_say_so(rows):
    plain = models.find("vae").MODEL(*pair(missing=False))
    gaps = np.isnan(rows[2:]).any(axis=1)
    np.testing.assert_array_equal(np.isnan(plain.elbo(rows[2:], (0, 1))), gaps)
    with pytest.raises(UserError, match="was not trained on data with missing values"):
        plain.impute(rows)
    with pytest.raises(UserError, match="NaN or infinity.*missing"):
        plain.compile("adam")
        plain.fit(rows)
    with pytest.raises(UserError, match="LAE takes no data with missing values"):
        models.find("lae").MODEL(networks.build_encoder("mlp", (D,), latent_dim=K, deterministic=True, missing=True),
                                 pair()[1])
