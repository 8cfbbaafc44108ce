"""Rows of a table as data: which columns carry something is found on the training rows, and kept as the schema."""

import hashlib
from collections.abc import Sequence
from typing import Optional

import numpy as np

from pae_zoo.core import columns, reading
from pae_zoo.core.errors import UserError
from pae_zoo.data.framing import Geometry
from pae_zoo.data.rows import check_room
from pae_zoo.data.tables.collecting import Coded, Table
from pae_zoo.data.tables.schema import Column, Schema

_CHUNK = 4096


class Encoder:
    """Turns rows of a table into numbers by a schema, which the first rows that it is given decide where none is.

    `notes` say which columns were dropped, and `unseen` counts by column the categories that training lacks.
    """

    def __init__(self, table: Table, schema: Optional[Schema] = None, **settings):
        self.table, self.schema, self.settings = table, schema, settings
        self.notes: list[str] = []
        self.unseen: dict[str, int] = {}

    def fit(self, rows: np.ndarray) -> Schema:
        """Returns the schema; raises UserError where no column carries anything in the training `rows`."""
        if self.schema is None:
            columns, constant, same = [], [], []
            seen: dict[bytes, str] = {}
            for name, values in self.table.columns.items():
                if isinstance(values, Coded):
                    levels = [values.levels[code] for code in np.unique(values.codes[rows]) if code >= 0]
                    column = Column(name, tuple(in_order(levels)))
                    varies, key = len(levels) > 1, b""
                else:
                    here = values[rows]
                    column = Column(name, kind=_kind(here[~np.isnan(here)]))
                    varies, key = np.fmin.reduce(here) < np.fmax.reduce(here), hashlib.sha256(here.tobytes()).digest()
                if not varies:
                    constant.append(name)
                elif key and key in seen:
                    same.append(f"{name} ({seen[key]})")
                else:
                    columns.append(column)
                    seen[key] = name
            if not columns:
                raise UserError(f"{self.table.source}: all {len(constant)} columns are constant in the training rows; "
                                "there is nothing to learn.")
            self.notes += _told(constant, "constant in the training rows") + _told(same, "the same as another")
            self.schema = Schema(tuple(columns), **self.settings)
        return self.schema

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Returns the rows as float32, (len(rows), width); categories that training lacks are 0 in all columns.

        Empty cells are NaN, in all columns of a category.
        """
        schema = self.fit(rows)
        out = np.zeros((len(rows), schema.width), np.float32)
        start = 0
        for column in schema.columns:
            values = self.table.columns[column.name]
            if column.levels is None:
                assert isinstance(values, np.ndarray)
                out[:, start] = values[rows]
            else:
                assert isinstance(values, Coded)
                places = {level: place for place, level in enumerate(column.levels)}
                codes = values.codes[rows]
                found = np.array([*(places.get(level, -1) for level in values.levels), -1])[codes]
                known = np.flatnonzero(found >= 0)
                out[known, start + found[known]] = 1
                out[codes < 0, start : start + column.width] = np.nan
                unseen = np.count_nonzero((found < 0) & (codes >= 0))
                if unseen:
                    self.unseen[column.name] = self.unseen.get(column.name, 0) + unseen
            start += column.width
        return out

    @property
    def told(self) -> list[str]:
        """The notes, with what was counted."""
        return self.notes + [f"column {name!r}: {count} values are in no training row, 0 in all columns of its "
                             "categories" for name, count in self.unseen.items()]  # fmt: skip


class TableRows:
    """Some rows of a table, or windows of rows that follow one another, as data.

    Args:
      encoder: shared by the splits of a table.
      rows: numbers of the rows, in order; None: all.
      window: rows of one datum, 0: one row each.
      stride: rows from one window to the next.
    """

    def __init__(self, encoder: Encoder, rows: Optional[np.ndarray] = None, window: int = 0, stride: int = 0):
        self.encoder = encoder
        self.rows = np.arange(len(encoder.table)) if rows is None else rows
        self.window, self.stride = window, stride or window
        self.starts = np.arange(0, max(0, len(self.rows) - window + 1), self.stride) if window else None

    @property
    def told(self) -> list[str]:
        """What was found while rows were taken."""
        return self.encoder.told

    @property
    def shape(self) -> Optional[tuple]:
        """The shape of a datum where the schema is known, else None."""
        schema = self.encoder.schema
        return None if schema is None else schema.event_shape

    def __len__(self) -> int:
        return len(self.rows) if self.starts is None else len(self.starts)

    def last_rows(self, part: np.ndarray) -> np.ndarray:
        """Returns the number in the table of each datum's only or last row."""
        return self.rows[part if self.starts is None else self.starts[part] + self.window - 1]

    def take(self, parts: Sequence[np.ndarray], geometry: Geometry) -> list[np.ndarray]:
        """Returns the parts; the first rows that are ever taken, the training rows, decide the schema."""
        if not geometry.is_identity:
            raise UserError(f"{self.encoder.table.source} is a table; image_size, crop, grey and invert are for "
                            "images.")
        parts = [np.asarray(part, np.int64) for part in parts]
        shape = self.encoder.fit(self._rows_of(parts[0])).event_shape
        check_room(sum(map(len, parts)), shape, np.dtype(np.float32))
        return [self._encoded(part, shape) for part in parts]

    def _rows_of(self, part: np.ndarray) -> np.ndarray:
        if self.starts is None:
            return self.rows[part]
        return self.rows[np.unique(self.starts[part][:, None] + np.arange(self.window))]

    def _encoded(self, part: np.ndarray, shape: tuple) -> np.ndarray:
        out = np.empty((len(part), *shape), np.float32)
        if self.starts is not None:  # rows that windows share are encoded, and counted, once
            needed = self._rows_of(part) if len(part) else np.zeros(0, np.int64)
            rows, place = self.encoder.encode(needed), np.zeros(len(self.encoder.table), np.int64)
            place[needed] = np.arange(len(needed))
            for start in range(0, len(part), _CHUNK):
                some = self.starts[part[start : start + _CHUNK]][:, None] + np.arange(self.window)
                out[start : start + _CHUNK] = rows[place[self.rows[some]]].reshape(len(some), *shape)
            return out
        for start in range(0, len(part), _CHUNK):
            out[start : start + _CHUNK] = self.encoder.encode(self.rows[part[start : start + _CHUNK]])
        return out


def in_order(levels: Sequence[str]) -> list[str]:
    """Returns texts sorted, as numbers where all are numbers."""
    try:
        return sorted(levels, key=lambda text: (float(text), text))
    except ValueError:
        return sorted(levels)


def _kind(values: np.ndarray) -> str:
    """What numbers are: bits, counts, which vary about as much as a Poisson does or more, or reals."""
    if not len(values) or not np.array_equal(values, np.floor(values)) or values.min() < 0:
        return columns.REAL
    if values.max() <= 1:
        return columns.BINARY
    wide = values.astype(np.float64)
    return columns.COUNT if wide.var() >= 0.5 * wide.mean() else columns.REAL


def _told(names: list[str], why: str) -> list[str]:
    if not names:
        return []
    columns = "column" if len(names) == 1 else f"{len(names)} columns"
    return [f"left out: {columns} {reading.shown(', '.join(names))}, {why}"]
