"""`benchmark.py vlae --cases=budget`: trainings are not repeated, tables hold means over seeds, one short training."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import _vlae_budget


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(
        results=str(tmp_path / "results.json"), seeds=2, first_seed=0, settings=("gaussian",),
        contenders=("vae", "vlae search=cg"), budgets=(10, 30), learning_rate=1e-3, test_images=100, data_dir="")


def test_trainings_are_kept_and_not_repeated(options, capsys):
    asked = []

    def apart(function, setting, variant, seed, args):
        assert function is _vlae_budget.measure
        asked.append((setting, variant, seed))
        return [{"budget": budget, "steps": 10 * budget, "ms": 2.0, "elbo": 100.0 + seed, "log_likelihood": 101.0,
                 "refined_elbo": 110.0, "refined_log_likelihood": 111.0} for budget in args.budgets]

    found = _vlae_budget.compare(options, apart)
    assert len(asked) == 4
    assert found["budget/gaussian/30/vlae search=cg"]["elbo"] == 100.5
    text = capsys.readouterr().out
    assert "budget: gaussian, 30 s of processor time, seeds 0 to 1" in text and "100.5 (0.5)" in text
    assert len(json.loads(Path(options.results).read_text())) == 8
    options.seeds = 3
    _vlae_budget.compare(options, apart)
    assert asked[4:] == [("gaussian", "vae", 2), ("gaussian", "vlae search=cg", 2)]


@pytest.mark.full
@pytest.mark.data
def test_a_short_training_gives_bounds(options, data_dir):
    options.data_dir, options.budgets = str(data_dir), (1,)
    (row,) = _vlae_budget.measure("gaussian", "vae", 0, options)
    assert row["steps"] >= 40 and row["refined_elbo"] > row["elbo"]
    assert np.isfinite(row["log_likelihood"]) and 0 <= row["unreliable"] <= 1


@pytest.mark.full
@pytest.mark.data
def test_schedules_are_told_how_many_steps_a_budget_holds(options, data_dir, monkeypatch):
    options.data_dir, options.budgets = str(data_dir), (1, 2)
    monkeypatch.setattr(_vlae_budget, "PILOT", 40)
    short, long = _vlae_budget.measure("gaussian", "vae lr_schedule=cosine", 0, options)
    assert (short["budget"], long["budget"]) == (1, 2) and 40 <= short["steps"] < long["steps"]
