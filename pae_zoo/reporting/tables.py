"""A board as markdown and as CSV."""

from collections.abc import Sequence
from typing import Any

from pae_zoo.experiment import sweep_tables
from pae_zoo.reporting import merits
from pae_zoo.reporting.board import Board, Cell, Table

#: what stands for whose figure a row has
ROLES = {merits.MODEL: "", merits.BASELINE: "simple method", merits.REFERENCE: "reference"}
FIELDS = ("data", "task", "model", "settings", "variant", "role", "figure", "better", "key", "mean", "std", "seeds",
          "status", "best", "beaten_by")  # fmt: skip
#: what the board over several data sets means
SUMMARY = ("Mean over the data sets that have a figure, its spread that of the seeds. The place of a row is 1 and the "
           "models' rows that are better, ties half; its mean over the data sets.")  # fmt: skip


def has_variants(table: Table) -> bool:
    """Whether the rows of a table have variants, so that it needs a column for them."""
    return any(row.variant for row in table.rows)


def markdown(boards: Sequence[Board]) -> str:
    """Returns the boards as a page of markdown: a heading a data set, a table a task, the best in bold."""
    parts = ["# Leaderboard\n\nMean ± sample standard deviation over seeds; the best of a column is bold.\n"]
    for board in boards:
        parts.append(f"\n## {board.data}\n" + (f"\n{SUMMARY}\n" if board.is_summary else ""))
        for table in board.tables:
            parts.append(f"\n### {table.task}\n\n{_table(table)}")
            parts += [f"\n{note}\n" for note in table.notes]
    return "".join(parts)


def _table(table: Table) -> str:
    variants = has_variants(table)
    ways = [merits.words(column.better) for column in table.columns]
    heads = [f"{column.column} ({way})" if way else column.column for column, way in zip(table.columns, ways)]
    lines = [["model", *(["of"] if variants else []), "seeds", *heads]]
    lines.append(["---"] * len(lines[0]))
    for row in table.rows:
        of = " ".join(filter(None, (row.variant, ROLES[row.role] and f"({ROLES[row.role]})")))
        shown = [f"**{cell.text}**" if cell.best else cell.text for cell in row.cells]
        lines.append([row.group.name, *([of] if variants else []), str(row.group.num_seeds), *shown])
    return sweep_tables.table_text([[text.replace("|", "\\|") for text in line] for line in lines])


def csv(boards: Sequence[Board]) -> str:
    """Returns the boards as CSV, a line a figure of a model."""
    lines = []
    for board in boards:
        for table in board.tables:
            for row in table.rows:
                for column, cell in zip(table.columns, row.cells):
                    if cell.mean is not None or cell.status:
                        lines.append({"data": board.data, "task": table.task, "model": row.group.model,
                                      "settings": row.group.name, "variant": row.variant, "role": row.role,
                                      "figure": column.column, "better": column.better, **_fields(cell)})  # fmt: skip
    return sweep_tables.csv_text(list(FIELDS), lines)


def _fields(cell: Cell) -> dict[str, Any]:
    beaten = "; ".join(f"{name} {value:.6g}" for name, value in cell.beaten_by.items())
    return {"key": cell.key, "mean": cell.mean, "std": cell.std, "seeds": len(cell.values), "status": cell.status,
            "best": int(cell.best), "beaten_by": beaten}  # fmt: skip
