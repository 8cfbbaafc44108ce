"""NumPy archives with `x` or `x_train` (and `x_test`, `y_*`); pickles inside are refused."""

import pathlib
from typing import Optional

import numpy as np

from pae_zoo import reading, values
from pae_zoo.data.rows import ArrayRows, Raw, check_labels
from pae_zoo.errors import UserError

DESCRIPTION = "an .npz file with x_train, y_train, x_test, y_test"
_ALLOWED = ("x", "x_train", "x_test", "y", "y_train", "y_test")
_KEYS = "x or x_train, and optionally x_test, y (or y_train), y_test"


def read(path: pathlib.Path) -> Raw:
    """Returns the rows of an .npz file; raises UserError if it is missing, broken or not allowed."""
    path = reading.locate(path)
    reading.regular(path, "give the path of an .npz file, for example npz:digits.npz")
    arrays = reading.npz(path, keys=_ALLOWED)
    if ("x" in arrays) == ("x_train" in arrays):
        found = reading.shown(", ".join(reading.npz_names(path)) or "nothing")
        raise UserError(f"{path} holds {found}; exactly one of x and x_train is needed (keys: {_KEYS}).")
    if "y" in arrays and "y_train" in arrays:
        raise UserError(f"{path} holds both y and y_train; give only one of them.")
    train = images_or_vectors(arrays.pop("x", arrays.pop("x_train", None)), f"{path}: the training rows")
    train_y = _labels(arrays.get("y", arrays.get("y_train")), len(train), f"{path}: training")
    raw = Raw(ArrayRows(train), train_y, source=str(path))
    if "x_test" in arrays:
        test = images_or_vectors(arrays.pop("x_test"), f"{path}: x_test")
        if test.shape[1:] != train.shape[1:] or test.dtype != train.dtype:
            raise UserError(
                f"{path} has training rows of shape {train.shape[1:]} ({train.dtype}) and test rows of shape "
                f"{test.shape[1:]} ({test.dtype}); both must be alike."
            )
        raw.test, raw.test_y = ArrayRows(test), _labels(arrays.get("y_test"), len(test), f"{path}: test")
        if (raw.test_y is None) != (train_y is None):
            raise UserError(
                f"{path} has labels for one split only; give both y_train and y_test, or neither."
            )
    elif "y_test" in arrays:
        raise UserError(f"{path} holds y_test without x_test; give both or neither.")
    return raw


def images_or_vectors(array: np.ndarray, where: str) -> np.ndarray:
    """Returns images as (n, H, W, C), uint8 or float32, and vectors as (n, d); else raises UserError."""
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
    elif array.dtype.kind == "f" or (array.dtype.kind in "iu" and array.dtype != np.uint8 and not is_image):
        values.check(array, where, unit=is_image)
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        values.check(array, f"{where}, as float32,", unit=False)
    elif array.dtype != np.uint8:
        raise UserError(
            f"{where} have type {array.dtype}; images are uint8 (0 to 255) or floats in [0, 1]: "
            "use x.astype('uint8')."
        )
    return array[..., None] if array.ndim == 3 else array


def _labels(labels: Optional[np.ndarray], count: int, where: str) -> Optional[np.ndarray]:
    return None if labels is None else check_labels(labels, count, where)


def find(folder: pathlib.Path):
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
