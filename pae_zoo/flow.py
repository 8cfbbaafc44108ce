"""Fits a flow to rows of numbers, codes of your own: python -m pae_zoo.flow --dataset=npz:codes.npz --workdir=DIR."""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pae_zoo import data, densities
from pae_zoo.core import files, reading, records, seeds
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.densities import WITH_LAYERS, training
from pae_zoo.experiment import console, launch
from pae_zoo.plotting import figures as plotting

SHOWN = 2000
BATCH = 1000
MORE = """  python -m pae_zoo.flow --dataset=npz:codes.npz --workdir=runs/flow
  python -m pae_zoo.flow --dataset=wine.csv --density=flow --layers=maf --workdir=runs/wine

Rows are vectors: an npz with x (x_train, x_valid, x_test), or with the codes that pae_zoo.apply wrote, an npy, a
table. It writes density.keras, metrics.json (nats a row), history.csv, scores.csv (-log p of test rows), samples.npz,
and the figures curve and scatter (test rows and samples in z, and in u, the base of the flow)."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of a flow on its own."""

    dataset: str = hp.option("", "Rows of numbers: npz:FILE, npy:FILE, csv:FILE, parquet:FILE, or a name of vectors.",
                             path=True)
    data_dir: str = hp.option("", "Folder of the data sets that have names.", path=True)
    label_column: str = hp.option("", "Column of a table that is no data.")
    workdir: str = hp.option("", "Folder for what is found; it must not exist.", path=True)
    density: str = hp.option("mixture_flow", "What is fitted.", choices=tuple(densities.NAMES))
    layers: str = hp.option("nsf", "Layers of a flow: a preset, or a list.")
    depth: int = hp.option(4, "Blocks of a preset.", low=1, high=1000)
    units: tuple[int, ...] = hp.option((128, 128), "Hidden units of a layer.", low=1)
    bins: int = hp.option(8, "Bins of a spline.", low=2, high=1000)
    components: int = hp.option(0, "Components of a mixture (0: chosen on validation data).", low=0)
    epochs: int = hp.option(12, "Epochs of the layers at most.", low=0)
    batch_size: int = hp.option(256, "Rows of a step.", low=1)
    learning_rate: float = hp.option(1e-3, "Rate of Adam, a cosine to 0.", above=0.0)
    patience: int = hp.option(4, "Epochs without a better validation loss that end it (0: off).", low=0)
    num_samples: int = hp.option(1000, "Rows drawn into samples.npz.", low=1, high=10_000_000)
    figure_format: str = hp.option("png", "Files of pictures.", choices=records.FIGURES)
    seed: int = hp.option(0, "Of everything that is drawn.", low=0, high=2**31 - 1)
    verbosity: int = hp.option(0, "1 shows TensorFlow's own messages.", low=-1, high=2)


def main(argv: list[str]) -> int:
    argv = launch.begin(argv)
    if launch.wants_help(argv):
        print(f"{__doc__}\n\n{MORE}\n\n{hp.help_text(Flags)}\n")
        return 0
    options, given = launch.parse(Flags, argv)
    for flag in ("dataset", "workdir"):
        if not getattr(options, flag):
            raise UserError(f"--{flag} is needed: python -m pae_zoo.flow --dataset=npz:codes.npz --workdir=runs/flow.")
    target = Path(options.workdir)
    if target.exists():
        raise UserError(f"--workdir={target} exists; give a new name, or remove it.")
    files.check_place(target, "workdir")
    train, valid, test = rows_of(options)
    layers = _layers(options, given)
    shared: dict[str, Any] = dict(components=options.components, seed=options.seed)
    density = densities.make(options.density, train.shape[1], **shared, **layers)
    start = time.monotonic()
    settings = dict(epochs=options.epochs, batch_size=options.batch_size, learning_rate=options.learning_rate,
                    patience=options.patience)  # fmt: skip
    history = training.train(density, train, valid, settings=settings, verbose=0)
    seconds = time.monotonic() - start
    found = {name: -_log_prob(density, part) for name, part in (("train", train), ("valid", valid), ("test", test))}
    metrics: dict[str, Any] = {f"{name}/nll": float(np.mean(values)) for name, values in found.items()}
    metrics |= {"test/nll_stderr": float(np.std(found["test"], ddof=1) / np.sqrt(len(test))) if len(test) > 1 else 0.0,
                "num_train": len(train), "num_dims": train.shape[1], "num_weights": density.count_params(),
                "time/train_s": round(seconds, 2)}  # fmt: skip
    with files.folder(target) as folder:
        _write(folder, options, density, history, metrics, found["test"], test)
    print("\n".join(console.lines(metrics) + console.pictures((target / "figures").iterdir())))
    print(f"Next, in Python: import keras, pae_zoo; keras.models.load_model({str(target / 'density.keras')!r}) has "
          "log_prob(z) and sample(n, seed).")
    return 0


def rows_of(options: Flags) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns training, validation and test rows (n, D); raises UserError for data that are no rows of finite numbers.

    An npz without x whose codes pae_zoo.apply wrote has these for rows.
    """
    name = options.dataset
    codes = _codes(name)
    if codes is None:
        found = data.load(name, data_dir=options.data_dir, seed=options.seed, label_column=options.label_column)
    else:
        found = data.from_arrays(codes, kind="vectors")
    parts = [np.asarray(part.x) for part in (found.train, found.valid, found.test)]
    if parts[0].ndim != 2:
        raise UserError(f"--dataset={name} has data of shape {parts[0].shape[1:]}; a flow on its own takes rows of "
                        "numbers. Encode them first: python -m pae_zoo.apply --outputs=codes --out=codes.npz.")
    if not all(np.isfinite(part).all() for part in parts):
        raise UserError(f"--dataset={name} holds numbers that are not finite; leave such rows out.")
    return parts[0].astype(np.float32), parts[1].astype(np.float32), parts[2].astype(np.float32)


def _codes(name: str) -> Any:
    path = reading.locate(name.removeprefix("npz:"))
    if path.suffix != ".npz" or not path.is_file():
        return None
    names = reading.npz_names(path)
    if "codes" not in names or any(one in names for one in ("x", "x_train")):
        return None
    return reading.npz(path, keys=["codes"])["codes"]


def _layers(options: Flags, given: set[str]) -> dict[str, Any]:
    """Returns the arguments of the layers; raises UserError for flags of layers where there are none."""
    if options.density not in WITH_LAYERS:
        unread = sorted(given & {"layers", "depth", "units", "bins", "epochs", "learning_rate"})
        if unread:
            raise UserError(f"--{unread[0]} has no effect: --density={options.density} has no layers. Leave it out.")
        return {}
    return dict(layers=options.layers, depth=options.depth, hidden_units=options.units, bins=options.bins)


def _log_prob(density: Any, rows: np.ndarray) -> np.ndarray:
    parts = [density.log_prob(rows[i : i + BATCH]).numpy() for i in range(0, len(rows), BATCH)]
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)


def _write(folder: Path, options: Flags, density: Any, history: dict, metrics: dict, scores: np.ndarray,
           test: np.ndarray) -> None:
    density.save(folder / "density.keras")
    (folder / "config.json").write_text(json.dumps(files.plain(dataclasses.asdict(options)), indent=1) + "\n")
    (folder / "metrics.json").write_text(json.dumps(files.plain(metrics), indent=1) + "\n")
    lines = ["epoch,train_nll,valid_nll"]
    train, valid = [float("nan"), *history.get("nll", [])], history.get("val_nll", [])
    lines += [f"{epoch},{one:.9g},{other:.9g}" for epoch, (one, other) in enumerate(zip(train, valid))]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    rows = [f"{index},{score:.9g}" for index, score in enumerate(scores)]
    (folder / "scores.csv").write_text("\n".join(["index,nll", *rows]) + "\n")
    samples = density.sample(options.num_samples, seed=seeds.stream((options.seed, 0), "flow/samples")).numpy()
    with open(folder / "samples.npz", "wb") as file:
        np.savez(file, x=samples)
    (folder / "figures").mkdir()
    drawn = {"scatter": _scatter(density, test[:SHOWN], samples[:SHOWN], options.seed)}
    if valid:
        series = {"training": np.asarray(train), "validation": np.asarray(valid)}
        drawn["curve"] = plotting.nll_curve(series, f"{options.density}: nats a row, by epoch")
    for name, figure in drawn.items():
        kind = options.figure_format
        figure.savefig(folder / "figures" / f"{name}.{kind}", format=kind, dpi=plotting.DPI)


def _scatter(density: Any, test: np.ndarray, samples: np.ndarray, seed: int) -> Any:
    """Draws test rows and samples, in z and in u, by the two directions in which the rows of z spread most."""
    u = density.inverse(test)[0].numpy()
    base = density.base_distribution().sample(len(test), seed=seeds.stream((seed, 0), "flow/base")).numpy()
    panels = {}
    for name, rows, drawn in (("z, the data", test, samples), ("u, the base", u, base)):
        centre, axes = np.zeros(rows.shape[1]), np.eye(rows.shape[1])
        if rows.shape[1] > 2:
            centre = rows.mean(axis=0)
            axes = np.linalg.svd(rows - centre, full_matrices=False)[2][:2].T
        panels[name] = {"test rows": (rows - centre) @ axes, "samples": (drawn - centre) @ axes}
    return plotting.two_scatters(panels, "test rows and samples: z, and u, which the flow makes of it")


if __name__ == "__main__":
    sys.exit(launch.run(main, sys.argv[1:]))
