"""Evaluates finished runs: python -m pae_zoo.evaluate --workdir=RUN --tasks=likelihood,ood --ood_datasets=mnist."""

import dataclasses
import sys

from pae_zoo import evaluation, models
from pae_zoo.core import hparams as hp
from pae_zoo.core import records
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import at_test, console, launch
from pae_zoo.experiment.session import tasks_of
from pae_zoo.experiment.workdir import Run, workdirs
from pae_zoo.reporting import run_page


@dataclasses.dataclass(frozen=True)
class _Own(records.TaskFlags, records.PluginFlags):
    """Flags of the evaluation; those left out take the run's own values."""

    workdir: str = hp.option("", "Work directory of a finished run.", path=True)
    workdirs: tuple[str, ...] = hp.option((), "Several work directories, or patterns such as 'runs/vae_*'.",
                                        path=True)
    data_dir: str = hp.option("", "Folder that holds data sets as files.", path=True)
    download: bool = hp.option(True, "Whether tensorflow-datasets may download a set not found on disk.")
    seed: int = hp.option(0, "Chooses the noise of the evaluation.", low=0, high=2**31 - 1)
    device: str = hp.option("auto", "Where to compute.", choices=("auto", "cpu", "gpu"))
    verbosity: int = hp.option(0, "1 shows TensorFlow's own messages.", low=-1, high=2)


def flags() -> type:
    """Returns the record of this command: its own flags and those of all tasks."""
    return hp.compose("Flags", _Own, at_test.Flags, *evaluation.flag_records().values())


Flags = flags()


def main(argv: list[str]) -> int:
    argv = launch.begin(argv)
    if launch.wants_help(argv):
        tasks = "\n".join(f"  {name:20} {line}" for name, line in evaluation.describe().items())
        print(f"{__doc__}\n\nTasks:\n{tasks}\n\n{hp.help_text(flags())}\n")
        return 0
    options, given = launch.parse(flags(), argv)
    evaluation.check(options)
    runs = [Run(path) for path in workdirs(options)]
    for run in runs:  # every mistake is told before the first number is computed
        launch.works_in(run.workdir)
        at_test.changes(run, options, given)
        hparams = _hparams(run, options, given)
        evaluation.check_refine(hparams, models.find(hparams.model).MODEL)
        run.read_metrics()
        run.prepare()
        evaluation.check_data(hparams, tasks_of(hparams, models.find(hparams.model).MODEL))
    launch.set_device(options.device)
    done = [_evaluate(run, options, given) for run in runs]
    if len(runs) > 1:
        print(f"mean and standard deviation over {len(runs)} runs, of all that their metrics.json hold:")
        summary = console.over_runs([run.read_metrics() for run in runs])
        print(*(f"  {key:42} {value}" for key, value in summary.items()), sep="\n")
    for name in dict.fromkeys(name for names in done for name in names):
        for line in evaluation.over_runs([name], [run for run, names in zip(runs, done) if name in names], options):
            print(line, flush=True)
    return 0


def _hparams(run: Run, options, given: set[str]):
    """Returns the hyper-parameters of a run with what the command changes of them."""
    hparams = run.read_hparams()
    changed = {name: getattr(options, name) for name in given if hasattr(hparams, name)
               and name not in ("workdir", "seed")}  # fmt: skip
    return dataclasses.replace(hparams, **{**changed, "workdir": str(run.workdir)})


def _evaluate(run: Run, options, given: set[str]) -> tuple[str, ...]:
    """Evaluates one run and returns the names of the tasks that its model supports."""
    hparams, changed = _hparams(run, options, given), at_test.changes(run, options, given)
    dataset = run.as_trained(launch.load_dataset(run.read_hparams() if "data_dir" not in given else hparams))
    model = at_test.model(run, changed, dataset)
    if "test_samples" in given and hasattr(model, "test_samples"):
        model.test_samples = hparams.test_samples
    if tuple(dataset.event_shape) != tuple(model.event_shape):
        raise UserError(f"{run.model_path} takes data of shape {tuple(model.event_shape)}, {hparams.dataset} has "
                        f"{tuple(dataset.event_shape)}: one of them is not what this run was trained on.")  # fmt: skip
    names = tasks_of(hparams, type(model))
    evaluation.check_data(hparams, names, dataset)
    # The run's own seed stays what it was: tables tell models apart by it.
    seed = options.seed if "seed" in given else hparams.seed
    at_test.measure(model, changed, dataset.valid.x)
    model = evaluation.refined(model, hparams)
    context = evaluation.Context(model, dataset, hparams, run, seed=seed, variant=changed.suffix)
    values = evaluation.evaluate(context, names, run.merge_metrics)
    print(f"{run.workdir}:")
    print("\n".join(console.lines(values) + console.pictures(context.figures)), flush=True)
    run_page.refresh(run)
    return tuple(name for name in names if values.get(name) != evaluation.UNSUPPORTED)


if __name__ == "__main__":
    sys.exit(launch.run(main, sys.argv[1:]))
