"""Codes of some test data in two dimensions with what is decoded of them, for a map that shows each: latent_map.npz."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from pae_zoo.core import reading
from pae_zoo.evaluation.context import Context, Projection, to_unit
from pae_zoo.plotting import figures

FILE = "latent_map.npz"
#: test data on the map; most pixels of a side of an image; most values of a row, and steps and channels of a window
SHOWN, SIDE, VALUES, STEPS, CHANNELS = 400, 32, 12, 64, 3
REMEDY = "delete it and start `python -m pae_zoo.report` on this run, which makes it anew"


class Points(NamedTuple):
    """Points of a map.

    places: float32 (n, 2). labels: int64 (n,), -1 where there are none. errors: mean squared error of the
    reconstruction, (n,). original, decoded: uint8 (n, H, W, C) for images, float32 (n, D) or (n, T, C) for others.
    axes: what the two axes are. label_names: of each label, empty where they have none. names: of the values of a row.
    dims: K, the size of a code.
    """

    places: np.ndarray
    labels: np.ndarray
    errors: np.ndarray
    original: np.ndarray
    decoded: np.ndarray
    axes: tuple[str, str]
    label_names: tuple[str, ...]
    names: tuple[str, ...]
    dims: int


def keep(context: Context) -> None:
    """Writes latent_map.npz of the run: up to 400 test data, their codes in two dimensions and their reconstructions.

    Two latents are shown as they are, more by their first two principal components, one against the error.
    """
    test, dataset = context.dataset.test, context.dataset
    chosen = context.choose(len(test.x), SHOWN, "latent_map")
    codes = _encoded(context, test.x[chosen])
    decoded = context.reconstruct(test.x[chosen])  # compiled by the task reconstruction
    original = context.without_gaps(test.x[chosen], decoded) if context.takes_gaps else to_unit(test.x[chosen])
    square = np.square(original - decoded).reshape(len(chosen), -1).mean(axis=1)
    if codes.shape[1] == 1:
        places, axes = np.stack([codes[:, 0], square], axis=1), ("z[0]", "squared error of the reconstruction")
    else:
        project = Projection(codes)
        places, axes = project(codes), project.labels
    labels = test.y[chosen] if test.y is not None and np.ndim(test.y) == 1 else np.full(len(chosen), -1)
    names = [] if dataset.table is None else list(dataset.table.outputs)
    meta = {"axes": list(axes), "label_names": [str(name) for name in dataset.label_names], "names": names[:VALUES],
            "dims": int(codes.shape[1])}  # fmt: skip
    arrays: dict[str, Any] = {
        "places": np.asarray(places, np.float32), "labels": np.asarray(labels, np.int64),
        "errors": np.asarray(square, np.float32), "original": _shown(original), "decoded": _shown(decoded),
        "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8),
    }  # fmt: skip

    def write(path):
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    context.save(FILE, write)


def _encoded(context: Context, x: np.ndarray) -> np.ndarray:
    """Returns codes (n, K) of data x, draws where they have no closed form.

    Nothing is compiled: for so few data that would take ten times as long as the codes.
    """
    model, codes = context.model, []
    seed = context.seed_for("latent_map") if context.network_seed is None else context.network_seed
    for batch, count in context.batches(x):
        posterior = model.encode(tf.constant(batch), seed)
        found = posterior.mean() if "moments" in model.offers else posterior.sample(seed=seed)
        codes.append(found.numpy()[:count])
    return np.concatenate(codes)


def read(workdir: Path) -> Points:
    """Returns the points in the folder of a run; raises UserError for a file that is missing or damaged."""
    path = workdir / FILE
    arrays = reading.npz(path, "map of codes", REMEDY)
    with reading.told(path, "map of codes", REMEDY):
        meta = json.loads(bytes(arrays.pop("meta")).decode())
        found = Points(**arrays, axes=tuple(meta["axes"]), label_names=tuple(meta["label_names"]),
                       names=tuple(meta["names"]), dims=meta["dims"])
        count = len(found.places)
        if found.places.shape != (count, 2) or any(len(array) != count for array in found[:5]):
            raise ValueError("its arrays do not have a row for each point")
        return found


def _shown(x: np.ndarray) -> np.ndarray:
    """Returns data x (n, *event) as they are kept: images small and as bytes, of others the first values."""
    if x.ndim == 4:
        small = np.stack([_small(image) for image in figures.to_rgb(x)])
        return small[..., :1] if (small == small[..., :1]).all() else small
    if x.ndim == 3:
        return x[:, :: -(-x.shape[1] // STEPS), :CHANNELS].astype(np.float32)
    return x.reshape(len(x), -1)[:, :VALUES].astype(np.float32)


def _small(image: np.ndarray) -> np.ndarray:
    """Returns an image (H, W, 3) in [0, 1] as bytes, of at most 32 pixels a side."""
    found = Image.fromarray(np.round(255 * image).astype(np.uint8))
    found.thumbnail((SIDE, SIDE))
    return np.asarray(found)
