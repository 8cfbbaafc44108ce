"""Imputation: what a model fills in for hidden pixels, scored by a classifier and against the original."""


import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Optional

import numpy as np

from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.data import Dataset
from pae_zoo.evaluation.context import UNSUPPORTED, Context, sentence, to_unit
from pae_zoo.evaluation.features import choice, extractor
from pae_zoo.evaluation.metrics import calibration as metrics
from pae_zoo.evaluation.support import imputing
from pae_zoo.evaluation.support.imputing import Filled, Imputer
from pae_zoo.evaluation.tasks.reconstruction import standard_error
from pae_zoo.plotting import figures, uncertainty

SHOWN_IMAGES, SHOWN_DRAWS = 8, 4
CLASSIFIER_KEYS = ("accuracy", "ece", "mce", "rmsce", "reconstructed/accuracy", "reconstructed/ece",
                   "reconstructed/mce", "reconstructed/rmsce", "given/accuracy")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Flags(choice.FeatureFlags):
    """The flags of the task imputation."""

    imputation_masks: tuple[str, ...] = option(
        ("full", "noise", "half", "region", "pixels:0.5"), "What the task imputation hides: full (nothing), noise "
        "(everything), half (the top), region (a block in the middle), or the grammar of --mask.", group=EVALUATION)
    imputation_samples: int = option(10, "Images that the task imputation gives for each datum.", low=1, high=10_000,
                                     group=EVALUATION, smoke=3)
    imputation_rounds: int = option(0, "Rounds of reconstructing and refilling each of these images before the last "
                                    "pass.", low=0, high=1000, group=EVALUATION, smoke=1)
    imputation_images: int = option(1000, "Test data of the task imputation.", low=1, group=EVALUATION, smoke=16)

    def check(self) -> None:
        """Raises UserError for one of --imputation_masks that is not understood."""
        imputing.parse(self.imputation_masks)


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """Hidden pixels filled in: accuracy and calibration of a classifier on the images, errors against the original.

    Masks are those of --imputation_masks. Hidden values start as noise; --imputation_samples images come of two passes
    through the model (Miani et al., NeurIPS 2022), with --imputation_rounds between. A model that draws no
    reconstructions gives one image for each datum. The classifier is the data set's feature network.
    """
    options, test = context.hparams, context.dataset.test
    chosen = context.choose(len(test.x), int(options.imputation_images), "imputation")
    truth = to_unit(test.x[chosen])
    labels = None if test.y is None else test.y[chosen]
    classifier = None
    try:
        classifier = choice.find_classifier(context)
        right = classifier.probabilities(truth).argmax(axis=1) == labels
        yield "imputation/original/accuracy", right.mean()
    except NotImplementedError as error:
        context.say(f"imputation: accuracies are unsupported. {sentence(error)}")
        yield "imputation/original/accuracy", UNSUPPORTED
    yield "imputation/num_images", len(chosen)
    num = int(options.imputation_samples)
    if hasattr(context.model, "num_networks"):  # an ensemble has no more than its members
        num = min(num, context.model.num_networks(num))
    imputer = Imputer(context, num, int(options.imputation_rounds))
    yield "imputation/num_samples", imputer.num_samples
    noise = imputing.noise(truth, context.seed)
    tables, panels = [], {}
    for slug, text in imputing.parse(options.imputation_masks).items():
        try:
            seen = imputing.seen(text, context.dataset.event_shape, len(chosen), context.seed)
        except NotImplementedError as error:
            yield from context.unsupported([f"imputation/{slug}"], error)
            continue
        scores = Scores(truth, seen, classifier)
        given = np.where(seen, truth, noise)
        with context.progress(imputer.calls(len(chosen)), hidden_part(text)) as bar:
            for rows, found in imputer.fill(truth, given, seen, bar):
                scores.add(rows, found)
        columns = scores.columns(labels)
        yield from ((f"imputation/{slug}/{key}", value) for key, value in scores.report(columns, labels))
        tables.append({"mask": [slug] * len(chosen), "index": chosen, **columns})
        if classifier is not None and labels is not None:
            bins, values = scores.calibrated("imputed", labels)
            panels[f"{text}: accuracy {values['accuracy']:.3f}, ECE {values['ece']:.3f}"] = bins
        if context.is_image:
            draw(context, slug, text, scores.shown)
    if tables:
        context.table("imputation.csv", {name: np.concatenate([t[name] for t in tables]) for name in tables[0]})
    if panels:
        title = f"{context.dataset.name}, {len(chosen):,} images with hidden pixels filled in: is the classifier right?"
        figure = uncertainty.confidence(panels, title)
        context.board.figure("imputation_confidence", figure)
        context.figure("imputation_confidence", figure)


def check_data(flags: Any, dataset: Optional[Dataset] = None) -> None:
    """Raises UserError unless --imputation_masks fit the test data, where they are known."""
    if dataset is None:
        return
    num = min(flags.imputation_images, len(dataset.test.x))
    for text in imputing.parse(flags.imputation_masks).values():
        with contextlib.suppress(NotImplementedError):  # the task leaves such a mask out, and says so
            imputing.seen(text, dataset.event_shape, num, flags.seed)


class Scores:
    """Numbers of each datum of one mask, summed up batch by batch.

    Args:
      truth, seen: (n, *event), the data and where they are seen.
      classifier: a `features.Classifier` or None.
    """

    def __init__(self, truth: np.ndarray, seen: np.ndarray, classifier: Optional[extractor.Classifier]):
        self.truth, self.seen, self.classifier = truth, seen, classifier
        self.values, self.probabilities = [], []
        self.calibration = metrics.VarianceCalibration()
        self._moments = np.zeros(6)  # of std and absolute error of hidden values: number, sums, squares, product
        self.shown: list[np.ndarray] = []

    def add(self, rows: slice, found: Filled) -> None:
        """Takes the images of the data `rows`."""
        truth, hidden = self.truth[rows], ~self.seen[rows]
        axes = tuple(range(1, truth.ndim))
        mean, std = found.imputed.mean(axis=0, dtype=np.float64), found.imputed.std(axis=0, dtype=np.float64)
        error = mean - truth
        count = hidden.sum(axis=axes)
        own = found.reconstructed.astype(np.float64)
        count = np.where(count > 0, count, np.nan)
        row = {
            "mse_hidden": (error**2 * hidden).sum(axis=axes) / count,
            "std_hidden": np.sqrt((std**2 * hidden).sum(axis=axes) / count),
        }
        for suffix, target in (("", truth), ("_corrupted", found.given)):
            row[f"sse_mean{suffix}"] = ((own.mean(axis=0) - target) ** 2).sum(axis=axes)
            row[f"mean_sse{suffix}"] = ((own - target) ** 2).sum(axis=tuple(a + 1 for a in axes)).mean(axis=0)
        self.values.append(row)
        if hidden.any():
            self.calibration.add(error[hidden], std[hidden] ** 2)
            a, b = std[hidden], np.abs(error[hidden])
            self._moments += [a.size, a.sum(), b.sum(), a @ a, b @ b, a @ b]
        if self.classifier is not None:
            parts = {"imputed": found.imputed, "reconstructed": found.reconstructed, "given": found.given[None]}
            self.probabilities.append({name: self._averaged(self.classifier, part) for name, part in parts.items()})
        if sum(map(len, self.shown)) < SHOWN_IMAGES:
            self.shown.append(_collage(truth, found.given, mean, found.imputed, std))

    def _averaged(self, classifier: extractor.Classifier, images: np.ndarray) -> np.ndarray:
        """Returns class probabilities (b, classes), averaged over images (S, b, H, W, C)."""
        return np.mean([classifier.probabilities(image) for image in images], axis=0)

    def columns(self, labels: Optional[np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the numbers of each datum."""
        found = {} if labels is None else {"label": labels}
        found |= {name: np.concatenate([row[name] for row in self.values]) for name in self.values[0]}
        if self.classifier is not None:
            probabilities = self._joined("imputed")
            found["confidence"] = probabilities.max(axis=1)
            found["correct"] = (probabilities.argmax(axis=1) == labels).astype(int)
        return found

    def calibrated(self, name: str, labels: np.ndarray) -> tuple[metrics.ConfidenceBins, dict[str, float]]:
        """Returns the confidence bins of the images `name`, and accuracy, ece, mce and rmsce."""
        probabilities = self._joined(name)
        correct = probabilities.argmax(axis=1) == labels
        bins = metrics.confidence_bins(probabilities.max(axis=1), correct)
        return bins, {"accuracy": correct.mean(), **metrics.confidence_errors(bins)}

    def report(self, columns: dict, labels: Optional[np.ndarray]) -> Iterator[tuple[str, Any]]:
        """Yields the keys of one mask."""
        if self.classifier is None or labels is None:
            yield from ((key, UNSUPPORTED) for key in CLASSIFIER_KEYS)
        else:
            yield from self.calibrated("imputed", labels)[1].items()
            own = self.calibrated("reconstructed", labels)[1]
            yield from ((f"reconstructed/{key}", value) for key, value in own.items())
            yield "given/accuracy", self.calibrated("given", labels)[1]["accuracy"]
        for name in ("sse_mean", "mean_sse", "sse_mean_corrupted", "mean_sse_corrupted"):
            yield name, columns[name].mean()
        if not self.seen.all():
            some = np.isfinite(columns["mse_hidden"])
            yield "mse_hidden", columns["mse_hidden"][some].mean()
            yield "mse_hidden_stderr", standard_error(columns["mse_hidden"][some])
            count, a, b, aa, bb, ab = self._moments
            yield "rmse_hidden", math.sqrt(bb / count)
            yield "std_hidden", math.sqrt(aa / count)
            yield "std_error_correlation", _correlation(count, a, b, aa, bb, ab)
            yield "coverage90_hidden", dict(zip(metrics.LEVELS, self.calibration.coverage()))[0.9]

    def _joined(self, name: str) -> np.ndarray:
        return np.concatenate([part[name] for part in self.probabilities])


def _correlation(count: float, a: float, b: float, aa: float, bb: float, ab: float) -> float:
    """Returns Pearson's correlation from sums; 0 where one of the two is constant."""
    covariance, left, right = ab - a * b / count, aa - a * a / count, bb - b * b / count
    return covariance / math.sqrt(left * right) if min(left, right) > 1e-12 * max(aa, bb, 1e-300) else 0.0


def _collage(truth, given, mean, draws, std) -> np.ndarray:
    """Returns (rows, columns, *event): original, what is given, mean, up to four draws, std."""
    return np.stack([truth, given, mean, *draws[:SHOWN_DRAWS], std], axis=1)[:SHOWN_IMAGES]


def hidden_part(text: str) -> str:
    """Returns what a mask hides, in words."""
    named = {"full": "nothing", "noise": "everything", "half": "the upper half", "region": "a block in the middle"}
    return f"{named.get(text, text)} hidden"


def draw(context: Context, slug: str, text: str, shown: list[np.ndarray]) -> None:
    """Saves a row per image: original, given, mean, some draws, and the std over the draws."""
    table = np.concatenate(shown)[:SHOWN_IMAGES]
    limit = max(float(table[:, -1].mean(axis=-1).max()), 1e-6)
    table = np.concatenate([figures.to_rgb(table[:, :-1]), figures.positive_rgb(table[:, -1:], limit)], axis=1)
    draws = table.shape[1] - 4
    labels = ["original", "given", "mean", *(f"draw {k + 1}" for k in range(draws)), "std"]
    note = f"hidden pixels are given as noise; std over the draws: black 0, pale yellow {limit:.2f}"
    title = f"{context.dataset.name}, {hidden_part(text)}"
    figure = figures.image_table(table, title, column_labels=labels, note=note)
    context.figure(f"imputation_{slug}", figure)
    context.board.images(f"imputation_{slug}", table)
