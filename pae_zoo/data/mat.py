"""SVHN's own MATLAB files."""

import io
import os
import pathlib
import struct
import zlib
from collections.abc import Sequence
from typing import Callable, Optional

import numpy as np

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.data.rows import ArrayRows, Raw, check_labels

DESCRIPTION = "SVHN's train_32x32.mat and test_32x32.mat"
_MOST_BYTES = 1 << 30  # of a file; the published ones have up to 182 MB
_HEADER, _VERSION = 128, b"\x00\x01IM"  # MATLAB 5, little endian
_COMPRESSED = 15  # a whole element, packed by zlib
_NUMBERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "single", "double", "logical")


def find(folder: pathlib.Path) -> Optional[Callable[[], Raw]]:
    """Returns a reader if `folder` holds SVHN's files, else None."""
    if not any(folder.glob("*_32x32.mat")):
        return None
    return lambda: Raw(
        *_read(folder / "train_32x32.mat"), *_read(folder / "test_32x32.mat"), source=str(folder)
    )


def arrays(path: pathlib.Path, names: Sequence[str], what: str) -> dict[str, np.ndarray]:
    """Returns the arrays `names` of a MATLAB file, none of them larger than the file; raises UserError."""
    from scipy import io as scipy_io

    raw = reading.content(path, "fetch it again", _MOST_BYTES)
    with reading.told(path, what, "fetch it again"):
        plain = _unpacked(raw, path)
        for name, shape, kind in scipy_io.whosmat(io.BytesIO(plain)):
            if name in names and (kind not in _NUMBERS or np.prod(shape, dtype=object) > len(plain)):
                raise UserError(f"{path} claims that {name} is {kind} of shape {shape}, which its {len(plain)} bytes "
                                "cannot hold; fetch it again.")
        content = scipy_io.loadmat(io.BytesIO(plain), variable_names=tuple(names))
        return {name: content[name] for name in names}


def _read(path: pathlib.Path) -> tuple[ArrayRows, np.ndarray]:
    if not os.path.lexists(path):
        raise UserError(f"{path} is missing; SVHN needs train_32x32.mat and test_32x32.mat.")
    found = arrays(path, ("X", "y"), "SVHN file")
    pixels, labels = found["X"], found["y"]
    if pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3) or pixels.dtype != np.uint8:
        raise UserError(
            f"{path} holds X of shape {pixels.shape} and type {pixels.dtype}; SVHN has uint8, 32x32x3xN."
        )
    # The digit 0 is stored as 10.
    labels = check_labels(labels, pixels.shape[3], str(path)) % 10
    return ArrayRows(np.ascontiguousarray(np.moveaxis(pixels, 3, 0))), labels


def _unpacked(raw: bytes, path: pathlib.Path) -> bytes:
    """Returns the file with its packed elements unpacked, each no further than its own header claims."""
    if raw[_HEADER - 4 : _HEADER] != _VERSION:
        raise ValueError("it does not start as a file of MATLAB 5")
    parts, claims, place = [raw[:_HEADER]], 0, _HEADER
    while place < len(raw):
        kind, size = struct.unpack_from("<II", raw, place)
        element = raw[place : place + 8 + size]
        if len(element) < 8 + size:
            raise EOFError("it is cut")
        if kind == _COMPRESSED:
            packer = zlib.decompressobj()
            head = packer.decompress(element[8:], 8)
            claim = struct.unpack("<II", head)[1]
            claims += claim
            reading.check_claim(claims, len(raw), str(path))
            element = head + packer.decompress(packer.unconsumed_tail, max(claim, 1))
            if len(element) < 8 + claim:
                raise EOFError("it is cut")
        parts.append(element)
        place += 8 + size
    return b"".join(parts)
