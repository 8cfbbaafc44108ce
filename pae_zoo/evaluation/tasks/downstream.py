"""Few labels: how well nearest neighbours among the codes of a few labelled data classify the others."""


import dataclasses
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.evaluation.context import UNSUPPORTED, Context, sentence, to_unit
from pae_zoo.plotting import uncertainty

MOST_NEIGHBOURS = 10
# Held-out points by which the number of neighbours is chosen: more change nothing and take long.
MOST_QUERIES = 5000


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of the task downstream."""

    labels_per_class: tuple[int, ...] = option(
        (1, 2, 4, 6, 8, 10, 15, 25, 50, 100), "Labels per class of the task downstream.", group=EVALUATION, smoke=6)
    embeddings: int = option(100, "Draws of the code of each labelled datum in the task downstream.",
                             low=1, high=10_000, group=EVALUATION, smoke=5)
    downstream_repeats: int = option(5, "Choices of the labelled data in the task downstream.",
                                     low=1, high=10_000, group=EVALUATION, smoke=2)
    downstream_images: int = option(5000, "Test data that the task downstream classifies.", low=1, group=EVALUATION,
                                    smoke=200)

    def check(self) -> None:
        """Raises UserError unless all numbers of labels per class are at least 1."""
        counts = self.labels_per_class
        if not counts or min(counts) < 1:
            given = ",".join(map(str, counts))
            raise UserError(f"--labels_per_class={given}: numbers of labels are at least 1, such as 1,2,4,10.")


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """Accuracy of nearest neighbours on codes, and on drawn codes, for few labels per class: mean and sd over choices.

    Labelled data come from the training split, the others are test data. With drawn codes each labelled datum counts
    --embeddings times, each time with another draw, and a test datum once (Miani et al., NeurIPS 2022). The number of
    neighbours, 1 to 10, is the best in a two-fold cross-validation over the labelled data; it is 1 for one label. Data
    without labels but with attributes, as CelebA's 40, have the same for each attribute.
    """
    dataset = context.dataset
    if dataset.test.y is None or dataset.train.y is None:
        if dataset.test.attributes is None or dataset.train.attributes is None:
            raise NotImplementedError(f"{dataset.name} has no labels, and few labels are what the task is about.")
        yield from _of_attributes(context)
        return
    counts, results = yield from classified(context, dataset.train.y, dataset.test.y, "downstream")
    if results:
        report(context, counts, results)


def _of_attributes(context: Context) -> Iterator[tuple[str, Any]]:
    """Yields the same for each attribute of the data that some have and some have not, and means over attributes."""
    dataset, found = context.dataset, {}
    for number, name in enumerate(dataset.attribute_names):
        train, test = (split.attributes[:, number].astype(np.int64) for split in (dataset.train, dataset.test))
        if train.min() == train.max() or test.min() == test.max():
            context.say(f"downstream/{name}: left out, for all data of a split are alike in it.")
            continue
        counts, results = yield from classified(context, train, test, f"downstream/{name}")
        for kind, values in results.items():
            for n, accuracies in zip(counts, values):
                found.setdefault((kind, n), []).append(accuracies.mean())
    for (kind, n), values in found.items():
        yield f"downstream/attributes/{kind}/{n}/accuracy", np.mean(values)
    yield "downstream/num_attributes", max((len(values) for values in found.values()), default=0)


def classified(
    context: Context, train_y: np.ndarray, test_y: np.ndarray, prefix: str
) -> Generator[tuple[str, Any], None, tuple[list[int], dict[str, np.ndarray]]]:
    """Yields the figures of labels (n,) of training and test data; returns numbers of labels and accuracies by kind."""
    options, dataset = context.hparams, context.dataset
    chosen = context.choose(len(dataset.test.x), int(options.downstream_images), "downstream")
    x, labels = dataset.test.x[chosen], test_y[chosen]
    counts = available(context, train_y)
    repeats = int(options.downstream_repeats)
    picks = {(n, r): pick(train_y, n, [context.seed, n, r]) for n in counts for r in range(repeats)}
    used = np.unique(np.concatenate([*picks.values(), np.zeros(0, int)])).astype(int)
    yield f"{prefix}/num_test", len(chosen)
    yield f"{prefix}/num_classes", len(np.unique(train_y))
    if not len(used):
        return counts, {}
    results = {}
    for kind, make in (("codes", _codes), ("draws", _draws)):
        try:
            train, test = make(context, dataset.train.x[used], x)
        except NotImplementedError as error:
            context.say(f"{prefix}/{kind}: unsupported. {sentence(error)}")
            yield f"{prefix}/{kind}", UNSUPPORTED
            continue
        results[kind] = np.zeros((len(counts), repeats))
        with context.progress(len(picks), f"neighbours of {kind}", "fit") as bar:
            for (n, r), rows in picks.items():
                points = train[np.searchsorted(used, rows)]  # (labelled, embeddings, K)
                k = choose_neighbours(points, train_y[rows], [context.seed, n, r])
                found = predict(points, train_y[rows], test[r % len(test)], k)
                results[kind][counts.index(n), r] = np.mean(found == labels)
                bar.update()
        for n, values in zip(counts, results[kind]):
            yield f"{prefix}/{kind}/{n}/accuracy", values.mean()
            if repeats > 1:
                yield f"{prefix}/{kind}/{n}/accuracy_std", values.std(ddof=1)
    return counts, results


def available(context: Context, labels: np.ndarray) -> list[int]:
    """Returns the numbers of labels per class that every class has data for; says which it leaves out."""
    asked = sorted(dict.fromkeys(int(n) for n in context.hparams.labels_per_class))
    least = int(np.unique(labels, return_counts=True)[1].min())
    missing = [n for n in asked if n > least]
    if missing:
        context.say(f"downstream: no figures for {', '.join(map(str, missing))} labels per class; one class of the "
                    f"training split has only {least} data.")
    return [n for n in asked if n <= least]


def pick(labels: np.ndarray, count: int, seed: list[int]) -> np.ndarray:
    """Returns indices of `count` data of each class, drawn without replacement; class after class."""
    generator = np.random.default_rng(seed)
    return np.concatenate([
        generator.permutation(np.flatnonzero(labels == name))[:count] for name in np.unique(labels)
    ])


# ---- codes -------------------------------------------------------------------------------------------------


def _codes(context: Context, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns codes (n, 1, K) of the labelled data and (1, m, K) of the test data."""
    labelled, others = context.encode(train, "codes of labelled data"), context.encode(test, "downstream codes")
    return labelled[0][:, None], others[0][None]


def _draws(context: Context, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns drawn codes (n, embeddings, K) of the labelled data and (repeats, m, K) of the test data."""
    model, options = context.model, context.hparams
    num, repeats = int(options.embeddings), int(options.downstream_repeats)
    # Found out at once: compiling takes longer.
    model.draw_codes(tf.constant(to_unit(train[:1])), 1, context.seed_for("downstream"))

    def embed(x, seed):
        return tf.transpose(model.draw_codes(x, num, seed), (1, 0, 2))

    def embed_test(x, seed):
        return tf.transpose(model.draw_codes(x, repeats, seed), (1, 0, 2))

    points = context.map_batches(embed, train, "drawn codes of labelled data")
    return points, context.map_batches(embed_test, test, "drawn codes of test data").transpose(1, 0, 2)


# ---- nearest neighbours ------------------------------------------------------------------------------------


def predict(points: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Returns the label (m,) that most of the k nearest points have; the least of those with equally many votes.

    points: (n, E, K), labels: (n,) of all E points of a datum; queries: (m, K).
    """
    return votes(points, labels, queries, k)[k - 1]


def votes(points: np.ndarray, labels: np.ndarray, queries: np.ndarray, most: int) -> np.ndarray:
    """Returns the labels (most, m) by the 1, 2, .., `most` nearest points; fewer rows where there are fewer points."""
    from sklearn.neighbors import NearestNeighbors

    flat = points.reshape(-1, points.shape[-1])
    names, index = np.unique(np.repeat(labels, points.shape[1]), return_inverse=True)
    most = min(most, len(flat))
    nearest = NearestNeighbors(n_neighbors=most).fit(flat).kneighbors(queries, return_distance=False)
    counts = np.cumsum(np.eye(len(names), dtype=np.int32)[index[nearest]], axis=1)  # (m, most, classes)
    return names[counts.argmax(axis=2)].T


def choose_neighbours(points: np.ndarray, labels: np.ndarray, seed: list[int]) -> int:
    """Returns the number of neighbours, 1 to 10, that is best in two-fold cross-validation; the least of the best.

    All points of a datum fall into one fold: else each would find itself. A datum alone in its class leaves 1.
    """
    least = np.unique(labels, return_counts=True)[1].min()
    if least < 2:
        return 1
    generator = np.random.default_rng([*seed, 0x6B6E6E])
    first = np.zeros(len(labels), bool)
    for name in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == name))
        first[members[: len(members) // 2]] = True
    correct = np.zeros(MOST_NEIGHBOURS)
    rows = min(MOST_NEIGHBOURS, points.shape[1] * min(first.sum(), (~first).sum()))
    for fold in (first, ~first):
        queries = points[~fold].reshape(-1, points.shape[-1])
        truth = np.repeat(labels[~fold], points.shape[1])
        some = generator.permutation(len(queries))[:MOST_QUERIES]
        found = votes(points[fold], labels[fold], queries[some], rows)
        correct[:rows] += (found == truth[some]).mean(axis=1)
    return int(correct[:rows].argmax()) + 1


def report(context: Context, counts: list[int], results: dict[str, np.ndarray]) -> None:
    """Saves every accuracy as a table, and their means as a picture."""
    rows = [(kind, n, repeat, value) for kind, found in results.items()
            for n, values in zip(counts, found) for repeat, value in enumerate(values)]  # fmt: skip
    if not rows:
        return
    context.table("downstream.csv", dict(zip(("kind", "labels_per_class", "repeat", "accuracy"), zip(*rows))))
    repeats = int(context.hparams.downstream_repeats)
    names = {"codes": "codes", "draws": f"{context.hparams.embeddings} drawn codes of each labelled datum"}
    groups = {names[kind]: (found.mean(axis=1), found.std(axis=1, ddof=min(1, repeats - 1)))
              for kind, found in results.items()}  # fmt: skip
    chance = 1.0 / len(np.unique(context.dataset.train.y))
    title = f"{context.dataset.name}: nearest neighbours among codes\nmean and sd over {repeats} choices of labels"
    figure = uncertainty.accuracy_by_labels(counts, groups, chance, title)
    context.board.figure("downstream", figure)
    context.figure("downstream", figure)
