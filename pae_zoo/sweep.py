"""Trains a grid of flags over seeds: python -m pae_zoo.sweep --grid "latent_dim=2,8" --seeds=0,1 --out=DIR -- FLAGS."""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pae_zoo.core import files
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import launch
from pae_zoo.experiment.sweep_plans import Plan, Runner, is_finished, make_plans, parse_grid, parse_seeds
from pae_zoo.experiment.sweep_tables import metrics_of, write_tables

MORE = """  python -m pae_zoo.sweep --grid "model=ae,vae latent_dim=2,8" --seeds=0,1,2 --out=runs/sweep \\
      -- --dataset=digits --epochs=5

Every point of the grid and seed is one `python -m pae_zoo.main` with its own work directory OUT/<point>/<seed>, one
after the other. Words after -- go to all of them. Values are separated by commas, or by | where a value has commas
itself: "hidden_units=512,256|64". The same command again skips finished runs, resumes interrupted ones and tries
failed ones again. It writes the mean and standard deviation of the metrics: OUT/table.md and OUT/table.csv (a row per
point) and OUT/runs.csv (a row per run)."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of a sweep."""

    grid: str = hp.option("", 'Flags and their values: "model=ae,vae latent_dim=2,8".')
    seeds: str = hp.option("0", "Seeds, such as 0,1,2.")
    out: str = hp.option("", "Folder of all runs and of the tables.", path=True)
    metrics: tuple[str, ...] = hp.option((), "Metrics of the table, such as test/mse,test/elbo (none: all test/*).")
    verbosity: int = hp.option(0, "1 shows TensorFlow's own messages.", low=-1, high=2)


def main(argv: list[str]) -> int:
    own, common = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    own = launch.expand_flagfiles(own)
    if launch.wants_help(own):
        print(f"{__doc__}\n\n{MORE}\n\n{hp.help_text(Flags)}\n")
        return 0
    options, _ = launch.parse(Flags, own)
    if not options.out:
        raise UserError("--out is needed: the folder of all runs and of the tables.")
    out = Path(options.out)
    points, seeds = parse_grid(options.grid), parse_seeds(options.seeds)
    files.check_place(out, "out")
    plans = make_plans(points, seeds, out, common)
    finished = {plan.workdir for plan in plans if is_finished(plan)}
    return run_all(out, plans, finished, options.metrics)


def run_all(out: Path, plans: list[Plan], finished: set[Path], chosen: Sequence[str]) -> int:
    """Runs what is not finished, writes the tables and tells what failed; returns the exit status."""
    runner, failures, values = Runner(), {}, {}
    for number, plan in enumerate(plans, 1):
        start = time.monotonic()
        failure = "" if plan.workdir in finished else runner.run(plan)
        if runner.signum:
            print(f"stopped at {plan.label}; start the same command again to go on", flush=True)
            return 128 + runner.signum
        if failure:
            failures[plan.label] = failure
            print(f"[{number}/{len(plans)}] {plan.label}: FAILED", flush=True)
            continue
        values[plan.workdir] = found = metrics_of(plan, chosen)
        took = "already finished" if plan.workdir in finished else f"{time.monotonic() - start:.1f} s"
        shown = "  ".join(f"{name} {value:.6g}" for name, value in list(found.items())[:3])
        print(f"[{number}/{len(plans)}] {plan.label}: {took}  {shown}", flush=True)
    if values:
        print(f"\n{write_tables(out, plans, values)}\nmean ± standard deviation over seeds (n - 1) -> "
              f"{out}/table.md, table.csv, runs.csv", flush=True)  # fmt: skip
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
