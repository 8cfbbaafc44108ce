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

BEFORE = Path(__file__).resolve().parents[1] / "fixtures" / "before"
# Their steps depend on how many there are in all: these runs were of two epochs, and stopped after one.
INTERRUPTED = ("ensemble_vae", "pae", "rbf_vae")
RUNS = sorted(path.name for path in BEFORE.iterdir())


def test_every_model_has_a_run_of_before():
    assert set(models.MODULES) <= set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_a_model_of_before_predicts_the_same(name):
    expected = np.load(BEFORE / name / "expected.npz")
    model = keras.saving.load_model(BEFORE / name / "saved.keras")
    np.testing.assert_allclose(model(expected["x"]), expected["call"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", some(RUNS, ["lae", "vae"]))
def test_a_run_of_before_goes_on_and_is_evaluated(name, tmp_path):
    run = shutil.copytree(BEFORE / name / "run", tmp_path / "run")
    if name not in INTERRUPTED:
        shutil.copyfile(BEFORE / name / "saved.keras", run / "model.keras")
    assert launch.run(main.main, [f"--flagfile={run / 'flags.cfg'}", f"--workdir={run}", "--epochs=2"]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert launch.run(evaluate.main, [f"--workdir={run}", "--tasks=reconstruction", "--ood_bootstrap=7"]) == 0
