"""Which activations act on each value by itself."""

from typing import Callable

import keras

# Functions of one value each; softmax and the like mix values.
ELEMENTWISE = frozenset(
    "relu relu6 leaky_relu elu selu celu gelu silu mish softplus softsign sigmoid hard_sigmoid hard_silu hard_tanh "
    "hard_shrink soft_shrink tanh tanh_shrink threshold squareplus log_sigmoid exponential linear".split()
)


def is_elementwise(activation: Callable) -> bool:
    """Whether `activation` is one of Keras' functions of single values."""
    name = getattr(activation, "__name__", "")
    return name in ELEMENTWISE and getattr(keras.activations, name, None) is activation
