"""Omniglot as Burda et al. (arXiv 1509.00519) prepared it: chardata.mat, 24,345 training and 8,070 test drawings."""

import os
import pathlib
from typing import Callable, Optional

import numpy as np

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.data import mat
from pae_zoo.data.rows import ArrayRows, Raw, check_labels

DESCRIPTION = "chardata.mat, 28x28, with its own splits"
_FILE, _SIDE = "chardata.mat", 28
_NAMES = ("data", "target", "testdata", "testtarget")


def find(folder: pathlib.Path) -> Optional[Callable[[], Raw]]:
    """Returns a reader if `folder` holds chardata.mat, else None."""
    path = folder / _FILE
    return (lambda: _read_set(path)) if os.path.lexists(path) else None


def _read_set(path: pathlib.Path) -> Raw:
    found = mat.arrays(path, _NAMES, "chardata.mat")
    with reading.told(path, "chardata.mat", "fetch it again"):
        splits = [_split(found, prefix, path) for prefix in ("", "test")]
    (x, y), (test_x, test_y) = splits
    return Raw(ArrayRows(x), y, ArrayRows(test_x), test_y, source=str(path.parent))


def _split(found: dict[str, np.ndarray], prefix: str, path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    pixels, target = found[f"{prefix}data"], found[f"{prefix}target"]
    if pixels.ndim != 2 or len(pixels) != _SIDE**2 or not pixels.shape[1]:
        raise UserError(f"{path} holds {prefix}data of shape {pixels.shape}; it has a column of {_SIDE**2} for each "
                        "drawing: fetch it again.")
    if not (np.isfinite(pixels).all() and 0 <= pixels.min() and pixels.max() <= 1):
        raise UserError(f"{path} holds {prefix}data outside [0, 1]; fetch it again.")
    # A column has the columns of a drawing one after the other, as MATLAB lays them out.
    x = pixels.T.reshape(-1, _SIDE, _SIDE).transpose(0, 2, 1)[..., None]
    if target.ndim != 2 or target.shape[1] != len(x):
        raise UserError(f"{path} holds {prefix}target of shape {target.shape} for {len(x)} drawings; fetch it again.")
    return np.ascontiguousarray(x, np.float32), check_labels(target.argmax(axis=0), len(x), str(path))


