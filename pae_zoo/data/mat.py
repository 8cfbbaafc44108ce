"""SVHN's own MATLAB files."""

import pathlib
from typing import Callable, Optional

import numpy as np

from pae_zoo.data.rows import ArrayRows, Raw, check_labels
from pae_zoo.errors import UserError

DESCRIPTION = "SVHN's train_32x32.mat and test_32x32.mat"


def find(folder: pathlib.Path) -> Optional[Callable[[], Raw]]:
    """Returns a reader if `folder` holds SVHN's files, else None."""
    if not any(folder.glob("*_32x32.mat")):
        return None
    return lambda: Raw(
        *_read(folder / "train_32x32.mat"), *_read(folder / "test_32x32.mat"), source=str(folder)
    )


def _read(path: pathlib.Path) -> tuple[ArrayRows, np.ndarray]:
    from scipy import io

    if not path.is_file():
        raise UserError(f"{path} is missing; SVHN needs train_32x32.mat and test_32x32.mat.")
    try:
        content = io.loadmat(path)
        pixels, labels = content["X"], content["y"]
    except Exception as error:  # scipy's reader raises whatever a broken byte leads it to
        raise UserError(f"{path} is not a readable SVHN file ({error}); fetch it again.") from error
    if pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3) or pixels.dtype != np.uint8:
        raise UserError(
            f"{path} holds X of shape {pixels.shape} and type {pixels.dtype}; SVHN has uint8, 32x32x3xN."
        )
    # The digit 0 is stored as 10.
    labels = check_labels(labels, pixels.shape[3], str(path)) % 10
    return ArrayRows(np.ascontiguousarray(np.moveaxis(pixels, 3, 0))), labels
