"""Work directories and outputs at URLs: trained, gone on with, evaluated and applied there, one command at a time."""

import json
import os
import subprocess
import sys
import time

import fsspec
import numpy as np
import pytest

from pae_zoo import apply, evaluate, main
from pae_zoo.core import remote
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import launch, mirrors

TRAIN = ["--model=ae", "--dataset=digits", "--latent_dim=2", "--hidden_units=8", "--tasks=reconstruction",
         "--workdir=memory://b/runs/ae"]  # fmt: skip


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setenv(remote.CACHE, str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def names(system, root="/b"):
    return {path.removeprefix(f"{root}/") for path in system.find(root)}


def test_a_run_is_trained_at_its_url(bucket, capsys):
    assert launch.run(main.main, [*TRAIN, "--epochs=1"]) == 0
    told = capsys.readouterr().out
    assert "-> memory://b/runs/ae" in told and "more files written" in told and "pae_zoo-" not in told
    assert {"runs/ae/config.json", "runs/ae/model.keras", "runs/ae/checkpoints/last.npz"} <= names(bucket)
    assert not any(name.endswith(mirrors.LOCK) for name in names(bucket))


@pytest.mark.full
def test_a_run_is_gone_on_with_and_used_at_its_url(bucket, tmp_path):
    assert launch.run(main.main, [*TRAIN, "--epochs=1"]) == 0
    first = json.loads(bucket.cat_file("/b/runs/ae/metrics.json"))
    assert launch.run(main.main, [*TRAIN, "--epochs=2"]) == 0
    assert json.loads(bucket.cat_file("/b/runs/ae/metrics.json"))["train/steps"] == 2 * first["train/steps"]
    # As the same run on this machine.
    here = [word for word in TRAIN if not word.startswith("--workdir")]
    assert launch.run(main.main, [*here, "--epochs=2", f"--workdir={tmp_path / 'run'}"]) == 0
    expected = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert json.loads(bucket.cat_file("/b/runs/ae/metrics.json"))["test/mse"] == expected["test/mse"]
    assert launch.run(evaluate.main, ["--workdirs=memory://b/runs/*", "--tasks=generation"]) == 0
    assert "generation/sample_mean" in json.loads(bucket.cat_file("/b/runs/ae/metrics.json"))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((5, 8, 8, 1), np.float32))
    bucket.put_file(str(tmp_path / "x.npy"), "/b/x.npy")
    words = ["--workdir=memory://b/runs/ae", "--input=npy:memory://b/x.npy", "--out", "memory://b/found/codes.npz"]
    assert launch.run(apply.main, words) == 0
    bucket.get_file("/b/found/codes.npz", str(tmp_path / "codes.npz"))
    assert np.load(tmp_path / "codes.npz")["codes"].shape == (5, 2)


def test_changes_are_copied_in_their_order_and_what_is_gone_is_removed(bucket, tmp_path, monkeypatch):
    mirror = mirrors.Mirror("memory://b/run", tmp_path / "run", writes=True)
    sent = []
    put = type(bucket).put_file
    monkeypatch.setattr(type(bucket), "put_file", lambda self, one, two, **more: (sent.append(two),
                                                                                  put(self, one, two, **more))[1])
    for number, name in enumerate(("last.npz", "best.npz")):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text(name)
        os.utime(tmp_path / "run" / name, (0, 10 - number))
    (tmp_path / "run" / ".writing-0").write_text("half")
    assert mirror.update() == 2 and sent == ["/b/run/best.npz", "/b/run/last.npz"]
    assert mirror.update() == 0
    (tmp_path / "run" / "best.npz").unlink()
    assert mirror.update() == 1 and names(bucket) == {"run/last.npz", "run.in-use"}
    mirror.leave()
    assert names(bucket) == {"run/last.npz"}


def test_one_command_at_a_time(bucket, tmp_path, capsys):
    bucket.pipe_file("/b/runs/ae.in-use", json.dumps({"by": "other:1", "at": time.time()}).encode())
    assert launch.run(main.main, TRAIN) == 2
    assert "memory://b/runs/ae is in use by other:1" in capsys.readouterr().err
    assert names(bucket) == {"runs/ae.in-use"}
    # One that has given no sign for long is gone.
    bucket.pipe_file("/b/runs/ae.in-use", json.dumps({"by": "other:1", "at": time.time() - 1000}).encode())
    mirrors.Mirror("memory://b/runs/ae", tmp_path / "a", writes=True).leave()
    assert not names(bucket)


def test_what_cannot_be_copied_back_is_kept_and_told(bucket, capsys, monkeypatch):
    def broken(*words, **more):
        raise OSError("the network is down")

    begun = mirrors.Mirrors()
    words = begun.replace(["--workdir=memory://b/run", "--tasks=ood", "--data_dir=memory://b/data"])
    local = words[0].partition("=")[2]
    assert words[1:] == ["--tasks=ood", "--data_dir=memory://b/data"]
    os.makedirs(local)
    with open(f"{local}/metrics.json", "w") as file:
        file.write("{}")
    with monkeypatch.context() as patched:
        patched.setattr(type(bucket), "put_file", broken)
        problem = begun.finish()
    assert "memory://b/run" in problem and "the network is down" in problem and local in problem
    assert os.path.exists(f"{local}/metrics.json")


@pytest.mark.parametrize("words, told", [
    (["--workdirs=memory://b/runs/*"], "matches no folder"),
    (["--workdir=nowhere://b/run"], "cannot be opened"),
    (["--workdir=memory://"], "names no folder in it"),
])
def test_places_that_are_none_are_told(bucket, words, told, capsys):
    assert launch.run(evaluate.main, [*words, "--tasks=reconstruction"]) == 2
    assert told in capsys.readouterr().err


def test_a_worker_of_a_cluster_writes_nothing(bucket, tmp_path, monkeypatch):
    cluster = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    begun = mirrors.Mirrors()
    local = begun.replace(["--workdir", "memory://b/run"])[0].partition("=")[2]
    os.makedirs(local)
    with open(f"{local}/config.json", "w") as file:
        file.write("{}")
    assert begun.finish() is None and not names(bucket)


def test_flags_in_keep_stay(bucket):
    begun = mirrors.Mirrors()
    assert begun.replace(["--out=memory://b/preset"], keep=("out",)) == ["--out=memory://b/preset"]
    plain = ["--workdir", "runs/a", "--out"]
    assert begun.replace(plain) == plain
    assert begun.finish() is None


def test_a_url_without_its_package_is_told(bucket):
    with pytest.raises(UserError, match="s3fs|cannot be opened"):
        if __import__("importlib.util").util.find_spec("s3fs"):
            pytest.skip("s3fs is installed")
        remote.file_system("s3://b/run")


@pytest.mark.full
def test_a_run_that_is_killed_goes_on_from_the_last_copy(tmp_path):
    """Three processes: one that is killed while it trains, one that ends the run, one that never stopped."""
    code = ("import sys; from pae_zoo import main; from pae_zoo.experiment import launch, mirrors; "
            "mirrors.INTERVAL = 0.5; sys.exit(launch.run(main.main, sys.argv[1:]))")  # fmt: skip
    flags = [word for word in TRAIN if not word.startswith("--workdir")] + ["--epochs=60", "--checkpoint_seconds=0.2"]
    place = tmp_path / "store" / "run"
    begun = subprocess.Popen([sys.executable, "-c", code, *flags, f"--workdir=file://{place}"])
    while not (place / "checkpoints" / "last.npz").exists():
        assert begun.poll() is None
        time.sleep(0.2)
    begun.kill()
    begun.wait()
    assert not (place / "metrics.json").exists() and (place.parent / "run.in-use").exists()
    for workdir in (f"file://{place}", str(tmp_path / "whole")):
        time.sleep(3)  # the sign of the one that was killed grows old
        subprocess.run([sys.executable, "-c", code, *flags, f"--workdir={workdir}"], check=True)
    ended, whole = (json.loads((folder / "metrics.json").read_text()) for folder in (place, tmp_path / "whole"))
    assert ended["test/mse"] == whole["test/mse"] and ended["train/steps"] == whole["train/steps"]


@pytest.mark.full
def test_a_real_server_of_s3(tmp_path, monkeypatch):
    """Needs s3fs and moto with its server."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "test"),
                        ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_DEFAULT_REGION", "us-east-1"),
                        (remote.CACHE, str(tmp_path / "cache"))):
        monkeypatch.setenv(name, value)
    try:
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("zoo")
        system.pipe_file("zoo/data/rows.csv", b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i % 7) for i in range(80)))
        words = ["--model=ae", "--dataset=csv:s3://zoo/data/rows.csv", "--latent_dim=1", "--hidden_units=4",
                 "--tasks=reconstruction", "--workdir=s3://zoo/runs/ae"]  # fmt: skip
        assert launch.run(main.main, [*words, "--epochs=1"]) == 0
        assert launch.run(main.main, [*words, "--epochs=2"]) == 0
        system.invalidate_cache()
        assert json.loads(system.cat_file("zoo/runs/ae/metrics.json"))["train/epochs"] == 2
        assert not system.exists("zoo/runs/ae.in-use")
        assert launch.run(evaluate.main, ["--workdirs=s3://zoo/runs/*", "--tasks=generation"]) == 0
        assert launch.run(evaluate.main, ["--workdir=s3://zoo/runs/none", "--tasks=generation"]) == 2
    finally:
        server.stop()
