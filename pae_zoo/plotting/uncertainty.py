"""Pictures of uncertainties from arrays: calibration, rejection, few labels, the map of a latent plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import numpy as np

from pae_zoo.plotting.figures import CLASS_COLOURS, COLOURS, mosaic, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DASHES = ("-", "--", "-.", ":")
CROSSES = ("x", "+", "1", "2", "|", "_")
MARKERS = ("o", "s", "^", "D", "v")
#: certain is light, so that coloured codes stand out where most of them lie
LATENT_COLOURS = "bone_r"


def errors_by_uncertainty(
    deciles: Mapping[str, np.ndarray], widths: Mapping[str, tuple[np.ndarray, np.ndarray]], mean: float, title: str,
    label: str,
) -> Figure:  # fmt: skip
    """Draws mean errors against uncertainty: of bins of equal numbers of data, and of bins of equal width.

    deciles: errors (bins,) by name. widths: (centres as a share of the range, errors), each (bins,), NaN in empty bins.
    mean: of the errors of all data. label: of the vertical axes.
    """
    figure = new_figure(9.6, 4.2)
    figure.suptitle(title, fontsize=11)
    left, right = figure.subplots(1, 2, sharey=True)
    for index, (name, errors) in enumerate(deciles.items()):
        style = dict(color=COLOURS[index], linestyle=DASHES[index], marker=MARKERS[index], linewidth=2.0, markersize=5)
        left.plot(np.arange(1, len(errors) + 1), errors, label=name, **style)
        centres, errors = widths[name]
        some = np.isfinite(errors)
        right.plot(centres[some], errors[some], **style)
    for axes in (left, right):
        axes.axhline(mean, color="0.45", linewidth=1.2, label=f"mean of all data ({mean:.3g})")
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_xticks(np.arange(1, max(map(len, deciles.values())) + 1))
    left.set_xlabel("tenth of the data, from the least uncertain on")
    left.set_ylabel(label)
    right.set_xlabel("uncertainty, as a share of its range (bins of equal width)")
    left.set_ylim(bottom=0.0)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def reliability(
    groups: Mapping[str, tuple[np.ndarray, np.ndarray]], covered: Mapping[str, np.ndarray], levels: np.ndarray,
    title: str, unit: str,
) -> Figure:  # fmt: skip
    """Draws root mean squared errors against predicted stds, by bins, and the coverage of central intervals.

    groups: (predicted, observed), each (bins,), positive ones are drawn. covered: shares (levels,) by the same names.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = new_figure(9.6, 5.0)
    figure.suptitle(title, fontsize=11)
    left, right = figure.subplots(1, 2)
    ends = []
    for index, (name, (predicted, observed)) in enumerate(groups.items()):
        style = dict(color=COLOURS[index], linestyle=DASHES[index], marker=MARKERS[index], linewidth=1.8, markersize=5)
        some = (predicted > 1e-7) & (observed > 1e-7)
        if some.any():
            left.loglog(predicted[some], observed[some], **style)
            ends += [predicted[some].min(), predicted[some].max(), observed[some].min(), observed[some].max()]
        right.plot(levels, covered[name], label=name, **{**style, "markersize": 3.5})
    low, high = (0.8 * min(ends), 1.25 * max(ends)) if ends else (0.1, 1.0)
    left.plot([low, high], [low, high], color="0.45", linewidth=1.2)
    ticks = [tick for tick in np.outer(10.0 ** np.arange(-8, 9), (1, 2, 5)).ravel() if low <= tick <= high]
    while len(ticks) > 7:
        ticks = ticks[::2]
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    left.set(xlim=(low, high), ylim=(low, high), xlabel=f"predicted std ({unit})", ylabel=f"RMS error ({unit})")
    left.set_title("errors of bins of single values", fontsize=10)
    right.plot([0, 1], [0, 1], color="0.45", linewidth=1.2, label="calibrated")
    right.set(xlim=(0, 1), ylim=(0, 1), xlabel="level of the central interval", ylabel="share of values inside")
    right.set_title("coverage of single values", fontsize=10)
    for axes in (left, right):
        axes.set_aspect("equal")
        axes.grid(color="0.9")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def confidence(panels: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], title: str) -> Figure:
    """Draws a panel per title: accuracy of each confidence bin as a bar, with the gap to its mean confidence.

    A panel has accuracies, mean confidences and shares of the data, each (bins,); empty bins are left out.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.5 * columns + 0.4, 3.5 * rows + 0.9)
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (name, (accuracy, mean, share)) in zip(grid.ravel(), panels.items()):
        width = 1.0 / len(accuracy)
        some = share > 0
        centres = (np.arange(len(accuracy)) + 0.5)[some] * width
        axes.bar(centres, accuracy[some], 0.92 * width, color=COLOURS[0], alpha=0.75, label="accuracy")
        gap = mean[some] - accuracy[some]
        style = dict(facecolor="none", edgecolor=COLOURS[1], hatch="////", linewidth=1.0)
        axes.bar(centres, gap, 0.92 * width, bottom=accuracy[some], label="gap to the mean confidence", **style)
        axes.plot(centres, share[some], color="black", marker=".", linewidth=1.0, label="share of the data")
        axes.plot([0, 1], [0, 1], color="0.45", linewidth=1.2)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_title(name, fontsize=9)
    for axes in grid.ravel()[len(panels) :]:
        axes.set_visible(False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    for column in range(columns):
        lowest = max(row for row in range(rows) if row * columns + column < len(panels))
        grid[lowest, column].set_xlabel("confidence of the averaged probabilities", fontsize=9)
        grid[lowest, column].tick_params(labelbottom=True)
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def rejection(panels: Mapping[str, Mapping[str, np.ndarray]], rejected: np.ndarray, title: str) -> Figure:
    """Draws a panel per error: curves (k,) of the error that is left, by name, against the rejected shares (k,).

    The curves "oracle" and "random" are references and drawn grey.
    """
    figure = new_figure(4.9 * len(panels) + 0.2, 4.4)
    figure.suptitle(title, fontsize=11)
    for axes, (label, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        shown = 0
        for name, curve in curves.items():
            if name in ("oracle", "random"):
                style = dict(color="0.35", linestyle=":" if name == "oracle" else "--", linewidth=1.4)
            else:
                style = dict(color=COLOURS[shown], linestyle=DASHES[shown % 4], linewidth=2.0)
                style |= dict(marker=MARKERS[shown % 5], markersize=4)
                shown += 1
            axes.plot(100 * rejected, curve, label=name, **style)
        axes.set_xlabel("share of the data rejected, the most uncertain first (%)")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0.0)
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, loc="best", framealpha=0.85)
    return figure


def accuracy_by_labels(
    counts: Sequence[int], groups: Mapping[str, tuple[np.ndarray, np.ndarray]], chance: float, title: str
) -> Figure:
    """Draws accuracies (counts,) with their standard deviation as a band, by name, against labels per class."""
    figure = new_figure(6.6, 4.6)
    axes = figure.add_subplot()
    for index, (name, (mean, std)) in enumerate(groups.items()):
        style: dict[str, Any] = dict(color=COLOURS[index], linestyle=DASHES[index], marker=MARKERS[index])
        axes.plot(counts, mean, linewidth=2.0, markersize=5, label=name, **style)
        axes.fill_between(counts, mean - std, mean + std, color=COLOURS[index], alpha=0.18, linewidth=0.0)
    axes.axhline(chance, color="0.45", linewidth=1.2, label=f"chance ({chance:.2f})")
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("labels per class")
    axes.set_ylabel("accuracy on test data")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, loc="best", framealpha=0.85)
    return figure


class Plane(NamedTuple):
    """Values over a plane: where its corners lie, (left, right, bottom, top), and values (rows, columns), bottom up."""

    extent: tuple[float, float, float, float]
    values: np.ndarray


def latent_plane(
    plane: Plane, codes: np.ndarray, labels: Optional[np.ndarray], others: Mapping[str, np.ndarray],
    pictures: Optional[np.ndarray], title: str, axis_labels: Sequence[str], unit: str,
) -> Figure:  # fmt: skip
    """Draws uncertainty over a plane of latents with codes on top and, beside it, what the decoder makes of the plane.

    codes: (n, 2), coloured by labels (n,) of at most ten classes, each named at its median. others: further codes by
    name, as crosses. pictures: (rows, columns, H, W, C) in [0, 1], the top row first; None leaves them out.
    """
    figure = new_figure(7.2 if pictures is None else 12.4, 6.0)
    panels = figure.subplots(1, 1 if pictures is None else 2, squeeze=False)[0]
    axes = panels[0]
    left, right, bottom, top = plane.extent
    image = axes.imshow(plane.values, cmap=LATENT_COLOURS, origin="lower", extent=plane.extent, aspect="auto",
                        interpolation="bilinear")  # fmt: skip
    figure.colorbar(image, ax=axes, label=f"std of the decoder's output ({unit})", fraction=0.046, pad=0.02)
    for index, (name, points) in enumerate(others.items()):
        style = dict(marker=CROSSES[index % len(CROSSES)], s=14, linewidths=0.8, alpha=0.8)
        style["color"] = ("#000000", *COLOURS)[index % (len(COLOURS) + 1)]
        axes.scatter(points[:, 0], points[:, 1], label=name, **style)
    classes = np.unique(labels) if labels is not None else []
    edge = dict(s=12, linewidths=0.3, edgecolors="white")
    if 1 < len(classes) <= len(CLASS_COLOURS):
        for colour, name in zip(CLASS_COLOURS, classes):
            chosen = codes[labels == name]
            axes.scatter(chosen[:, 0], chosen[:, 1], color=colour, **edge)
        for colour, name in zip(CLASS_COLOURS, classes):
            x, y = np.median(codes[labels == name], axis=0)
            box = dict(boxstyle="round,pad=0.18", facecolor="white", edgecolor=colour, linewidth=1.8, alpha=0.92)
            axes.text(x, y, str(name), fontsize=9, weight="bold", ha="center", va="center", bbox=box)
    else:
        axes.scatter(codes[:, 0], codes[:, 1], color=COLOURS[5], **edge)
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel=axis_labels[0], ylabel=axis_labels[1])
    axes.set_title("uncertainty and codes of test data", fontsize=10)
    if others:
        for handle in axes.legend(fontsize=8, loc="upper right", framealpha=0.9).legend_handles:
            handle.set_alpha(1.0)
    if pictures is not None:
        panels[1].imshow(mosaic(pictures, 1), extent=plane.extent, aspect="auto", interpolation="nearest")
        panels[1].set_title("mean of the decoded images", fontsize=10)
        panels[1].set_xlabel(axis_labels[0])
    figure.suptitle(title, fontsize=11)
    return figure


def ratios(groups: Mapping[str, Sequence[float]], names: Sequence[str], title: str) -> Figure:
    """Draws positive ratios (layers,) by method, one place for each layer, on a logarithmic axis around 1."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = new_figure(1.1 * len(names) + 3.0, 4.4)
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots()
    places = np.arange(len(names))
    for index, (name, values) in enumerate(groups.items()):
        shift = 0.14 * (index - (len(groups) - 1) / 2)
        axes.plot(places + shift, np.maximum(values, 1e-6), linestyle="", marker=MARKERS[index % len(MARKERS)],
                  color=COLOURS[index], markersize=7, label=name)
    axes.axhline(1.0, color="0.45", linewidth=1.2)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    numbers = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(numbers)
    axes.yaxis.set_minor_formatter(numbers if high < 10 * low else NullFormatter())
    axes.set_xticks(places, names, rotation=30, ha="right", fontsize=8)
    axes.grid(color="0.9", axis="y")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel("ratio to exact")
    axes.legend(frameon=False, fontsize=9, ncols=len(groups), loc="upper left", bbox_to_anchor=(0.0, 1.1))
    return figure
