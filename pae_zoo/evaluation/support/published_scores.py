"""The scores of the code of Miani et al., arXiv 2206.15078, as it computes them, beside the models' own."""

from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo.evaluation.context import Context

# Training data behind the mean that typicality is measured from.
MOST_TRAIN = 2000
#: what its likelihood score is, by model: the mean over networks of the squared error, its error of the mean, or that
#: over the variance between members with the log of their std
MEAN_ERROR, ERROR_OF_MEAN, STANDARDISED = "mean_error", "error_of_mean", "standardised"
LIKELIHOODS = {
    "lae": MEAN_ERROR, "lae_published": MEAN_ERROR, "lae_posthoc": MEAN_ERROR, "bbb_ae": MEAN_ERROR,
    "bbb_ae_published": MEAN_ERROR, "mcdropout_ae": ERROR_OF_MEAN, "deep_ensemble_ae": STANDARDISED,
    "vae": ERROR_OF_MEAN,
}  # fmt: skip
LEAST_VARIANCE = 1e-12


class PublishedScores:
    """Scores of data as `published_<name>`: output, latent, likelihood, typicality, (n,) each, higher = more unusual.

    Raises NotImplementedError for a model that has no counterpart in that code.
    """

    def __init__(self, context: Context):
        self.context, model = context, context.model
        self.kind = LIKELIHOODS.get(str(context.hparams.model), "")
        if not self.kind or "predictive" not in getattr(model, "offers", ()):
            raise NotImplementedError(f"{type(model).__name__} has no counterpart in the code whose scores are "
                                      "published.")
        self.samples = int(context.hparams.test_samples)
        train = context.dataset.train.x
        chosen = train[context.choose(len(train), MOST_TRAIN, "published scores")]
        self.typical = float(np.mean(self._of(chosen, "training data")["likelihood"]))

    def of(self, x: np.ndarray, what: str) -> dict[str, np.ndarray]:
        """Returns the scores of x (n, *event); `what` names the data."""
        found = self._of(x, what)
        found["typicality"] = np.abs(self.typical - found["likelihood"])
        return {f"published_{name}": value for name, value in found.items()}

    def _of(self, x: np.ndarray, what: str) -> dict[str, np.ndarray]:
        return self.context.map_batches(self._scores, x, f"published scores of {what}")

    def _scores(self, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        model = self.context.model
        moments = model.predictive(x, self.samples, seed)
        return scores(self.kind, model.preprocess(x)[0], moments, decodes_variance(model))


def decodes_variance(model: Any) -> bool:
    """Whether a model's decoder gives a variance of its own for each value."""
    return type(getattr(model, "component", None)).__name__ == "GaussianDecoder"


def scores(kind: str, y: tf.Tensor, moments: dict[str, tf.Tensor], decoded: bool) -> dict[str, tf.Tensor]:
    """Returns output, latent and likelihood of y (n, *event), (n,) each, from what `predictive` gives.

    output: sum of stds, of the decoded variance where there is one, else between networks. latent: sum of the stds of
    the code. likelihood: see `LIKELIHOODS`; sums over values of the mean error, else means over them.
    """
    axes = list(range(1, y.shape.rank))
    spread = moments["epistemic_variance"]
    square = tf.square(y - moments["mean"])
    if kind == MEAN_ERROR:
        likelihood = tf.reduce_sum(square + spread, axis=axes)
    elif kind == STANDARDISED:
        variance = tf.maximum(spread, LEAST_VARIANCE)
        likelihood = tf.reduce_mean(square / variance + 0.5 * tf.math.log(variance), axis=axes)
    else:
        likelihood = tf.reduce_mean(square, axis=axes)
    std = tf.sqrt(moments["aleatoric_variance"] if decoded else spread)
    return {
        "output": tf.reduce_sum(std, axis=axes),
        "latent": tf.reduce_sum(tf.sqrt(moments["latent_variance"]), axis=-1),
        "likelihood": likelihood,
    }
