"""A user's own files as input of a trained model: all rows in order, prepared as the training data were."""

import dataclasses
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np

from pae_zoo.applying import pieces
from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.core.values import MASK, REFUSE
from pae_zoo.data import sources, tables, takes_reals
from pae_zoo.data.framing import Geometry, parse_crop
from pae_zoo.data.images import ImageRows
from pae_zoo.data.places import EXTENSIONS, Place
from pae_zoo.data.rows import Rows
from pae_zoo.data.tables import series
from pae_zoo.data.windows import as_windows

#: flags that replace the run's own steps -> fields of Geometry
GEOMETRY_FLAGS = {"crop": "crop", "image_size": "size", "grey": "grey", "invert": "invert"}


@dataclasses.dataclass(frozen=True)
class UserData:
    """Data in the order of the file or of the sorted file names.

    `names` are the paths of a folder's images in it, or what the index column of a table holds, None for arrays;
    `note` says in words what was read and done.
    """

    x: np.ndarray
    names: Optional[list[str]]
    note: str


def read(name: str, event_shape: tuple[int, ...], hparams: Any, options: Any, given: set[str],
         schema: Optional[tables.Schema] = None) -> UserData:
    """Reads a file or folder in the grammar of --input for a model that takes data of shape `event_shape`.

    A table gives its rows, or windows of them, in columns as `schema` says, found by their names; without one all its
    columns are taken, in order, and must be numbers. An npz gives its rows of x or x_train, then those of x_test and of
    x_valid. A folder (or zip archive) gives all its images, sorted by path; grey ones become colour for a colour model.

    Args:
      hparams: the run's hyper-parameters, whose crop, image_size, grey and invert are applied.
      options: has the same four, which replace the run's where their names are in `given`; `limit` keeps the
        first rows, 0 all.

    Raises UserError for what cannot be read, and for shapes that do not fit, with both shapes and a remedy.
    """
    kind, _, path = pieces.full_name(name).partition(":")
    if kind == pieces.TFRECORD:
        raise UserError(f"--input={name}: records are read in parts; add --part_rows=N, and a folder as --out.")
    if kind not in (*sources.ARRAYS, "folder", *sources.TABLES) or not path:
        raise UserError(f"--input={name!r} is not understood; allowed: npz:FILE, npy:FILE, windows:FILE, csv:FILE, "
                        "parquet:FILE or folder:DIR.")
    if kind in sources.TABLES:
        return _table(kind, path, event_shape, options.limit, schema, _missing(hparams))
    found = _folder(reading.locate(path), event_shape, hparams, given) if kind == "folder" else _arrays(
        kind, reading.locate(path), hparams, event_shape)
    parts, names, left_out = found
    total = sum(len(rows) for rows in parts)
    chosen, left, geometry = [], options.limit or total, Geometry()
    for rows in parts:
        if left > 0:
            geometry = geometry_of(hparams, options, given, rows.shape)
            check_shape(rows.shape, event_shape, geometry, name)
            chosen += rows.take([np.arange(min(left, len(rows)))], geometry)
            check_shape(chosen[-1].shape[1:], event_shape, Geometry(), name)
            left -= len(chosen[-1])
    x = chosen[0] if len(chosen) == 1 else np.concatenate(chosen)
    order = ", those of x_train before those of x_test and x_valid" if len(chosen) > 1 else ""
    steps = [f"{flag}={getattr(geometry, field)}" for flag, field in GEOMETRY_FLAGS.items() if getattr(geometry, field)]
    prepared = f"; prepared with {', '.join(steps)}" if steps else ""
    prepared += "".join(f"; {note}" for rows in parts for note in getattr(rows, "told", ()))
    prepared += "".join(f"; left out: {what}" for what in left_out)
    return UserData(x, names and names[: len(x)], f"{len(x)} of {total} rows of {name}{order}{prepared}")


def _missing(hparams: Any) -> str:
    return getattr(hparams, "missing", REFUSE)


def _table(kind: str, path: str, event_shape: tuple[int, ...], limit: int,
           schema: Optional[tables.Schema], missing: str) -> UserData:
    table = tables.table_of(kind, path, tables.TableOptions(missing=missing), schema)
    encoder = tables.Encoder(table, schema or _numbers_alone(table))
    assert encoder.schema is not None
    order = None
    if encoder.schema.window:
        order, _ = series.order(table)
    rows = tables.TableRows(encoder, order, encoder.schema.window, encoder.schema.stride)
    if not len(rows):
        raise UserError(f"{path} has {len(table)} rows, fewer than the {encoder.schema.window} of a window.")
    chosen = np.arange(min(limit, len(rows)) if limit else len(rows))
    check_shape(rows.shape, event_shape, Geometry(), path)
    x = rows.take([chosen], Geometry())[0]
    names = None if table.index is None else [table.index[row] for row in rows.last_rows(chosen)]
    what = f"windows of {encoder.schema.window} rows" if encoder.schema.window else "rows"
    told = "".join(f"; {note}" for note in encoder.told)
    return UserData(x, names, f"{len(x)} of {len(rows)} {what} of {kind}:{path}{told}")


def _numbers_alone(table: tables.Table) -> tables.Schema:
    """The schema of a table for a model that was trained on none: all columns, which must be numbers."""
    for name, values in table.columns.items():
        if not isinstance(values, np.ndarray):
            raise UserError(f"{table.source}: column {name!r} holds texts, and the run was not trained on a table that "
                            "would say what they mean; give numbers.")
    return tables.Schema(tuple(tables.Column(name) for name in table.columns))


def _arrays(kind: str, path: Path, hparams: Any,
            event_shape: tuple[int, ...]) -> tuple[list[Rows], None, list[str]]:
    form = {"form": as_windows} if len(event_shape) == 2 else {}
    raw = sources.ARRAYS[kind](path, takes_reals(getattr(hparams, "preprocess", ())), _missing(hparams) == MASK, **form)
    left_out = [note.removeprefix("left out: ") for note in raw.notes]
    found = [rows for rows in (raw.train, raw.test, raw.valid) if rows is not None]
    return found, None, left_out


def _folder(path: Path, event_shape: tuple[int, ...], hparams: Any,
            given: set[str]) -> tuple[list[Rows], list[str], list[str]]:
    place = Place(path)
    if not place.names:
        raise UserError(f"{place.path} holds no images ({', '.join(EXTENSIONS)}); check the path.")
    rows = ImageRows([(place, name) for name in place.names])
    if len(event_shape) == 3 and event_shape[-1] == 3:
        # Grey pictures are colour pictures with equal channels; a file rarely says which it was meant to be.
        rows.to_colour()
    of_folder = hparams.dataset.startswith("folder:") and not (hparams.crop or hparams.image_size)
    if of_folder and len(event_shape) == 3 and not given & set(GEOMETRY_FLAGS):
        rows.target = event_shape[0], event_shape[1]  # as the images of the training, where they differed in size
        rows.shape = None
    return [rows], place.names, place.left_out


def geometry_of(hparams: Any, options: Any, given: set[str], stored: Optional[tuple[int, ...]]) -> Geometry:
    """Returns crop, size, grey and invert: the run's own, replaced by those among the flags `given`.

    A named training set has steps of its own for images of its published size (omniglot is inverted and made
    28x28); they are taken for input images of that size, `stored`, too.
    """
    named, prepared = sources.SETS.get(sources.canonical(hparams.dataset)), Geometry()
    if named is not None and stored is not None and named.native and tuple(stored[:2]) == named.native:
        prepared = named.geometry
    run = Geometry(  # merged as `data.load` does it
        parse_crop(hparams.crop) or prepared.crop,
        hparams.image_size or prepared.size,
        hparams.grey or prepared.grey,
        hparams.invert != prepared.invert,
    )
    own = Geometry(parse_crop(options.crop), options.image_size, options.grey, options.invert)
    changed = [field for flag, field in GEOMETRY_FLAGS.items() if flag in given]
    return dataclasses.replace(run, **{field: getattr(own, field) for field in changed})


def check_shape(shape: Optional[tuple], event_shape: tuple, geometry: Geometry, name: str) -> None:
    """Raises UserError unless data of `shape`, after `geometry`, are what the model takes; None is not known yet."""
    if shape is None:
        return
    if len(shape) == 3:
        after = geometry.shape(shape)
        crop = geometry.crop[-2:]
        if crop and (crop[0] > shape[0] or crop[1] > shape[1]):
            raise UserError(
                f"{name} holds images of {_by(shape)}, too small for the crop {_by(crop)} of the training; the model "
                f"takes {_by(event_shape)}. If the images are cropped already, give --crop= with no value."
            )
    else:
        after = tuple(shape)
        if not geometry.is_identity and len(event_shape) != 3:
            raise UserError(f"{name} holds data of shape {_by(shape)}; crop, image_size, grey and invert are for "
                            "images.")
    if after == tuple(event_shape):
        return
    prepared = "" if after == tuple(shape) else f" ({_by(after)} after crop, image_size, grey and invert)"
    raise UserError(f"{name} holds data of shape {_by(shape)}{prepared}; the model takes {_by(event_shape)}: "
                    f"{_remedy(after, tuple(event_shape))}.")


def _remedy(shape: tuple, wanted: tuple) -> str:
    if len(shape) != 3 or len(wanted) != 3:
        same = np.prod(shape) == np.prod(wanted)
        return f"use x.reshape(-1, {', '.join(map(str, wanted))})" if same else "give data like the training data"
    steps = []
    if shape[:2] != wanted[:2]:
        square = wanted[0] == wanted[1]
        steps.append(f"--image_size={wanted[0]}" if square else f"resize the images to {_by(wanted[:2])}")
    if shape[2] != wanted[2]:
        steps.append("--grey" if (shape[2], wanted[2]) == (3, 1) else f"give images of {wanted[2]} channels")
    return "give " + " ".join(steps) if all(s.startswith("--") for s in steps) else " and ".join(steps)


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
