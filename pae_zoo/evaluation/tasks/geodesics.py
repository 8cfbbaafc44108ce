"""Geodesics between test data: how they differ from straight lines, and what lies on the way."""


import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.evaluation.context import Context, Projection
from pae_zoo.evaluation.support import latent_geometry, latent_planes
from pae_zoo.evaluation.support.latent_planes import ellipses, window
from pae_zoo.evaluation.tasks import latent_grid
from pae_zoo.geometry.curves import Curves
from pae_zoo.geometry.gaussian_process import GaussianProcess
from pae_zoo.geometry.solver import Geodesics, Solver
from pae_zoo.plotting import figures, geometry
from pae_zoo.plotting.geometry import Curve

# Points of a path, at equal shares of its length, where uncertainty and distance to the data are measured.
PATH_POINTS = 64
SHOWN_CODES = 2000
STRIPS, STRIP_IMAGES = 3, 11
# Pairs that have a panel of their own, and pairs of codes whose correlation is shown.
PANELS, CORRELATED = 8, 1000


@dataclasses.dataclass(frozen=True)
class Flags(latent_grid.Flags, latent_geometry.GeometryFlags):
    """The flags of the task geodesics."""

    geodesic_pairs: int = option(8, "Pairs of test data that the task geodesics joins.", low=1, group=EVALUATION,
                                 smoke=2)
    geodesic_background: str = option(
        "auto", "What lies behind geodesics: none, the mean or max std of the outputs, the magnification of all "
        "decoders or of the first member; auto: mean, or magnification where there is no std.",
        choices=latent_planes.BACKGROUNDS, group=EVALUATION)
    geodesic_compare: bool = option(False, "The first four pairs by every energy of the model too, in panels above "
                                    "each other.", group=EVALUATION)


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
        _map(context, kind, codes, pairs, curves, lines, good)
    else:
        context.say("geodesics: no map of latents, which takes at least two of them; this model has one.")
    if codes.shape[1] == 2:
        _magnification(context, codes, np.concatenate([curves.points[good], lines.points[good]]))
    _correlation(context, codes)
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


def _map(context: Context, kind: str, codes, pairs, curves: Paths, lines: Paths, good: np.ndarray) -> None:
    project = Projection(codes)
    shown = context.choose(len(codes), SHOWN_CODES, "geodesics")
    drawn = [Curve(project(curve), project(line), bool(converged)) for curve, line, converged in zip(
        curves.points[good], lines.points[good], curves.found.converged[good])]  # fmt: skip
    background = None
    if codes.shape[1] == 2:
        extent = window(codes, np.concatenate([curves.points[good], lines.points[good]]))
        background = latent_planes.background(context, extent, context.hparams.geodesic_background)
    title = f"{context.dataset.name}: geodesics of least {kind} energy"
    if project.shares is not None:
        title += "\nseen along the first two principal components of the codes"
    names = None if context.dataset.test.y is None else latent_geometry.label_names(context, shown)
    figure = geometry.latent_geodesics(project(codes[shown]), names, drawn, background, title, project.labels)
    context.board.figure("geodesics", figure)
    context.figure("geodesics", figure)
    labels = latent_geometry.label_names(context, pairs)
    some = np.flatnonzero(good)[: 4 if context.hparams.geodesic_compare else PANELS]
    heads = [" to ".join(f"{index} ({label})" if label else str(index) for index, label in zip(pairs[i], labels[i]))
             for i in some]  # fmt: skip
    methods = {f"{kind} energy": [drawn[place] for place in np.searchsorted(np.flatnonzero(good), some)]}
    if context.hparams.geodesic_compare:
        methods |= _other_methods(context, kind, codes, pairs[some], project)
    figure = geometry.pair_panels(project(codes[shown]), names, methods, heads, background,
                                  f"{context.dataset.name}: one pair of test data a panel", project.labels)  # fmt: skip
    context.figure("geodesics_pairs", figure)


def _other_methods(context: Context, kind: str, codes, pairs: np.ndarray, project: Projection) -> dict[str, Any]:
    """Returns {energy: curves of these pairs} of the energies of the model that are not `kind`."""
    found = {}
    for other in [one for one in latent_geometry.space(context).energies if one != kind]:
        solver = latent_geometry.solver(context, other, codes)
        start, end = codes[pairs[:, 0]], codes[pairs[:, 1]]
        solved, straight = solver.solve(start, end), solver.straight(start, end)
        points = [one.curves(solver.lengths.at_equal_lengths(one.curves, PATH_POINTS)) for one in (solved, straight)]
        found[f"{other} energy"] = [Curve(project(curve), project(line), bool(good)) for curve, line, good in zip(
            *points, solved.converged)]  # fmt: skip
    return found


def _magnification(context: Context, codes: np.ndarray, curves: np.ndarray) -> None:
    extent = window(codes, curves)
    background = latent_planes.magnified(context, extent)
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
    try:
        panels = latent_planes.by_member(context, extent)
    except NotImplementedError:
        return  # one decoder
    title = f"{context.dataset.name}: magnification factor and indicatrices of each member"
    figure = geometry.member_panels(panels, extent, codes[shown], title, ("z[0]", "z[1]"))
    context.figure("magnification_members", figure)


def _correlation(context: Context, codes: np.ndarray) -> None:
    """Draws, of a Gaussian process, the correlation of an output at two codes against their distance."""
    process = latent_geometry.space(context).manifold
    if not isinstance(process, GaussianProcess):
        return
    ends = np.stack([codes[context.choose(len(codes), CORRELATED, f"correlation {end}")] for end in "ab"])
    generator = np.random.default_rng(context.seed & 0xFFFFFFFF)
    ends[1] = ends[1][generator.permutation(len(ends[1]))]
    distances = np.linalg.norm(ends[0] - ends[1], axis=1)
    found = process.correlation(*(tf.constant(end) for end in ends)).numpy()
    places = np.linspace(0.0, distances.max(), 200)
    prior = np.exp(-0.5 * (places / process.length_scale) ** 2)
    some = np.isfinite(found)
    title = f"{context.dataset.name}: how far an output of the process depends on that elsewhere"
    context.figure("gp_correlation", geometry.correlations(distances[some], found[some], places, prior, title))


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
