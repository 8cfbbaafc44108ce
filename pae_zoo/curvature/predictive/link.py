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
from pae_zoo.curvature.predictive import density, linearised, variance_propagation

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
      rank: directions in which `density` knows the covariance of all outputs, for the sake of speed, and takes it to
        be the same in all others; None: all of it.
      num_samples, seed: draws of logits, the same for all data.
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
      [[0.795]]
    """

    def __init__(self, posterior: WeightPosterior, model: Union[keras.Model, Sequence[keras.Model]],
                 likelihood: Optional[str] = None, *, link: str = PROBIT, output: str = linearised.EXACT,
                 rank: Optional[int] = None, num_samples: int = 100, seed: seeds.Seed = (0, 0), batch_size: int = 256,
                 memory: float = 2048, fallback: bool = False):
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
        if rank is not None and (rank < 1 or self.likelihood != GAUSSIAN or output != linearised.EXACT):
            raise UserError(f"rank is an integer of at least 1, of the likelihood {GAUSSIAN} and output="
                            f"{linearised.EXACT!r}; received {rank} of {self.likelihood} and {output!r}.")
        if num_samples < 1 or batch_size < 1:
            raise UserError(f"num_samples and batch_size are at least 1; received {num_samples} and {batch_size}.")
        self.posterior, self.graph = posterior, posterior.graph_of(graph)
        self.link, self.output, self.rank = link, output, rank
        self.num_samples, self.batch_size = int(num_samples), int(batch_size)
        self.seed, self.options = seeds.as_seed(seed), {"memory": memory, "fallback": fallback}
        self._density: Callable[..., dict[str, tf.Tensor]] = tf.function(self.density_of_batch, autograph=False)
        self._compiled: Callable[[tf.Tensor], dict[str, tf.Tensor]] = tf.function(self.of_batch, autograph=False)

    def __call__(self, x: Any) -> dict[str, tf.Tensor]:
        """Returns the predictions at x (B, *in), a batch at a time, at the posterior and the weights as they are now.

        Of a regressor "mean", and the standard deviations "epistemic_std", by the weights, "aleatoric_std", of the
        noise, and "std", of both; of a classifier "probabilities", "logits" and "logits_variance"; all (B, *event).
        """
        return self._in_batches(self._compiled, self.batch_size, self._data(x))

    def density(self, x: Any, y: Any) -> dict[str, tf.Tensor]:
        """Returns how probable targets y are at x, and what they would tell of the weights, (B,) each, in nats.

        "log_prob" is log p(y|x), of a regressor that of all values of a datum together, with what they have in common;
        "mutual_information" is that between a target at x and the weights, of classes at each position apart from the
        others. Of a regressor also "std" (B, *event), of each value, and with `rank` "share", an estimate of how much
        of the variance lies in its directions. y (B, *event), or numbers of classes. Raises UserError for other shapes.
        """
        if self.output == linearised.DIAGONAL and self.likelihood == CATEGORICAL:
            raise UserError(f"output={self.output!r} knows no covariances of classes, which densities need; take "
                            f"output={linearised.EXACT!r}.")
        x, y = self._data(x), y if tf.is_tensor(y) else np.asarray(y)
        event = tuple(linearised.output_shape(self.graph, self.graph.cast(x[:1])))
        allowed = [event, event[:-1]] if self.likelihood == CATEGORICAL else [event]
        if len(y) != len(x) or tuple(y.shape[1:]) not in allowed:
            raise UserError(f"y needs shape {' or '.join(str((len(x), *one)) for one in allowed)} beside x; received "
                            f"{tuple(y.shape)}.")
        if self.likelihood == CATEGORICAL and tuple(y.shape[1:]) != event:
            y = tf.one_hot(tf.cast(y, tf.int32), event[-1], dtype=tf.float64)
        return self._in_batches(self._density, self.batch_size, x, y)

    def _data(self, x: Any) -> Any:
        x = x if tf.is_tensor(x) else np.asarray(x)
        if not len(x):
            raise UserError("There are no data to predict for; x has length 0.")
        return x

    def _in_batches(self, function: Callable, size: int, *data: Any) -> dict[str, tf.Tensor]:
        found = [function(*(self.graph.cast(one[start : start + size]) for one in data))
                 for start in range(0, len(data[0]), size)]
        return {name: tf.concat([one[name] for one in found], axis=0) for name in found[0]}

    def density_of_batch(self, x: tf.Tensor, y: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns what `density` does for one batch, uncompiled, for y of the shape of the outputs."""
        if self.likelihood != GAUSSIAN:
            return self._density_of_classes(x, y)
        mean = record.forward(self.graph, x, self.options["fallback"]).output
        residual = tf.reshape(y - mean, (-1, math.prod(mean.shape[1:])))
        noise = tf.convert_to_tensor(self.posterior.noise_variance)
        if self.output == linearised.DIAGONAL:
            spread = variance_propagation.variance(self.posterior, self.graph, x)
            spread = tf.reshape(spread, tf.shape(residual))
            log_prob, information = density.of_variances(residual, spread, noise)
            found = {"log_prob": log_prob, "mutual_information": information}
        else:
            found = density.joint(self.posterior, self.graph, x, residual, noise, self.rank, self.seed, **self.options)
            spread = found.pop("variance")
        total = tf.cast(spread, mean.dtype) + tf.cast(noise, mean.dtype)
        found["std"] = tf.sqrt(tf.reshape(total, tf.shape(mean)))
        return found

    def _density_of_classes(self, x: tf.Tensor, y: tf.Tensor) -> dict[str, tf.Tensor]:
        found = self.of_batch(x)
        chances, shape = found["probabilities"], tf.shape(found["logits"])
        if self.likelihood == BERNOULLI:
            draws = self._drawn(found["logits"], found["logits_variance"])
            entropy = lambda p: -tf.math.xlogy(p, p) - tf.math.xlog1py(1.0 - p, -p)  # noqa: E731
            log_prob = tf.math.xlogy(y, chances) + tf.math.xlog1py(1.0 - y, -chances)
        else:
            draws = tf.reshape(self._drawn(*self._classes(found["logits"], x)), (self.num_samples, *tf.unstack(shape)))
            entropy = lambda p: -tf.math.xlogy(p, p)  # noqa: E731
            log_prob = tf.math.xlogy(y, chances)
        gain = entropy(tf.reduce_mean(draws, axis=0)) - tf.reduce_mean(entropy(draws), axis=0)
        return {name: tf.reduce_sum(one, axis=list(range(1, one.shape.rank)))
                for name, one in (("log_prob", log_prob), ("mutual_information", gain))}

    def of_batch(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns what a call does for one batch, uncompiled: a pure function for a compiled one."""
        x = self.graph.cast(x)
        run = record.forward(self.graph, x, self.options["fallback"])
        hessians.resolve(self.likelihood).check(run.output)
        mean = run.output
        if self.likelihood == CATEGORICAL and self.link != PROBIT:
            logits, blocks = self._classes(mean, x)
            chances = bridge(logits, blocks) if self.link == BRIDGE else tf.reduce_mean(self._drawn(logits, blocks), 0)
            shape = tf.shape(mean)
            return {"probabilities": tf.reshape(chances, shape), "logits": mean,
                    "logits_variance": tf.reshape(tf.linalg.diag_part(blocks), shape)}
        exact = self.output == linearised.EXACT
        spread = (linearised.variance(self.posterior, self.graph, x, **self.options) if exact else
                  variance_propagation.variance(self.posterior, self.graph, x))
        if self.likelihood == GAUSSIAN:
            noise = tf.cast(tf.convert_to_tensor(self.posterior.noise_variance), mean.dtype) * tf.ones_like(mean)
            return {"mean": mean, "epistemic_std": tf.sqrt(spread), "aleatoric_std": tf.sqrt(noise),
                    "std": tf.sqrt(spread + noise)}
        if self.likelihood == BERNOULLI and self.link == DRAWS:
            chances = tf.reduce_mean(self._drawn(mean, spread), axis=0)
        else:
            scaled = mean * tf.math.rsqrt(1.0 + math.pi / 8.0 * spread)
            chances = tf.sigmoid(scaled) if self.likelihood == BERNOULLI else tf.nn.softmax(scaled)
        return {"probabilities": chances, "logits": mean, "logits_variance": spread}

    def _classes(self, mean: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns logits (B positions, K) and their covariances (B positions, K, K), of a mean (B, *positions, K)."""
        classes, places = mean.shape[-1], math.prod(mean.shape[1:-1])
        covariance = linearised.covariance(self.posterior, self.graph, x, **self.options)
        blocks = tf.reshape(covariance, (-1, places, classes, places, classes))
        blocks = tf.transpose(tf.linalg.diag_part(tf.transpose(blocks, (0, 2, 4, 1, 3))), (0, 3, 1, 2))
        return tf.reshape(mean, (-1, classes)), tf.reshape(blocks, (-1, classes, classes))

    def _drawn(self, logits: tf.Tensor, spread: tf.Tensor) -> tf.Tensor:
        """Returns chances (num_samples, *shape of the logits) at draws of logits, with one noise for all data."""
        noise = seeds.normal((self.num_samples, 1, *logits.shape[1:]), self.seed, logits.dtype)
        if self.likelihood == BERNOULLI:
            return tf.sigmoid(logits + tf.sqrt(spread) * noise)
        # Singular where logits have something in common, so no Cholesky factor.
        return tf.nn.softmax(logits + tf.einsum("sk,bkl->sbl", noise[:, 0], root_of(spread)))


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
