"""vlae as it is by default: a warm-up as vae, steps with a posterior that is held, a search of its own at test."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import build, images
from tiers import some

from pae_zoo import models
from pae_zoo.core import hparams as hp
from pae_zoo.core import optimizers
from pae_zoo.experiment import record

UNTIL = int(optimizers.LATE * 10)


def log_joint(model, x, z):
    return np.asarray(model.decode(z).log_prob(model.preprocess(x)[0]) + model.log_prob_latent(z))


def test_the_default_is_the_fast_recipe_and_the_published_one_has_its_name():
    own, published = build("vlae"), build("vlae_published", num_updates=4)
    assert (own.search, own.search_gradient, own.update_schedule, own.test_updates) == ("chord", "held",
                                                                                         "backtracking", 4)
    config = published.get_config()
    assert {name: config[name] for name in models.find("vlae_published").SETTINGS} == \
        models.find("vlae_published").SETTINGS


OTHERS = [
    (dict(covariance="diag"), "full", "newton"), (dict(bound="iwae"), "full", "newton"),
    (dict(num_updates=0), "full", "newton"), (dict(search="cg"), "held", "cg"),
    (dict(update_schedule="levenberg"), "held", "newton"),
]  # fmt: skip


@pytest.mark.parametrize("changes, gradient, search", some(OTHERS, OTHERS[1:2] + OTHERS[3:4]))
def test_what_cannot_be_held_is_differentiated_through(changes, gradient, search):
    model = build("vlae", **changes)
    assert (model.search_gradient, model.search) == (gradient, search)
    model.compile("adam", jit_compile=False)
    assert np.isfinite(model.fit(images(8), batch_size=4, epochs=2, verbose=0).history["loss"]).all()


def test_the_launcher_resolves_the_warmup_and_takes_a_late_cosine():
    module = models.find("vlae")
    hparams = record.make(model="vlae", latent_dim=3, hidden_units=(8,))
    assert hparams.lr_schedule == "late_cosine" and module.MODEL.length_matters(hparams)
    assert module.MODEL.from_hparams(hparams, (6, 6, 1), 500).warmup_steps == 400
    asked = record.make(model="vlae", latent_dim=3, hidden_units=(8,), warmup_steps=7)
    assert module.MODEL.from_hparams(asked, (6, 6, 1), 500).warmup_steps == 7
    published = record.make(model="vlae_published")
    assert published.lr_schedule == "constant" and not models.find("vlae_published").MODEL.length_matters(published)


def test_a_late_cosine_is_constant_and_then_falls_to_zero():
    rate = optimizers.schedule("late_cosine", 2e-3, 100)
    found = [float(rate(step)) for step in (0, 1, 79, 80, 90, 100)]
    np.testing.assert_allclose(found, [2e-3, 2e-3, 2e-3, 2e-3, 1e-3, 0], rtol=1e-6, atol=1e-10)


def untold():
    """A model that no launcher has told how long its training is."""
    model = build("vlae")
    return type(model).from_config({**model.get_config(), "warmup_steps": -1})


def amortised_steps(model, monkeypatch, fit):
    """Returns for every step of `fit` whether it was one of vae."""
    found, own = [], type(model).posterior

    def spied(self, y, seed=None, training=False):
        if training:
            found.append(self._amortised)
        return own(self, y, seed, training)

    monkeypatch.setattr(type(model), "posterior", spied)
    model.compile(keras.optimizers.SGD(1e-4), jit_compile=False, run_eagerly=True)
    fit(model)
    return found


def test_plain_fit_warms_up_once_for_four_fifths_of_its_steps(monkeypatch):
    model, x = untold(), images(20)
    found = amortised_steps(model, monkeypatch, lambda m: m.fit(x, batch_size=4, epochs=2, verbose=0))
    assert found == [True] * UNTIL + [False] * (10 - UNTIL)
    found = amortised_steps(model, monkeypatch, lambda m: m.fit(x, batch_size=4, epochs=1, verbose=0))
    assert found == [False] * 5
    assert not build("vlae", warmup_steps=3).own_callbacks()


def test_a_list_of_callbacks_made_by_the_caller_is_taken(monkeypatch):
    model, x = untold(), images(20)
    history = keras.callbacks.History()
    made = keras.callbacks.CallbackList([history], model=model, epochs=2, steps=5, verbose=0)
    found = amortised_steps(model, monkeypatch, lambda m: m.fit(x, batch_size=4, epochs=2, verbose=0, callbacks=made))
    assert found == [True] * UNTIL + [False] * (10 - UNTIL) and len(history.history["loss"]) == 2


def test_plain_fit_on_data_of_unknown_length_counts_epochs(monkeypatch):
    x = images(8)
    batches = tf.data.Dataset.from_generator(lambda: iter([x[:4], x[4:]]), output_signature=tf.TensorSpec((4, 6, 6, 1)))

    def fit(model):
        model.fit(batches, epochs=3, verbose=0)

    assert amortised_steps(untold(), monkeypatch, fit) == [True] * 4 + [False] * 2


def test_the_search_at_test_never_lowers_the_density_and_ends_higher_than_that_of_training():
    x = images(8)
    for likelihood in ("gaussian", "bernoulli"):
        model = build("vlae", likelihood=likelihood, activation="tanh")
        path = np.asarray(model.latent_path(x))
        assert len(path) == 5
        heights = np.stack([log_joint(model, x, z) for z in path])
        assert (np.diff(heights, axis=0) >= -1e-4).all()
        np.testing.assert_allclose(model.encode(x).mean(), path[-1], rtol=1e-5, atol=1e-5)
        own = build("vlae", likelihood=likelihood, activation="tanh", test_updates=0)
        own.set_weights(model.get_weights())
        assert (heights[-1] >= log_joint(own, x, own.encode(x).mean()) - 1e-4).all()


def test_a_model_of_before_keeps_its_search_at_test():
    model = build("vlae")
    config = {k: v for k, v in model.get_config().items() if k not in ("test_updates", "warmup_steps")}
    loaded = type(model).from_config(config)
    assert loaded.test_updates == 0 and loaded.warmup_steps == 0
    hparams = record.make(model="vlae")
    written = {k: v for k, v in hp.to_config(hparams)["hparams"].items() if k != "test_updates"}
    assert hp.from_config(type(hparams), written).test_updates == 0
