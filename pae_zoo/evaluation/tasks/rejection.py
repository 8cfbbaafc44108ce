"""Rejection: what error is left when the most uncertain data are put aside."""


import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from pae_zoo.evaluation.context import UNSUPPORTED, Context
from pae_zoo.evaluation.metrics import calibration as metrics
from pae_zoo.evaluation.support.predictions import PredictionFlags, Predictions, predict
from pae_zoo.plotting import uncertainty

REJECTED = np.round(np.arange(0.0, 0.96, 0.05), 2)
LABELS = {
    "sse": "mean SSE of what is left (y squared)",
    "classifier": "classification error of what is left",
}


@dataclasses.dataclass(frozen=True)
class Flags(PredictionFlags):
    """The flags of the task rejection."""


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """Error of the test data left after rejecting the most uncertain 0 to 95 %, for each uncertainty.

    The error is the SSE of the mean reconstruction and, where the data set has a classifier, that classifier's error
    on the mean reconstructions. Uncertainties: summed output std, summed latent std, and -log of the predictive
    density, which sees the datum itself. Needs a model with `predictive`.
    """
    found = predict(context)
    errors = {"sse": found.sse}
    if found.probabilities is not None:
        labels = context.dataset.test.y[found.rows]
        errors["classifier"] = (found.probabilities.argmax(axis=1) != labels).astype(np.float64)
    panels, columns = {}, {"rejected": REJECTED}
    for name, values in errors.items():
        curves = yield from report(name, values, scores_of(found, name))
        panels[LABELS[name]] = curves
        columns |= {f"{name}_{score}": curve for score, curve in curves.items()}
    if "classifier" not in errors:
        yield "rejection/classifier", UNSUPPORTED
    context.table("rejection.csv", columns)
    title = f"{context.dataset.name}, {len(found.sse):,} test data: error left after rejecting the most uncertain"
    figure = uncertainty.rejection(panels, REJECTED, title)
    context.board.figure("rejection", figure)
    context.figure("rejection", figure)


def scores_of(found: Predictions, error: str) -> dict[str, np.ndarray]:
    """Returns the uncertainties (n,) that data are rejected by; the classifier has one of its own."""
    scores = {"output": found.output, "latent": found.latent}
    if found.log_prob is not None:
        scores["likelihood"] = -found.log_prob
    if error == "classifier" and found.probabilities is not None:
        scores["confidence"] = -found.probabilities.max(axis=1)
    return scores


def report(error: str, values: np.ndarray, scores: dict[str, np.ndarray]) -> Iterator[tuple[str, Any]]:
    """Yields the areas under the curves of one error (n,) and returns the curves, oracle and random among them."""
    curves = {name: metrics.retained_error(values, score, REJECTED) for name, score in scores.items()}
    curves["oracle"] = metrics.retained_error(values, values, REJECTED)
    curves["random"] = np.full(len(REJECTED), values.mean(dtype=np.float64))
    areas = {name: metrics.area(curve) for name, curve in curves.items()}
    for reference in ("oracle", "random"):
        yield f"rejection/{error}/{reference}/area", areas[reference]
    room = areas["random"] - areas["oracle"]
    for name in scores:
        yield f"rejection/{error}/{name}/area", areas[name]
        yield f"rejection/{error}/{name}/normalised_area", (areas["random"] - areas[name]) / room if room > 0 else 0.0
    if "likelihood" not in scores:
        yield f"rejection/{error}/likelihood", UNSUPPORTED
    return curves
