"""Stretches of rows, gathered column by column into float32 numbers and codes of categories."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Optional, Union

import numpy as np

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError, suggestion
from pae_zoo.data.tables import cells
from pae_zoo.data.tables.cells import Cells
from pae_zoo.data.tables.options import TableOptions
from pae_zoo.data.tables.schema import Schema

#: most names in a header, columns of data, and categories: told from the values, asked for, and of labels
MOST_NAMES, MOST_COLUMNS, TOLD_LEVELS, MOST_LEVELS, MOST_LABELS = 100_000, 5000, 100, 1000, 10_000
_SHOWN = 20


@dataclasses.dataclass
class Coded:
    """A column of texts: a code for each row, and the text of each code in the order of their first rows.

    The code of an empty cell is -1.
    """

    codes: np.ndarray
    levels: list[str]


@dataclasses.dataclass
class Table:
    """Columns of data by name, in order: float32 numbers or coded texts; labels and names of rows where asked for."""

    columns: dict[str, Union[np.ndarray, Coded]]
    labels: Optional[Coded]
    index: Optional[list[str]]
    source: str
    notes: list[str]

    def __len__(self) -> int:
        first = next(iter(self.columns.values()))
        return len(first.codes if isinstance(first, Coded) else first)


class _Numbers:
    def __init__(self, name: str):
        self.name, self.blocks, self.dates = name, [], True
        self.low, self.high = np.inf, -np.inf

    def add(self, found: Cells, tell: Callable[[int], str]) -> None:
        if found.is_text.any():
            place = found.first(found.is_text)
            raise UserError(f"{tell(place)}: column {self.name!r} holds numbers and texts, such as "
                            f"{reading.shown(found.text(place))!r}; repair it, give --categorical={self.name}, or "
                            f"leave it out: --columns=-{self.name}.")
        with np.errstate(over="ignore"):
            numbers = found.numbers.astype(np.float32)
        broken = ~np.isfinite(numbers) & ~found.empty
        if broken.any():
            place = found.first(broken)
            raise UserError(f"{tell(place)}: column {self.name!r} holds {found.text(place)}, which float32 cannot; "
                            "repair or remove it.")
        there = found.numbers[~found.empty]
        if len(there):
            self.dates = self.dates and cells.are_dates(self.name, there)
            self.low, self.high = min(self.low, there.min()), max(self.high, there.max())
        self.blocks.append(numbers)

    @property
    def is_rough(self) -> bool:
        """Whether float32 leaves fewer than some hundred steps between the least and the largest value."""
        return self.low < self.high and self.high - self.low < 2.0**-15 * max(abs(self.low), abs(self.high))


class _Texts:
    def __init__(self, name: str, most: int, advice: str, gaps: bool = False):
        self.name, self.most, self.advice, self.gaps = name, most, advice, gaps
        self.numbers: dict[str, int] = {}
        self.blocks: list[np.ndarray] = []

    def add(self, found: Cells, tell: Callable[[int], str]) -> None:
        texts = [found.text(place) for place in range(len(found.values))]
        codes = np.array([-1 if nothing and self.gaps else self.numbers.setdefault(text, len(self.numbers))
                          for text, nothing in zip(texts, found.empty)], np.int32)  # fmt: skip
        if len(self.numbers) > self.most:
            raise UserError(f"{tell(len(texts) - 1)}: column {self.name!r} holds more than {self.most} different "
                            f"values, such as {reading.shown(texts[-1])!r}; {self.advice}.")
        self.blocks.append(codes)

    def coded(self) -> Coded:
        return Coded(np.concatenate(self.blocks) if self.blocks else np.zeros(0, np.int32), list(self.numbers))


class Collector:
    """Takes stretches of rows and gives the table.

    Args:
      header: names of all columns, in order.
      where: the file, for messages.
      options: what the user said of the columns.
      schema: of a run, whose columns are taken by name, whatever else is there; None: those that `options` say.

    Raises UserError for names that are there twice or not at all, and for too many.
    """

    def __init__(self, header: Sequence[str], where: str, options: TableOptions, schema: Optional[Schema] = None):
        self.header, self.where, self.options, self.schema = list(header), where, options, schema
        self.notes: list[str] = []
        self._check_header()
        self.label_column = schema.label_column if schema else options.label_column
        self.index_column = schema.index_column if schema else options.index_column
        wanted = [column.name for column in schema.columns] if schema else self._chosen()
        if schema is None and len(wanted) > MOST_COLUMNS:
            raise UserError(f"{where} holds {len(wanted):,} columns; a table has at most {MOST_COLUMNS:,}: choose some "
                            "by --columns, or store numbers as an array, npy:FILE, which may have any number.")
        everywhere = {name: place for place, name in enumerate(self.header)}
        self.places = {name: everywhere[name] for name in wanted}
        self.parts: dict[str, Union[_Numbers, _Texts]] = {}
        #: rows of columns that have been empty so far
        self.empty: dict[str, int] = {}
        if schema is not None:
            for column in schema.columns:
                self.parts[column.name] = _Numbers(column.name) if column.levels is None else self._texts(column.name)
        else:
            for name in wanted:
                if name in options.categorical:
                    self.parts[name] = self._texts(name, MOST_LEVELS)
        has_labels = self.label_column in self.header if self.label_column else False
        self.labels = _Texts(self.label_column, MOST_LABELS, "labels are classes: name another --label_column"
                             ) if has_labels else None
        self.index: Optional[list[str]] = [] if self.index_column in self.header and self.index_column else None
        self.count = 0

    def _texts(self, name: str, most: int = MOST_LEVELS) -> _Texts:
        more = "" if most == MOST_LEVELS else f"; --categorical={name} takes up to {MOST_LEVELS}"
        return _Texts(name, most, f"leave it out, --columns=-{name}, or, where it names the rows, give "
                      f"--index_column={name}{more}", self.options.masks)

    def _check_header(self) -> None:
        if len(self.header) > MOST_NAMES:
            raise UserError(f"{self.where} holds {len(self.header):,} columns; at most {MOST_NAMES:,} are looked at: "
                            "store numbers as an array, npy:FILE.")
        seen: set[str] = set()
        for name in self.header:
            if name in seen:
                raise UserError(f"{self.where} has two columns called {reading.shown(name)!r}; rename or remove one.")
            seen.add(name)
        options, schema = self.options, self.schema
        if schema is not None:
            lacking = [column.name for column in schema.columns if column.name not in seen]
            if lacking:
                raise UserError(f"{self.where} lacks {len(lacking)} of the {len(schema.columns)} columns of the run: "
                                f"{self._listed(lacking)}; it has {self._listed(self.header)}.")
            return
        asked = [*options.categorical, *(one for one in (options.label_column, options.index_column) if one)]
        for name in [*asked, *(name.removeprefix("-") if name not in seen else name for name in options.columns)]:
            if name not in seen:
                raise UserError(f"{self.where} has no column {reading.shown(name)!r}; its columns: "
                                f"{self._listed(self.header)}{suggestion(name, self.header[:MOST_COLUMNS]) or '.'}")

    def _listed(self, names: Sequence[str]) -> str:
        more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
        return reading.shown(", ".join(names[:_SHOWN])) + more

    def _chosen(self) -> list[str]:
        options = self.options
        others, header = (options.label_column, options.index_column), set(self.header)
        named, left = set(options.columns), {name[1:] for name in options.columns if name not in header}
        chosen = [name for name in self.header if name not in others and name not in left
                  and (not named or left or name in named)]  # fmt: skip
        if not chosen:
            raise UserError(f"{self.where} has no columns of data left; its columns: {self._listed(self.header)}.")
        return chosen

    def add(self, columns: Sequence[Any], count: int, tell: Callable[[int], str]) -> None:
        """Takes the next `count` rows: for each column of the header texts, an array, or a list with None.

        Of columns that are not needed nothing is looked at. `tell(i)` says where row i of the stretch stands. Raises
        UserError for what a column cannot hold.
        """
        reading.check_memory(3 * 4 * count * len(self.places), self.where, remedy="choose fewer columns by --columns")
        for name, place in self.places.items():
            found = cells.sorted_out(columns[place])
            if found.empty.any() and not self.options.masks:
                raise UserError(f"{tell(found.first(found.empty))}: column {name!r} is empty; fill such cells in, take "
                                f"them for missing, --missing=mask, or leave the column out: --columns=-{name}.")
            if name not in self.parts and found.empty.all():
                self.empty[name] = self.empty.get(name, 0) + count  # what the column holds is not known yet
                continue
            if name not in self.parts:
                self.parts[name] = self._kind(name, found, tell)
            if name in self.empty:
                nothing = np.ones(self.empty.pop(name), bool)
                self.parts[name].add(Cells(np.full(len(nothing), np.nan), nothing, ~nothing, [""] * len(nothing)), tell)
            self.parts[name].add(found, tell)
        if self.labels is not None:
            self.labels.add(cells.sorted_out(columns[self.header.index(self.label_column)]), tell)
        if self.index is not None:
            self.index += [cells.text_of(value) for value in columns[self.header.index(self.index_column)]]
        self.count += count

    def _kind(self, name: str, found: Cells, tell: Callable[[int], str]) -> Union[_Numbers, _Texts]:
        if not found.is_text.any():
            return _Numbers(name)
        place = found.first(found.is_text)
        if cells.is_date(found.text(place)):
            self._refuse_dates(name, found.text(place))
        if not (found.is_text | found.empty).all():
            _Numbers(name).add(found, tell)
        return self._texts(name, TOLD_LEVELS)

    def _refuse_dates(self, name: str, example: str) -> None:
        raise UserError(f"{self.where}: column {name!r} holds dates or times, such as {reading.shown(example)}, which "
                        f"are no quantities; leave it out, --columns=-{name}, or let it name and order the rows: "
                        f"--index_column={name}.")

    def table(self) -> Table:
        """Returns what was gathered; raises UserError for no rows, and for columns that are dates or name the rows."""
        if not self.count:
            raise UserError(f"{self.where} holds no rows of data; check the file.")
        found: dict[str, Union[np.ndarray, Coded]] = {}
        for name in self.places:
            part = self.parts.pop(name, None)
            if part is None:
                found[name] = np.full(self.count, np.nan, np.float32)
                continue
            if isinstance(part, _Texts):
                found[name] = self._coded(name, part)
                continue
            numbers = np.concatenate(part.blocks)
            part.blocks.clear()
            if self.schema is None:
                self._check_numbers(name, part, numbers)
            found[name] = numbers
        return Table(found, self.labels and self._labels(self.labels), self.index, self.where, self.notes)

    def _coded(self, name: str, part: _Texts) -> Coded:
        coded = part.coded()
        if self.schema is None and len(coded.levels) == self.count > 2 and name not in self.options.categorical:
            raise UserError(f"{self.where}: column {name!r} has another text in each of {self.count} rows, such as "
                            f"{reading.shown(coded.levels[0])!r}; {part.advice}.")
        return coded

    def _check_numbers(self, name: str, part: _Numbers, numbers: np.ndarray) -> None:
        if part.dates and name not in self.options.columns and len(np.unique(numbers[~np.isnan(numbers)])) > 2:
            self._refuse_dates(name, cells.text_of(part.low))
        if part.is_rough:
            self.notes.append(f"column {name!r} keeps few digits in float32: it goes from {part.low:.10g} to "
                              f"{part.high:.10g}; subtract {part.low:.10g} first")
        if self.count > 2 and np.array_equal(numbers, numbers[0] + np.arange(self.count, dtype=np.float32)):
            self.notes.append(f"column {name!r} counts the rows and is taken as data; --index_column={name} makes it "
                              "their name")

    def _labels(self, part: _Texts) -> Coded:
        coded = part.coded()
        if len(coded.levels) == self.count > 2 and self.schema is None:
            raise UserError(f"{self.where}: the label column {self.label_column!r} has another value in each of "
                            f"{self.count} rows, which is no class; name another --label_column, or give "
                            f"--index_column={self.label_column}.")
        return coded
