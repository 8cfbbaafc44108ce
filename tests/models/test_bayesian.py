"""Models that draw networks: streamed moments, dropout at prediction, ensembles and their alignment."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, LATENT_DIM, build, hparams, images

import pae_zoo
from pae_zoo import networks
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.models import bayesian
from pae_zoo.models.deep_ensemble_ae import procrustes
from pae_zoo.models.parts import builder, weights

NAMES = ("mcdropout_ae", "deep_ensemble_ae", "bbb_ae")
SEED = (4, 5)


@pytest.fixture(scope="module")
def built():
    return {name: build(name, likelihood="gaussian", scale=1.0) for name in NAMES}


def state(model):
    return [np.array(v) for v in model.variables]


# ---- weights in the place of variables -----------------------------------------------------------------


@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_replaced_weights_give_gradients_and_leave_the_network_alone(jit_compile):
    net = networks.build_encoder("mlp", (5,), 2, hidden_units=(4,), deterministic=True)
    x = tf.constant(np.random.default_rng(0).normal(size=(3, 5)), tf.float32)
    means, stds = [tf.Variable(w) for w in net.trainable_weights], [tf.Variable(0.1 + 0 * w) for w in net.get_weights()]
    before = net.get_weights()

    def loss_and_gradients(seed):
        with tf.GradientTape() as tape:
            with weights.replaced(net.trainable_weights, weights.drawn(means, stds, seed)):
                loss = tf.reduce_sum(net(x) ** 2)
        return loss, tape.gradient(loss, [*means, *stds])

    if jit_compile is not None:
        loss_and_gradients = tf.function(loss_and_gradients, jit_compile=jit_compile, autograph=False)
    loss, gradients = loss_and_gradients(tf.constant(SEED))
    assert all(np.any(g) for g in gradients)
    values = weights.drawn(means, stds, SEED)
    other = keras.models.clone_model(net)
    other.set_weights(values)
    np.testing.assert_allclose(loss, tf.reduce_sum(other(x) ** 2), rtol=1e-5)
    for mine, theirs in zip(net.get_weights(), before):
        np.testing.assert_array_equal(mine, theirs)


def test_drawn_weights_have_the_moments_asked_for():
    mean, std = tf.fill([40_000], 2.0), tf.fill([40_000], 0.5)
    first, second = weights.drawn([mean, mean], [std, std], SEED)
    assert abs(np.mean(first) - 2) < 0.01 and abs(np.std(first) - 0.5) < 0.01
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert weights.drawn([tf.zeros([2], tf.float64)], [tf.ones([2], tf.float64)], SEED)[0].dtype == tf.float64


def test_state_that_is_asked_for_is_kept():
    layer = keras.layers.BatchNormalization()
    x = tf.constant(np.random.default_rng(0).normal(3.0, 1.0, size=(8, 2)), tf.float32)
    layer.build(x.shape)
    with weights.replaced(layer.trainable_weights, [2.0 * w.value for w in layer.trainable_weights]):
        layer(x, training=True)
    assert not np.any(layer.moving_mean)
    with weights.replaced([], [], state=layer.non_trainable_weights):
        layer(x, training=True)
    assert np.all(layer.moving_mean.numpy() > 0)


# ---- what all of them share ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_streamed_moments_are_those_of_the_draws(built, name):
    model, x = built[name], images(5)
    num = model.num_networks(6)
    z, outputs = model.draw(tf.constant(x), num, SEED)
    outputs = outputs.numpy().astype(np.float64)
    found = model.predictive(x, 6, SEED)
    np.testing.assert_allclose(found["mean"], outputs.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["epistemic_variance"], outputs.var(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["aleatoric_variance"], 1.0)
    np.testing.assert_allclose(found["latent_mean"], np.mean(z, axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["latent_variance"], np.var(z, axis=0), rtol=1e-4, atol=1e-6)
    log_prob = -0.5 * ((x - outputs) ** 2).sum(axis=(2, 3, 4)) - 18 * np.log(2 * np.pi)
    np.testing.assert_allclose(model.predictive_log_prob(x, 6, SEED), np.log(np.exp(log_prob).mean(axis=0)), rtol=1e-4)
    scores = model.ood_scores(x, SEED)
    if model.num_networks(4) == num:  # an ensemble has the same networks whatever is asked for
        np.testing.assert_allclose(scores["likelihood"], -log_prob.mean(axis=0), rtol=1e-4)
        np.testing.assert_allclose(scores["output"], outputs.std(axis=0).sum(axis=(1, 2, 3)), rtol=1e-3)
        np.testing.assert_allclose(scores["latent"], np.std(z, axis=0).sum(axis=-1), rtol=1e-3)
    np.testing.assert_allclose(model.draw_codes(x, num, SEED), z)
    np.testing.assert_allclose(model.draw_reconstructions(x, num, SEED), np.clip(outputs, 0, 1), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_repeat_and_leave_no_trace(built, name):
    model, x = built[name], images(4)
    before = state(model)
    z = model.codes(x)
    calls = {
        "predictive": lambda seed: model.predictive(x, 3, seed)["epistemic_variance"],
        "codes": lambda seed: model.draw_codes(x, 3, seed),
        "reconstructions": lambda seed: model.draw_reconstructions(x, 3, seed),
        "density": lambda seed: model.predictive_log_prob(x, 3, seed),
        "scores": lambda seed: model.ood_scores(x, seed)["output"],
        "grid": lambda seed: model.decode_grid(z, 3, seed)[1],
    }
    for what, call in calls.items():
        first = call(SEED)
        np.testing.assert_array_equal(first, call(SEED), err_msg=what)
        assert np.any(first != call((4, 6))) == (name != "deep_ensemble_ae"), what
    for mine, theirs in zip(state(model), before):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_networks_are_the_seeds_whatever_the_data(built, name):
    model, x = built[name], images(6)
    all_data = model.draw_codes(x, 3, SEED)
    if model.draws_are_shared:
        np.testing.assert_allclose(model.draw_codes(x[4:], 3, SEED), all_data[:, 4:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.draw_codes(x[:2], 3, SEED), all_data[:, :2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.draw_codes(x, 2, SEED), all_data[:2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_typicality_is_the_distance_from_held_out_data(name):
    model, x = build(name), images(30, seed=2)
    scores = model.ood_scores(x, SEED)
    np.testing.assert_allclose(scores["typicality"], np.abs(scores["likelihood"]), rtol=1e-5)
    model.measure(x, images(40), batch_size=16)
    again = model.ood_scores(x, SEED)
    np.testing.assert_allclose(model.typical, np.mean(again["likelihood"]), rtol=0.2)
    np.testing.assert_allclose(again["typicality"], np.abs(again["likelihood"] - model.typical), rtol=1e-4, atol=1e-3)


def test_a_density_of_x_counts_the_preprocessing():
    model = build("mcdropout_ae", likelihood="gaussian", preprocess=("dequantise", "logit"))
    x = images(3)
    y, log_det = model.preprocess(x, seeds.stream(SEED, bayesian.PREPROCESS))
    inside = model.moments(y, 4, tf.constant(SEED))["log_mean_prob"]
    np.testing.assert_allclose(model.predictive_log_prob(x, 4, SEED), inside + log_det, rtol=1e-5)
    assert np.abs(log_det).min() > 1


def test_no_network_is_refused(built):
    for name in NAMES:
        with pytest.raises(ValueError, match="at least 1"):
            built[name].predictive(images(1), 0, SEED)


# ---- dropout -------------------------------------------------------------------------------------------


def test_dropout_at_prediction_fades_with_its_rate():
    x, stds = images(20), []
    for rate in (0.3, 0.03, 0.003):
        model = build("mcdropout_ae", dropout_rate=rate, hidden_units=(64, 64))
        stds.append(float(tf.reduce_mean(tf.sqrt(model.predictive(x, 20, SEED)["epistemic_variance"]))))
    assert stds[0] > 2 * stds[1] > 4 * stds[2] > 0
    np.testing.assert_allclose(model(x), np.clip(model.decoder(model.encoder(x)), 0, 1), atol=1e-6)


def test_masks_differ_between_data(built):
    x = np.repeat(images(1), 4, axis=0)
    codes = built["mcdropout_ae"].draw_codes(x, 1, SEED)[0]
    assert len(np.unique(np.asarray(codes), axis=0)) > 1


def test_dropout_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="dropout_rate"):
        build("mcdropout_ae", dropout_rate=0.0)
    chain = [keras.Input(EVENT_SHAPE), keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(2)]
    decoder = networks.build_decoder("mlp", EVENT_SHAPE, 2, hidden_units=(4,))
    with pytest.raises(UserError, match="hidden state"):
        pae_zoo.MCDropoutAE(keras.Sequential(chain), decoder)


def test_nothing_but_dropout_is_as_in_training():
    layers = [networks.Dropout(0.5, seed=(1, 2)), keras.layers.BatchNormalization()]
    net = keras.Sequential([keras.Input((3,)), *layers])
    with networks.dropout_noise(SEED, always=True):
        found = net(tf.ones((40, 3))).numpy()
    assert set(np.round(np.unique(found), 2)) == {0.0, 2.0} and not np.any(layers[1].moving_mean)
    assert int(layers[0].count) == 0


# ---- ensembles -----------------------------------------------------------------------------------------


def ensemble_of_equals():
    model = build("deep_ensemble_ae", num_members=3)
    for mine, theirs in zip(model.members, [model.encoder, model.decoder] * 2):
        mine.set_weights(theirs.get_weights())
    return model


def test_members_that_are_equal_have_no_spread():
    model, x = ensemble_of_equals(), images(5)
    found = model.predictive(x, 3, SEED)
    assert not np.any(found["epistemic_variance"]) and not np.any(found["latent_variance"])
    np.testing.assert_array_equal(model.ood_scores(x, SEED)["output"], 0)


def test_members_train_as_they_would_alone():
    x = tf.constant(images(32))
    flags = dict(likelihood="gaussian", scale=0.5)
    together = build("deep_ensemble_ae", **flags)
    networks_alone = builder.parts(hparams("deep_ensemble_ae"), EVENT_SHAPE, member=1, codes_only=True)[:2]
    alone = pae_zoo.AE(*networks_alone, seed=3, **flags)
    for model in (together, alone):
        model.compile("adam", jit_compile=False)
        for _ in range(3):
            model.update(x)
    assert np.abs(together.encoder.get_weights()[0] - together.members[0].get_weights()[0]).max() > 0.01
    mine = [*together.members[0].get_weights(), *together.members[1].get_weights()]
    for value, theirs in zip(mine, [*alone.encoder.get_weights(), *alone.decoder.get_weights()]):
        np.testing.assert_allclose(value, theirs, rtol=1e-4, atol=1e-6)


def test_turned_codes_are_aligned():
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(50, 4))
    turn = np.linalg.qr(generator.normal(size=(4, 4)))[0]
    np.testing.assert_allclose(procrustes(codes, codes @ turn), turn, atol=1e-10)
    model, x = ensemble_of_equals(), images(60)
    turn = np.linalg.qr(generator.normal(size=(LATENT_DIM, LATENT_DIM)))[0]
    turned = [*model.members[0].get_weights()]
    turned[-2], turned[-1] = turned[-2] @ turn, turned[-1] @ turn + np.array([1.0, 2.0, 3.0])
    model.members[0].set_weights(turned)
    decoder = model.members[1].get_weights()
    decoder[1] = decoder[1] - np.array([1.0, 2.0, 3.0]) @ turn.T @ decoder[0]
    decoder[0] = turn.T @ decoder[0]
    model.members[1].set_weights(decoder)
    before = model.predictive(x, 3, SEED)
    assert np.mean(before["latent_variance"]) > 0.1
    model.measure(x[:8], x)
    after = model.predictive(x, 3, SEED)
    np.testing.assert_allclose(after["latent_variance"], 0, atol=1e-8)
    np.testing.assert_allclose(after["mean"], before["mean"], atol=1e-5)  # a member decodes its own codes
    mean, std = model.decode_grid(model.codes(x), 3, SEED)
    np.testing.assert_allclose(std, 0, atol=1e-3)
    np.testing.assert_allclose(mean, model.decode(model.codes(x)).mean(), atol=1e-4)


def test_calling_an_ensemble_gives_the_mean(built):
    model, x = built["deep_ensemble_ae"], images(4)
    np.testing.assert_allclose(model(x), np.clip(model.predictive(x, 1, SEED)["mean"], 0, 1), atol=1e-6)
    assert model.draw_codes(x, 5, SEED).shape == (5, 4, LATENT_DIM)


def test_members_that_do_not_fit_are_refused():
    model = build("deep_ensemble_ae")
    with pytest.raises(UserError, match="encoder, decoder"):
        pae_zoo.DeepEnsembleAE(model.encoder, model.decoder, members=model.members[:1])
    other = build("ae", latent_dim=2)
    with pytest.raises(UserError, match="same data and latents"):
        pae_zoo.DeepEnsembleAE(model.encoder, model.decoder, members=[other.encoder, other.decoder])
    with pytest.raises(UserError, match="clip_norm"):
        build("deep_ensemble_ae", clip_norm=1.0)


def test_one_draw_of_an_ensemble_may_be_of_any_member(built):
    model, x = built["deep_ensemble_ae"], images(3)
    every = model.draw_reconstructions(x, model.num_members, seed=SEED).numpy()
    ones = [model.draw_reconstructions(x, 1, seed=(0, s)).numpy()[0] for s in range(12)]
    members = {int(np.abs(every - one).max(axis=(1, 2, 3, 4)).argmin()) for one in ones}
    assert members == set(range(model.num_members))


def test_an_ensemble_starts_from_an_ensemble():
    model, other = build("deep_ensemble_ae"), build("deep_ensemble_ae", seed=8)
    model.initialise_from(other)
    for mine, theirs in zip(state(model.members[-1]), state(other.members[-1])):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(UserError, match="--num_members=3"):
        model.initialise_from(build("deep_ensemble_ae", num_members=3))
