"""Omniglot's drawings: black on white, 105x105, in folders alphabet/character/NNNN_DD.png (DD is the drawer).

Lake et al., "Human-level concept learning through probabilistic program induction", Science 2015.
"""

import pathlib
import re
from collections.abc import Collection
from typing import Callable, Optional

import numpy as np

from pae_zoo.data import folders
from pae_zoo.data.images import ImageRows
from pae_zoo.data.places import Place
from pae_zoo.data.rows import Raw

DESCRIPTION = "images_background*.zip and images_evaluation.zip, or their folders"
NATIVE = (105, 105)
HELD_OUT_DRAWERS = range(17, 21)
_SPLITS = (("images_background", "train"), ("images_evaluation", "test"))


def find(folder: pathlib.Path, only_named: bool = False) -> Optional[Callable[[], Raw]]:
    """Returns a reader if `folder` holds Omniglot's archives or folders, or any images; else None.

    With `only_named`, only archives and folders with Omniglot's own names count.
    """
    archives = sorted(folder.glob("images_*.zip" if only_named else "*.zip"))
    unpacked = [] if archives else sorted(path for path in folder.glob("images_*") if path.is_dir())
    if not archives and not unpacked and (only_named or not Place(folder).names):
        return None
    return lambda: _read_set(folder, archives, unpacked)


def _read_set(folder: pathlib.Path, archives: list, unpacked: list) -> Raw:
    if archives or unpacked:
        raw = folders.arrange(*folders.gather(archives, unpacked), source=str(folder), own=_SPLITS)
    else:
        raw = folders.read(folder)
    if raw.test is None and isinstance(raw.train, ImageRows):
        raw.held_out = drawn_by([name for _, name in raw.train.files], HELD_OUT_DRAWERS)
    return raw


def drawn_by(names: list[str], drawers: Collection[int]) -> Optional[np.ndarray]:
    """Returns the rows whose names end in _DD with DD in `drawers`; None unless all have that form."""
    matches = [re.search(r"_(\d\d)\.\w+$", name) for name in names]
    numbers = [int(match[1]) for match in matches if match]
    if len(numbers) < len(names):
        return None
    rows = np.flatnonzero([number in drawers for number in numbers])
    return rows if 0 < len(rows) < len(names) else None
