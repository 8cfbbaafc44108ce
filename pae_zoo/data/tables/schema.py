"""What a table's columns become: numbers, or one column for each category; kept with a run, applied to other tables."""

import dataclasses
from typing import Any, Optional

from pae_zoo.core import columns
from pae_zoo.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of data: numbers, or categories by their names in order, `levels`."""

    name: str
    levels: Optional[tuple[str, ...]] = None
    #: of numbers: real, count or binary, as the training rows are
    kind: str = dataclasses.field(default=columns.REAL, compare=False)

    @property
    def width(self) -> int:
        return 1 if self.levels is None else len(self.levels)

    @property
    def word(self) -> str:
        """Its kind as a word of `core.columns`."""
        return self.kind if self.levels is None else f"{columns.CATEGORY}:{len(self.levels)}"

    @property
    def outputs(self) -> list[str]:
        """Names of the numbers that a cell becomes: the column's own, or name=category."""
        return [self.name] if self.levels is None else [f"{self.name}={level}" for level in self.levels]


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a table in the order of the data, those of labels and index, and the window of a series."""

    columns: tuple[Column, ...]
    label_column: str = ""
    label_names: tuple[str, ...] = ()
    index_column: str = ""
    window: int = 0
    stride: int = 0
    #: whether the rows of a window lie one behind the other, as runs of before have them
    flat: bool = False

    @property
    def width(self) -> int:
        """How many numbers a row becomes."""
        return sum(column.width for column in self.columns)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum: a row (width,), or the rows of a window, (window, width)."""
        if self.flat or not self.window:
            return (self.width * max(1, self.window),)
        return (self.window, self.width)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the columns of a row are, as words of `core.columns`; none for windows."""
        return () if self.window else tuple(column.word for column in self.columns)

    @property
    def outputs(self) -> list[str]:
        """Names of the numbers of a row, in order."""
        return [name for column in self.columns for name in column.outputs]

    def to_json(self) -> dict[str, Any]:
        """Returns plain lists and texts."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Schema":
        """Returns the schema of `to_json`; raises UserError for anything else."""
        try:
            read = tuple(Column(str(one["name"]), None if one["levels"] is None else tuple(map(str, one["levels"])),
                                   str(one.get("kind", columns.REAL)))
                            for one in found["columns"])  # fmt: skip
            if not read:
                raise ValueError("no columns")
            return cls(read, str(found["label_column"]), tuple(map(str, found["label_names"])),
                       str(found["index_column"]), int(found["window"]), int(found["stride"]),
                       bool(found.get("flat", True)) and int(found["window"]) > 0)  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"it does not describe the columns of a table ({type(error).__name__}: {error})."
                            ) from error  # fmt: skip
