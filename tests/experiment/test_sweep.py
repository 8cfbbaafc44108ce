"""Sweeps: the grid, what is skipped and resumed, the tables, and how failures and signals are told."""

import csv
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pae_zoo import sweep
from pae_zoo.experiment import launch, sweep_plans, sweep_tables
from pae_zoo.experiment.workdir import Run


def run(argv):
    """As `python -m pae_zoo.sweep` does."""
    return launch.run(sweep.main, argv)


def test_grid_is_a_product_in_order():
    points = sweep_plans.parse_grid("model=ae,vae latent_dim=2,8")
    assert points[1] == (("model", "ae"), ("latent_dim", "8")) and len(points) == 4
    points = sweep_plans.parse_grid("hidden_units=512,256|64")
    assert points == [(("hidden_units", "512,256"),), (("hidden_units", "64"),)]
    assert sweep_plans.parse_grid("") == [()]


BAD = [
    (["--grid", "latent_dim"], "is not name=value"),
    (["--grid", "latent_dim=2,"], "is not name=value"),
    (["--grid", "latent_dim=2 latent_dim=3"], "twice"),
    (["--grid", "latent_dim=2,2"], "twice"),
    (["--grid", "seed=1,2"], "use --seeds"),
    (["--seeds", "0,x"], "list of different integers"),
    (["--seeds", "0,0"], "list of different integers"),
    (["--grid", "latent_dims=2"], "unknown flag --latent_dims"),
    (["--grid", "latent_dim=0"], "out of range"),
    (["--grid", "model=vea"], "vea"),
    (["--grid", " ".join(f"f{i}=1,2,3,4,5,6,7,8,9,0" for i in range(12))], "has 1000000000000 points"),
    (["--grid", f"dataset=npz:{'n' * 300}"], "at most 200 are possible"),
    (["--out=/dev/null/x"], "--out=/dev/null/x: /dev/null is no folder"),
    (["--out=~no_such_user_7/x"], "there is no home folder ~no_such_user_7"),
    (["--", "--workdir=x"], "use --out"),
    (["--", "stray"], "unexpected word"),
    (["--wrong"], "unknown flag --wrong"),
    (["--out="], "--out is needed"),
]


@pytest.mark.parametrize("argv, message", BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_bad_input_is_one_line_and_status_2(argv, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert run([f"--out={out}", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not out.exists()


def test_an_error_that_nobody_foresaw_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sweep, "run_all", lambda *args: 1 / 0)
    assert run([f"--out={tmp_path}"]) == 1
    assert capsys.readouterr().err == (
        "pae_zoo: error: ZeroDivisionError: division by zero. Give --verbosity=1 to see the traceback.\n")  # fmt: skip


class Launcher:
    """Stands for the launcher's process: writes what a finished run leaves, or fails."""

    def __init__(self):
        self.ran, self.failing = [], set()

    def __call__(self, runner, plan):
        self.ran.append(plan.label)
        if plan.label in self.failing:
            return "status 1: no luck"
        run = Run(plan.workdir)
        run.write_config(plan.hparams)
        value = plan.hparams.latent_dim + plan.seed
        run.merge_metrics({"test/mse": value, "test/note": "unsupported", "train/steps_asked": 1, "time/train_s": 9.0})
        return ""


@pytest.fixture
def launcher(monkeypatch):
    found = Launcher()
    monkeypatch.setattr(sweep_plans.Runner, "run", lambda runner, plan: found(runner, plan))
    monkeypatch.setattr(sweep_plans.signal, "signal", lambda *args: None)
    return found


def call(out, *more, grid="latent_dim=2,8"):
    return run([f"--out={out}", "--grid", grid, "--seeds=0,1,5", *more, "--", "--dataset=digits", "--epochs=5"])


def read_csv(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_tables_hold_mean_and_deviation_over_seeds(launcher, tmp_path, capsys):
    assert call(tmp_path) == 0
    text = (tmp_path / "table.md").read_text()
    assert text in capsys.readouterr().out
    # Values 2, 3, 7: mean 4, variance (4 + 1 + 9) / 2.
    assert text.splitlines()[2] == "| 2 | 3 | 4 ± 2.6 |"
    rows = read_csv(tmp_path / "table.csv")
    assert float(rows[0]["test/mse/std"]) == pytest.approx(7**0.5) and rows[1]["latent_dim"] == "8"
    runs = read_csv(tmp_path / "runs.csv")
    assert [row["seed"] for row in runs] == ["0", "1", "5"] * 2 and "time/train_s" not in runs[0]


def test_chosen_metrics(launcher, tmp_path, capsys):
    assert call(tmp_path, "--metrics=time/train_s") == 0
    assert "| 2 | 3 | 9 ± 0 |" in (tmp_path / "table.md").read_text()
    assert call(tmp_path, "--metrics=test/mse,test/emu") == 1
    assert "--metrics=test/emu" in capsys.readouterr().err


def test_finished_runs_are_skipped_and_failed_ones_tried_again(launcher, tmp_path, capsys):
    launcher.failing = {"latent_dim=8 seed=1"}
    assert call(tmp_path) == 1
    captured = capsys.readouterr()
    assert "failed: latent_dim=8 seed=1: status 1" in captured.err and "| 8 | 2 |" in captured.out
    assert len(launcher.ran) == 6
    launcher.failing, launcher.ran = set(), []
    assert call(tmp_path) == 0
    assert launcher.ran == ["latent_dim=8 seed=1"]


def test_a_raised_number_of_epochs_goes_on_and_other_flags_are_refused(launcher, tmp_path, capsys):
    flags = [f"--out={tmp_path}", "--grid", "latent_dim=2"]
    assert run([*flags, "--", "--epochs=5"]) == 0
    assert run([*flags, "--", "--epochs=6"]) == 0
    assert len(launcher.ran) == 2
    for other in ("--epochs=3", "--batch_size=7"):
        assert run([*flags, "--", other]) == 2
        error = capsys.readouterr().err
        assert "other flags" in error and len(error.splitlines()) == 1


def test_several_at_once_failures_tried_again_and_some_points(launcher, tmp_path, capsys):
    """Three jobs give the tables of one; a run that fails once is tried again; some points are the same each time."""
    assert call(tmp_path / "one") == 0 and call(tmp_path / "three", "--jobs=3") == 0
    assert (tmp_path / "one" / "table.md").read_text() == (tmp_path / "three" / "table.md").read_text()
    assert (tmp_path / "one" / "table.png").stat().st_size > 1000
    launcher.failing, launcher.ran = {"latent_dim=8 seed=1"}, []
    assert call(tmp_path / "tries", "--tries=3") == 1 and len(launcher.ran) == 8
    assert "tried again" in capsys.readouterr().out
    points = sweep_plans.parse_grid("latent_dim=1,2,3,4,5,6 epochs=1,2,3")
    some = sweep_plans.some_points(points, 5, 0)
    assert len(set(some)) == 5 and some == sweep_plans.some_points(points, 5, 0) != points[:5]
    assert sweep_plans.some_points(points, 0, 0) == points == sweep_plans.some_points(points, 99, 0)


def test_runs_at_once_share_the_cores(monkeypatch):
    monkeypatch.setattr(sweep_plans.os, "cpu_count", lambda: 8)
    assert sweep_plans._threads(3)["TF_NUM_INTRAOP_THREADS"] == "2" and sweep_plans._threads(1) == {}


def test_without_ray_its_package_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run([f"--out={tmp_path / 'out'}", "--engine=ray"]) == 2
    assert "pip install 'pae_zoo[ray]'" in capsys.readouterr().err


@pytest.mark.full
def test_ray_runs_them_and_tells_what_failed(tmp_path, capsys):
    """On this machine, in tasks of Ray: a run that ends well, and one whose data are not there."""
    ray = pytest.importorskip("ray")
    argv = [f"--out={tmp_path}", "--grid", f"dataset=digits,npz:{tmp_path}/none.npz", "--engine=ray",
            "--metrics=test/mse", "--", "--model=ae", "--smoke", "--nojit_compile",
            "--tasks=reconstruction"]  # fmt: skip
    try:
        assert run(argv) == 1
        found = capsys.readouterr()
        assert "dataset=digits seed=0: after" in found.out and "FAILED" in found.out and "none.npz" in found.err
        assert run([f"--out={tmp_path}", "--engine=ray", "--gpus=99"]) == 2
        assert "the cluster has" in capsys.readouterr().err
    finally:
        ray.shutdown()


def test_one_run_has_no_deviation():
    plan = sweep_plans.Plan((("a", "1"),), 0, Path("x"), [], None)
    metrics, rows = sweep_tables.summarise([plan], {Path("x"): {"m": 2.0}})
    assert rows == [{"a": "1", "runs": 1, "m/mean": 2.0, "m/std": None}]
    assert sweep_tables.markdown(metrics, rows).splitlines()[2] == "| 1 | 1 | 2 |"


@pytest.fixture
def handlers():
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


CHILD = "import signal, sys, time\nsignal.signal(15, lambda *a: sys.exit(143))\nprint('up', flush=True)\ntime.sleep(60)"


def test_a_signal_reaches_the_child_and_ends_the_sweep(handlers, monkeypatch, tmp_path, capsys):
    real = subprocess.Popen
    plan = sweep_plans.Plan((("latent_dim", "2"),), 0, tmp_path / "p" / "0", [], None)

    def popen(command, **kwargs):
        child = real([sys.executable, "-S", "-c", CHILD], **kwargs)
        while "up" not in plan.log.read_text():
            pass
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return child

    monkeypatch.setattr(sweep_plans.subprocess, "Popen", popen)
    assert sweep.run_all(tmp_path, [plan, plan], set(), []) == 143
    assert "stopped at latent_dim=2 seed=0" in capsys.readouterr().out


@pytest.mark.full
def test_real_runs_in_processes_of_their_own(handlers, tmp_path, capsys):
    flags = ["--smoke", "--nojit_compile", "--tasks=reconstruction", "--checkpoint_seconds=0"]
    argv = [f"--out={tmp_path}", "--grid", "model=ae", "--metrics=test/mse", "--", *flags]
    assert run(argv) == 0, (tmp_path / "model=ae" / "0.log").read_text()
    assert "1/1" in capsys.readouterr().out
    assert run(argv) == 0
    assert "already finished" in capsys.readouterr().out
