"""vae: objectives against closed forms, and a linear decoder whose log p(x) is known exactly."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from battery import LATENT_DIM, build, images
from linear_vae import exact_log_prob, linear_model, set_exact_posterior

import pae_zoo
from pae_zoo.core.errors import UserError
from pae_zoo.models.parts import importance
from pae_zoo.models.parts.posteriors import DiagonalPosterior

tfd = tfp.distributions


def terms(model, seed=(1, 2), training=False):
    return {k: v.numpy() for k, v in model.objective(tf.constant(images(16)), seed, training).items()}


def test_plain_objective_is_the_negative_elbo():
    found = terms(build("vae"))
    np.testing.assert_allclose(found["loss"], -found["elbo"], rtol=1e-5)
    np.testing.assert_allclose(found["elbo"], -found["reconstruction"] - found["kl"], rtol=1e-5)


def test_analytic_kl_equals_tfp_and_the_mean_of_samples():
    model = build("vae")
    x = images(16)
    expected = tfd.kl_divergence(model.encode(x), model.prior())
    np.testing.assert_allclose(terms(model)["kl"], expected, rtol=1e-5, atol=1e-5)
    sampled = terms(build("vae", kl="mc", num_latent_samples=4000))["kl"]
    np.testing.assert_allclose(sampled, expected, atol=0.15)


@pytest.mark.parametrize("kl", ["analytic", "mc"])
def test_beta_weighs_the_kl(kl):
    found = terms(build("vae", beta=7.0, kl=kl))
    np.testing.assert_allclose(found["loss"], found["reconstruction"] + 7 * found["kl"], rtol=1e-4)


@pytest.mark.parametrize("step,capacity", [(0, 0.0), (50, 2.5), (100, 5.0), (1000, 5.0)])
def test_capacity_rises_linearly_and_stays(step, capacity):
    model = build("vae", beta=3.0, capacity=5.0, capacity_steps=100)
    model.step.assign(step)
    np.testing.assert_allclose(model.capacity_now(), capacity, rtol=1e-6)
    found = terms(model)
    # The absolute value is taken for each datum, not for the mean.
    np.testing.assert_allclose(found["loss"], found["reconstruction"] + 3 * np.abs(found["kl"] - capacity), rtol=1e-4)
    assert model.schedule_steps == 100


def test_free_bits_cost_nothing():
    found = terms(build("vae", free_bits=1000.0))
    np.testing.assert_allclose(found["loss"], found["reconstruction"], rtol=1e-6)
    found = terms(build("vae", free_bits=0.001, beta=2.0))
    expected = found["reconstruction"] + 2 * np.maximum(found["kl"] - 0.001, 0)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-4)


def test_capacity_and_free_bits_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        build("vae", free_bits=1.0, capacity=1.0)


@pytest.mark.parametrize("name", ["ae", "vae"])
@pytest.mark.parametrize("step,scale", [(0, 1.0), (100, 0.55), (200, 0.1), (10_000, 0.1)])
def test_scale_annealing(name, step, scale):
    model = build(name, likelihood="gaussian", scale=0.1, scale_annealing_steps=200)
    model.step.assign(step)
    np.testing.assert_allclose(model.scale_now(), scale, rtol=1e-5)


def test_scale_annealing_needs_a_constant_scale():
    with pytest.raises(ValueError, match="needs the likelihood 'gaussian'"):
        build("vae", scale_annealing_steps=10)


@pytest.mark.parametrize("kind", ["softplus", "exp"])
def test_posterior_std(kind):
    model = build("vae", posterior_std=kind)
    y = tf.constant(images(4))
    _, raw = model.encoder_outputs(y)
    expected = np.log1p(np.exp(raw)) + 1e-6 if kind == "softplus" else np.exp(np.clip(raw, -10, 10) / 2)
    np.testing.assert_allclose(model.posterior(y).stddev, expected, rtol=1e-5)


def test_the_density_of_a_diagonal_posterior_is_the_one_of_its_draws():
    rng = np.random.default_rng(0)
    mean, stddev = (tf.constant(v.astype(np.float32)) for v in (rng.normal(size=(4, 3)), rng.uniform(0.2, 2, (4, 3))))
    q, noise = DiagonalPosterior(mean, stddev), tf.constant(rng.normal(size=(5, 4, 3)).astype(np.float32))
    z, log_q = q.from_noise(noise)
    np.testing.assert_allclose(q.log_prob(z), log_q, rtol=1e-4, atol=1e-4)
    expected = tfd.MultivariateNormalDiag(mean, stddev).log_prob(z)
    np.testing.assert_allclose(q.log_prob(z), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(q.point(), mean)


# ---- bound and gradient --------------------------------------------------------------------------------


def test_the_importance_weighted_bound_of_one_sample_is_the_elbo():
    weighted, plain = (terms(build("vae", kl="mc", bound=bound)) for bound in ("iwae", "elbo"))
    np.testing.assert_allclose(weighted["loss"], plain["loss"], rtol=1e-5)
    np.testing.assert_allclose(weighted["elbo"], plain["elbo"], rtol=1e-5)  # what is logged is the plain bound


def test_the_importance_weighted_bound_rises_with_the_samples():
    means, x = [], tf.constant(np.repeat(images(16), 20, axis=0))  # the noise of equal rows differs
    for samples in (1, 5, 50):
        model = build("vae", kl="mc", bound="iwae", num_latent_samples=samples)
        means.append(-np.mean(model.objective(x, (1, 2), False)["loss"]))
    assert means[0] < means[1] - 0.1 and means[1] < means[2]
    # Many samples meet what evaluation estimates with as many.
    np.testing.assert_allclose(means[2], np.mean(model.log_likelihood(x, 50, (2, 3))), atol=0.5)


def encoder_gradient(model, x, seed):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model.objective(x, seed, training=True)["loss"])
    return np.concatenate([np.ravel(g) for g in tape.gradient(loss, model.encoder.trainable_variables)])


def test_sticking_the_landing_keeps_the_mean_of_the_gradient():
    x, count = tf.constant(images(8)), 4000
    means = {}
    for gradient in ("pathwise", "sticking_the_landing"):
        # Many samples of one objective are as good as many objectives.
        model = build("vae", kl="mc", gradient=gradient, num_latent_samples=count)
        means[gradient] = encoder_gradient(model, x, (1, 2))
    few = encoder_gradient(build("vae", kl="mc", num_latent_samples=1), x, (1, 2))
    size = np.linalg.norm(means["pathwise"])
    assert np.linalg.norm(means["pathwise"] - means["sticking_the_landing"]) < 0.03 * size
    assert np.linalg.norm(means["pathwise"] - few) > 0.1 * size


def test_sticking_the_landing_has_no_noise_where_q_is_exact():
    noise = {}
    for gradient in ("pathwise", "sticking_the_landing"):
        model, y = exact_model(kl="mc", gradient=gradient)
        noise[gradient] = np.abs(encoder_gradient(model, tf.constant(y), (3, 4))).max()
    assert noise["sticking_the_landing"] < 1e-3 < 1e-1 < noise["pathwise"]


@pytest.mark.parametrize("changes, words", [
    (dict(bound="iwae", beta=2.0), "no KL term to weigh"),
    (dict(bound="iwae", capacity=1.0), "no KL term to weigh"),
    (dict(bound="iwae", free_bits=1.0), "no KL term to weigh"),
    (dict(gradient="sticking_the_landing"), "Set kl='mc' or bound='iwae'"),
])
def test_settings_of_the_objective_that_exclude_each_other(changes, words):
    with pytest.raises(UserError, match=words):
        build("vae", **changes)


@pytest.mark.parametrize("changes", [dict(bound="vimco"), dict(gradient="score")])
def test_an_unknown_bound_or_gradient_is_refused(changes):
    model = build("vae", adapted=False)
    with pytest.raises(UserError, match="received 'vimco'|'score'"):
        pae_zoo.VAE(model.encoder, model.decoder, **changes)


# ---- linear-Gaussian oracle ----------------------------------------------------------------------------


def test_importance_sampling_meets_the_closed_form():
    sigma = 0.6
    model, weight, bias = linear_model(sigma)
    set_exact_posterior(model, weight, bias, sigma)
    generator = np.random.default_rng(1)
    x = (generator.normal(size=(8, len(weight))) @ weight + bias).astype(np.float32)
    x += sigma * generator.normal(size=x.shape).astype(np.float32)
    exact = exact_log_prob(x, weight, bias, sigma)
    found = model.importance_estimate(x, 20_000, (0, 1))
    np.testing.assert_allclose(found.log_likelihood, exact, atol=0.05)
    assert (found.elbo.numpy() <= exact + 0.05).all()
    assert (found.effective_sample_size.numpy() > 100).all()
    mean_elbo = np.mean([model.elbo(np.repeat(x, 50, axis=0), (0, i)).numpy().mean() for i in range(4)])
    assert mean_elbo < exact.mean()
    np.testing.assert_allclose(mean_elbo, found.elbo.numpy().mean(), atol=0.5)


def exact_model(sigma=0.5, **changes):
    """A model whose q is the exact posterior, which orthogonal columns make diagonal, and data x."""
    model, _, bias = linear_model(sigma, **changes)
    weight = np.linalg.qr(np.random.default_rng(3).normal(size=(7, LATENT_DIM)))[0].T * np.array([[1.0], [2.0], [0.5]])
    model.decoder.set_weights([weight, bias])
    set_exact_posterior(model, weight, bias, sigma)
    return model, np.random.default_rng(4).normal(size=(12, 7)).astype(np.float32)


def test_with_the_exact_posterior_every_weight_is_equal():
    # ELBO = IS = log p(x) for any S.
    model, x = exact_model(kl="mc")
    exact = exact_log_prob(x, *model.decoder.get_weights(), 0.5)
    np.testing.assert_allclose(model.elbo(x, (0, 5)), exact, atol=1e-3)
    for samples in (1, 100):
        found = model.importance_estimate(x, samples, (0, 1))
        np.testing.assert_allclose(found.log_likelihood, exact, atol=1e-3)
        np.testing.assert_allclose(found.effective_sample_size, samples, rtol=1e-3)


def test_importance_estimate_is_the_same_in_chunks():
    model, x = build("vae"), images(6)
    whole = model.importance_estimate(x, 50, (2, 3), chunk=50)
    parts = model.importance_estimate(x, 50, (2, 3), chunk=16)
    for a, b in zip(whole, parts):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_noise_of_a_datum_does_not_depend_on_the_batch():
    model, x = build("vae", num_latent_samples=3), images(6)
    few, many = (model.importance_estimate(part, 20, (2, 3)) for part in (x[:4], x))
    np.testing.assert_allclose(few.log_likelihood, many.log_likelihood[:4], rtol=1e-5)
    few, many = (model.objective(tf.constant(part), (2, 3), False)["elbo"] for part in (x[:4], x))
    np.testing.assert_allclose(few, many[:4], rtol=1e-5)


def test_importance_estimate_rises_with_samples():
    model, x = build("vae"), np.repeat(images(40), 20, axis=0)  # the noise of equal rows differs
    means = []
    for samples in (1, 10, 100):
        values = model.log_likelihood(x, samples, (1, samples)).numpy().reshape(40, 20).mean(0)
        means.append((np.mean(values), np.std(values) / np.sqrt(20)))
    assert means[0][0] < means[1][0] + 2 * means[0][1] and means[1][0] < means[2][0] + 2 * means[1][1]
    assert means[0][0] < means[2][0]


def test_one_sample_is_refused_below_one():
    with pytest.raises(ValueError, match="at least 1"):
        importance.estimate(lambda n: n, (2, 3), 0, (0, 1))


def test_predictive_moments_of_a_linear_decoder():
    model, weight, bias = linear_model(0.3)
    x = np.random.default_rng(5).normal(size=(3, 7)).astype(np.float32)
    found = model.predictive(x, 4000, (0, 1))
    q = model.encode(x)
    np.testing.assert_allclose(found["mean"], q.mean().numpy() @ weight + bias, atol=0.15)
    np.testing.assert_allclose(found["epistemic_variance"], q.variance().numpy() @ weight**2, rtol=0.15)
    np.testing.assert_allclose(found["aleatoric_variance"], 0.09, rtol=1e-4)


def test_draws_are_of_the_posterior_and_the_decoder():
    model, weight, bias = linear_model(0.3)
    x = np.random.default_rng(5).normal(size=(3, 7)).astype(np.float32)
    z, found = model.draw_codes(x, 4000, (0, 1)), model.draw_reconstructions(x, 4000, (0, 1))
    q = model.encode(x)
    np.testing.assert_allclose(tf.reduce_mean(z, axis=0), q.mean(), atol=0.1)
    np.testing.assert_allclose(tf.math.reduce_variance(z, axis=0), q.variance(), rtol=0.15)
    np.testing.assert_allclose(found, z.numpy() @ weight + bias, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model.predictive_log_prob(x, 9, (0, 1)), model.log_likelihood(x, 9, (0, 1)))


def test_densities_count_the_preprocessing():
    plain = build("vae", likelihood="gaussian", adapted=False)
    scaled = build("vae", likelihood="gaussian", preprocess=("scale",), adapted=False)
    x, seed = images(5), (1, 2)
    shifted = scaled.elbo(x, seed).numpy()  # x - 1/2 has the log determinant 0
    np.testing.assert_allclose(shifted, scaled.objective(tf.constant(x), seed, False)["elbo"], rtol=1e-5)
    logit = build("vae", likelihood="gaussian", preprocess=("dequantise", "logit"), adapted=False)
    y, log_det = logit.preprocess(x, (3, 4))
    assert (np.abs(log_det) > 1).all() and y.shape == x.shape
    value = logit.importance_estimate(x, 3, seed)
    assert np.isfinite(value.log_likelihood).all()
    assert np.isfinite(plain.elbo(x, seed)).all()
