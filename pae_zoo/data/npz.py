"""NumPy archives with `x` or `x_train` (and `x_test`, `x_valid`, `y_*`); pickles inside are refused."""

import pathlib
import re
from collections.abc import Callable
from typing import Optional

import numpy as np

from pae_zoo.core import reading, values
from pae_zoo.core.errors import UserError
from pae_zoo.data.rows import ArrayRows, Raw, check_labels
from pae_zoo.data.splits import SPLITS, split_of

DESCRIPTION = "an .npz file with x_train, y_train, x_test, y_test"
_KEYS = "x or x_train, and optionally x_test, x_valid, y (or y_train), y_test, y_valid"
_KEY = re.compile(r"([xy])(?:_(.+))?")


def images_or_vectors(array: np.ndarray, where: str, reals: bool = False, missing: bool = False) -> np.ndarray:
    """Returns images as (n, H, W, C), uint8 or float32, and vectors as (n, d); else raises UserError.

    Floats of images must lie in [0, 1] unless they are said to be `reals`, and be no NaN without `missing`.
    """
    if array.ndim not in (2, 3, 4) or 0 in array.shape:
        raise UserError(
            f"{where} have shape {array.shape}; allowed are (n, d) for vectors, (n, H, W) or (n, H, W, C) "
            "for images, none of them empty."
        )
    is_image = array.ndim > 2
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[-1] > 4:
        raise UserError(
            f"{where} have shape {array.shape}, which looks channels-first; images are (n, H, W, C): "
            "use numpy.moveaxis(x, 1, -1)."
        )
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind == "f" or (array.dtype.kind in "iu" and array.dtype != np.uint8 and (reals or not is_image)):
        values.check(array, where, unit=is_image and not reals, missing=missing,
                     remedy=f"{values.REMEDY}, or take them as they are: --preprocess=reals,standardise")
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        values.check(array, f"{where}, as float32,", unit=False, missing=missing)
    elif array.dtype != np.uint8:
        raise UserError(
            f"{where} have type {array.dtype}; images are uint8 (0 to 255) or floats in [0, 1]: "
            "use x.astype('uint8')."
        )
    return array[..., None] if array.ndim == 3 else array

#: from (array of a file, its name for messages, reals, missing) to data of one form
Form = Callable[[np.ndarray, str, bool, bool], np.ndarray]


def read(path: pathlib.Path, reals: bool = False, missing: bool = False, form: Form = images_or_vectors) -> Raw:
    """Returns the rows of an .npz file in a form; raises UserError if it is missing, broken or not allowed.

    With `reals` images of floats may leave [0, 1]; with `missing` NaN in floats stands for a value that is missing.
    """
    path = reading.locate(path)
    reading.regular(path, "give the path of an .npz file, for example npz:digits.npz")
    names = reading.npz_names(path)
    keys = _keys(names, path)
    arrays = reading.npz(path, keys=list(keys.values()))
    x, y = {}, {}
    for split in (split for split in SPLITS if ("x", split) in keys):
        key = keys["x", split]
        x[split] = form(arrays.pop(key), f"{path}: {key}", reals, missing)
        labels = arrays.get(keys.get(("y", split), ""))
        y[split] = None if labels is None else check_labels(labels, len(x[split]), f"{path}: {split}")
    _check_alike(x, y, path)
    rows = {split: ArrayRows(array) for split, array in x.items()}
    others = [name for name in names if name not in keys.values()]
    notes = [f"left out: {len(others)} arrays, such as {reading.shown(others[0])}"] if others else []
    return Raw(rows["train"], y["train"], rows.get("test"), y.get("test"), rows.get("valid"), y.get("valid"),
               source=str(path), notes=tuple(notes))


def read_one(path: pathlib.Path, reals: bool = False, missing: bool = False, form: Form = images_or_vectors) -> Raw:
    """Returns the rows of an .npy file; raises UserError as `read` does."""
    path = reading.locate(path)
    reading.regular(path, "give the path of an .npy file, for example npy:digits.npy")
    return Raw(ArrayRows(form(reading.npy(path), str(path), reals, missing)), source=str(path))


def _keys(names: list[str], path: pathlib.Path) -> dict[tuple[str, str], str]:
    """Returns {("x" or "y", split): name of the array}; raises UserError for two of one meaning, and rows that lack."""
    keys: dict[tuple[str, str], str] = {}
    found = reading.shown(", ".join(names) or "nothing")
    for name in names:
        match = _KEY.fullmatch(name.lower())
        split = match and (split_of(match[2]) if match[2] else "train")
        if not match or not split:
            continue
        if (match[1], split) in keys:
            raise UserError(f"{path} holds {found}; exactly one of {keys[match[1], split]} and {name} can be meant "
                            f"(keys: {_KEYS}).")
        keys[match[1], split] = name
    if ("x", "train") not in keys:
        raise UserError(f"{path} holds {found}; exactly one of x and x_train is needed (keys: {_KEYS}).")
    for kind, split in keys:
        if ("x", split) not in keys:
            raise UserError(f"{path} holds {keys[kind, split]} without x_{split}; give both or neither.")
    return keys


def _check_alike(x: dict[str, np.ndarray], y: dict[str, Optional[np.ndarray]], path: pathlib.Path) -> None:
    train = x["train"]
    for split, array in x.items():
        if array.shape[1:] != train.shape[1:] or array.dtype != train.dtype:
            raise UserError(
                f"{path} has training rows of shape {train.shape[1:]} ({train.dtype}) and {split} rows of shape "
                f"{array.shape[1:]} ({array.dtype}); both must be alike."
            )
        if (y[split] is None) != (y["train"] is None):
            raise UserError(f"{path} has labels for one split only; give both y_train and y_{split}, or neither.")


def find(folder: pathlib.Path) -> Optional[Callable[[], Raw]]:
    """Returns a reader if `folder` holds an .npz file, else None; raises UserError for several."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        return None
    if len(files) > 1:
        raise UserError(
            f"{folder} holds {len(files)} .npz files ({', '.join(f.name for f in files[:3])}); keep one, "
            f"or name it: npz:{files[0]}."
        )
    return lambda: read(files[0])
