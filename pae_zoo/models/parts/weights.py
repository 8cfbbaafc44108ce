"""Networks at weights that are not their own: drawn values take the place of variables, which stay as they are."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Optional

import keras
import tensorflow as tf

from pae_zoo.core import seeds


@contextlib.contextmanager
def replaced(
    variables: Sequence[keras.Variable], values: Sequence[tf.Tensor], state: Sequence[keras.Variable] = ()
) -> Iterator[None]:
    """Inside, every layer reads `values` in the place of Keras `variables`; afterwards all is as before.

    Gradients reach whatever the values were made of. What layers write inside is lost, but for the variables in
    `state` (counts, moving averages), which are written on leaving. Works eagerly, in tf.function and under XLA.
    """
    scope = keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True)), initialize_variables=False)
    with scope:
        yield
    for variable in state:
        value = scope.get_current_value(variable)
        if value is not None:
            variable.assign(value)


def drawn(
    means: Sequence[tf.Tensor], stds: Sequence[tf.Tensor], seed: seeds.Seed, noise: Optional[list] = None
) -> list[tf.Tensor]:
    """Returns mean + std * eps, eps ~ N(0, I) from `seed`, for each pair of tensors of one shape, all of one dtype.

    One network at a time: a loop over seeds needs the memory of one. `noise`, a list, is given every eps.
    """
    means, stds = [tf.convert_to_tensor(mean) for mean in means], [tf.convert_to_tensor(std) for std in stds]
    sizes = [math.prod(mean.shape) for mean in means]
    # One draw for all: a draw of its own for each tensor multiplies what has to be traced and compiled.
    pieces = tf.split(seeds.normal((sum(sizes),), seed, means[0].dtype, None), sizes)
    every = [tf.reshape(piece, mean.shape) for piece, mean in zip(pieces, means)]
    if noise is not None:
        noise.extend(every)
    return [mean + std * eps for mean, std, eps in zip(means, stds, every, strict=True)]
