"""Zip archives and gzip files, unpacked no further than their headers claim."""

import contextlib
import gzip
import io
import os
import zipfile
from pathlib import Path
from typing import IO, Iterator, Union

from pae_zoo.core.errors import UserError
from pae_zoo.core.reading.budget import check_claim
from pae_zoo.core.reading.files import opened, shown, told

_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate"}
_ENCRYPTED, _PATCH = 0x1 | 0x40 | 0x2000, 0x20  # bits of a member's flags


@contextlib.contextmanager
def zipped(path: Path, what: str = "zip archive", remedy: str = "fetch it again") -> Iterator[zipfile.ZipFile]:
    """Opens a zip archive whose members can all be read; their content is not looked at.

    Refused with a UserError: what is no regular file or no archive, members that are encrypted, patches, packed by
    another method than deflate, or two of a name.
    """
    with opened(path, remedy) as file:
        with told(path, what, remedy):
            archive = zipfile.ZipFile(file)
            _check_members(archive, path, remedy)
        with archive:
            yield archive


def _check_members(archive: zipfile.ZipFile, path: Path, remedy: str) -> None:
    names = set()
    for member in archive.infolist():
        where = f"{shown(path)}: {shown(member.filename)}"
        if member.filename in names:
            raise UserError(f"{where} is there twice, and only one can be meant; {remedy}.")
        if member.flag_bits & _ENCRYPTED:
            raise UserError(f"{where} is encrypted; unpack the archive and pack it without a password.")
        if member.flag_bits & _PATCH or member.compress_type not in _METHODS:
            names_of_methods = getattr(zipfile, "compressor_names", {})  # not in the documentation of Python
            method = names_of_methods.get(member.compress_type, "unknown")
            how = "a patch" if member.flag_bits & _PATCH else f"packed by method {member.compress_type} ({method})"
            raise UserError(f"{where} is {how}; read are {' and '.join(_METHODS.values())}: pack it anew.")
        names.add(member.filename)


def member_bytes(archive: zipfile.ZipFile, name: str, where: str, limit: int, remedy: str = "fetch it again") -> bytes:
    """Returns a member of an archive of `zipped`; raises UserError for a broken one, a bomb, or over `limit` bytes."""
    with told(where, "member of a zip archive", remedy):
        member = archive.getinfo(name)
        check_claim(member.file_size, min(member.compress_size, stored_bytes(archive.fp)), where, limit)
        return archive.read(member)


@contextlib.contextmanager
def gunzipped(path: Path, remedy: str = "fetch it again") -> Iterator[io.BufferedIOBase]:
    """Opens a file whose name ends in .gz unpacked, any other as it is; errors inside of the block are a UserError.

    A gzip file states no size that could be trusted: read as much as the content's own header claims, after
    `check_claim`, and one byte more to see that it ends there.
    """
    with opened(path, remedy) as file, told(path, "gzip file" if path.suffix == ".gz" else "file", remedy):
        if path.suffix != ".gz":
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield unpacked


def stored_bytes(file: Union[io.BufferedIOBase, IO[bytes], None]) -> int:
    """Returns the size of an opened file as it is stored, packed or not; raises ValueError for one that is closed."""
    if file is None:
        raise ValueError("the file is closed")
    return os.fstat(file.fileno()).st_size
