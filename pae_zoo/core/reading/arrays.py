"""NumPy's .npy and .npz files: plain arrays alone, allocated after their headers were held against the file.

A header is matched, not evaluated, so that neither depth nor size of a hostile one matters; pickles are never run.
"""

import dataclasses
import io
import math
import re
import struct
import zipfile
from pathlib import Path
from typing import IO, Collection, Optional, Union, cast

import numpy as np

from pae_zoo.core.errors import UserError
from pae_zoo.core.reading.archives import stored_bytes, zipped
from pae_zoo.core.reading.budget import check_claim
from pae_zoo.core.reading.files import opened, shown, told

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000  # NumPy's own limit
_MOST_AXES = 32
_PIECE = 1 << 20
_VALUE = r"'[^'\\]{1,99}'|True|False|\([0-9L, ]*\)"
_HEADER = re.compile(rf"\{{ ?(?:'\w+' ?: ?(?:{_VALUE}) ?,? ?){{3}}\}} ?")
_PAIR = re.compile(rf"'(\w+)' ?: ?({_VALUE})")
_DESCR = re.compile(r"[<>|=]?([biufcSUmMO?])[0-9]*(\[\w+\])?")


@dataclasses.dataclass(frozen=True)
class Header:
    """What an array's header claims: `length` counts the bytes before the data, `nbytes` those of the data."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    length: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * max(1, self.dtype.itemsize)  # text of no letters is stored as one of one


def npz(path: Path, what: str = ".npz file", remedy: str = "write it with numpy.savez",
        keys: Optional[Collection[str]] = None, budget: Optional[int] = None) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file by name, in the order of the file.

    Every member's header is checked, also of members that are not read: it must be a plain array (numbers, text or
    times; no pickle, no structure) of exactly the claimed size, stored or deflated.

    Args:
      path: the file; ~ is expanded.
      what: what the file should be, for the message, such as "checkpoint".
      remedy: what to do about a broken one, without a full stop.
      keys: names to read; others are left out. None reads all. A name that is not there is no error.
      budget: most bytes of all arrays read, by default what memory is left.

    Raises UserError for anything else than a sound file: missing, no regular file, cut, with a wrong check sum, with
    more or fewer bytes than claimed, encrypted, two members of a name, or larger than the budget.
    """
    with zipped(path, what, remedy) as archive, told(path, what, remedy):
        members, headers = _headers(archive, path, remedy)
        wanted = [name for name in members if keys is None or name in keys]
        claimed = sum(headers[name].nbytes for name in wanted)
        stored = min(sum(members[name].compress_size for name in wanted), stored_bytes(archive.fp))
        check_claim(claimed, stored, shown(path), budget, "write it with numpy.savez, which does not compress")
        found = {}
        for name in wanted:
            with archive.open(members[name]) as file:
                file.read(headers[name].length)
                where = f"{shown(path)}: {shown(name)}"
                found[name] = _array(cast(io.BufferedIOBase, file), headers[name], where, remedy)
        return found


def npz_names(path: Path, what: str = ".npz file", remedy: str = "write it with numpy.savez") -> list[str]:
    """Returns the names of the arrays of an .npz file; raises UserError as `npz` does, without reading the arrays."""
    with zipped(path, what, remedy) as archive, told(path, what, remedy):
        return list(_headers(archive, path, remedy)[0])


def _headers(archive: zipfile.ZipFile, path: Path, remedy: str) -> tuple[dict[str, zipfile.ZipInfo], dict[str, Header]]:
    members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise UserError(f"{shown(path)} holds two arrays of one name; {remedy}.")
    headers = {}
    for name, member in members.items():
        where = f"{shown(path)}: {shown(member.filename)}"
        with archive.open(member) as file:
            headers[name] = read_header(file, where)
        _check_size(headers[name], member.file_size, where, remedy)
    return members, headers


def npy(path: Path, what: str = ".npy file", remedy: str = "write it with numpy.save",
        budget: Optional[int] = None) -> np.ndarray:
    """Returns the array of an .npy file; raises UserError as `npz` does."""
    with opened(path, remedy) as file, told(path, what, remedy):
        size = stored_bytes(file)
        header = read_header(file, shown(path))
        _check_size(header, size, shown(path), remedy)
        check_claim(header.nbytes, size, shown(path), budget)
        return _array(file, header, shown(path), remedy)


def read_header(file: Union[io.BufferedIOBase, IO[bytes]], where: str) -> Header:
    """Returns the header at the start of `file`, which then stands at the data; raises UserError for no plain array."""
    start = file.read(len(_MAGIC) + 2)
    if start[: len(_MAGIC)] != _MAGIC or len(start) < len(_MAGIC) + 2 or start[-2] not in (1, 2, 3):
        raise UserError(f"{where} is not a readable .npy array: it starts with {start.hex() or 'nothing'}; write "
                        " it with numpy.save or numpy.savez.")
    field = "<H" if start[-2] == 1 else "<I"
    length = struct.unpack(field, file.read(struct.calcsize(field)))[0]
    if length > _LONGEST_HEADER:
        raise UserError(f"{where} claims a header of {length} bytes; at most {_LONGEST_HEADER} are read: write it with "
                        "numpy.save or numpy.savez.")
    raw = file.read(length)
    if len(raw) < length:
        raise UserError(f"{where} is cut in its header; write it again.")
    text = re.sub(r"\s+", " ", raw.decode("utf-8" if start[-2] == 3 else "latin1").strip())
    fields = dict(_PAIR.findall(text)) if _HEADER.fullmatch(text) else {}
    if set(fields) != {"descr", "fortran_order", "shape"}:
        _refuse_structure(text, where)
    return Header(_shape(fields["shape"], where), _dtype(fields["descr"], where), fields["fortran_order"] == "True",
                  len(start) + struct.calcsize(field) + length)


def _refuse_structure(text: str, where: str) -> None:
    if re.search(r"'[<>|=]?O[0-9]*'", text):
        _refuse_pickle(where)
    raise UserError(f"{where} has the header {shown(text)!r}, which is not that of a plain array of numbers; store "
                    "plain arrays.")


def _refuse_pickle(where: str) -> None:
    raise UserError(f"{where} is a pickled object array; pickles are refused because they can run code: store plain "
                    "numbers.")


def _dtype(descr: str, where: str) -> np.dtype:
    match = _DESCR.fullmatch(descr[1:-1]) if descr.startswith("'") else None
    if match and match[1] == "O":
        _refuse_pickle(where)
    try:
        if match:
            return np.dtype(descr[1:-1])
    except (TypeError, ValueError):
        pass  # told below
    raise UserError(f"{where} has the type {shown(descr)}; allowed are plain numbers, text and times.")


def _shape(text: str, where: str) -> tuple[int, ...]:
    words = [word.strip().removesuffix("L") for word in text.strip("()").split(",")]  # Python 2 wrote 24L
    words = words[:-1] if words and not words[-1] else words
    if not text.startswith("(") or len(words) > _MOST_AXES or not all(word.isdigit() for word in words):
        raise UserError(f"{where} claims the shape {shown(text)}; allowed are up to {_MOST_AXES} sizes.")
    return tuple(int(word) for word in words)


def _check_size(header: Header, size: int, where: str, remedy: str) -> None:
    if header.length + header.nbytes != size:
        left = size - header.length
        raise UserError(f"{where} claims the shape {header.shape} of {header.dtype}, {header.nbytes} bytes, but holds "
                        f"{left}; it is broken: {remedy}.")


def _array(file: io.BufferedIOBase, header: Header, where: str, remedy: str) -> np.ndarray:
    """Reads the data behind a header; the end of a zip member, where its check sum is held against it, is reached."""
    array = np.empty(header.shape[::-1] if header.fortran else header.shape, header.dtype)
    if header.nbytes:
        view, filled = array.reshape(-1).view(np.uint8).data, 0
        while filled < header.nbytes:
            got = file.readinto(view[filled : filled + _PIECE])
            if not got:
                raise UserError(f"{where} is cut after {filled} of {header.nbytes} bytes; {remedy}.")
            filled += got
    if file.read(1):
        raise UserError(f"{where} has bytes left after the {header.nbytes} of its shape {header.shape}; {remedy}.")
    return array.T if header.fortran else array
