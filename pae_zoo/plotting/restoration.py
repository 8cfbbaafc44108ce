"""Pictures of restorations from arrays: joint densities of two latents, where the search ended, chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import numpy as np

from pae_zoo.plotting.figures import COLOURS, new_figure, to_rgb
from pae_zoo.plotting.uncertainty import MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POSTERIOR, PRIOR, MODE = COLOURS[0], "0.45", COLOURS[1]
# Nats that an axis of log densities spans at least.
LEAST_RANGE = 2.0
# Autocorrelations are shown to this lag; modes and latents so many.
MOST_LAG, MOST_MODES, MOST_LATENTS = 50, 4, 16


class Posterior(NamedTuple):
    """What is known of a datum: draws (S, K) and modes (M, K) of u, their weights (M,) and stds (M, K), -log joints.

    `losses` are -log p(u, y_seen) of all runs, rising; `picture` is what is seen, (H, W, 3), None for no image.
    """

    draws: np.ndarray
    modes: np.ndarray
    weights: np.ndarray
    stds: np.ndarray
    losses: np.ndarray
    picture: Optional[np.ndarray] = None
    name: str = ""

    @property
    def some(self) -> np.ndarray:
        """The numbers of the modes with the largest weights, at least a thousandth, at most four."""
        order = np.argsort(-self.weights, kind="stable")[:MOST_MODES]
        return order[self.weights[order] >= 1e-3]

    @property
    def widest(self) -> tuple[int, int]:
        """The two latents whose draws have the largest variances, in rising order of their numbers."""
        first, second = sorted(np.argsort(-self.draws.var(axis=0), kind="stable")[:2])
        return int(first), int(second)


def joints(posteriors: Sequence[Posterior], prior: np.ndarray, title: str) -> Figure:
    """Draws, for each datum, the joint density of its two widest latents with marginals, the prior and the modes.

    prior: draws (m, K) of the prior, whose central 39 and 86 % of a Gaussian of their moments are dashed.
    """
    columns = min(len(posteriors), 4)
    rows = -(-len(posteriors) // columns)
    figure = new_figure(3.6 * columns, 3.7 * rows + 0.7)
    figure.suptitle(title, fontsize=11)
    for index, (part, one) in enumerate(zip(figure.subfigures(rows, columns, squeeze=False).ravel(), posteriors)):
        _joint(part, one, prior, index == 0)
    handles: dict[str, Any] = {}
    for part in figure.subfigs:
        for axes in part.axes:
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels())))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _joint(figure: Any, one: Posterior, prior: np.ndarray, named: bool) -> None:
    first, second = one.widest
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 1), height_ratios=(1, 3))
    axes, top, right = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 1])
    draws = one.draws[:, [first, second]]
    places = [_range(np.concatenate([draws[:, k], prior[:, j]])) for k, j in ((0, first), (1, second))]
    axes.scatter(*draws.T, s=5, color=POSTERIOR, alpha=0.35, linewidths=0.0)
    density = _density(draws)
    if density is not None:
        mesh = np.stack(np.meshgrid(*places), axis=0)
        values = density(mesh.reshape(2, -1)).reshape(mesh.shape[1:])
        # The levels that hold 90, 50 and 10 % of the draws.
        levels = np.unique(np.quantile(density(draws.T), (0.1, 0.5, 0.9)))
        if levels[-1] > 0:
            axes.contour(*places, values, levels=levels, colors=POSTERIOR, linewidths=1.2)
    centre, covariance = prior[:, [first, second]].mean(axis=0), np.cov(prior[:, [first, second]].T)
    circle = np.linspace(0, 2 * np.pi, 90)
    ring = np.stack([np.cos(circle), np.sin(circle)], axis=1) @ np.linalg.cholesky(covariance).T
    for radius in (1.0, 2.0):
        axes.plot(*(centre + radius * ring).T, color=PRIOR, linestyle="--", linewidth=1.0)
    for side, latent, place, flip in ((top, first, places[0], False), (right, second, places[1], True)):
        for values, style in ((prior[:, latent], dict(color=PRIOR, linestyle="--")),
                              (one.draws[:, latent], dict(color=POSTERIOR))):  # fmt: skip
            marginal = _density(values[:, None])
            if marginal is not None:
                found = marginal(place)
                side.plot(*((found, place) if flip else (place, found)), linewidth=1.5, **style)
        for number in one.some:
            (side.axhline if flip else side.axvline)(one.modes[number, latent], color=MODE, linewidth=0.8)
        side.set_xticks([])
        side.set_yticks([])
        side.spines[["top", "right", "left"] if not flip else ["top", "right", "bottom"]].set_visible(False)
    some = one.some
    axes.scatter(*one.modes[some][:, [first, second]].T, marker="*", color=MODE, edgecolors="black", linewidths=0.6,
                 s=60 + 160 * one.weights[some], zorder=5)  # fmt: skip
    axes.plot([], [], color=POSTERIOR, label="posterior: draws, 10, 50, 90 % of them" if named else None)
    axes.plot([], [], color=PRIOR, linestyle="--", label="prior: one, two std" if named else None)
    axes.plot([], [], color=MODE, marker="*", linestyle="", markersize=11, markeredgecolor="black",
              label="modes, by weight" if named else None)  # fmt: skip
    axes.set(xlim=(places[0][0], places[0][-1]), ylim=(places[1][0], places[1][-1]))
    top.set_xlim(axes.get_xlim())
    right.set_ylim(axes.get_ylim())
    axes.set_xlabel(f"u[{first}]", fontsize=9)
    axes.set_ylabel(f"u[{second}]", fontsize=9)
    axes.tick_params(labelsize=8)
    if one.picture is not None:
        corner = figure.add_subplot(grid[0, 1])
        corner.imshow(to_rgb(one.picture), interpolation="nearest")
        corner.set_axis_off()
    if one.name:
        top.set_title(one.name, fontsize=9, loc="left")


def _range(values: np.ndarray) -> np.ndarray:
    low, high = np.quantile(values, (0.001, 0.999))
    margin = 0.1 * max(high - low, 1e-6)
    return np.linspace(low - margin, high + margin, 80)


def _density(values: np.ndarray) -> Any:
    """Returns the kernel density of values (n, d), or None where they do not vary."""
    from scipy.stats import gaussian_kde

    try:
        return gaussian_kde(values.T)
    except (np.linalg.LinAlgError, ValueError):
        return None


def ends(posteriors: Sequence[Posterior], title: str) -> Figure:
    """Draws, a row a datum, where all runs of the search ended, the best first, and the latents at each mode."""
    figure = new_figure(10.5, 2.2 * len(posteriors) + 0.8)
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(posteriors), 2, squeeze=False, width_ratios=(1, 2.2))
    for row, (left, right) in enumerate(grid):
        one = posteriors[row]
        left.plot(np.arange(1, len(one.losses) + 1), one.losses, color="0.6", linewidth=1.0, zorder=1)
        left.scatter(np.arange(1, len(one.losses) + 1), one.losses, color="0.6", s=14, zorder=2)
        latents = np.argsort(-one.draws.var(axis=0), kind="stable")[:MOST_LATENTS]
        for place, number in enumerate(one.some):
            style: dict[str, Any] = dict(color=COLOURS[place], marker=MARKERS[place])
            left.scatter(number + 1, one.losses[number], s=46, zorder=3, **style)
            x = np.arange(len(latents)) + 0.16 * (place - (len(one.some) - 1) / 2)
            style |= dict(linestyle="", capsize=2, elinewidth=1.2, markersize=4.5)
            label = f"weight {one.weights[number]:.2f}"
            right.errorbar(x, one.modes[number, latents], yerr=one.stds[number, latents], label=label, **style)
        left.set_ylabel(f"{one.name}\n-log p(u, y seen)" if one.name else "-log p(u, y seen)", fontsize=8)
        right.set_ylabel("u at the mode, one std", fontsize=8)
        right.set_xticks(np.arange(len(latents)), [f"{latent}" for latent in latents], fontsize=8)
        right.axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
        right.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        # Differences far below a nat are those of one maximum.
        low, high = left.get_ylim()
        left.set_ylim(low, max(high, low + LEAST_RANGE))
        left.ticklabel_format(axis="y", useOffset=False)
        for axes in (left, right):
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
    grid[-1, 0].set_xlabel("run, the best first; marked: distinct modes", fontsize=9)
    grid[-1, 1].set_xlabel("latent, the least certain first", fontsize=9)
    return figure


def chains(draws: Sequence[np.ndarray], names: Sequence[str], title: str) -> Figure:
    """Draws traces and autocorrelations of the widest latent of chains (T, C, K), a row a datum."""
    figure = new_figure(10.5, 2.0 * len(draws) + 0.8)
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(draws), 2, squeeze=False, width_ratios=(2.2, 1))
    for (left, right), one, name in zip(grid, draws, names):
        latent = int(np.argmax(one.reshape(-1, one.shape[-1]).var(axis=0)))
        found = autocorrelation(one[..., latent])
        for chain in range(one.shape[1]):
            left.plot(one[:, chain, latent], color=COLOURS[chain % 7], linewidth=0.8, alpha=0.8)
            right.plot(found[:, chain], color=COLOURS[chain % 7], linewidth=1.0)
        right.axhline(0.0, color="0.45", linewidth=1.0)
        right.set_ylim(-0.4, 1.05)
        left.set_ylabel(f"{name}\nu[{latent}]" if name else f"u[{latent}]", fontsize=8)
        for axes in (left, right):
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
    grid[0, 0].set_title("trace, a colour a chain", fontsize=9)
    grid[0, 1].set_title("autocorrelation", fontsize=9)
    grid[-1, 0].set_xlabel("draw of the chain", fontsize=9)
    grid[-1, 1].set_xlabel("lag", fontsize=9)
    return figure


def autocorrelation(values: np.ndarray) -> np.ndarray:
    """Returns the autocorrelations (lags, C) of series (T, C), each about its own mean, from lag 0 on.

    Examples:
      >>> autocorrelation(np.array([[1.0], [-1.0], [1.0], [-1.0]])).round(2).ravel().tolist()
      [1.0, -0.75, 0.5]
    """
    away = values - values.mean(axis=0)
    total = np.maximum(np.square(away).sum(axis=0), 1e-300)
    lags = min(MOST_LAG, len(values) - 2) + 1
    return np.stack([(away[: len(away) - lag] * away[lag:]).sum(axis=0) / total for lag in range(lags)])
