"""What `load` returns: a data set with its three splits, and what it states about itself."""

import dataclasses
import re
from typing import Any, Callable, Optional

import numpy as np

from pae_zoo.data.tables.schema import Schema


@dataclasses.dataclass(frozen=True)
class Info:
    """What a set states about itself: title, shape of one datum, value range, licence or source, splits."""

    title: str
    shape: tuple
    value_range: str
    licence: str
    splits: str
    source: str = ""  # where this copy was read from
    notes: tuple[str, ...] = ()  # what was left out of it, a phrase each


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Rows of a data set: `x` of shape (n, *event), uint8 or float32, and labels `y`, int64 (n,), or None.

    `attributes`, bool (n, A), say which of A things each datum has; None where nothing is known of them.
    """

    x: np.ndarray
    y: Optional[np.ndarray] = None
    attributes: Optional[np.ndarray] = None

    def __len__(self) -> int:
        return len(self.x)

    def unit(self, indices: Any = slice(None)) -> np.ndarray:
        """Returns the chosen rows as float32: uint8 is divided by 255, floats come as they are."""
        rows = self.x[indices]
        if rows.dtype == np.uint8:
            return rows.astype(np.float32) / np.float32(255.0)
        return np.asarray(rows, np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A named set, split into train, valid and test.

    `log_prob` maps an array (n, d) to the exact log density in nats, (n,), for the synthetic sets; it is None
    elsewhere. `label_names` gives the name of each label where labels are texts, of folders or in a column, and
    `attribute_names` that of each attribute. `table` says what the columns of a table have become; it is None for other
    sets.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    event_shape: tuple
    info: Info
    log_prob: Optional[Callable[[np.ndarray], np.ndarray]] = None
    label_names: tuple = ()
    attribute_names: tuple = ()
    table: Optional[Schema] = None

    def flattened(self) -> "Dataset":
        """Returns the data set with vectors for data."""
        splits = [dataclasses.replace(split, x=split.x.reshape(len(split), -1))
                  for split in (self.train, self.valid, self.test)]
        return dataclasses.replace(self, train=splits[0], valid=splits[1], test=splits[2],
                                   event_shape=splits[0].x.shape[1:],
                                   table=self.table and dataclasses.replace(self.table, flat=True))  # fmt: skip

    @property
    def slug(self) -> str:
        """The name as one folder name."""
        return slug(self.name)


_ENDING = re.compile(r"(\.npz|\.npy|\.csv|\.tsv|\.txt|\.parquet|\.pq)(\.gz)?$", re.IGNORECASE)


def slug(name: str) -> str:
    """Returns a name of the grammar of `--dataset` as one folder name: `npz:a/b.npz` becomes `npz-b`."""
    kind, colon, rest = name.partition(":")
    if colon:
        last = rest.rstrip("/").rsplit("/", 1)[-1] if kind != "tfds" else rest
        name = f"{kind}-{_ENDING.sub('', last)}"
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "data"
