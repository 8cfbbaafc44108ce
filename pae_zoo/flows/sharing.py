"""Equal layers of a chain are traced once: in a graph each is a call of one function, with weights of its own."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from pae_zoo.flows.base import FlowLayer, Pair

# What differs between layers that compute alike.
_OWN = ("name", "seed")


class Shared:
    """Layers of a chain that are applied: in a graph those that differ by their weights alone share what is traced.

    A graph of eight equal blocks is then built, differentiated and optimised in little more than the time of one.

    Args:
      layers: the chain.
    """

    def __init__(self, layers: Sequence[FlowLayer]):
        self._kinds = {id(layer): _kind(layer) for layer in layers if layer.shares}
        self._counts = collections.Counter(self._kinds.values())
        self._functions: dict[Any, Callable] = {}

    def __call__(self, layer: FlowLayer) -> Callable[..., Pair]:
        """Returns what is called as `layer.transform`."""
        kind = self._kinds.get(id(layer), ())
        if tf.executing_eagerly() or self._counts[kind] < 2:
            return layer.transform

        def transform(x: tf.Tensor, inverse: bool, **given: Any) -> Pair:
            key = (kind, inverse, *given)
            if key not in self._functions:
                self._functions[key] = _function(layer, inverse)
            return self._functions[key](x, [tf.convert_to_tensor(one) for one in layer.variables], given)

        return transform


def _function(layer: FlowLayer, inverse: bool) -> Callable:
    """Returns the transform of a layer as a function of (x, the values of its variables, more arguments)."""
    variables = layer.variables

    @tf.function(autograph=False)
    def transform(x: tf.Tensor, values: Sequence[tf.Tensor], given: dict[str, Any]) -> Pair:
        with keras.StatelessScope(state_mapping=list(zip(variables, values))):
            return layer.transform(x, inverse, **given)

    return transform


def _kind(layer: FlowLayer) -> tuple:
    config = {name: str(value) for name, value in layer.get_config().items() if name not in _OWN}
    return type(layer), tuple(sorted(config.items())), tuple(tuple(one.shape) for one in layer.variables)
