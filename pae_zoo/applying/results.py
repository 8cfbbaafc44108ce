"""Results of `pae_zoo.apply` as one npz, one table, or a folder of pictures with a table."""

import collections
import csv
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np

from pae_zoo.core import files
from pae_zoo.core.errors import UserError
from pae_zoo.data.tables import Schema
from pae_zoo.evaluation.metrics import coverage
from pae_zoo.evaluation.support.maxima import RECORDED

TABLES = ("csv", "parquet")
#: arrays that become pictures in a folder -> (the table's column of their paths, the value that is white)
PICTURES = {
    "reconstruction": ("picture", 1.0),
    "restoration_map": ("restoration_map", 1.0),
    "restoration_mean": ("restoration_mean", 1.0),
    "restoration_std": ("restoration_std", 0.5),  # no value in [0, 1] has a larger std
    "restoration_predictive_std": ("restoration_predictive_std", 0.5),
    "anomaly_residual": ("anomaly_residual", 5.0),  # in standard deviations, whatever their sign
    **{f"restoration_{name}": (f"restoration_{name}", 1.0) for name in coverage.QUANTILES},
}


def check_out(out: str, names: Sequence[str], event_shape: tuple[int, ...]) -> str:
    """Returns the form of --out, "npz", "csv" or "folder"; raises UserError for one that cannot be written."""
    path = Path(out)
    form = {".npz": "npz", ".csv": "csv"}.get(path.suffix, "folder")
    if not out:
        raise UserError("--out is needed: FILE.npz, FILE.csv, or a folder for pictures and scores.csv.")
    if form == "folder" and path.suffix and not path.is_dir() and not out.endswith("/"):
        raise UserError(f"--out={out} ends in {path.suffix}; allowed: FILE.npz, FILE.csv, or a folder (end its name "
                        "with / if it has a dot).")
    _check_free(path, form)
    files.check_place(path, "out", is_file=form != "folder")
    files.clear(path.parent)
    for name in [name for name in ("reconstruction", "restoration") if name in names]:
        if form == "csv":
            raise UserError(f"--out={out}: a table holds no {name}s; write FILE.npz or a folder, or leave "
                            f"{name} out of --outputs.")
        if form == "folder" and (len(event_shape) != 3 or event_shape[-1] not in (1, 3)):
            shape = "x".join(map(str, event_shape))
            raise UserError(f"--out={out}: {name}s of shape {shape} are no pictures; write FILE.npz.")
    return form


def _check_free(path: Path, form: str) -> None:
    if os.path.exists(path) and (form != "folder" or not path.is_dir() or any(path.iterdir())):
        raise UserError(f"--out={path} exists; give a new name, or remove it.")


def write(out: str, form: str, found: dict[str, np.ndarray], names: Optional[list[str]]) -> Path:
    """Writes the results whole or not at all and returns the path; see docs/guides/apply.md for the forms.

    Raises UserError where that fails; it names the .npz, beside --out or elsewhere, that keeps what was computed.
    """
    path = Path(out)
    try:
        _check_free(path, form)
        _write(path, form, found, names)
    except Exception as error:  # whatever it is, hours of computing may be behind the arrays
        raise UserError(f"--out={out} could not be written: {error}. {keep(out, found, names)}") from error
    return path


def _write(path: Path, form: str, found: dict[str, np.ndarray], names: Optional[list[str]]) -> None:
    if form == "folder":
        with files.folder(path) as folder:
            _write_folder(folder, found, names)
        return
    with files.file(path) as temporary:
        if form == "npz":
            arrays: dict[str, Any] = dict(found) if names is None else {**found, "names": np.array(names)}
            np.savez(temporary, **arrays)
        else:
            write_rows(temporary, columns(found, names))


def keep(out: str, found: dict[str, np.ndarray], names: Optional[list[str]]) -> str:
    """Writes results as an .npz beside `out`, or elsewhere where there is room; returns a sentence that says where."""
    path = Path(out)
    name = f"{path.stem[:100]}-{secrets.token_hex(4)}.npz"
    for place in (path.parent, Path.cwd(), Path(tempfile.gettempdir())):
        try:
            _write(place / name, "npz", found, names)
        except Exception as error:
            reason = error
        else:
            return f"What was computed is kept in {place / name}."
    return f"Nor could {place / name} be ({reason}): what was computed is lost. Make room and start again."


def _write_folder(folder: Path, found: dict[str, np.ndarray], names: Optional[list[str]]) -> None:
    from PIL import Image

    pictures: dict[str, list[str]] = {}
    drawn = [kind for kind in PICTURES if kind in found and found[kind].ndim == 4]
    for kind in drawn:
        column, white = PICTURES[kind]
        pictures[column] = [f"{kind}/{name}" for name in picture_names(names, len(found[kind]))]
        for name, values in zip(pictures[column], found[kind]):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shown = np.abs(values) if kind == "anomaly_residual" else values
            pixels = np.rint(255 * np.clip(shown / white, 0, 1)).astype(np.uint8)
            Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(folder / name)
    rest = {name: values for name, values in found.items() if name not in drawn}
    known = [name for name in RECORDED if f"restoration_{name}" in rest]
    latent: dict[str, Any] = {name: rest.pop(f"restoration_{name}") for name in known}
    if latent:
        np.savez(folder / "restoration.npz", **latent)
    write_rows(folder / "scores.csv", columns(rest, names, pictures=pictures))


def picture_names(names: Optional[list[str]], count: int) -> list[str]:
    """Returns a PNG's name per datum: the input file's, with .png for its ending unless two would be the same.

    Arrays give numbers, and so do the names of an archive that would lead out of the folder.
    """
    if names is None or any(name.startswith("/") or ".." in name.split("/") for name in names):
        return [f"{index:06d}.png" for index in range(count)]
    stems = [str(Path(name).with_suffix("")) for name in names]
    times = collections.Counter(stems)
    found = [f"{stem if times[stem] == 1 else name}.png" for stem, name in zip(stems, names)]
    return found if len(set(found)) == count else picture_names(None, count)


def in_form(form: str, found: dict[str, np.ndarray], schema: Optional[Schema],
            say: Callable[[str], None]) -> dict[str, np.ndarray]:
    """Returns what a form of --out can hold, in a table by the names of its columns; what is left out is said."""
    arrays = in_columns(found, schema) if form in TABLES and schema is not None else dict(found)
    for name in [name for name, values in arrays.items() if form in TABLES and values.ndim > 3]:
        say(f"{name}: an array for each image, which no table holds, is left out; write npz, or a folder.")
        del arrays[name]
    return arrays


def in_columns(found: dict[str, np.ndarray], schema: Schema) -> dict[str, np.ndarray]:
    """Returns results by the names of a table's columns: residuals, and what was imputed, a category by its name."""
    if schema.window:
        return found
    arrays = dict(found)
    if "anomaly_residual" in arrays:
        residual = arrays.pop("anomaly_residual")
        arrays |= {f"anomaly_residual_{name}": residual[:, place] for place, name in enumerate(schema.outputs)}
    if "imputed" not in arrays:
        return arrays
    values, spread = arrays.pop("imputed"), arrays.pop("imputed_std")
    start = 0
    for column in schema.columns:
        part = slice(start, start + column.width)
        start += column.width
        if column.levels is None:
            arrays[f"imputed_{column.name}"] = values[:, part][:, 0]
            arrays[f"imputed_std_{column.name}"] = spread[:, part][:, 0]
        else:
            levels = np.array(column.levels, dtype=str)
            arrays[f"imputed_{column.name}"] = levels[values[:, part].argmax(axis=1)]
    return arrays


def columns(found: dict[str, np.ndarray], names: Optional[list[str]], start: int = 0,
            pictures: Optional[dict[str, list[str]]] = None) -> dict[str, Any]:
    """Returns the columns of a table of results: index from `start` on, names, a column for each number of a row."""
    count = len(next(iter({**found, **(pictures or {})}.values())))
    made: dict[str, Any] = {"index": range(start, start + count)}
    if names is not None:
        made["name"] = names
    for name, values in found.items():
        prefix = {"codes": "code"}.get(name, name)
        if values.ndim == 1:
            made[name] = values
        else:
            places = np.ndindex(*values.shape[1:])  # those of a window are step and channel
            made.update({"_".join((prefix, *map(str, place))): values[(slice(None), *place)] for place in places})
    made.update(pictures or {})
    return made


def write_rows(path: Path, table: dict[str, Any]) -> None:
    """Writes a csv file of equally long columns."""
    # Names of files need not be text; a table has them byte for byte.
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        for row in zip(*table.values()):
            writer.writerow(f"{value:.9g}" if isinstance(value, np.floating) else value for value in row)
