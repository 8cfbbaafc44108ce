"""Rows that follow one another in time: their order, and splits that share no row."""

import datetime
from typing import Any

import numpy as np

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.data.tables.collecting import Table

TEST_FRACTION = 1 / 6


def order(table: Table) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the numbers of the rows in the order of time, and notes: by the index column, else as they stand.

    Raises UserError for an index that is neither numbers nor dates in the form of ISO 8601.
    """
    if table.index is None:
        return np.arange(len(table)), ("rows are taken in the order of the file; --index_column=NAME orders them",)
    times = [_time(text, row, table.source) for row, text in enumerate(table.index)]
    kinds = {type(time) for time in times}
    if len(kinds) > 1:
        raise UserError(f"{table.source}: the index column holds numbers and dates; give one or the other.")
    try:
        found = np.array(sorted(range(len(times)), key=times.__getitem__))
    except TypeError as error:
        raise UserError(f"{table.source}: the index column holds times with and without a zone; give one or the other."
                        ) from error  # fmt: skip
    if len(set(times)) < len(times):
        raise UserError(f"{table.source}: the index column holds a time twice, so that rows have no order; make it "
                        "unique.")
    return found, ()


def _time(text: str, row: int, source: str) -> Any:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise UserError(f"{source}: the index column holds {reading.shown(text)!r} in row {row}; allowed are numbers "
                        "and dates such as 2024-01-31 or 2024-01-31 12:00:00.") from error


def sizes(count: int, least: int, validation_fraction: float, valid: bool = True,
          test: bool = True) -> tuple[int, int, int]:
    """Returns how many of `count` rows are for training, 0 or fewer where they do not suffice, validation and test.

    The last sixth is the test split and the last `validation_fraction` of the rest validation, each of at `least` so
    many rows, or none without `valid` and `test`.
    """
    last = max(least, round(count * TEST_FRACTION)) if test else 0
    middle = max(least, round((count - last) * validation_fraction)) if valid else 0
    return count - last - middle, middle, last


def split(count: int, window: int, validation_fraction: float, source: str) -> list[np.ndarray]:
    """Returns the places in time of the rows for training, validation and test, one stretch after the other.

    Their numbers are those of `sizes`. No window reaches from one into the next. Raises UserError where one is shorter
    than a window.
    """
    train, valid, _ = sizes(count, window, validation_fraction)
    if train < window:
        raise UserError(f"{source} has {count} rows; windows of {window} need at least {3 * window}, one each for "
                        "training, validation and test: give a smaller --window.")
    return np.split(np.arange(count), [train, train + valid])
