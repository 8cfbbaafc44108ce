"""IDX files, the format of the MNIST family, plain or gzip."""

import io
import math
import os
import pathlib
import struct
from typing import Callable, Optional

import numpy as np

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.data.rows import ArrayRows, Raw, check_labels

DESCRIPTION = "IDX files (train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz], t10k-...)"
_SPLITS = {"train": ("train",), "test": ("t10k", "test")}
_UBYTE = 0x08
_MAX_RATIO = 1100  # deflate cannot shrink further, so a larger claim in the header is a lie


def read(path: pathlib.Path, rank: int) -> np.ndarray:
    """Returns the uint8 array of an IDX file with `rank` axes; raises UserError if the file is broken."""
    path = pathlib.Path(path)
    with reading.gunzipped(path) as file:
        try:
            return _read(file, path, rank)
        except (EOFError, struct.error) as error:
            raise UserError(f"{path} is truncated; fetch it again.") from error


def _read(file: io.BufferedIOBase, path: pathlib.Path, rank: int) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4:
        raise EOFError
    if magic != bytes([0, 0, _UBYTE, rank]):
        raise UserError(
            f"{path} starts with the bytes {magic.hex()}; an IDX file of unsigned bytes with {rank} axes starts "
            f"with {bytes([0, 0, _UBYTE, rank]).hex()}; check that the file is what its name says."
        )
    shape = struct.unpack(f">{rank}I", file.read(4 * rank))
    count, stored = math.prod(shape), reading.stored_bytes(file)
    if count == 0 or count > stored * (_MAX_RATIO if path.suffix == ".gz" else 1):
        raise UserError(f"{path} claims the shape {shape}, which its {stored} bytes cannot hold; fetch it again.")
    reading.check_claim(count, stored, str(path))
    array = np.empty(count, np.uint8)
    view, filled = array.data, 0
    while filled < count:
        got = file.readinto(view[filled:])
        if not got:
            raise UserError(
                f"{path} is truncated: {count} bytes of data expected for shape {shape}, {filled} found; "
                "fetch it again."
            )
        filled += got
    if file.read(1):
        raise UserError(
            f"{path} has bytes left after the {count} that its shape {shape} needs; fetch it again."
        )
    return array.reshape(shape)


def find(folder: pathlib.Path) -> Optional[Callable[[], Raw]]:
    """Returns a reader if `folder` (or its `raw` subfolder) holds IDX files, else None."""
    for place in (folder, folder / "raw"):
        if any(place.glob("*idx[13]-ubyte*")):
            return lambda: _read_set(place)
    return None


def _read_set(folder: pathlib.Path) -> Raw:
    images, labels = {}, {}
    for split in _SPLITS:
        images[split] = read(_path(folder, split, "images", 3), 3)[..., None]
        path = _path(folder, split, "labels", 1)
        labels[split] = check_labels(read(path, 1), len(images[split]), f"The {split} split of {folder}")
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise UserError(
            f"{folder} has training images of {images['train'].shape[1:3]} and test images of "
            f"{images['test'].shape[1:3]} pixels; both must be alike."
        )
    return Raw(
        ArrayRows(images["train"]),
        labels["train"],
        ArrayRows(images["test"]),
        labels["test"],
        source=str(folder),
    )


def _path(folder: pathlib.Path, split: str, kind: str, rank: int) -> pathlib.Path:
    for prefix in _SPLITS[split]:
        for joint in "-.":
            for suffix in ("", ".gz"):
                path = folder / f"{prefix}-{kind}{joint}idx{rank}-ubyte{suffix}"
                if os.path.lexists(path):  # what is no file is told when it is read
                    return path
    raise UserError(
        f"{folder} holds IDX files but not {_SPLITS[split][-1 if split == 'train' else 0]}-{kind}-idx{rank}"
        "-ubyte[.gz]; all four files of the set are needed."
    )
