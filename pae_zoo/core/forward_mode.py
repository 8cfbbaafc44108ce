"""Derivatives of functions along directions, by forward mode."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def jvp(function: Callable[..., Any], points: Any, tangents: Any) -> tuple[Any, Any]:
    """Returns function(points) and its derivative along `tangents`, both structures like the value's.

    Args:
      function: takes a tensor, or a list of tensors, and returns a tensor or a structure of them; None stays None.
      points: what it is called with.
      tangents: of the shapes of the points.

    Derivatives have the static shapes of the values: TensorFlow forgets them once a process has differentiated an
    operation more than 32 times. Where the value does not depend on the points they are zero.
    """
    with tf.autodiff.ForwardAccumulator(points, tangents) as accumulator:
        values = function(points)

    def along(value):
        if value is None:
            return None
        found = accumulator.jvp(value, tf.UnconnectedGradients.ZERO)
        found.set_shape(value.shape)
        return found

    return values, tf.nest.map_structure(along, values)
