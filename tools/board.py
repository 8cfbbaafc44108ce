"""Tables of the docs that leaderboards made: README's of Fashion-MNIST, and that of several tables.

    python tools/board.py DIR      takes DIR/leaderboard.csv of `python -m pae_zoo.leaderboard` and writes the docs
    python tools/board.py --write  writes them of what was taken last, docs/board.csv and docs/board_tables.csv

A leaderboard of Fashion-MNIST is README's, one of several data sets that of docs/notes/tables.md.
"""

import csv
import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README, KEPT = ROOT / "README.md", ROOT / "docs" / "board.csv"
PAGE, KEPT_TABLES = ROOT / "docs" / "notes" / "tables.md", ROOT / "docs" / "board_tables.csv"
BEGIN, END = "<!-- board: by python tools/board.py --write -->", "<!-- end of board -->"
DATA = "fashion_mnist"
#: the columns of README: heading, key of metrics.json ({score}: that of the model), decimals
COLUMNS = (("MSE", "test/mse", 5), ("log p(x)", "test/log_likelihood", 1), ("AUROC", "ood/mnist/{score}/auroc", 3),
           ("Frechet", "generation/frechet/samples", 1))  # fmt: skip
#: the leaderboard of several data sets: its name there, its task, its columns: heading, figure, decimals
ALL, TASK = "all data sets", "ood"
MEAN, PLACE = "other_classes: AUROC, mean", "other_classes: AUROC, place"
TABLE_COLUMNS = (("mean AUROC", MEAN, 3), ("mean place", PLACE, 1), ("mean FPR at 95 %",
                 "other_classes: FPR at 95 %, mean", 3))  # fmt: skip
#: figures that a model has at least, to be shown
LEAST = 2
#: model -> the score by which it finds other data
SCORES = {"pae": "latent_density", "rae": "latent_density", "flow_vae": "reconstruction", "vae": "reconstruction",
          "vlae": "reconstruction", "iaf": "reconstruction", "hf": "reconstruction", "savae": "reconstruction",
          "mmd_vae": "reconstruction", "wae": "reconstruction", "mcdropout_ae": "likelihood"}  # fmt: skip


def read(text: str) -> list[dict[str, str]]:
    """Returns the rows of a leaderboard.csv on Fashion-MNIST."""
    return [row for row in csv.DictReader(io.StringIO(text)) if row["data"] == DATA]


def kept(rows: list[dict[str, str]]) -> str:
    """Returns as CSV the rows behind what README shows."""
    keys = {column[1].replace("{score}", score) for column in COLUMNS for score in ("", *SCORES.values())}
    chosen = [row for row in rows if row["key"] in keys and row["status"] == ""]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(chosen)
    return text.getvalue()


def table(rows: list[dict[str, str]]) -> str:
    """Returns the rows of README: a line for each model, the best of each column bold."""
    lines = [f"| model | seeds | {' | '.join(heading for heading, *_ in COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for model, score in SCORES.items():
        own = {row["key"]: row for row in rows if row["model"] == model and row["role"] == "model"}
        if len(own.keys() & {key.replace("{score}", score) for _, key, _ in COLUMNS}) < LEAST:
            continue
        seeds = max(int(row["seeds"]) for row in own.values())
        cells = [_cell(own.get(key.replace("{score}", score)), digits) for _, key, digits in COLUMNS]
        lines.append(f"| [{model}](docs/models/{model}.md) | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables_kept(rows: list[dict[str, str]]) -> str:
    """Returns as CSV the rows of a leaderboard.csv behind the page on tables."""
    chosen = [row for row in rows if row["data"] == ALL and row["task"] == TASK]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(chosen)
    return text.getvalue()


def tables_table(rows: list[dict[str, str]]) -> str:
    """Returns the rows of the page on tables: models and simple methods that have all data sets, by mean AUROC."""
    found: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    for row in rows:
        found.setdefault((row["settings"], row["variant"], row["role"]), {})[row["figure"]] = row
    whole = {key: own for key, own in found.items() if own.get(MEAN, {}).get("mean")}
    lines = ["| model | score | seeds | " + " | ".join(heading for heading, *_ in TABLE_COLUMNS) + " |",
             "|---" * (3 + len(TABLE_COLUMNS)) + "|"]
    for (name, variant, role), own in sorted(whole.items(), key=lambda one: -float(one[1][MEAN]["mean"])):
        cells = [_cell(own.get(figure), digits) for _, figure, digits in TABLE_COLUMNS]
        plain = "" if role == "model" else " (simple method)"
        lines.append(f"| {name} | `{variant}`{plain} | {own[MEAN]['seeds']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, str] | None, digits: int) -> str:
    if row is None or not row["mean"]:
        return ""
    text = f"{float(row['mean']):.{digits}f}"
    if row["std"]:
        text += f" ± {float(row['std']):.{digits}f}"
    return f"**{text}**" if row["best"] == "1" else text


def page(text: str, shown: str) -> str:
    """Returns a page with a table in its place; raises ValueError where the marks of that are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page lacks {BEGIN} or {END}.")
    return f"{before}{begin}\n{shown}\n{end}{after}"


def pages() -> dict[Path, str]:
    """Returns {page: its text by what was taken last}."""
    rows, of_tables = (list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
                       for path in (KEPT, KEPT_TABLES))
    return {README: page(README.read_text(encoding="utf-8"), table(rows)),
            PAGE: page(PAGE.read_text(encoding="utf-8"), tables_table(of_tables))}


def main(argv: list[str]) -> int:
    places = [word for word in argv if word != "--write"]
    if len(places) > 1 or not argv:
        usage = (__doc__ or "").partition(".")[2]
        print(f"error: received {' '.join(argv) or 'nothing'}. Usage:{usage}", file=sys.stderr)
        return 2
    if places:
        source = Path(places[0]) / "leaderboard.csv"
        if not source.is_file():
            print(f"error: {source} does not exist; python -m pae_zoo.leaderboard writes it.", file=sys.stderr)
            return 2
        text = source.read_text(encoding="utf-8")
        every = list(csv.DictReader(io.StringIO(text)))
        if not any(row["data"] in (DATA, ALL) for row in every):
            print(f"error: {source} has neither {DATA} nor several data sets.", file=sys.stderr)
            return 2
        if read(text):
            KEPT.write_text(kept(read(text)), encoding="utf-8")
        else:
            KEPT_TABLES.write_text(tables_kept(every), encoding="utf-8")
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
