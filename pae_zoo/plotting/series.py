"""Pictures of windows (T, C) of a series: lines over time, never pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pae_zoo.plotting.figures import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: most panels, and most channels in each
SHOWN, CHANNELS = 12, 6
_STYLES = ("-", "--", ":")


def panels(groups: Mapping[str, np.ndarray], title: str, names: Sequence[str] = ()) -> Figure:
    """Draws windows (n, T, C), a panel each, a colour for each of the first channels and a line style for each group.

    `names` are those of the channels.
    """
    first = next(iter(groups.values()))
    count, (steps, channels) = min(len(first), SHOWN), first.shape[1:]
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = new_figure(2.6 * columns + 0.6, 1.7 * rows + 1.0)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for place, one in enumerate(axes.flat):
        if place >= count:
            one.set_visible(False)
            continue
        for style, windows in zip(_STYLES, groups.values()):
            for channel in range(min(channels, CHANNELS)):
                one.plot(np.arange(steps), windows[place, :, channel], style, color=COLOURS[channel], linewidth=1.1,
                         marker="." if steps == 1 else None)  # fmt: skip
        one.tick_params(labelsize=7)
    for one in axes[-1]:
        one.set_xlabel("step", fontsize=8)
    figure.suptitle(title, fontsize=11)
    _legend(figure, list(groups), min(channels, CHANNELS), names)
    return figure


def _legend(figure: Figure, groups: Sequence[str], channels: int, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=COLOURS[channel], label=names[channel] if names else f"channel {channel}")
             for channel in range(channels)]  # fmt: skip
    if len(groups) > 1:
        lines += [Line2D([], [], color="0.3", linestyle=style, label=name) for style, name in zip(_STYLES, groups)]
    figure.legend(handles=lines, loc="outside lower center", ncols=min(len(lines), 5), fontsize=8, frameon=False)
