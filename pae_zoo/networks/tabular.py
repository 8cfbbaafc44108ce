"""The network for rows of a table: embedded categories, then residual dense blocks."""

from collections.abc import Sequence
from typing import Any, Optional

import keras
import tensorflow as tf

from pae_zoo.core import columns
from pae_zoo.core.errors import UserError
from pae_zoo.core.seeds import integer
from pae_zoo.networks.config import NetworkConfig, TabularOptions
from pae_zoo.networks.family import Family, Maker
from pae_zoo.networks.resnet import residual

MOST_AUTO = 16


@keras.saving.register_keras_serializable("pae_zoo")
class ColumnEmbedding(keras.layers.Layer):
    """Rows of a table (batch, d) as (batch, h): a learned vector for each category, log(1 + y) of counts, all else.

    A category column's block of 0 and 1 is multiplied by a matrix of its own, so that each category has a vector, and
    one that training lacks, a block of zeros, the vector 0. `kinds` are words of `core.columns`; `size` is that of the
    vectors, 0 for half as many numbers as there are categories, at most 16. Vectors start uniform with variance 1/3.
    Guo & Berkhahn, arXiv 1604.06737.
    """

    def __init__(self, kinds: Sequence[str], size: int = 0, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kinds, self.size, self.seed = tuple(kinds), int(size), int(seed)

    def build(self, input_shape: Sequence[Optional[int]]) -> None:
        if self.built:
            return
        width = int(input_shape[-1] or 0)
        self.columns = columns.stretches(self.kinds, width)
        self.vectors = []
        for number, one in enumerate(self.blocks):
            count = one.stop - one.start
            start = keras.initializers.RandomUniform(-1.0, 1.0, seed=integer(self.seed, number))
            self.vectors.append(self.add_weight(shape=(count, self.size or min(MOST_AUTO, -(-count // 2))),
                                                initializer=start, name=f"vectors_{number}"))
        self.built = True

    @property
    def blocks(self) -> list[columns.Stretch]:
        """The columns of categories."""
        return [one for one in self.columns if one.kind == columns.CATEGORY]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.with_vectors(inputs, [tf.convert_to_tensor(vectors) for vectors in self.vectors])

    def with_vectors(self, inputs: tf.Tensor, vectors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the layer's output for other vectors than its own."""
        parts = []
        for kind in (columns.REAL, columns.BINARY, columns.COUNT):
            places = [one.start for one in self.columns if one.kind == kind]
            if places:
                own = tf.gather(inputs, places, axis=-1)
                parts.append(tf.math.log1p(tf.maximum(own, 0.0)) if kind == columns.COUNT else own)
        for one, vector in zip(self.blocks, vectors):
            parts.append(tf.matmul(inputs[..., one.start : one.stop], tf.cast(vector, inputs.dtype)))
        return tf.concat(parts, axis=-1)

    def compute_output_shape(self, input_shape: Sequence[Optional[int]]) -> tuple:
        found = columns.stretches(self.kinds, int(input_shape[-1] or 0))
        counts = [one.stop - one.start if one.kind == columns.CATEGORY else 0 for one in found]
        sizes = [(self.size or min(MOST_AUTO, -(-count // 2))) if count else 1 for count in counts]
        return (*input_shape[:-1], sum(sizes))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kinds": self.kinds, "size": self.size, "seed": self.seed}


def _check(config: NetworkConfig) -> None:
    if len(config.event_shape) != 1:
        raise UserError(f"tabular takes vectors (d,), such as the rows of a table; the data have shape "
                        f"{config.event_shape}. For images take conv or mlp, for series tcn.")
    if config.column_kinds:
        columns.stretches(config.column_kinds, config.num_values)


def _chain(config: NetworkConfig, make: Maker, units: int) -> list[keras.Layer]:
    width = config.tabular_width
    chain: list[keras.Layer] = [make.dense(width)]
    for _ in range(config.tabular_blocks):
        branch = [make.dense(2 * width), *make.dropout(), make.activation(), make.dense(width)]
        chain.append(residual(make, (width,), branch, []))
    return [*chain, make.activation(), make.dense(units, last=True)]


def _encoder(config: NetworkConfig, make: Maker, units: int) -> list[keras.Layer]:
    embedding: list[keras.Layer] = []
    if any(word not in (columns.REAL, columns.BINARY) for word in config.column_kinds):
        embedding = [ColumnEmbedding(config.column_kinds, config.embedding_size, make.seed(),
                                     name=make.name("embedding"))]  # fmt: skip
    return [*embedding, *_chain(config, make, units)]


FAMILIES = (
    Family(
        "tabular",
        "residual blocks of --tabular_width behind learned vectors of categories; rows of a table, vectors",
        _encoder,
        lambda config, make: _chain(config, make, config.num_values * make.channels_factor),
        _check,
        options=TabularOptions,
    ),
)
