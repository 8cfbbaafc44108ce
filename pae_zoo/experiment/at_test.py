"""What a finished run is evaluated with in place of its own: settings of inference, and weights of a kept epoch."""

import dataclasses
import re
from collections.abc import Collection
from typing import Any, Optional

import keras

from pae_zoo import models
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import checkpoint, launch
from pae_zoo.experiment.workdir import Run
from pae_zoo.models.base import Autoencoder

#: {a model: those of its flags that a trained model may be given anew}; others that have them follow it
SETTINGS = {
    "vlae": ("num_updates", "update_lr", "update_schedule", "search", "test_updates"),
    "savae": ("num_svi_steps", "svi_learning_rate", "svi_clip", "svi_momentum"),
    "lae": ("hessian_scale", "prior_precision", "predictive"),
}
NAMES = tuple(name for names in SETTINGS.values() for name in names)
# Settings of a search as in training: at test it takes the place of `test_updates`.
SEARCH = ("num_updates", "update_lr", "update_schedule", "search")
# Settings of which the score typicality, and what scores are compared with, are measured anew.
MEASURED = SETTINGS["lae"]
BEST, LAST = "best", "last"


def _fields() -> list[tuple[str, type, Any]]:
    found = []
    for model, names in SETTINGS.items():
        fields = {field.name: field for field in dataclasses.fields(models.find(model).HParams)}
        for name in names:
            metadata = {**fields[name].metadata, "group": hp.EVALUATION, "before": None}
            found.append((name, fields[name].type, dataclasses.field(default=fields[name].default, metadata=metadata)))
    return found


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    """Which weights of a run are taken."""

    checkpoint: str = hp.option(BEST, "Whose weights: best, on validation data; last; or an epoch that the training "
                                "kept (--keep_checkpoints), such as 40.", group=hp.EVALUATION)


#: flags of the commands that take a finished run; those left out take the run's own values
Flags: Any = dataclasses.make_dataclass("AtTestFlags", _fields(), bases=(_Checkpoint,), frozen=True)


@dataclasses.dataclass(frozen=True)
class Changes:
    """What is taken in place of the run's own.

    settings: {flag: value}. epoch: "best", "last" or a number in words.
    """

    settings: dict[str, Any]
    epoch: str = BEST

    @property
    def suffix(self) -> str:
        """What follows keys and names of files, so that those of the run itself stay: '@num_updates=8', '@epoch=40'."""
        words = [f"@{name}={_word(value)}" for name, value in self.settings.items()]
        return "".join(([] if self.epoch == BEST else ["@last" if self.epoch == LAST else f"@epoch={self.epoch}"])
                       + words)  # fmt: skip


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def changes(run: Run, options: Any, given: Collection[str]) -> Changes:
    """Returns what the flags `given` change of a run; raises UserError for what its model, or the run, does not have.

    Nothing but the run's configuration and the names of its files is read.
    """
    hparams = run.read_hparams()
    asked = {name: getattr(options, name) for name in NAMES if name in given}
    lacking = [name for name in asked if not hasattr(hparams, name)]
    if lacking:
        own = [name for name in NAMES if hasattr(hparams, name)]
        allowed = f"may be given anew: {', '.join(own)}" if own else "none of its settings may be given anew"
        raise UserError(f"--{lacking[0]}: the model {hparams.model} of {run.workdir} has no such setting; {allowed}.")
    epoch = options.checkpoint
    if epoch not in (BEST, LAST):
        if not re.fullmatch(r"[1-9][0-9]{0,8}", epoch):
            raise UserError(f"--checkpoint={epoch} is none of best, last and the number of an epoch, such as 40.")
        known = run.kept_epochs()
        if int(epoch) not in known:
            kept = f"kept are {', '.join(map(str, known))}" if known else "none was kept"
            raise UserError(f"--checkpoint={epoch}: {run.workdir} has no weights of that epoch; {kept}. Take best or "
                            "last, or train with --keep_checkpoints=N.")
    if epoch != BEST:
        _check_one_stage(hparams, run)
    return Changes(asked, epoch)


def _check_one_stage(hparams: Any, run: Run) -> None:
    stages = sorted({path.name for path in (run.workdir / "checkpoints").glob("*_last.npz")})
    if stages:
        names = ", ".join(name.removesuffix("_last.npz") for name in stages)
        raise UserError(f"--checkpoint: a later stage of {hparams.model} ({names}) was trained on the weights that "
                        "were best, and there is none for others. Leave it out.")


def model(run: Run, changed: Changes, dataset: Any = None) -> Autoencoder:
    """Returns the trained model of a run with what is changed; raises UserError where that does not fit.

    dataset: that of the run, on whose validation data is measured what was measured after the training; None reads it
    where it is needed.
    """
    found = run.load_model()
    if changed.epoch != BEST:
        dataset = dataset or run.as_trained(launch.load_dataset(run.read_hparams()))
        _take_weights(run, found, changed.epoch)
        found.measure(dataset.valid.x, dataset.train.x)
        found.measure_scores(dataset.valid.x)
    return with_settings(found, changed.settings) if changed.settings else found


def measure(found: Autoencoder, changed: Changes, x: Any) -> None:
    """Measures on held-out x (n, *event) what scores are compared with, where changed settings change the scores."""
    if any(name in changed.settings for name in MEASURED):
        found.measure_typical(x)  # pyright: ignore[reportAttributeAccessIssue]
        found.measure_scores(x)


def note(changed: Changes) -> Optional[str]:
    """Returns a sentence on what `measure` would have measured, for commands that read no data; None for nothing."""
    if any(name in changed.settings for name in MEASURED):
        return ("The score typicality is compared with validation data by the run's own settings; `pae_zoo.evaluate "
                "--tasks=ood` measures it anew.")
    return None


def _take_weights(run: Run, found: Autoencoder, epoch: str) -> None:
    """Gives a model the weights of a checkpoint, their averages where it averages them."""
    name = LAST if epoch == LAST else run.kept_epochs()[int(epoch)]
    read = run.load_arrays(name)
    path = run.workdir / run.arrays_path(name)
    if read is None:
        raise UserError(f"{path} does not exist, so that --checkpoint={epoch} has no weights. Take best.")
    if found.compiled:
        found.build_training()  # the averages are a part of what was kept
    variables = checkpoint.state(found)
    checkpoint.assign(variables, read[0][: len(variables)], path)
    found.averages.take()


def with_settings(found: Autoencoder, settings: dict[str, Any]) -> Autoencoder:
    """Returns a model with the same weights and other settings of inference; raises UserError for what it refuses."""
    config = {**found.get_config(), **settings}
    if "test_updates" not in settings and any(name in settings for name in SEARCH):
        # The search that is asked for is the one at test; nothing is trained, so that nothing is held.
        config["test_updates"] = 0
    if config.get("search_gradient") == "held" and getattr(found, "learned_prior", None) is None:
        config["search_gradient"] = "full"
    other = type(found).from_config(config)
    pairs = list(zip(other.variables, found.variables, strict=True))
    for mine, theirs in pairs:
        mine.assign(keras.ops.convert_to_numpy(theirs))
    if "prior_precision" in settings or "hessian_scale" in settings:
        rescale(other, settings.get("prior_precision"), settings.get("hessian_scale"))
    return other


def rescale(found: Any, prior_precision: Optional[float], hessian_scale: Optional[float]) -> None:
    """Gives a posterior over weights other scales; None leaves one as it is."""
    found.posterior.assign_scales(prior_precision, kappa=hessian_scale)
    if hasattr(found.posterior, "factorise"):
        found.posterior.factorise()  # draws go by factors that hold the scales
