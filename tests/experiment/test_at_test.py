"""Finished runs with other settings of inference and with the weights of other epochs."""

import dataclasses

import numpy as np
import pytest
from battery import EVENT_SHAPE, build, hparams, images
from test_fitting import train
from test_launchers import call, refused
from tiers import some

from pae_zoo import apply, evaluate, export
from pae_zoo.data import Dataset
from pae_zoo.data.dataset import Split
from pae_zoo.experiment import at_test
from pae_zoo.experiment.workdir import Run

SEED = (4, 5)
SAVAE = {"num_svi_steps": 5, "svi_learning_rate": 0.03, "svi_momentum": 0.5}
VLAE = {"num_updates": 3, "update_lr": 0.5, "update_schedule": "constant"}


def small(workdir, *flags, model="savae"):
    """A finished run of two epochs of six images a batch, of the digits."""
    assert call(f"--model={model}", "--num_train=64", "--epochs=3", "--batch_size=32", "--hidden_units=8",
                "--latent_dim=2", "--tasks=reconstruction", "--nojit_compile", "--checkpoint_seconds=0", *flags,
                f"--workdir={workdir}") == 0  # fmt: skip
    return Run(workdir)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small(tmp_path_factory.mktemp("at_test") / "savae", "--keep_checkpoints=2")


# ---- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, settings, more", [("savae", SAVAE, {}), ("vlae", VLAE, {"test_updates": 0}),
                                                  ("vlae", {"test_updates": 1}, {})])
def test_a_model_given_settings_is_the_one_made_with_them(name, settings, more):
    model, x = at_test.with_settings(build(name), settings), images(5)
    expected = build(name, **settings, **more)
    np.testing.assert_allclose(model.encode(x, SEED).mean(), expected.encode(x, SEED).mean(), rtol=1e-5, atol=1e-6)
    assert not np.allclose(model.encode(x, SEED).mean(), build(name).encode(x, SEED).mean(), atol=1e-4)


def test_no_update_is_the_encoders_mean():
    model, x = build("vlae"), images(5)
    found = at_test.with_settings(model, {"num_updates": 0})
    y = model.preprocess(x)[0]
    np.testing.assert_allclose(found.encode(x).mean(), model.encoder_outputs(y)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("structure", some(["diag", "kron"], ["kron"]))
def test_scales_of_the_posterior_over_weights(structure):
    model = build("lae", curvature_structure=structure)
    model.count_data(100.0)
    found = at_test.with_settings(model, {"prior_precision": 7.0, "hessian_scale": 3.0, "predictive": "mc"})
    np.testing.assert_array_equal(found.posterior.prior_precision, 7.0)
    assert float(found.posterior.kappa) == 3.0 and not found.is_linearised and model.is_linearised
    # Without any curvature q is the prior, whose draws have the standard deviation 1 / sqrt(gamma).
    drawn = [np.concatenate([np.ravel(new - np.array(old)) for new, old in
                             zip(one.draw_weights((1, 2)), one.uncertain)]) for one in (found, model)]
    np.testing.assert_allclose(drawn[0] * 7.0**0.5, drawn[1] * 50.0**0.5, rtol=1e-3, atol=1e-4)


def test_scores_are_measured_by_the_new_settings():
    model, x = build("lae_posthoc"), images(30)
    model.measure(x, images(60))
    model.measure_scores(x)
    draws = at_test.Changes({"predictive": "mc"})
    narrow = at_test.Changes({"predictive": "mc", "prior_precision": 1e12})
    before, found = float(model.typical), [at_test.with_settings(model, one.settings) for one in (draws, narrow)]
    for one, changed in zip(found, (draws, narrow)):
        at_test.measure(one, changed, x)
    # Draws that are the mean network leave its own likelihood, which is what the linearised score is.
    assert float(model.typical) == before != float(found[0].typical)
    np.testing.assert_allclose(float(found[1].typical), before, rtol=1e-4)


def test_suffixes():
    changed = at_test.Changes({"num_updates": 8, "update_lr": 0.5}, "40")
    assert changed.suffix == "@epoch=40@num_updates=8@update_lr=0.5"
    assert at_test.Changes({}).suffix == "" and at_test.Changes({}, "last").suffix == "@last"


# ---- epochs ------------------------------------------------------------------------------------------------


def dataset():
    parts = {"train": images(70), "valid": images(25, seed=4), "test": images(10, seed=5)}
    return Dataset(name="images", event_shape=EVENT_SHAPE, info=None, **{
        name: Split(x, None) for name, x in parts.items()})  # fmt: skip


@pytest.mark.parametrize("ema", some([0.0, 0.9], [0.9]))
def test_a_kept_epoch_is_that_of_a_training_which_ends_there(ema, tmp_path):
    long, _ = train("vae", tmp_path / "long", epochs=4, keep_checkpoints=2, ema=ema)
    short, _ = train("vae", tmp_path / "short", epochs=3, ema=ema)
    runs = [Run(tmp_path / name) for name in ("long", "short")]
    for run, model, epochs in zip(runs, (long, short), (4, 3)):
        run.write_config(hparams("vae", epochs=epochs, ema=ema), EVENT_SHAPE, model)
        run.save("model.keras", model.save)
        run.merge_metrics({"train/num_weights": model.count_params()})
    assert list(runs[0].kept_epochs()) == [3, 4] and not runs[1].kept_epochs()
    x = images(6)
    kept, ended = (at_test.model(run, at_test.Changes({}, epoch), dataset()) for run, epoch in zip(runs, ("3", "last")))
    np.testing.assert_array_equal(kept(x), ended(x))
    assert not np.array_equal(at_test.model(runs[0], at_test.Changes({}, "last"), dataset())(x), kept(x))


def test_what_is_measured_is_measured_at_the_epoch(tmp_path):
    changes = dict(likelihood="gaussian_pixel", epochs=2)
    model, _ = train("ae", tmp_path, keep_checkpoints=2, **changes)
    run = Run(tmp_path)
    run.write_config(hparams("ae", **changes), EVENT_SHAPE, model)
    run.save("model.keras", model.save)
    found = at_test.model(run, at_test.Changes({}, "1"), dataset())
    x = dataset().valid.x
    mean = found.likelihood.mean(found.decoder_outputs(found.point(found.preprocess(x)[0])))
    expected = np.sqrt(np.mean((np.array(mean) - x) ** 2, axis=0))
    np.testing.assert_allclose(np.squeeze(found.likelihood.scale), np.squeeze(expected), rtol=1e-3)


# ---- commands ----------------------------------------------------------------------------------------------


def test_keys_and_files_of_the_run_stay(run):
    own = run.read_metrics()
    flags = ["--tasks=reconstruction", f"--workdir={run.workdir}"]
    assert call(*flags, "--num_svi_steps=0", "--checkpoint=2", launcher=evaluate) == 0
    found = run.read_metrics()
    assert {key: found[key] for key in own} == own
    more = {key for key in found if key not in own}
    assert "test/mse@epoch=2@num_svi_steps=0" in more and all("@epoch=2@num_svi_steps=0" in key for key in more)
    assert (run.figures / "reconstructions@epoch=2@num_svi_steps=0.png").exists()
    assert list((run.workdir / "tensorboard").glob("evaluation@epoch=2*"))


def test_apply_and_export_take_them(run, tmp_path):
    np.savez(tmp_path / "mine.npz", x=np.random.default_rng(0).random((4, 8, 8)).astype(np.float32))
    found = {}
    for name, more in (("none", ["--num_svi_steps=0"]), ("epoch", ["--num_svi_steps=0", "--checkpoint=2"])):
        out = tmp_path / f"{name}.npz"
        flags = [f"--workdir={run.workdir}", f"--input=npz:{tmp_path}/mine.npz", f"--out={out}", "--nojit_compile"]
        assert call(*flags, *more, launcher=apply) == 0
        found[name] = np.load(out)["codes"]
    model = at_test.with_settings(run.load_model(), {"num_svi_steps": 0})
    x = np.load(tmp_path / "mine.npz")["x"][..., None]
    np.testing.assert_allclose(found["none"], model.encode(x).mean(), rtol=1e-5, atol=1e-6)
    assert not np.allclose(found["none"], found["epoch"], atol=1e-6)
    assert call(f"--workdir={run.workdir}", f"--export_dir={tmp_path}/served", "--num_svi_steps=0",
                "--signatures=encode", launcher=export) == 0  # fmt: skip


@pytest.mark.parametrize("flag, words", [
    ("--num_updates=3", "no such setting; may be given anew: num_svi_steps"),
    ("--prior_precision=2", "no such setting"),
    ("--checkpoint=1", "kept are 2, 3"),
    ("--checkpoint=best.npz", "none of best, last and the number of an epoch"),
    ("--checkpoint=-1", "none of best, last"),
    ("--num_svi_steps=-1", "out of range"),
])
def test_what_a_run_does_not_have_is_told_in_one_line(run, tmp_path, capsys, flag, words):
    before = run.read_metrics()
    assert words in refused(capsys, f"--workdir={run.workdir}", "--tasks=reconstruction", flag, launcher=evaluate)
    assert words in refused(capsys, f"--workdir={run.workdir}", f"--export_dir={tmp_path}/s", flag, launcher=export)
    assert run.read_metrics() == before and not (tmp_path / "s").exists()


def test_epochs_of_models_with_later_stages_are_refused(run, tmp_path, capsys):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "model.keras", "metrics.json", "checkpoints/last.npz"):
        (tmp_path / "run" / name).write_bytes((run.workdir / name).read_bytes())
    (tmp_path / "run" / "checkpoints" / "flow_last.npz").write_bytes(b"")
    flags = [f"--workdir={tmp_path}/run", "--tasks=reconstruction", "--checkpoint=last"]
    line = refused(capsys, *flags, launcher=evaluate)
    assert "a later stage of savae (flow)" in line


def test_settings_are_those_of_the_models():
    names = {field.name for field in dataclasses.fields(at_test.Flags)}
    assert names == {"checkpoint", *at_test.NAMES}
