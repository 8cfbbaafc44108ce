"""Learning rates that go by validation losses, norms and pictures of a training."""

import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, build, images
from test_fitting import history, interrupted, make_feed, states, train
from tiers import some

from pae_zoo.core.errors import UserError
from pae_zoo.experiment import checkpoint, fitting, watching
from pae_zoo.experiment.workdir import Run

PLATEAU = dict(lr_schedule="plateau", lr_patience=1, epochs=7)


def with_losses(monkeypatch, losses):
    """Makes the validation losses of epochs 1, 2, ... those."""
    plain = fitting.Keeper.on_epoch_end
    monkeypatch.setattr(fitting.Keeper, "on_epoch_end", lambda self, epoch, logs: plain(
        self, epoch, {**logs, "val_loss": losses[epoch]}))  # fmt: skip


def scalars(folder):
    """Returns {tag: [(step, value)]} and {tag of pictures: number} of the event files in a folder."""
    numbers, shown = {}, {}
    for file in sorted(folder.glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                if array.ndim == 0:
                    numbers.setdefault(value.tag, []).append((event.step, float(array)))
                else:
                    shown[value.tag] = shown.get(value.tag, 0) + 1
    return numbers, shown


# ---- plateau -----------------------------------------------------------------------------------------------


def test_the_rate_falls_after_more_epochs_than_are_borne(tmp_path, monkeypatch):
    # PyTorch's rule: bad epochs are counted, and a gain of less than 1e-4 of the loss is none.
    with_losses(monkeypatch, [10.0, 9.9999, 12.0, 9.0, 9.5, 9.5, 9.5])
    train("ae", tmp_path, **PLATEAU, learning_rate=1e-2, lr_factor=0.25)
    found = [line["learning_rate"] for line in history(tmp_path)]
    np.testing.assert_allclose(found, [1e-2, 1e-2, 1e-2, 0.25e-2, 0.25e-2, 0.25e-2, 0.0625e-2], rtol=1e-5)


def test_of_negative_losses_lower_is_better_too(tmp_path, monkeypatch):
    with_losses(monkeypatch, [-10.0, -9.9995, -9.9999, -20.0])
    train("ae", tmp_path, **{**PLATEAU, "epochs": 4})
    found = [line["learning_rate"] for line in history(tmp_path)]
    np.testing.assert_allclose(found, [1e-3, 1e-3, 1e-3, 0.5e-3], rtol=1e-5)


@pytest.mark.parametrize("at", some([3, 5, 7], [5]))
def test_a_resumed_run_has_the_same_rates_bit_for_bit(at, tmp_path, monkeypatch):
    with_losses(monkeypatch, [10.0, 11.0, 11.0, 11.0])
    options = {**PLATEAU, "epochs": 4}
    whole, _ = train("ae", tmp_path / "whole", **options)
    interrupted("ae", tmp_path / "parts", at, monkeypatch, **options)
    note = Run(tmp_path / "parts").load_arrays("last")[1]
    assert note["lr_best"] == 10.0 and note["lr_wait"] == (2 * at // 4 - 1) % 2  # two steps a call, four an epoch
    resumed, _ = train("ae", tmp_path / "parts", **options)
    for a, b in zip(states(whole), states(resumed)):
        np.testing.assert_array_equal(a, b)
    assert history(tmp_path / "whole") == history(tmp_path / "parts")
    assert [line["learning_rate"] < 6e-4 for line in history(tmp_path / "whole")] == [False, False, False, True]


def test_a_checkpoint_without_the_state_of_a_plateau_is_read(tmp_path):
    model, run = build("ae"), Run(tmp_path)
    model.compile("adam")
    checkpoint.save(run, model, checkpoint.Position(epoch=3, lr_best=2.0, lr_wait=1))
    arrays, note = run.load_arrays("last")
    assert checkpoint.restore(run, model) == checkpoint.Position(epoch=3, lr_best=2.0, lr_wait=1)
    run.save_arrays("last", arrays, {key: value for key, value in note.items() if not key.startswith("lr_")})
    assert checkpoint.restore(run, model) == checkpoint.Position(epoch=3)


# ---- norms -------------------------------------------------------------------------------------------------


def test_norms_are_logged_and_change_nothing(tmp_path):
    options = dict(epochs=2, clip_norm=1e-3, optimizer="sgd", learning_rate=0.5)
    plain, _ = train("ae", tmp_path / "plain", **options)
    logged, _ = train("ae", tmp_path / "logged", **options, log_norms=True)
    for a, b in zip(plain.get_weights(), logged.get_weights()):
        np.testing.assert_array_equal(a, b)
    for line in history(tmp_path / "logged"):
        # Of stochastic gradient descent with clipped gradients the update is rate x norm.
        assert line["train/gradient_norm"] > 1e-3 and "valid/gradient_norm" not in line
        np.testing.assert_allclose(line["train/update_norm"], 0.5e-3, rtol=1e-3)
    assert "train/gradient_norm" not in history(tmp_path / "plain")[0]


# ---- pictures ----------------------------------------------------------------------------------------------


def test_pictures_are_shown_every_n_epochs_and_change_nothing(tmp_path):
    plain, _ = train("vae", tmp_path / "plain", epochs=4, ema=0.9)
    shown, _ = train("vae", tmp_path / "shown", epochs=4, ema=0.9, picture_epochs=2)
    for a, b in zip(states(plain), states(shown)):
        np.testing.assert_array_equal(a, b)
    numbers, found = scalars(tmp_path / "shown" / "tensorboard" / "pictures")
    assert found == {f"pictures/{name}": 2 for name in ("data", "reconstruction", "std", "samples")}
    assert [step for step, _ in numbers["pictures/std_max"]] == [8, 16]
    assert not (tmp_path / "plain" / "tensorboard" / "pictures").exists()
    tags, _ = scalars(tmp_path / "shown" / "tensorboard" / "upstream")
    assert {"train_loss", "train/loss", "test/loss", "kl_div", "recon_error"} <= set(tags)
    assert tags["train_loss"] == tags["train/loss"]


@pytest.mark.parametrize("name, shown", [("ae", {"data", "reconstruction"}), ("wae", {"data", "reconstruction",
                                         "samples"}), ("lae", {"data", "reconstruction"})])  # fmt: skip
def test_what_a_model_does_not_have_is_left_out(name, shown):
    model, x = build(name), tf.constant(images(3))
    found = watching.pictures(model, x)
    assert set(found) == shown and all(one.shape == (3, *EVENT_SHAPE) for one in found.values())


def test_a_density_of_a_later_stage_gives_no_samples(tmp_path):
    train("pae", tmp_path, make_feed(), epochs=1, picture_epochs=1)
    assert set(scalars(tmp_path / "tensorboard" / "pictures")[1]) == {"pictures/data", "pictures/reconstruction"}


def test_pictures_of_what_is_no_image_are_refused():
    watching.check_pictures(0, (7,))
    with pytest.raises(UserError, match="picture_epochs=2 shows images"):
        watching.check_pictures(2, (7,))
