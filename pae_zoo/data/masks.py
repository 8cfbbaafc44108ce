"""Masks of what is seen of a datum: from a few words, or from a file."""

import dataclasses
import pathlib
from typing import Optional, Sequence

import numpy as np

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.data import images

GRAMMAR = ("none, columns:0-13, rows:8-15, rectangle:TOP,LEFT,HEIGHT,WIDTH, pixels:0.95 (share hidden at random), or "
           "FILE.npy, FILE.npz, FILE.png (1 or white is seen)")
FILES = (".npy", ".npz", ".png")


@dataclasses.dataclass(frozen=True)
class Mask:
    """A mask in words: its kind, the numbers that belong to it, and the text that it was read from."""

    kind: str
    numbers: tuple[float, ...]
    text: str


def parse(text: str) -> Mask:
    """Reads `GRAMMAR`; raises UserError for anything else. A file is not opened yet."""
    kind, _, rest = text.partition(":")
    if text == "none":
        return Mask("none", (), text)
    if text.endswith(FILES):
        return Mask("file", (), text)
    try:
        if kind in ("columns", "rows"):
            first, _, last = rest.partition("-")
            numbers = (int(first), int(last or first))
            if 0 <= numbers[0] <= numbers[1]:
                return Mask(kind, numbers, text)
        elif kind == "rectangle":
            numbers = tuple(int(word) for word in rest.split(","))
            if len(numbers) == 4 and min(numbers[:2]) >= 0 and min(numbers[2:]) >= 1:
                return Mask(kind, numbers, text)
        elif kind == "pixels":
            share = float(rest)
            if 0.0 <= share < 1.0:
                return Mask(kind, (share,), text)
    except ValueError:
        pass
    raise UserError(f"--mask={text!r} is not understood; allowed: {GRAMMAR}.")


def default(event_shape: Sequence[int]) -> Mask:
    """Returns a mask that hides half of a datum: the left columns of an image, random values of a vector."""
    if len(event_shape) == 3 and event_shape[1] > 1:
        return parse(f"columns:0-{event_shape[1] // 2 - 1}")
    return parse("pixels:0.5")


def make(mask: Mask, event_shape: Sequence[int], num: int, seed: int = 0) -> np.ndarray:
    """Returns what is seen of `num` data, bool, (num, *event_shape): True is seen. All channels of a pixel go together.

    `pixels` hides that share of every datum's pixels, rounded, chosen anew for each one from the seed. Raises
    UserError for a mask of another size, one that hides everything, and a file that cannot be read.

    Examples:
      >>> make(parse("columns:0-1"), (2, 4, 1), num=1)[0, ..., 0].astype(int).tolist()
      [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    shape = tuple(event_shape)
    pixels = shape[:2] if len(shape) == 3 else shape
    if mask.kind == "file":
        seen = _from_file(mask.text, shape, num)
    elif mask.kind == "pixels":
        seen = _random(mask.numbers[0], pixels, num, seed)
    else:
        seen = _regular(mask, pixels)[None]
    if len(shape) == 3 and seen.ndim == 3:
        seen = seen[..., None]
    seen = np.broadcast_to(seen, (num, *shape))
    nothing = ~seen.reshape(num, -1).any(axis=1)
    if nothing.any():
        which = "" if nothing.all() else f" of datum {int(nothing.argmax())}"
        raise UserError(f"--mask={mask.text} hides everything{which}; leave something to be seen.")
    return seen


def _regular(mask: Mask, pixels: tuple[int, ...]) -> np.ndarray:
    seen = np.ones(pixels, bool)
    if mask.kind == "none":
        return seen
    if len(pixels) != 2:
        raise UserError(f"--mask={mask.text} is for images; vectors of {pixels[0]} values take none, pixels:SHARE or a "
                        "file.")
    if mask.kind == "rectangle":
        top, left, height, width = (int(number) for number in mask.numbers)
    else:
        first, last = (int(number) for number in mask.numbers)
        whole = (0, first, pixels[0], last - first + 1)
        top, left, height, width = whole if mask.kind == "columns" else (first, 0, last - first + 1, pixels[1])
    if top + height > pixels[0] or left + width > pixels[1]:
        raise UserError(f"--mask={mask.text} reaches beyond the images of {pixels[0]}x{pixels[1]} pixels; rows and "
                        "columns count from 0, the last one is included.")
    seen[top : top + height, left : left + width] = False
    return seen


def _random(share: float, pixels: tuple[int, ...], num: int, seed: int) -> np.ndarray:
    size = int(np.prod(pixels))
    hidden = min(round(share * size), size - 1)
    order = np.random.default_rng([seed & 0xFFFFFFFF, 0x6D61736B]).random((num, size)).argsort(axis=1)
    return (order >= hidden).reshape(num, *pixels)


def _from_file(text: str, shape: tuple[int, ...], num: int) -> np.ndarray:
    values = _read(reading.locate(text))
    if values.dtype.kind not in "biuf" or not np.isfinite(values.astype(np.float64)).all():
        raise UserError(f"--mask={text} holds values of type {values.dtype} or that are not finite; a mask is 0 or 1.")
    values = values.astype(np.float64)
    high = values.max(initial=0.0)
    if not np.isin(values, (0.0, high)).all() or high not in (0.0, 1.0, 255.0):
        raise UserError(f"--mask={text} holds other values than 0 (hidden) and 1, or 255 (seen).")
    plain = [shape, shape[:2]] if len(shape) == 3 else [shape]
    plain += [(*shape[:2], 1)] if len(shape) == 3 else []
    if values.shape in plain:
        seen = values[None] > 0
    elif values.shape[1:] in plain and values.shape[0] == num:
        seen = values > 0
    else:
        sizes = " or ".join(_by(p) for p in dict.fromkeys(plain))
        raise UserError(f"--mask={text} has the shape {_by(values.shape)}; needed: {sizes}, or one for each of the "
                        f"{num} data, {num}x{_by(shape)}.")
    return seen


def _read(path: pathlib.Path) -> np.ndarray:
    remedy = f"--mask takes {GRAMMAR}"
    with reading.opened(path, remedy) as file:
        if path.suffix == ".png":
            images.strict()
            with images.opened(file, str(path)) as picture:
                return np.asarray(picture.convert("L"))
    if path.suffix == ".npy":
        return reading.npy(path, remedy=remedy)
    names = reading.npz_names(path, remedy=remedy)
    if "mask" not in names and len(names) != 1:
        raise UserError(f"--mask={path} holds {reading.shown(', '.join(names)) or 'nothing'}; name the array `mask`.")
    (array,) = reading.npz(path, remedy=remedy, keys=("mask" if "mask" in names else names[0],)).values()
    return array


def _by(shape: Optional[Sequence[int]]) -> str:
    return "x".join(map(str, shape or ())) or "a single number"
