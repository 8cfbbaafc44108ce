"""What the heads of the settings in configs/ say was measured, as the page docs/reference/settings.md.

    python tools/results.py          prints the page
    python tools/results.py --write  writes it
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "settings.md"
HEAD = """# Settings that have been run

<!-- by python tools/results.py --write -->

What the head of each file in `configs/` says was measured. A row is made by

    python -m pae_zoo.main --flagfile=CONFIG --data_dir=DATA --seed=SEED

Published settings that have not been run here: [configs/published](../../configs/published). What the columns of the
[results](../results.md) mean, and what was found: there and in the [notes](../notes/README.md).
"""


def heads(path: Path) -> tuple[str, str]:
    """Returns (what the setting is, what was measured) from the comments at the top of a flagfile."""
    lines = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    fields: list[tuple[str, str]] = []
    for line in lines:
        found = re.match(r"(\w+): +(.*)", line)
        if found or not fields:
            fields.append((found[1], found[2]) if found else ("", line))
        else:
            fields[-1] = (fields[-1][0], f"{fields[-1][1]} {line}")
    named = dict(fields)
    return named.get("", ""), named.get("Measured", "")


def page() -> str:
    """Returns the page: a table for each model, a row for each of its settings with figures."""
    parts = [HEAD]
    for folder in sorted(path for path in (ROOT / "configs").iterdir() if path.is_dir() and path.name != "published"):
        rows = [(path, *heads(path)) for path in sorted(folder.glob("*.cfg"))]
        parts.append(f"\n## {folder.name}\n\n| config | what it is | measured |\n|---|---|---|\n")
        for path, what, measured in rows:
            link = f"[{path.stem}](../../{path.relative_to(ROOT)})"
            what = what.removeprefix(f"{folder.name} on ")
            cells = [text.replace("|", "\\|") for text in (what, measured or "no figures: a first look")]
            parts.append(f"| {link} | {' | '.join(cells)} |\n")
    return "".join(parts)


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
