"""Scores that papers compare with: WAIC over an ensemble, likelihood ratios to a background, the posterior of u."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo import inference
from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.context import Context
from pae_zoo.evaluation.support.observing import Noise, observation_of
from pae_zoo.inference.derivatives import jacobian

#: what is taken for -log p(x), the first that a model has
LIKELIHOODS = ("likelihood", "elbo", "joint", "reconstruction")


def negative_log_prob(model: Any, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns -log p(x) as a model's scores have it, (batch,): importance-sampled, its bound, or log p(y, z)."""
    found = model.ood_scores(x, seed)
    name = next((name for name in LIKELIHOODS if name in found), None)
    if name is None:
        raise NotImplementedError(f"{type(model).__name__} has no score that is a log-likelihood.")
    return found[name]


def others(context: Context, workdirs: Sequence[str], flag: str) -> list[Any]:
    """Returns the models of other finished runs; raises UserError for one of data of another shape."""
    models = [type(context.run)(workdir).load_model() for workdir in workdirs]
    for workdir, model in zip(workdirs, models):
        if tuple(model.event_shape) != tuple(context.model.event_shape):
            raise UserError(f"{flag}: {workdir} takes data of shape {tuple(model.event_shape)}, this run "
                            f"{tuple(context.model.event_shape)}.")
    return models


class Waic:
    """The score waic of data, (n,): minus mean plus variance of log p(x|theta) over networks (Choi et al., 1810.01392).

    Networks are those that the model draws, or its members; of a model with one network those of the runs
    --ood_workdirs and its own. Raises NotImplementedError where there is one network alone.
    """

    def __init__(self, context: Context):
        self.context, self.model = context, context.model
        self.over_networks = getattr(self.model, "over_networks", None)
        workdirs = context.hparams.ood_workdirs
        if self.over_networks is None and not workdirs:
            raise NotImplementedError(f"{type(self.model).__name__} has one network: --ood_workdirs=RUN1,RUN2 gives "
                                      "others, trained with other seeds.")
        self.models = [self.model] if self.over_networks else [
            self.model, *others(context, workdirs, "--ood_workdirs")]  # fmt: skip

    def of(self, x: np.ndarray, what: str) -> dict[str, np.ndarray]:
        """Returns {"waic": (n,)} of x (n, *event)."""
        return self.context.map_batches(self._scores, x, f"waic of {what}")

    def _scores(self, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        if self.over_networks is None:
            values = tf.stack([-negative_log_prob(model, x, seed) for model in self.models])
            mean, variance = tf.nn.moments(values, axes=[0])
            return {"waic": variance - mean}
        y, model = self.model.preprocess(x)[0], self.model
        num = int(self.context.hparams.test_samples)
        none = tf.zeros_like(tf.reduce_sum(y, axis=list(range(1, y.shape.rank))))

        def step(state, count, network):
            mean, square = state
            value = model.likelihood.log_prob(network.decode(network.encode(y)), y)
            moved = mean + (value - mean) / tf.cast(count, mean.dtype)
            return moved, square + (value - mean) * (value - moved)

        mean, square = self.over_networks(num, seed, step, (none, none))
        return {"waic": square / float(model.num_networks(num)) - mean}


class Ratio:
    """The score ratio of data, (n,): log p(x) of a background less log p(x) (Ren et al., 1906.02845).

    The background is the run --background_workdir, trained on data whose content is disturbed. Raises
    NotImplementedError without one.
    """

    def __init__(self, context: Context):
        self.context = context
        workdir = context.hparams.background_workdir
        if not workdir:
            raise NotImplementedError("A ratio of likelihoods needs a model of the background: "
                                      "--background_workdir=RUN, such as one of the same data with noise in them.")
        (self.background,) = others(context, [workdir], "--background_workdir")

    def of(self, x: np.ndarray, what: str) -> dict[str, np.ndarray]:
        """Returns {"ratio": (n,)} of x (n, *event)."""
        return self.context.map_batches(self._scores, x, f"ratio of {what}")

    def _scores(self, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        own, other = (negative_log_prob(model, x, seed) for model in (self.context.model, self.background))
        return {"ratio": own - other}


class Posterior:
    """Scores by the Laplace posterior of u at the encoding, (n,) each (Boehm & Seljak, 2006.05479, section 3.3).

    evidence: -log p(u, y) - K/2 log 2 pi + 1/2 log|G|, G the Gauss-Newton curvature at u. volume: -1/2 log|G|, the log
    of the volume of the posterior of u. jacobian: -1/2 log|J'J|, J the derivative of the decoder's mean by u: how
    little the data change there. Raises NotImplementedError for a model without a prior of u, or a mixture of
    likelihoods.
    """

    def __init__(self, context: Context):
        self.context, self.model = context, context.model
        self.prior = self.model.prior()
        self.observation = observation_of(self.model, Noise())
        precision = getattr(self.prior, "precision", None)
        self.precision = precision if callable(precision) else None

    def of(self, x: np.ndarray, what: str) -> dict[str, np.ndarray]:
        """Returns the scores of x (n, *event)."""
        return self.context.map_batches(self._scores, x, f"posterior scores of {what}")

    def _decode(self, u: tf.Tensor) -> tf.Tensor:
        return self.model.decoder_outputs(self.model.latent_from_base(u))

    def _scores(self, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        y = self.model.preprocess(x)[0]
        posterior = self.model.encode(x, seed)
        u = self.model.base_from_latent(posterior.mean())
        problem = inference.Problem(self.prior.log_prob, self._decode, self.observation, y, tf.ones_like(y, tf.bool),
                                    self.precision)  # fmt: skip
        half = 0.5 * tf.linalg.logdet(problem.gauss_newton(u))

        def means(points):
            found = self.model.likelihood.mean(self._decode(points))
            return tf.reshape(found, (*points.shape[:-1], y.shape[1:].num_elements()))

        slopes = jacobian(means, u)
        gram = tf.einsum("kbd,lbd->bkl", slopes, slopes)
        size = u.shape[-1]
        return {
            "evidence": -problem.log_joint(u) - 0.5 * size * LOG_2PI + half,
            "volume": -half,
            # A decoder that is constant in some direction has no volume there: 0 in the place of minus infinity.
            "jacobian": -0.5 * tf.linalg.logdet(gram + 1e-12 * tf.eye(size, dtype=gram.dtype)),
        }
