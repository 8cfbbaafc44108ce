"""The tables of a sweep: a row per point of the grid, and a row per run."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pae_zoo.experiment.sweep_plans import Plan
from pae_zoo.experiment.workdir import Run


def metrics_of(plan: Plan, chosen: Sequence[str]) -> dict[str, float]:
    """Returns the run's numbers: those chosen, or all test/*."""
    found = Run(plan.workdir).read_metrics()
    names = chosen or [name for name in found if name.startswith("test/")]
    return {
        n: found[n]
        for n in names
        if isinstance(found.get(n), (int, float)) and not isinstance(found[n], bool)
    }


def summarise(
    plans: Sequence[Plan], values: dict[Path, dict[str, float]]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns (metrics, a row per point): runs, and mean and standard deviation (n - 1) of each metric."""
    metrics = list(dict.fromkeys(name for found in values.values() for name in found))
    rows = []
    for point in _points(plans):
        runs = [values[p.workdir] for p in plans if p.point == point and p.workdir in values]
        row: dict[str, Any] = {**dict(point), "runs": len(runs)}
        for name in metrics:
            numbers = [found[name] for found in runs if name in found]
            row[f"{name}/mean"] = statistics.fmean(numbers) if numbers else None
            row[f"{name}/std"] = statistics.stdev(numbers) if len(numbers) > 1 else None
        rows.append(row)
    return metrics, rows


def markdown(metrics: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Returns the summary as a table; a standard deviation needs two runs."""
    keys = [key for key in rows[0] if not key.endswith(("/mean", "/std"))]

    def cell(row, name):
        mean, std = row[f"{name}/mean"], row[f"{name}/std"]
        return "-" if mean is None else f"{mean:.6g}" if std is None else f"{mean:.6g} ± {std:.2g}"

    lines = [[*keys, *metrics], ["---"] * (len(keys) + len(metrics))]
    lines += [[*(str(row[key]) for key in keys), *(cell(row, name) for name in metrics)] for row in rows]
    return table_text(lines)


def table_text(lines: Sequence[Sequence[str]]) -> str:
    """Returns lines of cells as the rows of a table of markdown."""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_tables(out: Path, plans: Sequence[Plan], values: dict[Path, dict[str, float]]) -> str:
    """Writes table.md, table.csv and runs.csv; returns the text of table.md."""
    metrics, rows = summarise(plans, values)
    text = markdown(metrics, rows)
    runs = [
        {**dict(p.point), "seed": p.seed, "workdir": str(p.workdir), **values[p.workdir]}
        for p in plans
        if p.workdir in values
    ]
    keys = [*(k for k, _ in plans[0].point), "seed", "workdir", *metrics]
    folder = Run(out)
    folder.write_text("table.md", text)
    folder.write_text("table.csv", csv_text(list(rows[0]), rows))
    folder.write_text("runs.csv", csv_text(keys, runs))
    return text


def _points(plans: Sequence[Plan]) -> list[Any]:
    return list(dict.fromkeys(plan.point for plan in plans))


def values_of(name: str, plans: Sequence[Plan], values: dict[Path, dict[str, float]]) -> dict[str, list[float]]:
    """Returns {point in words: a metric of each of its runs}, nan where a run lacks it."""
    return {" ".join(f"{key}={value}" for key, value in point) or "all": [
        values[p.workdir].get(name, math.nan) for p in plans if p.point == point and p.workdir in values]
        for point in _points(plans)}  # fmt: skip


def csv_text(keys: list[str], rows: Sequence[dict[str, Any]]) -> str:
    """Returns rows as CSV with a header line of their keys."""
    file = io.StringIO()
    writer = csv.DictWriter(file, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
