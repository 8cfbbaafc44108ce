"""Holds the type checker's errors against those that are left, file by file: there may be fewer, and never more.

    python tools/check_types.py            # fails for a file with more errors than its row, or with fewer
    python tools/check_types.py --update   # writes the rows anew; it refuses to raise one
"""

import argparse
import collections
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / "tools" / "type_errors.txt"


def found_errors() -> dict[str, list[str]]:
    """Returns {file: its errors, a line each} as pyright finds them, by pyrightconfig.json."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        raise SystemExit(f"pyright did not run ({done.stderr.strip() or done.stdout.strip()}); "
                         "install the extra dev: pip install -e '.[dev]'.")
    if not report["summary"]["filesAnalyzed"]:
        raise SystemExit("pyright looked at no file; run this from a checkout.")
    found = collections.defaultdict(list)
    for one in report["generalDiagnostics"]:
        if one["severity"] == "error":
            file = Path(one["file"]).resolve().relative_to(ROOT).as_posix()
            message = " ".join(one["message"].split())
            found[file].append(f"{file}:{one['range']['start']['line'] + 1}: {message} ({one.get('rule', 'syntax')})")
    return dict(found)


def read(text: str) -> dict[str, int]:
    """Returns {file: number of errors} of the rows of a baseline."""
    rows = (line.split() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return {file: int(number) for number, file in rows}


def write(counts: dict[str, int]) -> str:
    """Returns the text of a baseline."""
    total = sum(counts.values())
    head = f"# Errors of pyright that are left, {total} in all; written by tools/check_types.py --update.\n"
    return head + "".join(f"{number:4d} {file}\n" for file, number in sorted(counts.items()) if number)


def compare(found: dict[str, list[str]], allowed: dict[str, int]) -> tuple[list[str], list[str]]:
    """Returns (what there is more of, what there is less of), lines for people."""
    more, less = [], []
    for file in sorted({*found, *allowed}):
        number, most = len(found.get(file, ())), allowed.get(file, 0)
        if number > most:
            more += [f"{file}: {number} errors of types, {most} are allowed:", *(f"  {line}" for line in found[file])]
        elif number < most:
            less.append(f"{file}: {number} errors of types, {most} in tools/type_errors.txt")
    return more, less


def main(argv: list[str]) -> int:
    """Runs the check; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write the rows anew")
    options = parser.parse_args(argv)
    found = found_errors()
    first = options.update and not BASELINE.exists()
    allowed = {} if first else read(BASELINE.read_text())
    more, less = compare(found, allowed)
    counts = {file: len(lines) for file, lines in found.items()}
    if first or (options.update and not more):
        BASELINE.write_text(write(counts))
        print(f"{sum(counts.values())} errors in {len(counts)} files")
        return 0
    if more:
        print("\n".join(more))
        print("Annotate what the checker cannot see, or mend what it found; the numbers may only fall.")
        return 1
    if less:
        print("\n".join(less))
        print("Fewer than before: write that down with `python tools/check_types.py --update`.")
        return 1
    print(f"{sum(counts.values())} errors of types, as many as are known")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
