"""Recurrent layers where derivatives are needed that TensorFlow does not take of a loop."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def unrolled(layer: keras.Layer) -> Iterator[None]:
    """Inside, the recurrent layers in `layer` compute their steps one by one, not in a loop: the same numbers.

    A loop has no forward-mode derivatives, and XLA compiles no gradient of one with vectorised rows. The number of
    steps must be known.
    """
    loops = [one for one in layer._flatten_layers() if isinstance(one, keras.layers.RNN) and not one.unroll]
    for one in loops:
        one.unroll = True
    try:
        yield
    finally:
        for one in loops:
            one.unroll = False
