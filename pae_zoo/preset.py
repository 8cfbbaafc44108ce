"""Trained models by name: python -m pae_zoo.preset --name=vae_digits --workdir=runs/vae_digits."""

import contextlib
import dataclasses
import fnmatch
import io
import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pae_zoo import evaluate
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError, suggestion
from pae_zoo.experiment import console, launch, presets
from pae_zoo.experiment.workdir import Run

SIDE = 480
MORE = """  python -m pae_zoo.preset                                             # what there is
  python -m pae_zoo.preset --name=vae_digits --workdir=runs/vae_digits  # a run, for evaluate, apply, export, ...
  python -m pae_zoo.preset --from_workdir=runs/mine --out=mine          # a finished run as a preset
  python -m pae_zoo.preset --card=mine --published=test/mse=0.006 --paper='...'  # its card, beside published figures

In Python: pae_zoo.presets(), pae_zoo.from_preset("vae_digits"), pae_zoo.save_to_preset(model, "mine").
A preset of a run has its weights rounded to the precision of float16; the figures of its card are those of the rounded
weights, measured anew by the tasks of the run."""
#: what of a run goes into a preset
KEPT = ("config.json", "data.json", "flags.cfg")
PLACES = ("data_dir", "workdir", "init_workdir", "fid_weights", "features")
TRAINING = ("train/", "time/train", "flow/")
#: figures that a card shows first, in this order
FIRST = ("test/mse", "test/elbo", "test/log_likelihood", "test/refined/elbo", "test/refined/log_likelihood",
         "labels/accuracy", "labels/linear/accuracy", "density/*/nll", "generation/frechet/*",
         "calibration/*/ece", "ood/*/auroc", "geodesics/*", "time/train*")
LEFT_OUT = ("*_stderr", "*/num_*", "*/extractor", "*/preparation")


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of presets."""

    name: str = hp.option("", "A preset of the package, or the path of another, to make a work directory of.")
    workdir: str = hp.option("", "Folder of the work directory; it must not exist.", path=True)
    from_workdir: str = hp.option("", "A finished run to make a preset of.", path=True)
    out: str = hp.option("", "Folder of the preset; it must not exist.", path=True)
    title: str = hp.option("", "What the preset is, a line of its card.")
    licence: str = hp.option("", "What the card says of the licence of the weights, or of the data behind them.")
    evaluation: str = hp.option("", "Flags of pae_zoo.evaluate for the card, in quotes, where not the run's own tasks "
                                "are meant: --evaluation='--tasks=reconstruction,ood --ood_datasets=mnist'.")
    published: tuple[str, ...] = hp.option((), "Figures of a paper for the card, beside those of the same keys: "
                                           "test/mse=0.00642,...")
    paper: str = hp.option("", "Where these are from, and what is other there.")
    card: str = hp.option("", "A preset whose card is written anew, with --published and --paper if given.", path=True)
    data_dir: str = hp.option("", "Folder that holds data sets as files.", path=True)
    verbosity: int = hp.option(0, "1 shows TensorFlow's own messages.", low=-1, high=2)


def main(argv: list[str]) -> int:
    argv = launch.begin(argv, keep=("out",))  # a preset is put there whole
    if launch.wants_help(argv):
        print(f"{__doc__}\n\n{MORE}\n\n{hp.help_text(Flags)}\n")
        return 0
    options, _ = launch.parse(Flags, argv)
    making, copying = (options.from_workdir or options.out), (options.name or options.workdir)
    if bool(making) + bool(copying) + bool(options.card) > 1:
        raise UserError("--name and --workdir take a preset, --from_workdir and --out make one, --card writes its card "
                        "anew: give one of the three.")
    if options.card:
        return _card(options)
    if making:
        return _make(options)
    if copying:
        return _copy(options)
    print("\n".join(f"  {name:24}{title}" for name, title in presets.presets().items()))
    return 0


def _copy(options: Flags) -> int:
    if not options.name or not options.workdir:
        raise UserError("--name and --workdir are needed together: --name=vae_digits --workdir=runs/vae_digits.")
    run = presets.copy(options.name, options.workdir)
    print(f"{run.workdir} is a run of the preset {options.name}:")
    print("\n".join(console.lines(run.read_metrics())))
    here = console.flag("workdir", run.workdir)
    print(f"Next:\n  python -m pae_zoo.evaluate {here} --tasks=...\n  python -m pae_zoo.apply {here} --input=... "
          f"--out=...\n  python -m pae_zoo.export {here} --export_dir=serving/{run.workdir.name}")
    return 0


def _card(options: Flags) -> int:
    """Writes the card of a preset anew, of its own metrics, with the published figures given or recorded."""
    path = Path(options.card)
    run, facts = Run(path), presets.facts(path)
    if not run.is_finished:
        raise UserError(f"{path} is no preset of a run with metrics.json, so that its card has no figures.")
    metrics = run.read_metrics()
    if options.published or options.paper:
        facts |= {"published": published(options.published, metrics), "paper": options.paper}
    text = card(facts, path, path.resolve().name, run.read_hparams(), metrics)
    run.write_json(presets.FACTS, facts)
    run.write_text(presets.CARD, text)
    print(f"{path / presets.CARD}: written")
    return 0


def published(words: Sequence[str], metrics: dict[str, Any]) -> dict[str, float]:
    """Returns {key: figure} of words key=figure; raises UserError for others, and for keys that the run lacks."""
    found = {}
    for word in words:
        key, _, text = word.partition("=")
        try:
            found[key] = float(text)
        except ValueError:
            raise UserError(f"--published={word}: give key=figure, such as test/mse=0.00642.") from None
        if not isinstance(metrics.get(key), (int, float)):
            raise UserError(f"--published={word}: the run has no figure {key}{suggestion(key, list(metrics)) or '.'}")
    return found


def _make(options: Flags) -> int:
    if not options.from_workdir or not options.out:
        raise UserError("--from_workdir and --out are needed together: --from_workdir=runs/mine --out=mine.")
    run, name = Run(options.from_workdir), options.out.rstrip("/").rpartition("/")[2]
    hparams, model = run.read_hparams(), run.load_model()
    presets.round_weights(model)
    with tempfile.TemporaryDirectory() as place, presets.making(options.out, "out") as inside:
        again = Run(Path(place) / "run")
        again.workdir.mkdir()
        for part in KEPT:
            if (run.workdir / part).is_file():
                text = _without_places((run.workdir / part).read_text(encoding="utf-8"), part.endswith(".json"))
                (again.workdir / part).write_text(text, encoding="utf-8")
        presets.write_model(model, again.model_path)
        trained = {key: value for key, value in run.read_metrics().items() if key.startswith(TRAINING)}
        again.write_json("metrics.json", trained)
        words = [f"--workdir={again.workdir}", *([f"--data_dir={options.data_dir}"] if options.data_dir else []),
                 *shlex.split(options.evaluation)]
        with contextlib.redirect_stdout(io.StringIO()):  # of a place that will be gone; the card has the figures
            status = evaluate.main(words)
        if status:
            raise UserError(f"The tasks of {run.workdir} did not end well; see above.")
        title = options.title or f"{hparams.model} on {hparams.dataset}, K = {hparams.latent_dim}"
        for part in (*KEPT, "metrics.json", presets.MODEL):
            if (again.workdir / part).is_file():
                shutil.copyfile(again.workdir / part, inside / part)
        picture = presets.first_picture(again)
        if picture is not None:
            _shrink(picture, inside / presets.PICTURE)
        metrics = again.read_metrics()
        beside = {"published": published(options.published, metrics), "paper": options.paper}
        presets.write_facts(inside, model, title, kind=hparams.model, dataset=hparams.dataset, licence=options.licence,
                            **(beside if options.published or options.paper else {}))
        text = card(presets.facts(inside), inside, name, hparams, metrics)
        (inside / presets.CARD).write_text(text, encoding="utf-8")
        size = sum(path.stat().st_size for path in inside.iterdir()) / 2**20
    print(f"{options.out}: {size:.2f} MiB, figures in {presets.CARD} there")
    return 0


def card(facts: dict[str, Any], path: Path, name: str, hparams: Any, metrics: dict[str, Any]) -> str:
    """Returns the card of a preset: what it is, how it was made, every figure of its own weights, published ones."""
    flags = (path / "flags.cfg").read_text(encoding="utf-8").splitlines()
    given = " ".join(line for line in flags if line.startswith("--"))
    shape, num = " x ".join(map(str, facts["event_shape"])), facts["latent_dim"]
    picture = f"![]({presets.PICTURE})\n\n" if (path / presets.PICTURE).is_file() else ""
    first = list(dict.fromkeys(key for pattern in FIRST for key in metrics if fnmatch.fnmatch(key, pattern)
                               and not any(fnmatch.fnmatch(key, one) for one in LEFT_OUT)))  # fmt: skip
    rows, more = _rows(metrics, first), _rows(metrics, [key for key in metrics if key not in first])
    licence = f"Licence: {facts['licence']}\n\n" if facts.get("licence") else ""
    return f"""# {name}

{facts['title']}. {facts['class']}, {facts['num_weights']:,} weights, data of shape {shape}, {num} latents.

{picture}```python
import pae_zoo
model = pae_zoo.from_preset("{name}")
```

Trained by `python -m pae_zoo.main {given}` (seed {hparams.seed}), with pae_zoo {facts['pae_zoo']}.

Weights are rounded to 11 bits of mantissa; all figures but those of the training (`train/`, `flow/`, `time/`) are of
the rounded weights, on the test split, by the tasks of the run, with standard errors where the tasks have them.

{licence}Limits: one training with one seed. It takes data of the shape and range of those above, and may score or
restore badly what it was not trained on. What such a model is not for: its page in the documentation.

| figure | value |
|---|---|
{rows}
{_beside(facts, metrics)}
<details><summary>All figures</summary>

| figure | value |
|---|---|
{more}

</details>
"""


def _beside(facts: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Returns the published figures beside those of the weights, and where they are from; '' without any."""
    rows = [f"| `{key}` | {console.number(metrics[key])} | {console.number(value)} | "
            f"{console.number(metrics[key] - value)} |" for key, value in facts.get("published", {}).items()]
    table = ["", "| figure | here | published | difference |", "|---|---|---|---|", *rows] if rows else []
    paper = ["", f"Published: {facts['paper']}."] if facts.get("paper") else []
    return "\n".join([*table, *paper, ""])


def _rows(metrics: dict[str, Any], names: list[str]) -> str:
    return "\n".join(f"| `{name}` | {console.number(metrics[name])}" + (
        f" ± {console.number(metrics[f'{name}_stderr'])} |" if f"{name}_stderr" in metrics else " |")
        for name in names if not name.endswith("_stderr"))  # fmt: skip


def _without_places(text: str, is_json: bool) -> str:
    """Returns a file of a run without where its data and it itself lay."""
    if not is_json:
        return "\n".join(line for line in text.split("\n") if not line.startswith(tuple(f"--{one}=" for one in PLACES)))
    return json.dumps(_emptied(json.loads(text)), indent=1) + "\n"


def _emptied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "" if key in PLACES else _emptied(one) for key, one in value.items()}
    return value


def _shrink(picture: Path, target: Path) -> None:
    with Image.open(picture) as image:
        image.thumbnail((SIDE, SIDE))
        image.convert("P", palette=Image.Palette.ADAPTIVE).save(target, optimize=True)


if __name__ == "__main__":
    sys.exit(launch.run(main, sys.argv[1:]))
