"""Geodesics between test data: how they differ from straight lines, and what lies on the way."""


import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.evaluation.context import Context, Projection
from pae_zoo.evaluation.support import latent_geometry
from pae_zoo.evaluation.tasks import latent_grid
from pae_zoo.geometry.curves import Curves
from pae_zoo.geometry.metrics import indicatrices, log_volume
from pae_zoo.geometry.solver import Geodesics, Solver
from pae_zoo.plotting import figures, geometry
from pae_zoo.plotting.geometry import Background, Curve
from pae_zoo.plotting.uncertainty import Plane

# Points of a path, at equal shares of its length, where uncertainty and distance to the data are measured.
PATH_POINTS = 64
SIDE, ELLIPSES = 100, 13
SHOWN_CODES = 2000
STRIPS, STRIP_IMAGES = 3, 11
# Of the window around the codes: standard deviations to either side of their mean, and the margin beyond curves.
WINDOW_STDS, MARGIN = 3.0, 0.08


@dataclasses.dataclass(frozen=True)
class Flags(latent_grid.Flags, latent_geometry.GeometryFlags):
    """The flags of the task geodesics."""

    geodesic_pairs: int = option(8, "Pairs of test data that the task geodesics joins.", low=1, group=EVALUATION,
                                 smoke=2)


class Paths(NamedTuple):
    """What is known of B curves of one kind: geodesics or straight lines.

    points: (B, PATH_POINTS, d), at equal shares of the length. uncertainty: mean along each path, (B,), or None.
    """

    found: Geodesics
    points: np.ndarray
    uncertainty: Any
    data_distance: np.ndarray


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """Geodesics between test data against straight lines: lengths, energies, uncertainty and distance to the data.

    --geodesic_pairs pairs of different test data that --pair_seed chooses, every second one of two labels, joined
    between their posterior means. Means are over the pairs whose lengths and energies are finite. Needs a model with
    `geometry_decoder`.
    """
    kind = latent_geometry.energy(context)
    pairs = latent_geometry.test_pairs(context, int(context.hparams.geodesic_pairs))
    codes = context.test_codes[0].astype(np.float64)
    start, end = codes[pairs[:, 0]], codes[pairs[:, 1]]
    solver = latent_geometry.solver(context, kind, codes)
    with context.progress(len(pairs), "geodesics", "pair") as bar:
        geodesics = solver.solve(start, end, progress=bar.update)
    curves = _measure(context, solver, geodesics, codes)
    lines = _measure(context, solver, solver.straight(start, end), codes)
    yield from _metrics(solver, curves, lines)
    _table(context, pairs, curves, lines)
    _pictures(context, solver, kind, pairs, codes, curves, lines)


def _measure(context: Context, solver: Solver, found: Geodesics, codes: np.ndarray) -> Paths:
    points = found.curves(solver.lengths.at_equal_lengths(found.curves, PATH_POINTS))
    uncertainty = latent_geometry.uncertainty(context, points)
    distance = latent_geometry.data_distances(codes, points)
    return Paths(found, points, None if uncertainty is None else uncertainty.mean(axis=1), distance)


def _metrics(solver: Solver, curves: Paths, lines: Paths) -> Iterator[tuple[str, float]]:
    found, straight = curves.found, lines.found
    good = found.finite & straight.finite
    yield "geodesics/num_pairs", len(good)
    yield "geodesics/converged", found.converged.mean()
    yield "geodesics/finite", good.mean()
    for name in found.lengths:
        yield f"geodesics/length/{name}", latent_geometry.mean(found.lengths[name], good)
        yield f"geodesics/straight/{name}", latent_geometry.mean(straight.lengths[name], good)
    apart = good & (straight.lengths["rms"] > 0)
    yield "geodesics/length_ratio", latent_geometry.mean(_ratio(found.lengths["rms"], straight.lengths["rms"]), apart)
    yield "geodesics/energy", latent_geometry.mean(found.energy, good)
    yield "geodesics/straight_energy", latent_geometry.mean(straight.energy, good)
    yield "geodesics/energy_ratio", latent_geometry.mean(_ratio(found.energy, straight.energy), apart)
    if curves.uncertainty is not None:
        yield "geodesics/uncertainty", latent_geometry.mean(curves.uncertainty, good)
        yield "geodesics/straight_uncertainty", latent_geometry.mean(lines.uncertainty, good)
    yield "geodesics/data_distance", latent_geometry.mean(curves.data_distance, good)
    yield "geodesics/straight_data_distance", latent_geometry.mean(lines.data_distance, good)
    speed = energy_over_square(solver.lengths.local(found.curves))
    yield "geodesics/energy_over_square", latent_geometry.mean(speed, apart)
    yield "geodesics/energy_over_square_min", speed[apart].min() if apart.any() else float("nan")


def energy_over_square(steps: np.ndarray) -> np.ndarray:
    """Returns the energy over the squared length of curves from the lengths of their N pieces (B, N), (B,).

    N sum_k l_k^2 / (sum_k l_k)^2: at least 1, and 1 at constant speed.
    """
    steps = steps.astype(np.float64)
    return _ratio(steps.shape[1] * np.square(steps).sum(axis=1), np.square(steps.sum(axis=1)))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=np.abs(below) > 0)


def _table(context: Context, pairs: np.ndarray, curves: Paths, lines: Paths) -> None:
    labels = latent_geometry.label_names(context, pairs)
    columns = {"pair": np.arange(len(pairs)), "index_a": pairs[:, 0], "index_b": pairs[:, 1],
               "label_a": labels[:, 0], "label_b": labels[:, 1]}  # fmt: skip
    for prefix, paths in (("", curves), ("straight_", lines)):
        found = paths.found
        columns |= {f"{prefix}{name}": values for name, values in found.lengths.items()}
        columns[f"{prefix}energy"] = found.energy
        if paths.uncertainty is not None:
            columns[f"{prefix}uncertainty"] = paths.uncertainty
        columns[f"{prefix}data_distance"] = paths.data_distance
    ends = curves.found.curves
    columns["latent"] = np.linalg.norm(ends.end - ends.start, axis=1)
    columns["pixel"] = latent_geometry.pixel_distances(context.dataset.test.x, pairs)
    found = curves.found
    columns |= {"steps": found.steps, "converged": found.converged.astype(int), "finite": found.finite.astype(int)}
    context.table("geodesics.csv", columns)


# ---- pictures ----------------------------------------------------------------------------------------------


def _pictures(context: Context, solver: Solver, kind: str, pairs: np.ndarray, codes: np.ndarray, curves: Paths,
              lines: Paths) -> None:  # fmt: skip
    good = curves.found.finite & lines.found.finite
    name = context.dataset.name
    if not good.any():
        context.say("geodesics: no picture, for no length is finite.")
        return
    if codes.shape[1] > 1:
        _map(context, kind, codes, curves, lines, good)
    else:
        context.say("geodesics: no map of latents, which takes at least two of them; this model has one.")
    if codes.shape[1] == 2:
        _magnification(context, codes, np.concatenate([curves.points[good], lines.points[good]]))
    if context.is_image:
        _strips(context, pairs, solver, curves, lines, good)
    shown = np.flatnonzero(good)[:7]
    found, straight = curves.found, lines.found
    speed, straight_speed = (solver.lengths.local(one.curves[shown]).T for one in (found, straight))
    some = f" (the first {len(shown)} of {len(pairs)} pairs)" if len(shown) < len(pairs) else ""
    figure = geometry.traces(found.trace[:, shown], straight.energy[shown], speed, straight_speed,
                             found.converged[shown], f"{name}: the search for geodesics{some}", kind)
    context.board.figure("geodesics_search", figure)
    context.figure("geodesics_search", figure)


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


def _grid(extent: tuple[float, float, float, float], side: int) -> np.ndarray:
    """Returns points (side * side, 2) over a window, row after row from the bottom."""
    left, right, bottom, top = extent
    return latent_grid.points(np.linspace(left, right, side), np.linspace(bottom, top, side))


def _map(context: Context, kind: str, codes, curves: Paths, lines: Paths, good: np.ndarray) -> None:
    project = Projection(codes)
    shown = context.choose(len(codes), SHOWN_CODES, "geodesics")
    drawn = [Curve(project(curve), project(line), bool(converged)) for curve, line, converged in zip(
        curves.points[good], lines.points[good], curves.found.converged[good])]  # fmt: skip
    background = None
    if codes.shape[1] == 2:
        background = _background(context, window(codes, np.concatenate([curves.points[good], lines.points[good]])))
    title = f"{context.dataset.name}: geodesics of least {kind} energy"
    if project.shares is not None:
        title += "\nseen along the first two principal components of the codes"
    names = None if context.dataset.test.y is None else latent_geometry.label_names(context, shown)
    figure = geometry.latent_geodesics(project(codes[shown]), names, drawn, background, title, project.labels)
    context.board.figure("geodesics", figure)
    context.figure("geodesics", figure)


def _background(context: Context, extent: tuple[float, float, float, float]) -> Background:
    """Returns the uncertainty over a window; of a certain decoder, the magnification."""
    values = latent_geometry.uncertainty(context, _grid(extent, SIDE))
    if values is None or not np.nanmax(values) > 0:
        return _magnified(context, extent)
    return Background(Plane(extent, values.reshape(SIDE, SIDE)), "uncertainty: mean std of the outputs (units of y)")


def _magnified(context: Context, extent: tuple[float, float, float, float]) -> Background:
    volume = log_volume(tf.constant(latent_geometry.metric(context, _grid(extent, SIDE)))).numpy() / np.log(10.0)
    volume = np.where(np.isfinite(volume), volume, np.nan).reshape(SIDE, SIDE)
    return Background(Plane(extent, volume), r"log$_{10}$ of the magnification factor $\sqrt{\det E[G]}$")


def _magnification(context: Context, codes: np.ndarray, curves: np.ndarray) -> None:
    extent = window(codes, curves)
    background = _magnified(context, extent)
    if not np.isfinite(background.plane.values).any():
        context.say("geodesics: no picture of the magnification, which is a positive number nowhere.")
        return
    shown = context.choose(len(codes), SHOWN_CODES, "geodesics")
    labels = None if context.dataset.test.y is None else latent_geometry.label_names(context, shown)
    title = f"{context.dataset.name}: magnification factor and indicatrices"
    figure = geometry.magnification(background, codes[shown], labels, ellipses(context, extent), title,
                                             ("z[0]", "z[1]"))  # fmt: skip
    context.board.figure("magnification", figure)
    context.figure("magnification", figure)


def ellipses(context: Context, extent: tuple[float, float, float, float]) -> np.ndarray:
    """Returns the outlines of indicatrices in the middle of the cells of a window, (n, T, 2), at one common scale.

    The median one fills half its cell; one that would leave its cell is shrunk to it.
    """
    left, right, bottom, top = extent
    cell = np.array([right - left, top - bottom]) / ELLIPSES
    centres = _grid((left + cell[0] / 2, right - cell[0] / 2, bottom + cell[1] / 2, top - cell[1] / 2), ELLIPSES)
    metrics = latent_geometry.metric(context, centres)
    kept = np.isfinite(metrics).all(axis=(1, 2))
    outlines = indicatrices(metrics[kept])
    reach = np.abs(outlines / (cell / 2)).max(axis=(1, 2), initial=0.0)  # 1: the edge of the cell
    wanted = np.minimum(reach / max(2.0 * float(np.median(reach)), 1e-300), 0.95) if len(reach) else reach
    outlines *= (wanted / np.maximum(reach, 1e-300))[:, None, None]
    return centres[kept][:, None] + outlines


def _strips(context: Context, pairs, solver: Solver, curves: Paths, lines: Paths, good: np.ndarray) -> None:
    """Draws what is decoded at equal shares of the length, for the first pairs."""
    try:
        outputs = latent_geometry.Outputs(context)
        chosen = np.flatnonzero(good)[:STRIPS]
        kinds = {"geodesic": curves.found, "straight line": lines.found}
        decoded = {name: _decode(context, outputs, solver, found.curves[chosen]) for name, found in kinds.items()}
    except NotImplementedError as error:
        context.say(f"geodesics: no strips of images. {error}")
        return
    limit = max(float(std.max()) for _, std in decoded.values())
    labels = latent_geometry.label_names(context, pairs)
    groups = {}
    for number, pair in enumerate(chosen):
        ends = [f"{index} ({label})" if label else str(index) for index, label in zip(pairs[pair], labels[pair])]
        lengths = {name: found.lengths["rms"][pair] for name, found in kinds.items()}
        rows = {}
        for name, (images, std) in decoded.items():
            rows[name] = figures.to_rgb(images[number])
            if limit > 0:
                rows[f"std, {name}"] = figures.positive_rgb(std[number], limit)
        title = f"test data {ends[0]} to {ends[1]}: length " + ", ".join(f"{k} {v:.4g}" for k, v in lengths.items())
        groups[title] = rows
    note = f"std of the outputs: black 0, pale yellow {limit:.3g} (units of y)" if limit > 0 else ""
    figure = geometry.strips(groups, f"{context.dataset.name}: decoded at equal steps of length", note)
    context.board.figure("geodesics_decoded", figure)
    context.figure("geodesics_decoded", figure)


def _decode(context: Context, outputs, solver: Solver, curves: Curves) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and stds (B, STRIP_IMAGES, H, W, C) along curves; images in the space of x."""
    points = curves(solver.lengths.at_equal_lengths(curves, STRIP_IMAGES))
    mean, std = outputs(points.reshape(-1, points.shape[-1]))
    shape = (*points.shape[:2], *outputs.event_shape)
    return np.asarray(context.model.to_data(mean)).reshape(shape), std.reshape(shape)
