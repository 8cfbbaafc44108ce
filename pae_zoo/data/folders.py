"""Folders and zip archives of images as data sets: which folders are splits, which are labels, what is left out."""

import pathlib
from typing import Callable, Mapping, Optional, Sequence

import numpy as np

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.data.images import ImageRows, median_size, readable
from pae_zoo.data.places import EXTENSIONS, Place
from pae_zoo.data.rows import Raw
from pae_zoo.data.splits import SPLITS, Own, split_of

DESCRIPTION = "*.zip or folders of images"
_LEVELS = 2  # DIR/train/cat and DIR/cat/train


def labels_of(names: Sequence[str]) -> tuple[Optional[list], tuple]:
    """Returns a label per name and the label names; (None, ()) unless every image lies in a subfolder.

    The class of an image is the topmost folder on its path that holds images itself. Labels count the sorted
    names, or are the names themselves where all are integers.
    """
    holding = {name.rpartition("/")[0] for name in names}
    if not holding or "" in holding:
        return None, ()
    topmost = {folder: _topmost(folder, holding) for folder in holding}
    folders = [topmost[name.rpartition("/")[0]] for name in names]
    present = sorted(set(folders))
    if all(folder.isascii() and folder.isdigit() for folder in present):
        return [int(folder) for folder in folders], tuple(sorted(present, key=int))
    numbers = {folder: number for number, folder in enumerate(present)}
    return [numbers[folder] for folder in folders], tuple(present)


def _topmost(folder: str, holding: set[str]) -> str:
    parts = folder.split("/")
    above = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next(path for path in above if path in holding)


def _without_root(names: list[str], own: Own) -> list[str]:
    """Drops first components that all names share, as long as a folder per image remains, or that name a split."""
    while names and len({name.partition("/")[0] for name in names}) == 1:
        least = min(name.count("/") for name in names)
        if least < 1 or (least < 2 and split_of(names[0].partition("/")[0], own) is None):
            break
        names = [name.partition("/")[2] for name in names]
    return names


def _splits(names: list[str], own: Own, source: str) -> tuple[list[Optional[str]], list[str]]:
    """Returns the split of every name (None: left out) and the names without the folder that says it."""
    for level in range(_LEVELS):
        folders = [name.split("/")[level] if name.count("/") > level else "" for name in names]
        found = {folder: split_of(folder, own) for folder in set(folders)}
        present = set(found.values()) - {None}
        whole, only = "train" in present and len(present) > 1, level == 0 and None not in found.values()
        if whole or only:
            _refuse_two_spellings(found, source)
        if whole:
            parts = [name.split("/") for name in names]
            return [found[folder] for folder in folders], ["/".join(p[:level] + p[level + 1 :]) for p in parts]
        if only:
            there = " and ".join(f"{folder}/" for folder in sorted(found))
            raise UserError(f"{source} holds {there} but no train/; put the training images there.")
    return ["train"] * len(names), names


def _refuse_two_spellings(found: Mapping[str, Optional[str]], source: str) -> None:
    for split in SPLITS:
        same = sorted(folder for folder, meant in found.items() if meant == split)
        if len(same) > 1:
            raise UserError(f"{source} holds {' and '.join(f'{folder}/' for folder in same)}, which are all {split}; "
                            "merge them, or rename what is none.")


def arrange(files: list[tuple[Place, str]], names: list[str], source: str, own: Own = (), bad_files: int = 0) -> Raw:
    """Sorts image files into splits and labels; what is left out is said in the notes.

    Where folders, the first ones or those below, are train and test or valid in any spelling (`split_of`), those are
    the splits, and other images are left out. Labels are the folders of the images without those of the splits, common
    to all splits. Up to `bad_files` that cannot be read are left out.
    """
    broken: list[str] = []
    if bad_files:
        good, broken = readable(files, bad_files)
        files, names = [files[index] for index in good], [names[index] for index in good]
    if not files:
        raise UserError(f"{source} holds no images ({', '.join(EXTENSIONS)}); check the path.")
    short = _without_root(names, own)
    member, inner = _splits(short, own, source)
    kept = [index for index, split in enumerate(member) if split]
    labels, label_names = labels_of([inner[index] for index in kept])
    of = {split: [place for place, index in enumerate(kept) if member[index] == split] for split in SPLITS}
    rows = {split: ImageRows([files[kept[place]] for place in of[split]]) for split in SPLITS if of[split]}
    if any(part.channels == 3 for part in rows.values()):
        for part in rows.values():
            part.to_colour()
    if len({size for part in rows.values() for size in part.counts}) > 1:
        for part in rows.values():
            part.target = median_size(list(rows.values()))
    y = {split: np.asarray([labels[place] for place in of[split]], np.int64) if labels else None for split in rows}
    notes = broken + _notes(names, inner, member, kept, labels) + _missing(y, label_names)
    for place in dict.fromkeys(place for place, _ in files):
        notes += [f"left out: {what}" for what in place.left_out]
    return Raw(
        rows["train"], y["train"], rows.get("test"), y.get("test"), rows.get("valid"), y.get("valid"),
        source=source, label_names=label_names, notes=tuple(notes),
    )  # fmt: skip


def _notes(names: list, inner: list, member: list, kept: list[int], labels: Optional[list]) -> list[str]:
    notes = []
    if len(kept) < len(names):
        first = next(name for name, split in zip(names, member) if not split)
        notes.append(f"left out: {len(names) - len(kept)} images in none of the splits, such as {reading.shown(first)}")
    flat = [index for index in kept if "/" not in inner[index]]
    if labels is None and len(flat) < len(kept):
        notes.append(f"no labels: {len(flat)} images lie in no class folder, such as {reading.shown(names[flat[0]])}")
    return notes


def _missing(y: Mapping[str, Optional[np.ndarray]], label_names: tuple) -> list[str]:
    """Tells classes that the training images lack: as a rule the same folder in another spelling."""
    if y["train"] is None or len(y) == 1:
        return []
    numbers = np.unique(np.concatenate([labels for labels in y.values() if labels is not None]))
    lacking = np.setdiff1d(numbers, y["train"])
    names = dict(zip(numbers.tolist(), label_names))
    shown = reading.shown(", ".join(names[number] for number in lacking.tolist()))
    return [f"{len(lacking)} classes have no training images: {shown}"] if len(lacking) else []


def read(path: pathlib.Path, own: Own = (), bad_files: int = 0) -> Raw:
    """Returns the images of a folder or one zip archive; raises UserError if it is missing or has none.

    Up to `bad_files` that cannot be read are left out, which is told.
    """
    place = Place(path)
    return arrange([(place, name) for name in place.names], place.names, str(place.path), own, bad_files)


def gather(archives: Sequence[pathlib.Path], folders: Sequence[pathlib.Path]) -> tuple[list, list]:
    """Returns files and names of several places together; names start with the archive's or folder's own."""
    files, names = [], []
    for path in sorted([*archives, *folders]):
        place = Place(path)
        stem = path.stem if place.is_archive else path.name
        for name in place.names:
            files.append((place, name))
            names.append(name if name.startswith(f"{stem}/") else f"{stem}/{name}")
    return files, names


def find(folder: pathlib.Path) -> Optional[Callable[[], Raw]]:
    """Returns a reader if `folder` holds zip archives or, at any depth, images; else None."""
    archives = sorted(folder.glob("*.zip"))
    if len(archives) == 1:
        return lambda: read(archives[0])
    if archives:
        return lambda: arrange(*gather(archives, []), source=str(folder))
    return (lambda: read(folder)) if Place(folder).names else None
