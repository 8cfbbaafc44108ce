"""Windows over two latents: what lies behind curves there, and indicatrices of a metric and of each member's."""

from typing import Any, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.evaluation.context import Context
from pae_zoo.evaluation.support import latent_geometry
from pae_zoo.geometry.batching import RowMap
from pae_zoo.geometry.manifold import Ensemble
from pae_zoo.geometry.metrics import indicatrices, log_volume
from pae_zoo.plotting import geometry
from pae_zoo.plotting.geometry import Background
from pae_zoo.plotting.uncertainty import Plane

SIDE, ELLIPSES = 100, 13
# Of the window around the codes: standard deviations to either side of their mean, and the margin beyond curves.
WINDOW_STDS, MARGIN = 3.0, 0.08
#: what --geodesic_background offers
BACKGROUNDS = ("auto", "none", "mean", "max", "magnification", "member")
MAGNIFICATION = r"log$_{10}$ of the magnification factor $\sqrt{\det E[G]}$"


def points(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the points (len(y) * len(x), 2) of a grid, row after row."""
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def window(codes: np.ndarray, curves: np.ndarray) -> tuple[float, float, float, float]:
    """Returns (left, right, bottom, top) around mean +- 3 std of codes (n, 2) and around curves (..., 2).

    It is a square where its sides do not differ much, for one scale of both axes fits then.
    """
    curves = curves.reshape(-1, 2)
    centre, spread = codes.mean(axis=0), WINDOW_STDS * codes.std(axis=0)
    low = np.minimum(centre - spread, curves.min(axis=0))
    high = np.maximum(centre + spread, curves.max(axis=0))
    sides = high - low
    if sides.max() < geometry.LIKE_SIDES * sides.min():
        low, high = low - (sides.max() - sides) / 2, high + (sides.max() - sides) / 2
    margin = MARGIN * np.maximum(high - low, 1e-6)
    (left, bottom), (right, top) = low - margin, high + margin
    return float(left), float(right), float(bottom), float(top)


def grid(extent: tuple[float, float, float, float], side: int) -> np.ndarray:
    """Returns points (side * side, 2) over a window, row after row from the bottom."""
    left, right, bottom, top = extent
    return points(np.linspace(left, right, side), np.linspace(bottom, top, side))


def cells(extent: tuple[float, float, float, float], side: int = ELLIPSES) -> tuple[np.ndarray, np.ndarray]:
    """Returns the centres (side * side, 2) of the cells of a window, and the size of a cell, (2,)."""
    left, right, bottom, top = extent
    cell = np.array([right - left, top - bottom]) / side
    return grid((left + cell[0] / 2, right - cell[0] / 2, bottom + cell[1] / 2, top - cell[1] / 2), side), cell


def background(context: Context, extent: tuple[float, float, float, float], kind: str = "auto") -> Optional[Background]:
    """Returns what lies behind curves in a window, one of `BACKGROUNDS`, None for "none".

    auto: the mean std of the outputs; of a certain decoder, the magnification. max: the largest std of an output.
    member: the magnification of the first member of an ensemble. Raises NotImplementedError where there is no such.
    """
    if kind == "none":
        return None
    if kind == "magnification":
        return magnified(context, extent)
    if kind == "member":
        values = _logs(member_metrics(context, grid(extent, SIDE))[:, 0]).reshape(SIDE, SIDE)
        return Background(Plane(extent, values), r"log$_{10}$ of $\sqrt{\det G}$ of the first member")
    if kind == "max":
        values = latent_geometry.Outputs(context)(grid(extent, SIDE))[1].reshape(SIDE * SIDE, -1).max(axis=1)
        return Background(Plane(extent, values.reshape(SIDE, SIDE)), "largest std of an output (units of y)")
    values = latent_geometry.uncertainty(context, grid(extent, SIDE))
    if values is None or not np.nanmax(values) > 0:
        if kind == "mean":
            raise NotImplementedError("This decoder is certain: take --geodesic_background=magnification, or none.")
        return magnified(context, extent)
    return Background(Plane(extent, values.reshape(SIDE, SIDE)), "uncertainty: mean std of the outputs (units of y)")


def magnified(context: Context, extent: tuple[float, float, float, float]) -> Background:
    """Returns the magnification factor over a window."""
    volume = _logs(latent_geometry.metric(context, grid(extent, SIDE))).reshape(SIDE, SIDE)
    return Background(Plane(extent, volume), MAGNIFICATION)


def _logs(metrics: np.ndarray) -> np.ndarray:
    """Returns log10 of the magnification factors of metrics (n, d, d), NaN where they are no positive number."""
    volume = log_volume(tf.constant(metrics.astype(np.float64))).numpy() / np.log(10.0)
    return np.where(np.isfinite(volume), volume, np.nan)


def ellipses(context: Context, extent: tuple[float, float, float, float]) -> np.ndarray:
    """Returns the outlines of indicatrices in the middle of the cells of a window, (n, T, 2), at one common scale.

    The median one fills half its cell; one that would leave its cell is shrunk to it.
    """
    centres, cell = cells(extent)
    return outlines(latent_geometry.metric(context, centres), centres, cell)


def outlines(metrics: np.ndarray, centres: np.ndarray, cell: np.ndarray, unit: Optional[float] = None) -> np.ndarray:
    """Returns the outlines of the indicatrices of metrics (n, 2, 2) in cells (2,) around centres (n, 2).

    unit: the reach of the one that fills half its cell, in halves of cells; None: the median's.
    """
    kept = np.isfinite(metrics).all(axis=(1, 2))
    found = indicatrices(metrics[kept])
    reach = np.abs(found / (cell / 2)).max(axis=(1, 2), initial=0.0)  # 1: the edge of the cell
    unit = float(np.median(reach)) if unit is None and len(reach) else unit
    wanted = np.minimum(reach / max(2.0 * (unit or 0.0), 1e-300), 0.95)
    found *= (wanted / np.maximum(reach, 1e-300))[:, None, None]
    return centres[kept][:, None] + found


def member_metrics(context: Context, z: np.ndarray) -> np.ndarray:
    """Returns the metrics (n, S, d, d) of the members of an ensemble at z (n, d); raises NotImplementedError."""
    manifold = latent_geometry.space(context).manifold
    if not isinstance(manifold, Ensemble):
        raise NotImplementedError("This decoder has no members: --geodesic_background=member is for ensembles and "
                                  "drawn decoders.")
    row = float((2 + manifold.latent_dim) * manifold.size * manifold.dtype.size)
    found = context.once("member_metrics", lambda: RowMap(
        manifold.member_metrics, row, jit_compile=context.jit_compile))  # fmt: skip
    return found(z.astype(manifold.dtype.as_numpy_dtype)).astype(np.float64)


def by_member(context: Context, extent: tuple[float, float, float, float], most: int = 4) -> dict[str, Any]:
    """Returns {panel: (magnification factor over a window, indicatrices (n, T, 2))} of up to `most` members and all.

    Behind the members come the mean of their factors, and the factor of E[G], the mean of their metrics. One scale: the
    indicatrices of every panel are in the unit of the whole metric's.
    """
    fine, (centres, cell) = grid(extent, SIDE), cells(extent)
    volumes, metrics = _logs_of_members(context, fine), member_metrics(context, centres)
    whole = metrics.mean(axis=1)
    finite = np.isfinite(whole).all(axis=(1, 2))
    unit = float(np.median(np.abs(indicatrices(whole[finite]) / (cell / 2)).max(axis=(1, 2)))) if finite.any() else 1.0
    found = {}
    for number in range(min(most, volumes.shape[1])):
        found[f"member {number + 1}"] = (volumes[:, number].reshape(SIDE, SIDE),
                                         outlines(metrics[:, number], centres, cell, unit))  # fmt: skip
    average = np.log10(np.mean(10.0**volumes, axis=1)).reshape(SIDE, SIDE)
    found[f"mean factor of all {volumes.shape[1]}"] = (average, np.zeros((0, 2, 2)))
    mean = _logs(latent_geometry.metric(context, fine)).reshape(SIDE, SIDE)
    found[f"E[G] of all {metrics.shape[1]}"] = (mean, outlines(whole, centres, cell, unit))
    return found


def _logs_of_members(context: Context, z: np.ndarray) -> np.ndarray:
    metrics = member_metrics(context, z)
    return np.stack([_logs(metrics[:, number]) for number in range(metrics.shape[1])], axis=1)
