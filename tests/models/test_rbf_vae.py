"""rbf_vae: the field of stds by hand, fitted to residuals, the two stages, and what must not be taken for a std."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, LATENT_DIM, build, images

from pae_zoo import geometry, models, networks
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import record
from pae_zoo.experiment.workdir import Run
from pae_zoo.main import main
from pae_zoo.models.parts.rbf_precision import VARIANCE_FLOOR, RBFPrecision, rows

SEED = (4, 5)


def by_hand(centre=(0.5, -1.0), bandwidth=0.7, weight=3.0, floor=0.1):
    """One basis function and one output, with known numbers."""
    rbf = RBFPrecision(2, 1, num_centres=1, floor=floor)
    rbf.centres.assign([centre])
    rbf.bandwidths.assign([bandwidth])
    rbf.log_weights.assign([[np.log(weight)]])
    return rbf


def two_clusters(num=50, spread=0.3, seed=0):
    generator = np.random.default_rng(seed)
    z = np.concatenate([generator.normal((-2, 0), spread, (num, 2)), generator.normal((2, 1), spread, (num, 2))])
    std = np.where(np.arange(2 * num) < num, 0.05, 0.4)  # the error differs between the clusters
    return z, np.square(std[:, None] * generator.normal(size=(2 * num, 3)))


# ---- the field -------------------------------------------------------------------------------------------


def test_field_and_its_derivative_by_hand():
    rbf, z = by_hand(), tf.constant([[0.1, -0.4]])
    with tf.GradientTape() as tape:
        tape.watch(z)
        std = tf.sqrt(rbf.variance(z))
    delta = np.array([0.1, -0.4]) - [0.5, -1.0]
    basis = np.exp(-0.7 * delta @ delta)
    beta = 3 * basis + 0.1
    expected = np.sqrt(1 / beta + VARIANCE_FLOOR)
    np.testing.assert_allclose(rbf.precision(z), [[beta]], rtol=1e-5)
    np.testing.assert_allclose(std, [[expected]], rtol=1e-5)
    slope = 2 * 3 * 0.7 * basis * delta  # -d beta / dz
    np.testing.assert_allclose(tape.gradient(std, z)[0], slope / (2 * beta**2 * expected), rtol=1e-4)


def test_far_away_the_std_is_that_of_the_floor_and_at_a_centre_gradients_are_finite():
    z, target = two_clusters()
    rbf = RBFPrecision(2, 3, num_centres=2, floor=0.1)
    rbf.adapt(rows(z, target))
    scale = 1 / np.sqrt(2 * rbf.bandwidths.numpy().min())
    far = tf.constant([[10 * scale + 3, 0.0], [0.0, -10 * scale - 3]], tf.float32)
    np.testing.assert_allclose(tf.sqrt(rbf.variance(far)), np.full((2, 3), 0.1**-0.5), rtol=0.01)
    places = tf.concat([rbf.centres.value, far, far * 1e6], axis=0)
    with tf.GradientTape() as tape:
        tape.watch(places)
        total = tf.reduce_sum(tf.sqrt(rbf.variance(places)))
    assert np.isfinite(tape.gradient(total, places)).all()


def test_bandwidths_come_from_distances_and_weights_from_residuals():
    z, target = two_clusters()
    for alpha in (1.0, 2.0):
        rbf = RBFPrecision(2, 3, num_centres=2, alpha=alpha)
        rbf.adapt(rows(z, target))
        for cluster, others in ((slice(0, 50), target[:50]), (slice(50, 100), target[50:])):
            centre = z[cluster].mean(0)
            k = int(np.argmin(np.linalg.norm(rbf.centres.numpy() - centre, axis=1)))
            np.testing.assert_allclose(rbf.centres[k], centre, atol=1e-4)
            distance = np.linalg.norm(z[cluster] - centre, axis=1).mean()
            np.testing.assert_allclose(rbf.bandwidths[k], 0.5 * (alpha * distance) ** -2, rtol=1e-4)
            np.testing.assert_allclose(np.exp(rbf.log_weights[k]), 1 / (others.mean(0) + 1e-3), rtol=1e-3)


def fit(rbf, data, steps=300):
    rbf.compile(keras.optimizers.Adam(3e-2), jit_compile=False)
    rbf.optimizer.build(rbf.trained_variables)
    x = tf.constant(data)
    tf.function(lambda: tf.while_loop(lambda i: i < steps, lambda i: (i + 1, rbf.update(x))[:1], (0,)),
                autograph=False)()  # fmt: skip


def test_fitted_stds_are_the_errors_of_the_clusters():
    z, target = two_clusters()
    rbf = RBFPrecision(2, 3, num_centres=2)
    data = rows(z, target)
    rbf.adapt(data)
    before = np.mean(rbf.objective(tf.constant(data), SEED, False)["loss"])
    fit(rbf, data)
    assert np.mean(rbf.objective(tf.constant(data), SEED, False)["loss"]) < before - 0.1
    std = np.sqrt(rbf.variance(tf.constant(z, tf.float32)))
    for cluster in (slice(0, 50), slice(50, 100)):
        ratio = std[cluster].mean(0) / np.sqrt(target[cluster].mean(0))
        assert np.all((ratio > 0.5) & (ratio < 2)), ratio


def test_the_sturdy_recipe_follows_a_log_variance():
    z, _ = two_clusters()
    target = np.log(np.where(z[:, :1] < 0, 0.05, 0.4) ** 2) * np.ones((1, 3))
    rbf = RBFPrecision(2, 3, num_centres=2, recipe="sturdy")
    data = rows(z, target)
    rbf.adapt(data)
    np.testing.assert_allclose(rbf.floor, (1000 * np.exp(0.5 * target).mean()) ** -2, rtol=1e-4)
    for k in range(2):
        cluster = z[:50] if rbf.centres[k][0] < 0 else z[50:]
        np.testing.assert_allclose(rbf.bandwidths[k], 0.5 * (1.25 * cluster.std(0).min()) ** -2, rtol=1e-4)
    fit(rbf, data)
    error = np.log(rbf.variance(tf.constant(z, tf.float32))) - target
    assert np.sqrt(np.mean(np.square(error))) < 1.0


def test_the_released_recipe_hardly_moves_from_its_start():
    z, target = two_clusters()
    rbf, data = RBFPrecision(2, 3, num_centres=2, recipe="released", seed=7), rows(z, target)
    rbf.adapt(data)
    for k in range(2):
        cluster = z[:50] if rbf.centres[k][0] < 0 else z[50:]
        square = np.square(cluster - cluster.mean(0)).sum(1).mean()
        np.testing.assert_allclose(rbf.bandwidths[k], 0.5 * square**-2, rtol=1e-3)
    start = rbf.weights_now().numpy()
    assert np.all(start > np.log(2)) and 0.9 < start.mean() < 1.6  # softplus of what is above 0
    beta = rbf.precision(tf.constant(z, tf.float32)).numpy()
    expected = 0.5 * np.sum(target * np.exp(-1 / beta) + 1 / beta, axis=1)
    np.testing.assert_allclose(rbf.objective(tf.constant(data), SEED, False)["loss"], expected, rtol=1e-4)
    rbf.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    rbf.fit(data, epochs=5, batch_size=20, verbose=0)
    # 25 steps of at most 1e-3 each, while residuals of 0.05 ask for a precision of 400.
    assert np.abs(rbf.weights_now() - start).max() < 0.03
    again = RBFPrecision(2, 3, num_centres=2, recipe="released", seed=7)
    again.adapt(data)
    np.testing.assert_array_equal(again.weights_now(), start)


def test_the_released_recipe_is_fitted_to_draws():
    model, x = build("rbf_vae", rbf_recipe="released"), images(200)
    found = model.stage_rows(x)
    q = model.encode(x)
    whitened = (found[:, :LATENT_DIM] - q.mean()) / q.stddev()
    assert np.abs(np.mean(whitened)) < 0.2 and 0.85 < np.std(whitened) < 1.15
    mean = model.likelihood.component.mean(model.first_stage_outputs(tf.constant(found[:, :LATENT_DIM])))
    residual = np.square(model.preprocess(x)[0] - mean).reshape(200, -1)
    np.testing.assert_allclose(found[:, LATENT_DIM:], residual, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(model.stage_rows(x), found)


def test_a_cluster_of_one_code_takes_the_bandwidth_of_all(capsys):
    z, target = two_clusters()
    z, target = np.concatenate([z, [[40.0, 40.0]]]), np.concatenate([target, target[:1]])
    rbf = RBFPrecision(2, 3, num_centres=3)
    rbf.adapt(rows(z, target))
    assert "1 of 3 clusters have no spread" in capsys.readouterr().out and float(rbf.num_alone) == 1
    alone = int(np.argmax(rbf.centres.numpy()[:, 0]))
    labels = np.argmin(np.linalg.norm(z[:, None] - rbf.centres.numpy(), axis=-1), axis=1)
    everywhere = np.linalg.norm(z - rbf.centres.numpy()[labels], axis=1).mean()
    np.testing.assert_allclose(rbf.bandwidths[alone], 0.5 * everywhere**-2, rtol=1e-3)

    same = RBFPrecision(2, 3, num_centres=3)  # fewer different codes than clusters
    same.adapt(rows(z[[0, 1] * 20], target[[0, 1] * 20]))
    assert np.isfinite(same.bandwidths).all() and np.isfinite(same.log_weights).all()
    with pytest.raises(UserError, match="do not vary"):
        same.adapt(rows(z[[0] * 40], target[[0] * 40]))
    with pytest.raises(UserError, match="2 codes cannot make 3"):
        same.adapt(rows(z[:2], target[:2]))


# ---- the model -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    """A model after both stages of plain fit."""
    model = build("rbf_vae", scale=0.1, hidden_units=(16,))
    model.rbf_settings.update({"epochs": 20, "batch_size": 64})
    model.compile(keras.optimizers.Adam(5e-3), jit_compile=False)
    keras.utils.set_random_seed(0)  # of the order in which Keras takes the data
    history = model.fit(images(320), epochs=15, batch_size=32, verbose=0).history
    assert history["rbf_loss"][-1] < history["rbf_loss"][0]
    return model


def test_before_the_fit_it_is_the_vae():
    model, plain = build("rbf_vae"), build("vae", likelihood="gaussian")
    x = images(5)
    np.testing.assert_allclose(model.elbo(x, SEED), plain.elbo(x, SEED), rtol=1e-5)
    for name, value in plain.objective(x, SEED, True).items():
        np.testing.assert_allclose(model.objective(x, SEED, True)[name], value, rtol=1e-5)
    np.testing.assert_allclose(model.mean_and_std(plain.draw_codes(x, 1, SEED)[0])[1], 0.1, rtol=1e-5)


def test_stds_on_data_are_the_residuals_and_grow_away_from_it(fitted):
    x = images(200, seed=5)
    z = fitted.point(x)
    mean, std = fitted.mean_and_std(z)
    ratio = np.sqrt(np.mean(np.square(std))) / np.sqrt(np.mean(np.square(x - mean)))
    assert 0.5 < ratio < 2
    far = tf.reduce_mean(z, axis=0) + 100 * (z - tf.reduce_mean(z, axis=0))
    np.testing.assert_allclose(fitted.mean_and_std(far)[1], 0.1**-0.5, rtol=0.01)


def test_all_densities_have_the_fitted_std(fitted):
    x = images(4, seed=6)
    z = fitted.draw_codes(x, 3, SEED)
    mean, std = fitted.mean_and_std(z[0])
    distribution = fitted.decode(z)
    np.testing.assert_allclose(distribution.mean()[0], mean, atol=1e-5)
    np.testing.assert_allclose(distribution.stddev()[0], std, rtol=1e-4)
    terms = -0.5 * np.square((x - mean) / std) - np.log(std) - 0.5 * np.log(2 * np.pi)
    expected = np.sum(terms, axis=(1, 2, 3))
    np.testing.assert_allclose(distribution.log_prob(x)[0], expected, rtol=1e-3)
    np.testing.assert_allclose(fitted.likelihood_of(x, z[0])(z)[0], expected, rtol=1e-3)
    found = fitted.predictive(x, 3, SEED)
    np.testing.assert_allclose(found["aleatoric_variance"], np.mean(fitted.decode(z).variance(), axis=0), rtol=1e-3)
    assert np.all(np.isfinite(fitted.log_likelihood(x, 8, SEED)))


def test_the_geometry_has_the_std_and_not_the_precision(fitted):
    """Fails if beta, its root or 1/beta stands in for sigma in the metric J_mu' J_mu + J_sigma' J_sigma."""
    z = fitted.point(images(1, seed=7))
    decoder = fitted.geometry_decoder()

    def jacobian(function):
        with tf.GradientTape() as tape:
            tape.watch(z)
            values = tf.reshape(function(z), (-1,))
        return tape.jacobian(values, z)[:, 0].numpy()

    beta = fitted.rbf.precision(z)
    slope = jacobian(fitted.rbf.precision)  # d beta / dz
    std = np.sqrt(1 / beta + VARIANCE_FLOOR).reshape(-1, 1)
    expected = -slope / (2 * np.reshape(beta, (-1, 1)) ** 2 * std)
    np.testing.assert_allclose(jacobian(lambda z: decoder.mean_and_std(z)[1]), expected, rtol=1e-3, atol=1e-6)

    root = jacobian(lambda z: fitted.mean_and_root_precision(z)[1])
    np.testing.assert_allclose(fitted.mean_and_root_precision(z)[1], tf.reshape(tf.sqrt(beta), (1, *EVENT_SHAPE)))
    np.testing.assert_allclose(root, slope / (2 * np.sqrt(np.reshape(beta, (-1, 1)))), rtol=1e-3, atol=1e-6)
    assert np.sum(root * expected) < 0  # the published field falls where the std grows

    mean = jacobian(lambda z: decoder.mean_and_std(z)[0])
    metric = geometry.as_manifold(decoder, LATENT_DIM).metric(z)[0]
    np.testing.assert_allclose(metric, mean.T @ mean + expected.T @ expected, rtol=1e-3)
    for wrong in (root, jacobian(fitted.rbf.precision), jacobian(fitted.rbf.variance)):
        assert np.abs(metric - (mean.T @ mean + wrong.T @ wrong)).max() > 5e-3 * np.abs(metric).max()


def test_both_stages_are_saved(fitted, tmp_path):
    fitted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    z = fitted.point(images(3))
    for mine, theirs in zip(fitted.mean_and_std(z), loaded.mean_and_std(z)):
        np.testing.assert_array_equal(mine, theirs)
    assert float(loaded.rbf.fitted) == 1 and loaded.get_config()["rbf_settings"] == fitted.rbf_settings


def test_a_later_fit_of_the_first_stage_has_its_own_std(fitted):
    x, z = tf.constant(images(4)), tf.zeros((1, 4, LATENT_DIM))
    expected = fitted.likelihood.component.log_prob(fitted.first_stage_outputs(z), x)
    np.testing.assert_allclose(fitted.reconstruction_log_prob(z, x, SEED, False), expected, rtol=1e-6)


def test_it_is_served_with_its_std(fitted):
    names, function = fitted.serving_signatures()["decode_with_std"]
    z = fitted.point(images(3))
    mean, std = fitted.mean_and_std(z)
    found = function(z)
    assert names == ("z",) and set(found) == {"x", "mean", "std"}
    np.testing.assert_array_equal(found["mean"], mean)
    np.testing.assert_array_equal(found["std"], std)


def test_another_run_passes_on_how_its_encoder_is_read():
    before = record.make("vae", posterior_std="exp", beta=0.05)
    own = record.make("rbf_vae", init_workdir="somewhere")
    found = models.find("rbf_vae").MODEL.inherit(own, before, ["model", "init_workdir"])
    assert found.posterior_std == "exp" and found.beta == own.beta
    assert models.find("rbf_vae").MODEL.inherit(own, before, ["posterior_std"]).posterior_std == own.posterior_std
    assert models.find("rbf_vae").MODEL.inherit(own, record.make("ae"), []).posterior_std == own.posterior_std


def test_fit_on_a_data_set_without_end_takes_one_epoch_of_it():
    model = build("rbf_vae", adapted=False)
    model.rbf_settings["epochs"] = 1
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    seen, inner = [], model.stage_rows
    model.stage_rows = lambda x: seen.append(len(x)) or inner(x)
    forever = tf.data.Dataset.from_tensor_slices(images(64)).repeat().batch(16)
    model.fit(forever, epochs=1, steps_per_epoch=3, shuffle=False, verbose=0)
    assert seen == [16] * 3 and float(model.rbf.fitted) == 1


def test_fewer_data_than_clusters_are_refused_before_the_first_stage():
    with pytest.raises(UserError, match="9 training data cannot make 10 clusters"):
        build("rbf_vae", adapted=False, rbf_centres=10).adapt(images(9))


def test_recipes_and_likelihoods_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="gaussian_decoder"):
        build("rbf_vae", rbf_recipe="sturdy", adapted=False)
    with pytest.raises(UserError, match="Gaussian noise"):
        build("rbf_vae", likelihood="bernoulli", adapted=False)
    model = build("rbf_vae", rbf_recipe="sturdy", likelihood="gaussian_decoder")
    found = model.stage_rows(images(30))
    outputs = model.first_stage_outputs(model.point(images(30)))
    np.testing.assert_allclose(found[:, LATENT_DIM:].reshape(-1, *EVENT_SHAPE),
                               model.likelihood.component.log_variance(outputs), atol=1e-5)
    encoder, decoder = (net(
        "mlp", EVENT_SHAPE, 2, hidden_units=(4,)) for net in (networks.build_encoder, networks.build_decoder))
    with pytest.raises(UserError, match="rbf_settings takes"):
        type(model)(encoder, decoder, rbf_settings={"steps": 3})


@pytest.mark.full
def test_the_second_stage_alone_from_a_trained_vae(tmp_path):
    flags = ["--dataset=digits", "--smoke", "--latent_dim=2", "--likelihood=gaussian", "--tasks=reconstruction"]
    assert main(["--model=vae", *flags, f"--workdir={tmp_path / 'vae'}"]) == 0
    command = ["--model=rbf_vae", f"--init_workdir={tmp_path / 'vae'}", "--dataset=digits", "--smoke",
               "--tasks=reconstruction", f"--workdir={tmp_path / 'rbf'}"]  # fmt: skip
    assert main(command) == 0
    before, after = (Run(tmp_path / name).read_metrics() for name in ("vae", "rbf"))
    assert after["test/mse"] == before["test/mse"] and after["train/steps"] == 0 and after["rbf/steps"] > 0
    assert float(Run(tmp_path / "rbf").load_model().rbf.fitted) == 1
    assert main(command) == 0  # finished: left alone
