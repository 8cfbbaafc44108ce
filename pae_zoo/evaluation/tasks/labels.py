"""Labels as conditions: samples of each label, and what the model says of the label of a datum."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.evaluation.context import Context, Projection, to_unit
from pae_zoo.plotting import figures, series

SHOWN_LABELS, SHOWN_SAMPLES, SHOWN_POINTS = 20, 10, 300
REGRESSION_ROWS = 10_000


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of the task labels."""

    label_samples: int = option(100, "Draws of each datum's latent behind p(label|x) of the task labels, of models "
                                "that draw.", low=1, high=100_000, group=EVALUATION, smoke=5)


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """Samples of each label, and p(label|x) of test data: accuracy, nats, a linear classifier beside it.

    For models of --condition=label. p(c|x) follows from p(x|c) by Bayes' rule, no classifier being trained. `nll` is
    -log p(label|x) in nats; `information` is the mean of log p(x|label) - log p(x), what the label says of the datum.
    Beside it a logistic regression on the data themselves, of up to 10,000 training data.
    """
    model, dataset = context.model, context.dataset
    if not model.num_labels:
        raise NotImplementedError(f"{type(model).__name__} was trained without labels; take --condition=label.")
    num = int(context.hparams.label_samples)
    found = context.map_batches(lambda x, seed: {"log": model.log_label_prob(x, num, seed)}, dataset.test.x,
                                "labels")["log"]
    truth, rows = dataset.test.y, np.arange(len(found))
    shares = np.bincount(dataset.train.y, minlength=model.num_labels) / len(dataset.train.y)
    own = found[rows, truth]
    yield "labels/num_test", len(rows)
    yield "labels/num_labels", model.num_labels
    yield "labels/accuracy", np.mean(found.argmax(axis=1) == truth)
    yield "labels/nll", -own.mean()
    yield "labels/information", np.mean(own - np.log(np.maximum(shares[truth], np.finfo(float).tiny)))
    yield "labels/majority/accuracy", np.mean(truth == shares.argmax())
    start = time.process_time()
    yield from linear(context)
    yield "labels/linear/seconds", time.process_time() - start
    names = label_names(context)
    context.table("labels.csv", {"label": truth, "predicted": found.argmax(axis=1), "probability": np.exp(own)})
    draw(context, names)


def linear(context: Context) -> Iterator[tuple[str, Any]]:
    """Yields accuracy and nats of a logistic regression on the data."""
    train, test = context.dataset.train, context.dataset.test
    chosen = context.choose(len(train.x), REGRESSION_ROWS, "labels")
    x, y = to_unit(train.x[chosen]).reshape(len(chosen), -1), train.y[chosen]
    if len(np.unique(y)) < 2 or not np.isfinite(x).all():
        context.say("labels/linear: left out, for it needs two labels and data without gaps.")
        return
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)
    given = to_unit(test.x).reshape(len(test.x), -1)
    yield "labels/linear/accuracy", fitted.score(given, test.y)
    if np.isin(test.y, fitted.classes_).all():
        yield "labels/linear/nll", log_loss(test.y, fitted.predict_proba(given), labels=fitted.classes_)


def label_names(context: Context) -> list[str]:
    """Returns the name of each label: its text, or its number."""
    names = [str(name) for name in context.dataset.label_names]
    return [names[label] if label < len(names) else str(label) for label in range(context.model.num_labels)]


def draw(context: Context, names: list[str]) -> None:
    """Saves samples of each label: a row of images each, a window each, or a scatter over test data."""
    labels = list(range(len(names)))[:SHOWN_LABELS]
    num = SHOWN_SAMPLES if context.is_image else 1 if context.is_series else SHOWN_POINTS
    sample = context.compile(lambda seed, label: context.model.given(label).sample(num, seed))
    # One seed: a column of the picture has one source of noise.
    samples = [sample(context.seed_for("labels"), tf.constant(label)).numpy() for label in labels]
    title = f"{context.dataset.name}: samples of each label"
    names = [names[label] for label in labels]
    if context.is_image:
        table = np.stack(samples)
        context.board.images("labels", table)
        figure = figures.image_table(figures.to_rgb(table), title, row_labels=names)
    elif context.is_series:
        title = f"{context.dataset.name}: a sample of each label, {', '.join(names)}"
        figure = series.panels({"samples": np.concatenate(samples)}, title, context.channel_names)
    else:
        data = to_unit(context.dataset.test.x[context.choose(len(context.dataset.test.x), SHOWN_POINTS, "labels")])
        figure = Projection(data, "x").draw({"data": data, **dict(zip(names, samples))}, title)
    context.figure("labels", figure)
