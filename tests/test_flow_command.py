"""The command that fits a flow to rows of one's own."""

import csv
import json

import keras
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from pae_zoo import flow
from pae_zoo.experiment import launch

COVARIANCE = np.array([[2.0, 1.2], [1.2, 1.0]])


@pytest.fixture
def rows(tmp_path):
    x = np.random.default_rng(0).multivariate_normal([3.0, -1.0], COVARIANCE, size=1200).astype(np.float32)
    np.savez(tmp_path / "codes.npz", codes=x, code_std=np.ones_like(x))
    return tmp_path / "codes.npz"


def test_codes_of_apply_get_a_density_with_scores_samples_and_pictures(rows, tmp_path, capsys):
    target = tmp_path / "flow"
    flags = [f"--dataset=npz:{rows}", f"--workdir={target}", "--density=flow", "--depth=1", "--units=8", "--epochs=2",
             "--num_samples=500"]  # fmt: skip
    assert launch.run(flow.main, flags) == 0
    metrics = json.loads((target / "metrics.json").read_text())
    entropy = multivariate_normal([0, 0], COVARIANCE).entropy()
    assert metrics["test/nll"] == pytest.approx(entropy, abs=0.25) and metrics["num_train"] == 917
    with open(target / "scores.csv", newline="") as file:
        scores = [float(row["nll"]) for row in csv.DictReader(file)]
    assert np.mean(scores) == pytest.approx(metrics["test/nll"], rel=1e-6)
    with np.load(target / "samples.npz") as file:
        assert file["x"].shape == (500, 2) and abs(file["x"].mean(axis=0) - [3.0, -1.0]).max() < 0.4
    model = keras.models.load_model(target / "density.keras")
    assert np.isfinite(model.log_prob(np.zeros((2, 2), np.float32))).all()
    assert {path.name for path in (target / "figures").iterdir()} == {"curve.png", "scatter.png"}
    assert launch.run(flow.main, flags) == 2 and "exists; give a new name" in capsys.readouterr().err


@pytest.mark.parametrize("flags, words", [
    ([], "--dataset is needed"),
    (["--dataset=digits"], "takes rows of numbers"),
    (["--dataset=npz:{rows}", "--density=gaussian", "--depth=2"], "--depth has no effect"),
    (["--dataset=npz:missing.npz"], "missing.npz"),
])  # fmt: skip
def test_mistakes_are_told_in_a_line_and_nothing_is_written(rows, tmp_path, capsys, flags, words):
    given = [flag.format(rows=rows) for flag in flags]
    assert launch.run(flow.main, [*given, f"--workdir={tmp_path / 'flow'}"]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error and not (tmp_path / "flow").exists()
