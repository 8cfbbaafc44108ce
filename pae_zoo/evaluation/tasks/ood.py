"""Out-of-distribution detection: how well each score of the model tells other data from the test data."""


import dataclasses
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from pae_zoo import data
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError, suggestion
from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.core.records import SampleFlags
from pae_zoo.core.values import MASK, REFUSE
from pae_zoo.data.framing import Geometry
from pae_zoo.evaluation.context import UNSUPPORTED, Context, Projection, sentence, to_unit
from pae_zoo.evaluation.metrics import detection
from pae_zoo.evaluation.support import predictions
from pae_zoo.evaluation.support.baseline_scores import Posterior, Ratio, Waic
from pae_zoo.evaluation.support.outliers import Outliers
from pae_zoo.evaluation.support.published_scores import PublishedScores
from pae_zoo.evaluation.support.std_scores import StdScores
from pae_zoo.plotting import figures

#: whether data may have missing values
TAKES_GAPS = True
SHOWN_POINTS = 2000
SHOWN_IMAGES = 8
#: the set of what the run's --classes leaves out
OTHER_CLASSES = "other_classes"
MADE = (*data.CORRUPTIONS, OTHER_CLASSES)
# Sets of drawn networks behind the error of an AUROC over draws, and the data of each side that it is found on.
REDRAWN, REDRAWN_DATA = 4, 500
# What --scores adds to the model's own scores.
FURTHER = {"std": StdScores, "published": PublishedScores, "waic": Waic, "ratio": Ratio, "posterior": Posterior}


@dataclasses.dataclass(frozen=True)
class SetFlags(SampleFlags):
    """Which sets a model should find unusual."""

    ood_datasets: tuple[str, ...] = option(
        (), "Sets for the task ood, in the grammar of --dataset, plus constant, noise, hflip, vflip (empty: these "
        "four), and other_classes, the labels that --classes leaves out.", group=EVALUATION, path=True)

    def check(self) -> None:
        """Raises UserError when one of --ood_datasets is neither made from the data nor in the grammar of --dataset."""
        check_names(self.ood_datasets)


@dataclasses.dataclass(frozen=True)
class Flags(SetFlags):
    """The flags of the task ood."""

    ood_bootstrap: int = option(200, "Resamples behind the 95 % intervals of the task ood (0: none).",
                                low=0, high=1_000_000, group=EVALUATION, smoke=20)
    baselines: bool = option(False, "Beside the model's scores, simple detectors in the task ood: PCA error, nearest "
                             "neighbours, Mahalanobis distance, mixture, isolation forest.", group=EVALUATION)
    scores: str = option(
        "own", "Scores of the task ood: the model's own, or beside them stds of code and output and typicality (std), "
        "those of the code of Miani et al., as it computes them (published), WAIC over networks or runs (waic), "
        "likelihood ratios to a background (ratio), evidence, volume and Jacobian of the posterior (posterior).",
        choices=("own", *FURTHER), group=EVALUATION)
    ood_workdirs: tuple[str, ...] = option((), "waic: finished runs that are an ensemble together with this one.",
                                           group=EVALUATION, path=True)
    background_workdir: str = option("", "ratio: finished run of the background.", group=EVALUATION, path=True)


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """AUROC, AUPRC, FPR at 95 % and 80 % TPR of every score, with intervals, against each of --ood_datasets.

    Positives are the OOD data, higher scores are more unusual. Without --ood_datasets the sets made from
    the test images are used: constant, noise, hflip, vflip. With --baselines simple detectors stand beside the scores.
    Raises UserError for an unknown set, for one whose shape cannot be converted, and for sets made from images when the
    data are vectors.
    """
    sets = load_sets(context)
    if not sets:
        context.say("ood: the data are vectors, of which no set is made; name some with --ood_datasets.")
        return
    try:
        brief = context.network_seed is None
        inside = context.map_batches(context.model.ood_scores, context.dataset.test.x, "ood test", brief=brief)
    except NotImplementedError as error:
        context.say(f"ood: unsupported. {sentence(error)}")
        yield from ((f"ood/{name}", UNSUPPORTED) for name in sets)
        return
    for note in getattr(context.model, "score_notes", list)():
        context.say(f"ood: {note}")
    draws = Draws(context)
    outliers = Outliers(context) if context.hparams.baselines else None
    if outliers is not None:
        inside |= outliers.of(context.dataset.test.x, "test")
    further = None
    if context.hparams.scores in FURTHER:
        try:
            further = FURTHER[context.hparams.scores](context)
            inside |= further.of(context.dataset.test.x, "test")
        except NotImplementedError as error:
            yield from context.unsupported([f"ood/{context.hparams.scores}"], error)
    for name, (x, conversion) in sets.items():
        if conversion:
            context.say(f"ood/{name}: {conversion}.")
            yield f"ood/{name}/converted", conversion
        outside = context.map_batches(context.model.ood_scores, x, f"ood {name}", brief=brief)
        if outliers is not None:
            outside |= outliers.of(x, name)
        if further is not None:
            outside |= further.of(x, name)
        yield from compare(context, name, inside, outside)
        yield from draws.errors(name, x)
        yield from draw_codes(context, name, x)
        draw_stds(context, name, x)
    if outliers is not None:
        yield from outliers.times()


def names(context: Context) -> list[str]:
    """Returns the names in --ood_datasets, or those of the sets made from the data when it is empty."""
    given = context.hparams.ood_datasets
    given = given.split(",") if isinstance(given, str) else list(given)
    given = [name.strip() for name in given if name.strip()]
    return given or (list(data.CORRUPTIONS) if context.is_image else [])


def check_names(given: Sequence[str]) -> None:
    """Raises UserError when one of `given` is neither made from the data nor in the grammar of --dataset."""
    for name in given:
        if name in MADE:
            continue
        try:
            data.check_name(name)
        except UserError as error:
            made = f"{suggestion(name, MADE)}; made from the data: {', '.join(MADE)}"
            raise UserError(f"--ood_datasets: {str(error).rstrip('.')}{made}.") from error


def check_data(hparams: Any, dataset: Optional[data.Dataset] = None) -> None:
    """Raises UserError unless every set of --ood_datasets is there and, where known, of shapes that are converted."""
    if getattr(hparams, "baselines", False) and getattr(hparams, "missing", REFUSE) == MASK:
        raise UserError("--baselines are detectors of whole data, and --missing=mask lets values be missing; leave one "
                        "of them out.")
    event_shape = dataset and tuple(dataset.event_shape)
    if OTHER_CLASSES in hparams.ood_datasets and not hparams.classes:
        raise UserError(f"--ood_datasets={OTHER_CLASSES} are the labels that --classes leaves out, and the run has "
                        "none; train one with --classes=0, say, or name other sets.")
    if OTHER_CLASSES in hparams.ood_datasets and dataset is not None:
        data.of_hparams(hparams, others=True)  # refuses labels that leave none out
    given = [name for name in hparams.ood_datasets if name not in MADE]
    check_names(given)
    for name in given:
        try:
            shape = data.locate(name, data_dir=hparams.data_dir, download=hparams.download,
                                schema=dataset.table if dataset else None)
            if shape is not None and event_shape is not None:
                _check_shapes(name, shape, event_shape)
        except UserError as error:
            raise UserError(f"--ood_datasets={','.join(hparams.ood_datasets)}: {error} To go on without it leave "
                            f"{name} out of --ood_datasets.") from error


def _check_shapes(name: str, received: tuple[int, ...], event_shape: tuple[int, ...]) -> None:
    if received != event_shape and (len(received) != 3 or len(event_shape) != 3):
        raise UserError(
            f"OOD data set {name!r} has data of shape {received}, the model takes {event_shape}: only grey and "
            "RGB images are converted. Give --ood_datasets of the model's shape."
        )


def load_sets(context: Context) -> dict[str, tuple[np.ndarray, str]]:
    """Returns {slug: (x of the event shape, sentence on its conversion or "")} for each OOD set.

    A named set is its test split, passed through the same --image_size, --grey, --invert and static
    binarisation as the data that the model was trained on.
    """
    hparams, test, sets = context.hparams, context.dataset.test, {}
    check_names(names(context))
    for name in names(context):
        if name in data.CORRUPTIONS:
            slug, x = name, data.corrupted(name, test, context.seed).x
        elif name == OTHER_CLASSES:
            slug, x = name, data.of_hparams(hparams, others=True).test.x
        else:
            loaded = data.load(
                name, ood=True, data_dir=hparams.data_dir, download=hparams.download,
                image_size=hparams.image_size, grey=hparams.grey, invert=hparams.invert,
                static_binarise="binarise_static" in hparams.preprocess,
                num_test=len(test.x) if hparams.smoke else 0, seed=hparams.seed, schema=context.dataset.table,
                reals=data.takes_reals(hparams.preprocess), missing=getattr(hparams, "missing", REFUSE),
            )  # fmt: skip
            slug, x = loaded.slug, loaded.test.x
        if slug in sets:
            raise UserError(f"--ood_datasets names {slug!r} twice; received {','.join(names(context))}.")
        sets[slug] = convert(name, x, tuple(context.dataset.event_shape))
    return sets


def convert(name: str, x: np.ndarray, event_shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """Returns x with the given event shape and a sentence that says what was done, "" for nothing.

    Colour becomes grey by its luma (ITU-R 601), grey is repeated as RGB; the size is changed bilinearly,
    antialiased, without regard to the aspect ratio. Raises UserError when one of the two is not an image.
    """
    received = x.shape[1:]
    if received == event_shape:
        return x, ""
    _check_shapes(name, received, event_shape)
    if {received[2], event_shape[2]} - {1, 3}:
        raise UserError(f"OOD data set {name!r} has {received[2]} channels, the model takes {event_shape[2]}: only "
                        "grey and RGB images are converted.")
    done = []
    if received[2] > event_shape[2]:
        done.append("colour to grey (luma)")
    elif received[2] < event_shape[2]:
        done.append("grey repeated as RGB")
    if received[:2] != event_shape[:2]:
        done.append("resized (bilinear; antialiased)")
    parts = [_convert(x[start : start + 1000], event_shape) for start in range(0, len(x), 1000)]
    shapes = " to ".join("x".join(map(str, shape)) for shape in (received, event_shape))
    return np.concatenate(parts), f"converted from {shapes}: {', '.join(done)}"


def _convert(x: np.ndarray, event_shape: tuple[int, ...]) -> np.ndarray:
    y = x.astype(np.float32)
    if y.shape[-1] > event_shape[-1]:
        y = Geometry(grey=True).apply(y)
    if y.shape[1:3] != event_shape[:2]:
        y = tf.image.resize(y, event_shape[:2], antialias=True).numpy()
    if y.shape[-1] < event_shape[-1]:
        y = np.repeat(y, event_shape[-1], axis=-1)
    return np.clip(np.rint(y), 0, 255).astype(np.uint8) if x.dtype == np.uint8 else y


# ---- numbers and figures -------------------------------------------------------------------------------


def compare(
    context: Context, name: str, inside: dict[str, np.ndarray], outside: dict[str, np.ndarray]
) -> Iterator[tuple[str, Any]]:
    """Yields the figures of merit of every score; saves histograms of the model's own, curves and the raw scores."""
    captions, roc, precision_recall = {}, {}, {}
    counts = [len(next(iter(scores.values()))) for scores in (inside, outside)]
    chance = counts[1] / sum(counts)
    yield f"ood/{name}/num", counts[1]
    yield f"ood/{name}/prevalence", chance
    for score in inside:
        found = detection.detection(inside[score], outside[score])
        yield from ((f"ood/{name}/{score}/{key}", value) for key, value in found.items())
        yield f"ood/{name}/{score}/auroc_stderr", detection.auroc_stderr(inside[score], outside[score])
        yield from intervals(context, f"ood/{name}/{score}", inside[score], outside[score])
        broken = int(np.isnan(inside[score]).sum() + np.isnan(outside[score]).sum())
        if broken:
            context.say(f"ood/{name}/{score}: {broken} scores are NaN; they count as the most unusual.")
            yield f"ood/{name}/{score}/num_nan", broken
        yield from by_level(f"ood/{name}/{score}", inside[score], outside[score])
        captions[score] = f"{score}: AUROC {found['auroc']:.3f}, FPR95 {found['fpr95']:.3f}"
        fpr, tpr, precision = detection.curves(inside[score], outside[score])
        roc[f"{score} ({found['auroc']:.3f})"] = (np.append(0.0, fpr), np.append(0.0, tpr))
        precision_recall[f"{score} ({found['auprc']:.3f})"] = (tpr, precision)
    title = f"{context.dataset.name} (test, n = {counts[0]:,}) against {name} (n = {counts[1]:,})"
    groups = (f"{context.dataset.name} (in)", f"{name} (out)")
    figure = figures.score_histograms(_shown(inside), _shown(outside), groups, title, captions)
    context.figure(f"ood_{name}_scores", figure)
    figure = figures.roc_and_precision_recall(roc, precision_recall, title, chance)
    context.figure(f"ood_{name}_curves", figure)
    columns = {"out": np.repeat([0, 1], counts), "index": np.concatenate([np.arange(n) for n in counts])}
    columns |= {score: np.concatenate([inside[score], outside[score]]) for score in inside}
    context.table(f"ood_{name}.csv", columns)


def by_level(prefix: str, inside: np.ndarray, outside: np.ndarray) -> Iterator[tuple[str, float]]:
    """Yields the mean score of each side and, for 0, 10, .. 90 % of the OOD data found, the least share flagged."""
    yield f"{prefix}/mean_in", float(np.mean(inside))
    yield f"{prefix}/mean_out", float(np.mean(outside))
    fpr, tpr, _ = detection.curves(inside, outside)
    for percent in range(0, 100, 10):
        enough = fpr[tpr >= percent / 100]
        yield f"{prefix}/fpr{percent}", float(enough.min()) if percent else 0.0


class Draws:
    """How far AUROCs of scores by drawn networks differ from one set of networks to another."""

    def __init__(self, context: Context):
        self.context = context
        self.is_needed = getattr(context.model, "draws_are_shared", False) and context.num_draws > 0
        self._inside: dict[str, np.ndarray] = {}

    def errors(self, name: str, x: np.ndarray) -> Iterator[tuple[str, float]]:
        """Yields ood/<set>/<score>/auroc_draws_std, the std of the AUROC over four sets of `--test_samples` networks.

        They are other networks than those of the AUROC itself, tried on up to 500 data of each side, the same for all
        sets of networks. A score that no draw changes has none.
        """
        if not self.is_needed:
            return
        self._inside = self._inside or self._scores(self.context.dataset.test.x, "draws, test")
        outside = self._scores(x, f"draws, {name}")
        for score, inside in self._inside.items():
            pairs = zip(inside.T, outside[score].T)
            found = [detection.auroc(one, other) for one, other in pairs]
            if np.ptp(inside, axis=1).any():
                yield f"ood/{name}/{score}/auroc_draws_std", float(np.std(found, ddof=1))

    def _scores(self, x: np.ndarray, purpose: str) -> dict[str, np.ndarray]:
        """Returns each score by each set of networks, (n, 4)."""
        chosen = self.context.choose(len(x), REDRAWN_DATA, "ood draws")
        return self.context.map_batches(self._by_set, x[chosen], f"ood {purpose}")

    def _by_set(self, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        base = seeds.stream(seed, "ood/draws")
        found = [self.context.model.ood_scores(x, seeds.fold_in(base, number)) for number in range(REDRAWN)]
        return {score: tf.stack([one[score] for one in found], axis=-1) for score in found[0]}


def intervals(context: Context, key: str, inside: np.ndarray, outside: np.ndarray) -> Iterator[tuple[str, float]]:
    """Yields <key>/<figure>_low and _high, the 95 % intervals of --ood_bootstrap resamples of the data."""
    num = int(context.hparams.ood_bootstrap)
    if not num:
        return
    generator = np.random.default_rng([context.seed & 0xFFFFFFFF, zlib.crc32(key.encode())])
    for name, (low, high) in detection.intervals(inside, outside, num, generator).items():
        yield f"{key}/{name}_low", low
        yield f"{key}/{name}_high", high


def _shown(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    own = {name: values for name, values in scores.items() if not name.startswith("baseline_")}
    return {name: values[np.isfinite(values)] for name, values in own.items()}


def draw_codes(context: Context, name: str, x: np.ndarray) -> Iterator[tuple[str, Any]]:
    """Saves the codes of both sets in two dimensions and yields how far apart their means lie."""
    try:
        inside, _ = context.test_codes
        outside, _ = context.encode(x, f"codes of {name}")
    except NotImplementedError as error:
        yield from context.unsupported([f"ood/{name}/code_shift"], error)
        return
    centre = inside.mean(axis=0, dtype=np.float64)
    spread = math.sqrt(((inside - centre) ** 2).sum(axis=1).mean())
    shift = np.linalg.norm(outside.mean(axis=0, dtype=np.float64) - centre) / max(spread, 1e-300)
    yield f"ood/{name}/code_shift", shift
    chosen_in = context.choose(len(inside), SHOWN_POINTS, "ood")
    chosen_out = context.choose(len(outside), SHOWN_POINTS, "ood")
    groups = {
        f"{context.dataset.name} (in)": inside[chosen_in],
        f"{name} (out)": outside[chosen_out],
    }
    title = f"codes of {context.dataset.name} and {name}: means {shift:.2f} spreads apart"
    context.figure(f"ood_{name}_codes", Projection(inside).draw(groups, title))


def draw_stds(context: Context, name: str, x: np.ndarray) -> None:
    """Saves some data of both sets with mean and epistemic std of their prediction, for a model that has one."""
    if not context.is_image:
        return
    how = f"over {context.num_draws} draws" if context.num_draws else "linearised"
    rows, stds = [], []
    for data_of in (context.dataset.test.x, x):
        chosen = context.choose(len(data_of), SHOWN_IMAGES, "ood std")
        try:
            mean, std = predictions.mean_and_std(context, data_of[chosen])
        except NotImplementedError:
            return
        rows += [to_unit(data_of[chosen]), mean]
        stds.append(std)
    count = min(map(len, stds))
    limit = max(float(max(std.mean(axis=-1).max() for std in stds)), 1e-9)
    table = [figures.to_rgb(row[:count]) for row in rows]
    shown = [figures.positive_rgb(std[:count], limit) for std in stds]
    table = np.stack([*table[:2], shown[0], *table[2:], shown[1]])
    labels = [f"{group}{row}" for group in ("in: ", "out: ") for row in ("datum", "mean", "std")]
    title = f"{context.dataset.name} (in) and {name} (out): mean and std {how}"
    means = ", ".join(f"{where} {std.mean():.3g}" for where, std in zip(("in", "out"), stds))
    note = f"epistemic std in units of y: black 0, pale yellow {limit:.2g}; mean of these: {means}"
    context.figure(f"ood_{name}_std", figures.image_table(table, title, labels, note=note))
    context.board.images(f"ood_{name}_std", table)
