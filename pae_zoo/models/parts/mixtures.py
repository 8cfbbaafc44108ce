"""Observation models of several decoders: p(y|z) = 1/S sum_s p(y|f_s(z)), for outputs with the members in front."""

import math
from typing import Any, Optional

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo import likelihoods
from pae_zoo.core import seeds

tfd = tfp.distributions


class UniformMixture(tfd.MixtureSameFamily):
    """The mixture with equal weights of a batch of distributions, over the last batch axis.

    Draws come from `pae_zoo.core.seeds`: the same eagerly and under XLA.
    """

    def __init__(self, components: tfd.Distribution, num_components: int, name: str = "UniformMixture"):
        parameters = dict(components=components, num_components=num_components, name=name)
        weights = tfd.Categorical(logits=tf.zeros([num_components], components.dtype))
        super().__init__(weights, components, name=name)
        self._num = num_components
        self._parameters = self._no_dependency(parameters)

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return dict(components=tfp.util.BatchedComponentProperties(event_ndims=1))

    def _sample_n(self, n, seed: Any = None):
        components, which = seeds.split(seed, 2)
        draws = self.components_distribution.sample(n, seed=components)  # (n, ..., S, *event)
        axis = draws.shape.rank - self.event_shape.rank - 1
        shape = tf.shape(draws)[:axis]
        chosen = tf.cast(seeds.uniform(shape, which) * self._num, tf.int32)
        weights = tf.one_hot(chosen, self._num, dtype=draws.dtype)
        weights = tf.reshape(weights, tf.concat([tf.shape(weights), [1] * self.event_shape.rank], axis=0))
        return tf.reduce_sum(weights * draws, axis=axis)


@keras.saving.register_keras_serializable("pae_zoo")
class MemberMixture(likelihoods.Wrapping):
    """The mixture, with equal weights, of one observation model at the outputs of S decoders.

        log p(y|z) = logsumexp_s log p(y|f_s) - log S,    mean = 1/S sum_s E[y|f_s],
        variance   = 1/S sum_s Var[y|f_s] + 1/S sum_s (E[y|f_s] - mean)^2

    Outputs have the members in front: (S, ..., batch, *event). Args: component, the observation model of one member.
    """

    has_independent_values = False

    def __init__(self, component: likelihoods.Likelihood, **kwargs: Any) -> None:
        super().__init__(component, **kwargs)
        self.is_discrete = component.is_discrete

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        rank, event = output.shape.rank, len(self.event_shape)
        order = [*range(1, rank - event), 0, *range(rank - event, rank)]
        return UniformMixture(self.component(tf.transpose(output, order)), output.shape[0])

    def member_means(self, output: tf.Tensor) -> tf.Tensor:
        """Returns E[y|f_s] of every member, (S, ..., batch, *event)."""
        return self.component.mean(output)

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(self.component.mean(output), axis=0)

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(self.component.variance(output), axis=0) + self.member_variance(output)

    def member_variance(self, output: tf.Tensor) -> tf.Tensor:
        """Returns the variance over members, with divisor S, of E[y|f_s], (..., batch, *event)."""
        return tf.math.reduce_variance(self.component.mean(output), axis=0)

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        found = self.component.log_prob(output, y, scale=scale)
        return tf.reduce_logsumexp(found, axis=0) - math.log(output.shape[0])

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Likelihood.score_and_fisher`: the members', each times p(s|y, z). The score is exact.

        The Fisher term leaves out how the members' scores differ, which would make the curvature indefinite: it is
        that of the bound that EM climbs.
        """
        shares = tf.nn.softmax(self.component.log_prob(output, y, scale=scale), axis=0)
        shares = shares[(..., *[None] * len(self.event_shape))]
        score, fisher = self.component.score_and_fisher(output, y, scale=scale)
        return shares * score, shares * fisher
