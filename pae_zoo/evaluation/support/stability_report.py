"""Distances of many runs side by side: which columns there are, what is left out, tables and pictures."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pae_zoo.core import files
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.metrics import agreement as statistics
from pae_zoo.evaluation.support import stability_tables as tables
from pae_zoo.evaluation.support.stability_tables import PUBLISHED, STRAIGHT
from pae_zoo.plotting import figures as plotting
from pae_zoo.plotting import geometry
from pae_zoo.plotting.geometry import VARIATION_AXIS, Histogram

FOLDER = "distance_stability"
# The --rbf_recipe of rbf_vae whose field is the paper's.
RELEASED = "released"
# Fewer pairs leave nothing to test.
LEAST_PAIRS = 3
HEADINGS = {"cv": "CV", "cv_stderr": "+-", "cv_scale_free": "scale-free", "spread": "B", "cv_over_spread": "CV/B",
            "icc": "ICC", "spearman": "Spearman"}  # fmt: skip


class Measured(NamedTuple):
    """The distances of one run: its folder, what they depend on, and rows of `stability_tables`."""

    workdir: Path
    snapshot: dict[str, Any]
    rows: list[dict[str, str]]


class Column(NamedTuple):
    """A kind of distance of a group of models.

    values: (M, P). usable: (M, P), whether they are finite and, for geodesics, converged. finite: (M, P). geodesic:
    whether it is the length of a curve that was searched for.
    """

    name: str
    values: np.ndarray
    usable: np.ndarray
    finite: np.ndarray
    geodesic: bool


def compare(
    workdirs: Sequence[Any], folder: str = "", keep: bool = False, figure_format: str = "png"
) -> Iterator[str]:
    """Compares the distances in work directories, saves tables and pictures, and yields lines to print.

    Args:
      workdirs: of runs whose distances the task distance_stability has written.
      folder: where the findings go; '': `distance_stability` in the folder that all of them lie in.
      keep: whether pairs stay whose geodesics did not converge.
      figure_format: of the pictures, png, pdf or svg.

    Raises UserError for runs whose distances do not compare, and where too few pairs are left.
    """
    if folder and Path(folder).exists() and not Path(folder).is_dir():
        raise UserError(f"--stability_dir={folder} is a file; name a folder.")
    runs, lines = _read(workdirs)
    yield from lines
    groups, lines = group(runs)
    yield from lines
    if not groups:
        yield (f"{FOLDER}: nothing to compare: it takes at least 2 retrained models of one kind. Give them by "
               "--workdirs, such as --workdirs='runs/ens_*'.")  # fmt: skip
        return
    _check_comparable([run for members in groups.values() for run in members])
    yield from _differences(groups)
    columns = [column for name, members in groups.items() for column in columns_of(name, members)]
    yield from _report(groups, columns, _folder(runs, folder), keep, figure_format)


def _read(workdirs: Sequence[Any]) -> tuple[list[Measured], list[str]]:
    """Returns the runs with distances, each once, and lines on those without."""
    found, lines = [], []
    for workdir in dict.fromkeys(Path(path).resolve() for path in workdirs):
        snapshot, rows = tables.read_snapshot(workdir), tables.read_rows(workdir)
        asked = 0 if snapshot is None else snapshot["shared"]["num_pairs"] * len(snapshot["own"]["paths"])
        if snapshot is None or not rows or len(rows) < asked:
            what = f"{len(rows)} of {asked} distances" if rows else "no distances"
            lines.append(f"{FOLDER}: {workdir.name} has {what} and is left out.")
        else:
            found.append(Measured(workdir, snapshot, rows))
    return found, lines


def group(runs: Sequence[Measured]) -> tuple[dict[str, list[Measured]], list[str]]:
    """Returns {name: runs of one model with one set of hyper-parameters}, and lines on what was left out.

    Where one model comes with several hyper-parameters, its names say in which they differ. A run with the weights of
    another one is no repetition; a group of one has nothing to vary.
    """
    groups: dict[str, list[Measured]] = {}
    seen: dict[tuple, Measured] = {}
    lines = []
    for run in runs:
        key = json.dumps([run.snapshot["model"], run.snapshot["group"]], sort_keys=True)
        weights = run.snapshot["own"]["weights"]
        if weights and (key, weights) in seen:
            like = seen[key, weights].workdir.name
            lines.append(f"{FOLDER}: {run.workdir.name} has the same weights as {like} and is left out.")
            continue
        seen[key, weights] = run
        groups.setdefault(key, []).append(run)
    firsts = [(members[0].snapshot["model"], members[0].snapshot["group"]) for members in groups.values()]
    named = dict(zip(hp.group_names(firsts), groups.values()))
    for name, members in named.items():
        if len(members) < 2:
            only = members[0].workdir.name
            lines.append(f"{FOLDER}: {name} has one run, {only}, and is left out: it takes at least 2.")
    return {name: members for name, members in named.items() if len(members) > 1}, lines


def _check_comparable(runs: Sequence[Measured]) -> None:
    """Raises UserError unless all runs measured the same pairs of the same data in the same way."""
    first = runs[0].snapshot["shared"]
    for run in runs[1:]:
        other = run.snapshot["shared"]
        for key in first:
            if other.get(key) != first[key]:
                what = "their test data differ" if key == "data" else f"{key} is {first[key]} and {other.get(key)}"
                raise UserError(f"{runs[0].workdir} and {run.workdir} do not compare: {what}. Give "
                                "python -m pae_zoo.evaluate runs on one data set, and the flag with all of them.")
    paths, members = ({run.snapshot["model"]: run.snapshot["own"][key] for run in runs} for key in ("paths", "members"))
    for run in runs:
        if run.snapshot["own"]["paths"] != paths[run.snapshot["model"]]:
            raise UserError(f"{run.workdir} has distances along other paths than other runs of "
                            f"{run.snapshot['model']}. Give all of them the same --geodesic_energy.")
        if run.snapshot["own"]["members"] != members[run.snapshot["model"]]:
            own, other = run.snapshot["own"]["members"], members[run.snapshot["model"]]
            raise UserError(f"{run.workdir} has distances of {own} drawn decoders, other runs of "
                            f"{run.snapshot['model']} of {other}. Give all of them the same --geodesic_members.")


def _differences(groups: dict[str, list[Measured]]) -> Iterator[str]:
    """Yields a line for each of the hyper-parameters that make distances of two groups differ by themselves."""
    for key in ("latent_dim", "num_train"):
        found = {name: members[0].snapshot["group"].get(key) for name, members in groups.items()}
        if len(set(found.values())) > 1:
            told = ", ".join(f"{value} of {name}" for name, value in found.items())
            yield f"  {key} is not the same for all: {told}."


def columns_of(name: str, runs: Sequence[Measured]) -> list[Column]:
    """Returns the distances of one group: along each path, and between the codes."""
    def matrix(path, key):
        return np.stack([tables.column(run.rows, path, key) for run in runs])

    found = []
    for path in runs[0].snapshot["own"]["paths"]:
        length = {PUBLISHED: "published", "mean": "mean"}.get(path, "rms")
        called = {PUBLISHED: _published(runs[0].snapshot["group"]), STRAIGHT: "straight line", "mean": "mean decoder"}
        words = called.get(path, path)
        values = matrix(path, length)
        finite = (matrix(path, "finite") > 0) & np.isfinite(values)
        usable = finite & (matrix(path, "converged") > 0)
        found.append(Column(f"{name}: {words}", values, usable, finite, path != STRAIGHT))
    latent = matrix(STRAIGHT, "latent")
    finite = np.isfinite(latent)
    return found + [Column(f"{name}: Euclidean", latent, finite, finite, False)]


def _published(group: dict[str, Any]) -> str:
    """Returns what the published distance of a group is called: that of the paper, or that of its field alone."""
    recipe = group.get("rbf_recipe", RELEASED)
    return "as published" if recipe == RELEASED else "root precision"


def reference(columns: Sequence[Column]) -> Column:
    """Returns the column that ranks of pairs are compared with: the first length under an expected metric."""
    order = (": coupled", ": decorrelated", ": mean decoder")
    return next(column for ending in order for column in columns if column.name.endswith(ending))


# ---- what is found -----------------------------------------------------------------------------------------


def _report(groups, columns: list[Column], folder: Path, keep: bool, figure_format: str) -> Iterator[str]:
    flags = {column.name: column.finite if keep else column.usable for column in columns}
    kept = statistics.listwise(flags)
    total = len(kept)
    models = ", ".join(f"{len(members)} of {name}" for name, members in groups.items())
    yield f"{FOLDER}: {total} pairs, runs: {models}"
    for column in columns:
        broken, open_ended = (~column.finite).any(axis=0).sum(), (column.finite & ~column.usable).any(axis=0).sum()
        if broken or open_ended:
            yield f"  {column.name}: in some run {open_ended} pairs did not converge, {broken} are not finite."
    apart = np.all([column.values.mean(axis=0) != 0 for column in columns], axis=0)
    if not apart[kept].all():
        yield f"  {(kept & ~apart).sum()} pairs have distance 0: two data that are the same tell nothing."
        kept &= apart
    if kept.sum() < LEAST_PAIRS:
        raise UserError(f"{FOLDER}: only {kept.sum()} of {total} pairs have a distance in every column and run. Raise "
                        "--geodesic_steps, or keep what did not converge by --stability_unconverged=keep.")
    if not kept.all():
        yield f"  {total - kept.sum()} of {total} pairs are left out of all columns; {kept.sum()} are compared."
    if 2 * kept.sum() < total:
        yield ("  Fewer than half are left. Raise --geodesic_steps, or see --stability_unconverged=keep, which takes "
               "lengths as they are.")  # fmt: skip
    compared = {column.name: column.values[:, kept] for column in columns}
    against = reference(columns)
    figures = {name: statistics.describe(values, compared[against.name]) for name, values in compared.items()}
    tests = _tests(columns, compared)
    _save(folder, groups, columns, kept, keep, figures, tests, against.name)
    yield from _table(figures, against.name)
    yield from _test_lines(tests)
    for name, energies in energies_of(groups).items():
        yield f"  energy, {name}: mean CV {_number(float(statistics.variation(energies[:, kept]).mean()))}"
    for picture in _pictures(folder, groups, compared, figures, figure_format):
        yield f"  picture: {picture}"
    yield f"  tables: {folder}"


def _tests(columns: Sequence[Column], compared: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns the paired tests of "the CV of this geodesic distance is less than that of another one", for all two."""
    found = []
    variations = {name: [statistics.variation(values), statistics.variation(statistics.scale_free(values))]
                  for name, values in compared.items()}  # fmt: skip
    for first in columns:
        for second in columns:
            if first.geodesic and first.name != second.name:
                row = {"first": first.name, "second": second.name}
                for ending, one, other in zip(("", "_scale_free"), variations[first.name], variations[second.name]):
                    test = statistics.paired_test(one, other)._asdict()
                    row |= {f"{key}{ending}": value for key, value in test.items()}
                found.append(row)
    return found


def _table(figures: dict[str, dict[str, float]], against: str) -> Iterator[str]:
    width = max(len(name) for name in figures)
    yield f"  {'distance':{width}}" + "".join(f"{heading:>11}" for heading in HEADINGS.values())
    for name, values in figures.items():
        yield f"  {name:{width}}" + "".join(f"{_number(values[key]):>11}" for key in HEADINGS)
    yield "  CV: coefficient of variation over models, mean over pairs; +-: its jackknife error over models."
    yield "  scale-free: the same of distances in units of each model's mean. B: spread between pairs."
    yield "  A distance that is the same for all pairs has CV 0 and B 0: read CV/B (low) and ICC (high) beside CV."
    yield f"  Spearman: rank correlation of pairs with {against}."


def _test_lines(tests: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields each test of two groups once, and those against the group's own codes; the files have all."""
    shown, seen = [], set()
    for row in tests:
        first, second = row["first"], row["second"]
        own = first.rsplit(": ", 1)[0] == second.rsplit(": ", 1)[0]
        if (second, first) not in seen and (not own or second.endswith(": Euclidean")):
            seen.add((first, second))
            shown.append((f"{first} < {second}", row))
    width = max(len(name) for name, _ in shown)
    yield f"  {'one-sided paired t-test':{width}}{'t':>9}{'p':>10}{'df':>5}  lower in    scale-free: t{'p':>10}"
    for name, row in shown:
        free = f"{_number(row['t_scale_free']):>14}{_p(row['p_scale_free']):>10}"
        lower = f"{row['lower']:>5} of {row['pairs']:<3}"
        yield f"  {name:{width}}{_number(row['t']):>9}{_p(row['p']):>10}{row['df']:>5}{lower}{free}"
    yield "  Pairs share their models, so that these p are smaller than those of independent pairs would be."


def _number(value: float) -> str:
    return "-" if not np.isfinite(value) else f"{value:.3f}"


def _p(value: float) -> str:
    return "-" if not np.isfinite(value) else (f"{value:.3f}" if value >= 1e-3 else f"{value:.1e}")


def _folder(runs: Sequence[Measured], asked: str) -> Path:
    """Returns the folder for what is found: the one asked for, or one in the folder that all runs lie in."""
    return Path(asked) if asked else Path(os.path.commonpath([run.workdir.parent for run in runs])) / FOLDER


def _save(folder: Path, groups, columns, kept, keep, figures, tests, against: str) -> None:
    """Writes columns.csv, tests.csv, pairs.csv and summary.json, each whole or not at all."""
    keys = list(next(iter(figures.values())))
    tables.write(folder / "columns.csv", ("distance", *keys), [{"distance": name, **f} for name, f in figures.items()])
    tables.write(folder / "tests.csv", tuple(tests[0]), tests)
    first = next(iter(groups.values()))[0]
    ends = {row["pair"]: row for row in first.rows}
    rows = []
    for number, compared in enumerate(kept):
        row = {key: ends[str(number)][key] for key in ("pair", "index_a", "index_b", "label_a", "label_b")}
        row["compared"] = int(compared)
        for column in columns:
            row[f"{column.name}: mean"] = column.values[:, number].mean()
            row[f"{column.name}: CV"] = statistics.variation(column.values[:, [number]])[0]
        rows.append(row)
    tables.write(folder / "pairs.csv", tuple(rows[0]), rows)
    _save_models(folder, groups, columns, rows)
    summary = {
        "pairs": len(kept), "compared": int(kept.sum()), "unconverged": "keep" if keep else "exclude",
        "not_converged": {c.name: int((c.finite & ~c.usable).any(axis=0).sum()) for c in columns},
        "not_finite": {c.name: int((~c.finite).any(axis=0).sum()) for c in columns},
        "runs": {name: [str(run.workdir.name) for run in members] for name, members in groups.items()},
        "settings": first.snapshot["shared"], "reference": against, "columns": figures, "tests": tests,
    }  # fmt: skip
    with files.file(folder / "summary.json") as path:
        path.write_text(json.dumps(files.plain(summary), indent=1) + "\n", encoding="utf-8")


def energies_of(groups: dict[str, list[Measured]]) -> dict[str, np.ndarray]:
    """Returns {group: path: energies (M, P)} of the geodesics of every group."""
    found = {}
    for name, runs in groups.items():
        for path in runs[0].snapshot["own"]["paths"]:
            if path != STRAIGHT:
                found[f"{name}: {path}"] = np.stack([tables.column(run.rows, path, "energy") for run in runs])
    return found


def _save_models(folder: Path, groups, columns: Sequence[Column], pairs: list[dict[str, Any]]) -> None:
    """Writes models.csv and energies.csv: a row a pair, a column a distance, or an energy with its CV, and run."""
    plain = [run.workdir.name for runs in groups.values() for run in runs]
    # Runs of one name in several folders are told apart by their places.
    names = {name: [run.workdir.name if len(set(plain)) == len(plain) else str(run.workdir) for run in runs]
             for name, runs in groups.items()}  # fmt: skip
    ends = [{key: row[key] for key in ("pair", "index_a", "index_b", "label_a", "label_b")} for row in pairs]
    distances, energies = [dict(row) for row in ends], [dict(row) for row in ends]
    for row, kept, number in zip(distances, energies, range(len(ends))):
        for column in columns:
            runs = names[column.name.rpartition(": ")[0]]
            row.update({f"{column.name} @ {run}": value for run, value in zip(runs, column.values[:, number])})
        for name, values in energies_of(groups).items():
            runs = names[name.rpartition(": ")[0]]
            kept.update({f"{name} @ {run}": value for run, value in zip(runs, values[:, number])})
            kept[f"{name}: CV"] = statistics.variation(values[:, [number]])[0]
    for file, rows in (("models.csv", distances), ("energies.csv", energies)):
        tables.write(folder / file, tuple(rows[0]), rows)


def _pictures(folder: Path, groups, compared: dict[str, np.ndarray], figures, kind: str) -> Iterator[Path]:
    count = next(iter(compared.values())).shape[1]
    models = ", ".join(f"{len(members)} {name}" for name, members in groups.items())
    title = f"distances of {count} pairs over retrained models ({models})"
    places = np.linspace(*VARIATION_AXIS, 601)
    histograms = {}
    for name, values in compared.items():
        variation = statistics.variation(values)
        histograms[name] = Histogram(variation, statistics.density(variation, places))
    drawn = {
        "variation": geometry.variations(histograms, places, title),
        "discrimination": geometry.discrimination(figures, title),
    }
    for name, figure in drawn.items():
        target = folder / f"{name}.{kind}"
        with files.file(target) as path:
            figure.savefig(path, format=kind, dpi=plotting.DPI)
        yield target
