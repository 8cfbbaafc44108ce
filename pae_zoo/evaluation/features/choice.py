"""Which feature network goes with the images of a task: that of --fid_weights, or the one kept for the data set."""


import dataclasses
from pathlib import Path
from typing import Any

from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.evaluation.features import inception
from pae_zoo.evaluation.features.extractor import (
    TRAIN_ONE,
    Classifier,
    Extractor,
    check_file,
    compiled,
    load,
    read,
)  # fmt: skip

FOLDER = Path(__file__).resolve().parent / "extractors"


@dataclasses.dataclass(frozen=True)
class FeatureFlags:
    """Which features images are compared by."""

    fid_weights: str = option("", "File of the feature network: Inception's .h5 or .pb, or .npz of tools/"
                              "train_features.py (empty: the data set's own).", group=EVALUATION, path=True)

    def check(self) -> None:
        """Raises UserError unless --fid_weights is empty or a file of a kind that is read."""
        check_file(self.fid_weights)


def find(context: Any) -> Extractor:
    """Returns the extractor for the images of a task's context: that of --fid_weights, or the set's own.

    Raises NotImplementedError with a sentence where there is none, UserError for a bad --fid_weights.
    """
    _check_images(context)
    given = context.hparams.fid_weights
    check_file(given)
    if given and not given.endswith(".npz"):
        return inception.load(given)
    extractor, note = load(_own_file(context))
    _check_fit(context, extractor.label, note)
    return extractor


def find_classifier(context: Any) -> Classifier:
    """Returns the classifier for the images of a task's context: that of --fid_weights=FILE.npz, or the set's own.

    Raises NotImplementedError with a sentence where there is none, or where the test data have no labels.
    """
    _check_images(context)
    if context.dataset.test.y is None:
        raise NotImplementedError(f"{context.dataset.name} has no labels to classify.")
    model, note = read(_own_file(context))
    label = f"{note['dataset']}-cnn {note['sha256'][:12]}"
    _check_fit(context, label, note)
    return Classifier(label, compiled(model, note))


def _check_images(context) -> None:
    if not context.is_image:
        shape = tuple(context.dataset.event_shape)
        raise NotImplementedError(f"Features are of images; {context.dataset.name} has data of shape {shape}.")


def _own_file(context) -> Path:
    given = context.hparams.fid_weights
    path = Path(given).expanduser() if given.endswith(".npz") else FOLDER / f"{context.dataset.slug}.npz"
    if not path.is_file():
        raise NotImplementedError(f"No feature network is kept for {context.dataset.name}. {TRAIN_ONE}.")
    return path


def _check_fit(context, label: str, note: dict[str, Any]) -> None:
    """Raises NotImplementedError where the feature network of `note` was trained on other images than the context's."""
    shape, given = tuple(context.dataset.event_shape), context.hparams.fid_weights.endswith(".npz")
    changed = [flag for flag in ("crop", "invert") if not given and getattr(context.hparams, flag)]
    if changed or tuple(note["input_shape"]) != shape:
        why = f"--{changed[0]} changes the images" if changed else f"these have shape {shape}"
        raise NotImplementedError(
            f"The feature network {label} takes {note['dataset']} as {tuple(note['input_shape'])}, but {why}. "
            f"{TRAIN_ONE}."
        )
