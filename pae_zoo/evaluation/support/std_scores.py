"""Scores by standard deviations, of models whose own scores are densities: what codes and outputs leave uncertain."""

from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo.evaluation.context import Context
from pae_zoo.evaluation.support.published_scores import decodes_variance

# Validation data behind the mean that typicality is measured from.
MOST_VALID = 2000
RECONSTRUCTION = "reconstruction"


class StdScores:
    """Scores latent, output and typicality of data, (n,) each, higher = more unusual.

    latent: sum over the code of the std of q(z|x). output: sum over values of the std of the decoder's noise, where it
    gives one for each value, else of the std between drawn reconstructions. typicality: the distance of -log p(y|z)
    from its mean over up to 2,000 validation data. A model that draws nothing has no latent.

    Raises NotImplementedError for a model that has these scores itself, and for one that knows no std.
    """

    def __init__(self, context: Context):
        self.context, model = context, context.model
        offers = getattr(model, "offers", frozenset())
        self.draws, self.decodes = "predictive" in offers, decodes_variance(model)
        name = type(model).__name__
        if getattr(model, "draws_are_shared", False):
            raise NotImplementedError(f"{name} has scores by std of its own.")
        if not self.draws and not self.decodes:
            raise NotImplementedError(f"{name} draws nothing, and its decoder gives no variance (likelihood "
                                      "gaussian_decoder does).")
        self.samples = int(context.hparams.test_samples)
        valid = context.dataset.valid.x
        chosen = valid[context.choose(len(valid), MOST_VALID, "std scores")]
        self.typical = float(np.mean(self._of(chosen, "validation data")[RECONSTRUCTION], dtype=np.float64))

    def of(self, x: np.ndarray, what: str) -> dict[str, np.ndarray]:
        """Returns the scores of x (n, *event); `what` names the data."""
        found = self._of(x, what)
        found["typicality"] = np.abs(found.pop(RECONSTRUCTION) - self.typical)
        return found

    def _of(self, x: np.ndarray, what: str) -> dict[str, np.ndarray]:
        return self.context.map_batches(self._scores, x, f"std scores of {what}")

    def _scores(self, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        model: Any = self.context.model
        found = {RECONSTRUCTION: model.ood_scores(x, seed)[RECONSTRUCTION]}
        if self.draws:
            moments = model.predictive(x, self.samples, seed)
            found["latent"] = tf.reduce_sum(tf.sqrt(moments["latent_variance"]), axis=-1)
            variance = moments["aleatoric_variance" if self.decodes else "epistemic_variance"]
        else:
            y = model.preprocess(x)[0]
            variance = model.likelihood.variance(model.decoder_outputs(model.point(y)))
        found["output"] = tf.reduce_sum(tf.sqrt(variance), axis=list(range(1, variance.shape.rank)))
        return found
