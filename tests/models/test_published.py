"""Models that imitate published code: what they share with the model itself, and where settings of before went."""

import keras
import numpy as np
import pytest
from battery import PUBLISHED, build, images

import pae_zoo
from pae_zoo import models
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import saved
from pae_zoo.models.parts.former import Former


def itself(name):
    """The class that a model of the table imitates with."""
    return models.find(name.removesuffix("_published")).MODEL


def test_they_are_found_by_name_and_stand_in_no_list():
    assert set(PUBLISHED) == set(models.PUBLISHED) and not set(PUBLISHED) & {*models.MODULES, *models.describe()}
    for name, module in models.PUBLISHED.items():
        assert models.find(name) is module and models.line(name).endswith(".")
        assert module.MODEL.__bases__ == (itself(name),)
        former = itself(name).former
        assert module.MODEL.former is None and (former is None or former.model == name)
        assert former is None or keras.saving.get_registered_name(module.MODEL) == former.registered
    with pytest.raises(UserError, match="already"):
        models.check(next(iter(PUBLISHED)), models.find("ae"))


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_they_train_and_are_saved(name, tmp_path):
    model, x = build(name), images(32)
    assert model.offers == itself(name).offers
    model.compile("adam", jit_compile=False)
    assert np.isfinite(model.fit(x, epochs=1, batch_size=16, verbose=0).history["loss"]).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model) and saved.fingerprint(loaded) == saved.fingerprint(model)
    np.testing.assert_array_equal(loaded(x), model(x))


FORMER = Former("new", "pae_zoo>New", {"way": ("own", "theirs"), "start": (0, 1)}, kept=("start", "weight"))


@pytest.mark.parametrize("config, imitates, rest", [
    (dict(other=3), False, dict(other=3)),
    (dict(way="own", start=0, weight=0.5, other=3), False, dict(other=3)),
    (dict(way="theirs", start=0, weight=0.5), True, dict(start=0, weight=0.5)),
    (dict(way="own", start=1), True, dict(start=1)),
    (dict(way="nobody's", start=1), False, dict(way="nobody's", start=1)),
])
def test_settings_of_before_are_split(config, imitates, rest):
    assert FORMER.split(config) == (imitates, rest)


def test_classes_of_users_lose_settings_of_before_or_are_told():
    @keras.saving.register_keras_serializable("test_published")
    class Mine(pae_zoo.SAVAE):
        """A user's class."""

    whole = build("savae")
    config = Mine(whole.encoder, whole.decoder).get_config()
    assert type(Mine.from_config({**config, "svi_update": "ascent"})) is Mine
    with pytest.raises(UserError, match="Mine was saved with settings that SAVAEPublished has now"):
        Mine.from_config({**config, "svi_update": "upstream"})
