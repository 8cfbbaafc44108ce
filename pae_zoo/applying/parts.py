"""`pae_zoo.apply` on data larger than memory: results in parts, each written when it is whole, and gone on from."""

import dataclasses
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from pae_zoo.applying import inputs, outputs, results, shares
from pae_zoo.applying.pieces import Piece, files_of, pieces
from pae_zoo.core import files, reading
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.context import Context

#: what belongs to the run of a command, and not to its results
ASIDE = ("out", "device", "verbosity", "jit_compile", *shares.OWN)
FILE = "parts.json"
FORMS = ("parquet", "csv", "npz")

Read = Callable[[str], inputs.UserData]


@dataclasses.dataclass(frozen=True)
class PartFlags:
    """The flags of results in parts."""

    part_rows: int = hp.option(0, "Read and write so many rows at a time, for data larger than memory: --out is then a "
                               "folder of parts, and the same command goes on where it ended (0: all at once).", low=0)
    part_format: str = hp.option("parquet", "What a part is.", choices=FORMS)
    share: str = hp.option("", "The share of this process in the parts, such as 0/4 of the first of four.")
    engine: str = hp.option("local", "Who makes the parts: this process, or --workers processes on Ray.",
                            choices=("local", "ray"))
    workers: int = hp.option(2, "ray: processes.", low=1, high=100_000)
    ray_address: str = hp.option("", "Ray's cluster, such as auto or ray://host:10001 (none: this machine).")


def check(options: Any, given: set[str], schema: Any) -> None:
    """Raises UserError for flags that are not for parts, and for what cannot be cut into them."""
    shares.check(options)
    if not options.part_rows:
        if "part_format" in given:
            raise UserError("--part_format is for results in parts: add --part_rows=N.")
        return
    if Path(options.out).suffix:
        raise UserError(f"--out={options.out}: parts go into a folder; give a name without an ending.")
    if options.limit:
        raise UserError("--limit and --part_rows do not go together.")
    if "anomalies" in options.outputs and not options.contamination:
        raise UserError("--outputs=anomalies in parts needs --contamination: a false discovery rate is one of all "
                        "data.")
    if getattr(schema, "window", 0):
        raise UserError("--part_rows: windows of a series reach over the end of a part; leave it out.")
    files_of(options.input)
    if options.part_format == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UserError("--part_format=parquet needs pyarrow, which is not installed: pip install "
                            "'pae_zoo[tables]', or take csv or npz.") from error


def begin(options: Any, model_path: Path, changed: str) -> Path:
    """Returns the folder of the parts, new or of a command with the same model and settings; raises UserError."""
    folder = Path(options.out)
    fields = {key: value for key, value in dataclasses.asdict(options).items() if key not in ASIDE}
    wanted = files.plain({"model": hashlib.sha256(model_path.read_bytes()).hexdigest(), **fields, "changed": changed})
    if shares.parse(options.share).size > 1 and folder.is_dir():  # another process may be just about to begin
        _wait_for(folder / FILE)
    if (folder / FILE).is_file():
        with reading.told(folder / FILE, "record of parts", "give a new folder"):
            found = json.loads(reading.text(folder / FILE, "give a new folder"))["of"]
        other = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if other:
            raise UserError(f"--out={folder} holds parts with other settings ({', '.join(other)}); give these, or a "
                            "new folder.")
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out={folder} exists; give a new name, or remove it.")
    files.check_place(folder, "out")
    folder.mkdir(parents=True, exist_ok=True)
    _record(folder / FILE, wanted, {})
    return folder


def _wait_for(path: Path) -> None:
    for _ in range(50):
        if path.is_file():
            return
        time.sleep(0.1)


def run(folder: Path, options: Any, context: Context, read: Read, schema: Any, argv: Sequence[str]) -> int:
    """Computes the parts that are not there yet, and returns 0; raises UserError where a file could not be read.

    A file that is broken ends its own parts; those of the others are made, and the error names it. `argv` is the
    command, which several processes carry out with --engine=ray.
    """
    share = shares.parse(options.share)
    if options.engine == "ray":
        shares.on_ray(argv, options.workers, options.ray_address)
    kind, sources = files_of(options.input)
    broken, made, there, rows = [], 0, 0, 0
    note = folder / shares.record_of(share, FILE)
    record = json.loads((note if note.is_file() else folder / FILE).read_text(encoding="utf-8"))
    if share.size == 1:
        record["parts"] |= shares.notes(folder, FILE)
    for number, path in enumerate(sources):
        if not share.opens(number, len(sources)):
            continue
        try:
            for place, piece in enumerate(pieces(kind, path, options.part_rows)):
                if not share.takes(number, place, len(sources)):
                    continue
                target = folder / f"{piece.name}.{options.part_format}"
                if target.exists():
                    there += 1
                    continue
                count = _part(target, piece, options, context, read, schema, len(sources) > 1)
                record["parts"][target.name] = count
                _record(note, record["of"], record["parts"])
                made, rows = made + 1, rows + count
                print(f"{target}: {count:,} rows", file=sys.stderr, flush=True)
        except UserError as error:
            broken.append(str(error))
    if share.size == 1:
        _record(note, record["of"], record["parts"])
    already = f", {there} were there" if there else ""
    print(f"wrote {made} parts, {rows:,} rows, in {folder}{already}; {FILE} says what they are")
    if broken:
        raise UserError(f"{len(broken)} of {len(sources)} files could not be read, all others are done; mend them, and "
                        f"give the same command again. {broken[0]}")
    return 0


def _part(target: Path, piece: Piece, options: Any, context: Context, read: Read, schema: Any, several: bool) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / f"piece.{piece.kind}"
        with reading.told(piece.file or piece.name, "piece of the input", "write it again"):
            piece.write(source)
        try:
            found = read(f"{piece.kind}:{source}")
        except UserError as error:
            raise UserError(str(error).replace(str(source), f"{piece.file or options.input}, from row "
                                               f"{piece.start} on")) from error
    context.part = f"/{piece.name}"
    arrays = outputs.compute(context, options, found.x, options.outputs)
    arrays.pop("anomaly_rank", None)  # of a part alone it would say little
    arrays = results.in_form(options.part_format, arrays, schema, context.say)
    names = None if piece.file and piece.kind == "folder" else found.names  # records have no names
    write(target, options.part_format, arrays, names, piece.start, piece.file if several else None)
    return len(found.x)


def write(path: Path, form: str, found: dict[str, np.ndarray], names: Optional[list[str]], start: int,
          file: Optional[str]) -> None:
    """Writes a part whole or not at all: its rows are numbered from `start`, and `file` is a column where given."""
    with files.file(path) as temporary:
        if form == "npz":
            extra = {} if names is None else {"names": np.array(names)}
            count = len(next(iter(found.values())))
            arrays: dict[str, Any] = {"index": np.arange(start, start + count), **found, **extra}
            with open(temporary, "wb") as opened:
                np.savez(opened, **arrays)
            return
        columns = results.columns(found, names, start)
        if file is not None:
            columns = {"file": [file] * len(columns["index"]), **columns}
        if form == "csv":
            results.write_rows(temporary, columns)
        else:
            import pyarrow
            from pyarrow import parquet

            columns["index"] = list(columns["index"])
            parquet.write_table(pyarrow.table({name: pyarrow.array(one) for name, one in columns.items()}), temporary)


def _record(note: Path, of: dict[str, Any], parts: dict[str, int]) -> None:
    text = json.dumps({"of": of, "parts": parts, "rows": sum(parts.values())}, indent=1) + "\n"
    with files.file(note) as temporary:
        temporary.write_text(text, encoding="utf-8")

