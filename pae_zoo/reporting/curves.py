"""The history of a training as drawings of lines: a panel for each quantity, training and validation in it."""

import math
from collections.abc import Sequence
from typing import Any

from pae_zoo.reporting.html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 260, 62, 12, 28, 34
#: most panels, and the share of early epochs whose values do not choose the scale of a long history
MOST, EARLY = 8, 0.05
Pairs = list[tuple[int, float]]


def panels(history: Sequence[dict[str, Any]]) -> str:
    """Returns the quantities of metrics.jsonl, the loss first, as drawings; '' for a history without any."""
    found: dict[str, dict[str, Pairs]] = {}
    for line in history:
        for key, value in line.items():
            part, _, name = key.partition("/")
            if part in ("train", "valid") and isinstance(value, (int, float)) and math.isfinite(value):
                found.setdefault(name, {}).setdefault(part, []).append((line["epoch"], float(value)))
    names = sorted(found, key=lambda name: name != "loss")[:MOST]
    return f'<div class="charts">{"".join(_panel(name, found[name]) for name in names)}</div>\n' if names else ""


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Returns round numbers from low to high, about `most` of them.

    Examples:
      >>> ticks(0.0, 10.0)
      [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    raw = (high - low) / most or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _panel(name: str, parts: dict[str, Pairs]) -> str:
    epochs = sorted({epoch for pairs in parts.values() for epoch, _ in pairs})
    skipped = epochs[int(EARLY * len(epochs))] if len(epochs) > 20 else epochs[0]
    shown = [value for pairs in parts.values() for epoch, value in pairs if epoch >= skipped]
    low, high = min(shown), max(shown)
    room = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    low, high = low - room, high + room

    def across(epoch: float) -> float:
        return LEFT + (epoch - epochs[0]) / max(epochs[-1] - epochs[0], 1) * (WIDTH - RIGHT - LEFT)

    def up(value: float) -> float:
        # The first epochs of a long history may lie far above: they leave the frame.
        return HEIGHT - BOTTOM - (min(max(value, low), high) - low) / (high - low) * (HEIGHT - BOTTOM - TOP)

    lines = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_described(name, parts))}">']
    for value in ticks(low, high):
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}"/>'
                     f'<text x="{LEFT - 6}" y="{up(value):.1f}" dy="4" text-anchor="end">{value:.4g}</text>')
    for epoch in {round(one) for one in ticks(epochs[0], epochs[-1])}:
        if epochs[0] <= epoch <= epochs[-1]:
            lines.append(f'<text x="{across(epoch):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{epoch}'
                         "</text>")
    lines.append(f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{WIDTH - RIGHT - LEFT}" '
                 f'height="{HEIGHT - BOTTOM - TOP}"/>')
    for number, (part, pairs) in enumerate(sorted(parts.items())):
        if len(pairs) == 1:
            lines.append(f'<circle class="{part}" r="4" cx="{across(pairs[0][0]):.1f}" cy="{up(pairs[0][1]):.1f}"/>')
        else:
            points = " ".join(f"{across(epoch):.1f},{up(value):.1f}" for epoch, value in pairs)
            lines.append(f'<polyline class="{part}" points="{points}"/>')
        word = {"train": "training", "valid": "validation"}[part]
        lines.append(f'<text class="{part}" x="{WIDTH - RIGHT - 76 * (len(parts) - 1 - number)}" y="18" '
                     f'text-anchor="end">{word}</text>')
    lines.append(f'<text x="{LEFT}" y="18">{escape(name)}</text>')
    lines.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">epoch</text></svg>')
    return f"<figure>{''.join(lines)}</figure>"


def _described(name: str, parts: dict[str, Pairs]) -> str:
    """Returns a panel in words, for who does not see it."""
    ends = [f"{part} from {pairs[0][1]:.4g} to {pairs[-1][1]:.4g}" for part, pairs in sorted(parts.items())]
    return f"{name} by epoch: {', '.join(ends)}"

