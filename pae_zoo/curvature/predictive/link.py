"""What a network with a Gaussian over its weights predicts: chances of classes, or values and how sure they are.

The network is taken as linear in its weights, so that its outputs are normal (Immer, Korzepa & Bauer, AISTATS 2021).
For logits N(m, S) of K classes the mean of softmax has no closed form. Ways to it, the second by MacKay, Neural
Computation 4 (1992) 720, the third by Hobbhahn, Kristiadi & Hennig, UAI 2022:

    draws   the mean of softmax over draws of logits
    probit  softmax(m / sqrt(1 + pi/8 diag S)), with one logit sigmoid(m / sqrt(1 + pi/8 S))
    bridge  the mean of Dir(alpha), alpha_k = (1 - 2/K + exp(m_k) / K^2 sum_l exp(-m_l)) / S_kk, after m and S were
            conditioned on logits that add up to 0
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Optional, Union

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError, unknown
from pae_zoo.curvature.matrices import hessians, record
from pae_zoo.curvature.matrices.sweeps import root_of
from pae_zoo.curvature.network import losses
from pae_zoo.curvature.posteriors.base import WeightPosterior
from pae_zoo.curvature.predictive import linearised, variance_propagation

PROBIT, BRIDGE, DRAWS = "probit", "bridge", "draws"
LINKS = (PROBIT, BRIDGE, DRAWS)
GAUSSIAN, BERNOULLI, CATEGORICAL = "gaussian", "bernoulli", "categorical"


class Predictive:
    """Predictions of a network under a posterior over its weights: `Predictive(posterior, model)(x)`.

    Args:
      posterior: over the weights of the model.
      model: the network, at the weights that the posterior is around, or several that are applied in turn; a sigmoid or
        softmax at the end of a classifier is seen through.
      likelihood: "gaussian", "bernoulli" or "categorical"; None: that of the loss the model was compiled with.
      link: how logits become chances: "probit", "bridge" or "draws".
      output: "exact" for the exact variances of outputs; "diagonal" for those that are carried through the layers value
        by value, which is one forward pass.
      num_samples, seed: draws of logits of "draws", the same for all data.
      batch_size: data at a time.
      memory, fallback: see `linearised.covariance`.

    Raises UserError for a model of another architecture, a loss that is no likelihood, options that are unknown or
    contradict each other.

    Examples:
      >>> network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
      >>> from pae_zoo import curvature
      >>> posterior = curvature.DiagPosterior(network)  # of the prior alone: variance 1 for each weight
      >>> found = Predictive(posterior, network, "gaussian")(np.array([[1.0, 1.0]]))
      >>> {name: round(float(value[0, 0]), 3) for name, value in found.items()}
      {'mean': 2.0, 'epistemic_std': 1.732, 'aleatoric_std': 1.0, 'std': 2.0}
      >>> chances = Predictive(posterior, network, "bernoulli")(np.array([[1.0, 1.0]]))["probabilities"]
      >>> print(chances.numpy().round(3))  # 0.881 at the weights themselves
      [[0.797]]
    """

    def __init__(self, posterior: WeightPosterior, model: Union[keras.Model, Sequence[keras.Model]],
                 likelihood: Optional[str] = None, *, link: str = PROBIT, output: str = linearised.EXACT,
                 num_samples: int = 100, seed: seeds.Seed = (0, 0), batch_size: int = 256, memory: float = 2048,
                 fallback: bool = False):
        graph, self.likelihood = losses.of_model(model, likelihood)
        if not isinstance(self.likelihood, str) or self.likelihood not in (GAUSSIAN, BERNOULLI, CATEGORICAL):
            raise unknown("likelihood", self.likelihood, (GAUSSIAN, BERNOULLI, CATEGORICAL))
        if link not in LINKS:
            raise unknown("link", link, LINKS)
        if output not in (linearised.EXACT, linearised.DIAGONAL):
            raise unknown("output", output, (linearised.EXACT, linearised.DIAGONAL))
        if link == BRIDGE and self.likelihood == BERNOULLI:
            raise UserError("link='bridge' leaves the chances of two classes as they are without uncertainty; take "
                            f"link={PROBIT!r} or {DRAWS!r}.")
        if output == linearised.DIAGONAL and self.likelihood == CATEGORICAL and link != PROBIT:
            raise UserError(f"output={output!r} knows no covariances of classes, which link={link!r} needs; take "
                            f"output={linearised.EXACT!r} or link={PROBIT!r}.")
        if num_samples < 1 or batch_size < 1:
            raise UserError(f"num_samples and batch_size are at least 1; received {num_samples} and {batch_size}.")
        self.posterior, self.graph = posterior, posterior.graph_of(graph)
        self.link, self.output, self.num_samples, self.batch_size = link, output, int(num_samples), int(batch_size)
        self.seed, self.options = seeds.as_seed(seed), {"memory": memory, "fallback": fallback}
        self._compiled: Callable[[tf.Tensor], dict[str, tf.Tensor]] = tf.function(self.of_batch, autograph=False)

    def __call__(self, x: Any) -> dict[str, tf.Tensor]:
        """Returns the predictions at x (B, *in), a batch at a time, at the posterior and the weights as they are now.

        Of a regressor "mean", and the standard deviations "epistemic_std", by the weights, "aleatoric_std", of the
        noise, and "std", of both; of a classifier "probabilities", "logits" and "logits_variance"; all (B, *event).
        """
        x = x if tf.is_tensor(x) else np.asarray(x)
        if not len(x):
            raise UserError("There are no data to predict for; x has length 0.")
        found = [self._compiled(self.graph.cast(x[start : start + self.batch_size]))
                 for start in range(0, len(x), self.batch_size)]
        return {name: tf.concat([one[name] for one in found], axis=0) for name in found[0]}

    def of_batch(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns what a call does for one batch, uncompiled: a pure function for a compiled one."""
        x = self.graph.cast(x)
        run = record.forward(self.graph, x, self.options["fallback"])
        hessians.resolve(self.likelihood).check(run.output)
        mean = run.output
        if self.likelihood == CATEGORICAL and self.link != PROBIT:
            return self._of_classes(mean, linearised.covariance(self.posterior, self.graph, x, **self.options))
        exact = self.output == linearised.EXACT
        spread = (linearised.variance(self.posterior, self.graph, x, **self.options) if exact else
                  variance_propagation.variance(self.posterior, self.graph, x))
        if self.likelihood == GAUSSIAN:
            noise = tf.cast(tf.convert_to_tensor(self.posterior.noise_variance), mean.dtype) * tf.ones_like(mean)
            return {"mean": mean, "epistemic_std": tf.sqrt(spread), "aleatoric_std": tf.sqrt(noise),
                    "std": tf.sqrt(spread + noise)}
        if self.likelihood == BERNOULLI and self.link == DRAWS:
            noise = seeds.normal((self.num_samples, 1, *mean.shape[1:]), self.seed, mean.dtype)
            chances = tf.reduce_mean(tf.sigmoid(mean + tf.sqrt(spread) * noise), axis=0)
        else:
            scaled = mean * tf.math.rsqrt(1.0 + math.pi / 8.0 * spread)
            chances = tf.sigmoid(scaled) if self.likelihood == BERNOULLI else tf.nn.softmax(scaled)
        return {"probabilities": chances, "logits": mean, "logits_variance": spread}

    def _of_classes(self, mean: tf.Tensor, covariance: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the predictions of logits (B, *positions, K) with a covariance (B, n, n) of all of them."""
        shape, classes = tf.shape(mean), mean.shape[-1]
        places = math.prod(mean.shape[1:-1])
        blocks = tf.reshape(covariance, (-1, places, classes, places, classes))
        blocks = tf.transpose(tf.linalg.diag_part(tf.transpose(blocks, (0, 2, 4, 1, 3))), (0, 3, 1, 2))
        logits, blocks = tf.reshape(mean, (-1, classes)), tf.reshape(blocks, (-1, classes, classes))
        chances = bridge(logits, blocks) if self.link == BRIDGE else self._drawn(logits, blocks)
        return {"probabilities": tf.reshape(chances, shape), "logits": mean,
                "logits_variance": tf.reshape(tf.linalg.diag_part(blocks), shape)}

    def _drawn(self, logits: tf.Tensor, covariance: tf.Tensor) -> tf.Tensor:
        noise = seeds.normal((self.num_samples, logits.shape[-1]), self.seed, logits.dtype)
        # Singular where logits have something in common, so no Cholesky factor.
        return tf.reduce_mean(tf.nn.softmax(logits + tf.einsum("sk,bkl->sbl", noise, root_of(covariance))), axis=0)


def bridge(logits: tf.Tensor, covariance: tf.Tensor) -> tf.Tensor:
    """Returns chances (B, K) by the Laplace bridge for logits (B, K) of a covariance (B, K, K)."""
    rows, classes = tf.reduce_sum(covariance, axis=-1), logits.shape[-1]
    total = tf.reduce_sum(rows, axis=-1, keepdims=True)
    logits -= tf.math.divide_no_nan(rows * tf.reduce_sum(logits, axis=-1, keepdims=True), total)
    variances = tf.linalg.diag_part(covariance) - tf.math.divide_no_nan(rows**2, total)
    # In logarithms, in which no logit is too large.
    others = logits + tf.reduce_logsumexp(-logits, axis=-1, keepdims=True) - 2.0 * math.log(classes)
    if classes > 2:
        constant = tf.constant(math.log(1.0 - 2.0 / classes), logits.dtype)
        others = tf.reduce_logsumexp(tf.stack([others, tf.broadcast_to(constant, tf.shape(others))]), axis=0)
    return tf.nn.softmax(others - tf.math.log(variances))
