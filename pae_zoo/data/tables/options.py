"""What a user may say of a table: which columns are data, labels, categories, and how rows follow one another."""

import dataclasses

from pae_zoo.core.errors import UserError, check_choice

MISSING = ("refuse", "mask")


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """The settings of a table; `--columns=-a,-b` takes all but a and b.

    Args:
      label_column: whose values are labels, no data.
      columns: those to keep, or, with a minus before each, those to leave out; () keeps all.
      categorical: those whose values are names, also where they look like numbers.
      index_column: what names the rows, and puts those of a series in order; no data.
      missing: what becomes of empty cells: refuse.
      window: rows of a series that make one datum; 0: each row is one.
      stride: rows from one window to the next; 0: `window`, so that none overlap.
      validation_fraction: of the training rows of a series; other tables are split by the loader.
    """

    label_column: str = ""
    columns: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    index_column: str = ""
    missing: str = "refuse"
    window: int = 0
    stride: int = 0
    validation_fraction: float = 1 / 12

    def __post_init__(self) -> None:
        check_choice(self.missing, MISSING, "missing")
        if self.missing == "mask":
            raise UserError("missing=mask is not there yet: no model takes data with holes. Fill the cells in, or "
                            "leave the columns that have some out.")
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
    def given(self) -> list[str]:
        """The names of what differs from a table without settings, for sets that are no tables."""
        plain = TableOptions(validation_fraction=self.validation_fraction)
        return [field.name for field in dataclasses.fields(self)
                if getattr(self, field.name) != getattr(plain, field.name)]


PLAIN = TableOptions()
