"""Sweeps by successive halving: a run's epochs are reported one by one, and what lags behind is ended early."""

import json
import subprocess
import sys
import time

import pytest

from pae_zoo import sweep
from pae_zoo.experiment import launch, sweep_asha, sweep_plans

RUN = """
import json, signal, sys, time
def end(*_):
    open("{place}/ended", "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
with open("{place}/metrics.jsonl", "w") as file:
    for epoch in (1, 2):
        file.write(json.dumps({{"epoch": epoch, "{key}": 10.0 / epoch}}) + chr(10))
        file.flush()
        time.sleep(0.1)
print("the last line")
time.sleep({wait})
sys.exit({status})
"""


@pytest.fixture
def follow(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_asha, "LOOK", 0.02)

    def begun(wait=0.0, status=0, key="valid/loss"):
        code = RUN.format(place=tmp_path, wait=wait, status=status, key=key)

        def begin(flags, workdir, log, jobs, prepare):
            with open(log, "w") as file:
                return subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file)

        monkeypatch.setattr(sweep_asha, "begin", begin)
        return sweep_asha.Follower([], tmp_path, tmp_path / "log")

    return begun


def test_epochs_are_reported_one_by_one_and_then_the_end(follow):
    run = follow()
    assert [run.next() for _ in range(3)] == [
        {"epoch": 1, "loss": 10.0, "done": False}, {"epoch": 2, "loss": 5.0, "done": False},
        {"epoch": 2, "loss": 5.0, "done": True}]  # fmt: skip


def test_a_run_that_fails_says_why(follow):
    run = follow(status=2)
    run.next(), run.next()
    with pytest.raises(RuntimeError, match="status 2: the last line"):
        run.next()


def test_a_run_without_validation_cannot_be_compared(follow):
    run = follow(key="train/loss")
    with pytest.raises(RuntimeError, match="no valid/loss to compare by"):
        run.next()
    run.end()


def test_a_run_that_lags_behind_is_told_to_end(follow, tmp_path):
    run = follow(wait=60)
    run.next(), run.next()
    start = time.monotonic()
    run.end()
    assert (tmp_path / "ended").exists() and time.monotonic() - start < 30


@pytest.mark.parametrize("words, told", [
    (["--search=asha"], "give --engine=ray with it"),
    (["--search=asha", "--engine=ray", "--", "--max_steps=5"], "leave --max_steps out"),
])
def test_what_does_not_go_together_is_told(tmp_path, capsys, words, told):
    assert launch.run(sweep.main, [f"--out={tmp_path / 'out'}", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_run_that_was_ended_early_is_known_again(tmp_path):
    plan = sweep_plans.Plan((), 0, tmp_path, [], None)
    assert sweep_asha.stopped(plan) is None
    (tmp_path / sweep_asha.MARK).write_text(json.dumps({"epoch": 3, "valid/loss": 2.5}))
    assert sweep_asha.stopped(plan) == "ended early after epoch 3: valid/loss 2.5"
    (tmp_path / "metrics.json").write_text(json.dumps({"train/steps_asked": 3}))
    assert sweep_asha.stopped(plan) is None


@pytest.mark.full
def test_ray_tune_ends_the_worst_early(tmp_path, capsys):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.tune")
    words = [f"--out={tmp_path}", "--grid", "learning_rate=3e-3,1e-6,1e-7", "--engine=ray", "--search=asha", "--cpus=1",
             "--", "--model=ae", "--dataset=digits", "--hidden_units=16", "--latent_dim=2", "--epochs=40",
             "--nojit_compile", "--tasks=reconstruction"]  # fmt: skip
    try:
        assert launch.run(sweep.main, words) == 0
        out = capsys.readouterr().out
        assert (tmp_path / "learning_rate=3e-3" / "0" / "metrics.json").exists() and "ended early after epoch" in out
        assert "| 3e-3 | 1 |" in out
        assert launch.run(sweep.main, words) == 0
        assert "already finished" in capsys.readouterr().out
    finally:
        ray.shutdown()
