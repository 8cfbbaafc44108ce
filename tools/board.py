"""README's table of results, of the leaderboard of runs on Fashion-MNIST.

    python tools/board.py DIR      takes DIR/leaderboard.csv of `python -m pae_zoo.leaderboard` and writes README
    python tools/board.py --write  writes README of what was taken last, docs/board.csv
"""

import csv
import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README, KEPT = ROOT / "README.md", ROOT / "docs" / "board.csv"
BEGIN, END = "<!-- board: by python tools/board.py --write -->", "<!-- end of board -->"
DATA = "fashion_mnist"
#: the columns of README: heading, key of metrics.json ({score}: that of the model), decimals
COLUMNS = (("MSE", "test/mse", 5), ("log p(x)", "test/log_likelihood", 1), ("AUROC", "ood/mnist/{score}/auroc", 3),
           ("Frechet", "generation/frechet/samples", 1))  # fmt: skip
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


def _cell(row: dict[str, str] | None, digits: int) -> str:
    if row is None:
        return ""
    text = f"{float(row['mean']):.{digits}f}"
    if row["std"]:
        text += f" ± {float(row['std']):.{digits}f}"
    return f"**{text}**" if row["best"] == "1" else text


def page(text: str, rows: list[dict[str, str]]) -> str:
    """Returns README with the table in its place; raises ValueError where the marks of that are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks {BEGIN} or {END}.")
    return f"{before}{begin}\n{table(rows)}\n{end}{after}"


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
        rows = read(source.read_text(encoding="utf-8"))
        if not rows:
            print(f"error: {source} has no rows of {DATA}.", file=sys.stderr)
            return 2
        KEPT.write_text(kept(rows), encoding="utf-8")
    text = page(README.read_text(encoding="utf-8"), read(KEPT.read_text(encoding="utf-8")))
    README.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
