"""A board over all boards: means over the data sets, and places among the models, of figures that several sets have."""

import statistics
from collections.abc import Sequence
from typing import Optional

from pae_zoo.reporting import board, merits
from pae_zoo.reporting.board import Board, Cell, Group, Row, Table
from pae_zoo.reporting.merits import Figure

#: what the board is called where others are called by their data
NAME = "all data sets"
PLACE = "place"
#: whose row a simple method has that says the same beside each of them
ALL_MODELS = "all models"

Key = tuple[str, str, str]  # name of the group, variant, role


def over(boards: Sequence[Board]) -> Optional[Board]:
    """Returns the board of means over data sets, None where no two models have a figure that compares on all of two.

    A mean is taken of shares (AUROC, accuracy and their like), the mean of a place of all figures that compare: 1 + how
    many rows of models are better on a set, ties half. A row that lacks a set has neither.
    """
    tables = {task: [table for one in boards for table in one.tables if table.task == task]
              for one in boards for task in (table.task for table in one.tables)}  # fmt: skip
    groups: dict[str, Group] = {}
    for one in boards:
        for group in one.groups:
            groups.setdefault(group.name, Group(group.name, group.model, [])).runs.extend(group.runs)
    made = [table for task, found in tables.items() if (table := _table(task, found, groups))]
    if not made:
        return None
    shown = {id(row.group): row.group for table in made for row in table.rows}
    return Board(NAME, list(shown.values()), made, is_summary=True)


def _table(task: str, tables: Sequence[Table], groups: dict[str, Group]) -> Optional[Table]:
    names: dict[str, Figure] = {}
    for table in tables:
        names.update((column.column, column) for column in table.columns if column.across
                     and column.better in (merits.HIGHER, merits.LOWER))  # fmt: skip
    columns: list[Figure] = []
    cells: dict[Key, dict[str, Cell]] = {}
    counts: dict[str, int] = {}
    for name, column in names.items():
        sets = [found for table in tables if (found := _of_set(table, name))]
        everywhere = [key for one in sets for key in one if all(key in other for other in sets)]
        whole = {group for group, _, role in everywhere if role == merits.MODEL}
        if len(sets) < 2 or len(whole) < 2:
            continue
        mean, place = f"{name}, mean", f"{name}, {PLACE}"
        wanted = [mean, place] if merits.is_share(name) else [place]
        columns += [column._replace(column=word, alike=(), better=column.better if word == mean else merits.LOWER)
                    for word in wanted]
        counts[name] = len(sets)
        for key in dict.fromkeys(key for one in sets for key in one):
            own = cells.setdefault(key, {})
            own[mean], own[place] = _mean(key, sets), _place(key, column, sets)
    if not columns:
        return None
    keys = sorted(cells, key=lambda key: list(groups).index(key[0]))
    rows = [Row(groups[name], variant, role, [cells[name, variant, role].get(column.column, Cell())
                                              for column in columns]) for name, variant, role in keys]  # fmt: skip
    notes = [f"{name}: {count} data sets." for name, count in counts.items()]
    notes += board.judged(columns, rows)
    return Table(task, columns, _once(rows), notes)


def _once(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows, those of simple methods that say the same beside every model once, last, as of all models."""
    told: dict[tuple, list[Row]] = {}
    for row in rows:
        if row.role == merits.BASELINE and any(cell.mean is not None for cell in row.cells):
            told.setdefault((row.variant, *(cell[:2] for cell in row.cells)), []).append(row)
    several = {id(row) for same in told.values() if len(same) > 1 for row in same}
    runs = [one for row in rows if row.role == merits.MODEL for one in row.group.runs]
    shared = Group(ALL_MODELS, "", runs)
    return [row for row in rows if id(row) not in several] + [
        Row(shared, same[0].variant, same[0].role, same[0].cells) for same in told.values() if len(same) > 1]


def _of_set(table: Table, name: str) -> dict[Key, Cell]:
    """Returns the numbers of a column of one data set, by row; references are left out."""
    places = [number for number, column in enumerate(table.columns) if column.column == name]
    if not places:
        return {}
    return {(row.group.name, row.variant, row.role): row.cells[places[0]] for row in table.rows
            if row.role != merits.REFERENCE and row.cells[places[0]].mean is not None}  # fmt: skip


def _mean(key: Key, sets: Sequence[dict[Key, Cell]]) -> Cell:
    """Returns the mean over all data sets, its spread that of the seeds which all of them have."""
    there = [one[key] for one in sets if key in one]
    if len(there) < len(sets):
        return Cell(status=f"{len(there)} of {len(sets)} sets")
    seeds = set.intersection(*(set(cell.values) for cell in there))
    values = {seed: statistics.fmean(cell.values[seed] for cell in there) for seed in sorted(seeds)}
    mean = statistics.fmean(cell.mean for cell in there if cell.mean is not None)
    return Cell(mean, statistics.stdev(values.values()) if len(values) > 1 else None, values, there[0].key)


def _place(key: Key, column: Figure, sets: Sequence[dict[Key, Cell]]) -> Cell:
    """Returns the mean of 1 + how many other rows of models are better, ties half, over all data sets."""
    if any(key not in one for one in sets):
        return Cell(status=f"{sum(key in one for one in sets)} of {len(sets)} sets")
    places = []
    for one in sets:
        own = _loss(column, one[key])
        others = [_loss(column, cell) for other, cell in one.items() if other != key and other[2] == merits.MODEL]
        places.append(1 + sum(loss < own for loss in others) + sum(loss == own for loss in others) / 2)
    return Cell(statistics.fmean(places), key=sets[0][key].key)


def _loss(column: Figure, cell: Cell) -> float:
    assert cell.mean is not None
    return column.loss(cell.mean)
