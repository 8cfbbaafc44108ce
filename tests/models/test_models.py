"""What every model must do, whatever it is: the shared battery."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, LATENT_DIM, ROWS, build, images
from tiers import some

from pae_zoo import models
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import saved
from pae_zoo.models.capabilities import CAPABILITIES
from pae_zoo.models.vae import VAE

NAMES = list(ROWS)


def offering(*what):
    return [name for name, row in ROWS.items() if set(what) <= set(row.offers)]


def test_every_model_has_a_row():
    assert {row.model for row in ROWS.values()} == set(models.MODULES)


@pytest.fixture(scope="module")
def built():
    """Each model of the battery, built once; tests that change a model build their own."""
    return {name: build(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_shapes(built, name):
    model, row = built[name], ROWS[name]
    for batch in (1, 64):
        x = images(batch)
        assert model(x).shape == (batch, *EVENT_SHAPE)
        posterior = model.encode(x)
        assert posterior.event_shape == (LATENT_DIM,)
        z = posterior.mean() if "moments" in row.offers else posterior.sample(seed=(0, 1))
        assert z.shape == (batch, LATENT_DIM)
        assert model.decode(z).event_shape == EVENT_SHAPE
        assert model.decode(z).log_prob(x).shape == (batch,)
        assert model.decode_mean(z).shape == (batch, *EVENT_SHAPE)
    batch = 3
    x = images(batch)
    z = model.point(model.preprocess(x)[0])
    for score in model.ood_scores(x, seed=(0, 1)).values():
        assert score.shape == (batch,) and np.isfinite(score).all()
    if "elbo" in row.offers:
        assert model.elbo(x, seed=(0, 1)).shape == (batch,)
    if "likelihood" in row.offers:
        assert model.log_likelihood(x, 5, seed=(0, 1)).shape == (batch,)
    if "predictive" in row.offers:
        found = model.predictive(x, 4, seed=(0, 1))
        assert found["mean"].shape == found["aleatoric_variance"].shape == (batch, *EVENT_SHAPE)
        assert found["epistemic_variance"].shape == (batch, *EVENT_SHAPE)
        assert found["latent_mean"].shape == found["latent_variance"].shape == (batch, LATENT_DIM)
    if "draws" in row.offers:
        assert model.draw_reconstructions(x, 4, seed=(0, 1)).shape == (4, batch, *EVENT_SHAPE)
        assert model.draw_codes(x, 4, seed=(0, 1)).shape == (4, batch, LATENT_DIM)
        assert model.predictive_log_prob(x, 4, seed=(0, 1)).shape == (batch,)
    if "grid" in row.offers:
        for moment in model.decode_grid(z, 4, seed=(0, 1)):
            assert moment.shape == (batch, *EVENT_SHAPE)
    if "prior" in row.offers:
        assert model.prior().event_shape == (LATENT_DIM,)
    if "sample" in row.offers:
        assert model.sample(5, seed=(0, 1)).shape == (5, *EVENT_SHAPE)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_offers_what_it_says_and_says_what_it_lacks(built, name):
    model, offered = built[name], ROWS[name].offers
    assert offered <= set(CAPABILITIES)
    x = images(2)
    calls = {
        "elbo": lambda: model.elbo(x),
        "likelihood": lambda: model.log_likelihood(x, 2),
        "sample": lambda: model.sample(2, seed=(0, 1)),
        "prior": lambda: model.prior(),
        "predictive": lambda: model.predictive(x, 2),
        "moments": lambda: model.encode(x).mean(),
        "draws": lambda: model.draw_reconstructions(x, 2),
        "draws of codes": lambda: model.draw_codes(x, 2),
        "draws of densities": lambda: model.predictive_log_prob(x, 2),
        "grid": lambda: model.decode_grid(np.zeros((2, LATENT_DIM), np.float32), 2),
        "scores": lambda: model.ood_scores(x, (0, 1)),
        "surface": lambda: model.log_density_manifold(x),
        "path": lambda: model.latent_path(x),
        "refine": lambda: model.refined(),
        "impute": lambda: model.impute(x),
        "impute means": lambda: model.impute_mean(x),
    }
    assert {what.split(" ")[0] for what in calls} == set(CAPABILITIES)
    for what, call in calls.items():
        if what.startswith("impute") and "impute" in offered:  # those of the battery see no mask
            with pytest.raises(UserError, match="not trained on data with missing values"):
                call()
        elif what.split(" ")[0] in offered:
            call()
        else:
            with pytest.raises(NotImplementedError, match=r"\w+ \w+.*\."):
                call()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_trainable_weight(name):
    model = build(name)
    # Noise breaks the symmetry of zero biases; a large batch leaves no hidden unit without an active datum.
    x = tf.constant(images(64))
    model.compile("adam", jit_compile=False)
    model.update(x)  # a flow starts as the identity: its inner layers have a gradient once the last ones have moved
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model.objective(x, (1, 2), training=True)["loss"])
    gradients = tape.gradient(loss, model.trained_variables)
    missing = [v.path for v, g in zip(model.trained_variables, gradients) if g is None or not np.any(g)]
    assert not missing


@pytest.mark.parametrize("name", some(NAMES, ["ae"]))
def test_xla_equals_eager(built, name):
    model, row = built[name], ROWS[name]
    x, seed = tf.constant(images(6)), tf.constant([4, 5])
    functions = {
        "call": lambda: model(x),
        "objective": lambda: model.objective(x, seed, training=False),
        "ood_scores": lambda: model.ood_scores(x, seed),
        "encode": lambda: model.encode(x).sample(seed=seed),
    }
    if "elbo" in row.offers:
        functions["elbo"] = lambda: model.elbo(x, seed)
    if "likelihood" in row.offers:
        functions["importance"] = lambda: model.importance_estimate(x, 7, seed)
    if "sample" in row.offers:
        functions["sample"] = lambda: model.sample(4, seed)
    if "draws" in row.offers:
        functions["draw_reconstructions"] = lambda: model.draw_reconstructions(x, 3, seed)
        functions["draw_codes"] = lambda: model.draw_codes(x, 3, seed)
        functions["predictive_log_prob"] = lambda: model.predictive_log_prob(x, 3, seed)
    if "grid" in row.offers:
        functions["predictive"] = lambda: model.predictive(x, 3, seed)
        functions["decode_grid"] = lambda: model.decode_grid(x[:, 0, :3, 0], 3, seed)
    if name != "vae":  # what a model inherits from vae is compiled once, there
        inherited = ("elbo", "ood_scores", "draw_reconstructions", "draw_codes", "predictive_log_prob")
        shared = {what for what in inherited if getattr(type(model), what) is getattr(VAE, what)}
        functions = {what: function for what, function in functions.items() if what not in shared}
    eager = {what: function() for what, function in functions.items()}
    # One program: compiling is what takes the time.
    compiled = tf.function(lambda: {what: f() for what, f in functions.items()}, jit_compile=True, autograph=False)()
    for what in functions:
        for a, b in zip(tf.nest.flatten(eager[what]), tf.nest.flatten(compiled[what])):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4, err_msg=what)


@pytest.mark.parametrize("name", some(NAMES, ["vae", "pae", "lae_posthoc"]))
def test_saved_model_gives_the_same_numbers(name, tmp_path):
    model, row = build(name), ROWS[name]
    model.compile(optimizer="adam", jit_compile=False)
    for batch in images(48).reshape(3, 16, *EVENT_SHAPE):
        model.update(tf.constant(batch))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x, seed = images(5, seed=1), (7, 8)
    for mine, theirs in zip(model.variables, loaded.variables):
        if "seed_generator" not in mine.path:
            np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(model(x), loaded(x))
    for key, value in model.ood_scores(x, seed).items():
        np.testing.assert_array_equal(value, loaded.ood_scores(x, seed)[key])
    if "elbo" in row.offers:
        np.testing.assert_array_equal(model.elbo(x, seed), loaded.elbo(x, seed))
    # Networks are compared by their numbers: Keras gives shapes back as other sequences.
    plain = {k: v for k, v in model.get_config().items() if not isinstance(v, dict) and k != "members"}
    assert {k: loaded.get_config()[k] for k in plain} == plain
    assert int(loaded.step) == 3
    assert saved.fingerprint(loaded) == saved.fingerprint(model)
    if name != "gp_circle":  # whose process has no activation
        assert saved.fingerprint(model) != saved.fingerprint(build(name, activation="tanh"))


@pytest.mark.parametrize("name", some(offering("sample"), ["vae", "pae"]))
def test_samplers_are_deterministic(built, name):
    model, x = built[name], images(4)
    draws = {
        "sample": lambda seed: model.sample(6, seed),
        "noisy": lambda seed: model.sample(6, seed, observation_noise=True),
    }
    if "elbo" in ROWS[name].offers:  # a model with a bound has codes that are not certain
        draws["encode"] = lambda seed: model.encode(x).sample(seed=seed)
        draws["elbo"] = lambda seed: model.elbo(x, seed)
    generator = tf.random.get_global_generator().state.numpy()
    own = model.seed_generator.state.numpy()
    for what, draw in draws.items():
        first, again, other = draw((1, 2)), draw((1, 2)), draw((1, 3))
        np.testing.assert_array_equal(first, again, err_msg=what)
        assert np.abs(first - other).max() > 1e-6, what
    np.testing.assert_array_equal(generator, tf.random.get_global_generator().state.numpy())
    np.testing.assert_array_equal(own, model.seed_generator.state.numpy())
    assert np.abs(model.sample(6) - model.sample(6)).max() > 1e-6  # unseeded calls differ
    assert len(np.unique(np.asarray(model.sample(6, (1, 2))).reshape(6, -1), axis=0)) == 6


@pytest.mark.parametrize("name", NAMES)
def test_codes_do_not_depend_on_the_batch(built, name):
    model, x = built[name], images(9)

    def codes(x):
        if "moments" in ROWS[name].offers:
            return model.encode(x).mean()
        return model.point(model.preprocess(x)[0])

    together = codes(x)
    np.testing.assert_allclose(together, tf.concat([codes(x[:4]), codes(x[4:])], axis=0), atol=1e-5)
    np.testing.assert_array_equal(together, codes(x))


@pytest.mark.parametrize("name", NAMES)
def test_uint8_images_are_divided_by_255(built, name):
    bytes_ = np.round(images(3) * 255).astype(np.uint8)
    np.testing.assert_allclose(built[name](bytes_), built[name](bytes_.astype(np.float32) / 255), atol=1e-6)


@pytest.mark.parametrize("name", some(NAMES, ["vae"]))
def test_keras_entry_points(name):
    model = build(name, adapted=False)
    model.compile(optimizer="adam", jit_compile=False)  # XLA has its own tests
    x = images(40)
    history = model.fit(x, epochs=2, batch_size=16, validation_data=(images(20, seed=5),), verbose=0).history
    assert {"loss", "val_loss"} <= set(history) and np.isfinite(history["val_loss"]).all()
    assert int(model.adapted) == 1
    found = model.evaluate(x, batch_size=16, verbose=0, return_dict=True)
    assert np.isfinite(found["loss"]) and found["loss"] != 0.0
    assert model.predict(x, verbose=0).shape == x.shape
    if name == "vae":  # what fit accepts does not depend on the model
        dataset = tf.data.Dataset.from_tensor_slices(x).batch(8)
        model.fit(dataset, validation_data=dataset, epochs=1, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match="its own objective"):
        model.compile(optimizer="adam", loss="mse")
