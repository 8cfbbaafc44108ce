"""Which numbers data may hold: finite ones, and for images of floats those in [0, 1]."""

import numpy as np

from pae_zoo.core.errors import UserError

#: what becomes of values that are missing: nothing is taken that has some, or they are NaN, for a model that sees the
#: mask
REFUSE, MASK = MISSING = ("refuse", "mask")
_CHUNK = 1024
REMEDY = "divide by 255 or store uint8"
#: what else may be done about NaN
MASK_REMEDY = ", or take NaN for values that are missing, by --missing=mask or missing='mask'"


def check(array: np.ndarray, where: str, unit: bool, start: int = 0, remedy: str = REMEDY,
          missing: bool = False) -> None:
    """Raises UserError if an array of floats, (n, ...), holds NaN, infinity or, with `unit`, values outside [0, 1].

    Args:
      array: data; integers and truth values pass.
      where: what the message begins with, such as "x" or a file and what of it.
      unit: whether the values must lie in [0, 1], as pixels do.
      start: number of the first row, where `array` is a part of the data.
      remedy: what to do about a wrong range, without a full stop.
      missing: whether NaN stands for a value that nobody has seen, and passes.
    """
    if array.dtype.kind != "f":
        return
    for first in range(0, len(array), _CHUNK):
        rows = array[first : first + _CHUNK].reshape(min(_CHUNK, len(array) - first), -1)
        if not rows.size:
            continue
        bad = (np.isinf(rows) if missing else ~np.isfinite(rows)).any(axis=1)
        if bad.any():
            row = start + first + int(bad.argmax())
            what, more = ("infinity", "") if missing else ("NaN or infinity", MASK_REMEDY)
            raise UserError(f"{where} holds {what}, first in row {row}; remove or repair such rows{more}.")
        outside = (rows < 0) | (rows > 1)
        if unit and outside.any():
            row = start + first + int(outside.any(axis=1).argmax())
            low, high = np.fmin.reduce(rows, axis=None), np.fmax.reduce(rows, axis=None)
            raise UserError(f"{where} holds values from {low:.6g} to {high:.6g}, first outside of [0, 1] "
                            f"in row {row}; float images must lie in [0, 1]: {remedy}.")
