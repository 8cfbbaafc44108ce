"""Which numbers data may hold: finite ones, and for images of floats those in [0, 1]."""

import numpy as np

from pae_zoo.core.errors import UserError

_CHUNK = 1024
REMEDY = "divide by 255 or store uint8"


def check(array: np.ndarray, where: str, unit: bool, start: int = 0, remedy: str = REMEDY) -> None:
    """Raises UserError if an array of floats, (n, ...), holds NaN, infinity or, with `unit`, values outside [0, 1].

    Args:
      array: data; integers and truth values pass.
      where: what the message begins with, such as "x" or a file and what of it.
      unit: whether the values must lie in [0, 1], as pixels do.
      start: number of the first row, where `array` is a part of the data.
      remedy: what to do about a wrong range, without a full stop.
    """
    if array.dtype.kind != "f":
        return
    for first in range(0, len(array), _CHUNK):
        rows = array[first : first + _CHUNK].reshape(min(_CHUNK, len(array) - first), -1)
        if not rows.size:
            continue
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            row = start + first + int(bad.argmax())
            raise UserError(f"{where} holds NaN or infinity, first in row {row}; remove or repair such rows.")
        if unit and (rows.min() < 0 or rows.max() > 1):
            row = start + first + int(((rows < 0) | (rows > 1)).any(axis=1).argmax())
            raise UserError(f"{where} holds values from {rows.min():.6g} to {rows.max():.6g}, first outside of [0, 1] "
                            f"in row {row}; float images must lie in [0, 1]: {remedy}.")
