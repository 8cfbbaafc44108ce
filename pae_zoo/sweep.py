"""Trains a grid of flags over seeds: python -m pae_zoo.sweep --grid "latent_dim=2,8" --seeds=0,1 --out=DIR -- FLAGS."""

import concurrent.futures
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional, Protocol

from pae_zoo.core import files
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import launch, mirrors, sweep_asha, sweep_ray
from pae_zoo.experiment.sweep_plans import (
    Plan,
    Runner,
    Stopped,
    is_finished,
    make_plans,
    parse_grid,
    parse_seeds,
    some_points,
)
from pae_zoo.experiment.sweep_tables import metrics_of, values_of, write_tables
from pae_zoo.experiment.workdir import Run
from pae_zoo.plotting import figures

MORE = """  python -m pae_zoo.sweep --grid "model=ae,vae latent_dim=2,8" --seeds=0,1,2 --out=runs/sweep \\
      -- --dataset=digits --epochs=5

Every point of the grid and seed is one `python -m pae_zoo.main` with its own work directory OUT/<point>/<seed>, one
after the other, or --jobs at once. Words after -- go to all of them. Values are separated by commas, or by | where a
value has commas itself: "hidden_units=512,256|64". The same command again skips finished runs, resumes interrupted
ones and tries failed ones again. It writes the mean and standard deviation of the metrics: OUT/table.md and
OUT/table.csv (a row per point), OUT/runs.csv (a row per run) and OUT/table.png. With --engine=ray the runs are tasks of
a Ray cluster, or of Ray on this machine, where all machines see OUT: pip install 'pae_zoo[ray]'."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of a sweep."""

    grid: str = hp.option("", 'Flags and their values: "model=ae,vae latent_dim=2,8".')
    seeds: str = hp.option("0", "Seeds, such as 0,1,2.")
    out: str = hp.option("", "Folder of all runs and of the tables.", path=True)
    points: int = hp.option(0, "Run so many points of the grid, drawn at random (0: all).", low=0)
    metrics: tuple[str, ...] = hp.option((), "Metrics of the table, such as test/mse,test/elbo (none: all test/*).")
    jobs: int = hp.option(1, "Runs at once, each with its share of the cores.", low=1, high=1024)
    tries: int = hp.option(1, "How often a run that fails is tried.", low=1, high=100)
    engine: str = hp.option("local", "Where runs run.", choices=("local", "ray"))
    ray_address: str = hp.option("", "Ray's cluster, such as auto or ray://host:10001 (none: this machine).")
    search: str = hp.option("all", "all runs to their end; asha: Ray Tune ends early what lags behind in valid/loss.",
                            choices=("all", "asha"))
    grace: int = hp.option(1, "asha: epochs that every run has.", low=1)
    factor: int = hp.option(3, "asha: of so many runs one goes on, at grace, grace * factor, ... epochs.", low=2)
    cpus: float = hp.option(1.0, "Cores that Ray keeps for a run.", low=0.0)
    gpus: float = hp.option(0.0, "GPUs that Ray keeps for a run; 0.5: two share one.", low=0.0)
    verbosity: int = hp.option(0, "1 shows TensorFlow's own messages.", low=-1, high=2)


def main(argv: list[str]) -> int:
    own, common = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    own = launch.expand_flagfiles(own)
    if launch.wants_help(own):
        print(f"{__doc__}\n\n{MORE}\n\n{hp.help_text(Flags)}\n")
        return 0
    options, _ = launch.parse(Flags, mirrors.here.replace(own))
    if not options.out:
        raise UserError("--out is needed: the folder of all runs and of the tables.")
    out = Path(options.out)
    points, seeds = parse_grid(options.grid), parse_seeds(options.seeds)
    files.check_place(out, "out")
    plans = make_plans(some_points(points, options.points, seeds[0]), seeds, out, common)
    finished = {plan.workdir for plan in plans if is_finished(plan)}
    tries = options.tries
    if options.search == "asha":
        _check_asha(options, plans)
        where = options.ray_address, options.cpus, options.gpus
        # Ray Tune tries again by itself.
        pool: Pool = sweep_asha.AshaPool(*where, options.grace, options.factor, options.tries)
        tries = 1
    elif options.engine == "ray":
        pool = sweep_ray.RayPool(options.ray_address, options.cpus, options.gpus)
    else:
        pool = LocalPool(options.jobs)
    return run_all(out, plans, finished, options.metrics, pool, tries)


def _check_asha(options: Flags, plans: Sequence[Plan]) -> None:
    if options.engine != "ray":
        raise UserError("--search=asha is Ray Tune's: give --engine=ray with it.")
    if any(plan.hparams.max_steps for plan in plans):
        raise UserError("--search=asha compares runs by their epochs: leave --max_steps out, and give --epochs.")


class Pool(Protocol):
    """What runs plans: `results` yields (plan, "" or why it failed) as they end; `signum` is that which stopped it."""

    @property
    def signum(self) -> int: ...

    def results(self, plans: Sequence[Plan]) -> Iterator[tuple[Plan, str]]: ...


class LocalPool:
    """Processes of this machine, so many at once."""

    def __init__(self, jobs: int = 1) -> None:
        self.runner, self.jobs = Runner(jobs), jobs

    @property
    def signum(self) -> int:
        return self.runner.signum

    def results(self, plans: Sequence[Plan]) -> Iterator[tuple[Plan, str]]:
        if self.jobs == 1:
            yield from ((plan, self.runner.run(plan)) for plan in plans)
            return
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            asked = {pool.submit(self.runner.run, plan): plan for plan in plans}
            yield from ((asked[done], done.result()) for done in concurrent.futures.as_completed(asked))


def run_all(out: Path, plans: list[Plan], finished: set[Path], chosen: Sequence[str], pool: Optional[Pool] = None,
            tries: int = 1) -> int:
    """Runs what is not finished, writes the tables and tells what failed; returns the exit status."""
    workers: Pool = pool or LocalPool()
    failures, values, ended = {}, {}, 0

    def told(plan: Plan, word: str) -> None:
        values[plan.workdir] = found = metrics_of(plan, chosen)
        shown = "  ".join(f"{name} {value:.6g}" for name, value in list(found.items())[:3])
        print(f"[{ended}/{len(plans)}] {plan.label}: {word}  {shown}", flush=True)

    waiting = []
    for plan in plans:
        if plan.workdir in finished:
            ended += 1
            told(plan, "already finished")
        else:
            waiting.append(plan)
    start = time.monotonic()
    for turn in range(1, tries + 1):
        again = []
        for plan, failure in workers.results(waiting):
            if workers.signum:
                print(f"stopped at {plan.label}; start the same command again to go on", flush=True)
                return 128 + workers.signum
            if failure and turn < tries and not isinstance(failure, Stopped):
                again.append(plan)
                print(f"{plan.label}: failed, and is tried again: {failure}", flush=True)
                continue
            ended += 1
            if isinstance(failure, Stopped):
                print(f"[{ended}/{len(plans)}] {plan.label}: {failure}", flush=True)
            elif failure:
                failures[plan.label] = failure
                print(f"[{ended}/{len(plans)}] {plan.label}: FAILED", flush=True)
            else:
                told(plan, f"after {time.monotonic() - start:.1f} s")
        waiting = again
    if values:
        text = write_tables(out, plans, values)
        first = next((name for found in values.values() for name in found), "")
        if first:
            picture = figures.points_with_errors(values_of(first, plans, values), f"{first} of each point", first)
            Run(out).save("table.png", lambda path: picture.savefig(path, format="png", dpi=figures.DPI))
        print(f"\n{text}\nmean ± standard deviation over seeds (n - 1) -> {out}/table.md, table.csv, runs.csv, "
              "table.png", flush=True)  # fmt: skip
    for name in chosen:
        if values and not any(name in found for found in values.values()):
            failures[f"--metrics={name}"] = (
                "no run has this metric; metrics.json in a work directory shows their names"
            )
    for label, failure in failures.items():
        print(f"sweep: failed: {label}: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(launch.run(main, sys.argv[1:]))
