"""Folders and files that appear whole or not at all, written beside and then renamed; values as JSON has them."""

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Any, Iterator, Union

import numpy as np

from pae_zoo.core.errors import UserError

# What is being written beside its place. No number: a model server polls the parent and takes those for versions.
PREFIX = ".writing-"
# Written on trial where something is to go, and the deepest path that is made.
PROBE_BYTES, MOST_PARENTS = 1 << 16, 64


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
    try:
        with _beside(target, is_folder=True) as temporary:
            yield temporary
            os.rename(temporary, target)
    except BaseException:
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
    with _beside(target, is_folder=False) as temporary:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)


@contextlib.contextmanager
def _beside(target: Path, is_folder: bool) -> Iterator[Path]:
    """Yields a new file or folder beside `target`, locked as long as it is written, and removes what is left of it."""
    while True:
        path = target.parent / f"{PREFIX}{secrets.token_hex(8)}{'' if is_folder else target.suffix}"
        if is_folder:
            path.mkdir()
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        # The lock ends with the process, however that ends: what is locked belongs to one that is alive.
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if path.exists():
            break
        os.close(handle)  # another process cleared it before it was locked
    try:
        yield path
    finally:
        if is_folder:
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        os.close(handle)


def clear(place: Path, deep: bool = False) -> None:
    """Removes what processes that were killed left half written in a folder, with `deep` also in the folders in it."""
    for here, folders, files in os.walk(place):
        for name in [name for name in (*folders, *files) if name.startswith(PREFIX)]:
            _clear_one(os.path.join(here, name))
        folders[:] = [name for name in folders if deep and not name.startswith(PREFIX)]


def _clear_one(path: str) -> None:
    with contextlib.suppress(OSError):  # locked by the process that writes it, or gone
        mode = os.lstat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path) if stat.S_ISDIR(mode) else os.remove(path)
        finally:
            os.close(handle)


def check_place(path: Union[str, Path], flag: str, is_file: bool = False) -> None:
    """Raises UserError, naming `flag`, unless a folder (or a file) can be written at `path`; leaves nothing behind.

    The folders that are missing are made on trial in a neighbour, with a small file in the deepest, and removed: so
    names, permissions and room are those of the file system itself.
    """
    here, missing = Path(os.path.abspath(path)), []
    while not os.path.lexists(here):
        missing.append(here.name)
        here = here.parent
    try:
        os.fsencode(path).decode()  # TensorFlow and HDF5 take no other names
        if here.is_symlink() and not here.exists():
            raise UserError(f"--{flag}={path}: {here} is a link that leads nowhere. Remove it, or give another path.")
        if here.is_file() and not missing and not is_file:
            raise UserError(f"--{flag}={path} is a file; give the path of a folder.")
        if not here.is_dir() and (missing or not here.is_file()):
            raise UserError(f"--{flag}={path}: {here} is no folder. Give another path.")
        if len(missing) > MOST_PARENTS:
            raise UserError(f"--{flag}={path} lies in {len(missing)} missing folders; at most {MOST_PARENTS} are made.")
        _try_out(here if here.is_dir() else here.parent, missing[::-1])
    except OSError as error:
        raise UserError(f"--{flag}={path} cannot be written: {error.strerror or error}. Give the path of a place that "
                        "can, with room on the disk.")
    except UnicodeDecodeError:
        raise UserError(f"--{flag}={os.fsencode(path)!r} is not UTF-8; give a name in UTF-8.")


def _try_out(parent: Path, names: list[str]) -> None:
    made: list[Path] = []
    try:
        for name in [f"{PREFIX}{secrets.token_hex(8)}", *names]:
            made.append((made[-1] if made else parent) / name)
            made[-1].mkdir()
        probe = made[-1] / "probe"
        try:
            probe.write_bytes(bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    finally:
        for place in reversed(made):
            with contextlib.suppress(OSError):  # the one that could not be made
                place.rmdir()


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
