"""Rows of a data set before they are chosen: arrays in memory, or things that are decoded on demand.

A `Rows` has a length and `take(parts, geometry)`, which returns one array per list of row numbers. Choosing
before decoding means that `num_train=1000` of a large set of pictures decodes a thousand of them.
"""

import dataclasses
import math
from typing import Any, Callable, Optional, Protocol, Sequence

import numpy as np

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.data.framing import Geometry

_CHUNK = 1024


class Rows(Protocol):
    """A sequence of data that can be taken in any order."""

    @property
    def shape(self) -> Optional[tuple]:
        """The event shape as stored, or None where the rows differ."""

    def __len__(self) -> int: ...

    def take(self, parts: Sequence[np.ndarray], geometry: Geometry) -> list[np.ndarray]: ...


@dataclasses.dataclass
class Raw:
    """What a reader found: rows and labels; `test` or `valid` None: there is no such official split."""

    train: Rows
    train_y: Optional[np.ndarray] = None
    test: Optional[Rows] = None
    test_y: Optional[np.ndarray] = None
    valid: Optional[Rows] = None
    valid_y: Optional[np.ndarray] = None
    source: str = ""
    label_names: tuple = ()
    log_prob: Optional[Callable] = None
    notes: tuple = ()  # what was left out, a phrase each
    # {split: bool (n, A)}, and the names of the attributes
    attributes: dict = dataclasses.field(default_factory=dict)
    attribute_names: tuple = ()
    splits: str = ""  # how a reader split them by a rule of its own
    held_out: Optional[np.ndarray] = None  # rows of `train` that a fixed rule makes the test split


class ArrayRows:
    """Rows of one array of shape (n, *event)."""

    def __init__(self, array: np.ndarray):
        self.array = array
        self.shape = tuple(array.shape[1:])

    def __len__(self) -> int:
        return len(self.array)

    def take(self, parts: Sequence[np.ndarray], geometry: Geometry) -> list[np.ndarray]:
        """Returns the parts; if they are all rows together, they share the array's memory, reordered."""
        if not geometry.is_identity:
            return [self._transformed(part, geometry) for part in parts]
        order = np.concatenate([np.asarray(part, np.int64) for part in parts])
        if len(order) == len(self.array) and self.array.flags.writeable:
            permute_in_place(self.array, order)
            array = self.array
            del self.array  # its order is lost: this object is spent
            return np.split(array, np.cumsum([len(part) for part in parts])[:-1])
        return [self.array[part] for part in parts]

    def _transformed(self, part: np.ndarray, geometry: Geometry) -> np.ndarray:
        check_room(len(part), geometry.shape(self.shape), self.array.dtype)
        out = np.empty((len(part), *geometry.shape(self.shape)), self.array.dtype)
        for start in range(0, len(part), _CHUNK):
            rows = slice(start, start + _CHUNK)
            out[rows] = geometry.apply(self.array[part[rows]])
        return out


def check_room(count: int, shape: Sequence[int], dtype: np.dtype) -> None:
    """Raises UserError unless the memory holds `count` data of `shape`, and a chunk of them on its way there."""
    size = (count + min(count, _CHUNK)) * math.prod(shape) * np.dtype(dtype).itemsize
    what = f"Loading {count} data of shape {tuple(shape)}"
    reading.check_memory(size, what, remedy="give a smaller image_size=N or crop, or fewer data")


def permute_in_place(array: np.ndarray, order: np.ndarray) -> None:
    """Makes row i what row order[i] was, with the memory of one row; raises ValueError if no permutation."""
    if not np.array_equal(np.sort(order), np.arange(len(array))):
        raise ValueError("order is not a permutation of the rows")
    source = order.tolist()
    for start in range(len(source)):
        if source[start] < 0 or source[start] == start:
            continue
        first, here = array[start].copy(), start
        while source[here] != start:
            array[here] = array[source[here]]
            source[here], here = -1, source[here]
        array[here] = first
        source[here] = -1


def check_labels(labels: Any, count: int, where: str) -> np.ndarray:
    """Returns labels as int64 of shape (count,); raises UserError for another length or for fractions."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "biuf":
        raise UserError(
            f"{where} has labels of shape {labels.shape} and type {labels.dtype}; allowed are integers, (n,)."
        )
    if len(labels) != count:
        raise UserError(
            f"{where} has {count} images but {len(labels)} labels; the two must have the same length: "
            "fetch both files again."
        )
    integers = labels.astype(np.int64) if labels.dtype.kind != "f" or np.isfinite(labels).all() else None
    if integers is None or not np.array_equal(integers, labels):
        raise UserError(f"{where} has labels that are not integers; allowed are integers.")
    return integers
