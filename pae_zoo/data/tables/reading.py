"""Files and data frames read into tables, a stretch of rows at a time."""

import codecs
import contextlib
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.core.reading.budget import MOST_GROWTH
from pae_zoo.data.rows import Raw
from pae_zoo.data.tables import series
from pae_zoo.data.tables.cells import sorted_out
from pae_zoo.data.tables.collecting import Coded, Collector, Table
from pae_zoo.data.tables.options import PLAIN, TableOptions
from pae_zoo.data.tables.rows import Encoder, TableRows, in_order
from pae_zoo.data.tables.schema import Schema

PathLike = Union[str, Path]
_REMEDY = "save it as csv in UTF-8, with one header line"
_CELLS = 1 << 18  # of a stretch of rows
_LONGEST_LINE = 1 << 24
_FREE = 8 << 20  # bytes that a packed file may hold whatever its own size
_DELIMITERS = ",;\t|"
_LOOKED_AT = 20


def read_csv(path: PathLike, options: TableOptions = PLAIN, schema: Optional[Schema] = None) -> Table:
    """Returns the table of a csv file, also packed by gzip; raises UserError.

    The first line is the header, unless all its cells are numbers: then columns are column_0, column_1 and so on. Cells
    are parted by a comma, a semicolon, a tab or |, whichever the first lines have.
    """
    with opened_csv(path) as (lines, names, named):
        collector = Collector(names, str(reading.locate(path)), options, schema)
        if not named:
            collector.notes.append("no header line: columns are called column_0, column_1, ...")
        size = max(1, min(4096, _CELLS // len(names)))
        rows, places = [], []
        for number, row in lines:
            rows.append(row)
            places.append(number)
            if len(rows) == size:
                _add(collector, rows, places)
                rows, places = [], []
        if rows:
            _add(collector, rows, places)
        return collector.table()


@contextlib.contextmanager
def opened_csv(path: PathLike) -> Iterator[tuple[Iterator[tuple[int, list[str]]], list[str], bool]]:
    """Yields (rows of a csv file with the number of their line, names of its columns, whether the file names them).

    Rows are read on demand. Raises UserError for what is no csv, in the block too.
    """
    path = reading.locate(path)
    stored = reading.regular(path, "give the path of a csv file").st_size
    with reading.gunzipped(path, _REMEDY) as file, reading.told(path, "csv file", _REMEDY):
        lines = _lines(file, path, stored)
        first = [line for _, line in zip(range(_LOOKED_AT), lines)]
        if not any(line.strip() for line in first):
            raise UserError(f"{path} is empty, or begins with empty lines; {_REMEDY}.")
        reader = csv.reader(_chained(first, lines), delimiter=_delimiter(first), strict=True)
        header = next((row for row in reader if row), [])
        head = [] if header and not _has_no_names(header) else [(reader.line_num, header)]
        names = _names(header, bool(head))
        yield _rows_of(reader, head, names, path), names, not head


def _rows_of(reader: Any, head: list[tuple[int, list[str]]], names: list[str],
             path: Path) -> Iterator[tuple[int, list[str]]]:
    yield from head
    for row in reader:
        if not row:
            continue
        if len(row) != len(names):
            raise UserError(f"{path}, line {reader.line_num} has {len(row)} cells, the header {len(names)}; "
                            f"{'repair the line' if len(row) > 1 else 'it may be cut there'}.")
        yield reader.line_num, row

def _add(collector: Collector, rows: list[list[str]], places: list[int]) -> None:
    collector.add(list(zip(*rows)), len(rows), lambda index: f"{collector.where}, line {places[index]}")


def _lines(file: Any, path: Path, stored: int) -> Iterator[str]:
    """Yields lines of UTF-8 text, none longer than a bound, and no more of them than a packed file may hold."""
    decoder, total = codecs.getincrementaldecoder("utf-8-sig")(), 0
    rest, number = "", 0
    while True:
        piece = file.read(1 << 20)
        total += len(piece)
        if total > _FREE and total > MOST_GROWTH * stored:  # rows take long to read
            raise UserError(f"{path} would grow more than {MOST_GROWTH} times, which tables hardly do; unpack it if it "
                            "is meant so.")
        try:
            rest += decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is no text in UTF-8 ({error.reason}, behind line {number}); {_REMEDY}.") from error
        if "\0" in rest:
            raise UserError(f"{path} holds NUL bytes, which no csv file has; {_REMEDY}.")
        lines = io.StringIO(rest, newline="").readlines()
        # The last may go on, and a \r at its end may be half of \r\n.
        rest = lines.pop() if piece and lines else ""
        if len(rest) > _LONGEST_LINE:
            raise UserError(f"{path} has a line of more than {_LONGEST_LINE:,} letters; {_REMEDY}.")
        number += len(lines)
        yield from lines
        if not piece:
            return


def _chained(first: list[str], lines: Iterator[str]) -> Iterator[str]:
    yield from first
    yield from lines


def _delimiter(lines: list[str]) -> str:
    """The sign that parts the first lines into the most cells, equally many in each."""

    def width(sign: str) -> tuple[int, int]:
        try:
            counts = [len(row) for row in csv.reader(lines, delimiter=sign) if row]
        except csv.Error:
            return (0, 0)
        return (int(len(set(counts[:-1] or counts)) == 1 and counts[0] > 1), counts[0])

    return max(_DELIMITERS, key=width)


def _has_no_names(header: list[str]) -> bool:
    cells = sorted_out(header)
    return not cells.is_text.any() and not cells.empty.any()


def _names(header: list[str], made_up: bool) -> list[str]:
    if made_up:
        return [f"column_{place}" for place in range(len(header))]
    return [name.strip() or f"column_{place}" for place, name in enumerate(header)]


def read_parquet(path: PathLike, options: TableOptions = PLAIN, schema: Optional[Schema] = None) -> Table:
    """Returns the table of a parquet file; raises UserError, also where pyarrow is not installed."""
    path = reading.locate(path)
    with opened_parquet(path) as opened:
        stored, found = reading.regular(path, "give the path of a parquet file").st_size, opened.metadata
        groups = [found.row_group(number) for number in range(found.num_row_groups)]
        reading.check_claim(sum(max(0, group.total_byte_size) for group in groups), stored, str(path))
        kinds = opened.schema_arrow
        collector = Collector(kinds.names, str(path), options, schema)
        needed = [name for name in kinds.names if name in collector.places
                  or name in (collector.label_column, collector.index_column)]  # fmt: skip
        # Of equal values a file holds one and their number, so that the sizes it states say little.
        reading.check_claim(4 * max(0, found.num_rows) * len(needed), stored, str(path),
                            remedy="choose some rows of it")
        for name in needed:
            _check_kind(name, kinds.field(name).type, collector)
        size = max(1, min(4096, _CELLS // len(kinds.names)))
        start = 0
        for batch in opened.iter_batches(batch_size=size, columns=needed, use_threads=False):
            by_name = {name: _values(batch.column(place)) for place, name in enumerate(batch.schema.names)}
            columns = [by_name.get(name, ()) for name in kinds.names]
            if batch.num_rows:
                collector.add(columns, batch.num_rows, lambda index, start=start: f"{path}, row {start + index}")
            start += batch.num_rows
        return collector.table()


@contextlib.contextmanager
def opened_parquet(path: PathLike) -> Iterator[Any]:
    """Yields the pyarrow.parquet.ParquetFile of a path; raises UserError, in the block too, and without pyarrow."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError("parquet files need pyarrow, which is not installed: pip install 'pae_zoo[tables]', or save "
                        "the table as csv.") from error
    path = reading.locate(path)
    reading.regular(path, "give the path of a parquet file")
    remedy = "write it again, or save the table as csv"
    with reading.opened(path, remedy) as file, reading.told(path, "parquet file", remedy):
        yield parquet.ParquetFile(file, thrift_string_size_limit=1 << 26, thrift_container_size_limit=1 << 22)


def _check_kind(name: str, kind: Any, collector: Collector) -> None:
    import pyarrow

    types = pyarrow.types
    if name == collector.index_column:
        return
    if types.is_temporal(kind) and name in collector.places and collector.schema is None:
        collector._refuse_dates(name, str(kind))
    inner = kind.value_type if types.is_dictionary(kind) else kind
    allowed = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_string,
               types.is_large_string, types.is_null, types.is_temporal)  # fmt: skip
    if not any(test(inner) for test in allowed):
        raise UserError(f"{collector.where}: column {name!r} holds values of type {kind}; allowed are numbers and "
                        f"texts: leave it out, --columns=-{name}.")


def _values(column: Any) -> Any:
    import pyarrow

    kind = column.type
    if (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)) and not column.null_count:
        return column.to_numpy(zero_copy_only=False)
    return column.to_pylist()


def is_frame(value: Any) -> bool:
    """Whether a value is a data frame, of pandas or polars or of their manner."""
    return hasattr(value, "columns") and hasattr(value, "to_numpy") and hasattr(value, "__getitem__")


def read_frame(frame: Any, options: TableOptions = PLAIN, schema: Optional[Schema] = None,
               where: str = "the data frame") -> Table:
    """Returns the table of a data frame of pandas, polars or their manner; raises UserError."""
    names = [str(name) for name in frame.columns]
    collector = Collector(names, where, options, schema)
    columns = []
    for name, key in zip(names, frame.columns):
        values = np.asarray(frame[key].to_numpy()) if hasattr(frame[key], "to_numpy") else np.asarray(frame[key])
        if values.dtype.kind in "mM":
            if name in collector.places and schema is None:
                collector._refuse_dates(name, str(values[0]) if len(values) else "none")
            values = values.astype(str)
        columns.append(values if values.dtype.kind in "biuf" else values.tolist())
    count = len(columns[0]) if columns else 0
    size = max(1, min(4096, _CELLS // max(1, len(names))))
    for start in range(0, count, size):
        part = [values[start : start + size] for values in columns]
        collector.add(part, len(part[0]), lambda index, start=start: f"{where}, row {start + index}")
    return collector.table()


#: kind of a file -> its reader
READERS = {"csv": read_csv, "parquet": read_parquet}


def table_of(kind: str, path: PathLike, options: TableOptions = PLAIN,
             schema: Optional[Schema] = None) -> Table:
    """Returns the table of a file of kind csv or parquet; raises UserError."""
    return READERS[kind](path, options, schema)


def as_raw(table: Table, options: TableOptions, schema: Optional[Schema] = None) -> Raw:
    """Returns the rows of a table, or the windows of a series, as what `load` splits; raises UserError."""
    labels, names = _labels(table, options) if schema is None else (None, schema.label_names)
    settings = dict(label_column=options.label_column, label_names=names, index_column=options.index_column,
                    window=options.window, stride=options.stride)  # fmt: skip
    encoder = Encoder(table, schema, **settings)
    window, stride = (options.window, options.stride) if schema is None else (schema.window, schema.stride)
    if not window:
        rows = TableRows(encoder)
        return Raw(rows, labels, source=table.source, label_names=names, notes=tuple(table.notes))
    order, note = series.order(table)
    parts = series.split(len(table), window, options.validation_fraction, table.source)
    rows = [TableRows(encoder, order[part], window, stride) for part in parts]
    train, valid, test = rows
    y = [None if labels is None else labels[one.last_rows(np.arange(len(one)))] for one in rows]
    notes = (*table.notes, *note, f"windows of {window} rows: {len(train)} for training, {len(valid)} for validation "
             f"and {len(test)} for test, in this order of time")
    return Raw(train, y[0], test, y[2], valid, y[1], source=table.source, label_names=names, notes=notes,
               splits="by time, the last 1/6 of the rows is the test split")


def _labels(table: Table, options: TableOptions) -> tuple[Optional[np.ndarray], tuple[str, ...]]:
    """Labels as int64 and their names: whole numbers are themselves, texts are numbered in alphabetic order."""
    if table.labels is None:
        return None, ()
    found: Coded = table.labels
    try:
        numbers = np.array([int(level) for level in found.levels], np.int64)
    except (ValueError, OverflowError):
        numbers = None
    if numbers is not None:
        return numbers[found.codes], ()
    if "" in found.levels:
        raise UserError(f"{table.source}: the label column {options.label_column!r} is empty in some rows; fill it in, "
                        "or name another.")
    names = in_order(found.levels)
    places = {name: place for place, name in enumerate(names)}
    return np.array([places[level] for level in found.levels], np.int64)[found.codes], tuple(names)
