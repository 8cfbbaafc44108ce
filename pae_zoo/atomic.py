"""Folders and files that appear whole or not at all, written beside and then renamed; values as JSON has them."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Iterator

import numpy as np


@contextlib.contextmanager
def folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target`; it becomes `target` by one rename when the block ends well.

    An exception removes it, and the parents that were made for it. Raises FileExistsError if `target` exists
    and is not an empty folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists.")
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name that is no number: a model server polls the parent and takes every number for a version.
    temporary = target.parent / f".writing-{target.name}-{os.getpid()}"
    temporary.mkdir()
    try:
        yield temporary
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):  # another process has put something there meanwhile
                parent.rmdir()
        raise


@contextlib.contextmanager
def file(target: Path) -> Iterator[Path]:
    """Yields the path of an empty file beside `target`, which it replaces by one rename when the block ends well.

    Parents are made; an exception removes the file, and leaves the former `target` as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".writing-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    try:
        yield Path(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def plain(value: Any) -> Any:
    """Returns `value` with NumPy numbers as Python's and numbers that are not finite as None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
