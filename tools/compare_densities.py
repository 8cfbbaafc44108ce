"""Fits every density to arrays of numbers, beside what scikit-learn offers, and prints a table.

    python tools/compare_densities.py codes.npz table.npz --densities=student_mixture,mixture_flow --seeds=0,1,2

`flow:zuko` is a flow with those of `pae_zoo.flows.SETTINGS`, `student_mixture:16` a mixture with 16 factors,
`flow:dropout=0.1:epochs=50` a flow with that argument and that field of `pae_zoo.densities.Settings`. An array
is `moons` or `circles`, 12,000 rows of scikit-learn's two-dimensional toys, or an npz file with train, valid and test
(n, K), or with X (n, K), of which a random fifth validates and a third tests; with labels y those of 0 alone are taken,
the usual data of a benchmark of anomalies. Columns that do not vary are left out, the others standardised. The table
has -log p of test rows in nats, C2ST (AUC of a classifier that tells test rows from samples, 0.5 is ideal) and seconds
of processor time, means over the seeds.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

MIXTURE_COMPONENTS = (1, 2, 5, 10, 20, 50)
BANDWIDTHS = np.geomspace(0.05, 1.0, 9)
MOST_ROWS = 20_000
SAMPLES = 5000
TOYS, TOY_ROWS = ("moons", "circles"), 12_000


def toy(name: str, seed: int) -> dict[str, np.ndarray]:
    """Returns {"X": rows (TOY_ROWS, 2)} of a toy of scikit-learn."""
    from sklearn import datasets

    if name == "moons":
        return {"X": datasets.make_moons(TOY_ROWS, noise=0.1, random_state=seed)[0]}
    return {"X": datasets.make_circles(TOY_ROWS, noise=0.08, factor=0.5, random_state=seed)[0]}


def load(path: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (train, valid, test) of a file, standardised by the training rows."""
    found = toy(path, seed) if path in TOYS else np.load(path)
    if "train" in found:
        parts = [found[name].astype(np.float64) for name in ("train", "valid", "test")]
    else:
        x = found["X"].astype(np.float64)
        x = x[found["y"] == 0] if "y" in found else x
        x = x[np.random.default_rng(seed).permutation(len(x))]
        third, fifth = len(x) // 3, len(x) // 5
        parts = [x[third + fifth :], x[third : third + fifth], x[:third]]
    mean, std = parts[0].mean(axis=0), parts[0].std(axis=0)
    kept = std > 1e-6 * np.maximum(np.abs(mean), 1e-12)
    return tuple(((part - mean) / np.where(kept, std, 1.0))[:, kept].astype(np.float32) for part in parts)


def fit_ours(name: str) -> Callable[..., tuple[Callable, Callable, str]]:
    """Returns the function that fits a density of the package."""

    def fit(train: np.ndarray, valid: np.ndarray, seed: int) -> tuple[Callable, Callable, str]:
        from pae_zoo import densities, flows

        fields = {field.name for field in dataclasses.fields(densities.Settings)}
        kind, *words = name.split(":")
        options: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        for word in words:
            key, is_number, value = word.partition("=")
            if is_number:
                known = settings if key in fields else options
                known[key] = float(value) if "." in value or "e" in value else int(value)
            else:
                options.update({"factors": int(word)} if word.isdigit() else flows.SETTINGS[word])
        density = densities.fit(train, kind, valid, settings=settings, seed=seed, **options)
        components = density.prepared().get("components")
        return (lambda x: np.concatenate([density.log_prob(x[i : i + 2000]) for i in range(0, len(x), 2000)]),
                lambda num: density.sample(num, seed=(seed, 1)).numpy(), f"of {components}" if components else "")

    return fit


def fit_sklearn_mixture(train: np.ndarray, valid: np.ndarray, seed: int) -> tuple[Callable, Callable, str]:
    """Fits scikit-learn's mixture of Gaussians, its number of components chosen on validation rows."""
    from sklearn.mixture import GaussianMixture

    rows = train[:MOST_ROWS]
    fits = [GaussianMixture(m, random_state=seed, reg_covar=1e-4).fit(rows)
            for m in MIXTURE_COMPONENTS if 2 * m <= len(rows)]
    best = max(fits, key=lambda one: one.score(valid))
    return best.score_samples, lambda num: best.sample(num)[0], f"of {best.n_components}"


def fit_sklearn_kernel(train: np.ndarray, valid: np.ndarray, seed: int) -> tuple[Callable, Callable, str]:
    """Fits scikit-learn's kernel density, its bandwidth chosen on validation rows."""
    from sklearn.neighbors import KernelDensity

    fits = [KernelDensity(bandwidth=width).fit(train[:MOST_ROWS]) for width in BANDWIDTHS]
    best = max(fits, key=lambda one: one.score(valid[:1000]))
    return best.score_samples, lambda num: best.sample(num, random_state=seed), f"width {best.bandwidth:.2g}"


def rows_of(path: str, names: list[str], seeds: list[int], alone: bool) -> Iterator[list[str]]:
    """Yields the rows of the table for one file."""
    from pae_zoo.evaluation.metrics import two_samples

    fits = {name: fit_ours(name) for name in names}
    if not alone:
        fits |= {"scikit-learn mixture": fit_sklearn_mixture, "scikit-learn kernels": fit_sklearn_kernel}
    for name, fit in fits.items():
        found: list[tuple[float, ...]] = []
        note, shape = "", ""
        for seed in seeds:
            train, valid, test = load(path, seed)
            shape = "x".join(map(str, train.shape))
            start = time.process_time()
            log_prob, sample, note = fit(train, valid, seed)
            seconds = time.process_time() - start
            auc = two_samples.c2st(test[:SAMPLES], sample(min(len(test), SAMPLES)), seed)[0]
            found.append((float(-np.mean(log_prob(test))), auc, seconds))
        mean, std = np.mean(found, axis=0), np.std(found, axis=0)
        yield [Path(path).stem, shape, f"{name} {note}".strip(), f"{mean[0]:.2f} ± {std[0]:.2f}",
               f"{mean[1]:.3f} ± {std[1]:.3f}", f"{mean[2]:.1f}"]


def main(argv: Any = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--densities", default="gaussian,gaussian_mixture,student_mixture,flow,mixture_flow")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--alone", action="store_true", help="leave scikit-learn's out")
    options = parser.parse_args(argv)
    print("| array | rows | density | -log p, test | C2ST | CPU-s |\n|---|---|---|---|---|---|")
    for path in options.files:
        seeds = [int(seed) for seed in options.seeds.split(",")]
        for row in rows_of(path, options.densities.split(","), seeds, options.alone):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
