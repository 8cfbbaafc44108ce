"""Work directories whose files are damaged, or another run's: told with the file, never taken."""

import json
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from battery import EVENT_SHAPE, ROWS, build, hparams
from test_fitting import history, train
from tiers import some

from pae_zoo.core.errors import UserError
from pae_zoo.experiment import checkpoint, launch
from pae_zoo.experiment.workdir import Run


def finished(folder, name, event_shape=EVENT_SHAPE, **changes):
    """Returns a run of the battery's model `name` that looks finished."""
    run, model = Run(folder), build(name, event_shape, adapted=False, **changes)
    run.write_config(hparams(name, **changes), event_shape, model)
    run.save("model.keras", model.save)
    run.merge_metrics({"train/num_weights": model.count_params()})
    return run


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("run") / "vae", "vae")


# ---- models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", some(list(ROWS), ["vae", "gp_circle"]))
def test_a_run_loads_its_own_model_and_no_other(name, vae, tmp_path):
    run = finished(tmp_path / name, name)
    assert run.load_model().count_params() == run.read_metrics()["train/num_weights"]
    own = run.model_path.read_bytes()
    others = {"latents": dict(latent_dim=4), "weights": dict(hidden_units=(9, 8)),
              "data of shape": dict(event_shape=(5, 5, 1)), "the seed": dict(seed=4)}  # fmt: skip
    for what, changes in others.items():
        if name == "gp_circle" and what == "weights":
            continue  # it has no networks
        run.save("model.keras", build(name, adapted=False, **changes).save)
        with pytest.raises(UserError, match=f"model.keras is not a readable model.*has {what}"):
            run.load_model()
    if name != "gp_circle":
        run.save("model.keras", build(name, adapted=False, activation="tanh").save)
        with pytest.raises(UserError, match="model.keras is not a readable model.*other networks or settings"):
            run.load_model()
    run.save("model.keras", lambda path: Path(path).write_bytes(vae.model_path.read_bytes()))
    if name != "vae":
        with pytest.raises(UserError, match=f"holds a VAE, but config.json names the model {ROWS[name].model}"):
            run.load_model()
    run.save("model.keras", lambda path: Path(path).write_bytes(own))
    run.load_model()


def changed(path, target, change):
    """Writes the archive `path` anew with another config.json."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in {**members, "config.json": json.dumps(config)}.items():
            archive.writestr(name, data)


def test_a_model_file_that_names_code_or_more_than_it_holds_is_refused(vae, tmp_path, monkeypatch):
    run = finished(tmp_path / "vae", "vae")
    monkeypatch.setattr(keras.saving, "load_model", lambda path: pytest.fail("Keras was asked"))
    code = {"module": "keras.layers", "class_name": "Lambda", "config": {}, "registered_name": None}
    foreign = {"module": "os", "class_name": "system", "config": {}, "registered_name": "mine>system"}

    def encoder(config):
        return config["config"]["encoder"]["config"]

    for change, words in (
        (lambda config: config.update(code), "holds code"),
        (lambda config: encoder(config)["layers"].append(code), "holds code"),
        (lambda config: config["config"].update(extra={"deep": [[foreign]]}), "names classes of 'os'"),
        (lambda config: encoder(config)["layers"][2]["config"].update(units=10**12), "units is 1000000000000"),
        (lambda config: encoder(config).update(build_input_shape=[None, 10**9]), "build_input_shape"),
    ):
        changed(vae.model_path, run.model_path, change)
        with pytest.raises(UserError, match=f"model.keras is not a readable model of this run .*{words}"):
            run.load_model()


# ---- configuration, metrics --------------------------------------------------------------------------------


def test_broken_json_is_told_with_the_file(vae, tmp_path):
    run = Run(tmp_path)
    whole = json.loads((vae.workdir / "config.json").read_text())
    bad = ["", "[]", "null", "5", "{", "[" * 100_000, "{}", '{"hparams": null}', '{"hparams": []}', '{"hparams": {}}',
           '{"hparams": {"model": null}}', '{"hparams": {"model": ["vae"]}}', '{"hparams": {"model": "vea"}}',
           '{"hparams": {"seed": ' + "9" * 5000 + "}}", json.dumps({"hparams": {**whole["hparams"], "model": "ae"}}),
           json.dumps({"hparams": {**whole["hparams"], "jit_compile": "no"}}),
           json.dumps({"hparams": {**whole["hparams"], "latent_dim": -1}})]  # fmt: skip
    for text in bad:
        run.write_text("config.json", text)
        with pytest.raises(UserError, match="config.json"):
            run.read_hparams()
    for text in ("", "5", "[]", "null", '{"a": {"b": []}}', '{"a": true}', '{"a": 1', "NaN"):
        run.write_text("metrics.json", text)
        with pytest.raises(UserError, match="metrics.json"):
            run.read_metrics()
    for text in ("5\n", "[]\n", "{}\n", '{"epoch": 1}\n', '{"epoch": 1, "step": 4, "seconds": "x"}\n',
                 '{"epoch": 1.5, "step": 4, "seconds": 1}\n',
                 '{"epoch": -1, "step": 4, "seconds": 1}\n', '{"epoch": 1, "step"\n'):  # fmt: skip
        run.write_text("metrics.jsonl", text)
        with pytest.raises(UserError, match="metrics.jsonl"):
            run.read_history()
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match="config.json is a folder"):
        run.read_hparams()


# ---- checkpoints, history ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder that ae trained in for two epochs of four steps."""
    folder = tmp_path_factory.mktemp("trained")
    train("ae", folder, epochs=2)
    return folder


def test_a_checkpoint_that_no_training_writes_is_refused(trained, tmp_path):
    run = Run(shutil.copytree(trained, tmp_path / "run"))
    arrays, note = run.load_arrays("last")
    model = build("ae", adapted=False)
    model.compile("adam")
    assert checkpoint.restore(run, model, 4).steps == 8
    for changes in (
        dict(steps=-1), dict(epoch=10**30), dict(epoch=-1), dict(epoch=5), dict(steps=9), dict(steps=2), dict(wait="a"),
        dict(step_in_epoch=4, epoch=1), dict(seconds=None), dict(best_epoch=3), dict(best_value=True), dict(epoch=2.0),
        dict(stopped_early=0), dict(new_key=1), dict(seconds=-1.0),
    ):  # fmt: skip
        run.save_arrays("last", arrays, {**note, **changes})
        with pytest.raises(UserError, match=f"last.npz notes no position .*{list(changes)[0].split('_')[0]}"):
            checkpoint.restore(run, model, 4)
    run.save_arrays("last", arrays, {key: value for key, value in note.items() if key != "wait"})
    with pytest.raises(UserError, match="last.npz notes no position .*wait"):
        checkpoint.restore(run, model, 4)
    text = np.frombuffer(json.dumps({**note, "best_value": float("nan")}).encode(), np.uint8)
    with open(run.workdir / "checkpoints/last.npz", "wb") as file:
        np.savez(file, meta=text, **{f"{place:05d}": array for place, array in enumerate(arrays)})
    with pytest.raises(UserError, match="last.npz notes no position .*best_value"):
        checkpoint.restore(run, model, 4)
    step = next(place for place, variable in enumerate(checkpoint.state(model)) if variable is model.step)
    for changed_arrays, words in (
        *(([*arrays[:step], np.int64(value), *arrays[step + 1 :]], f"weights of step {value}") for value in (-3, 999)),
        (arrays[1:], "do not fit"), ([array.astype(str) for array in arrays], "do not fit"),
        ([array.astype(complex) for array in arrays], "do not fit"), ([], "do not fit"),
        ([array * np.nan if array.dtype.kind == "f" else array for array in arrays], "not finite"),
    ):  # fmt: skip
        run.save_arrays("last", changed_arrays, note)
        with pytest.raises(UserError, match=f"last.npz holds .*{words}"):
            checkpoint.restore(run, model, 4)
    (run.workdir / "checkpoints/last.npz").write_bytes(b"")
    with pytest.raises(UserError, match="last.npz is not a readable checkpoint"):
        checkpoint.restore(run, model, 4)


def test_best_weights_that_are_lost_or_damaged_are_told_before_training(trained, tmp_path):
    run = Run(shutil.copytree(trained, tmp_path / "run"))
    arrays, note = run.load_arrays("best")
    run.save_arrays("best", arrays[1:], note)
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="best.npz holds .* do not fit"):
        train("ae", tmp_path / "run", epochs=3)
    (tmp_path / "run/checkpoints/best.npz").unlink()
    with pytest.raises(UserError, match="best.npz does not exist"):
        train("ae", tmp_path / "run", epochs=3)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_a_history_that_is_cut_is_refused_and_one_that_is_missing_told(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run/metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for text in ("", lines[0], lines[1] + lines[0], lines[0] + lines[1][:20]):
        path.write_text(text)
        with pytest.raises(UserError, match="metrics.jsonl (does not end with epoch 2|is not a readable history)"):
            train("ae", tmp_path / "run", epochs=3)
        assert path.read_text() == text
    path.unlink()
    train("ae", tmp_path / "run", epochs=3)
    assert "no record of the epochs up to 2: the history starts at epoch 3" in capsys.readouterr().err
    assert [line["epoch"] for line in history(tmp_path / "run")] == [3]


def test_a_run_whose_files_or_folders_cannot_be_written_is_refused_at_once(vae, tmp_path):
    for name in ("config.json", "flags.cfg", "metrics.json", "metrics.jsonl", "model.keras"):
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=f"{name} is a folder"):
            Run(tmp_path).prepare()
        (tmp_path / name).rmdir()
    for name in ("checkpoints", "figures", "tensorboard"):
        (tmp_path / name).write_text("x")
        with pytest.raises(UserError, match=f"{name} is a file"):
            Run(tmp_path).prepare()
        (tmp_path / name).unlink()
    Run(tmp_path).prepare()
    assert not list(tmp_path.iterdir())


# ---- errors that nobody foresaw ----------------------------------------------------------------------------


def test_any_error_is_one_line_and_its_traceback_is_kept_in_the_run(vae, tmp_path, capsys):
    def failing(argv):
        for word in argv:
            launch.works_in(word)
        raise RuntimeError("one\ntwo \x1b[31m \udcff " + "x" * 5000)

    def line():
        out, err = capsys.readouterr()
        (found,) = [text for text in err.splitlines() if text]
        assert found.startswith("pae_zoo: error: RuntimeError: one two \\x1b[31m \\udcff xx") and len(found) < 1800
        return found

    assert launch.run(failing, []) == 1
    assert "--verbosity=1" in line()
    assert launch.run(failing, [str(tmp_path / "new")]) == 1  # a folder that is no run gets no file
    assert "--verbosity=1" in line() and not list(tmp_path.iterdir())
    run = Run(tmp_path / "run")
    run.write_text("config.json", "{}")
    assert launch.run(failing, [str(run.workdir)]) == 1
    assert f"The traceback is in {run.workdir / 'error.txt'}" in line()
    assert "raise RuntimeError" in (run.workdir / "error.txt").read_text()
    assert launch.run(failing, ["--verbosity=1"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_names_that_are_no_text_can_be_printed(capsys):
    assert launch.run(lambda argv: print("\udcff"), []) == 0
