"""Out-of-distribution detection: how well each score of the model tells other data from the test data."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo import data, plotting
from pae_zoo.data.geometry import Geometry
from pae_zoo.errors import UserError
from pae_zoo.evaluation.context import UNSUPPORTED, Context, Projection, sentence

SHOWN_POINTS = 2000


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """AUROC, AUPRC, FPR at 95 % and 80 % TPR of every score, against each of --ood_datasets.

    Positives are the OOD data, higher scores are more unusual. Without --ood_datasets the sets made from
    the test images are used: constant, noise, hflip, vflip. Raises UserError for an unknown set, for one
    whose shape cannot be converted, and for sets made from images when the data are vectors.
    """
    sets = load_sets(context)
    if not sets:
        context.say("ood: the data are vectors, of which no set is made; name some with --ood_datasets.")
        return
    try:
        inside = context.map_batches(context.model.ood_scores, context.dataset.test.x, "ood test")
    except NotImplementedError as error:
        context.say(f"ood: unsupported. {sentence(error)}")
        yield from ((f"ood/{name}", UNSUPPORTED) for name in sets)
        return
    for name, (x, conversion) in sets.items():
        if conversion:
            context.say(f"ood/{name}: {conversion}.")
            yield f"ood/{name}/converted", conversion
        outside = context.map_batches(context.model.ood_scores, x, f"ood {name}")
        yield from compare(context, name, inside, outside)
        yield from draw_codes(context, name, x)


def names(context: Context) -> list[str]:
    """Returns the names in --ood_datasets, or those of the sets made from the data when it is empty."""
    given = context.hparams.ood_datasets
    given = given.split(",") if isinstance(given, str) else list(given)
    given = [name.strip() for name in given if name.strip()]
    return given or (list(data.CORRUPTIONS) if context.is_image else [])


def check_names(given: Sequence[str]) -> None:
    """Raises UserError when one of `given` is neither made from the data nor in the grammar of --dataset."""
    for name in given:
        if name not in data.CORRUPTIONS:
            data.check_name(name)


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
        else:
            loaded = data.load(
                name, ood=True, data_dir=hparams.data_dir, download=hparams.download,
                image_size=hparams.image_size, grey=hparams.grey, invert=hparams.invert,
                static_binarise="binarise_static" in hparams.preprocess,
                num_test=len(test.x) if hparams.smoke else 0, seed=hparams.seed,
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
    if len(received) != 3 or len(event_shape) != 3 or {received[2], event_shape[2]} - {1, 3}:
        raise UserError(
            f"OOD data set {name!r} has data of shape {received}, the model takes {event_shape}: only grey and "
            "RGB images are converted. Give --ood_datasets of the model's shape."
        )
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


# ---- numbers -------------------------------------------------------------------------------------------


def detection(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """Returns auroc, auprc, fpr95, fpr80 of scores (n,) and (m,); `outside` are the positives.

    auroc = P(outside > inside) + P(outside = inside) / 2; auprc is the average precision; fpr95 is the least
    false positive rate at which at least 95 % of the positives are found.
    """
    from sklearn import metrics

    labels, scores = _labelled(inside, outside)
    fpr, tpr, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    return {
        "auroc": auroc(inside, outside),
        "auprc": float(metrics.average_precision_score(labels, scores)),
        "fpr95": float(fpr[np.argmax(tpr >= 0.95 - 1e-12)]),
        "fpr80": float(fpr[np.argmax(tpr >= 0.80 - 1e-12)]),
    }


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Returns P(outside > inside) + P(outside = inside) / 2 of scores (n,) and (m,)."""
    from sklearn import metrics

    return float(metrics.roc_auc_score(*_labelled(inside, outside)))


def auroc_stderr(inside: np.ndarray, outside: np.ndarray) -> float:
    """Returns the bootstrap standard error of the AUROC of scores (n,) and (m,), each set resampled by itself.

    K_ij = [out_j > in_i] + [out_j = in_i] / 2 has the mean AUROC; its variance over pairs splits into that of row
    means, of column means and a rest. The mean of resampled rows and columns then has the variance
    rows / n + columns / m + rest / (n m) exactly: what infinitely many resamples would give.
    """
    labels, ranks = _labelled(inside, outside)
    counts_in, counts_out = (np.bincount(ranks[labels == label], minlength=ranks.max() + 1) for label in (0, 1))
    n, m = len(inside), len(outside)
    columns = ((np.cumsum(counts_in) - 0.5 * counts_in) / n)[ranks[labels == 1]]
    rows = 1.0 - ((np.cumsum(counts_out) - 0.5 * counts_out) / m)[ranks[labels == 0]]
    mean, ties = columns.mean(), counts_in @ counts_out / (n * m)
    rest = mean - 0.25 * ties - mean**2 - rows.var() - columns.var()
    return float(np.sqrt(max(rows.var() / n + columns.var() / m + rest / (n * m), 0.0)))


def _labelled(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (labels, scores); scores become ranks, which keep order and ties and admit infinities."""
    scores = np.concatenate([inside, outside]).astype(np.float64)
    _, ranks = np.unique(np.where(np.isnan(scores), np.inf, scores), return_inverse=True)
    return np.repeat([0, 1], [len(inside), len(outside)]), ranks


def compare(
    context: Context, name: str, inside: dict[str, np.ndarray], outside: dict[str, np.ndarray]
) -> Iterator[tuple[str, Any]]:
    """Yields the figures of merit of every score; saves histograms, curves and the raw scores."""
    from sklearn import metrics

    captions, roc, precision_recall = {}, {}, {}
    counts = [len(next(iter(scores.values()))) for scores in (inside, outside)]
    chance = counts[1] / sum(counts)
    yield f"ood/{name}/num", counts[1]
    yield f"ood/{name}/prevalence", chance
    for score in inside:
        found = detection(inside[score], outside[score])
        yield from ((f"ood/{name}/{score}/{key}", value) for key, value in found.items())
        yield f"ood/{name}/{score}/auroc_stderr", auroc_stderr(inside[score], outside[score])
        broken = int(np.isnan(inside[score]).sum() + np.isnan(outside[score]).sum())
        if broken:
            context.say(f"ood/{name}/{score}: {broken} scores are NaN; they count as the most unusual.")
            yield f"ood/{name}/{score}/num_nan", broken
        captions[score] = f"{score}: AUROC {found['auroc']:.3f}, FPR95 {found['fpr95']:.3f}"
        labels, ranks = _labelled(inside[score], outside[score])
        fpr, tpr, _ = metrics.roc_curve(labels, ranks)
        precision, recall, _ = metrics.precision_recall_curve(labels, ranks)
        roc[f"{score} ({found['auroc']:.3f})"] = (fpr, tpr)
        # The last point, recall 0 and precision 1, is a convention of scikit-learn's, not a measurement.
        precision_recall[f"{score} ({found['auprc']:.3f})"] = (recall[:-1], precision[:-1])
    title = f"{context.dataset.name} (test, n = {counts[0]:,}) against {name} (n = {counts[1]:,})"
    groups = (f"{context.dataset.name} (in)", f"{name} (out)")
    figure = plotting.score_histograms(_finite(inside), _finite(outside), groups, title, captions)
    context.figure(f"ood_{name}_scores", figure)
    figure = plotting.roc_and_precision_recall(roc, precision_recall, title, chance)
    context.figure(f"ood_{name}_curves", figure)
    columns = {"out": np.repeat([0, 1], counts), "index": np.concatenate([np.arange(n) for n in counts])}
    columns |= {score: np.concatenate([inside[score], outside[score]]) for score in inside}
    context.table(f"ood_{name}.csv", columns)


def _finite(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[np.isfinite(values)] for name, values in scores.items()}


def draw_codes(context: Context, name: str, x: np.ndarray) -> Iterator[tuple[str, float]]:
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
