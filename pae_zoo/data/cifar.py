"""CIFAR-10 as its authors publish it: binary batches, or Python ones read without running their pickles."""

import os
import pathlib
import re
from typing import Callable, Optional

import numpy as np

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.data.rows import ArrayRows, Raw, check_labels

DESCRIPTION = "CIFAR batches (data_batch_1.bin ... test_batch.bin, or the Python ones without .bin)"
_PLACES = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
_PIXELS = 3 * 32 * 32
NUM_CLASSES = 10
_MOST_BYTES = 256 << 20  # of a batch; the published ones have 30 MB


def find(folder: pathlib.Path) -> Optional[Callable[[], Raw]]:
    """Returns a reader if `folder`, or the unpacked archive in it, holds CIFAR batches, else None."""
    for place in _PLACES:
        batches = [
            p
            for p in (folder / place).glob("*_batch*")
            if re.fullmatch(r"(data_batch_\d+|test_batch)(\.bin)?", p.name)
        ]
        if batches:
            suffix = ".bin" if any(p.suffix == ".bin" for p in batches) else ""
            return lambda: _read_set(folder / place, suffix)
    return None


def _read_set(folder: pathlib.Path, suffix: str) -> Raw:
    batches = [p.name for p in folder.glob(f"data_batch_*{suffix}") if p.suffix == suffix]
    numbers = [int(match[0]) for match in (re.search(r"\d+", name) for name in batches) if match]
    names = [f"data_batch_{i}{suffix}" for i in range(1, max(numbers, default=1) + 1)] + [
        f"test_batch{suffix}"
    ]
    for name in names:
        if not os.path.lexists(folder / name):
            raise UserError(f"{folder} holds CIFAR batches but not {name}; unpack the whole archive there.")
    parts = [read_binary(folder / name, "CIFAR-10", 1, NUM_CLASSES) if suffix else
             read_python(folder / name, "CIFAR-10", b"labels", NUM_CLASSES) for name in names]  # fmt: skip
    images = np.concatenate([x for x, _ in parts[:-1]])
    labels = np.concatenate([y for _, y in parts[:-1]])
    return Raw(ArrayRows(images), labels, ArrayRows(parts[-1][0]), parts[-1][1], source=str(folder))


def read_binary(path: pathlib.Path, what: str, places: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of a binary batch, whose rows have `places` labels, the last of which counts."""
    data, size = np.frombuffer(reading.content(path, "fetch it again", _MOST_BYTES), np.uint8), _PIXELS + places
    if not len(data) or len(data) % size:
        raise UserError(f"{path} has {len(data)} bytes, not a multiple of {size}; it is truncated or no {what} batch: "
                        "fetch it again.")
    rows = data.reshape(-1, size)
    return _batch(rows[:, places:], rows[:, places - 1], path, what, classes)


def read_python(path: pathlib.Path, what: str, key: bytes, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of a Python batch, which is read without running its pickle."""
    found = reading.unpickled(path, f"{what} Python batch", limit=_MOST_BYTES)
    data, labels = (found.get(name) if isinstance(found, dict) else None for name in (b"data", key))
    if not isinstance(data, np.ndarray) or not isinstance(labels, list) or not all(type(y) is int for y in labels):
        raise UserError(f"{path} is not a readable {what} Python batch (it holds no array `data` with a list of "
                        f"numbers `{key.decode()}`); fetch it again.")
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS:
        raise UserError(f"{path} holds data of shape {data.shape} and type {data.dtype}; a {what} batch has uint8 of "
                        f"shape (n, {_PIXELS}).")
    return _batch(data, labels, path, what, classes)


def _batch(data: np.ndarray, labels, path: pathlib.Path, what: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    if not len(data):
        raise UserError(f"{path} holds no rows; fetch it again.")
    labels = check_labels(labels, len(data), str(path))
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"{path} has labels from {labels.min()} to {labels.max()}; {what} has 0 to {classes - 1}: it "
                        f"is no {what} batch or broken.")
    return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels
