"""What a user may say of a table: which columns are data, labels, categories, and how rows follow one another."""

import dataclasses

from pae_zoo.core.errors import UserError, check_choice
from pae_zoo.core.values import MASK, MISSING, REFUSE


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """The settings of a table; `--columns=-a,-b` takes all but a and b.

    Args:
      label_column: whose values are labels, no data.
      columns: those to keep, or, with a minus before each, those to leave out; () keeps all.
      categorical: those whose values are names, also where they look like numbers.
      index_column: what names the rows, and puts those of a series in order; no data.
      missing: what becomes of empty cells: refuse, or mask: they are NaN.
      window: rows of a series that make one datum; 0: each row is one.
      stride: rows from one window to the next; 0: `window`, so that none overlap.
      validation_fraction: of the training rows of a series; other tables are split by the loader.
    """

    label_column: str = ""
    columns: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    index_column: str = ""
    missing: str = REFUSE
    window: int = 0
    stride: int = 0
    validation_fraction: float = 1 / 12

    def __post_init__(self) -> None:
        check_choice(self.missing, MISSING, "missing")
        for name in ("window", "stride"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} is negative; give a number of rows, or leave it out.")
        if self.stride and not self.window:
            raise UserError(f"stride={self.stride} needs window, the rows of one datum of a series.")
        if self.label_column and self.label_column == self.index_column:
            raise UserError(f"label_column and index_column are both {self.label_column!r}; name two columns.")
        signs = {name.startswith("-") for name in self.columns}
        if len(signs) > 1:
            raise UserError(f"columns={','.join(self.columns)} mixes columns to keep and, with a minus, to leave out; "
                            "give one or the other.")

    @property
    def masks(self) -> bool:
        """Whether empty cells, or NaN in arrays, are taken for values that are missing."""
        return self.missing == MASK

    @property
    def given(self) -> list[str]:
        """The names of what is set and means a table alone, for sets that are none."""
        plain = TableOptions(missing=self.missing, validation_fraction=self.validation_fraction)
        return [field.name for field in dataclasses.fields(self)
                if getattr(self, field.name) != getattr(plain, field.name)]


PLAIN = TableOptions()
