"""Mixtures whose components belong to labels: p(u|c) of each label c beside p(u)."""

from typing import Any, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.core import labels as labels_lib

# A label that no datum has keeps this many, so that its logarithm exists.
LEAST_COUNT = 1e-6


class ByLabel:
    """What a mixture has whose M = C n components belong to C labels, those of label c at c n .. (c + 1) n - 1.

    p(u) = sum_c pi_c p(u|c), pi_c the share of label c in what `count_labels` was given, p(u|c) the mixture of the
    components of c, whose weights sum to one. With num_labels = 0 there are no labels.
    """

    num_labels: int
    num_components: int
    logits: Any
    label_counts: Any

    @property
    def per_label(self) -> int:
        """Components of each label."""
        return self.num_components // self.num_labels

    def log_label_weights(self) -> tf.Tensor:
        """Returns log pi_c, (C,)."""
        counts = tf.maximum(tf.convert_to_tensor(self.label_counts), LEAST_COUNT)
        return tf.math.log(counts / tf.reduce_sum(counts))

    def log_weights_by_label(self) -> tf.Tensor:
        """Returns the logs of the weights of all components, (M,): their share of their label times that of it."""
        within = tf.nn.log_softmax(tf.reshape(tf.convert_to_tensor(self.logits), (self.num_labels, self.per_label)))
        return tf.reshape(within + tf.cast(self.log_label_weights(), within.dtype)[:, None], (-1,))

    def count_labels(self, labels: Any, weights: Optional[np.ndarray] = None) -> None:
        """Takes the shares of labels from those of the training data, (n,) whole numbers; raises UserError."""
        labels = labels_lib.checked(labels, self.num_labels)
        self.label_counts.assign(np.bincount(labels, weights, minlength=self.num_labels).astype(np.float32))

    def of_label(self, logs: tf.Tensor, label: Any) -> tf.Tensor:
        """Returns, of log w_m p_m(u) of rows (n, M), log p(u|c) of the label c of each row, (n,)."""
        joint = self.joint(logs) - tf.cast(self.log_label_weights(), logs.dtype)
        return tf.gather(joint, label, axis=1, batch_dims=1)

    def joint(self, logs: tf.Tensor) -> tf.Tensor:
        """Returns, of log w_m p_m(u) (n, M), log p(u, c) of every label, (n, C)."""
        return tf.reduce_logsumexp(tf.reshape(logs, (-1, self.num_labels, self.per_label)), axis=-1)

    def label_mask(self, label: Any, dtype: tf.DType) -> tf.Tensor:
        """Returns 0 where a component is of the label of a row, and -infinity elsewhere, labels (n,) -> (n, M)."""
        owner = tf.repeat(tf.range(self.num_labels), self.per_label)
        here = tf.cast(label, tf.int32)[:, None] == owner
        return tf.where(here, tf.zeros([], dtype), tf.constant(-np.inf, dtype))
