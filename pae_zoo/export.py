"""Writes a finished run for TensorFlow Serving: python -m pae_zoo.export --workdir=RUN --export_dir=DIR."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from pae_zoo import evaluation, serving
from pae_zoo.applying import anomalies
from pae_zoo.core import hparams as hp
from pae_zoo.core import records
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import at_test, launch
from pae_zoo.experiment.workdir import DATA, Run


@dataclasses.dataclass(frozen=True)
class Flags(at_test.Flags, records.RefineFlags, records.PluginFlags):
    """Flags of the export."""

    workdir: str = hp.option("", "Work directory of a finished run.", path=True)
    export_dir: str = hp.option("", "Base path of the served model; the version becomes a folder in it.", path=True)
    version: int = hp.option(0, "Version number (0: the next free one).", low=0, high=serving.LAST_VERSION)
    importance_samples: int = hp.option(100, "Samples per datum of the signature log_likelihood.",
                                        low=1, high=10_000_000)
    signatures: tuple[str, ...] = hp.option((), "Signatures to write (empty: all that the model has).")
    device: str = hp.option("auto", "Where to trace.", choices=("auto", "cpu", "gpu"))
    verbosity: int = hp.option(0, "1 shows TensorFlow's own messages.", low=-1, high=2)


def main(argv: list[str]) -> int:
    argv = launch.begin(argv)
    if launch.wants_help(argv):
        print(f"{__doc__}\n\n{hp.help_text(Flags)}\n")
        return 0
    options, given = launch.parse(Flags, argv)
    if not options.workdir:
        raise UserError("--workdir is needed: the folder that `python -m pae_zoo.main` wrote.")
    if not options.export_dir:
        raise UserError("--export_dir is needed: the base path that the model server will read, such as "
                        "serving/my_model.")
    run = Run(options.workdir)
    launch.works_in(run.workdir)
    changed = at_test.changes(run, options, given)
    serving.check_target(Path(options.export_dir), options.version)
    launch.set_device(options.device)
    model = evaluation.refined(at_test.model(run, changed), options)
    table = run.read_table()  # a client has to send rows in its columns
    beside = {} if table is None else {DATA: json.dumps({"columns": table.outputs, "table": table.to_json()}, indent=1)}
    more = [] if changed.suffix or options.refine in records.REFINING else _of_anomalies(run, model)
    found = serving.export(model, options.export_dir, options.version, options.importance_samples, beside, more,
                           options.signatures)
    print(report(found))
    if at_test.note(changed):
        print(at_test.note(changed))
    return 0


def _of_anomalies(run: Run, model: Any) -> list[serving.Signature]:
    """Returns the signature anomaly, where validation data have calibrated the model's scores."""
    calibration = anomalies.kept(run)

    def none(x, seed):
        raise NotImplementedError("The run has no calibration yet: `python -m pae_zoo.apply --outputs=anomalies` makes "
                                  "and keeps one.")

    function = none if calibration is None else anomalies.served(calibration, model)
    return [serving.Signature("anomaly", ("x", "seed"), function, "scores")]


def report(found: serving.Exported) -> str:
    """Returns what was written, signature by signature, what was left out and why, and what to do next."""
    lines = [f"wrote {found.path}"]
    for name, (inputs, outputs) in found.signatures.items():
        lines.append(f"  {name:16} {', '.join(inputs)} -> {', '.join(outputs)}")
    lines += [f"  {name:16} left out: {reason}" for name, reason in found.left_out.items()]
    name, base = found.path.parent.resolve().name, found.path.parent.resolve()
    mount, variable = shlex.quote(f"{base}:/models/{name}"), shlex.quote(f"MODEL_NAME={name}")
    lines.append(f"""Next:
  saved_model_cli show --dir {shlex.quote(str(found.path))} --all
  docker run --rm -p 8501:8501 -v {mount} -e {variable} tensorflow/serving""")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(launch.run(main, sys.argv[1:]))
