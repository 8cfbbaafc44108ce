"""Uses a trained model on your own files: python -m pae_zoo.apply --workdir=RUN --input=folder:DIR --out=codes.npz."""

import dataclasses
import functools
import sys
from typing import Any

from pae_zoo import evaluation
from pae_zoo.applying import anomalies, inputs, parts, results
from pae_zoo.applying import outputs as applying
from pae_zoo.core import hparams as hp
from pae_zoo.core import records
from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.support.restoring import RestorationFlags
from pae_zoo.experiment import at_test, launch
from pae_zoo.experiment.workdir import Run


@dataclasses.dataclass(frozen=True)
class Flags(RestorationFlags, anomalies.AnomalyFlags, parts.PartFlags, at_test.Flags, records.RefineFlags,
            records.PluginFlags):  # fmt: skip
    """Flags of the application."""

    workdir: str = hp.option("", "Work directory of a finished run.", path=True)
    input: str = hp.option("", "Your data: a table, csv:FILE or parquet:FILE, with the columns of the training; "
                           "arrays, npz:FILE (x, or x_train and x_test) or npy:FILE; windows of a series, "
                           "windows:FILE; or images, folder:DIR. In parts also tfrecord:FILE.", path=True)
    outputs: tuple[str, ...] = hp.option(("codes",), "What to compute; see the list above.")
    out: str = hp.option("", "Where the results go: FILE.npz, FILE.csv, or a folder for pictures and scores.csv.",
                         path=True)
    importance_samples: int = hp.option(100, "Samples per datum of log_likelihood and imputed.", low=1, high=10_000_000)
    imputed_draws: int = hp.option(0, "Draws that the output imputed gives for each datum beside mean and std.", low=0,
                                   high=10_000)
    batch_size: int = hp.option(0, "Data per batch (0: the run's own).", low=0)
    limit: int = hp.option(0, "Take only the first so many data (0: all).", low=0)
    seed: int = hp.option(0, "Chooses the noise of the outputs that are estimates.", low=0, high=2**31 - 1)
    crop: str = hp.option("", "Crop instead of the run's own; --crop= crops nothing.")
    image_size: int = hp.option(0, "Resize to this size instead of the run's own; 0 resizes nothing.",
                                low=0, high=16_384)
    grey: bool = hp.option(False, "Turn to grey, or not, instead of what the run did.")
    invert: bool = hp.option(False, "Replace x by 1 - x, or not, instead of what the run did.")
    jit_compile: bool = hp.option(True, "Compile with XLA.")
    device: str = hp.option("auto", "Where to compute.", choices=("auto", "cpu", "gpu"))
    verbosity: int = hp.option(0, "1 shows TensorFlow's own messages.", low=-1, high=2)


def main(argv: list[str]) -> int:
    argv = launch.begin(argv)
    if launch.wants_help(argv):
        lines = "\n".join(f"  {name:16} {line}" for name, line in applying.describe().items())
        print(f"{__doc__}\n\nOutputs:\n{lines}\n\n{hp.help_text(Flags)}\n")
        return 0
    options, given = launch.parse(Flags, argv)
    for name in ("workdir", "input", "out"):
        if not getattr(options, name):
            raise UserError(f"--{name} is needed. Use --help to see what it takes.")
    applying.check_outputs(options.outputs)
    applying.check_restoration(options, given)
    anomalies.check(options, given)
    run = Run(options.workdir)
    launch.works_in(run.workdir)
    hparams, changed = run.read_hparams(), at_test.changes(run, options, given)
    launch.set_device(options.device)
    model = evaluation.refined(at_test.model(run, changed), options)
    applying.check_offered(options.outputs, type(model))
    applying.check_model(model, options)
    schema = run.read_table()
    parts.check(options, given, schema)
    read = functools.partial(inputs.read, event_shape=model.event_shape, hparams=hparams, options=options, given=given,
                             schema=schema)
    if options.part_rows:
        folder = parts.begin(options, run.model_path, changed.suffix)
        context = _context(options, run, hparams, changed, model, options.part_rows)
        return parts.run(folder, options, context, read, schema, argv)
    form = results.check_out(options.out, options.outputs, model.event_shape)
    found = read(options.input)
    context = _context(options, run, hparams, changed, model, len(found.x))
    arrays = applying.compute(context, options, found.x, options.outputs,
                              keep=lambda some: context.say(results.keep(options.out, some, found.names)))
    arrays = results.in_form(form, arrays, schema, context.say)
    path = results.write(options.out, form, arrays, found.names)
    print(f"{found.note}\nwrote {path}: {', '.join(arrays)}")
    return 0


def _context(options: Flags, run: Run, hparams: Any, changed: at_test.Changes, model: Any,
             rows: int) -> evaluation.Context:
    batch_size = min(options.batch_size or hparams.batch_size, rows)
    hparams = dataclasses.replace(hparams, batch_size=batch_size, jit_compile=options.jit_compile)
    context = evaluation.Context(model, None, hparams, run, seed=options.seed)
    if "ood_scores" in options.outputs and at_test.note(changed):
        context.say(str(at_test.note(changed)))
    if "anomalies" in options.outputs:
        changes = bool(changed.suffix or context.suffix)
        anomalies.calibrated(context, run, changes, lambda: run.as_trained(launch.load_dataset(run.read_hparams())))
    return context


if __name__ == "__main__":
    sys.exit(launch.run(main, sys.argv[1:]))
