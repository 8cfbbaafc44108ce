"""Rule of the layer that embeds the categories of a table's columns."""

import tensorflow as tf

from pae_zoo.curvature.rules import registry
from pae_zoo.networks.tabular import ColumnEmbedding


def _forward(layer: ColumnEmbedding, a: tf.Tensor) -> tf.Tensor:
    return layer.with_vectors(a, [registry.weight(vectors, a.dtype) for vectors in layer.vectors])


registry.register_rule(ColumnEmbedding, forward=_forward)
