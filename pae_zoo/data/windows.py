"""Windows of a series that are cut already, arrays (n, T, C), and splits of data that follow one another in time."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.data import npz
from pae_zoo.data.rows import ArrayRows, Raw
from pae_zoo.data.tables import series

_ENDINGS = (".npz", ".npy")


def as_windows(array: np.ndarray, where: str, reals: bool = True, missing: bool = False) -> np.ndarray:
    """Returns windows as float32, (n, T, C), those of (n, T) with one channel; raises UserError for anything else.

    Whole numbers are numbers, bytes too, and no pixels to be divided by 255.
    """
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise UserError(f"{where} have shape {array.shape}; allowed are (n, T, C), n windows of T steps with C values "
                        "each, or (n, T) of one value, none of them empty.")
    if array.dtype.kind not in "biuf":
        raise UserError(f"{where} have type {array.dtype}; allowed are numbers: use x.astype('float32').")
    if array.dtype.kind in "bu":
        array = array.astype(np.float32)
    flat = npz.images_or_vectors(array.reshape(len(array), -1), where, True, missing)
    return flat.reshape(*array.shape[:2], -1)


def read(path: pathlib.Path, reals: bool = True, missing: bool = False, form: npz.Form = as_windows) -> Raw:
    """Returns the windows of an .npz or .npy file, (n, T, C) or (n, T), in the splits of the file; raises UserError.

    They are reals whatever `reals` says; with `missing` NaN stands for a value that is missing.
    """
    path = reading.locate(path)
    if path.suffix.lower() not in _ENDINGS:
        raise UserError(f"windows:FILE takes {' and '.join(_ENDINGS)} files, of windows that are cut already; received "
                        f"{reading.shown(str(path))}. Rows of a table become windows by csv:FILE and --window=T.")
    reader = npz.read_one if path.suffix.lower() == ".npy" else npz.read
    return reader(path, reals, missing, form)


def by_time(raw: Raw, validation_fraction: float) -> Raw:
    """Returns arrays that follow one another in time with their splits, one stretch after the other.

    Splits that are there stay. Without a test split the last sixth of the training data is it, without one for
    validation the last `validation_fraction` of the rest. Raises UserError where nothing is left for training.
    """
    assert isinstance(raw.train, ArrayRows)
    array, labels, count = raw.train.array, raw.train_y, len(raw.train)
    lacking = [split for split, rows in (("valid", raw.valid), ("test", raw.test)) if rows is None]
    sizes = series.sizes(count, 1, validation_fraction, raw.valid is None, raw.test is None)
    if sizes[0] < 1:
        raise UserError(f"{raw.source} holds {count} rows for training; at least {1 + len(lacking)} are needed, since "
                        f"{' and '.join(lacking)} come from them.")
    train, valid, test = np.split(np.arange(count), np.cumsum(sizes)[:2])
    parts: dict[str, np.ndarray] = {"train": train, "valid": valid, "test": test}
    rule = "by time, the last 1/6 of the data is the test split" if raw.test is None else ""
    found: dict[str, Any] = {"splits": rule}
    for split in ("train", *lacking):
        found |= {split: ArrayRows(array[parts[split]]),
                  f"{split}_y": None if labels is None else labels[parts[split]]}  # fmt: skip
    told = "data are taken in the order in which they stand, as that of time" if raw.test is None else ""
    return dataclasses.replace(raw, **found, notes=(*raw.notes, *([told] if told else [])))
