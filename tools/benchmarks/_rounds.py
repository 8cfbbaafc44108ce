"""Shared by all benchmarks: contenders in processes of their own that take turns, medians, tables.

A machine's speed drifts, so contenders are never timed one after the other but in rounds in which each
takes one turn, and ratios are formed within a round. Each contender has a process of its own, which sleeps
while others work: thread pools, allocators and imports of one framework do not disturb another.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
import traceback
from typing import Any, Callable, Iterator, Sequence

# What a contender's process may take for imports and compilation before its first turn ends.
PATIENCE_SECONDS = 1800
# glibc returns freed memory to the system by default, which costs PyTorch page faults; this stops it.
KEEP_MEMORY = {
    "MALLOC_TOP_PAD_": "67108864",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
}


class Finished(Exception):
    """Raised in a contender's process when there are no more turns."""


class Baton:
    """A contender's side: `start` waits for its turn, `stop` ends it.

    Args:
      wait: returns True when it is this contender's turn, False when there are no more.
      report: takes the measurements of a turn.
    """

    def __init__(self, wait: Callable[[], bool], report: Callable[[dict[str, float]], None]):
        self._wait, self._report = wait, report

    def start(self) -> None:
        """Waits for a turn and starts the clocks; raises Finished when there are no more turns."""
        if not self._wait():
            raise Finished
        self.wall, self.cpu, self.faults = time.perf_counter(), time.process_time(), _faults()

    def lap(self) -> tuple[float, float]:
        """Returns the wall and processor seconds of the turn until now."""
        return time.perf_counter() - self.wall, time.process_time() - self.cpu

    def stop(self, steps: int, less: tuple[float, float] = (0.0, 0.0), **notes: float) -> None:
        """Ends a turn of `steps` steps; `less` are wall and processor seconds in it that do not count."""
        wall, cpu = (passed - left for passed, left in zip(self.lap(), less))
        faults = (_faults() - self.faults) / steps
        self._report({"ms": 1e3 * wall / steps, "cpu_ms": 1e3 * cpu / steps, "page_faults": faults, **notes})

    def repeat(self, work: Callable[[], int]) -> None:
        """Calls work() -> steps once per turn, until there are no more."""
        while True:
            self.start()
            self.stop(work())


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@dataclasses.dataclass(frozen=True)
class Contender:
    """What takes turns: run(baton, **options) in a process of its own; `run` is a module's function.

    `environment` is set in that process from its start on.
    """

    name: str
    run: Callable[..., None]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


class _Worker:
    """The parent's side of one contender."""

    def __init__(self, contender: Contender, logs: str):
        context = multiprocessing.get_context("spawn")
        self.contender = contender
        self.log = os.path.join(logs, f"{contender.name.replace('/', '_')}.log")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, contender, self.log), daemon=True)
        self.started = time.time()
        with _environment(contender.environment):
            self.process.start()
        theirs.close()

    def turn(self) -> dict[str, float]:
        self.pipe.send(True)
        try:
            found = self.pipe.recv() if self.pipe.poll(PATIENCE_SECONDS) else {"error": "no answer in time"}
        except EOFError:
            found = {"error": f"its process ended with status {self.process.exitcode}"}
        if "error" in found:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                raise RuntimeError(
                    f"benchmark {self.contender.name}: {found['error']}\n{file.read()[-2000:]}"
                )
        return found

    def end(self) -> None:
        try:
            self.pipe.send(False)
            self.process.join(60)
        except OSError:  # it is gone already
            pass
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _work(pipe, contender: Contender, log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        contender.run(Baton(pipe.recv, pipe.send), **contender.options)
    except (Finished, EOFError):
        pass
    except BaseException:
        pipe.send({"error": traceback.format_exc()})


def alternate(contenders: Sequence[Contender], rounds: int, say: Callable[[str], None]) -> dict:
    """Lets contenders take turns; returns {name: [measurements of each round]}.

    The first turn of each, with imports and compilation, is not among them: its length, from the start of
    the process, is added to every measurement as "setup_s". The order rotates from round to round. Raises
    RuntimeError with the log of a contender that fails.
    """
    found: dict[str, list[dict[str, float]]] = {c.name: [] for c in contenders}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as logs:
        workers: list[_Worker] = []
        try:
            setup = {}
            for contender in contenders:  # one after the other: they would slow each other down
                workers.append(_Worker(contender, logs))
                workers[-1].turn()
                setup[contender.name] = time.time() - workers[-1].started
            for number in range(rounds):
                shift = number % len(workers)
                for worker in workers[shift:] + workers[:shift]:
                    name = worker.contender.name
                    found[name].append({**worker.turn(), "setup_s": setup[name]})
                times = "  ".join(f"{name} {turns[-1]['ms']:.3g}" for name, turns in found.items())
                say(f"round {number + 1}/{rounds}, load {load():.2f}, ms per step: {times}")
        finally:
            for worker in workers:
                worker.end()
    return found


def once(contender: Contender) -> dict[str, float]:
    """Returns the measurements of a contender's first turn alone; raises RuntimeError with its log where it fails."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as logs:
        worker = _Worker(contender, logs)
        try:
            return worker.turn()
        finally:
            worker.end()


def median(turns: list[dict[str, float]], metric: str) -> float:
    """Returns the median of a metric over the rounds."""
    return statistics.median(turn[metric] for turn in turns)


def ratio(turns: list[dict[str, float]], others: list[dict[str, float]], metric: str = "ms") -> float:
    """Returns the median over rounds of (metric of `turns`) / (metric of `others`) within the round."""
    return statistics.median(a[metric] / b[metric] for a, b in zip(turns, others))


def load() -> float:
    """Returns the one-minute load average, NaN where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def cores() -> int:
    """Returns the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a markdown table, columns aligned."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(_line(row, widths) for row in [head, rule, *rows])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells: Iterator[str] = (
        text.ljust(width) if i == 0 else text.rjust(width) for i, (text, width) in enumerate(zip(row, widths))
    )
    return f"| {' | '.join(cells)} |"
