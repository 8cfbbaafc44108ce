"""Out-of-distribution sets made from a split: constant images, noise, and mirrored images."""

import numpy as np

from pae_zoo.core.errors import UserError, unknown
from pae_zoo.data.dataset import Split


def _constant(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    levels = rng.random((len(x),) + (1,) * (x.ndim - 1))
    return np.broadcast_to(_as(levels, x.dtype), x.shape).copy()


def _noise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = np.empty_like(x)
    for start in range(0, len(x), 1024):
        out[start : start + 1024] = _as(rng.random(x[start : start + 1024].shape), x.dtype)
    return out


def _as(unit: np.ndarray, dtype) -> np.ndarray:
    return np.floor(unit * 256).astype(np.uint8) if dtype == np.uint8 else unit.astype(dtype)


def _hflip(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.ascontiguousarray(x[:, :, ::-1])


def _vflip(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.ascontiguousarray(x[:, ::-1])


_CORRUPTIONS = {"constant": _constant, "noise": _noise, "hflip": _hflip, "vflip": _vflip}
CORRUPTIONS = {
    "constant": "images of one random grey level each, made from the data",
    "noise": "independent uniform pixels, made from the data",
    "hflip": "the data mirrored left to right",
    "vflip": "the data mirrored top to bottom",
}


def corrupted(kind: str, split: Split, seed: int) -> Split:
    """Returns a split of the same shape and dtype as `split`, corrupted: one of `CORRUPTIONS`.

    The mirrored sets keep their labels. Raises UserError for another kind or for vectors.
    """
    if kind not in _CORRUPTIONS:
        raise unknown("corruption", kind, _CORRUPTIONS)
    if split.x.ndim != 4:
        raise UserError(f"{kind} is made from images; the data are vectors of shape {split.x.shape[1:]}.")
    x = _CORRUPTIONS[kind](split.x, np.random.default_rng(seed))
    return Split(x, split.y if kind in ("hflip", "vflip") else None)
