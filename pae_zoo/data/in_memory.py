"""`from_arrays`: what a program holds in memory as a data set with train, valid and test."""

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError, check_choice
from pae_zoo.core.values import REFUSE
from pae_zoo.data import npz, tables, windows
from pae_zoo.data.dataset import Dataset, Info
from pae_zoo.data.framing import Geometry
from pae_zoo.data.loading import check_fraction, split
from pae_zoo.data.rows import ArrayRows, Raw, check_labels
from pae_zoo.data.tables.schema import Schema

KINDS = ("auto", "vectors", "images", "series")


def from_arrays(
    x: Any,
    y: Any = None,
    *,
    kind: str = "auto",
    name: str = "arrays",
    validation_fraction: float = 1 / 12,
    label_column: str = "",
    columns: Sequence[str] = (),
    categorical: Sequence[str] = (),
    index_column: str = "",
    missing: str = REFUSE,
    window: int = 0,
    stride: int = 0,
    schema: Optional[Schema] = None,
) -> Dataset:
    """Returns arrays, a data frame or a `tf.data.Dataset` as a data set, split by the rules of `load`.

    Args:
      x: one of: an array (n, d) of vectors, (n, H, W) or (n, H, W, C) of images, (n, T, C) of windows of a series; a
        data frame, with columns and to_numpy as pandas and polars have them; a `tf.data.Dataset` of x or (x, y), which
        is read whole, in batches where the first axis of x is of unknown size or that of y, else of one datum each.
      y: labels (n,), whole numbers or texts; None: none, or those of the data set.
      kind: "vectors" flattens whatever a datum is; "series" takes arrays of rank 3 for windows (n, T, C), and the rows
        as they stand in time, so that the last sixth is the test split; "images"; "auto" takes arrays of rank 3 for
        images where they are uint8 or lie in [0, 1], for windows else.
      name: of the data set, for folders and messages.
      validation_fraction: of the training rows.
      missing: "mask" takes NaN, and nothing in a data frame, for a value that is missing.
      label_column, columns, categorical, index_column, window, stride, schema: of a data frame, as in `load`.

    Floats of images may leave [0, 1]: a note says so, and the model needs a preprocessing that does. Raises UserError
    for anything else than numbers of these shapes.

    Examples:
      >>> points = from_arrays(np.random.default_rng(0).normal(size=(60, 3)), ["a", "b"] * 30)
      >>> points.event_shape, len(points.train), len(points.valid), len(points.test), points.label_names
      ((3,), 46, 4, 10, ('a', 'b'))
    """
    check_choice(kind, KINDS, "kind")
    check_fraction(validation_fraction)
    options = tables.TableOptions(label_column, tuple(columns), tuple(categorical), index_column, missing, window,
                                  stride, validation_fraction)  # fmt: skip
    if tables.is_frame(x):
        if y is not None:
            raise UserError("y comes with a data frame; add it as a column, and name it as label_column.")
        raw = tables.as_raw(tables.read_frame(x, options, schema, name), options, schema)
        return split(name, raw, Info(name, (), "reals", "your own", ""), Geometry(), validation_fraction)
    if options.given:
        raise UserError(f"{', '.join(options.given)}: for data frames alone; received {type(x).__name__}.")
    if isinstance(x, tf.data.Dataset):
        if y is not None:
            raise UserError("y comes with a tf.data.Dataset; let its elements be (x, y).")
        x, y = _gathered(x)
    array, note = _in_form(_numbers(x), kind, options.masks)
    labels, names = (None, ()) if y is None else _labels(y, len(array), name)
    reals = array.ndim == 4 and array.dtype != np.uint8 and bool(((array < 0) | (array > 1)).any())
    if reals:
        note.append("floats outside [0, 1]: give the model a preprocessing that says so, such as "
                    "build_chain(['reals', 'standardise'])")
    # The loader may order rows where they are: the caller's stay as they were.
    raw = Raw(ArrayRows(array.copy()), labels, source=name, label_names=names, notes=tuple(note))
    if kind == "series":
        raw = windows.by_time(raw, validation_fraction)
    return split(name, raw, Info(name, (), "", "your own", ""), Geometry(), validation_fraction, reals)


def _numbers(x: Any) -> np.ndarray:
    if hasattr(x, "toarray"):
        raise UserError("x is a sparse matrix; give x.toarray().")
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise UserError(f"x is a list whose parts do not make one array ({error}).") from error
    if array.dtype.kind not in "biuf":
        raise UserError(f"x holds values of type {array.dtype}; allowed are numbers. Give a table with texts as a data "
                        "frame or a file.")
    return array


def _in_form(array: np.ndarray, kind: str, missing: bool) -> tuple[np.ndarray, list[str]]:
    """Returns vectors (n, d), windows (n, T, C) or images (n, H, W, C) as npz files have them, and notes."""
    note = []
    if array.ndim < 2 or array.ndim > 4 or 0 in array.shape:
        raise UserError(f"x has shape {array.shape}; allowed are (n, d), (n, T, C), (n, H, W) and (n, H, W, C), none "
                        "of them empty.")
    pixels = array.dtype in (np.uint8, np.bool_) or not bool(((array < 0) | (array > 1)).any())
    if array.ndim == 3 and (kind == "series" or (kind == "auto" and not pixels)):
        note = [f"windows of {array.shape[1]} steps of {array.shape[2]} values"]
        return windows.as_windows(array, "x", missing=missing), note
    if array.ndim > 2 and kind in ("vectors", "series"):
        note.append(f"data of shape {array.shape[1:]} are flattened")
        array = array.reshape(len(array), -1)
    if array.ndim == 2 and kind == "images":
        raise UserError(f"x has shape {array.shape}, which is no image: reshape it to (n, H, W).")
    return npz.images_or_vectors(array, "x", reals=True, missing=missing), note


def _labels(y: Any, count: int, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    values = np.asarray(y)
    if values.dtype.kind in "biuf":
        return check_labels(values, count, name), ()
    texts = [str(value) for value in values.reshape(-1)]
    if len(texts) != count:
        raise UserError(f"x holds {count} data and y {len(texts)}; give equally many.")
    names = sorted(set(texts))
    places = {text: place for place, text in enumerate(names)}
    return np.array([places[text] for text in texts], np.int64), tuple(names)


def _gathered(dataset: tf.data.Dataset) -> tuple[np.ndarray, Optional[np.ndarray]]:
    """Returns x and y of all elements; raises UserError for endless ones and those that memory does not hold."""
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise UserError("The tf.data.Dataset has no end; give ds.take(N).")
    spec = dataset.element_spec
    pair = isinstance(spec, (tuple, list))
    if (pair and len(spec) != 2) or not all(isinstance(one, tf.TensorSpec) for one in (spec if pair else (spec,))):
        raise UserError("Elements of a tf.data.Dataset must be x or (x, y), each one tensor; map it to that.")
    first = (spec[0] if pair else spec).shape
    batched = bool(first.rank) and (first[0] is None or (pair and spec[1].shape.rank and spec[1].shape[0] == first[0]))
    x, y, total = [], [], 0
    for element in dataset.as_numpy_iterator():
        parts = [np.asarray(part) if batched else np.asarray(part)[None] for part in (element if pair else (element,))]
        if len(x) % 1000 == 0:
            reading.check_memory(2 * total, "Gathering the tf.data.Dataset", remedy="give ds.take(N)")
        total += parts[0].nbytes
        x.append(parts[0])
        y += parts[1:]
    if not x:
        raise UserError("The tf.data.Dataset holds no data.")
    if len({one.shape[1:] for one in x}) > 1:
        raise UserError("The data of the tf.data.Dataset have different shapes; all must be alike.")
    labels = np.concatenate(y) if y else None
    if labels is not None and labels.dtype.kind in "SO":
        labels = np.array([text.decode("utf-8", "replace") for text in labels.reshape(-1)])
    return np.concatenate(x), labels
