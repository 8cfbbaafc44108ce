"""Runs of a sweep of which Ray Tune ends early what lags behind: asynchronous successive halving (ASHA).

Li and others, A system for massively parallel hyperparameter tuning, 2020, arXiv 1810.05934, algorithm 2: at epochs
r, r f, r f^2, ... a run goes on when its validation loss is in the best 1 / f of those that came so far.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from pae_zoo.core.errors import UserError
from pae_zoo.core.ray_engine import connect
from pae_zoo.experiment.sweep_plans import Plan, Stopped, begin, failure_of
from pae_zoo.experiment.workdir import Run

#: in the work directory of a run that was ended early: where, and with which loss
MARK = "stopped.json"
LOSS = "valid/loss"
# Seconds between two looks at a run, and those that it has to write a checkpoint and end.
LOOK, PATIENCE = 0.5, 120.0


class AshaPool:
    """A Ray cluster whose runs report their validation loss after each epoch, and end when they lag behind.

    Args:
      address, cpus, gpus: as `sweep_ray.RayPool`.
      grace: epochs that every run has.
      factor: of that many runs one goes on.
      tries: how often a run that fails is tried.

    Raises UserError without Ray Tune, and where no cluster answers.
    """

    def __init__(self, address: str, cpus: float, gpus: float, grace: int, factor: int, tries: int) -> None:
        self.ray = connect(address, cpus, gpus)
        try:
            from ray import tune  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError("--search=asha needs Ray Tune: pip install 'pae_zoo[ray]'.") from error
        self.tune: Any = tune
        self.signum, self.cpus, self.gpus = 0, cpus, gpus
        self.grace, self.factor, self.tries = grace, factor, tries

    def results(self, plans: Sequence[Plan]) -> Iterator[tuple[Plan, str]]:
        """Yields (plan, "", why it failed, or `Stopped`), when all have ended."""
        begun = []
        for plan in plans:
            before = stopped(plan)
            if before is None:
                begun.append(plan)
            else:
                yield plan, before
        if begun:
            yield from self._tune(begun)

    def _tune(self, plans: Sequence[Plan]) -> Iterator[tuple[Plan, str]]:
        tune = self.tune
        from ray.tune.schedulers import ASHAScheduler  # pyright: ignore[reportMissingImports]

        # Ray's own handler would end all runs and go on as if they had been told to.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        jobs = [{"flags": list(plan.flags), "workdir": str(plan.workdir), "log": str(plan.log)} for plan in plans]
        most = max(plan.hparams.epochs for plan in plans)
        scheduler = ASHAScheduler(time_attr="epoch", max_t=most + 1, grace_period=min(self.grace, most),
                                  reduction_factor=self.factor)  # fmt: skip
        with tempfile.TemporaryDirectory() as place:
            found = tune.Tuner(
                tune.with_resources(_trainable(tune), {"cpu": self.cpus, "gpu": self.gpus}),
                param_space={"job": tune.grid_search(jobs)},
                tune_config=tune.TuneConfig(metric="loss", mode="min", scheduler=scheduler),
                run_config=tune.RunConfig(storage_path=place, verbose=0,
                                          failure_config=tune.FailureConfig(max_failures=self.tries - 1)),
            ).fit()  # fmt: skip
        by_place = {str(plan.workdir): plan for plan in plans}
        for result in found:
            plan = by_place[result.config["job"]["workdir"]]
            if result.error is not None:
                text = [line for line in str(result.error).splitlines() if line.strip()][-1]
                yield plan, text.rpartition("RuntimeError: ")[2]
            elif Run(plan.workdir).is_finished:
                yield plan, ""
            else:
                metrics = result.metrics or {}
                Run(plan.workdir).write_json(MARK, {"epoch": metrics["epoch"], LOSS: metrics["loss"]})
                yield plan, stopped(plan) or ""


def stopped(plan: Plan) -> Optional[Stopped]:
    """Returns what is told of a run that was ended early, None of any other; raises UserError for a damaged file."""
    run = Run(plan.workdir)
    if run.is_finished or not (run.workdir / MARK).exists():
        return None
    found = run.read_json(MARK)
    return Stopped(f"ended early after epoch {found.get('epoch')}: {LOSS} {found.get(LOSS):.6g}")


class Follower:
    """A run in a process of its own, whose epochs are reported one by one.

    Args:
      flags, workdir, log: of a `Plan`.
    """

    def __init__(self, flags: Sequence[str], workdir: Path, log: Path) -> None:
        self.workdir, self.log, self._told = workdir, log, 0
        self.child = begin(flags, workdir, log, jobs=1, prepare=_end_with_parent)

    def next(self) -> dict[str, Any]:
        """Waits for the next epoch, or the end, and returns epoch, loss and whether the run has ended.

        Raises RuntimeError where it failed.
        """
        while True:
            ended = self.child.poll() is not None  # before the file is read: it is whole then
            lines = _history(self.workdir)
            if len(lines) > self._told:
                self._told += 1
                line = lines[self._told - 1]
                return {"epoch": line["epoch"], "loss": line[LOSS], "done": False}
            if ended:
                if self.child.returncode:
                    raise RuntimeError(failure_of(self.child.returncode, self.log))
                last = lines[-1] if lines else {"epoch": 0, LOSS: float("inf")}
                return {"epoch": last["epoch"], "loss": last[LOSS], "done": True}
            time.sleep(LOOK)

    def end(self) -> None:
        """Ends the run, which first writes a checkpoint."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.child.kill()


def _trainable(tune: Any) -> type:
    """Returns the class that Ray Tune makes an actor of for each run; made here, since Ray may not be installed."""

    class Trial(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            job = config["job"]
            self.run = Follower(job["flags"], Path(job["workdir"]), Path(job["log"]))

        def step(self) -> dict[str, Any]:
            return self.run.next()

        def cleanup(self) -> None:
            self.run.end()

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Leaves nothing there: the run has its own."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Takes nothing: the run goes on from its own."""

    return Trial


def _history(workdir: Path) -> list[dict[str, Any]]:
    path = workdir / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    if lines and LOSS not in lines[0]:
        raise RuntimeError(f"{path} has no {LOSS} to compare by; leave --search=asha out")
    return lines


def _end_with_parent() -> None:
    """Asks Linux to end this process when the actor that began it is killed."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
