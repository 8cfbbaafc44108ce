"""Figures of a board as cells of pages: a number is a button that shows the pictures behind it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pae_zoo.evaluation.support import map_points
from pae_zoo.experiment import console
from pae_zoo.experiment.workdir import Run
from pae_zoo.reporting import html, merits
from pae_zoo.reporting.board import Cell, Row, Table
from pae_zoo.reporting.html import escape
from pae_zoo.reporting.merits import Figure
from pae_zoo.reporting.tables import ROLES

CLASSES = {merits.MODEL: "", merits.BASELINE: "simple", merits.REFERENCE: "reference"}


def pictures_of(run: Run) -> list[Path]:
    """Returns the pictures of a run that a page can hold, those of the model itself first."""
    found = [path for path in run.figures.glob("*") if path.suffix in html.KINDS]
    return sorted(found, key=lambda path: ("@" in path.stem, path.stem))


def left_out(run: Run) -> list[str]:
    """Returns the names of pictures that a page cannot hold, which are those in PDF."""
    return sorted(path.name for path in run.figures.glob("*.pdf"))


def has_map(run: Run) -> bool:
    """Whether the codes of a run are kept for a map."""
    return (run.workdir / map_points.FILE).is_file()


def cell(one: Cell, column: Figure, row: Row, group: int, names: Sequence[str]) -> str:
    """Returns a cell of a table: a number as a button, with the `names` of the group's pictures that it shows.

    Its data-v is what it sorts by: the number, or the distance from the ideal one.
    """
    if one.mean is None:
        return f'<td class="none">{escape(one.status)}</td>'
    towards = column.better not in (merits.HIGHER, merits.LOWER, merits.NEITHER)
    place = column.loss(one.mean) if towards else one.mean
    chosen = merits.pictures(column.task, names, column.part) or merits.pictures(column.task, names)
    numbers = ",".join(str(names.index(name)) for name in chosen)
    title = f"{row.group.name}{' ' + row.variant if row.variant else ''}: {column.column}"
    mark = " best" if one.best else ""
    lost = f'<small class="lost">{escape(loses(one, column))}</small>' if one.beaten_by else ""
    return (f'<td class="number{mark}" data-v="{place:.9g}"><button type="button" data-show="{numbers}" '
            f'data-group="{group}" data-title="{escape(title)}" data-note="{escape(note(one, column))}">'
            f"{escape(one.text)}</button>{lost}</td>")


def loses(one: Cell, column: Figure) -> str:
    """Returns what a figure loses to: the best of the simple methods, and how many more there are."""
    best = min(one.beaten_by, key=lambda name: column.loss(one.beaten_by[name]))
    more = len(one.beaten_by) - 1
    return f"loses to {best}{f' and {more} more' if more else ''}"


def note(one: Cell, column: Figure) -> str:
    """Returns what stands behind a number: its key, which way it is better, the value of each seed, what beats it."""
    words = [one.key, merits.words(column.better)]
    words.append(", ".join(f"seed {seed}: {console.number(value)}" for seed, value in one.values.items()))
    if one.beaten_by:
        named = ", ".join(f"{name} {console.number(value)}" for name, value in one.beaten_by.items())
        words.append(f"simple methods are better: {named}")
    return "; ".join(filter(None, words)) + "."


def of(row: Row) -> str:
    """Returns whose figure a row has, in words: the variant, and that it is a simple method or a reference."""
    return " ".join(filter(None, (row.variant, ROLES[row.role] and f"({ROLES[row.role]})")))


def wide(table: Table, places: Mapping[int, tuple[int, Sequence[str]]], with_models: bool) -> str:
    """Returns a table of a task with a column a figure, in the first `with_models` what the rows are of.

    places: {id of a group: its number in the data of the page, the names of its pictures}.
    """
    heads = [html.header("model" if with_models else "of", "word")]
    heads += [html.header(column.column, "number", merits.words(column.better),
                          "descending" if column.better == merits.HIGHER else "ascending")
              for column in table.columns]  # fmt: skip
    rows = []
    for row in table.rows:
        group, names = places[id(row.group)]
        whose = of(row)
        more = f"<small>{escape(whose)}</small>" if with_models and whose else ""
        first = escape(row.group.name) + more if with_models else escape(whose or "the model")
        inside = "".join(cell(one, column, row, group, names) for one, column in zip(row.cells, table.columns))
        rows.append(f'<tr class="{CLASSES[row.role]}"><th scope="row" class="word">{first}</th>{inside}</tr>')
    return html.table(f"Figures of {table.task}", heads, rows)


def notes(table: Table) -> str:
    """Returns the notes of a table as paragraphs."""
    return "".join(f'<p class="lost">{escape(note)}</p>\n' for note in table.notes)


def map_of(maps: Sequence[tuple[str, int]], choose: bool) -> str:
    """Returns the place of a map with a choice among (name, number in the data of the page)."""
    options = "".join(f'<option value="{number}">{escape(name)}</option>' for name, number in maps)
    choice = f'<label>Run <select>{options}</select></label>' if choose else ""
    return (f'<div>{choice}<div data-map="{maps[0][1]}"><p>The map needs JavaScript.</p></div>'
            '<p class="map-note quiet"></p></div>\n')
