"""The distances that one run has of fixed pairs, in its work directory: a CSV that grows by whole chunks of pairs."""

import csv
import json
import zlib
from pathlib import Path
from typing import Any, Callable, Optional, Sequence, Union

import numpy as np

from pae_zoo.core import files
from pae_zoo.core.errors import UserError

TABLE, SNAPSHOT = "distance_stability.csv", "distance_stability.json"
STRAIGHT, PUBLISHED = "straight", "published"
#: of a row: one pair along one path
COLUMNS = (
    "pair", "index_a", "index_b", "label_a", "label_b", "model", "model_seed", "path", "rms", "mean", "expected",
    "published", "energy", "line_energy", "latent", "pixel", "steps", "converged", "finite",
)  # fmt: skip


class Table:
    """Rows of one run, as words, so that a resumed table equals one made in one go.

    Args:
      workdir: the run's folder.
      snapshot: what the rows depend on. A table made with another one is put away as distance_stability-CRC.csv, CRC
        being its snapshot's, and comes back when it is asked for again.
    """

    def __init__(self, workdir, snapshot: dict[str, Any]):
        self.workdir, self.snapshot = Path(workdir), snapshot
        self.rows: list[dict[str, str]] = []
        before, asked = read_snapshot(workdir), json.loads(json.dumps(snapshot))
        if before == asked:
            self.rows = read_rows(workdir)
            return
        if before is not None and read_rows(workdir):
            (self.workdir / TABLE).replace(self.workdir / _put_away(before))
        # A snapshot never stands beside rows that are not its own, wherever this is cut off.
        (self.workdir / SNAPSHOT).unlink(missing_ok=True)
        kept = self.workdir / _put_away(asked)
        self.rows = _read(kept, _rows) or []
        self._write()
        with files.file(self.workdir / SNAPSHOT) as path:
            path.write_text(json.dumps(snapshot, indent=1) + "\n", encoding="utf-8")
        kept.unlink(missing_ok=True)

    def done(self, paths: tuple[str, ...]) -> int:
        """Returns how many first pairs have a row for each of `paths`."""
        found = {(int(row["pair"]), row["path"]) for row in self.rows}
        number = 0
        while all((number, path) in found for path in paths):
            number += 1
        return number

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Adds rows and writes the file, whole or not at all."""
        self.rows += [{name: _word(row[name]) for name in COLUMNS} for row in rows]
        self._write()

    def column(self, path: str, name: str) -> np.ndarray:
        """Returns the numbers of one path, (pairs,)."""
        return column(self.rows, path, name)

    def _write(self) -> None:
        write(self.workdir / TABLE, COLUMNS, self.rows)


def _put_away(snapshot: dict[str, Any]) -> str:
    crc = zlib.crc32(json.dumps(snapshot, sort_keys=True).encode())
    return f"{Path(TABLE).stem}-{crc:08x}.csv"


def write(target: Path, columns: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Writes rows as a CSV file, whole or not at all."""
    with files.file(Path(target)) as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([{name: _word(row[name]) for name in columns} for row in rows])


def read_snapshot(workdir: Union[str, Path]) -> Optional[dict[str, Any]]:
    """Returns what the table of a run depends on, None if there is none; raises UserError for a broken file."""
    return _read(Path(workdir) / SNAPSHOT, lambda file: json.load(file))


def read_rows(workdir: Union[str, Path]) -> list[dict[str, str]]:
    """Returns the rows of a run's table, [] if there is none; raises UserError for a broken file."""
    return _read(Path(workdir) / TABLE, _rows) or []


def column(rows: list[dict[str, str]], path: str, name: str) -> np.ndarray:
    """Returns the numbers of one path in the order of the pairs, (pairs,)."""
    chosen = sorted((int(row["pair"]), float(row[name])) for row in rows if row["path"] == path)
    return np.array([value for _, value in chosen], np.float64)


def _rows(file) -> list[dict[str, str]]:
    reader = csv.DictReader(file)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError("it has other columns")
    rows = list(reader)
    for row in rows:
        float(row["rms"]), int(row["pair"])
    return rows


def _read(path: Path, parse: Callable) -> Any:
    if not path.exists():
        return None
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return parse(file)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}. Delete it; the task distance_stability makes it anew.")


def _word(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, (float, np.floating)) else str(value)
