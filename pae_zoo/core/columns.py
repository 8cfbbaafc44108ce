"""What kinds of numbers the columns of a vector are: reals, counts, bits, or blocks that name a category."""

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

from pae_zoo.core.errors import UserError
from pae_zoo.core.hparams import DATA, option

REAL, COUNT, BINARY, CATEGORY = KINDS = ("real", "count", "binary", "category")
_WORD = re.compile(r"(real|count|binary)|category:([1-9]\d{0,5})")


class Stretch(NamedTuple):
    """Values `start` to `stop` of a vector: one real, count or bit, or the categories of one column."""

    kind: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """What the network tabular, the likelihoods of columns and their preprocessing read."""

    column_kinds: tuple[str, ...] = option((), "Kinds of the columns in order: real, count, binary, category:N for N "
                                           "columns of 0 and 1 (empty: as the table has them).", group=DATA)


def stretches(words: Sequence[str], width: int) -> list[Stretch]:
    """Returns the columns that words such as real, count, binary and category:3 name, all of a vector of `width`.

    Raises UserError for other words, and for more or fewer values than `width`.

    Examples:
      >>> [(one.kind, one.start, one.stop) for one in stretches(("real", "category:3"), 4)]
      [('real', 0, 1), ('category', 1, 4)]
    """
    found, start = [], 0
    for word in words:
        match = _WORD.fullmatch(str(word))
        if not match:
            raise UserError(f"column_kinds={word!r} is unknown; allowed: real, count, binary, category:N.")
        stop = start + (int(match[2]) if match[2] else 1)
        found.append(Stretch(match[1] or CATEGORY, start, stop))
        start = stop
    if start != width:
        raise UserError(f"column_kinds names {start} values, a datum has {width}; name them all, in order.")
    return found
