"""Figures of many runs side by side: a board for each data set, a table for each task, a row for each model.

Runs that agree in all but the seed are one row, with mean and sample standard deviation over the seeds.
"""

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from pae_zoo import evaluation, models
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import console
from pae_zoo.experiment.workdir import Run
from pae_zoo.reporting import merits
from pae_zoo.reporting.merits import BASELINE, MODEL, Figure

NOT_RUN, NOT_SUPPORTED, NOT_FINITE, BLANK = "not run", "not supported", "not finite", ""
#: flags under the heading of data that change how they are trained on, not which they are
OF_TRAINING = ("preprocess", "logit_margin", "augment", "rotate_degrees", "bad_files")
#: words of --preprocess that change the data themselves
OF_DATA = ("binarise_static",)


class Finished(NamedTuple):
    """One finished run: its folder, hyper-parameters and metrics.json."""

    run: Run
    hparams: Any
    metrics: dict[str, Any]


@dataclasses.dataclass
class Group:
    """Runs of one model with one set of hyper-parameters, a seed each."""

    name: str
    model: str
    runs: list[Finished]

    @property
    def num_seeds(self) -> int:
        return len({one.hparams.seed for one in self.runs})


class Cell(NamedTuple):
    """One figure of a group: mean and sample standard deviation over its seeds, or in `status` why there is none.

    values: {seed: value}. key: that of metrics.json. beaten_by: {baseline: its mean} of those that are better.
    """

    mean: Optional[float] = None
    std: Optional[float] = None
    values: dict[int, float] = {}
    key: str = ""
    status: str = BLANK
    best: bool = False
    beaten_by: dict[str, float] = {}

    @property
    def text(self) -> str:
        """The figure as text, mean ± standard deviation where there are two seeds or more."""
        if self.mean is None:
            return self.status
        mean = f"{self.mean:,.0f}" if abs(self.mean) >= 1e5 else console.number(self.mean)
        return mean if self.std is None else f"{mean} ± {self.std:.2g}"


@dataclasses.dataclass
class Row:
    """A row of a table: a group, and of its variants one; `cells` are in the order of the columns."""

    group: Group
    variant: str
    role: str
    cells: list[Cell]


@dataclasses.dataclass
class Table:
    """All figures of one task; `notes` say what stands against a comparison, and what a simple method does better."""

    task: str
    columns: list[Figure]
    rows: list[Row]
    notes: list[str]


@dataclasses.dataclass
class Board:
    """The tables of the runs on one data set, or `is_summary`: over several."""

    data: str
    groups: list[Group]
    tables: list[Table]
    is_summary: bool = False


def read(workdirs: Sequence[str]) -> tuple[list[Finished], list[str]]:
    """Returns the finished runs of the folders, each once, and a line on each that is left out.

    Raises UserError for a damaged file, and where no run is finished.
    """
    found, lines = [], []
    for path in dict.fromkeys(Path(workdir).resolve() for workdir in workdirs):
        run = Run(path)
        hparams, metrics = run.read_hparams(), run.read_metrics()
        if run.is_finished:
            found.append(Finished(run, hparams, metrics))
        else:
            lines.append(f"{path.name} is left out: its training or evaluation is not finished.")
    if not found:
        raise UserError(f"None of {len(lines)} runs is finished: {', '.join(Path(w).name for w in workdirs)[:200]}. "
                        "Start their `python -m pae_zoo.main` commands again to finish them.")
    return found, lines


def boards(found: Sequence[Finished]) -> tuple[list[Board], list[str]]:
    """Returns a board for each data set and split, and lines on runs that repeat another's seed, left out."""
    by_data: dict[str, list[Finished]] = {}
    for one in found:
        by_data.setdefault(data_of(one.hparams), []).append(one)
    made, lines = [], []
    for data, runs in by_data.items():
        groups, told = _groups(runs)
        lines += told
        made.append(Board(data, groups, _tables(groups)))
    return made, lines


def data_of(hparams: Any) -> str:
    """Returns the data of a run in words: the set, and each setting that makes it another one than its default."""
    more = [word for word in hparams.preprocess if word in OF_DATA]
    more += ["smoke"] if hparams.smoke else []
    for field in dataclasses.fields(hparams):
        value, about = getattr(hparams, field.name), field.metadata
        if about["group"] == hp.DATA and not about["operational"] and field.name not in (*OF_TRAINING, "dataset"):
            if value != field.default:
                more.append(f"{field.name}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return hparams.dataset + (f" ({', '.join(more)})" if more else "")


def _groups(runs: Sequence[Finished]) -> tuple[list[Group], list[str]]:
    """Returns the groups by name, and lines on runs whose seed the group has already."""
    members: dict[str, list[Finished]] = {}
    settings: dict[str, tuple[str, dict[str, Any]]] = {}
    lines = []
    for one in runs:
        paths = [field.name for field in dataclasses.fields(one.hparams)
                 if field.metadata["path"] and field.name != "dataset"]
        own = hp.settings(one.hparams, ("seed", "model", *paths))
        key = f"{one.hparams.model} {sorted(own.items())}"
        settings[key] = (one.hparams.model, own)
        same = [other for other in members.get(key, []) if other.hparams.seed == one.hparams.seed]
        if same:
            lines.append(f"{one.run.workdir.name} is left out: {same[0].run.workdir.name} has the same settings and "
                         "seed.")
        else:
            members.setdefault(key, []).append(one)
    names = hp.group_names([settings[key] for key in members])
    found = [Group(name, one[0].hparams.model, sorted(one, key=lambda run: run.hparams.seed))
             for name, one in zip(names, members.values())]
    return sorted(found, key=lambda group: group.name), lines


def _tables(groups: Sequence[Group]) -> list[Table]:
    keys = list(dict.fromkeys(key for group in groups for one in group.runs for key in one.metrics))
    known = {key: figure for key in keys if (figure := merits.figure(key))}
    tasks = sorted({figure.task for figure in known.values()}, key=merits.order)
    return [_table(task, {key: figure for key, figure in known.items() if figure.task == task}, groups)
            for task in tasks]


def _table(task: str, known: dict[str, Figure], groups: Sequence[Group]) -> Table:
    columns = list({figure.column: figure for figure in known.values()}.values())
    columns.sort(key=lambda column: _place(task, column))
    places = {(figure.variant, figure.role, figure.column): key for key, figure in known.items()}
    rows = [row for group in groups for row in _rows(group, task, columns, places)]
    return Table(task, columns, rows, judged(columns, rows))


def judged(columns: Sequence[Figure], rows: list[Row]) -> list[str]:
    """Marks the best of each column, and what loses to simple methods; returns notes on both."""
    notes = [note for number, column in enumerate(columns) for note in _judge(number, column, rows)]
    groups = {id(row.group): row.group for row in rows}.values()
    return notes + [note for group in groups if (note := _losses(group, columns, rows))]


def _place(task: str, column: Figure) -> int:
    """Returns where a column stands: in the order of the rules."""
    titles = [rule.column for rule in merits.RULES if rule.task == task]
    plain = [number for number, title in enumerate(titles) if title == column.column]
    return plain[0] if plain else len(titles)


def _rows(group: Group, task: str, columns: Sequence[Figure], places: dict[tuple[str, str, str], str]) -> list[Row]:
    """Returns the rows of a group: the model's own, then simple methods, then what nobody is to beat."""
    roles = (MODEL, BASELINE, merits.REFERENCE)
    kinds = sorted(dict.fromkeys((variant, role) for variant, role, _ in places), key=lambda kind: roles.index(kind[1]))
    rows = []
    for variant, role in kinds:
        keys = [places.get((variant, role, column.column), "") for column in columns]
        cells = [_cell(group, key) if key else Cell() for key in keys]
        if any(cell.mean is not None or cell.status in (NOT_SUPPORTED, NOT_FINITE) for cell in cells):
            rows.append(Row(group, variant, role, cells))
    if any(row.role == MODEL for row in rows):
        return rows
    return [Row(group, "", MODEL, [Cell(status=_lack(group, task)) for _ in columns]), *rows]


def _lack(group: Group, task: str) -> str:
    """Returns why a group has no figure of a task: the model does not offer it, or nobody has asked."""
    needs = merits.NEEDS.get(task)
    refused = any(one.metrics.get(task) == evaluation.UNSUPPORTED for one in group.runs)
    if refused or needs and not models.find(group.model).MODEL.offers & set(needs):
        return NOT_SUPPORTED
    return NOT_RUN


def _cell(group: Group, key: str) -> Cell:
    """Returns one figure of a group over the seeds that have it."""
    there = {one.hparams.seed: one.metrics[key] for one in group.runs if key in one.metrics}
    values = {seed: float(value) for seed, value in there.items() if isinstance(value, (int, float))}
    if values:
        numbers = list(values.values())
        return Cell(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None, values, key)
    if any(value is None for value in there.values()):
        return Cell(key=key, status=NOT_FINITE)
    return Cell(key=key, status=NOT_SUPPORTED if there else NOT_RUN)


def _judge(number: int, column: Figure, rows: list[Row]) -> Iterator[str]:
    """Marks the best of a column and what loses to a simple method; yields why there is no best."""
    own = [row for row in rows if row.role == MODEL and row.cells[number].mean is not None]
    if not column.better:
        return
    for group in {id(row.group): row.group for row in own}.values():
        best = min((row for row in own if row.group is group), key=lambda row: _loss(column, row.cells[number]))
        better = {row.variant: row.cells[number].mean for row in rows
                  if row.group is group and row.role == BASELINE and row.cells[number].mean is not None
                  and _loss(column, row.cells[number]) < _loss(column, best.cells[number])}  # fmt: skip
        if better:
            best.cells[number] = best.cells[number]._replace(beaten_by=better)
    unlike = [key for key in column.alike if len({str(one.metrics[key]) for row in own for one in row.group.runs
                                                  if key in one.metrics}) > 1]  # fmt: skip
    if unlike and len(own) > 1:
        yield f"{column.column} is not compared: the runs differ in {', '.join(unlike)}."
    elif column.across and len({id(row.group) for row in own}) > 1:
        losses = [_loss(column, row.cells[number]) for row in own]
        for row, loss in zip(own, losses):
            if loss == min(losses) < max(losses):
                row.cells[number] = row.cells[number]._replace(best=True)


def _losses(group: Group, columns: Sequence[Figure], rows: Sequence[Row]) -> str:
    """Returns where a group loses to the best of the simple methods measured beside it, '' for nowhere."""
    lost = []
    for row in rows:
        for column, cell in zip(columns, row.cells):
            if row.group is group and cell.beaten_by:
                name = min(cell.beaten_by, key=lambda one: column.loss(cell.beaten_by[one]))
                score = f" of {row.variant}" if row.variant else ""
                lost.append(f"{column.column} {console.number(cell.mean)}{score}, {name} "
                            f"{console.number(cell.beaten_by[name])}")
    return f"{group.name} loses to simple methods: {'; '.join(lost)}." if lost else ""


def _loss(column: Figure, cell: Cell) -> float:
    assert cell.mean is not None
    return column.loss(cell.mean)
