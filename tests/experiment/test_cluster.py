"""What a training is shared by: TF_CONFIG, batches, flags that differ, workers that go."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pae_zoo import main
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import cluster, launch

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "local_cluster.py"
FLAGS = ["--model=vae", "--dataset=digits", "--latent_dim=2", "--hidden_units=8", "--num_train=128", "--batch_size=32",
         "--tasks=reconstruction", "--device=cpu"]


def config(index, kind="worker", **jobs):
    return json.dumps({"cluster": jobs or {"worker": ["a:1", "b:2"]}, "task": {"type": kind, "index": index}})


def test_the_place_of_a_process():
    assert cluster.read_task(config(1)) == cluster.Task(1, 2)
    found = cluster.read_task(config(0, chief=["a:1"], worker=["b:2"]))
    assert found == cluster.Task(1, 2) and not found.is_chief
    assert cluster.read_task(config(0, "chief", chief=["a:1"], worker=["b:2"])).is_chief


@pytest.mark.parametrize("text, told", [
    ("{no", "is no JSON"), ("3", "describes no cluster"), ("{}", "describes no cluster"),
    (config(0, worker=[]), "describes no cluster"), (config(0, ps=["a:1"]), "describes no cluster"),
    (config(2), "task worker 2, and its cluster has worker 0, worker 1"), (config(0, "chief"), "task chief 0"),
])
def test_a_place_that_is_none_is_told_in_one_line(text, told, monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", text)
    assert launch.run(main.main, FLAGS) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and told in lines[0]


def test_many_processes_need_their_places(monkeypatch, capsys):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert launch.run(main.main, [*FLAGS, "--strategy=multi_worker"]) == 2
    assert "needs the variable TF_CONFIG" in capsys.readouterr().err


def test_mirrored_needs_devices(tmp_path, capsys):
    assert launch.run(main.main, [*FLAGS, "--strategy=mirrored", f"--workdir={tmp_path / 'run'}"]) == 2
    assert "takes two devices or more" in capsys.readouterr().err


def test_a_batch_that_replicas_do_not_divide():
    class Three:
        num_replicas_in_sync = 3

    shared = cluster.Shared(Three())  # pyright: ignore[reportArgumentType]
    cluster.check_batch(6, shared)
    with pytest.raises(UserError, match="--batch_size=64 is not divided by 3 replicas. .* such as 63"):
        cluster.check_batch(64, shared)
    with pytest.raises(UserError, match="such as 3"):
        cluster.check_batch(2, shared)


def test_the_tool_tells_how_it_is_called():
    done = subprocess.run([sys.executable, TOOL, "two", "--", "true"], capture_output=True, text=True)
    assert done.returncode == 2 and "Usage" in done.stderr


def test_the_tool_gives_each_process_its_place_and_the_status_of_the_first_to_fail():
    code = ("import json, os, sys; i = json.loads(os.environ['TF_CONFIG'])['task']['index']; "
            "print('here', i); sys.exit(3 * i)")
    done = subprocess.run([sys.executable, TOOL, "2", "--", sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 3 and sorted(done.stdout.splitlines()) == ["[1] here 1", "here 0"]


def shared_run(workdir, *more, count=2):
    command = [sys.executable, TOOL, str(count), "--", sys.executable, "-m", "pae_zoo.main", *FLAGS,
               f"--workdir={workdir}", *more]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900, cwd=ROOT)


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [[value for key, value in line.items() if key != "seconds"] for line in lines]


@pytest.mark.full
def test_two_processes_train_as_one_and_resume_bit_for_bit(tmp_path):
    done = shared_run(tmp_path / "two", "--epochs=2")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "2 replicas in 2 processes" in done.stdout
    assert launch.run(main.main, [*FLAGS, "--strategy=one", "--epochs=2", f"--workdir={tmp_path / 'one'}"]) == 0
    for one, two in zip(losses(tmp_path / "one"), losses(tmp_path / "two")):
        assert one == pytest.approx(two, rel=1e-5)
    assert shared_run(tmp_path / "parts", "--epochs=1").returncode == 0
    assert shared_run(tmp_path / "parts", "--epochs=2").returncode == 0
    assert losses(tmp_path / "parts") == losses(tmp_path / "two")


@pytest.mark.full
def test_a_process_with_other_flags_is_refused_by_all(tmp_path):
    code = ("import json, os, sys; from pae_zoo import main; from pae_zoo.experiment import launch; "
            "i = json.loads(os.environ['TF_CONFIG'])['task']['index']; "
            "sys.exit(launch.run(main.main, sys.argv[1:] + [f'--learning_rate=0.00{i + 1}']))")
    done = subprocess.run([sys.executable, TOOL, "2", "--", sys.executable, "-c", code, *FLAGS,
                           f"--workdir={tmp_path / 'run'}"], capture_output=True, text=True, timeout=900, cwd=ROOT)
    told = [line for line in done.stdout.splitlines() if "pae_zoo: error" in line]
    assert done.returncode == 2 and len(told) == 2
    assert all("Process 1 of the cluster has other flags than process 0" in line for line in told)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.full
def test_processes_of_other_speeds_take_the_same_steps(tmp_path):
    """How many steps a call takes is chosen by the clock: by that of the first process for all."""
    code = ("import json, os, sys; from pae_zoo import main; from pae_zoo.experiment import fitting, launch; "
            "i = json.loads(os.environ['TF_CONFIG'])['task']['index']; "
            "fitting.steps_per_call = lambda model, x: 3 + i; sys.exit(launch.run(main.main, sys.argv[1:]))")
    done = subprocess.run([sys.executable, TOOL, "2", "--", sys.executable, "-c", code, *FLAGS, "--epochs=1",
                           f"--workdir={tmp_path / 'run'}"], capture_output=True, text=True, timeout=900, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.full
def test_a_killed_process_ends_the_run_with_a_checkpoint_and_one_line(tmp_path):
    code = ("import json, os, signal, sys; from pae_zoo import main; from pae_zoo.experiment import fitting, launch; "
            "index = json.loads(os.environ['TF_CONFIG'])['task']['index']; write = fitting.Keeper.on_epoch_end\n"
            "def end(self, epoch, logs=None):\n"
            "    write(self, epoch, logs)\n"
            "    if index and epoch == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
            "fitting.Keeper.on_epoch_end = end; sys.exit(launch.run(main.main, sys.argv[1:]))")
    start = time.monotonic()
    done = subprocess.run([sys.executable, TOOL, "2", "--", sys.executable, "-c", code, *FLAGS, "--epochs=200",
                           f"--workdir={tmp_path / 'run'}"], capture_output=True, text=True, timeout=900, cwd=ROOT)
    told = [line for line in done.stdout.splitlines() if line.startswith("pae_zoo: error")]
    # Of both processes the tool may meet either first.
    assert done.returncode in (2, 128 + signal.SIGKILL) and time.monotonic() - start < 300
    assert len(told) == 1 and "a process of the cluster was lost after step" in told[0]
    assert (tmp_path / "run" / "checkpoints" / "last.npz").exists()
