"""What a model predicts for the test data, computed once for the tasks calibration and rejection."""

import dataclasses
import functools
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.core.records import SampleFlags
from pae_zoo.evaluation.context import Context, sentence
from pae_zoo.evaluation.features import choice
from pae_zoo.evaluation.metrics.calibration import VarianceCalibration


@dataclasses.dataclass(frozen=True)
class PredictionFlags(SampleFlags, choice.FeatureFlags):
    """The flags of what is found from predictions."""

    predicted_data: int = option(0, "Test data of the tasks calibration and rejection, drawn by seed (0: all); exact "
                                 "variances of outputs take a backward pass for each of their values.",
                                 low=0, group=EVALUATION)


@dataclasses.dataclass
class Predictions:
    """Predictions of n of the test data y = preprocess(x) by S draws; see `Autoencoder.predictive`.

    Attributes:
      rows: (n,), which of the test data.
      output: (n,), sum over values of the epistemic std, the std of the predicted means.
      latent: (n,), sum over latents of the std of the code.
      sse: (n,), sum over values of (y - mean)^2.
      spread: (n,), sum over values of the epistemic variance: the mean SSE of single draws is sse + spread.
      log_prob: (n,), log of the predictive density of x, nats; None where the model has none.
      information: (n,), mutual information of a new observation and the weights, nats; None unless linearised.
      probabilities: (n, classes) of the classifier for the pictures of the means; None where there is no classifier.
      total, epistemic, noise: errors of all values against their variance: both parts, and each alone.
    """

    rows: np.ndarray
    output: np.ndarray
    latent: np.ndarray
    sse: np.ndarray
    spread: np.ndarray
    log_prob: Optional[np.ndarray]
    information: Optional[np.ndarray]
    probabilities: Optional[np.ndarray]
    total: VarianceCalibration
    epistemic: VarianceCalibration
    noise: VarianceCalibration

    def columns(self, context: Context) -> dict[str, np.ndarray]:
        """Returns the numbers of each datum as columns of a table."""
        test = context.dataset.test
        found = {"index": self.rows, **({} if test.y is None else {"label": test.y[self.rows]})}
        found |= {name: getattr(self, name) for name in ("output", "latent", "sse", "spread")}
        more = {"log_prob": self.log_prob, "information": self.information}
        return found | {name: value for name, value in more.items() if value is not None}


def predict(context: Context) -> Predictions:
    """Returns the predictions of the test split, or --predicted_data of it, the same object to all tasks.

    Raises NotImplementedError for a model without a predictive distribution.
    """
    return context.once("predictions", lambda: _predict(context))


def mean_and_std(context: Context, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean, in the space of x, and epistemic std, in that of y, of the predictions of x (n, *event)."""
    num = int(context.hparams.test_samples)
    moments = context.once("mean and std", lambda: functools.partial(_mean_and_std, context.model, num))
    # Linearised, a datum takes a pass back for each of its values: no others are added to a few that are shown.
    rows = min(len(x), int(context.hparams.batch_size)) if getattr(context.model, "is_linearised", False) else None
    return context.map_batches(moments, x, "mean and std", rows)


def _mean_and_std(model: Any, num_samples: int, x, seed):
    found = model.predictive(x, num_samples, seed)
    return model.to_data(found["mean"]), tf.sqrt(found["epistemic_variance"])


def _predict(context: Context) -> Predictions:
    model, x, num = context.model, context.dataset.test.x, int(context.hparams.test_samples)
    wanted = int(getattr(context.hparams, "predicted_data", 0))
    chosen = np.arange(len(x))
    if 0 < wanted < len(x):
        chosen = context.choose(len(x), wanted, "predictions")
        x = x[chosen]
    try:
        classifier = choice.find_classifier(context)
    except NotImplementedError as error:
        context.say(f"No classifier: {sentence(error)}")
        classifier = None

    def moments(batch, seed):
        found = model.predictive(batch, num, seed)
        return {
            "error": model.preprocess(batch)[0] - found["mean"],
            "aleatoric": found["aleatoric_variance"],
            "epistemic": found["epistemic_variance"],
            "latent": tf.reduce_sum(tf.sqrt(found["latent_variance"]), axis=-1),
            **({} if classifier is None else {"picture": model.to_data(found["mean"])}),
        }

    def densities(batch, seed):
        if getattr(model, "is_linearised", False):
            found = model.density(batch, seed)
            return {name: found[name] for name in ("log_prob", "mutual_information")}
        return {"log_prob": model.predictive_log_prob(batch, num, seed)}

    total, epistemic, noise = (VarianceCalibration() for _ in range(3))
    rows = []
    for part in context.stream(moments, x, "predictive"):
        error, within, between = (part[name].astype(np.float64) for name in ("error", "aleatoric", "epistemic"))
        total.add(error, within + between)
        epistemic.add(error, between)
        noise.add(error, within)
        axes = tuple(range(1, error.ndim))
        row = [np.sqrt(between).sum(axes), part["latent"], np.square(error).sum(axes), between.sum(axes)]
        rows.append([*row, *([] if classifier is None else [classifier.probabilities(part["picture"])])])
    output, latent, sse, spread, *rest = (np.concatenate(column) for column in zip(*rows))
    try:
        given = context.map_batches(densities, x, "predictive density")
        density = {name: value.astype(np.float64) for name, value in given.items()}
    except NotImplementedError as error:
        context.say(f"No predictive density: {sentence(error)}")
        density = {}
    latent = latent.astype(np.float64)
    probabilities = rest[0] if rest else None
    return Predictions(chosen, output, latent, sse, spread, density.get("log_prob"), density.get("mutual_information"),
                       probabilities, total, epistemic, noise)
