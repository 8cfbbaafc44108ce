"""What cells of a table hold: numbers, texts, nothing, dates."""

import re
from typing import Any, NamedTuple, Optional

import numpy as np

MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "nil", "<na>"))
_DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})([T ].*)?|\d{1,2}:\d\d(:\d\d.*)?")
_TIMES = re.compile(r"date|time|timestamp|epoch|datetime|day", re.IGNORECASE)


class Cells(NamedTuple):
    """A stretch of a column: the numbers, NaN elsewhere, which cells are empty and which are texts.

    `values` are the cells as they were given.
    """

    numbers: np.ndarray
    empty: np.ndarray
    is_text: np.ndarray
    values: Any

    def text(self, index: int) -> str:
        """Returns a cell as text, whole numbers without a point."""
        return text_of(self.values[index])

    def first(self, which: np.ndarray) -> int:
        """Returns the first index that a mask holds."""
        return int(which.argmax())


def text_of(value: Any) -> str:
    """Returns a value as text, whole numbers without a point."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def sorted_out(values: Any) -> Cells:
    """Returns the cells of texts, as csv has them, of an array of numbers, or of any values with None for nothing."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        numbers = values.astype(np.float64)
        return Cells(numbers, np.isnan(numbers), np.zeros(len(numbers), bool), values)
    try:
        numbers = np.array(values, dtype=np.float64) if len(values) and isinstance(values[0], str) else None
    except (ValueError, OverflowError):
        numbers = None
    if numbers is not None and numbers.ndim == 1:
        return Cells(numbers, np.isnan(numbers), np.zeros(len(numbers), bool), values)
    numbers = np.full(len(values), np.nan)
    empty, is_text = np.zeros(len(values), bool), np.zeros(len(values), bool)
    for place, value in enumerate(values):
        number = _number(value)
        if number is None:
            is_text[place] = True
        elif number != number:
            empty[place] = True
        else:
            numbers[place] = number
    return Cells(numbers, empty, is_text, values)


def _number(value: Any) -> Optional[float]:
    """The number that a cell holds, NaN for an empty one, None for a text."""
    if value is None:
        return float("nan")
    if isinstance(value, str):
        value = value.strip()
        if value.lower() in MISSING:
            return float("nan")
    elif not isinstance(value, (int, float, np.number, np.bool_)):
        return float("nan") if value != value or str(value) in ("NaT", "<NA>") else None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def is_date(text: str) -> bool:
    """Whether a text is a date or a time of day."""
    return _DATE.fullmatch(text) is not None


def are_dates(name: str, numbers: np.ndarray) -> bool:
    """Whether numbers are dates: all yyyymmdd, or, in a column called so, seconds or milliseconds since 1970."""
    if not len(numbers) or not (numbers == np.floor(numbers)).all():
        return False
    year, month, day = numbers // 10_000, numbers // 100 % 100, numbers % 100
    if ((1900 <= year) & (year <= 2100) & (1 <= month) & (month <= 12) & (1 <= day) & (day <= 31)).all():
        return True
    seconds = ((5e8 <= numbers) & (numbers < 4e9)).all() or ((5e11 <= numbers) & (numbers < 4e12)).all()
    return bool(seconds) and _TIMES.search(name) is not None
