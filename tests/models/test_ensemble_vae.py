"""ensemble_vae: who decodes what, densities of the mixture, members that agree on data and disagree elsewhere."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, LATENT_DIM, build, images

import pae_zoo
from pae_zoo import data, models, networks, serving
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.models.ensemble_vae import ASSIGNMENT

SEED = (4, 5)
DIMS, OUTPUTS = 2, 3


def affine(kernel, bias):
    net = keras.Sequential([keras.Input((DIMS,)), keras.layers.Dense(OUTPUTS)])
    net.set_weights([np.asarray(kernel, np.float32), np.asarray(bias, np.float32)])
    return net


def constant_encoder(std=1.0):
    """q(z|x) = N(0, std^2 I) for every x."""
    net = keras.Sequential([keras.Input((OUTPUTS,)), keras.layers.Dense(2 * DIMS)])
    net.set_weights([np.zeros((OUTPUTS, 2 * DIMS)), np.r_[np.zeros(DIMS), np.full(DIMS, 2 * math.log(std))]])
    return net


def affine_model(num=3, seed=0, **options):
    generator = np.random.default_rng(seed)
    members = [affine(generator.normal(size=(DIMS, OUTPUTS)), generator.normal(size=OUTPUTS)) for _ in range(num)]
    options = dict(likelihood="gaussian", scale=0.7, posterior_std="exp", **options)
    return pae_zoo.EnsembleVAE(constant_encoder(), members, **options), members


# ---- who decodes what ------------------------------------------------------------------------------------


def labelled(num, assignment):
    """A model whose member s gives s, whatever it decodes."""
    members = [affine(np.zeros((DIMS, OUTPUTS)), np.full(OUTPUTS, float(s))) for s in range(num)]
    return pae_zoo.EnsembleVAE(constant_encoder(), members, likelihood="gaussian", scale=1.0, assignment=assignment)


def decoded_by(model, z, seed):
    """Which member decoded each of z (L, n, K), read off log N(0; s, 1) of all outputs."""
    log_prob = model.reconstruction_log_prob(z, tf.zeros((z.shape[1], OUTPUTS)), seed, training=True)
    square = -2 * (np.asarray(log_prob) + 0.5 * OUTPUTS * math.log(2 * math.pi)) / OUTPUTS
    return np.round(np.sqrt(np.maximum(square, 0))).astype(int)


@pytest.mark.parametrize("batch, samples", [(6, 1), (7, 2), (2, 1)])
def test_split_gives_every_latent_one_member_evenly(batch, samples):
    num = 3
    model, z = labelled(num, "split"), tf.zeros((samples, batch, DIMS))
    times = np.zeros((samples, batch, num))
    draws = 300
    compiled = tf.function(lambda seed: model.reconstruction_log_prob(
        z, tf.zeros((batch, OUTPUTS)), seed, training=True), autograph=False)  # fmt: skip
    for draw in range(draws):
        square = -2 * (compiled(tf.constant([draw, 1])).numpy() + 0.5 * OUTPUTS * math.log(2 * math.pi)) / OUTPUTS
        members = np.round(np.sqrt(np.maximum(square, 0))).astype(int)
        counts = np.bincount(members.ravel(), minlength=num)
        assert counts.sum() == batch * samples and counts.max() <= -(-batch * samples // num)
        times += np.eye(num)[members]
    # Each latent falls to each member equally often, so that the expected gradient is that of all members' mean.
    assert np.abs(times / draws - 1 / num).max() < 5 * math.sqrt(1 / num / draws)


def test_per_batch_gives_one_member_everything():
    model, z = labelled(4, "per_batch"), tf.zeros((1, 5, DIMS))
    found = [decoded_by(model, z, (draw, 2)) for draw in range(40)]
    assert all(len(np.unique(one)) == 1 for one in found) and len(np.unique(found)) == 4


def test_all_takes_the_mean_over_members_as_validation_does():
    z, y = seeds.normal((1, 5, DIMS), SEED), seeds.normal((5, OUTPUTS), (1, 2))
    model, members = affine_model(assignment="all")
    expected = np.mean([model.likelihood.component.log_prob(net(z[0]), y) for net in members], axis=0)[None]
    np.testing.assert_allclose(model.reconstruction_log_prob(z, y, SEED, True), expected, rtol=1e-5)
    split, _ = affine_model()
    np.testing.assert_allclose(split.reconstruction_log_prob(z, y, SEED, False), expected, rtol=1e-5)


def test_the_expected_gradient_does_not_depend_on_the_assignment():
    x = images(7)

    def mean_gradient(assignment, draws):
        model = build("ensemble_vae", assignment=assignment, likelihood="gaussian")
        z, y = seeds.normal((1, 7, LATENT_DIM), SEED), tf.constant(x)

        @tf.function(autograph=False)
        def gradient(draw):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(model.reconstruction_log_prob(z, y, tf.stack([draw, 3]), True))
            return tape.gradient(loss, model.decoder.trainable_variables)

        return [np.mean(one, axis=0) for one in zip(*(gradient(tf.constant(draw)) for draw in range(draws)))]

    for split, every in zip(mean_gradient("split", 400), mean_gradient("all", 1)):
        assert np.abs(split - every).max() < 0.15 * np.abs(every).max()


def test_one_member_is_a_vae():
    encoder, decoder = constant_encoder(0.5), affine(np.ones((DIMS, OUTPUTS)), np.ones(OUTPUTS))
    options = dict(likelihood="gaussian", scale=0.7, posterior_std="exp", beta=0.3)
    plain = pae_zoo.VAE(encoder, decoder, **options)
    x = seeds.normal((5, OUTPUTS), SEED)
    for assignment in models.find("ensemble_vae").ASSIGNMENTS:
        model = pae_zoo.EnsembleVAE(encoder, decoder, assignment=assignment, **options)
        for training in (True, False):
            found, expected = (one.objective(x, SEED, training) for one in (model, plain))
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(model.elbo(x, SEED), plain.elbo(x, SEED), rtol=1e-5)
    assert seeds.stream(SEED, ASSIGNMENT).shape == (2,)


# ---- densities of the mixture ----------------------------------------------------------------------------


def test_likelihood_is_that_of_the_mixture():
    model, members = affine_model()
    x = seeds.normal((4, OUTPUTS), SEED)
    densities = []
    for net in members:
        kernel, bias = (tf.convert_to_tensor(w) for w in net.weights)
        covariance = tf.matmul(kernel, kernel, transpose_a=True) + 0.7**2 * tf.eye(OUTPUTS)
        residual = x - bias
        square = tf.reduce_sum(residual * tf.transpose(tf.linalg.solve(covariance, tf.transpose(residual))), axis=-1)
        densities.append(-0.5 * (square + tf.linalg.logdet(covariance) + OUTPUTS * math.log(2 * math.pi)))
    expected = tf.reduce_logsumexp(tf.stack(densities), axis=0) - math.log(3)
    found = tf.function(lambda: model.importance_estimate(x, 4096, SEED), autograph=False)()
    np.testing.assert_allclose(found.log_likelihood, expected, atol=0.1)
    assert np.all(found.elbo < found.log_likelihood)


def test_decode_is_a_mixture_over_members():
    model, members = affine_model(num=4)
    z, y = seeds.normal((5, DIMS), SEED), seeds.normal((5, OUTPUTS), (1, 2))
    outputs = np.stack([net(z) for net in members])
    distribution = model.decode(z)
    assert distribution.batch_shape == (5,) and distribution.event_shape == (OUTPUTS,)
    squares = np.square(y - outputs).sum(-1) / 0.49 + OUTPUTS * math.log(2 * math.pi * 0.49)
    np.testing.assert_allclose(distribution.log_prob(y), np.log(np.exp(-0.5 * squares).mean(0)), rtol=1e-4)
    np.testing.assert_allclose(distribution.mean(), outputs.mean(0), atol=1e-5)
    np.testing.assert_allclose(distribution.variance(), 0.49 + outputs.var(0), rtol=1e-4)
    for own, theirs in ((model.likelihood.mean, distribution.mean()), (model.likelihood.variance,
                                                                      distribution.variance())):
        np.testing.assert_allclose(own(model.decoder_outputs(z)), theirs, rtol=1e-4, atol=1e-5)
    draws = distribution.sample(4000, seed=SEED)
    np.testing.assert_allclose(np.mean(draws, axis=0), outputs.mean(0), atol=0.15)
    np.testing.assert_allclose(np.var(draws, axis=0), 0.49 + outputs.var(0), rtol=0.15)
    compiled = tf.function(lambda: model.decode(z).sample(3, seed=SEED), jit_compile=True, autograph=False)()
    np.testing.assert_allclose(compiled, distribution.sample(3, seed=SEED), atol=1e-5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian_decoder", "gaussian_learned", "gaussian_pixel"])
def test_means_of_members_are_those_of_the_observation_model(likelihood):
    model = build("ensemble_vae", likelihood=likelihood)
    z = seeds.normal((2, 4, LATENT_DIM), SEED)
    mean, members = model.mean_and_members(z[0])
    component = model.likelihood.component
    np.testing.assert_allclose(members, component.mean(model.decoder.members(z[0])), atol=1e-6)
    np.testing.assert_allclose(model.decode(z).mean()[0], mean, atol=1e-5)
    np.testing.assert_allclose(model.decode_mean(z[0]), np.clip(mean, 0, 1), atol=1e-5)
    np.testing.assert_allclose(model.decode_member(z[0], [0, 1, 2, 0])[1:3], [members[1, 1], members[2, 2]], atol=1e-6)
    np.testing.assert_allclose(model.decode_member(z[0], 2), members[2], atol=1e-6)
    np.testing.assert_allclose(model.decode_grid(z[0], 1)[1], np.std(members, axis=0), atol=1e-5)
    x = images(4)
    found = model.predictive(x, 5, SEED)
    codes = model.draw_codes(x, 5, SEED)
    every = component.mean(model.decoder_outputs(codes))
    np.testing.assert_allclose(found["mean"], np.mean(every, axis=(0, 1)), atol=1e-5)
    np.testing.assert_allclose(found["epistemic_variance"], np.var(every, axis=(0, 1)), atol=1e-5)
    model.measure(images(20))
    if likelihood == "gaussian_pixel":
        residual = images(20) - component.mean(model.decoder_outputs(model.point(images(20))))
        expected = np.maximum(np.sqrt(np.mean(np.square(residual), axis=(0, 1))), component.min_scale)
        np.testing.assert_allclose(component.scale, expected, rtol=1e-4)


def test_the_score_output_is_the_disagreement_at_the_code():
    model, x = build("ensemble_vae"), images(3)
    members = model.mean_and_members(model.point(model.preprocess(x)[0]))[1]
    np.testing.assert_allclose(model.ood_scores(x, SEED)["output"], np.std(members, axis=0).sum((1, 2, 3)), rtol=1e-4)


def test_members_are_served():
    model, z = build("ensemble_vae"), seeds.normal((2, LATENT_DIM), SEED)
    functions, _ = serving.trace(model, only=("decode_members",))
    found = functions["decode_members"](z)
    assert found["x"].shape == (2, 3, *EVENT_SHAPE)
    np.testing.assert_allclose(found["mean"], model.decode_mean(z), atol=1e-5)


# ---- building --------------------------------------------------------------------------------------------


def test_members_start_apart_and_another_run_passes_on_what_fits():
    model, other, plain = build("ensemble_vae"), build("ensemble_vae", seed=7), build("vae", seed=8)
    for weight in model.decoder.trainable_variables:
        if "kernel" in weight.name:
            assert np.abs(weight[0] - weight[1]).max() > 0.01
    before = model.decoder.get_weights()
    model.initialise_from(plain)
    np.testing.assert_array_equal(model.encoder.get_weights()[0], plain.encoder.get_weights()[0])
    for mine, was in zip(model.decoder.get_weights(), before):
        np.testing.assert_array_equal(mine, was)
    model.initialise_from(other)
    for mine, theirs in zip(model.decoder.get_weights(), other.decoder.get_weights()):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(UserError, match="decoder does not fit"):
        model.initialise_from(build("ensemble_vae", num_members=2))


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="split, per_batch, all"):
        affine_model(assignment="some")
    with pytest.raises(UserError, match="same layers"):
        nets = [networks.build_decoder("mlp", EVENT_SHAPE, 2, hidden_units=(n,)) for n in (4, 5)]
        encoder = networks.build_encoder("mlp", EVENT_SHAPE, 2, hidden_units=(4,))
        pae_zoo.EnsembleVAE(encoder, nets)


def test_convolutions_keep_xla_off_on_a_cpu():
    assert build("ensemble_vae").xla_pays
    nets = [keras.Sequential([keras.Input((2,)), keras.layers.Dense(36), keras.layers.Reshape(EVENT_SHAPE),
                              keras.layers.Conv2D(1, 3, padding="same")]) for _ in range(2)]  # fmt: skip
    model = pae_zoo.EnsembleVAE(networks.build_encoder("mlp", EVENT_SHAPE, 2, hidden_units=(4,)), nets)
    assert model.xla_pays == bool(tf.config.list_logical_devices("GPU"))


# ---- training --------------------------------------------------------------------------------------------


def check_members(model, x, most=0.05):
    """Members are equally good, and disagree more at three times the radius of the codes than on them."""
    found = model.findings()
    assert found["members/squared_error_spread"] < most, found
    codes = model.point(model.preprocess(x)[0])
    centre = tf.reduce_mean(codes, axis=0)
    far = centre + 3 * (codes - centre)
    on_data, away = (np.mean(model.decode_grid(z, 1)[1]) for z in (codes, far))
    assert away > 1.5 * on_data
    return found


def test_members_agree_on_data_and_disagree_elsewhere():
    digits = data.load("digits", classes=(0, 1, 4))
    params = dict(likelihood="gaussian", scale=0.2, hidden_units=(32, 16), latent_dim=2, posterior_std="exp", beta=0.5)
    model = build("ensemble_vae", event_shape=(8, 8, 1), **params)
    model.compile(keras.optimizers.Adam(5e-3, global_clipnorm=1.0), jit_compile=False)
    model.optimizer.build(model.trained_variables)
    x, rows = tf.constant(digits.train.x), np.random.default_rng(0).integers(0, len(digits.train.x), (600, 50))

    @tf.function(autograph=False)
    def train(rows):  # batches of 50 for 3 members
        tf.while_loop(lambda i: i < rows.shape[0], lambda i: (i + 1, model.update(tf.gather(x, rows[i])))[:1], (0,))

    train(tf.constant(rows))
    model.measure(digits.valid.x)
    check_members(model, digits.valid.x, most=0.1)  # 39 images and a short training


@pytest.mark.slow
@pytest.mark.data
def test_members_agree_on_three_classes_of_mnist(data_dir, tmp_path):
    from pae_zoo.main import main

    workdir, config = tmp_path / "run", "configs/ensemble_vae/mnist_3class_cpu.cfg"
    assert main([f"--flagfile={config}", "--max_steps=2000", f"--data_dir={data_dir}", f"--workdir={workdir}"]) == 0
    model = keras.saving.load_model(workdir / "model.keras")
    mnist = data.load("mnist", data_dir=data_dir, classes=(0, 5, 7), num_train=2400)
    model.measure(mnist.valid.x)
    found = check_members(model, mnist.valid.x)
    assert found["members/squared_error/0"] < 34  # 31.2 to 31.4 after 2000 steps in a probe of the specification
