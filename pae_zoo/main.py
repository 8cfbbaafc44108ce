"""Trains a model, evaluates it, draws it and saves it: python -m pae_zoo.main --model=vae --dataset=digits."""

import dataclasses
import sys
from typing import Any

from pae_zoo import data, evaluation, models, networks
from pae_zoo.core import hparams as hp
from pae_zoo.experiment import cluster, launch, record
from pae_zoo.experiment.session import default_tasks, finish, prepare, read_flags
from pae_zoo.models import capabilities
from pae_zoo.reporting import run_page


def help_page(argv: list[str]) -> str:
    """Returns the help: with --model all flags of that model, else models, data sets and tasks."""
    name = launch.value_of(argv, "model", "")
    usage = "python -m pae_zoo.main --model=MODEL --dataset=DATASET --workdir=DIR [--flagfile=CONFIG] [flags]"
    if name:
        module = models.find(name)
        asked = [task for task in launch.value_of(argv, "tasks", "").split(",") if task]
        kinds = [launch.value_of(argv, role, "mlp") for role in ("encoder", "decoder")]
        flags = record.help_text(module, kinds, asked or default_tasks(module.MODEL),
                                 bool(launch.value_of(argv, "lr_schedule", "")))
        offers = capabilities.describe(module.MODEL)
        return f"{models.line(name)}\n\nIt offers {offers}.\n\nUsage: {usage}\n\n{flags}\n"
    lists = {
        "Models": models.describe(), "Data sets": data.describe(), "Networks": networks.describe(),
        "Tasks": evaluation.describe(),
    }
    text = "\n\n".join(f"{head}:\n" + "\n".join(f"  {k:20} {v}" for k, v in d.items()) for head, d in lists.items())
    published = f"Models that imitate published code, faults included: {', '.join(models.PUBLISHED)}"
    more = "All flags of a model: python -m pae_zoo.main --model=vae --helpfull"
    return f"{__doc__}\n\nUsage: {usage}\n\n{text}\n\n{published}\n\n{more}\n"


def main(argv: list[str]) -> int:
    argv = launch.begin(argv)
    if launch.wants_help(argv):
        print(help_page(argv))
        return 0
    module = models.find(launch.value_of(argv, "model", "vae"))
    hparams, unread = read_flags(module, argv)
    if unread:
        print("; ".join(f"--{flag} has no effect: {why}" for flag, why in unread.items()), flush=True)
    if hparams.smoke:
        hparams = hp.smoke(hparams)
    hparams = dataclasses.replace(hparams, workdir=hparams.workdir or default_workdir(hparams))
    with cluster.own_workdir(hparams) as hparams:
        session = prepare(hparams, module)
        status = finish(session)
        if session.shared.task.is_chief:  # which evaluates
            print(f"Report: {run_page.refresh(session.run)}", flush=True)
        return status


def default_workdir(hparams: Any) -> str:
    """Returns runs/<model>/<dataset slug>/<seed>."""
    return f"runs/{hparams.model}/{data.slug(hparams.dataset)}/{hparams.seed}"


if __name__ == "__main__":
    sys.exit(launch.run(main, sys.argv[1:]))
