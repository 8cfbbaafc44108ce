"""A finished run as one page, report.html: python -m pae_zoo.report --workdir=RUN."""

import dataclasses
import sys
from pathlib import Path

from pae_zoo import evaluation
from pae_zoo.core import files, records
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import launch
from pae_zoo.experiment.workdir import Run
from pae_zoo.reporting import cells, run_page

MORE = """The page holds all that it shows: what the run is, its figures with their errors and the simple methods beside
them, the curves of its training, its pictures, and a map of the codes of test data that shows what is decoded of each.
Training and evaluation write it anew by themselves; this command does it for a run of before, or elsewhere."""


@dataclasses.dataclass(frozen=True)
class Flags(records.PluginFlags):
    """Flags of the report."""

    workdir: str = hp.option("", "Work directory of a finished run.", path=True)
    output: str = hp.option("", "File of the page (empty: report.html in the work directory).", path=True)
    data_dir: str = hp.option("", "Folder that holds data sets as files.", path=True)
    device: str = hp.option("auto", "Where to compute.", choices=("auto", "cpu", "gpu"))
    verbosity: int = hp.option(0, "1 shows TensorFlow's own messages.", low=-1, high=2)


def main(argv: list[str]) -> int:
    argv = launch.begin(argv)
    if launch.wants_help(argv):
        print(f"{__doc__}\n\n{MORE}\n\n{hp.help_text(Flags)}\n")
        return 0
    options, given = launch.parse(Flags, argv)
    if not options.workdir:
        raise UserError("--workdir is needed: the folder that `python -m pae_zoo.main` wrote.")
    run = Run(options.workdir)
    target = Path(options.output or run.workdir / run_page.NAME)
    hparams = run.read_hparams()
    if not run.is_finished:
        raise UserError(f"{run.workdir} is not finished. Start its `python -m pae_zoo.main` command again to finish "
                        "it.")
    launch.works_in(run.workdir)
    if target.is_dir():
        raise UserError(f"--output={target} is a folder; give the path of a file, such as {target / run_page.NAME}.")
    files.check_place(target, "output", is_file=True)
    if not cells.has_map(run):
        _keep_map(run, hparams, options, given)
    text = run_page.page(run)
    with files.file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{target}: {len(text) / 2**20:.2f} MiB")
    return 0


def _keep_map(run: Run, hparams, options: Flags, given: set[str]) -> None:
    """Encodes some test data with the trained model, for a run that kept no map."""
    launch.set_device(options.device)
    changed = {name: getattr(options, name) for name in ("data_dir",) if name in given}
    dataset = run.as_trained(launch.load_dataset(dataclasses.replace(hparams, **changed)))
    context = evaluation.Context(run.load_model(), dataset, hparams, run, seed=hparams.seed)
    evaluation.map_points.keep(context)


if __name__ == "__main__":
    sys.exit(launch.run(main, sys.argv[1:]))
