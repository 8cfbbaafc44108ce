"""Counts of which every datum has a number in all, its library size, that the decoder shares out."""

from collections.abc import Sequence
from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.likelihoods.base import full_precision
from pae_zoo.likelihoods.counts import Counts, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial


class _Library(Counts):
    """Means mu = l softmax(g), l the library size: of a datum y the sum of its values, as scVI's observed size.

    `log_prob` and `score_and_fisher` take the size of the y they are given, so that log p(y|z) is given it; where there
    is no y, the mean, the variance and draws are those of the geometric mean of the sizes of the training data, which
    `adapt` keeps as a weight.
    """

    has_diagonal_fisher = False
    has_independent_values = False  # they share their sum

    def __init__(self, event_shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(event_shape, **kwargs)
        self.log_library = self.add_weight(shape=(), initializer="zeros", trainable=False, name="log_library")

    def adapt(self, y: np.ndarray) -> None:
        super().adapt(y)
        sizes = np.asarray(y, np.float64).reshape(len(y), -1).sum(axis=1)
        self.log_library.assign(np.mean(np.log(np.maximum(sizes, 1.0))))

    def log_library_of(self, y: Optional[tf.Tensor], dtype: tf.DType) -> tf.Tensor:
        """Returns the logs of the sizes of y (..., *event), (...), or that of the training data."""
        if y is None:
            return tf.cast(self.log_library.value, dtype)
        return tf.math.log(tf.maximum(self._sum(y), 1e-6))

    def _log_mean(self, output: tf.Tensor, y: Optional[tf.Tensor] = None) -> tf.Tensor:
        output = full_precision(output)
        axes = list(range(-len(self.event_shape), 0))
        shares = output - tf.reduce_logsumexp(output, axis=axes, keepdims=True)
        size = self.log_library_of(y, output.dtype)
        return shares + size[(..., *[None] * len(axes))]

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Likelihood.score_and_fisher`: by the chain rule, with d log mu_i / dg_j = 1(i = j) - p_j."""
        score, fisher = super().score_and_fisher(output, y, scale)
        p, (score, *rest), (fisher, *others) = self._shares(output), self._parts(score), self._parts(fisher)
        score = score - p * self._all(score)
        fisher = fisher * (1.0 - 2.0 * p) + p**2 * self._all(fisher)
        return tf.concat([score, *rest], axis=-1), tf.concat([fisher, *others], axis=-1)

    def fisher_root(self, output: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        p, (first, *rest) = self._shares(output), self._parts(noise)
        fisher, *others = self._parts(self._plain_fisher(output))
        weighted = first * tf.sqrt(fisher)
        ends = [value * tf.sqrt(other) for value, other in zip(rest, others)]
        return tf.concat([weighted - p * self._all(weighted), *ends], axis=-1)

    def fisher_product(self, output: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        p, (first, *rest) = self._shares(output), self._parts(v)
        fisher, *others = self._parts(self._plain_fisher(output))
        weighted = fisher * (first - self._all(p * first))
        ends = [value * other for value, other in zip(rest, others)]
        return tf.concat([weighted - p * self._all(weighted), *ends], axis=-1)

    def _plain_fisher(self, output: tf.Tensor) -> tf.Tensor:
        """The diagonal of the Fisher information of [log mu, r] at the size of the training data."""
        size = tf.exp(self.log_library_of(None, output.dtype)) / self.num_values
        data = tf.fill((tf.shape(output)[0], *self.event_shape), size)
        return super().score_and_fisher(output, data)[1]

    def _shares(self, output: tf.Tensor) -> tf.Tensor:
        axes = list(range(-len(self.event_shape), 0))
        first = self._parts(full_precision(output))[0]
        return tf.exp(first - tf.reduce_logsumexp(first, axis=axes, keepdims=True))

    def _all(self, values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(values, axis=list(range(-len(self.event_shape), 0)), keepdims=True)

    def _parts(self, values: tf.Tensor) -> list[tf.Tensor]:
        return tf.split(values, self.channels_factor, axis=-1)


@keras.saving.register_keras_serializable("pae_zoo")
class LibraryPoisson(_Library, Poisson):
    """`poisson` with means l softmax(g), l the datum's own sum."""


@keras.saving.register_keras_serializable("pae_zoo")
class LibraryNegativeBinomial(_Library, NegativeBinomial):
    """`negative_binomial` with means l softmax(g), l the datum's own sum."""


@keras.saving.register_keras_serializable("pae_zoo")
class LibraryZeroInflatedNegativeBinomial(_Library, ZeroInflatedNegativeBinomial):
    """`zero_inflated_negative_binomial` with means l softmax(g), l the datum's own sum, as scVI has it.

    Lopez et al., Nature Methods 2018, eq. 2-5, with the observed library size.
    """
