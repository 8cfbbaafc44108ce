"""The work of `apply --part_rows` shared by several processes: which pieces are whose, and processes on Ray."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from pae_zoo.core.errors import UserError
from pae_zoo.core.ray_engine import connect

# Flags that say how the work is shared, which each process is told anew.
OWN = ("engine", "workers", "share", "ray_address")


class Share(NamedTuple):
    """The place of a process among those that share the work."""

    number: int = 0
    size: int = 1

    def opens(self, file: int, files: int) -> bool:
        """Whether a file has pieces of this process's."""
        return files < self.size or file % self.size == self.number

    def takes(self, file: int, piece: int, files: int) -> bool:
        """Whether a piece is this process's: by files where there are enough, else piece by piece."""
        return (file if files >= self.size else piece) % self.size == self.number

    def __str__(self) -> str:
        return f"{self.number}/{self.size}"


def parse(text: str) -> Share:
    """Returns the share that a flag such as 0/4 names; raises UserError for one that is none."""
    if not text:
        return Share()
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if match is None or not 0 <= int(match[1]) < int(match[2]):
        raise UserError(f"--share={text} is none: written I/N, the I-th of N processes, from 0/4 to 3/4 for four.")
    return Share(int(match[1]), int(match[2]))


def record_of(share: Share, whole: str) -> str:
    """Returns the name of the file in which a process notes its parts: `whole` for one that works alone."""
    return whole if share.size == 1 else whole.replace(".json", f"-{share.number}-of-{share.size}.json")


def notes(folder: Path, whole: str) -> dict[str, int]:
    """Returns {part: rows} of what the processes that share a folder have noted so far."""
    found: dict[str, int] = {}
    for path in sorted(folder.glob(whole.replace(".json", "-*-of-*.json"))):
        found |= json.loads(path.read_text(encoding="utf-8"))["parts"]
    return found


def on_ray(argv: Sequence[str], workers: int, address: str) -> None:
    """Runs the command in so many processes as tasks of Ray, each with its share; raises UserError where one fails."""
    ray = connect(address, 1.0, 0.0)
    words = _without(argv)
    task = ray.remote(num_cpus=1, max_retries=2)(_run)
    waiting = {task.remote([*words, f"--share={Share(number, workers)}"]): number for number in range(workers)}
    failures: dict[int, str] = {}
    while waiting:
        (ended,), _ = ray.wait(list(waiting), num_returns=1)
        number = waiting.pop(ended)
        try:
            failure = ray.get(ended)
        except ray.exceptions.RayError as error:
            failure = f"Ray: {str(error).splitlines()[-1]}"
        if failure:
            failures[number] = failure
        print(f"share {Share(number, workers)}: {failure or 'done'}", file=sys.stderr, flush=True)
    if failures:
        raise UserError(f"{len(failures)} of {workers} processes failed; mend what they say, and give the same command "
                        f"again. {next(iter(failures.values()))}")


def _run(words: list[str]) -> Optional[str]:
    done = subprocess.run([sys.executable, "-m", "pae_zoo.apply", *words], capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return None if done.returncode == 0 else (lines or [f"status {done.returncode}"])[-1]


def _without(argv: Sequence[str]) -> list[str]:
    """Returns argv without the flags in OWN, in either spelling."""
    return list(_kept(list(argv)))


def _kept(words: list[str]) -> Iterator[str]:
    while words:
        word = words.pop(0)
        name, equals, _ = word.lstrip("-").partition("=")
        if word.startswith("-") and name in OWN:
            if not equals and words:
                words.pop(0)
            continue
        yield word


def check(options: Any) -> None:
    """Raises UserError for flags that share no work, and for some that do not go together."""
    share = parse(options.share)
    if not options.part_rows and (options.share or options.engine != "local"):
        raise UserError("--engine and --share divide results in parts: add --part_rows=N.")
    if options.engine == "ray" and share.size > 1:
        raise UserError("--engine=ray gives each process its --share; leave that out.")
