"""A model's networks as plain arrays and options, so that loops without Keras can run the same network."""

import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layer:
    """One operation: dense, conv, conv_transpose, affine, activation, reshape or crop.

    `macs` is the number of multiplications of its matrix products for one datum, forwards.
    """

    kind: str
    arrays: tuple[np.ndarray, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    macs: int = 0


@dataclasses.dataclass(frozen=True)
class Network:
    """Encoder and decoder of an autoencoder with one learned log-variance."""

    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    latent_dim: int
    event_shape: tuple[int, ...]
    log_variance: float

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.encoder + self.decoder

    @property
    def products(self) -> list[Layer]:
        """The layers that multiply matrices."""
        return [layer for layer in self.layers if layer.macs]

    @property
    def num_weights(self) -> int:
        return sum(array.size for layer in self.layers for array in layer.arrays) + 1

    def step_flops(self, batch_size: int) -> int:
        """Multiplications and additions of the matrix products of one training step, counted by hand.

        Every product is taken once forwards and twice backwards (for its weights and for its input), but the
        input of the first layer needs no gradient.
        """
        macs = [layer.macs for layer in self.products]
        return 2 * batch_size * (3 * sum(macs) - macs[0])


def describe(model) -> Network:
    """Returns the networks of a built `ae` with the likelihood gaussian_learned.

    Raises ValueError for a layer that the plain loops do not know.
    """
    return Network(
        encoder=tuple(layer for each in model.encoder.layers for layer in _layer(each)),
        decoder=tuple(layer for each in model.decoder.layers for layer in _layer(each)),
        latent_dim=model.latent_dim,
        event_shape=tuple(model.event_shape),
        log_variance=float(np.asarray(model.likelihood.log_variance)),
    )


def _layer(layer) -> list[Layer]:
    name = type(layer).__name__
    arrays = tuple(np.asarray(weight) for weight in layer.get_weights())
    if name == "InputLayer":
        return []
    if name == "Dense":
        return [Layer("dense", arrays, macs=arrays[0].size), *_activation(layer.activation.__name__)]
    if name in ("Conv2D", "Conv2DTranspose"):
        transpose = name == "Conv2DTranspose"
        pixels = math.prod((layer.input.shape if transpose else layer.output.shape)[1:3])
        options = {"stride": layer.strides[0], "bias": layer.use_bias}
        kind = "conv_transpose" if transpose else "conv"
        return [
            Layer(kind, arrays, options, pixels * arrays[0].size),
            *_activation(layer.activation.__name__),
        ]
    if name == "Affine":
        return [Layer("affine", arrays)]
    if name == "Activation":
        return _activation(layer.activation.__name__)
    if name in ("Flatten", "Reshape"):
        return [Layer("reshape", options={"shape": tuple(layer.output.shape[1:])})]
    if name == "Cropping2D":
        if not any(map(any, layer.cropping)):
            return []
        return [Layer("crop", options={"margins": layer.cropping})]
    raise ValueError(
        f"the plain loops know no layer {name}; use a network of Dense, Conv2D, Conv2DTranspose, "
        "Affine, Activation, Flatten, Reshape and Cropping2D layers."
    )


def _activation(name: str) -> list[Layer]:
    return [] if name == "linear" else [Layer("activation", options={"name": name})]
