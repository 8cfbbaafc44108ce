"""CIFAR-100 as its authors publish it, with its 100 fine labels."""

import os
import pathlib
from typing import Callable, Optional

from pae_zoo.core.errors import UserError
from pae_zoo.data import cifar
from pae_zoo.data.rows import ArrayRows, Raw

DESCRIPTION = "CIFAR-100's train.bin and test.bin, or the Python files train and test"
_PLACES = ("", "cifar-100-binary", "cifar-100-python")
NUM_CLASSES = 100


def find(folder: pathlib.Path) -> Optional[Callable[[], Raw]]:
    """Returns a reader if `folder`, or the unpacked archive in it, holds CIFAR-100's files, else None."""
    for place in _PLACES:
        for suffix in (".bin", ""):
            files = [folder / place / f"{split}{suffix}" for split in ("train", "test")]
            if any(path.is_file() for path in files):
                return lambda files=files: _read_set(files)
    return None


def _read_set(files: list[pathlib.Path]) -> Raw:
    parts = []
    for path in files:
        if not os.path.lexists(path):
            raise UserError(f"{path.parent} holds a file of CIFAR-100 but not {path.name}; unpack the whole archive "
                            "there.")
        if path.suffix:  # a row has its coarse label, its fine one, and the pixels
            parts.append(cifar.read_binary(path, "CIFAR-100", 2, NUM_CLASSES))
        else:
            parts.append(cifar.read_python(path, "CIFAR-100", b"fine_labels", NUM_CLASSES))
    (x, y), (test_x, test_y) = parts
    return Raw(ArrayRows(x), y, ArrayRows(test_x), test_y, source=str(files[0].parent))
