"""What more processes bring: samples a second of a training in one and two, rows a second of `apply`, and a forecast.

Cases: train (a vae of --hidden_units on random rows: one process, and two that share each batch, every process with
one thread; ideal is twice the first), apply (rows a second of `apply --part_rows`, in one process and two at once, each
on half of the rows), forecast (on paper: the measured step and the bytes of its gradient, summed in a ring over a
network: how many workers pay, at three bandwidths). Rates are wall time, without start-up: that of a training from its
second epoch on, that of apply from the difference of two numbers of rows. Nothing else should run meanwhile.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from command import ROOT, positive

from benchmarks._rounds import cores, load, table

DIMENSIONS, LATENTS, PART = 784, 16, 10_000
BANDWIDTHS = {"1 Gbit/s": 1e9 / 8, "10 Gbit/s": 1e10 / 8, "100 Gbit/s": 1e11 / 8}
WORKERS = (2, 4, 8, 16, 64)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
                            "TF_NUM_INTEROP_THREADS"), "1")

Cases = dict[str, dict[str, float]]


def add_arguments(parser) -> None:
    parser.add_argument("--rows", type=positive, default=60_000,
                        help="rows to train on and to apply to (default: 60000)")
    parser.add_argument("--hidden_units", default="512,256", help="units of the networks (default: 512,256)")
    parser.add_argument("--batch_size", type=positive, default=512, help="of all processes together (default: 512)")
    parser.add_argument("--epochs", type=positive, default=4,
                        help="epochs, of which the first does not count (default: 4)")


def run(args) -> Cases:
    if args.epochs < 2 or args.rows < 4 * args.batch_size:
        raise SystemExit("benchmark: --epochs takes 2 or more, since the first is left out, and --rows four batches.")
    print(f"{cores()} cores, load {load():.2f}; {args.rows} rows of {DIMENSIONS} values, batches of {args.batch_size}",
          flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = np.random.default_rng(0).random((args.rows, DIMENSIONS), np.float32)
        np.save(folder / "rows.npy", rows)
        one, weights = _train(folder, args, 1)
        two, _ = _train(folder, args, 2)
        cases: Cases = {"train": {"one": one, "two": two, "ratio": two / one}}
        _show("training", "samples/s", one, two, "two processes, a batch shared")
        first, second = _apply(folder, rows, 1), _apply(folder, rows, 2)
        cases["apply"] = {"one": first, "two": second, "ratio": second / first}
        _show("apply", "rows/s", first, second, "two processes, half of the rows each")
    step = args.batch_size / one
    cases["forecast"] = {"step_ms": 1e3 * step, "gradient_mb": 4e-6 * weights}
    print(f"forecast: a step of {1e3 * step:.1f} ms by one worker, a gradient of {4e-6 * weights:.1f} MB; gain of "
          "workers who share a batch of this size, and, in brackets, with a batch of this size each")
    body = []
    for name, bandwidth in BANDWIDTHS.items():
        gains = [gain(step, 4 * weights, bandwidth, workers) for workers in WORKERS]
        body.append((name, *(f"{fixed:.1f} ({grown:.1f})" for fixed, grown in gains)))
        cases["forecast"].update({f"{name}/{workers}": fixed for workers, (fixed, _) in zip(WORKERS, gains)})
    print(table(("network", *(f"{workers} workers" for workers in WORKERS)), body))
    return cases


def _show(what: str, unit: str, one: float, two: float, words: str) -> None:
    body = [("one process", f"{one:,.0f}", "1.00"), (words, f"{two:,.0f}", f"{two / one:.2f}")]
    print(table((what, unit, "of one"), body), flush=True)


def gain(step: float, size: float, bandwidth: float, workers: int) -> tuple[float, float]:
    """Returns how many times the samples a second of one worker so many have, with the batch shared and with one each.

    A gradient of `size` bytes is summed in a ring: each worker sends and receives 2 (N - 1) / N of it. Nothing overlaps
    and no message has a delay of its own, so that a real network of many small gradients does worse, and one that sums
    while it computes better.
    """
    ring = 2 * (workers - 1) / workers * size / bandwidth
    return step / (step / workers + ring), workers * step / (step + ring)


def _train(folder: Path, args, processes: int) -> tuple[float, float]:
    """Returns samples a second of wall time, and the number of weights."""
    workdir = folder / f"run{processes}"
    command = [sys.executable, "-m", "pae_zoo.main", "--model=vae", f"--dataset=npy:{folder / 'rows.npy'}",
               f"--hidden_units={args.hidden_units}", f"--latent_dim={LATENTS}", f"--epochs={args.epochs}",
               f"--batch_size={args.batch_size}", "--nojit_compile", "--tasks=reconstruction", f"--workdir={workdir}"]
    if processes > 1:
        command = [sys.executable, str(ROOT / "tools" / "local_cluster.py"), str(processes), "--", *command]
    _call(command)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = lines[-1]["seconds"] - lines[0]["seconds"]
    metrics = json.loads((workdir / "metrics.json").read_text(encoding="utf-8"))
    return args.batch_size * (lines[-1]["step"] - lines[0]["step"]) / seconds, metrics["train/num_weights"]


def _apply(folder: Path, rows: np.ndarray, processes: int) -> float:
    """Returns rows a second of wall time of so many processes, each on its own part of the rows."""
    seconds = {}
    for share in (1, 2):
        parts = np.array_split(np.tile(rows, (share, 1)), processes)
        commands = []
        for number, part in enumerate(parts):
            path = folder / f"part{number}.npy"
            np.save(path, part)
            commands.append([
                sys.executable, "-m", "pae_zoo.apply", f"--workdir={folder / 'run1'}", f"--input=npy:{path}",
                "--outputs=codes,reconstruction", f"--part_rows={PART}", "--part_format=npz",
                f"--out={folder / f'out{processes}-{share}-{number}'}"])  # fmt: skip
        start = time.monotonic()
        running = [subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.PIPE, text=True, cwd=ROOT) for command in commands]
        for one in running:
            _, told = one.communicate()
            if one.returncode:
                raise RuntimeError(f"apply failed: {told.strip().splitlines()[-1]}")
        seconds[share] = time.monotonic() - start
    return len(rows) / (seconds[2] - seconds[1])


def _call(command: list[str]) -> None:
    done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
