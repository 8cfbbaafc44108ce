"""How much memory a training step of a linearised decoder takes, before it is taken."""

import math
import os
from typing import Any

import keras

from pae_zoo.core.errors import UserError

FLOAT_BYTES = 4
# Tensors (batch, K, width) kept for the backward pass for each value of the layers behind the decoder's input.
KEPT_PER_VALUE = 3


def step_bytes(decoder: keras.Model, latent_dim: int, batch_size: int, linearisations: int, explicit: bool) -> int:
    """Returns an estimate of the bytes that a training step keeps for its backward pass.

    K tangents of every layer's values, a few times, and matrices (batch, K, K), for each of `linearisations` points;
    with `explicit` also Jacobians (batch, K, values of a datum).
    """
    sizes = [math.prod(_shape(layer)) for layer in decoder.layers if layer.weights]
    hidden = sum(sizes[:-1])
    values = KEPT_PER_VALUE * hidden + (2 * math.prod(decoder.output_shape[1:]) if explicit else 0) + 6 * latent_dim
    return FLOAT_BYTES * batch_size * latent_dim * values * linearisations


def check(needed: int, advice: str) -> None:
    """Raises UserError where `needed` bytes exceed this machine's memory, with what to do."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise UserError(f"A training step would keep about {needed / 2**30:.0f} GiB of Jacobians; this machine has "
                        f"{available / 2**30:.0f} GiB. {advice}")


def _shape(layer: Any) -> tuple[int, ...]:
    return tuple(size or 1 for size in layer.output.shape[1:])
