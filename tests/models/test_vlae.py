"""vlae as published: exact on affine decoders, its density, gradients, options, robustness, what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from battery import LATENT_DIM, build, images
from tiers import some

from pae_zoo import data, laplace, likelihoods, models, networks
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import record
from pae_zoo.models.published.vlae import VLAEPublished

VALUES, SIGMA = 6, 0.4


def affine_vlae(**changes):
    """Returns a VLAE with an affine decoder of VALUES numbers: its posterior is exact."""
    initial = keras.initializers.RandomNormal(stddev=0.7, seed=3)
    encoder = keras.Sequential([keras.Input((VALUES,)), keras.layers.Dense(2 * LATENT_DIM, kernel_initializer=initial)])
    decoder = keras.Sequential([keras.Input((LATENT_DIM,)), keras.layers.Dense(VALUES, kernel_initializer=initial)])
    return VLAEPublished(encoder, decoder, likelihood=likelihoods.build("gaussian", (VALUES,), scale=SIGMA),
                        **{"num_updates": 1, "update_lr": 1.0, "kl": "mc", **changes})


def vectors(num=8, seed=0):
    return np.random.default_rng(seed).normal(size=(num, VALUES)).astype(np.float32)


def marginal(model, x):
    """Returns log N(x; b, W W^T + sigma^2 I), the exact log p(x) of an affine decoder."""
    kernel, bias = (v.numpy().astype(np.float64) for v in model.decoder.layers[-1].weights)
    covariance = kernel.T @ kernel + SIGMA**2 * np.eye(VALUES)
    residual = x - bias
    square = np.einsum("bi,ij,bj->b", residual, np.linalg.inv(covariance), residual)
    return -0.5 * (square + np.linalg.slogdet(covariance)[1] + VALUES * np.log(2 * np.pi))


def test_an_affine_decoder_makes_every_weight_equal_to_the_marginal():
    model, x = affine_vlae(), vectors()
    expected = marginal(model, x)
    for num_samples in (1, 100):
        found = model.importance_estimate(x, num_samples, (0, 1))
        np.testing.assert_allclose(found.log_likelihood, expected, atol=1e-3)
        np.testing.assert_allclose(found.elbo, expected, atol=1e-3)
        np.testing.assert_allclose(found.effective_sample_size, num_samples, rtol=1e-3)
    np.testing.assert_allclose(model.elbo(x, (4, 5)), expected, atol=1e-3)
    analytic = affine_vlae(kl="analytic", num_latent_samples=20_000)
    np.testing.assert_allclose(analytic.objective(tf.constant(x), (1, 2), False)["elbo"], expected, atol=0.05)


def test_sticking_the_landing_has_no_noise_where_the_posterior_is_exact():
    model, x = affine_vlae(gradient="sticking_the_landing", update_lr=0.999), tf.constant(vectors())

    def gradient(seed):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model.objective(x, seed, True)["loss"])
        return tape.gradient(loss, [v.value for v in model.encoder.trainable_variables])

    for one in gradient((1, 2)):
        assert np.abs(one).max() < 1e-4


def test_density_and_draws_are_those_of_the_gaussian():
    model, x = build("vlae_published"), images(3)
    posterior = model.posterior(tf.constant(x))
    noise = tf.constant(np.random.default_rng(0).normal(size=(200_000, 1, LATENT_DIM)).astype(np.float32))
    z, log_q = posterior.from_noise(tf.repeat(noise, 3, axis=1))
    precision = posterior.factor @ tf.linalg.matrix_transpose(posterior.factor)
    covariance = np.linalg.inv(precision)
    reference = tfp.distributions.MultivariateNormalTriL(posterior.mean, np.linalg.cholesky(covariance))
    np.testing.assert_allclose(log_q[:50], reference.log_prob(z[:50]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(posterior.log_prob(z[:50]), log_q[:50], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(posterior.distribution().log_prob(z[:50]), log_q[:50], rtol=1e-4, atol=1e-4)
    scale = np.sqrt(np.einsum("bii,bjj->bij", covariance, covariance))
    sample = np.einsum("sbi,sbj->bij", z - posterior.mean, z - posterior.mean) / len(z)
    assert np.abs((sample - covariance) / scale).max() < 0.05
    np.testing.assert_allclose(posterior.distribution().covariance(), covariance, rtol=1e-3, atol=1e-5)
    kl = tfp.distributions.kl_divergence(reference, tfp.distributions.MultivariateNormalTriL(
        np.zeros(LATENT_DIM, np.float32), np.eye(LATENT_DIM, dtype=np.float32)))
    np.testing.assert_allclose(posterior.kl_to_prior(), kl, rtol=1e-4, atol=1e-4)


def test_no_update_is_an_amortised_mean_with_the_decoders_covariance():
    model, x = build("vlae_published", num_updates=0), images(4)
    np.testing.assert_allclose(model.encode(x).mean(), model.encoder_outputs(tf.constant(x))[0], atol=1e-6)
    assert model.latent_path(x).shape == (1, 4, LATENT_DIM)
    for weight in model.decoder.weights:
        weight.assign(tf.zeros_like(weight))
    np.testing.assert_allclose(model.encode(x).covariance(), np.tile(np.eye(LATENT_DIM), (4, 1, 1)), atol=1e-6)
    np.testing.assert_allclose(model.latent_path(x, num_updates=1)[1], 0.5 * model.latent_path(x)[0], atol=1e-6)


def gradients(model, names, x=None, seed=(1, 2)):
    x = tf.constant(images(6)) if x is None else x
    variables = [v.value for name in names for v in getattr(model, name).trainable_variables]
    with tf.GradientTape() as tape:
        terms = model.objective(x, seed, training=True)
        loss = tf.reduce_mean(terms["loss"])
    return terms, [np.asarray(g) for g in tape.gradient(loss, variables)]


@pytest.mark.full
def test_full_steps_leave_the_encoder_no_gradient():
    for schedule in ("harmonic", "constant"):
        model = build("vlae_published", update_lr=1.0, update_schedule=schedule)
        assert max(np.abs(g).max() for g in gradients(model, ["encoder"])[1]) < 1e-3
        model = build("vlae_published", update_lr=0.5, update_schedule=schedule)
        assert max(np.abs(g).max() for g in gradients(model, ["encoder"])[1]) > 1e-2


def test_a_detached_search_keeps_value_and_the_encoders_gradient():
    (full, mine), (detached, theirs) = (
        gradients(build("vlae_published", search_gradient=kind), ["encoder"]) for kind in ("full", "detached"))
    np.testing.assert_allclose(full["loss"], detached["loss"], rtol=1e-5)
    for one, other in zip(mine, theirs):  # a relu decoder with a Gaussian likelihood is affine between its kinks
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    one, other = (gradients(build("vlae_published", search_gradient=kind), ["decoder"])[1]
                  for kind in ("full", "detached"))
    assert max(np.abs(a - b).max() for a, b in zip(one, other)) > 1e-3


@pytest.mark.parametrize("search", some(
    [dict(), dict(search="cg"), dict(search="cg", cg_precondition=False)], [dict(), dict(search="cg")]))
def test_the_implicit_gradient_is_the_full_one_of_an_affine_decoder(search):
    settings = dict(num_updates=3, update_lr=0.5, cg_iterations=LATENT_DIM + 1)
    x = tf.constant(vectors())
    (one, mine), (two, theirs) = (
        gradients(affine_vlae(**settings, **changes), ["encoder", "decoder"], x)
        for changes in (dict(), dict(search_gradient="implicit", **search)))
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-4, atol=1e-3)
    for a, b in zip(mine, theirs):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    detached = gradients(affine_vlae(**settings, search_gradient="detached"), ["decoder"], x)[1]
    assert max(np.abs(a - b).max() for a, b in zip(detached, theirs[-2:])) > 1e-2


HELD = dict(search_gradient="held", search="chord", update_schedule="backtracking", update_lr=1.0)


def test_a_held_posterior_gives_the_decoder_the_gradient_of_the_marginal_and_the_encoder_that_of_the_joint():
    x = tf.constant(vectors())
    model = affine_vlae(**HELD, num_latent_samples=40_000)
    found = gradients(model, ["encoder", "decoder"], x)[1]
    kernel, bias = model.decoder.layers[-1].weights
    with tf.GradientTape(persistent=True) as tape:
        covariance = tf.matmul(kernel, kernel, transpose_a=True) + SIGMA**2 * tf.eye(VALUES)
        solved = tf.linalg.solve(covariance, tf.transpose(x - bias))
        square = tf.reduce_sum(tf.transpose(x - bias) * solved, axis=0)
        marginal = 0.5 * tf.reduce_mean(square + tf.linalg.logdet(covariance))
        z = model.encoder_outputs(x, True)[0]
        joint = tf.reduce_mean(0.5 * tf.reduce_sum(z**2, -1) - model.likelihood.log_prob(model.decoder_outputs(z), x))
    for mine, theirs in zip(found[-2:], tape.gradient(marginal, [kernel.value, bias.value])):
        np.testing.assert_allclose(mine, theirs, atol=0.03 * np.abs(theirs).max())
    for mine, theirs in zip(found[:2], tape.gradient(joint, [v.value for v in model.encoder.trainable_variables])):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)


def test_a_held_search_tests_as_any_other():
    x = images(6)
    model, other = (build("vlae_published", **{**HELD, "search_gradient": kind}) for kind in ("held", "full"))
    np.testing.assert_allclose(model.encode(x).covariance(), other.encode(x).covariance(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.elbo(x, (1, 2)), other.elbo(x, (1, 2)), rtol=1e-5)


def test_warmup_trains_as_vae_and_then_as_itself():
    x, model = tf.constant(images(6)), build("vlae_published", **HELD, warmup_steps=2)
    plain, other = build("vae"), build("vlae_published", **HELD)
    for one in (plain, other):
        for name in ("encoder", "decoder", "likelihood"):
            getattr(one, name).set_weights(getattr(model, name).get_weights())
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    for step, (loss, expected) in enumerate(zip(train(model, x, 4, batch=6), (plain, plain, other, other))):
        terms = expected.objective(x, (model.seed, step), True)
        np.testing.assert_allclose(loss, tf.reduce_mean(terms["loss"]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.encode(x).mean(), other.encode(x).mean(), rtol=1e-5, atol=1e-5)
    assert model.schedule_steps == 2


@pytest.mark.parametrize("changes", some(
    [dict(search_gradient="implicit"), dict(search_gradient="detached"), dict(search="cg", search_gradient="implicit"),
     HELD], [dict(search_gradient="implicit"), HELD]))
def test_two_thousand_steps_on_binary_images_stay_sound(changes):
    x = (np.kron(data.load("digits").train.x, np.ones((1, 2, 2, 1), np.float32)) > 0.5).astype(np.float32)
    encoder = networks.build_encoder("vlae", (16, 16, 1), 4, hidden_units=(32, 32))
    decoder = networks.build_decoder("vlae", (16, 16, 1), 4, hidden_units=(32, 32))
    model = VLAEPublished(encoder, decoder, likelihood="bernoulli", num_updates=2, kl="mc", posterior_std="exp",
                         **changes)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    losses = train(model, x, 2000)
    assert np.mean(losses[-100:]) < np.mean(losses[400:500]) < np.mean(losses[:100])
    assert np.linalg.norm(model.encode(x).mean(), axis=1).max() < 30


def train(model, x, steps, batch=16):
    """Returns the losses of training steps on batches of x in turn, in one compiled loop."""
    model.build_training()

    @tf.function
    def run(x):
        losses = tf.TensorArray(tf.float32, steps)
        for step in tf.range(steps):
            losses = losses.write(step, model.update(tf.roll(x, -step * batch, axis=0)[:batch]))
        return losses.stack()

    return run(tf.constant(x)).numpy()


@pytest.mark.parametrize("changes", some(
    [dict(), dict(gram=False), dict(likelihood="bernoulli"), dict(search="cg")], [dict()]))
def test_gradients_of_the_loss_meet_finite_differences(changes):
    model, x = build("vlae_published", activation="tanh", **changes), tf.constant(images(6))  # no kinks to step over
    found = gradients(model, ["encoder", "decoder"])[1]
    variables = [v for name in ("encoder", "decoder") for v in getattr(model, name).trainable_variables]
    generator = np.random.default_rng(0)
    directions = [generator.normal(size=v.shape).astype(np.float32) for v in variables]
    along = sum(np.sum(g * d) for g, d in zip(found, directions))
    start, step, values = [v.numpy() for v in variables], 1e-3, []
    for sign in (1, -1):
        for v, s, d in zip(variables, start, directions):
            v.assign(s + sign * step * d)
        values.append(float(tf.reduce_mean(tf.cast(model.objective(x, (1, 2), True)["loss"], tf.float64))))
    np.testing.assert_allclose(along, (values[0] - values[1]) / (2 * step), rtol=2e-2, atol=2e-2)


LOW_RANK = dict(covariance="low_rank", rank=LATENT_DIM, kl="analytic")


@pytest.mark.parametrize("changes", some([
    dict(gram=False), dict(linearisation="forward"), dict(linearisation="reverse"), dict(algebra="float64"), LOW_RANK,
], [dict(gram=False), LOW_RANK]))
def test_options_that_change_no_number(changes):
    x = images(6)
    model, other = build("vlae_published"), build("vlae_published", **changes)
    np.testing.assert_allclose(model.encode(x).mean(), other.encode(x).mean(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.encode(x).covariance(), other.encode(x).covariance(), rtol=1e-3, atol=1e-5)
    if changes.get("covariance") != "low_rank":  # another root of the same covariance maps noise elsewhere
        (one, mine), (two, theirs) = (gradients(m, ["encoder", "decoder"]) for m in (model, other))
        np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-4, atol=1e-3)
        for a, b in zip(mine, theirs):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3)


def test_the_fisher_floor_adds_to_the_precision():
    x = images(4)
    plain, floored = (build("vlae_published", likelihood="bernoulli", num_updates=0, fisher_floor=f)
                      for f in (0.0, 0.5))
    rows = laplace.linearise(plain.decoder, plain.latent_path(x)[0])[1]
    found = np.linalg.inv(floored.encode(x).covariance()) - np.linalg.inv(plain.encode(x).covariance())
    np.testing.assert_allclose(found, 0.5 * rows @ tf.linalg.matrix_transpose(rows), rtol=1e-3, atol=1e-3)


def test_forms_of_the_covariance():
    x = images(5)
    full = build("vlae_published").encode(x).covariance()
    precision = np.linalg.inv(full)
    diagonal = build("vlae_published", covariance="diag").encode(x).variance()
    np.testing.assert_allclose(diagonal, 1 / np.einsum("bii->bi", precision), rtol=1e-3)
    values, axes = np.linalg.eigh(precision - np.eye(LATENT_DIM))
    values[:, :-1] = 0  # the largest stays
    expected = np.linalg.inv(np.eye(LATENT_DIM) + axes * values[:, None] @ axes.transpose(0, 2, 1))
    np.testing.assert_allclose(build("vlae_published", covariance="low_rank", rank=1).encode(x).covariance(), expected,
                               rtol=1e-3, atol=1e-4)


def test_matrix_free_training_agrees_on_average_with_the_full_covariance():
    settings = dict(num_latent_samples=4000, kl="mc", hidden_units=(12, 8))
    full = build("vlae_published", **settings)
    free = build("vlae_published", covariance="matrix_free", cg_iterations=8, lanczos_iterations=6, **settings)
    x = tf.constant(images(4))
    mine, theirs = (model.objective(x, (1, 2), True) for model in (full, free))
    np.testing.assert_allclose(mine["kl"], theirs["kl"], atol=0.15)
    np.testing.assert_allclose(full.encode(x).covariance(), free.encode(x).covariance(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(full.importance_estimate(x, 16, (3, 4)).log_likelihood,
                               free.importance_estimate(x, 16, (3, 4)).log_likelihood, rtol=1e-3, atol=1e-2)


@pytest.mark.full
def test_the_path_rises_and_can_be_made_longer():
    model, x = build("vlae_published"), images(64)
    model.compile("adam", jit_compile=False)
    model.fit(x, epochs=6, batch_size=16, verbose=0)
    path = model.latent_path(x, num_updates=8)
    assert path.shape == (9, 64, LATENT_DIM)
    np.testing.assert_allclose(path[:3], model.latent_path(x), atol=1e-5)
    np.testing.assert_allclose(path[2], model.encode(x).mean(), atol=1e-5)
    joint = model.likelihood.log_prob(model.decoder_outputs(path), tf.constant(x)) + model.log_prob_latent(path)
    assert np.all(np.diff(tf.reduce_mean(joint, axis=1)) > 0)
    assert np.mean(joint[8] > joint[0]) > 0.8


def test_estimates_rise_with_samples_and_do_not_depend_on_chunks():
    model, x = build("vlae_published", num_updates=0, activation="tanh"), images(16)
    for weight in model.decoder.weights:
        weight.assign(3 * weight)  # far from affine, so that the proposal is poor
    repeats = [[float(tf.reduce_mean(model.importance_estimate(x, s, (r, s)).log_likelihood)) for r in range(12)]
               for s in (1, 10, 100)]
    means = np.mean(repeats, axis=1)
    errors = np.std(repeats, axis=1) / np.sqrt(12)
    assert means[0] <= means[1] + 2 * errors[0] and means[1] <= means[2] + 2 * errors[1] and means[0] < means[2]
    whole, parts = (model.importance_estimate(x, 64, (5, 6), chunk=chunk) for chunk in (64, 16))
    np.testing.assert_allclose(whole.log_likelihood, parts.log_likelihood, rtol=1e-4, atol=1e-4)
    one = model.importance_estimate(x, 1, (5, 6))
    np.testing.assert_allclose(one.log_likelihood, one.elbo, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("algebra", ["float32", "float64"])
def test_sharp_likelihoods_stay_finite(algebra):
    size = 50
    decoder = networks.build_decoder("vlae", (6, 6, 1), size, hidden_units=(64, 64))
    encoder = networks.build_encoder("vlae", (6, 6, 1), size, hidden_units=(64, 64))
    model = VLAEPublished(encoder, decoder, kl="mc", algebra=algebra)
    x = tf.constant(images(8))
    y, _ = model.preprocess(x)
    norm = np.linalg.norm(model.system(y).at(tf.zeros((8, size))).gram, 2, axis=(1, 2)).max()
    model.likelihood.log_variance.assign(tf.math.log(norm / 1e6))  # beta |J|^2 = 1e6 (the scale was 1)
    assert float(model.likelihood.log_variance) > likelihoods.MIN_LOG_VARIANCE
    terms, found = gradients(model, ["encoder", "decoder"], x)
    assert all(np.isfinite(value).all() for value in (*terms.values(), *found))
    posterior = model.posterior(y)
    precision = model.system(y).at(posterior.mean).gram.numpy().astype(np.float64) + np.eye(size)
    noise = tf.constant(np.random.default_rng(1).normal(size=(8, size)).astype(np.float32))
    z, log_q = posterior.from_noise(noise)
    shift = (z - posterior.mean).numpy().astype(np.float64)
    expected = (0.5 * np.linalg.slogdet(precision)[1] - 0.5 * size * np.log(2 * np.pi)
                - 0.5 * np.sum(noise.numpy() ** 2, axis=1))
    np.testing.assert_allclose(log_q, expected, atol=0.1)
    assert np.isfinite(shift).all()


def test_precisions_that_lost_their_definiteness_are_counted(monkeypatch):
    model, x = build("vlae_published"), tf.constant(images(4))
    assert not np.any(model.objective(x, (1, 2), True)["jitter"])
    plain = laplace.GramSystem.at

    def broken(self, mu):
        gram, gradient = plain(self, mu)
        shift = tf.linalg.eigvalsh(gram)[:, 0] + 1.001  # the smallest eigenvalue of the precision becomes -0.001
        lost = tf.constant([1.0, 0.0, 0.0, 0.0])
        return laplace.Local(gram - (lost * shift)[:, None, None] * tf.eye(LATENT_DIM), gradient)

    monkeypatch.setattr(laplace.GramSystem, "at", broken)
    terms, found = gradients(model, ["encoder", "decoder"], x)
    np.testing.assert_array_equal(terms["jitter"], [1, 0, 0, 0])
    assert np.isfinite(terms["loss"]).all() and all(np.isfinite(gradient).all() for gradient in found)


@pytest.mark.parametrize("changes,message", [
    (dict(num_updates=-1), "num_updates"), (dict(update_lr=0.0), "update_lr"), (dict(update_lr=1.1), "update_lr"),
    (dict(covariance="round"), "covariance"), (dict(covariance="low_rank", rank=99), "rank=99 must lie between 1 and"),
    (dict(covariance="matrix_free"), "set kl='mc'"),
    (dict(covariance="matrix_free", kl="mc", search_gradient="implicit"), "Take 'full' or 'detached'"),
    (dict(search_gradient="half"), "search_gradient"),
    (dict(search_gradient="held", num_updates=0), "received 0, 'full' and 'elbo'"),
    (dict(search_gradient="held", covariance="diag"), "received 2, 'diag' and 'elbo'"),
    (dict(search_gradient="held", bound="iwae"), "received 2, 'full' and 'iwae'"),
    (dict(latent_dim=4000, hidden_units=(4000, 4000), batch_size=4000), "GiB of Jacobians; .*matrix_free"),
])  # fmt: skip
def test_bad_settings_are_refused_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        if "latent_dim" in changes:
            from pae_zoo.laplace import memory

            small = build("vlae_published").decoder
            needed = memory.step_bytes(small, 10**6, 4000, 5, explicit=True)
            memory.check(needed, "Take --covariance=matrix_free.")
        else:
            build("vlae_published", **changes)
    assert "\n" not in str(caught.value)


def test_bernoulli_on_data_outside_the_unit_interval_is_refused():
    model = build("vlae_published", likelihood="bernoulli", adapted=False)
    with pytest.raises(UserError, match=r"takes values in \[0, 1\]; the data reach from 0 to 3"):
        model.adapt(3 * np.linspace(0, 1, 10 * 36, dtype=np.float32).reshape(10, 6, 6, 1))


@pytest.mark.full
def test_convolutional_decoders_train():
    flags = dict(encoder="conv", decoder="conv", num_filters=2, num_updates=1)
    model = build("vlae_published", event_shape=(8, 8, 1), **flags)
    model.compile("adam", jit_compile=False)
    x = images(32, event_shape=(8, 8, 1))
    losses = model.fit(x, epochs=2, batch_size=16, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[1] < losses[0]
    assert model.encode(x).covariance().shape == (32, LATENT_DIM, LATENT_DIM)
    assert np.abs(model.encode(x).covariance()[0] - model.encode(x).covariance()[1]).max() > 0


@pytest.fixture(scope="module")
def real(request):
    """Fashion-MNIST and one epoch of it for a vae and vlaes of T = 0, 1, 4, at H = 128, K = 16."""
    import os

    folder = os.environ.get("PAE_ZOO_DATA", "")
    if not folder:
        pytest.skip("PAE_ZOO_DATA is not set")
    x = data.load("fashion_mnist", data_dir=folder).train.x
    found = {}
    for name, changes in {"vae": {}, **{f"vlae{t}": {"num_updates": t} for t in (0, 1, 4)}}.items():
        module = models.find(name.rstrip("014"))
        params = record.make(
            model=name.rstrip("014"), encoder="vlae", decoder="vlae", hidden_units=(128, 128), latent_dim=16, kl="mc",
            preprocess=("centre",), posterior_std="exp", learning_rate=5e-4, adam_epsilon=1e-8, **changes)
        model = module.MODEL.from_hparams(params, x.shape[1:], 1)
        model.compile(keras.optimizers.Adam(5e-4, epsilon=1e-8), jit_compile=False)
        model.fit(x, epochs=1, batch_size=128, verbose=0)
        found[name] = model
    return found, data.load("fashion_mnist", data_dir=folder).test.x[:500]


@pytest.mark.full
@pytest.mark.data
def test_one_epoch_orders_the_models(real):
    found, x = real
    bounds, likelihood = {}, {}
    for name, model in found.items():
        estimate = tf.function(model.importance_estimate)(tf.constant(x / 255.0, tf.float32), 100, (0, 1))
        bounds[name], likelihood[name] = (float(tf.reduce_mean(v)) for v in (estimate.elbo, estimate.log_likelihood))
    assert bounds["vlae4"] > bounds["vae"] + 5 and likelihood["vlae4"] > likelihood["vae"] + 5
    assert bounds["vlae4"] > bounds["vlae1"] - 2 and bounds["vlae1"] > bounds["vlae0"] - 2
    assert likelihood["vlae4"] - bounds["vlae4"] < likelihood["vae"] - bounds["vae"]


@pytest.mark.full
@pytest.mark.data
def test_updates_raise_the_joint_of_a_trained_model(real):
    model, x = real[0]["vlae4"], tf.constant(real[1] / 255.0, tf.float32)
    y, _ = model.preprocess(x)
    path = model.latent_path(x, num_updates=8)
    joint = model.likelihood.log_prob(model.decoder_outputs(path), y) + model.log_prob_latent(path)
    assert np.all(np.diff(tf.reduce_mean(joint, axis=1)) > 0)
    assert np.mean(joint[4] > joint[0]) > 0.95 and np.mean(joint[8] > joint[0]) > 0.95
    errors = tf.reduce_sum((model.likelihood.mean(model.decoder_outputs(path)) - y) ** 2, axis=[2, 3, 4])
    assert tf.reduce_mean(errors[4]) < tf.reduce_mean(errors[0])
