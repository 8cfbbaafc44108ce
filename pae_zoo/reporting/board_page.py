"""The leaderboard as a page that needs nothing but itself: tables that sort, pictures behind numbers, maps of codes."""

from collections.abc import Sequence
from typing import Any

import pae_zoo
from pae_zoo.evaluation.support import map_points
from pae_zoo.reporting import cells, html, tables
from pae_zoo.reporting.board import Board, Group, Table
from pae_zoo.reporting.html import escape

#: most pixels of a side of a picture, and points of a map: a page holds those of many runs
SIDE, POINTS = 720, 200


def page(boards: Sequence[Board]) -> str:
    """Returns the boards as one page; raises UserError for a damaged picture or map."""
    data: dict[str, Any] = {"groups": [], "maps": []}
    body = ["<header><h1>Leaderboard</h1>\n<p>Mean ± sample standard deviation over seeds. The best of a column is "
            "bold; a head sorts its column, a number shows the pictures behind it.</p>\n",
            f'<p class="quiet">pae_zoo {escape(pae_zoo.__version__)}</p>\n<nav>',
            *(f'<a href="#data-{number}">{escape(board.data)}</a>' for number, board in enumerate(boards)),
            "</nav></header>\n<main>\n"]  # fmt: skip
    for number, board in enumerate(boards):
        places = {id(group): _pictures(group, data, board.is_summary) for group in board.groups}
        body.append(f'<section id="data-{number}"><h2>{escape(board.data)}</h2>\n')
        body.append(f'<p class="quiet">{escape(tables.SUMMARY)}</p>\n' if board.is_summary else _models(board))
        body += [_task(table, places) for table in board.tables]
        body.append("</section>\n" if board.is_summary else f"{_maps(board, data)}</section>\n")
    return html.page("Leaderboard", [*body, "</main>\n"], data)


def _pictures(group: Group, data: dict[str, Any], is_summary: bool) -> tuple[int, list[str]]:
    """Adds the pictures of a group's first run, of a summary none, to the data; returns its number there and names."""
    run = group.runs[0].run
    paths = [] if is_summary else cells.pictures_of(run)
    shown = [(path.stem, html.picture(path, SIDE)) for path in paths]
    data["groups"].append({"run": run.workdir.name, "pictures": shown})
    return len(data["groups"]) - 1, [path.stem for path in paths]


def _models(board: Board) -> str:
    """Returns a table of the groups: model, seeds, folders."""
    rows = [f'<tr><th scope="row" class="word">{escape(group.name)}</th>'
            f'<td class="number" data-v="{len(group.runs)}">{len(group.runs)}</td><td class="word">'
            f"{escape(', '.join(one.run.workdir.name for one in group.runs))}</td></tr>" for group in board.groups]
    heads = [html.header("model", "word"), html.header("seeds", "number", first="descending"),
             html.header("runs", "word")]  # fmt: skip
    return html.table("Models", heads, rows)


def _task(table: Table, places: dict[int, tuple[int, list[str]]]) -> str:
    return f"<h3>{escape(table.task)}</h3>\n{cells.wide(table, places, with_models=True)}{cells.notes(table)}"


def _maps(board: Board, data: dict[str, Any]) -> str:
    """Adds the maps of all runs to the data; returns the place that shows one of them, and who has none."""
    maps, lacking = [], []
    for group in board.groups:
        for one in group.runs:
            name = one.run.workdir.name
            if not cells.has_map(one.run):
                lacking.append(name)
                continue
            maps.append((f"{group.name}, seed {one.hparams.seed}", len(data["maps"])))
            data["maps"].append(html.codes(map_points.read(one.run.workdir), POINTS))
    note = (f'<p class="quiet">Without a map: {escape(", ".join(lacking))}. '
            "<code>python -m pae_zoo.report</code> makes one.</p>\n" if lacking else "")  # fmt: skip
    return f"<h3>Codes</h3>\n{cells.map_of(maps, choose=True) if maps else ''}{note}"
