"""Pictures from arrays: each function takes numbers and returns a matplotlib figure, saved by the caller.

Figures are built without pyplot, so that no global state, display or backend of a caller is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which colour-blind readers tell apart; the pale yellow comes last
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
INSIDE, OUTSIDE = COLOURS[0], COLOURS[1]
#: Paul Tol's "muted" set, for up to ten classes
CLASS_COLOURS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#888888",
)  # fmt: skip
GREY = 0.72
DPI = 100


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of the given size in inches whose layout keeps labels inside."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))


def pixels(figure: Figure) -> np.ndarray:
    """Returns a figure as an RGB image (H, W, 3) of bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Returns images (..., H, W, C) in [0, 1] as RGB; other than 1 or 3 channels are averaged to grey."""
    images = np.clip(np.asarray(images, np.float32), 0.0, 1.0)
    if images.shape[-1] == 3:
        return images
    return np.repeat(images.mean(axis=-1, keepdims=True), 3, axis=-1)


def signed_rgb(differences: np.ndarray, limit: float) -> np.ndarray:
    """Returns signed images (..., H, W, C) as RGB: blue below zero, white at zero, red above."""
    import matplotlib

    grey = np.asarray(differences, np.float32).mean(axis=-1)
    scaled = np.clip(0.5 + 0.5 * grey / limit, 0.0, 1.0)
    return matplotlib.colormaps["RdBu_r"](scaled)[..., :3].astype(np.float32)


def positive_rgb(values: np.ndarray, limit: float) -> np.ndarray:
    """Returns images (..., H, W, C) of values >= 0 as RGB: black at zero, then purple, orange, pale yellow at limit."""
    import matplotlib

    grey = np.asarray(values, np.float32).mean(axis=-1)
    return matplotlib.colormaps["inferno"](np.clip(grey / limit, 0.0, 1.0))[..., :3].astype(np.float32)


def hidden_rgb(images: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Returns images (..., H, W, C) as RGB with the pixels that are not seen in a light blue that no grey is."""
    from matplotlib.colors import to_rgb as colour_of

    return np.where(seen.any(axis=-1, keepdims=True), to_rgb(images), np.asarray(colour_of(COLOURS[5]), np.float32))


def mosaic(images: np.ndarray, pad: int = 2) -> np.ndarray:
    """Lays a table of images (rows, columns, H, W, C) on grey: one RGB image with `pad` pixels between."""
    images = to_rgb(images)
    rows, columns, height, width, _ = images.shape
    sheet = np.full((rows * (height + pad) + pad, columns * (width + pad) + pad, 3), GREY, np.float32)
    for row in range(rows):
        for column in range(columns):
            top, left = pad + row * (height + pad), pad + column * (width + pad)
            sheet[top : top + height, left : left + width] = images[row, column]
    return sheet


def square(images: np.ndarray) -> np.ndarray:
    """Arranges images (n, H, W, C) as a table (rows, columns, H, W, C), dropping what fills no row."""
    columns = max(1, int(np.sqrt(len(images))))
    rows = len(images) // columns
    return images[: rows * columns].reshape(rows, columns, *images.shape[1:])


def image_table(
    images: np.ndarray,
    title: str,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    note: str = "",
) -> Figure:
    """Draws a table of images (rows, columns, H, W, C) in [0, 1], with labels left and above."""
    rows, columns, height, width, _ = images.shape
    pad = max(1, round(max(height, width) / 16))
    cell = min(0.8, max(0.3, 9.0 / columns))
    left = 0.3 + 0.085 * max((len(label) for label in row_labels), default=0)
    above_and_below = 0.5 + 0.25 * bool(len(column_labels)) + 0.25 * bool(note)
    figure = new_figure(
        max(4.5, columns * cell + left), rows * cell * (height + pad) / (width + pad) + above_and_below
    )
    axes = figure.add_subplot()
    axes.imshow(mosaic(images, pad), interpolation="nearest")
    axes.set_title(title, fontsize=11)
    centres = pad + (height - 1) / 2 + np.arange(rows) * (height + pad)
    axes.set_yticks(centres if len(row_labels) else [], row_labels if len(row_labels) else [])
    centres = pad + (width - 1) / 2 + np.arange(columns) * (width + pad)
    axes.set_xticks(centres if len(column_labels) else [], column_labels if len(column_labels) else [])
    axes.tick_params(length=0, labelsize=9, top=False, labeltop=True, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if note:
        axes.set_xlabel(note, fontsize=9)
    return figure


def heatmap(values: np.ndarray, title: str, label: str) -> Figure:
    """Draws a map (H, W) of values >= 0 with a colour bar."""
    figure = new_figure(5.2, 4.4)
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="viridis", vmin=0.0, interpolation="nearest")
    figure.colorbar(image, ax=axes, label=label)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("column (pixels)")
    axes.set_ylabel("row (pixels)")
    return figure


def points(groups: Mapping[str, np.ndarray], title: str, axis_labels: Sequence[str]) -> Figure:
    """Draws named groups of points (n, 2) over one another, in order, with a legend."""
    figure = new_figure(6.0, 5.2)
    axes = figure.add_subplot()
    markers = ("o", "x", "^", "s")
    for index, (name, values) in enumerate(groups.items()):
        size, alpha, width = (14, 0.55, 0.0) if index != 1 else (16, 0.45, 1.0)
        style: dict[str, Any] = dict(s=size, alpha=alpha, linewidths=width)
        axes.scatter(values[:, 0], values[:, 1], color=COLOURS[index], marker=markers[index], label=name, **style)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(axis_labels[0])
    axes.set_ylabel(axis_labels[1])
    for handle in axes.legend(fontsize=9, loc="best", framealpha=0.85).legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)
    return figure


def latent_map(
    codes: np.ndarray, labels: Optional[np.ndarray], title: str, axis_labels: Sequence[str],
    ellipses: Optional[tuple[np.ndarray, np.ndarray]] = None,
) -> Figure:  # fmt: skip
    """Draws codes (n, 2), coloured by labels (n,) of at most ten classes, each named at its median.

    ellipses: the numbers of some codes, (m,), and their covariances (m, 2, 2), of which one std is drawn.
    """
    import matplotlib
    from matplotlib.collections import LineCollection

    figure = new_figure(6.4, 5.6)
    axes = figure.add_subplot()
    classes = np.unique(labels) if labels is not None else []
    if 1 < len(classes) <= len(CLASS_COLOURS):
        for colour, name in zip(CLASS_COLOURS, classes):
            chosen = codes[labels == name]
            axes.scatter(chosen[:, 0], chosen[:, 1], color=colour, s=9, alpha=0.6, linewidths=0.0)
        for colour, name in zip(CLASS_COLOURS, classes):
            x, y = np.median(codes[labels == name], axis=0)
            box = dict(boxstyle="round,pad=0.2", facecolor="white", edgecolor=colour, linewidth=1.8, alpha=0.9)
            axes.text(x, y, str(name), fontsize=10, weight="bold", ha="center", va="center", bbox=box)
    elif labels is not None and len(classes) > 1:
        colours = matplotlib.colormaps["viridis"](np.searchsorted(classes, labels) / (len(classes) - 1))
        axes.scatter(codes[:, 0], codes[:, 1], c=colours, s=9, alpha=0.6, linewidths=0.0)
    else:
        axes.scatter(codes[:, 0], codes[:, 1], color=COLOURS[0], s=9, alpha=0.6, linewidths=0.0)
    if ellipses is not None:
        some, covariances = ellipses
        colours: Any = "black"
        if labels is not None and 1 < len(classes) <= len(CLASS_COLOURS):
            colours = [CLASS_COLOURS[int(place)] for place in np.searchsorted(classes, labels[some])]
        lines = list(outlines(codes[some], covariances))
        axes.add_collection(LineCollection(lines, colors=colours, linewidths=1.0, alpha=0.9, zorder=1))
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(axis_labels[0])
    axes.set_ylabel(axis_labels[1])
    return figure


def outlines(centres: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Returns the ellipses (m, 65, 2) of one standard deviation around centres (m, 2) for covariances (m, 2, 2)."""
    angles = np.linspace(0.0, 2.0 * np.pi, 65)
    variances, directions = np.linalg.eigh(covariances)
    roots = directions * np.sqrt(np.maximum(variances, 0.0))[:, None, :]
    return centres[:, None] + np.stack([np.cos(angles), np.sin(angles)], axis=1) @ np.swapaxes(roots, 1, 2)


def bars(values: Mapping[str, float], title: str, label: str) -> Figure:
    """Draws a horizontal bar per named number >= 0, with the number beside it; the first on top."""
    figure = new_figure(7.0, 1.4 + 0.42 * len(values))
    axes = figure.add_subplot()
    drawn = axes.barh(list(values), list(values.values()), height=0.62, color=COLOURS[0])
    axes.bar_label(drawn, [f"{value:.4g}" for value in values.values()], padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.15 * max([*values.values(), 1e-12]))
    figure.suptitle(title, fontsize=11)  # wider than the axes, which leave room for the names
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def points_with_errors(groups: Mapping[str, Sequence[float]], title: str, label: str, most: int = 40) -> Figure:
    """Draws the values of named groups as dots, their mean as a bar, one group a row; of many the first `most`."""
    shown = dict(list(groups.items())[:most])
    figure = new_figure(7.0, 1.4 + 0.34 * len(shown))
    axes = figure.add_subplot()
    for row, values in enumerate(shown.values()):
        finite = np.asarray([value for value in values if np.isfinite(value)])
        axes.plot(finite, np.full(len(finite), row), "o", color=COLOURS[0], alpha=0.6, markersize=6)
        if len(finite):
            axes.plot([finite.mean()] * 2, [row - 0.3, row + 0.3], color=COLOURS[1], linewidth=2.5)
    axes.set_yticks(range(len(shown)), list(shown))
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel(label if len(shown) == len(groups) else f"{label}; the first {most} of {len(groups)} points")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return figure


def histogram(
    groups: Mapping[str, np.ndarray], title: str, xlabel: str, marks: Optional[Mapping[str, float]] = None
) -> Figure:
    """Draws the histograms of named groups of values (n,) on common bins, with vertical marks."""
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    _histograms(axes, groups, xlabel)
    for index, (name, value) in enumerate((marks or {}).items()):
        style = ("--", ":")[index % 2]
        axes.axvline(value, color=COLOURS[index], linestyle=style, linewidth=2.0, label=name)
    axes.set_title(title, fontsize=11)
    axes.set_ylabel("share of the data per bin")
    axes.legend(fontsize=9, loc="best", framealpha=0.85)
    return figure


def curves(panels: Mapping[str, Sequence[np.ndarray]], title: str, xlabel: str, labels: Sequence[str]) -> Figure:
    """Draws a panel per title: (middle, low, high), each (n,), as a line and a band over 0, 1, .., n - 1.

    `labels` are those of the vertical axes.
    """
    figure = new_figure(4.9 * len(panels), 3.8)
    figure.suptitle(title, fontsize=11)
    for axes, name, (middle, low, high), label in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, panels.values(), labels
    ):
        steps = np.arange(len(middle))
        axes.fill_between(steps, low, high, color=COLOURS[0], alpha=0.22, linewidth=0.0)
        axes.plot(steps, middle, color=COLOURS[0], linewidth=2.0, marker="o", markersize=5)
        axes.set_xticks(steps[:: max(1, len(steps) // 10)])
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(label)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def per_latent(panels: Mapping[str, tuple[np.ndarray, float]], names: Sequence[str], title: str, note: str) -> Figure:
    """Draws a panel per label, one below the other: values (K,) as stems from a reference line, a place per latent.

    `names` are those of the latents, left to right. Values that are all above 0 with a range of over 30 times get a
    logarithmic axis.
    """
    figure = new_figure(float(np.clip(1.6 + 0.3 * len(names), 5.6, 12.0)), 0.9 + 1.7 * len(panels))
    figure.suptitle(title, fontsize=11)
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    places = np.arange(len(names))
    for axes, (label, (values, reference)) in zip(rows, panels.items()):
        axes.vlines(places, reference, values, color=COLOURS[0], alpha=0.5, linewidth=2.0)
        axes.scatter(places, values, color=COLOURS[0], s=22, zorder=3)
        axes.axhline(reference, color=COLOURS[1], linestyle="--", linewidth=1.4)
        axes.set_ylabel(label, fontsize=9)
        if min(values.min(), reference) > 0 and max(values.max(), reference) > 30 * min(values.min(), reference):
            axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    every = -(-len(names) // 32)
    rows[-1].set_xticks(places[::every], names[::every], fontsize=8)
    rows[-1].set_xlabel(note)
    return figure


def matrices(
    images: Optional[np.ndarray], columns: Mapping[str, np.ndarray], groups: Mapping[str, Sequence[str]], title: str,
    note: str = "",
) -> Figure:  # fmt: skip
    """Draws a row per image: the image (n, H, W, C) in [0, 1], if there are any, and named matrices (n, K, K) as maps.

    `groups` names colour bars and the columns that share one: blue below zero, white at zero, red above.
    """
    some = next(iter(columns.values()))
    first = 0 if images is None else 1
    figure = new_figure(1.75 * (first + len(columns)) + 1.0, 1.6 * len(some) + 1.3)
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(some), first + len(columns), squeeze=False)
    for axes in grid.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
    if images is not None:
        grid[0, 0].set_title("datum", fontsize=9)
        for axes, image in zip(grid[:, 0], to_rgb(images)):
            axes.imshow(image, interpolation="nearest")
    order = list(columns)
    for label, members in groups.items():
        limit = max(float(np.abs(np.stack([columns[name] for name in members])).max()), 1e-12)
        places = [first + order.index(name) for name in members]
        drawn: Any = None
        for name, place in zip(members, places):
            grid[0, place].set_title(name, fontsize=9)
            for axes, matrix in zip(grid[:, place], columns[name]):
                drawn = axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        bar = figure.colorbar(drawn, ax=grid[:, places], location="bottom", label=label, aspect=30, shrink=0.8)
        bar.ax.tick_params(labelsize=8)
    if note:
        figure.supxlabel(note, fontsize=9)
    return figure


def score_histograms(
    inside: Mapping[str, np.ndarray], outside: Mapping[str, np.ndarray], names: Sequence[str], title: str,
    captions: Mapping[str, str],
) -> Figure:  # fmt: skip
    """Draws a panel per score: its histogram inside and outside; `names` are those of the two groups."""
    columns = min(2, len(inside))
    rows = -(-len(inside) // columns)
    figure = new_figure(5.0 * columns + 0.2, 3.1 * rows + 0.7)
    figure.suptitle(title, fontsize=12)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, score in zip(panels, inside):
        _histograms(axes, {names[0]: inside[score], names[1]: outside[score]}, f"{score} (higher = more unusual)")
        axes.set_title(captions[score], fontsize=10)
        axes.set_ylabel("share per bin")
    for axes in panels[len(inside) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def roc_and_precision_recall(
    roc: Mapping[str, tuple[np.ndarray, np.ndarray]],
    precision_recall: Mapping[str, tuple[np.ndarray, np.ndarray]],
    title: str,
    chance: float,
) -> Figure:
    """Draws ROC curves (fpr, tpr) and precision-recall curves (recall, precision), a line per label."""
    figure = new_figure(10.0, 4.8)
    figure.suptitle(title, fontsize=12)
    left, right = figure.subplots(1, 2)
    dashes = ("-", "--", "-.", ":")
    for axes, curves in ((left, roc), (right, precision_recall)):
        for index, (label, (x, y)) in enumerate(curves.items()):
            colour = COLOURS[index % (len(COLOURS) - 1)]
            axes.plot(x, y, color=colour, linestyle=dashes[index % 4], linewidth=2.0, label=label)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.grid(color="0.9")
        axes.set_aspect("equal")
    left.plot([0, 1], [0, 1], color="0.6", linewidth=1.0, label="chance (0.500)")
    right.axhline(chance, color="0.6", linewidth=1.0, label=f"chance ({chance:.3f})")
    left.set(title="ROC (area)", xlabel="false positive rate", ylabel="true positive rate")
    right.set(title="precision-recall (average precision)", xlabel="recall", ylabel="precision")
    for axes in (left, right):
        axes.legend(fontsize=9, loc="lower right" if axes is left else "lower left", framealpha=0.85)
    return figure


def _histograms(axes, groups: Mapping[str, np.ndarray], xlabel: str) -> None:
    """Draws groups on common bins; ranges apart by over 20 get an asinh axis, tails go to the end bins."""
    from matplotlib.colors import to_rgba

    spans = [np.quantile(values, (0.005, 0.995)) for values in groups.values()]
    low, high = min(s[0] for s in spans), max(s[1] for s in spans)
    num_bins = int(np.clip(2.5 * min(map(len, groups.values())) ** (1 / 3), 10, 60))
    if high <= low:
        low, high = low - 0.5, low + 0.5
    spread = [s for s in spans if s[1] - s[0] > 1e-6 * (high - low)]  # constant scores need no room
    anchor, end = min(spread or [(low, high)], key=lambda s: s[1] - s[0])
    width = end - anchor
    if len(spread) > 1 and high - low > 20.0 * width:

        def forward(value):
            return np.arcsinh((np.asarray(value, float) - anchor) / width)

        def inverse(value):
            return np.sinh(np.asarray(value, float)) * width + anchor

        edges = inverse(np.linspace(forward(low), forward(high), num_bins + 1))
        axes.set_xscale("function", functions=(forward, inverse))
        ticks = inverse(np.linspace(forward(low), forward(high), 6))
        labels = [f"{tick:,.0f}" if abs(tick) >= 100 else f"{tick:.3g}" for tick in ticks]
        axes.set_xticks(ticks, labels, fontsize=8)
        xlabel += "\n(axis compressed: asinh)"
    else:
        edges = np.linspace(low, high, num_bins + 1)
    for (name, values), colour, hatch in zip(groups.items(), COLOURS, ("", "////") * 4):
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        share = counts / len(values)
        style = dict(facecolor=to_rgba(colour, 0.25), edgecolor=colour, hatch=hatch, linewidth=1.4)
        axes.stairs(share, edges, fill=True, label=name, **style)
    axes.set_xlabel(xlabel)


def nll_curve(series: Mapping[str, np.ndarray], title: str) -> Figure:
    """Draws named series of nats a row (epochs,), from epoch 0 on; NaN is left out."""
    figure = new_figure(6.2, 4.2)
    axes = figure.add_subplot()
    for index, (name, values) in enumerate(series.items()):
        axes.plot(np.arange(len(values)), values, color=COLOURS[index], marker="o", markersize=4, label=name)
    axes.set(xlabel="epoch", ylabel="-log p (nats a row)")
    axes.set_title(title, fontsize=11)
    axes.legend(fontsize=9)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def two_scatters(panels: Mapping[str, Mapping[str, np.ndarray]], title: str) -> Figure:
    """Draws a panel per title of named groups of rows (n, 2), as histograms where rows have one number."""
    figure = new_figure(5.2 * len(panels), 5.0)
    figure.suptitle(title, fontsize=11)
    for axes, (name, groups) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for index, (label, rows) in enumerate(groups.items()):
            if rows.shape[1] == 1:
                axes.hist(rows[:, 0], bins=40, density=True, histtype="step", color=COLOURS[index], label=label)
            else:
                axes.scatter(*rows.T, s=8, alpha=0.45, linewidths=0.0, color=COLOURS[index], label=label)
        axes.set_title(name, fontsize=10)
        axes.legend(fontsize=9, framealpha=0.85)
    return figure
