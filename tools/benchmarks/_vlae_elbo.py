"""The case elbo of `benchmark.py vlae`: the test bound that its options reach after equal training by the launcher."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Sequence

from command import ROOT

from benchmarks._rounds import table

CONFIG = ROOT / "configs" / "vae" / "fashion_mnist_cpu.cfg"
METRIC = "test/elbo"


def compare(variants: Sequence[list[str]], args) -> dict[str, dict[str, float]]:
    """Trains every variant over the same seeds, prints the table and returns its numbers; the first is the reference.

    Differences are taken seed by seed; an option is within noise while its difference is no less than minus two of
    its standard errors.
    """
    print(f"\n== elbo: {METRIC} on Fashion-MNIST, H = 128, K = 16, {args.epochs} epochs, {args.seeds} seeds",
          flush=True)
    bounds: dict[str, list[float]] = {}
    for seed in range(args.seeds):
        for argv in variants:
            name = " ".join(word.removeprefix("--") for word in argv).removeprefix("model=")
            bounds.setdefault(name, []).append(_train(argv, seed, args))
            print(f"seed {seed}, {name}: {bounds[name][-1]:.2f}", flush=True)
    return summary(bounds)


def summary(bounds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Prints and returns the means over seeds of {variant: bounds}, with standard errors (0 of a single seed)."""
    reference = next(iter(bounds.values()))
    rows = {}
    for name, values in bounds.items():
        differences = [value - other for value, other in zip(values, reference)]
        rows[name] = {"mean": statistics.mean(values), "stderr": _stderr(values),
                      "difference": statistics.mean(differences), "difference_stderr": _stderr(differences)}
    body = [
        (name, f"{r['mean']:.2f}", f"{r['stderr']:.2f}", f"{r['difference']:+.2f}", f"{r['difference_stderr']:.2f}",
         "no worse" if r["difference"] >= -2 * r["difference_stderr"] else "WORSE")
        for name, r in rows.items()
    ]
    print(f"\n{table(('variant', METRIC, 'stderr', 'difference', 'stderr', ''), body)}", flush=True)
    return {f"elbo/{name}": row for name, row in rows.items()}


def _stderr(values: list[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def _train(argv: list[str], seed: int, args) -> float:
    """Returns the test bound of one training by the launcher; raises RuntimeError with the end of its words."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        workdir = Path(folder) / "run"
        command = [sys.executable, "-m", "pae_zoo.main", f"--flagfile={CONFIG}", "--learning_rate=5e-4", *argv,
                   f"--epochs={args.epochs}", f"--data_dir={args.data_dir}", f"--seed={seed}", f"--workdir={workdir}"]
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
        return float(json.loads((workdir / "metrics.json").read_text(encoding="utf-8"))[METRIC])
