"""docs/reproduce.md, made of the items and of what was measured, `measured.json` beside this file."""

import json
import os
import textwrap
from pathlib import Path
from typing import Any

from command import ROOT

from reproductions import ITEMS
from reproductions._items import CPU

PAGE = ROOT / "docs" / "reproduce.md"
MEASURED = Path(__file__).parent / "measured.json"
HEAD = """# Reproduce the papers

<!-- by python tools/reproduce.py --write -->

Every figure and table of the four papers that a command here repeats:

    python tools/reproduce.py                                              # what there is
    python tools/reproduce.py pae-table2 --data_dir=DATA                   # as published: hours to days, on a GPU
    python tools/reproduce.py pae-table2 --cpu --data_dir=DATA             # its twin for two CPU cores: minutes
    python tools/reproduce.py pae-table2 --cpu --seeds=3 --data_dir=DATA   # three seeds
    python tools/reproduce.py pae-table2 --cpu --dry_run                   # the commands, one by one

It trains what is not there yet, evaluates, prints the table below and names the pictures. Runs lie in
`runs/reproduce`; items share them, and the same command goes on where one was stopped.

*Published* is what the papers, notebooks and stored files say, *ours* what the twins found, of seed 0 or mean
± standard deviation over seeds, with the wall time of all trainings and evaluations, one thread on a core beside other
work. Twins are small networks and short trainings: differences between models compare, values
mostly do not. More of it, and what was published and is not repeated here:
[Published figures beside ours](notes/published_figures.md).
"""


def load() -> dict[str, Any]:
    """Returns {item: record} of what was measured."""
    return json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}


def table(rows: list[dict[str, str]]) -> str:
    """Returns the rows of a record as a table of markdown."""
    lines = [f"| {row['what']} | {row['published'] or 'none'} | {row['ours']} |" for row in rows]
    return "\n".join(["| | published | ours |", "|---|---|---|", *lines])


def page(measured: dict[str, Any]) -> str:
    """Returns the page."""
    parts = [HEAD]
    for name, item in ITEMS.items():
        record = measured.get(name)
        rows = record["rows"] if record else [{"what": row.what, "published": row.published, "ours": "not measured yet"}
                                              for row in item.rows]
        parts += [f"\n## {name}\n\n", _prose(f"{item.title}. {item.source}."),
                  f"\n    python tools/reproduce.py {name} --cpu --data_dir=DATA\n\n", f"{table(rows)}\n"]
        if record:
            count = f"{record['seeds']} seeds" if record["seeds"] > 1 else "Seed 0"
            parts += ["\n", _prose(f"{count}, {_time(record['seconds'])}. {item.differs}")]
        elif item.needs:
            parts += ["\n", _prose(f"Needs {item.needs}. {item.differs}")]
    return "".join(parts)


def _prose(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False) + "\n"


def write(found: dict[str, Any]) -> None:
    """Adds records of items, of twins alone, to what was measured, and writes the page."""
    kept = {**load(), **{name: {key: value for key, value in record.items() if key != "pictures"}
                         for name, record in found.items() if record["kind"] == CPU}}
    kept = {name: kept[name] for name in ITEMS if name in kept}
    for path, text in ((MEASURED, json.dumps(kept, indent=1, ensure_ascii=False) + "\n"), (PAGE, page(kept))):
        partial = path.with_suffix(".new")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
