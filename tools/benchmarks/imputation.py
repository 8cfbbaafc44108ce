"""Missing values of tables: errors of `Imputer` beside what people take in its place.

Tables that scikit-learn ships (wine, breast cancer, diabetes, digits), or with --data_dir a folder of .npz files with
`X` (n, d). Of every table a share of the values, chosen at random, is taken away (--missing) and filled in: by the mean
of the column, the five nearest rows, scikit-learn's IterativeImputer with its defaults, and `Imputer`. Errors are root
mean squares over the values that were taken away, each in units of the standard deviation of its column; times are
processor seconds of fitting and filling in together. `Imputer` also says how many of these values lie within its
central 90 %, by draws.
"""

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from command import positive

from benchmarks._rounds import cores, load, table

MOST_ROWS, DRAWS = 3000, 100
RIVALS = ("mean", "kNN", "IterativeImputer")

Cases = dict[str, dict[str, float]]


def add_arguments(parser) -> None:
    parser.add_argument("--data_dir", default="", help="folder of .npz files with X (default: scikit-learn's tables)")
    parser.add_argument("--sets", default="", help="comma-separated parts of names (default: all)")
    parser.add_argument("--missing", type=float, default=0.3, help="share of values taken away (default: 0.3)")
    parser.add_argument("--seeds", type=positive, default=1, help="seeds 0, 1, ... (default: 1)")
    parser.add_argument("--models", default="vae", help="models behind Imputer, with commas (default: vae)")
    parser.add_argument("--options", default="", help="arguments of Imputer, such as steps=4000,latent_dim=8")
    parser.add_argument("--quick", action="store_true", help="few rows and epochs, to see that all of it runs")


def run(args) -> Cases:
    if not 0 < args.missing < 1:
        raise SystemExit(f"benchmark: --missing={args.missing} is no share between 0 and 1.")
    options = {key: int(value) for key, value in (pair.split("=") for pair in args.options.split(",") if pair)}
    if args.quick:
        options |= {"steps": 4, "hidden_units": (8,)}
    print(f"{cores()} cores, load {load():.2f}; {args.missing:.0%} of the values taken away, seeds 0 to "
          f"{args.seeds - 1}", flush=True)
    cases: Cases = {}
    names = (*RIVALS, *(f"Imputer, {model}" for model in args.models.split(",")))
    body = []
    for name, x in _tables(args):
        x = x[:60] if args.quick else x
        found = [_measured(x, args.missing, seed, args.models.split(","), options) for seed in range(args.seeds)]
        cases[name] = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
        row = cases[name]
        covered = "".join(f"{row[f'covered/{one}']:.2f} " for one in names if f"covered/{one}" in row)
        body.append((name, f"{len(x)} x {x.shape[1]}", *(f"{row[f'rmse/{one}']:.3f} ({row[f'seconds/{one}']:.1f} s)"
                                                         for one in names), covered.strip()))  # fmt: skip
        print(" ".join(map(str, body[-1])), flush=True)
    print()
    print(table(("table", "rows x columns", *names, "in its 90 %"), body))
    return cases


def _tables(args) -> Iterator[tuple[str, np.ndarray]]:
    wanted = [part for part in args.sets.split(",") if part]
    if args.data_dir:
        for path in sorted(Path(args.data_dir).glob("*.npz")):
            if not wanted or any(part in path.stem for part in wanted):
                yield path.stem, _varying(np.load(path)["X"])
        return
    from sklearn import datasets

    for name in ("wine", "breast_cancer", "diabetes", "digits"):
        if not wanted or any(part in name for part in wanted):
            yield name, _varying(getattr(datasets, f"load_{name}")().data)


def _varying(x: np.ndarray) -> np.ndarray:
    """Rows in an order of their own, without columns that hardly vary."""
    x = x[np.random.default_rng(0).permutation(len(x))[:MOST_ROWS]].astype(np.float64)
    common = np.array([np.unique(column, return_counts=True)[1].max() for column in x.T])
    return x[:, (x.std(axis=0) > 0) & (common < 0.99 * len(x))]


def _measured(x: np.ndarray, share: float, seed: int, models: list[str], options: dict[str, Any]) -> dict[str, float]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    from pae_zoo.sklearn import Imputer

    hidden = np.random.default_rng(seed).random(x.shape) < share
    hidden[0] = False  # a value of each column is seen
    given = np.where(hidden, np.nan, x)
    std = np.nanstd(given, axis=0)
    std = np.where(std > 0, std, 1.0)
    contenders: dict[str, Any] = {"mean": SimpleImputer(), "kNN": KNNImputer(),
                                  "IterativeImputer": IterativeImputer(random_state=seed)}  # fmt: skip
    contenders |= {f"Imputer, {model}": Imputer(model, random_state=seed, **options) for model in models}
    found: dict[str, float] = {}
    for name, one in contenders.items():
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # its default of ten rounds is what people take
            filled = one.fit_transform(given)
        found[f"seconds/{name}"] = time.process_time() - start
        found[f"rmse/{name}"] = float(np.sqrt(np.mean((((filled - x) / std)[hidden]) ** 2)))
        if isinstance(one, Imputer):
            low, high = np.quantile(one.draw(given, DRAWS), (0.05, 0.95), axis=0)
            found[f"covered/{name}"] = float(np.mean(((low <= x) & (x <= high))[hidden]))
    return found
