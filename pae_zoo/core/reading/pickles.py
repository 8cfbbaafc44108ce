"""Pickles of plain arrays, lists and numbers, read without running any of their code."""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from pae_zoo.core.reading.files import content, told

# The instructions that Python 2 and 3 write for dicts, lists, tuples, numbers, text and arrays, and no others.
_ALLOWED = frozenset(
    "PROTO FRAME STOP MARK MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD NONE "
    "NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_LIST LIST APPEND "
    "APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS".split()
)
_MOST_STEPS = 2_000_000  # some seconds to look through
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")
_DTYPES = ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")


class _Array:
    """Stands in for an array until its state is there: made of bytes that were read, never of a claim."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array in it is not of plain numbers")
        self.array = np.frombuffer(data, dtype.name).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    def __init__(self, name: Any, *_):
        text = name.decode("ascii") if isinstance(name, bytes) else str(name)
        if text not in _DTYPES:
            raise pickle.UnpicklingError(f"it names the type {text[:20]!r} for an array")
        self.name = text

    def __setstate__(self, state: tuple) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.name = {">": ">", "<": "<"}.get(order, "=") + self.name.lstrip("<>=")


def _encoded(text: str, coding: str) -> bytes:
    """What protocol 2 of Python 3 writes for bytes."""
    if coding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it asks for a codec")
    return text.encode("latin1")


def _reconstruct(kind: Any, *_) -> _Array:
    return kind()


def _frombuffer(data: Any, dtype: _Dtype, shape: tuple, order: str) -> _Array:
    """What protocol 5 has in place of `_reconstruct`."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", bytes(data)))
    return array


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded,
}


class _ArraysOnly(pickle.Unpickler):
    """Knows the names in numpy's own pickles of plain arrays, and answers them with stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it names {module[:60]}.{name[:60]}, which no plain array needs")
        function = _STAND_INS[module, name]
        return lambda *arguments: function(*arguments)  # a new one each time: a pickle may set attributes of it


def unpickled(path: Path, what: str = "pickle of arrays", remedy: str = "fetch it again", limit: int = 0) -> Any:
    """Returns what a pickle of plain arrays holds: dicts, lists, tuples, numbers, text (Python 2's as bytes), arrays.

    Nothing of it is run or looked up: the few names that numpy's pickles use are answered by functions of this module,
    and its instructions are checked first. Arrays at the top or as values of the top dict are numpy arrays.

    Raises UserError for anything else, and for a file that is missing, cut, no regular one, or larger than memory or
    `limit` bytes (0: none).
    """
    raw = content(path, remedy, limit)
    with told(path, what, remedy):
        _check(raw)
        found = _ArraysOnly(io.BytesIO(raw), encoding="bytes").load()
        if isinstance(found, dict):
            return {key: _plain(value) for key, value in found.items()}
        return _plain(found)


def _check(raw: bytes) -> None:
    """Raises UnpicklingError for instructions that are not needed, or a memo larger than the pickle itself."""
    for number, (code, argument, _) in enumerate(pickletools.genops(raw)):
        if code.name not in _ALLOWED:
            raise pickle.UnpicklingError(f"it uses {code.name}, which no plain array needs")
        if number > _MOST_STEPS:
            raise pickle.UnpicklingError(f"it has over {_MOST_STEPS} instructions")
        if code.name in _MEMO and int(argument or 0) > number:
            raise pickle.UnpicklingError("it keeps notes far beyond its size")


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.array
    if not isinstance(value, (dict, list, tuple, int, float, str, bytes, bytearray, type(None))):
        raise pickle.UnpicklingError("it holds a type or a function in place of data")
    return value
