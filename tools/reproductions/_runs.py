"""Carries items out: trainings and evaluations that are missing, then the numbers read off their folders."""

import csv
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator, NamedTuple

from command import ROOT

from reproductions._items import Item, Row, Run

#: beside a run: {command: seconds of wall time} of what has been done for it
STAMP = "reproduced.json"


class Step(NamedTuple):
    """A command of an item: its arguments after `python -m`, and the folder that is stamped when it has ended."""

    arguments: tuple[str, ...]
    folder: Path

    def __str__(self) -> str:
        return shlex.join(["python", "-m", *self.arguments])


class Failed(Exception):
    """A command of the package ended with an error."""


def folders(run: Run, kind: str, work: Path, seeds: int) -> list[Path]:
    """Returns the work directories of a run, one for each seed; items with the same run share them."""
    name = run.config(kind).replace("/", "-")
    return [work / kind / f"{name}_s{seed}" for seed in run.seeds(kind, seeds)]


def steps(item: Item, kind: str, work: Path, seeds: int, data_dir: str) -> Iterator[Step]:
    """Yields all commands of an item, done or not, in the order in which they are run."""
    data = (f"--data_dir={data_dir}",) if data_dir else ()
    used = [run for run in item.runs if run.config(kind)]
    for run in used:
        for seed, folder in enumerate(folders(run, kind, work, seeds)):
            yield Step(("pae_zoo.main", f"--flagfile=configs/{run.config(kind)}.cfg", f"--workdir={folder}",
                        f"--seed={seed}", "--tasks=reconstruction", *data), folder)
            for flags in run.evaluations:
                words = flags.replace("{ood}", item.ood(kind)).split()
                yield Step(("pae_zoo.evaluate", f"--workdir={folder}", *words, *data), folder)
    if item.compare:
        out = work / kind / item.name
        runs = ",".join(str(folder) for run in used for folder in folders(run, kind, work, seeds))
        yield Step(("pae_zoo.evaluate", f"--workdirs={runs}", *item.compare.replace("{out}", str(out)).split(), *data),
                   out)


def done(step: Step) -> dict[str, float]:
    """Returns {command: seconds} of what has been done in the folder of a step."""
    path = step.folder / STAMP
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def carry_out(step: Step) -> float:
    """Runs the command unless its folder says that it was done; returns its seconds of wall time, then or now.

    Raises Failed where the command fails.
    """
    before = done(step)
    # Where data lie and what the work directory is called changes no result.
    key = " ".join(word for word in step.arguments if not word.startswith(("--data_dir=", "--workdir")))
    if key in before:
        return before[key]
    print(f"\n$ {step}", flush=True)
    start = time.monotonic()
    status = subprocess.run([sys.executable, "-m", *step.arguments], cwd=ROOT).returncode
    if status:
        raise Failed(f"the command above ended with status {status}; the same command of this tool goes on from there.")
    seconds = round(time.monotonic() - start, 1)
    step.folder.mkdir(parents=True, exist_ok=True)
    target = step.folder / STAMP
    partial = target.with_suffix(".new")
    partial.write_text(json.dumps({**before, key: seconds}, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, target)
    return seconds


def values(item: Item, row: Row, kind: str, work: Path, seeds: int) -> list[float]:
    """Returns our numbers of a row, one for each seed; [] where the run is not of this kind or has no such number."""
    if not row.run:
        return over_runs(work / kind / item.name, row.key)
    run = next(run for run in item.runs if run.name == row.run)
    if not run.config(kind):
        return []
    found = []
    for folder in folders(run, kind, work, seeds):
        path = folder / "metrics.json"
        value = json.loads(path.read_text(encoding="utf-8")).get(row.key.replace("{ood}", item.ood(kind)))
        if isinstance(value, (int, float)):
            found.append(float(value))
    return found


def over_runs(folder: Path, key: str) -> list[float]:
    """Returns the number that "FILE: column=value, column=value: column" names in a folder of tables, or []."""
    name, _, rest = key.partition(": ")
    conditions, _, column = rest.rpartition(": ")
    wanted = [part.split("=", 1) for part in conditions.split(", ")]
    if not (folder / name).exists():
        return []
    with open(folder / name, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row[one] == value for one, value in wanted)]
    return [float(row[column]) for row in rows]


def told(found: list[float], digits: int) -> str:
    """Returns numbers as mean and, of several seeds, standard deviation; "not measured" for none."""
    if not found:
        return "not measured"
    mean = f"{statistics.fmean(found):.{digits}f}"
    return mean if len(found) == 1 else f"{mean} ± {statistics.stdev(found):.{digits}f}"


def reproduce(item: Item, kind: str, work: Path, seeds: int, data_dir: str) -> dict[str, Any]:
    """Carries an item out and returns its record: rows, wall time, commands and pictures.

    Raises Failed where a command fails.
    """
    planned = list(steps(item, kind, work, seeds, data_dir))
    seconds = sum(carry_out(step) for step in planned)
    used = {run.name: folders(run, kind, work, seeds) for run in item.runs if run.config(kind)}
    pictures = []
    for picture in item.pictures:
        name, _, path = picture.partition(": ")
        if name in used:
            pictures.append(str(used[name][0] / f"{path.replace('{ood}', item.ood(kind))}.png"))
    if item.draw:
        out = work / kind / item.name
        out.mkdir(parents=True, exist_ok=True)
        pictures.append(str(item.draw(used, out)))
    rows = [{"what": row.what, "published": row.published,
             "ours": told(values(item, row, kind, work, seeds), row.digits) if row.key else "no such score"}
            for row in item.rows]
    return {"kind": kind, "seeds": max((len(found) for found in used.values()), default=1), "rows": rows,
            "seconds": round(seconds), "pictures": [path for path in pictures if Path(path).exists()]}  # fmt: skip
