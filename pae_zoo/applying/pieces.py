"""Data of any size, a piece at a time: files, or stretches of their rows, each a small source of its own."""

import csv
import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pae_zoo.applying import tf_records
from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.data import sources
from pae_zoo.data.places import Place
from pae_zoo.data.tables.reading import opened_csv, opened_parquet

TFRECORD = "tfrecord"
#: endings of the files of a folder of tables or arrays
ENDINGS = {"parquet": (".parquet",), "csv": (".csv", ".csv.gz"), "npy": (".npy",)}
# Many writers number the files of a set after the ending.
_RECORDS = re.compile(r"\.tfrecords?(-\d+-of-\d+)?(\.gz)?$")
KINDS = (*ENDINGS, TFRECORD, "folder")


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of rows of one file, or of the images of a folder.

    Attributes:
      name: of the part that it becomes: that of its file, and its number there.
      file: of which it is, "" of images.
      start: the number of its first row there.
      write: makes a file or folder of the piece at a path.
      kind: of what `write` makes, as in --input.
    """

    name: str
    file: str
    start: int
    write: Callable[[Path], None]
    kind: str


def files_of(name: str) -> tuple[str, list[Path]]:
    """Returns (kind, files) of an --input in pieces, files in the order of their names; of a folder of images itself.

    Raises UserError for kinds that have no pieces, and for a folder without such files.
    """
    kind, _, path = full_name(name).partition(":")
    if kind not in KINDS or not path:
        raise UserError(f"--input={name} has no pieces; with --part_rows allowed: parquet:, csv:, npy: and tfrecord: "
                        "with a file or a folder of such files, and folder: of images. An npz holds its array in one "
                        "piece: save it as npy.")
    place = reading.locate(path)
    if kind == "folder":
        if not place.is_dir():
            raise UserError(f"--input={name} is no folder; with --part_rows an archive must be unpacked.")
        return kind, [place]
    if not place.is_dir():
        return kind, [place]
    endings = ENDINGS.get(kind, (".tfrecord", ".tfrecords"))
    found = sorted(one for one in place.iterdir() if one.is_file() and (
        _RECORDS.search(one.name) if kind == TFRECORD else one.name.lower().endswith(endings)))
    if not found:
        raise UserError(f"{place} holds no files that end in {' or '.join(endings)}.")
    return kind, found


def full_name(name: str) -> str:
    """Returns a bare path with the prefix of its ending, files of TFRecords among them; any other name as it is."""
    if name.startswith(f"{TFRECORD}:"):
        return name
    return f"{TFRECORD}:{name}" if ":" not in name and _RECORDS.search(name) else sources.full_name(name)


def pieces(kind: str, path: Path, rows: int) -> Iterator[Piece]:
    """Yields the pieces of a file of a kind, `rows` rows in each but the last; raises UserError where it is broken."""
    stretches: dict[str, Callable[[Path, int], Iterator[tuple[int, Callable[[Path], None]]]]] = {
        "parquet": _parquet, "csv": _csv, "npy": _npy, "folder": _images}
    stem = "images" if kind == "folder" else path.name.split(".")[0]
    if kind == TFRECORD:
        # A set's files differ after the ending alone.
        stem = _RECORDS.sub(r"\1", path.name)
        found, here = tf_records.stretches(path, rows)
    else:
        found, here = kind, stretches[kind](path, rows)
    for number, (start, write) in enumerate(here):
        yield Piece(f"{stem}-{number:05d}", "" if kind == "folder" else path.name, start, write, found)


def _parquet(path: Path, rows: int) -> Iterator[tuple[int, Callable[[Path], None]]]:
    import pyarrow
    import pyarrow.parquet as parquet

    with opened_parquet(path) as opened:
        start = 0
        for batch in opened.iter_batches(batch_size=rows, use_threads=False):
            yield start, lambda target, batch=batch: parquet.write_table(pyarrow.Table.from_batches([batch]), target)
            start += batch.num_rows


def _csv(path: Path, rows: int) -> Iterator[tuple[int, Callable[[Path], None]]]:
    with opened_csv(path) as (lines, header, _):
        start, found = 0, []
        for _, row in lines:
            found.append(row)
            if len(found) == rows:
                yield start, lambda target, found=found: _write_csv(target, header, found)
                start, found = start + rows, []
        if found:
            yield start, lambda target: _write_csv(target, header, found)


def _write_csv(target: Path, header: list[str], rows: list[list[str]]) -> None:
    with open(target, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _npy(path: Path, rows: int) -> Iterator[tuple[int, Callable[[Path], None]]]:
    reading.regular(path, "give the path of an npy file")
    with reading.told(path, "npy file", "write it again by numpy.save"):
        whole = np.load(path, mmap_mode="r", allow_pickle=False)
        if whole.ndim < 2:
            raise ValueError(f"it holds an array of shape {whole.shape}; rows are along the first of two axes or more")
        for start in range(0, len(whole), rows):
            yield start, lambda target, start=start: _save(target, np.asarray(whole[start : start + rows]))


def _save(target: Path, values: np.ndarray) -> None:
    with open(target, "wb") as file:
        np.save(file, values)


def _images(path: Path, rows: int) -> Iterator[tuple[int, Callable[[Path], None]]]:
    names = Place(path).names
    if not names:
        raise UserError(f"{path} holds no images; check the path.")
    for start in range(0, len(names), rows):
        yield start, lambda target, chosen=names[start : start + rows]: _link(target, path, chosen)


def _link(target: Path, path: Path, names: list[Any]) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(os.path.abspath(path / name), target / name)
