"""Norms of gradients and of updates, logged while a model trains."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from pae_zoo.core import replicas


class Norms:
    """Means over steps of the norm of the gradient, before it is clipped, and of the change of the weights.

    Both are global Euclidean norms over all that is trained. What it holds is no part of a model.

    Args:
      wanted: whether anything is logged.
    """

    def __init__(self, wanted: bool = False):
        names = ("gradient_norm", "update_norm") if wanted else ()
        self.metrics = [replicas.Mean(name=name) for name in names]

    def before(self, weights: Sequence[Any]) -> list[tf.Tensor]:
        """Returns the weights before a step, for `update`; nothing where nothing is logged."""
        return [tf.identity(tf.convert_to_tensor(one)) for one in weights] if self.metrics else []

    def update(self, gradients: Sequence[Any], scale: Any, before: Sequence[tf.Tensor], weights: Sequence[Any]) -> None:
        """Takes a step: its gradients, `scale` times those of the loss (None: of a weight that has none)."""
        if not self.metrics:
            return
        moved = [tf.convert_to_tensor(now) - old for now, old in zip(weights, before)]
        norms = (tf.linalg.global_norm([one for one in gradients if one is not None]) / tf.cast(scale, tf.float32),
                 tf.linalg.global_norm(moved))  # fmt: skip
        for metric, norm in zip(self.metrics, norms):
            metric.update_state(tf.cast(norm, tf.float32))
