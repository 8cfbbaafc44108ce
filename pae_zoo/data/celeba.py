"""CelebA's aligned images with the official partition: 162,770 train, 19,867 valid, 19,962 test.

Liu et al., "Deep Learning Face Attributes in the Wild", ICCV 2015.
"""

import os
import pathlib
from typing import Callable, Optional

import numpy as np

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.data.images import ImageRows
from pae_zoo.data.places import Place
from pae_zoo.data.rows import Raw

DESCRIPTION = "CelebA's img_align_celeba.zip (or that folder) with list_eval_partition.txt (or .csv)"
SHAPE = (218, 178, 3)
_ATTRIBUTES = ("list_attr_celeba.txt", "list_attr_celeba.csv")
_PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")


def find(folder: pathlib.Path) -> Optional[Callable[[], Raw]]:
    """Returns a reader if `folder` holds CelebA's images or its partition file, else None."""
    places = [place / name for name in _PARTITIONS for place in (folder, folder / "Eval")]
    partitions = [path for path in places if os.path.lexists(path)]
    images = [
        *folder.glob("img_align_celeba*.zip"),
        *[p for p in folder.glob("img_align_celeba") if p.is_dir()],
    ]
    if not partitions and not images:
        return None
    return lambda: _read_set(folder, partitions, images)


def _read_set(folder: pathlib.Path, partitions: list, images: list) -> Raw:
    if not partitions:
        raise UserError(
            f"{folder} holds CelebA's images without {_PARTITIONS[0]}; put that file, from the same source, "
            "beside them."
        )
    if not images:
        raise UserError(
            f"{folder} holds {partitions[0].name} without img_align_celeba.zip or the folder "
            "img_align_celeba; put the aligned images beside it."
        )
    place = Place(images[0])
    by_name = {name.rpartition("/")[2]: name for name in place.names}
    splits = {0: [], 1: [], 2: []}
    for name, number in _partition(partitions[0]):
        if name not in by_name:
            raise UserError(
                f"{images[0]} lacks {name}, which {partitions[0].name} lists; fetch the images again."
            )
        splits[number].append((place, by_name[name]))
    if not splits[0] or not splits[2]:
        raise UserError(
            f"{partitions[0]} lists {len(splits[0])} training and {len(splits[2])} test images; both "
            "splits are needed: fetch it again."
        )
    # All aligned images have one size; a glance at the first saves 200,000 headers.
    shape = ImageRows(splits[0][:1]).shape or ()
    rows = {number: ImageRows(files, (*shape[:2], 3)) for number, files in splits.items() if files}
    names, attributes = _attributes(folder, splits)
    return Raw(rows[0], test=rows[2], valid=rows.get(1), source=str(folder), attributes=attributes,
               attribute_names=names)


def _attributes(folder: pathlib.Path, splits: dict[int, list]) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Returns the names of the attributes and, of each split, which datum has which; nothing without their file."""
    places = [place / name for name in _ATTRIBUTES for place in (folder, folder / "Anno")]
    path = next((path for path in places if os.path.lexists(path)), None)
    if path is None:
        return (), {}
    lines = [line.replace(",", " ").split() for line in reading.text(path, "fetch it again").split("\n")]
    lines = [fields for fields in lines if fields]
    if lines and len(lines[0]) == 1:  # the number of images
        lines = lines[1:]
    if not lines:
        raise UserError(f"{path} is empty; fetch it again.")
    names = tuple(name for name in lines[0] if name != "image_id")
    known = {}
    for fields in lines[1:]:
        if len(fields) != len(names) + 1 or not set(fields[1:]) <= {"1", "-1", "0"}:
            raise UserError(f"{path}: the line of {fields[0][:40]!r} has no 1 or -1 for each of {len(names)} "
                            "attributes; fetch it again.")
        known[fields[0]] = np.array([field == "1" for field in fields[1:]])
    found = {}
    for number, files in splits.items():
        missing = next((name for _, name in files if name.rpartition("/")[2] not in known), None)
        if missing is not None:
            raise UserError(f"{path} has no attributes of {missing.rpartition('/')[2]}; fetch it again.")
        if files:
            found[("train", "valid", "test")[number]] = np.stack([known[name.rpartition("/")[2]] for _, name in files])
    return names, found


def _partition(path: pathlib.Path) -> list[tuple[str, int]]:
    lines = reading.text(path, "fetch it again").split("\n")
    pairs = []
    for number, line in enumerate(lines, 1):
        fields = line.replace(",", " ").split()
        if not fields or fields == ["image_id", "partition"]:
            continue
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise UserError(f"{path}, line {number}: {line[:60]!r} is not FILE 0|1|2; fetch it again.")
        pairs.append((fields[0], int(fields[1])))
    return sorted(pairs)
