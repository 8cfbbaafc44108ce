"""The runs of a sweep: a grid of flags over seeds, which of them are finished, and one process after the other."""

import dataclasses
import itertools
import math
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

from pae_zoo import models
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import launch
from pae_zoo.experiment.session import read_flags
from pae_zoo.experiment.workdir import Run

# `--seeds` and `--out` set these; help would end a run before it begins.
RESERVED = {"seed": "--seeds", "workdir": "--out", "flagfile": "the words after --", "help": "", "helpfull": ""}
#: most points of a grid, and most letters of a folder's name
MOST_POINTS, LONGEST_NAME = 10_000, 200

#: flags and their values: a point of the grid
Point = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """One run: its place in the grid, seed, work directory and parsed hyper-parameters."""

    point: Point
    seed: int
    workdir: Path
    flags: list[str]
    hparams: Any

    @property
    def label(self) -> str:
        return " ".join([*(f"{k}={v}" for k, v in self.point), f"seed={self.seed}"])

    @property
    def log(self) -> Path:
        """Beside the work directory, which must hold nothing but the run."""
        return self.workdir.with_suffix(".log")


def parse_grid(text: str) -> list[Point]:
    """Returns the points of a grid such as "model=ae,vae latent_dim=2,8"; raises UserError."""
    axes: dict[str, list[str]] = {}
    for word in text.split():
        name, equals, values = word.partition("=")
        split = values.split("|" if "|" in values else ",")
        name = name.lstrip("-")
        if not equals or not re.fullmatch(r"[a-z_0-9]+", name) or not all(split):
            raise UserError(f"--grid: {word!r} is not name=value,value,...; write for example latent_dim=2,8")
        if name in axes:
            raise UserError(f"--grid names {name} twice; give all its values in one word")
        if name in RESERVED:
            instead = f"; use {RESERVED[name]}" if RESERVED[name] else ""
            raise UserError(f"--grid cannot set {name}{instead}")
        if len(set(split)) < len(split):
            raise UserError(f"--grid gives {name} a value twice: {values}")
        axes[name] = split
    count = math.prod(map(len, axes.values()))
    if count > MOST_POINTS:
        raise UserError(f"--grid has {count} points; at most {MOST_POINTS} are run: take fewer values")
    return [tuple(zip(axes, values)) for values in itertools.product(*axes.values())]


def some_points(points: list[Point], count: int, seed: int) -> list[Point]:
    """Returns `count` of the points, drawn without repetition and in their order; 0, or as many as there are: all."""
    if not count or count >= len(points):
        return points
    return [points[index] for index in sorted(random.Random(seed).sample(range(len(points)), count))]


def parse_seeds(text: str) -> list[int]:
    """Returns the seeds of a flag such as 0,1,2; raises UserError."""
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() for word in words) or len(set(map(int, words))) < len(words):
        raise UserError(f"--seeds={text} is not a list of different integers from 0 on; write for example 0,1,2")
    return [int(word) for word in words]


def make_plans(points: Sequence[Point], seeds: Sequence[int], out: Path, common: Sequence[str]) -> list[Plan]:
    """Returns all runs, their flags checked by the launcher's own parser; raises UserError."""
    common = launch.begin(common)
    for word in common:
        name = word.lstrip("-").split("=")[0]
        if name in RESERVED:
            raise UserError(
                f"--{name} cannot stand after --" + (f"; use {RESERVED[name]}" * bool(RESERVED[name]))
            )
    plans = []
    for point in points:
        folder = re.sub(r"[^A-Za-z0-9_.,=+-]", "_", "+".join(f"{k}={v}" for k, v in point)) or "all"
        if len(folder) > LONGEST_NAME:
            raise UserError(
                f"--grid has a point of {len(folder)} letters, which names a folder of --out; at most {LONGEST_NAME} "
                "are possible: put long values into a flagfile after --"
            )
        for seed in seeds:
            # The grid's flags come last: absl takes the last value.
            flags = [*common, *(f"--{k}={v}" for k, v in point), f"--seed={seed}"]
            module = models.find(launch.value_of(flags, "model", "vae"))
            hparams, unread = read_flags(module, flags)
            lost = [name for name, _ in point if name in unread]
            if lost:
                raise UserError(f"--grid sets {lost[0]}, which has no effect: {unread[lost[0]]}. Leave it out, or "
                                "choose networks that read it.")
            plans.append(Plan(point, seed, out / folder / str(seed), flags, hparams))
    if len({plan.workdir for plan in plans}) < len(plans):
        raise UserError("--grid has points whose folders would have the same name; they differ only in unusual letters")
    return plans


def is_finished(plan: Plan) -> bool:
    """Whether the work directory holds this very run, finished; raises UserError for another run."""
    run = Run(plan.workdir)
    if not run.exists:
        return False
    before = run.read_hparams()
    now = hp.smoke(plan.hparams) if plan.hparams.smoke else plan.hparams
    changed = hp.differences(before, now)
    if changed or now.epochs < before.epochs:
        changed = changed or [f"epochs: {before.epochs} -> {now.epochs} (may only be raised)"]
        raise UserError(f"{plan.workdir} holds a run with other flags ({'; '.join(changed)}); choose a new --out")
    return before.epochs == now.epochs and run.is_finished


class Runner:
    """Runs the launcher in child processes, at most `jobs` at once; signals go to them, which checkpoint and end.

    A process per run, not a call of `main` per run: a run that dies of memory or a signal takes nobody
    with it, dtype policy, device and registered classes of one run do not leak into the next, and each is
    exactly the command that its log names.
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs
        self.children: set[subprocess.Popen] = set()
        self.signum = 0
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._forward)

    def _forward(self, signum, frame) -> None:
        self.signum = signum
        for child in list(self.children):
            if child.poll() is None:
                child.send_signal(signum)

    def run(self, plan: Plan) -> str:
        """Runs one plan; returns "" or why it failed."""
        if self.signum:
            return "not begun"
        return run_alone(plan.flags, plan.workdir, plan.log, self.jobs, self._begun, self.children.discard)

    def _begun(self, child: subprocess.Popen) -> None:
        self.children.add(child)
        if self.signum:
            child.send_signal(self.signum)


class Stopped(str):
    """Why a run was ended early, which is no failure."""


Told = Callable[[subprocess.Popen], None]


def run_alone(flags: Sequence[str], workdir: Path, log: Path, jobs: int = 1, begun: Told = lambda child: None,
              ended: Told = lambda child: None) -> str:
    """Runs the launcher in a process that has its share of the cores; returns "" or why it failed."""
    child = begin(flags, workdir, log, jobs)
    begun(child)
    status = child.wait()
    ended(child)
    return failure_of(status, log) if status else ""


def begin(flags: Sequence[str], workdir: Path, log: Path, jobs: int = 1,
          prepare: Optional[Callable[[], None]] = None) -> subprocess.Popen:
    """Starts the launcher in a process that has its share of the cores; `prepare` is called there first."""
    command = [sys.executable, "-m", "pae_zoo.main", *flags, f"--workdir={workdir}"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        # A session of its own: the terminal's Ctrl-C would otherwise reach the child twice.
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=prepare,
            env={**_threads(jobs), **os.environ},
        )


def failure_of(status: int, log: Path) -> str:
    """Returns what is told of a run that ended with a status other than 0: its last line."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"status {status}: {lines[-1].strip()} (log: {log})"


def _threads(jobs: int) -> dict[str, str]:
    """The environment of one of several runs at once: threads that wait for each other's cores lose time."""
    if jobs == 1:
        return {}
    share = str(max(1, (os.cpu_count() or 1) // jobs))
    return {"OMP_NUM_THREADS": share, "TF_NUM_INTRAOP_THREADS": share, "OPENBLAS_NUM_THREADS": share}
