"""Files of TFRecords a piece at a time: images, arrays, or rows of a table, whichever their examples hold."""

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Union

import numpy as np
import tensorflow as tf

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError

REMEDY = "write it again"
#: features that hold the bytes of an image file, as tensorflow-datasets and TensorFlow's own tools write them
IMAGE = ("image", "image/encoded")
#: the feature that holds the numbers of a datum
ARRAY = "x"

Value = Union[list[bytes], list[int], list[float]]
Write = Callable[[Path], None]


def stretches(path: Path, rows: int) -> tuple[str, Iterator[tuple[int, Write]]]:
    """Returns (kind, pieces) of a file of tf.train.Example records, in the sense of `pieces`.

    By the first record the file is one of images ("folder"), where a feature in `IMAGE` holds the bytes of an image
    file; of arrays ("npy"), where `x` holds several numbers; or of the rows of a table ("csv"), with one number or text
    for each feature, and none where it is missing. A name that ends in .gz is taken for packed by gzip.

    Raises UserError, from the iterator too, for what is broken and for records that differ from the first.
    """
    reading.regular(path, "give the path of a file of TFRecords")
    first = next(_examples(path), None)
    if first is None:
        raise UserError(f"{reading.shown(path)} holds no records; {REMEDY}.")
    image = next((name for name in IMAGE if name in first), "")
    if image:
        return "folder", _pieces(path, rows, lambda example: _image(path, example, image), _write_images)
    if len(first.get(ARRAY, ())) > 1:
        size = len(first[ARRAY])
        return "npy", _pieces(path, rows, lambda example: _array(path, example, size), _write_array)
    columns = sorted(first)
    if not columns:
        raise UserError(f"{reading.shown(path)}: its first record has no features; {REMEDY}.")
    return "csv", _pieces(path, rows, lambda example: _row(path, example, columns),
                          lambda target, found: _write_rows(target, columns, found))


def _pieces(path: Path, rows: int, take: Callable[[dict[str, Value]], Any],
            write: Callable[[Path, list], None]) -> Iterator[tuple[int, Write]]:
    start, found = 0, []
    for example in _examples(path):
        found.append(take(example))
        if len(found) == rows:
            yield start, lambda target, found=found: write(target, found)
            start, found = start + rows, []
    if found:
        yield start, lambda target: write(target, found)


def _examples(path: Path) -> Iterator[dict[str, Value]]:
    """Yields {feature: its values} of the records of a file."""
    packed = "GZIP" if path.name.endswith(".gz") else ""
    with reading.told(path, "file of TFRecords", REMEDY):
        for record in tf.data.TFRecordDataset(str(path), compression_type=packed):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            yield {name: _values(feature) for name, feature in features.items()}


def _values(feature: Any) -> Value:
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []


def _image(path: Path, example: dict[str, Value], name: str) -> bytes:
    found = example.get(name, [])
    if len(found) != 1 or not isinstance(found[0], bytes):
        raise UserError(f"{reading.shown(path)}: the feature {name!r} is not the bytes of one image file; give images "
                        f"so, or numbers as {ARRAY!r}.")
    return found[0]


def _write_images(target: Path, found: list[bytes]) -> None:
    target.mkdir()
    for number, image in enumerate(found):
        # Readers go by the content, not by the ending.
        (target / f"{number:09d}.png").write_bytes(image)


def _array(path: Path, example: dict[str, Value], size: int) -> np.ndarray:
    found = example.get(ARRAY, [])
    if isinstance(next(iter(found), None), bytes):
        raise UserError(f"{reading.shown(path)}: the feature {ARRAY!r} holds bytes; write numbers.")
    if len(found) != size:
        raise UserError(f"{reading.shown(path)}: the feature {ARRAY!r} has {len(found)} values in one record, and "
                        f"{size} in the first; give the same number of numbers in all.")
    return np.array(found, np.float32)


def _write_array(target: Path, found: list[np.ndarray]) -> None:
    with open(target, "wb") as file:
        np.save(file, np.stack(found))


def _row(path: Path, example: dict[str, Value], columns: list[str]) -> list[str]:
    for name, values in example.items():
        if name not in columns or len(values) > 1:
            what = f"holds {len(values)} values" if name in columns else "is not in the first record"
            raise UserError(f"{reading.shown(path)}: the feature {reading.shown(name)!r} {what}; rows of a table have "
                            f"one number or text for each feature, arrays one feature {ARRAY!r}, and images "
                            f"{' or '.join(map(repr, IMAGE))}.")
    with reading.told(path, "file of numbers and texts in UTF-8", REMEDY):
        return [_cell(example[name][0]) if example.get(name) else "" for name in columns]


def _cell(value: Union[bytes, int, float]) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return "" if isinstance(value, float) and math.isnan(value) else repr(value)


def _write_rows(target: Path, columns: list[str], found: list[list[str]]) -> None:
    with open(target, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([columns, *found])
