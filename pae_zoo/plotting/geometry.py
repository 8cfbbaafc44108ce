"""Pictures of latent geometry from arrays: geodesics, decoded strips, magnification, distances over models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import numpy as np

from pae_zoo.plotting.figures import COLOURS, mosaic, new_figure
from pae_zoo.plotting.uncertainty import MARKERS, Plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: dark is low, so that data lie on dark ground and bright curves stand out there
BACKGROUND = "viridis"
LEVELS = 50
#: light colours for points on dark ground, apart in hue and, for neighbours, in lightness
LIGHT_COLOURS = (
    "#FFFFFF", "#FF9E80", "#80D8FF", "#FFD54F", "#F48FB1", "#B9F6CA", "#CFB2FF", "#FFAB40", "#9FA8DA", "#D7CCC8",
)  # fmt: skip
GEODESIC, LINE = "#00E5FF", "#FFFFFF"
#: of the axis of a coefficient of variation, as published (arXiv 2408.07507, Fig. 5)
# Sides of a window up to this ratio have one scale.
LIKE_SIDES = 2.5
VARIATION_AXIS = (0.0, 0.6)
MOST_NAMED = 10


class Background(NamedTuple):
    """Values over the plane of a map and the label of their colour bar."""

    plane: Plane
    label: str


class Curve(NamedTuple):
    """A geodesic and the straight line between the same ends, each (T, 2); `good` is whether it converged."""

    geodesic: np.ndarray
    line: np.ndarray
    good: bool = True


def latent_geodesics(
    codes: np.ndarray, labels: Optional[np.ndarray], curves: Sequence[Curve], background: Optional[Background],
    title: str, axis_labels: Sequence[str],
) -> Figure:  # fmt: skip
    """Draws geodesics and straight lines over codes (n, 2) with labels (n,), on filled contours of a background.

    Geodesics are solid, those that did not converge dashed; straight lines are dotted, ends are rings.
    """
    figure = new_figure(7.0, 6.6)
    axes = figure.add_subplot()
    _fill(figure, axes, background)
    classes = _scatter(axes, codes, labels)
    for curve in curves:
        _curve(axes, curve)
    _name_curves(axes, all(curve.good for curve in curves))
    _finish(figure, axes, background, codes, title, axis_labels, classes)
    return figure


def pair_panels(
    codes: np.ndarray, labels: Optional[np.ndarray], methods: Mapping[str, Sequence[Curve]], heads: Sequence[str],
    background: Optional[Background], title: str, axis_labels: Sequence[str],
) -> Figure:  # fmt: skip
    """Draws a panel a pair, with its title of `heads`; several methods above each other, one after four if alone."""
    columns = min(len(heads), 4)
    rows = len(methods) if len(methods) > 1 else -(-len(heads) // columns)
    figure = new_figure(3.3 * columns + 0.8, 3.4 * rows + 0.9)
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    cells = [(name, number, curve) for name, curves in methods.items() for number, curve in enumerate(curves)]
    for axes in grid.ravel()[len(cells) :]:
        axes.set_visible(False)
    drawn, classes = None, 0
    for axes, (name, number, curve) in zip(grid.ravel(), cells):
        drawn = _contours(axes, background)
        classes = _scatter(axes, codes, labels, alpha=0.55)
        _curve(axes, curve)
        _frame(axes, background, codes)
        head = heads[number]
        axes.set_title(f"{name}\n{head}" if len(methods) > 1 else head, fontsize=9)
        axes.tick_params(labelsize=8)
    for axes in grid[-1]:
        axes.set_xlabel(axis_labels[0], fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel(axis_labels[1], fontsize=9)
    if drawn is not None and background is not None:
        _bar(figure, drawn, grid, background, fraction=0.03, pad=0.01)
    _name_curves(grid[0, 0], all(curve.good for _, _, curve in cells))
    _legend(figure, grid[0, 0], classes)
    return figure


def member_panels(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]], extent: tuple[float, float, float, float], codes: np.ndarray,
    title: str, axis_labels: Sequence[str],
) -> Figure:  # fmt: skip
    """Draws log magnification (H, W) and indicatrices (n, T, 2) in a panel a member and one for all, on one scale."""
    import matplotlib.patheffects as effects

    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(3.6 * columns + 0.9, 3.5 * rows + 0.6)
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    finite = np.concatenate([values[np.isfinite(values)] for values, _ in panels.values()])
    limits = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    rim = [effects.withStroke(linewidth=1.6, foreground="0.15")]
    image = None
    for axes, (name, (values, outlines)) in zip(grid.ravel(), panels.items()):
        image = axes.imshow(values, origin="lower", extent=extent, aspect="auto", cmap=BACKGROUND, vmin=limits[0],
                            vmax=limits[1], interpolation="bilinear")  # fmt: skip
        axes.scatter(*codes.T, s=3, color="black", alpha=0.35, linewidths=0.0)
        for outline in outlines:
            axes.plot(*outline.T, color="white", linewidth=0.7, path_effects=rim)
        axes.set_title(name, fontsize=10)
        axes.set(xlim=extent[:2], ylim=extent[2:])
        axes.tick_params(labelsize=8)
    for axes in grid.ravel()[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel(axis_labels[0], fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel(axis_labels[1], fontsize=9)
    if image is not None:
        label = r"log$_{10}$ of $\sqrt{\det G}$; indicatrices of one unit; dots: codes"
        figure.colorbar(image, ax=grid, label=label, fraction=0.03, pad=0.01)
    return figure


def magnification(
    background: Background, codes: np.ndarray, labels: Optional[np.ndarray], ellipses: np.ndarray, title: str,
    axis_labels: Sequence[str],
) -> Figure:  # fmt: skip
    """Draws the magnification factor over a plane with indicatrices, outlines (n, T, 2) in the units of the plane."""
    import matplotlib.patheffects as effects

    figure = new_figure(7.0, 6.6)
    axes = figure.add_subplot()
    _fill(figure, axes, background)
    classes = _scatter(axes, codes, labels, alpha=0.55)
    # White with a dark rim is seen on all grounds.
    rim = [effects.withStroke(linewidth=2.0, foreground="0.15")]
    for outline in ellipses:
        axes.fill(*outline.T, facecolor="#FFFFFF40", zorder=4)
        axes.plot(*outline.T, color="white", linewidth=0.9, zorder=4, path_effects=rim)
    outlined: dict[str, Any] = dict(facecolor="#FFFFFF40", edgecolor="white")
    axes.fill([], [], label="unit speed (indicatrix)", **outlined)
    _finish(figure, axes, background, codes, title, axis_labels, classes)
    return figure


def strips(groups: Mapping[str, Mapping[str, np.ndarray]], title: str, note: str = "") -> Figure:
    """Draws named groups of named rows of images, each row (columns, H, W, 3) in [0, 1], one group below the other."""
    rows = [row for group in groups.values() for row in group.values()]
    columns, height, width = rows[0].shape[:3]
    cell = min(0.85, 9.5 / columns)
    labels = max(len(name) for group in groups.values() for name in group)
    tall = sum(len(group) * cell * height / width + 0.36 for group in groups.values())
    figure = new_figure(columns * cell + 0.5 + 0.085 * labels, tall + 0.55 + 0.25 * bool(note))
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[len(group) for group in groups.values()])
    pad = max(1, round(max(height, width) / 16))
    for axes, (name, group) in zip(panels[:, 0], groups.items()):
        axes.imshow(mosaic(np.stack(list(group.values())), pad), interpolation="nearest")
        centres = pad + (height - 1) / 2 + np.arange(len(group)) * (height + pad)
        axes.set_yticks(centres, list(group))
        axes.set_xticks([])
        axes.tick_params(length=0, labelsize=9)
        axes.spines[:].set_visible(False)
        axes.set_title(name, fontsize=9, loc="left", pad=3)
    if note:
        figure.supxlabel(note, fontsize=9)
    return figure


def traces(
    energies: np.ndarray, start: np.ndarray, speeds: np.ndarray, line_speeds: np.ndarray, good: np.ndarray, title: str,
    energy: str,
) -> Figure:  # fmt: skip
    """Draws energies while curves are found, and the speeds of the curves found.

    energies: (K, B), after 0, 1, ... steps. start: (B,), which energies are shown relative to. speeds, line_speeds:
    (T, B), of geodesics and straight lines under the expected metric. good: (B,), others are dashed.
    """
    figure = new_figure(10.0, 4.2)
    figure.suptitle(title, fontsize=11)
    left, right = figure.subplots(1, 2)
    # Most of the way is covered in the first steps, and after the last change there is nothing to see.
    changes = np.flatnonzero((energies[1:] != energies[:-1]).any(axis=1))
    shown = energies[: changes[-1] + 2] if len(changes) else energies[:2]
    t = np.linspace(0.0, 1.0, len(speeds))
    for index in range(energies.shape[1]):
        style = dict(color=COLOURS[index % 7], linewidth=1.6, linestyle="-" if good[index] else "--")
        left.plot(np.arange(len(shown)), shown[:, index] / (start[index] or 1.0), **style)
        for values, extra in ((speeds, style), (line_speeds, dict(color=COLOURS[index % 7], linewidth=1.0,
                                                                   linestyle=":", alpha=0.7))):  # fmt: skip
            mean = values[:, index].mean()
            right.plot(t, values[:, index] / (mean if mean > 0 else 1.0), **extra)
    left.set_xscale("symlog", linthresh=1.0, linscale=0.5)
    left.xaxis.set_major_formatter("{x:g}")
    left.set(xlabel="steps", ylabel=f"{energy} energy / that of the straight line", xlim=(0, max(len(shown) - 1, 1)))
    left.set_title("lowest energy so far", fontsize=10)
    right.axhline(1.0, color="0.45", linewidth=1.0)
    right.set(xlabel="time along the curve", ylabel="speed / its mean", ylim=(0.0, None))
    right.set_title("speed under the expected metric", fontsize=10)
    right.plot([], [], color="0.3", linewidth=1.6, label="geodesic")
    right.plot([], [], color="0.3", linewidth=1.0, linestyle=":", label="straight line")
    if not good.all():
        right.plot([], [], color="0.3", linewidth=1.6, linestyle="--", label="not converged")
    right.legend(fontsize=8, loc="best", framealpha=0.85)
    for axes in (left, right):
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def correlations(distances: np.ndarray, found: np.ndarray, places: np.ndarray, prior: np.ndarray, title: str) -> Figure:
    """Draws correlations (n,) of a posterior against distances (n,), and that of the prior (m,) at places (m,)."""
    figure = new_figure(6.4, 4.4)
    axes = figure.add_subplot()
    axes.scatter(distances, found, s=7, color=COLOURS[0], alpha=0.35, linewidths=0.0, label="posterior, pairs of codes")
    axes.plot(places, prior, color=COLOURS[1], linewidth=2.0, label="prior (the kernel)")
    axes.axhline(0.0, color="0.45", linewidth=1.0)
    axes.set_title(title, fontsize=11)
    axes.set(xlabel="distance of the latents", ylabel="correlation of an output", ylim=(-1.05, 1.05))
    axes.legend(fontsize=9, framealpha=0.85)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


# ---- distances over models ---------------------------------------------------------------------------------


class Histogram(NamedTuple):
    """Coefficients of variation (pairs,) and their density at `places` (None where there is none)."""

    values: np.ndarray
    density: Optional[np.ndarray]


def variations(columns: Mapping[str, Histogram], places: np.ndarray, title: str) -> Figure:
    """Draws histograms of coefficients of variation and their kernel densities at places (m,), a row per column.

    All rows have the axis 0 to 0.6, which is as published; values beyond it are counted at its end.
    """
    low, high = VARIATION_AXIS
    figure = new_figure(7.4, 0.9 + 1.15 * len(columns))
    figure.suptitle(title, fontsize=11)
    rows = figure.subplots(len(columns), 1, sharex=True, squeeze=False)[:, 0]
    most = max(len(column.values) for column in columns.values())
    edges = np.linspace(low, high, 61 if most >= 40 else 31)
    for index, (axes, (name, column)) in enumerate(zip(rows, columns.items())):
        colour = COLOURS[index % 7]
        beyond = int((column.values > high).sum())
        counts, _ = np.histogram(np.clip(column.values, low, high), edges)
        heights = counts / max(len(column.values), 1) / np.diff(edges)
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(heights, edges, color=colour, linewidth=0.8)
        if column.density is not None:
            axes.plot(places, column.density, color=colour, linewidth=2.0)
        mean = column.values.mean()
        axes.axvline(min(mean, high), color="black", linewidth=1.0, linestyle="--")
        text = f"{name}: mean {mean:.3f}" + (f", {beyond} of {len(column.values)} beyond the axis" if beyond else "")
        axes.set_title(text, loc="left", fontsize=9, pad=4)
        axes.set_xlim(low, high)
        axes.set_ylim(bottom=0.0)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1].set_xlabel("coefficient of variation of a pair's distance over models", fontsize=9)
    figure.supylabel("density", fontsize=9)
    return figure


def discrimination(figures: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Draws agreement beside discrimination: a row per distance, a panel per figure of merit.

    figures: {distance: {"cv", "cv_stderr", "spread", "cv_over_spread", "icc", "spearman"}}; NaN is left out.
    """
    panels = {
        "cv": "CV\n(lower: models agree)",
        "spread": "spread B\n(higher: pairs differ)",
        "cv_over_spread": "CV / B\n(lower is better)",
        "icc": "ICC(1)\n(higher is better)",
        "spearman": "rank correlation\nwith the reference",
    }
    names = list(figures)
    figure = new_figure(11.5, 1.6 + 0.34 * len(names))
    figure.suptitle(title, fontsize=11)
    places, axes = np.arange(len(names)), None
    for axes, (key, heading) in zip(figure.subplots(1, len(panels), sharey=True), panels.items()):
        values = np.array([figures[name].get(key, np.nan) for name in names], np.float64)
        for place, value in zip(places, values):
            colour = COLOURS[place % 7]
            axes.hlines(place, 0.0, value if np.isfinite(value) else 0.0, color=colour, alpha=0.45, linewidth=2.5)
            if np.isfinite(value):
                axes.plot(value, place, marker=MARKERS[place % len(MARKERS)], color=colour, markersize=7)
                beside = dict(textcoords="offset points", xytext=(7, 0), fontsize=8, va="center")
                axes.annotate(f"{value:.2f}", (value, place), **beside)
        if key == "cv":
            errors = np.array([figures[name].get("cv_stderr", np.nan) for name in names], np.float64)
            some = np.isfinite(values) & np.isfinite(errors)
            axes.errorbar(values[some], places[some], xerr=errors[some], fmt="none", ecolor="black", elinewidth=1.0,
                          capsize=2.5)  # fmt: skip
        some = values[np.isfinite(values)]
        axes.set_xlim(min(0.0, *some, 0.0) * 1.35, max(0.0, *some, 1e-3) * 1.35)
        axes.set_title(heading, fontsize=9)
        axes.set_yticks(places, names, fontsize=9)
        axes.grid(color="0.9", axis="x")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, axis="x")
    if axes is not None:  # one scale for all panels
        axes.invert_yaxis()
    return figure


# ---- clusters ----------------------------------------------------------------------------------------------


class Clustering(NamedTuple):
    """A panel: where the points lie, (n, 2), their clusters (n,), the indices of the medoids and what to say of it."""

    places: np.ndarray
    clusters: np.ndarray
    medoids: np.ndarray
    caption: str


def clusters(panels: Mapping[str, Clustering], labels: Iterable[Any], title: str,
             axis_labels: Sequence[str]) -> Figure:
    """Draws points as their labels (n,), coloured by cluster, with rings around the medoids; a panel per distance."""
    figure = new_figure(5.4 * len(panels) + 0.2, 5.6)
    figure.suptitle(title, fontsize=11)
    for axes, (name, panel) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        x, y = panel.places.T
        for point, label, cluster in zip(panel.places, labels, panel.clusters):
            style = dict(color=_cluster_colour(int(cluster)), fontsize=9, weight="bold", ha="center", va="center")
            axes.text(*point, str(label), **style)
        for cluster, medoid in enumerate(panel.medoids):
            axes.scatter(*panel.places[medoid], s=260, facecolors="none", linewidths=2.2,
                         edgecolors=_cluster_colour(cluster))  # fmt: skip
        for low, high, limits in ((x.min(), x.max(), axes.set_xlim), (y.min(), y.max(), axes.set_ylim)):
            margin = 0.08 * max(high - low, 1e-6)
            limits(low - margin, high + margin)
        axes.set_title(f"{name}\n{panel.caption}", fontsize=10)
        axes.set_xlabel(axis_labels[0])
        axes.set_ylabel(axis_labels[1])
    return figure


# ---- parts -------------------------------------------------------------------------------------------------


def _cluster_colour(cluster: int) -> str:
    """Returns the colour of a cluster: Okabe and Ito's without the pale yellow, then darker ones."""
    return (*COLOURS[:7], "#882255", "#117733", "#888888")[cluster % 10]


def _strokes() -> tuple[list, list]:
    """Returns the dark rims of thick and of thin curves."""
    import matplotlib.patheffects as effects

    thick, thin = (effects.withStroke(linewidth=width, foreground="black") for width in (4.2, 2.6))
    return [thick], [thin]


def _curve(axes: Axes, curve: Curve) -> None:
    """Draws a geodesic, dashed where it did not converge, its dotted straight line, and rings around their ends."""
    outline, thin = _strokes()
    ends = dict(marker="o", s=64, facecolors="none", edgecolors=GEODESIC, linewidths=1.8, zorder=6)
    style: dict[str, Any] = dict(color=GEODESIC, linewidth=2.2, zorder=5, path_effects=outline)
    axes.plot(*curve.geodesic.T, linestyle="-" if curve.good else (0, (4, 2)), **style)
    axes.plot(*curve.line.T, color=LINE, linestyle=":", linewidth=1.5, zorder=4, path_effects=thin)
    axes.scatter(*curve.line[[0, -1]].T, **{**ends, "edgecolors": "black", "linewidths": 3.6, "zorder": 5.5})
    axes.scatter(*curve.line[[0, -1]].T, **ends)


def _name_curves(axes: Axes, all_good: bool) -> None:
    """Gives the legend what curves mean."""
    outline, thin = _strokes()
    axes.plot([], [], color=GEODESIC, linewidth=2.2, label="geodesic", path_effects=outline)
    axes.plot([], [], color=LINE, linestyle=":", linewidth=1.5, label="straight line", path_effects=thin)
    if not all_good:
        axes.plot([], [], color=GEODESIC, linestyle=(0, (4, 2)), label="not converged", path_effects=outline)


def _fill(figure: Figure, axes: Axes, background: Optional[Background]) -> None:
    """Draws the background as filled contours with a colour bar; a plain dark ground where there is none."""
    drawn = _contours(axes, background)
    if drawn is None or background is None:
        return
    _bar(figure, drawn, axes, background, fraction=0.046, pad=0.02)


def _bar(figure: Figure, drawn: Any, axes: Any, background: Background, **room: Any) -> None:
    bar = figure.colorbar(drawn, ax=axes, label=background.label, **room)
    values = np.ma.masked_invalid(background.plane.values)
    bar.locator, bar.formatter = _few_ticks(float(values.min()), float(values.max()))
    bar.update_ticks()


def _contours(axes: Axes, background: Optional[Background]) -> Any:
    """Draws the background as filled contours and returns them; a plain dark ground and None where there is none."""
    import matplotlib

    axes.set_facecolor(matplotlib.colormaps[BACKGROUND](0.0))
    if background is None:
        return None
    left, right, bottom, top = background.plane.extent
    values = np.ma.masked_invalid(background.plane.values)
    low, high = float(values.min()), float(values.max())
    if not high > low:
        high = low + max(1e-6, 1e-6 * abs(low))
    rows, columns = values.shape
    return axes.contourf(np.linspace(left, right, columns), np.linspace(bottom, top, rows), values,
                         levels=np.linspace(low, high, LEVELS + 1), cmap=BACKGROUND)  # fmt: skip


def _few_ticks(low: float, high: float):
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    return MaxNLocator(6), ScalarFormatter(useOffset=False)


def _scatter(axes: Axes, codes: np.ndarray, labels: Optional[np.ndarray], alpha: float = 0.8) -> int:
    """Draws codes (n, 2) by their labels (n,), at most ten; returns the number of classes that the legend names."""
    classes = np.unique(labels) if labels is not None else []
    # A dark rim, for light points on light ground.
    style: dict[str, Any] = dict(s=10, alpha=alpha, linewidths=0.35, edgecolors="black", zorder=2)
    if not 1 < len(classes) <= MOST_NAMED:
        axes.scatter(*codes.T, color=LIGHT_COLOURS[0], **{**style, "alpha": 0.5 * alpha, "s": 6})
        return 0
    for colour, name in zip(LIGHT_COLOURS, classes):
        axes.scatter(*codes[labels == name].T, color=colour, label=str(name), **style)
    return len(classes)


def _finish(figure, axes, background, codes, title, axis_labels, classes) -> None:
    """Sets limits, labels and the legend, below the axes."""
    _frame(axes, background, codes)
    axes.set(xlabel=axis_labels[0], ylabel=axis_labels[1])
    axes.set_title(title, fontsize=11)
    _legend(figure, axes, classes)


def _frame(axes: Axes, background: Optional[Background], codes: np.ndarray) -> None:
    """Sets the limits of axes to those of the background, or of the codes, and one scale where that fits."""
    if background is None:
        margin = 0.06 * np.maximum(np.ptp(codes, axis=0), 1e-6)
        (left, bottom), (right, top) = codes.min(axis=0) - margin, codes.max(axis=0) + margin
    else:
        left, right, bottom, top = background.plane.extent
    axes.set(xlim=(left, right), ylim=(bottom, top))
    if 1 / LIKE_SIDES < (top - bottom) / (right - left) < LIKE_SIDES:
        axes.set_aspect("equal")  # lengths and angles in the latent space are what is compared


def _legend(figure: Any, axes: Axes, classes: int) -> None:
    handles, names = axes.get_legend_handles_labels()
    legend = figure.legend(handles, names, loc="outside lower center", ncols=min(7, max(len(names), 1)), fontsize=9,
                           facecolor="0.25", labelcolor="white", framealpha=1.0, markerscale=2.0)  # fmt: skip
    for handle in legend.legend_handles[:classes]:
        handle.set_alpha(1.0)
