"""The report of one run: report.html in its folder, a page that needs nothing but itself."""

import os
from pathlib import Path
from typing import Any

from pae_zoo import models
from pae_zoo.evaluation.support import map_points
from pae_zoo.experiment import console
from pae_zoo.experiment.workdir import Run
from pae_zoo.reporting import board, cells, curves, html, merits
from pae_zoo.reporting.board import Board, Cell, Finished, Row, Table
from pae_zoo.reporting.html import escape
from pae_zoo.reporting.merits import Figure

NAME = "report.html"
#: flags of places, which say nothing of a run and much of a machine
PLACES = ("--data_dir=", "--workdir=")
#: most figures of a task that have a row each
MOST_ROWS = 24


def refresh(run: Run) -> Path:
    """Writes report.html of a finished run unless it is newer than the metrics; returns its path. Raises UserError."""
    target = run.workdir / NAME
    there = target.is_file() and os.stat(target).st_mtime_ns >= os.stat(run.workdir / "metrics.json").st_mtime_ns
    return target if there else run.write_text(NAME, page(run))


def page(run: Run) -> str:
    """Returns the report of a finished run as a page; raises UserError for a damaged file."""
    one = Finished(run, run.read_hparams(), run.read_metrics())
    [found], _ = board.boards([one])
    pictures = cells.pictures_of(run)
    names = [path.stem for path in pictures]
    gallery = [(name, f"#picture-{number}") for number, name in enumerate(names)]
    data: dict[str, Any] = {"groups": [{"run": run.workdir.name, "pictures": gallery}], "maps": []}
    title = f"{one.hparams.model} on {found.data}"
    sections = {"Figures": _figures(found, one, names), "Training": _training(run), "Codes": "",
                "Pictures": _gallery(pictures, cells.left_out(run)), "All of metrics.json": _all(one)}  # fmt: skip
    if cells.has_map(run):
        data["maps"].append(html.codes(map_points.read(run.workdir), map_points.SHOWN))
        sections["Codes"] = cells.map_of([(run.workdir.name, 0)], choose=False)
    sections = {name: text for name, text in sections.items() if text}
    links = "".join(f'<a href="#{_slug(name)}">{name}</a>' for name in sections)
    body = [f"<header><h1>{escape(title)}</h1>\n{_about(one)}<nav>{links}</nav></header>\n<main>\n"]
    body += [f'<section id="{_slug(name)}"><h2>{name}</h2>\n{text}</section>\n' for name, text in sections.items()]
    return html.page(f"{title}, seed {one.hparams.seed}", [*body, "</main>\n"], data)


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-").replace(".", "-")


def _about(one: Finished) -> str:
    """Returns what the run is: model, data, command, seed, times, versions."""
    config, metrics = one.run.read_json("config.json"), one.metrics
    recorded, shape = config.get("versions"), config.get("event_shape")
    versions: dict[str, Any] = recorded if isinstance(recorded, dict) else {}
    pairs = [
        ("model", one.hparams.model), ("data", one.hparams.dataset),
        ("a datum", " x ".join(map(str, shape)) if isinstance(shape, list) else "-"),
        ("latents", one.hparams.latent_dim), ("seed", one.hparams.seed),
        ("weights", f"{int(metrics['train/num_weights']):,}" if metrics.get("train/num_weights") else "-"),
        ("epochs", f"{_whole(metrics, 'train/epochs')}, best {_whole(metrics, 'train/best_epoch')}"),
        *((f"{key.removeprefix('time/').removesuffix('_s')} time", f"{value:.4g} s")
          for key, value in metrics.items()
          if key.startswith("time/") and key.endswith("_s") and isinstance(value, (int, float))),
        ("pae_zoo", versions.get("pae_zoo") or "-"), ("TensorFlow", versions.get("tensorflow") or "-"),
        ("commit", str(config.get("git_commit") or "-")[:12]),
    ]  # fmt: skip
    flags = one.run.workdir / "flags.cfg"
    given = flags.read_text(encoding="utf-8").splitlines() if flags.is_file() else []
    words = [line for line in given if line.startswith("--") and not line.startswith(PLACES)]
    command = " ".join(["python -m pae_zoo.main", *words])
    return f"<p>{escape(models.line(one.hparams.model))}</p>\n{html.facts(pairs)}<pre>{escape(command)}</pre>\n"


def _whole(metrics: dict[str, Any], key: str) -> str:
    value = metrics.get(key)
    return f"{value:g}" if isinstance(value, (int, float)) else "-"


def _figures(found: Board, one: Finished, names: list[str]) -> str:
    """Returns a table for each task, a row a figure, simple methods below the model."""
    return "".join(_task(table, one, names) for table in found.tables if table.task != "cost")


def _task(table: Table, one: Finished, names: list[str]) -> str:
    """Returns the table of a task: a row a figure, or where there are many of them a column a figure."""
    shown = [(column, row, row.cells[number]) for number, column in enumerate(table.columns) for row in table.rows
             if row.cells[number].mean is not None or row.cells[number].status]  # fmt: skip
    if len(shown) > MOST_ROWS:
        text = cells.wide(table, {id(row.group): (0, names) for row in table.rows}, with_models=False)
    else:
        heads = [html.header("figure", "word"), html.header("value", "number"),
                 html.header("standard error", "number"), html.header("better", "word")]  # fmt: skip
        text = html.table(f"Figures of {table.task}", heads, [_row(*part, one, names) for part in shown])
    return f"<h3>{escape(table.task)}</h3>\n{text}{cells.notes(table)}"


def _row(column: Figure, row: Row, cell: Cell, one: Finished, names: list[str]) -> str:
    """Returns a figure of a run as a row: what it is and whose, the value, its error, which way it is better."""
    name, mark, rest = cell.key.partition("@")
    error = one.metrics.get(f"{name}_stderr{mark}{rest}")
    known = isinstance(error, (int, float))
    shown = f'<td class="number" data-v="{error:.9g}">{console.number(error)}</td>' if known else "<td></td>"
    of = f"<small>{escape(cells.of(row))}</small>" if cells.of(row) else ""
    return (f'<tr class="{cells.CLASSES[row.role]}"><th scope="row" class="word">{escape(column.column)}{of}</th>'
            f'{cells.cell(cell, column, row, 0, names)}{shown}<td class="word">{escape(merits.words(column.better))}'
            "</td></tr>")


def _training(run: Run) -> str:
    """Returns the curves of each stage of the training."""
    paths = sorted(run.workdir.glob("metrics_*.jsonl"))
    stages = [("", run), *((path.stem.removeprefix("metrics_"), Run(run.workdir, path.stem.removeprefix("metrics_")))
                           for path in paths)]  # fmt: skip
    parts = []
    for name, stage in stages:
        drawn = curves.panels(stage.read_history())
        if drawn:
            parts.append((f"<h3>{escape(name)}</h3>\n" if name else "") + drawn)
    return "".join(parts)


def _gallery(pictures: list[Path], others: list[str]) -> str:
    """Returns the pictures, each a button that shows it large, and the names of those that a page cannot hold."""
    shown = [f'<figure><button type="button" data-name="{escape(path.stem)}"><img id="picture-{number}" '
             f'src="{html.picture(path)}" alt="Picture {escape(path.stem)}"></button>'
             f"<figcaption>{escape(path.stem)}</figcaption></figure>" for number, path in enumerate(pictures)]
    note = f"<p>Not shown, for they are PDF: {escape(', '.join(others))}.</p>\n" if others else ""
    return (f'<div class="gallery">{"".join(shown)}</div>\n' if shown else "") + note


def _all(one: Finished) -> str:
    rows = [f'<tr><th scope="row" class="word key">{escape(key)}</th><td>{escape(console.number(value))}</td></tr>'
            for key, value in one.metrics.items()]
    heads = ['<th scope="col" class="word">key</th>', '<th scope="col">value</th>']
    return f"<details><summary>{len(rows)} keys</summary>{html.table('metrics.json', heads, rows)}</details>\n"
