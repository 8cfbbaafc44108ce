"""Regular files alone: what a path names is looked at before it is opened, since a pipe or a device may never end."""

import contextlib
import io
import os
import stat
from pathlib import Path
from typing import Iterator, Union

from pae_zoo.core import remote
from pae_zoo.core.errors import UserError
from pae_zoo.core.reading.budget import check_memory, in_words

_LONGEST = 240  # letters of a path or a reason that a message repeats
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
          stat.S_IFDIR: "a folder"}  # fmt: skip
#: most bytes of a text, such as a configuration or a table of names
MOST_TEXT = 64 << 20


def shown(value: object) -> str:
    """Returns str(value) for a message: in one line, its middle left out if it is long."""
    words = " ".join(str(value).split())
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST // 2]}...{words[-_LONGEST // 2 :]}"


def locate(path: Union[str, Path]) -> Path:
    """Returns the path with ~ expanded; raises UserError for one that no file can have. Nothing need exist.

    Of a URL it is that of a copy, which `remote.local_copy` makes or brings up to date.
    """
    given = str(path)
    if remote.is_elsewhere(given):
        return remote.local_copy(given)
    if "\0" in given:
        raise UserError(f"{shown(given.replace(chr(0), '?'))!r} holds a NUL character, which no path has; check it.")
    try:
        found = Path(given).expanduser()
    except RuntimeError as error:
        raise UserError(f"{shown(given)}: there is no such user ({error}); write the path in full.") from error
    try:
        os.stat(found)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{shown(found)} cannot be read: {error.strerror or error}; check the path.") from error
    except UnicodeError as error:
        raise UserError(f"{shown(found)!r} cannot be a path on this system ({error}); check it.") from error
    return found


def regular(path: Path, remedy: str = "check the path") -> os.stat_result:
    """Returns what the system says of a regular file, links followed; raises UserError for anything else."""
    path = locate(path)
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        dangling = " (a link to nowhere)" if os.path.islink(path) else ""
        raise UserError(f"{shown(path)} does not exist{dangling}; {remedy}.") from error
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise UserError(f"{shown(path)} is {kind}, not a file; {remedy}.")
    return found


@contextlib.contextmanager
def opened(path: Path, remedy: str = "check the path") -> Iterator[io.BufferedIOBase]:
    """Opens a regular file for reading, never waiting for a writer; raises UserError for anything else."""
    path = locate(path)
    regular(path, remedy)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read: {error.strerror or error}; {remedy}.") from error
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):  # exchanged between the look and the opening
            raise UserError(f"{shown(path)} is not a file any more; {remedy}.")
        yield file


@contextlib.contextmanager
def told(path: object, what: str, remedy: str) -> Iterator[None]:
    """Turns whatever a reader raises over the content of `path` into a UserError of one line.

    Args:
      path: what the message begins with.
      what: what it should have been, such as ".npz file".
      remedy: what to do, without a full stop.
    """
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{shown(path)} takes more memory than there is; {remedy}.") from error
    except Exception as error:  # broken bytes lead readers to whatever they come upon
        reason = shown(getattr(error, "strerror", None) or error) or type(error).__name__
        raise UserError(f"{shown(path)} is not a readable {what} ({reason}); {remedy}.") from error


def content(path: Path, remedy: str = "check the path", limit: int = 0) -> bytes:
    """Returns the bytes of a regular file; raises UserError beyond `limit` bytes (0: as memory allows)."""
    with opened(path, remedy) as file, told(path, "file", remedy):
        size = os.fstat(file.fileno()).st_size
        if limit and size > limit:
            raise UserError(f"{shown(path)} has {in_words(size)}; at most {in_words(limit)} are read: {remedy}.")
        check_memory(size, shown(path))
        found = file.read(size + 1 if size else (limit or MOST_TEXT) + 1)  # files of /proc state a size of 0
        if limit and len(found) > limit:
            raise UserError(f"{shown(path)} has more than {in_words(limit)}; {remedy}.")
        return found


def text(path: Path, remedy: str = "check the path", limit: int = MOST_TEXT) -> str:
    """Returns a regular file as UTF-8; raises UserError for other bytes and beyond `limit` bytes."""
    found = content(path, remedy, limit)
    try:
        return found.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
        raise UserError(f"{shown(path)} is no text in UTF-8 ({reason}); {remedy}.") from error
