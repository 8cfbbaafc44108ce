"""The callback on networks of the user's own: what it keeps, what it makes of losses, what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import curvature
from pae_zoo.core.errors import UserError


def data(num=40, seed=0):
    return np.random.default_rng(seed).normal(size=(num, 5)).astype(np.float32)


def network(units=3, activation=None):
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        keras.Input((5,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(units, activation=activation)])


def fit(model, x, y, callback, epochs=2):
    return model.fit(x, y, epochs=epochs, batch_size=10, verbose=0, callbacks=[callback])


def test_it_follows_training_of_any_network_and_gives_a_posterior():
    x = data()
    model = network(5)
    model.compile("adam", "mse")
    laplace = curvature.LaplaceCallback(x, method="exact", subset=10)
    history = fit(model, x, x, laplace)
    assert laplace.refreshes == 8
    assert history.history["curvature_sum"][-1] > 0 and history.history["curvature_s"][-1] > 0
    posterior = laplace.posterior()
    assert isinstance(posterior, curvature.DiagPosterior)
    assert posterior.sample(3, (0, 1)).shape == (3, model.count_params())
    assert float(posterior.noise_variance) != 1.0


def test_final_pass_is_the_curvature_of_all_data_at_the_last_weights():
    x = data()
    model = network(5)
    model.compile("adam", "mse", jit_compile=False)
    laplace = curvature.LaplaceCallback(x, method="exact", every=100, final=True)
    fit(model, x, x, laplace, epochs=1)
    np.testing.assert_allclose(laplace.estimate(), curvature.ggn(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("update", ["ema", "accumulate"])
def test_estimates_of_a_network_that_does_not_move(update):
    x = data(20)
    model = network(5)
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    laplace = curvature.LaplaceCallback(x, method="exact", subset=20, update=update, memory_factor=0.5, seed=(3, 4))
    rows = []
    refresh = laplace._ggn
    laplace._ggn = lambda batch, seed: rows.append(batch) or refresh(batch, seed)
    fit(model, x, x, laplace, epochs=1)
    parts = [curvature.ggn(model, batch).numpy() for batch in rows]
    weights = {"ema": np.array([0.25, 0.5]) / 0.75, "accumulate": np.array([0.5, 1.0])}[update]
    np.testing.assert_allclose(laplace.estimate(), weights[0] * parts[0] + weights[1] * parts[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss, units, activation, targets, likelihood", [
    ("binary_crossentropy", 2, "sigmoid", lambda: np.tile([[0.0, 1.0]], (40, 1)), "bernoulli"),
    (keras.losses.BinaryCrossentropy(from_logits=True), 2, None, lambda: np.tile([[0.0, 1.0]], (40, 1)), "bernoulli"),
    ("categorical_crossentropy", 3, "softmax", lambda: np.eye(3)[np.arange(40) % 3], "categorical"),
    (keras.losses.SparseCategoricalCrossentropy(from_logits=True), 3, None, lambda: np.arange(40) % 3, "categorical"),
])
def test_the_loss_tells_the_likelihood(loss, units, activation, targets, likelihood):
    x, y = data(), targets()
    model = network(units, activation)
    model.compile("adam", loss, jit_compile=False)
    laplace = curvature.LaplaceCallback(x, y, method="exact", final=True)
    fit(model, x, y, laplace, epochs=1)
    logits = network(units)
    logits.set_weights(model.get_weights())
    np.testing.assert_allclose(
        laplace.estimate(), curvature.ggn(logits, x, likelihood=likelihood), rtol=1e-3, atol=1e-5)
    posterior = laplace.posterior()
    assert float(posterior.noise_variance) == 1.0 and float(posterior.prior_precision[0]) > 0
    logits_of = np.asarray(logits(x), np.float64)
    mean_loss = float(tf.reduce_mean(keras.losses.get(model.loss)(y, model(x))))
    count = logits_of.size if likelihood == "bernoulli" else len(x)
    assert laplace._evidence(16)["log_likelihood"] == pytest.approx(-mean_loss * count, rel=1e-3)


def test_it_is_written_after_each_epoch(tmp_path):
    x = data()
    model = network(5)
    model.compile("adam", "mse", jit_compile=False)
    fit(model, x, x, curvature.LaplaceCallback(x, structure="kron", path=tmp_path / "h.npz"), epochs=1)
    assert isinstance(curvature.WeightPosterior.load(tmp_path / "h.npz", model), curvature.KronPosterior)


@pytest.mark.parametrize("changes, words", [
    ({"update": "mean"}, "allowed: ema, accumulate"), ({"memory_factor": 1.0}, "memory_factor lies in"),
    ({"y": np.zeros(3)}, "equally many data"),
])
def test_arguments_are_checked(changes, words):
    with pytest.raises(UserError, match=words):
        curvature.LaplaceCallback(data(), **changes)


@pytest.mark.parametrize("loss, words", [("mae", "no likelihood"), ("binary_crossentropy", "of probabilities")])
def test_losses_that_are_no_likelihood_are_refused(loss, words):
    model, x = network(5), data()
    model.compile("adam", loss, jit_compile=False)
    with pytest.raises(UserError, match=words):
        fit(model, x, np.abs(x), curvature.LaplaceCallback(x))


def test_without_a_refresh_there_is_no_estimate():
    with pytest.raises(UserError, match="no refresh yet"):
        curvature.LaplaceCallback(data()).estimate()


def test_a_final_pass_is_written_and_does_not_outlast_the_next_fit(tmp_path):
    x, model = data(), network(5)
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    laplace = curvature.LaplaceCallback(x, method="exact", final=True, path=tmp_path / "h.npz", memory_factor=0.5)
    fit(model, x, x, laplace, epochs=1)
    whole = laplace.estimate().numpy()
    written = curvature.WeightPosterior.load(tmp_path / "h.npz", model)
    np.testing.assert_allclose(written.curvature, whole, rtol=1e-6)
    laplace.final = False
    history = fit(model, x, x, laplace, epochs=1)
    assert laplace.refreshes == 4
    assert history.history["curvature_sum"][0] == pytest.approx(whole.sum(), rel=0.3)


@pytest.mark.parametrize("loss, units, targets", [
    ("mse", 2, lambda x: x[:, :2]),
    (keras.losses.BinaryCrossentropy(from_logits=True), 2, lambda x: (x[:, :2] > 0).astype(float)),
    (keras.losses.SparseCategoricalCrossentropy(from_logits=True), 3, lambda x: np.arange(len(x)) % 3),
])
def test_all_defaults_work_with_every_loss(loss, units, targets):
    x, model = data(), network(units)
    model.compile("adam", loss, jit_compile=False)
    laplace = curvature.LaplaceCallback(x, targets(x))
    fit(model, x, targets(x), laplace, epochs=1)
    assert float(laplace.posterior().prior_precision[0]) > 0


@pytest.mark.parametrize("likelihood, units, x, y, words", [
    ("bernoulli", 2, data(), data()[:, :2], "takes y from 0 to 1"),
    ("categorical", 3, data(), np.arange(40) % 8, "integers from 0 to 2; received y from 0 to 7"),
    ("categorical", 3, data(), np.full(40, 0.5), "integers from 0 to 2"),
    ("gaussian", 1, data(), data()[:, :3], "gives \\(1,\\) for each datum"),
    ("gaussian", 1, data()[:, :3], data()[:, :1], "takes data of shape \\(5,\\)"),
])
def test_data_that_do_not_fit_are_refused_when_training_begins(likelihood, units, x, y, words):
    model = network(units)
    model.compile("adam", "mse", jit_compile=False)
    laplace = curvature.LaplaceCallback(x, y, likelihood=likelihood)
    laplace.set_model(model)
    with pytest.raises(UserError, match=words):
        laplace.on_train_begin()


def test_options_are_refused_when_training_begins():
    for changes, words in (({"probes": 3}, "option"), ({"layers": "nose"}, "layers='nose'")):
        laplace = curvature.LaplaceCallback(data(), data(), **changes)
        model = network(5)
        model.compile("adam", "mse")
        laplace.set_model(model)
        with pytest.raises(UserError, match=words):
            laplace.on_train_begin()


def images(num=40, seed=0):
    return np.random.default_rng(seed).normal(size=(num, 6, 6, 1)).astype(np.float32), np.arange(num) % 3


def classifier(activation=None):
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        keras.Input((6, 6, 1)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.ReLU(),
        keras.layers.Dropout(0.3), keras.layers.Flatten(), keras.layers.Dense(3, activation=activation)])


def test_a_network_that_ends_in_chances_has_the_curvature_of_its_logits(tmp_path):
    x, y = images()
    ending, logits = classifier("softmax"), classifier()
    ending.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    laplace = curvature.LaplaceCallback(x, y, structure="kron", final=True, method="exact")
    fit(ending, x, y, laplace)
    logits.set_weights(ending.get_weights())
    wanted = curvature.ggn(logits, x, "kron", likelihood="categorical")
    for one, other in zip(laplace.estimate(), wanted):
        for part, same in zip(one, other):
            np.testing.assert_allclose(part, same, rtol=1e-4, atol=1e-4)
    # The functions leave the softmax out as the callback does.
    found = curvature.ggn(ending, x, likelihood="categorical")
    np.testing.assert_allclose(found, curvature.ggn(logits, x, likelihood="categorical"), rtol=1e-5, atol=1e-7)
    posterior = laplace.posterior(optimise=False)
    drawn = curvature.sample_outputs(posterior, ending, x[:4], 3, seed=(0, 1))
    np.testing.assert_allclose(tf.reduce_sum(drawn, -1), 1.0, rtol=1e-5)
    posterior.save(tmp_path / "posterior.npz")
    loaded = curvature.WeightPosterior.load(tmp_path / "posterior.npz", ending)
    loaded.assign_to(logits)
    with pytest.raises(UserError, match="another architecture"):
        curvature.WeightPosterior.load(tmp_path / "posterior.npz", classifier("tanh"))


@pytest.mark.parametrize("structure", ["low_rank", "last_layer", "block"])
def test_the_method_is_one_that_the_structure_has(structure):
    x, y = images(20)
    model = classifier()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    laplace = curvature.LaplaceCallback(x, y, structure=structure, subset=8, every=2)
    fit(model, x, y, laplace, epochs=1)
    assert laplace.options["method"] == {"low_rank": "exact"}.get(structure, "mc")
    assert np.isfinite(laplace.posterior().sample(2, (0, 1))).all()


def test_regression_with_more_weights_than_values_has_the_largest_evidence():
    x = data(12)
    y = np.sin(x[:, :1]) + 0.3 * x[::-1, 1:2]
    model = network(1)
    model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=False)
    laplace = curvature.LaplaceCallback(x, y, structure="block", method="exact", final=True)
    fit(model, x, y, laplace, epochs=20)
    assert model.count_params() > y.size
    posterior = laplace.posterior()
    gamma, variance = float(posterior.prior_precision[0]), float(posterior.noise_variance)
    evidence = posterior.evidence_of(**laplace._evidence(256))
    best = evidence(gamma, variance)
    for factor in (0.7, 0.97, 1.03, 1.5):
        assert evidence(gamma * factor, variance) < best and evidence(gamma, variance * factor) < best


@pytest.mark.filterwarnings("error")
def test_a_noise_variance_that_says_little_is_told():
    x = data(12)
    y = np.sin(x[:, :1])
    model = network(1)
    model.compile("adam", "mse", jit_compile=False)
    laplace = curvature.LaplaceCallback(x, y, final=True, method="exact")
    fit(model, x, y, laplace, epochs=1)
    posterior = laplace.posterior(optimise=False)
    posterior.assign_curvature(1e6 * laplace.estimate())
    with pytest.warns(UserWarning, match="of 12 values.*mean squared error of 0.0833.*assign_scales"):
        posterior.optimise(sse=1.0, num_values=12.0)
    posterior.optimise(sse=1.0, num_values=1200.0)
