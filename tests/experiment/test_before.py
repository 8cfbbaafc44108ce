"""Runs and models that earlier code wrote are loaded, predict the same, are evaluated and go on."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from tiers import some

from pae_zoo import evaluate, main, models
from pae_zoo.experiment import launch
from pae_zoo.experiment.workdir import Run

BEFORE = Path(__file__).resolve().parents[1] / "fixtures" / "before"
# Their steps depend on how many there are in all: these runs were of two epochs, and stopped after one.
INTERRUPTED = ("ensemble_vae", "pae", "rbf_vae")
# Models that came later have no run of before.
LATER = {"mmd_vae", "rae", "vlae_published", "wae"}
# Settings of a model that are a model of its own now.
IMITATING = [name for name in models.PUBLISHED if models.find(name.removesuffix("_published")).MODEL.former]
RUNS = sorted(path.name for path in BEFORE.iterdir())


def test_every_model_has_a_run_of_before():
    assert set(models.every()) - LATER <= set(RUNS)


def flags_of_now(name, run):
    """The flags of a run of before; those with which a model imitated published code chose the model `name`."""
    lines = (run / "flags.cfg").read_text().splitlines()
    if name not in models.PUBLISHED:
        return lines
    former = models.find(name.removesuffix("_published")).MODEL.former
    gone = {*former.settings} - {*former.kept} | {"model"}
    return [f"--model={name}", *(line for line in lines if line.lstrip("-").split("=")[0] not in gone)]


@pytest.mark.parametrize("name", RUNS)
def test_a_model_of_before_predicts_the_same(name):
    expected = np.load(BEFORE / name / "expected.npz")
    model = keras.saving.load_model(BEFORE / name / "saved.keras")
    assert type(model) is models.find(name).MODEL
    np.testing.assert_allclose(model(expected["x"]), expected["call"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", some(RUNS, ["lae", "lae_published", "vae"]))
def test_a_run_of_before_goes_on_and_is_evaluated(name, tmp_path):
    run = shutil.copytree(BEFORE / name / "run", tmp_path / "run")
    if name not in INTERRUPTED:
        shutil.copyfile(BEFORE / name / "saved.keras", run / "model.keras")
    (tmp_path / "now.cfg").write_text("\n".join(flags_of_now(name, run)))
    assert launch.run(main.main, [f"--flagfile={tmp_path / 'now.cfg'}", f"--workdir={run}", "--epochs=2"]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert launch.run(evaluate.main, [f"--workdir={run}", "--tasks=reconstruction", "--ood_bootstrap=7"]) == 0


@pytest.mark.parametrize("name", some(IMITATING, ["bbb_ae_published"]))
def test_a_finished_run_of_before_that_imitated_is_evaluated_by_the_model_of_now(name, tmp_path):
    run = shutil.copytree(BEFORE / name / "run", tmp_path / "run")
    shutil.copyfile(BEFORE / name / "saved.keras", run / "model.keras")
    assert Run(run).read_hparams().model == name and type(Run(run).load_model()) is models.find(name).MODEL
    assert launch.run(evaluate.main, [f"--workdir={run}", "--tasks=reconstruction"]) == 0


@pytest.mark.parametrize("name", IMITATING)
def test_flags_of_before_with_which_a_model_imitated_name_the_model_of_now(name, tmp_path, capsys):
    assert launch.run(main.main, [f"--flagfile={BEFORE / name / 'run' / 'flags.cfg'}", f"--workdir={tmp_path}"]) == 2
    told = capsys.readouterr().err
    assert f"take --model={name}" in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_finished_run_of_another_version_is_read(tmp_path):
    """A model may have more weights now than the version that wrote its run counted."""
    before = BEFORE / "vae"
    run = Run(tmp_path / "run")
    shutil.copytree(before / "run", run.workdir)
    shutil.copy(before / "saved.keras", run.model_path)
    run.write_json("metrics.json", {"train/num_weights": 1})
    assert type(run.load_model()).__name__ == "VAE"
