"""Observation models of categories: y has a 1 for the category that each block of values is, and 0 elsewhere."""

from collections.abc import Sequence
from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.likelihoods.base import Likelihood, full_precision

tfd = tfp.distributions
_NEVER = -1e30  # a logit of what cannot be; an infinite one makes NaN in gradients


class Blocks:
    """Stretches of the last axis, of `sizes` values each, laid beside one another in rows of the longest."""

    def __init__(self, sizes: Sequence[int]):
        self.sizes = tuple(int(size) for size in sizes)
        self.width = sum(self.sizes)
        longest, starts = max(self.sizes), np.cumsum([0, *self.sizes])
        self._taken = np.zeros((len(self.sizes), longest), np.int32)
        self._is_value = np.zeros((len(self.sizes), longest), bool)
        self._place = np.zeros(self.width, np.int32)
        for block, size in enumerate(self.sizes):
            self._taken[block, :size] = np.arange(starts[block], starts[block] + size)
            self._is_value[block, :size] = True
            self._place[starts[block] : starts[block] + size] = block * longest + np.arange(size)
        self.owner = np.repeat(np.arange(len(self.sizes), dtype=np.int32), self.sizes)

    def beside(self, values: tf.Tensor, fill: float) -> tf.Tensor:
        """Returns values (..., width) as (..., blocks, longest), with `fill` where a block is shorter."""
        if len(self.sizes) == 1:
            return values[..., None, :]
        return tf.where(self._is_value, tf.gather(values, self._taken, axis=-1), tf.cast(fill, values.dtype))

    def back(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns rows (..., blocks, longest) as values (..., width)."""
        if len(self.sizes) == 1:
            return rows[..., 0, :]
        flat = tf.reshape(rows, tf.concat([tf.shape(rows)[:-2], [rows.shape[-2] * rows.shape[-1]]], axis=0))
        return tf.gather(flat, self._place, axis=-1)

    def sums(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the sum of each value's block, (..., width)."""
        rows = self.beside(values, 0.0)
        return self.back(tf.broadcast_to(tf.reduce_sum(rows, axis=-1, keepdims=True), tf.shape(rows)))

    def log_softmax(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns the logs of probabilities that sum to 1 in each block, (..., width)."""
        return self.back(tf.nn.log_softmax(self.beside(logits, _NEVER), axis=-1))

    def draw(self, log_probs: tf.Tensor, seed: Any) -> tf.Tensor:
        """Returns a draw of one value of each block: 1 there and 0 elsewhere, (..., width)."""
        edges = tf.cumsum(tf.exp(self.beside(log_probs, _NEVER)), axis=-1)
        levels = seeds.uniform(tf.shape(edges)[:-1], seed, edges.dtype)[..., None] * edges[..., -1:]
        chosen = tf.reduce_sum(tf.cast(edges[..., :-1] <= levels, tf.int32), axis=-1)
        return self.back(tf.one_hot(chosen, edges.shape[-1], dtype=edges.dtype))


@keras.saving.register_keras_serializable("pae_zoo")
class Categorical(Likelihood):
    """One category of each block of values, from logits g: p = softmax(g) in the block.

        log p(y|z) = sum_p y_p log p_p,    mean = p,    variance = p (1 - p)

    A block is the last axis (`sizes` None), or `sizes` stretches of it follow one another, such as the columns of a
    table's categories. A block of zeros, a category that training lacks, counts nothing. The Fisher information of g is
    diag(p) - p p^T in each block; `score_and_fisher` has its diagonal. Raises UserError for blocks that do not fill the
    last axis.
    """

    is_linear = True
    has_gaussian_values = False
    has_diagonal_fisher = False

    def __init__(self, event_shape: Sequence[int], sizes: Optional[Sequence[int]] = None, **kwargs: Any) -> None:
        super().__init__(event_shape, **kwargs)
        self.sizes = None if sizes is None else tuple(int(size) for size in sizes)
        self.blocks = Blocks(self.sizes or self.event_shape[-1:])
        if self.blocks.width != self.event_shape[-1] or min(self.blocks.sizes) < 1:
            raise UserError(f"Categories of {', '.join(map(str, self.blocks.sizes))} values are no blocks of data of "
                            f"shape {self.event_shape}: they must sum to {self.event_shape[-1]}.")

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        distribution = _Categories.of(self.blocks, self.blocks.log_softmax(full_precision(output)))
        return tfd.Independent(distribution, reinterpreted_batch_ndims=len(self.event_shape) - 1)

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        return tf.exp(self.blocks.log_softmax(full_precision(output)))

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        p = self.mean(output)
        return p * (1.0 - p)

    def adapt(self, y: np.ndarray) -> None:
        """Checks training data y (n, *event); raises UserError unless each block has a single 1, or zeros alone."""
        y = np.nan_to_num(np.asarray(y))  # of a category that is missing
        starts = np.cumsum([0, *self.blocks.sizes[:-1]])
        if not (np.isin(y, (0, 1)).all() and (np.add.reduceat(y, starts, axis=-1) <= 1).all()):
            raise UserError("likelihood 'categorical' takes a 1 for the category of each block and 0 elsewhere; the "
                            "data hold other values. Leave out the preprocessing that changes them "
                            "(--preprocess=none), or take another likelihood: mixed for columns of several kinds.")

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        output, y = self._both(output, y)
        return self._sum(y * self.blocks.log_softmax(output))

    def log_probs(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        output, y = self._both(output, y)
        return y * self.blocks.log_softmax(output)

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        self._no_scale(scale)
        output, y = self._both(output, y)
        p = tf.exp(self.blocks.log_softmax(output))
        return y - p * self.blocks.sums(y), p * (1.0 - p)

    def fisher_root(self, output: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        p = self.mean(output)
        weighted = noise * tf.sqrt(p)
        return weighted - p * self.blocks.sums(weighted)

    def fisher_product(self, output: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        p = self.mean(output)
        return p * (v - self.blocks.sums(p * v))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sizes": self.sizes}


class _Categories(tfd.OneHotCategorical):
    """One category of each block of a vector, drawn from a pair of integers."""

    # With an `__init__` of its own, TFP would warn that it knows no parameters of the class.
    @classmethod
    def of(cls, blocks: Blocks, log_probs: tf.Tensor) -> "_Categories":
        found = cls(logits=log_probs, dtype=log_probs.dtype, name="Categories")
        found.of_blocks = blocks
        return found

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(value * self.logits, axis=-1)

    def _mean(self) -> tf.Tensor:
        return tf.exp(self.logits)

    def _variance(self) -> tf.Tensor:
        p = tf.exp(self.logits)
        return p * (1.0 - p)

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        shape = tf.concat([[n], tf.shape(self.logits)], axis=0)
        return self.of_blocks.draw(tf.broadcast_to(self.logits, shape), seed)
