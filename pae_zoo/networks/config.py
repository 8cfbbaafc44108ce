"""The options of networks, each declared once: a flag, a field of `NetworkConfig`, and what its kinds read.

A kind names the record of the options that it reads (`Family.options`); `NetworkConfig` has those of all kinds of the
zoo, so that one set of options describes an encoder of one kind and a decoder of another.
"""

import dataclasses
import math
from typing import Any

import keras

from pae_zoo.core import columns
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.core.hparams import NETWORK, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What every kind reads."""

    dropout_rate: float = option(0.0, "Dropout of the networks that have it.", low=0.0, high=0.95, group=NETWORK)
    torch_init: bool = option(False, "Initial weights of PyTorch's layers, whatever the kind has: uniform within "
                              "1/sqrt(fan in), biases too.", group=NETWORK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivatedOptions(Options):
    """Kinds whose activation is free."""

    activation: str = option("relu", "Activation of hidden layers, a Keras name.", group=NETWORK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseOptions(ActivatedOptions):
    """mlp."""

    hidden_units: tuple[int, ...] = option((512, 256), "Widths of dense hidden layers, from the data inwards; the "
                                           "decoder mirrors them.", low=1, high=2**20, group=NETWORK, smoke=32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VLAEDenseOptions(DenseOptions):
    """vlae."""

    init: str = option("default", "Initial weights of the network kind 'vlae': default (gain 1.26, as meant) or "
                       "upstream (0.879, what its code does).", choices=("default", "upstream"), group=NETWORK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormalisedOptions(Options):
    """Kinds with batch normalisation."""

    batch_norm: str = option("affine", "Batch normalisation: affine (scale and shift alone, as published in effect), "
                             "batch or none.", choices=("affine", "batch", "none"), group=NETWORK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BiasedOptions(ActivatedOptions):
    """lae_mnist, lae_svhn, lae_svhn_baseline."""

    conv_bias: bool = option(False, "conv: biases in the layers that a normalisation follows; lae_mnist, lae_svhn: in "
                             "all convolutions.", group=NETWORK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterOptions(ActivatedOptions):
    """Kinds whose convolutions have one width, or widths that follow from one."""

    num_filters: int = option(32, "Filters of the first layer; tcn: of all.", low=1, high=65_536, group=NETWORK,
                              smoke=4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelOptions(ActivatedOptions):
    """Kinds whose kernels have one size."""

    kernel_size: int = option(3, "Side of the kernels.", low=1, high=1000, group=NETWORK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvOptions(BiasedOptions, NormalisedOptions, FilterOptions):
    """conv."""

    num_levels: int = option(0, "Halvings of the image side (0: 3 from 64 pixels on, else 2).", choices=(0, 2, 3),
                             group=NETWORK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfoganOptions(NormalisedOptions):
    """infogan."""

    spectral_norm: bool = option(True, "Divide the encoder's kernels by their spectral norm.", group=NETWORK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResnetDenseOptions(ActivatedOptions):
    """resnet_fc."""

    dense_size: int = option(256, "Width.", low=1, high=2**20, group=NETWORK, smoke=16)
    num_layers: int = option(4, "Residual blocks.", low=1, high=500, group=NETWORK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResnetConvOptions(NormalisedOptions, KernelOptions):
    """resnet_conv."""

    base_dim: int = option(16, "Channels at full resolution.", low=1, high=65_536, group=NETWORK, smoke=4)
    num_scale: int = option(4, "Scales of the encoder.", low=1, high=16, group=NETWORK)
    block_per_scale: int = option(1, "Residual blocks at each scale.", low=1, high=100, group=NETWORK)
    depth_per_block: int = option(2, "Layers in a residual block.", low=1, high=100, group=NETWORK)
    fc_dim: int = option(512, "Width of the encoder's dense block.", low=1, high=2**20, group=NETWORK, smoke=16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conv1DOptions(KernelOptions):
    """conv1d."""

    filters: tuple[int, ...] = option((32, 64), "Filters of conv1d's layers, from the data inwards, each of which "
                                      "halves the length; the decoder mirrors them.", low=1, high=65_536,
                                      group=NETWORK, smoke=4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TCNOptions(KernelOptions, FilterOptions):
    """tcn."""

    dilations: tuple[int, ...] = option((1, 2, 4, 8), "Steps between the values that a kernel of tcn sees, a residual "
                                        "block each; the decoder has them backwards.", low=1, high=65_536,
                                        group=NETWORK)
    causal: bool = option(False, "tcn: kernels see a value and those before it, not both sides.", group=NETWORK)
    length_factor: int = option(4, "How often shorter than the series what tcn's code is made of is.", low=1,
                                high=65_536, group=NETWORK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TabularOptions(ActivatedOptions, columns.ColumnOptions):
    """tabular."""

    tabular_width: int = option(128, "Width of tabular's residual blocks.", low=1, high=2**20, group=NETWORK, smoke=16)
    tabular_blocks: int = option(3, "Residual blocks of tabular.", low=0, high=500, group=NETWORK)
    embedding_size: int = option(0, "tabular: numbers for each category of a column (0: half as many as categories, at "
                                 "most 16).", low=0, high=4096, group=NETWORK)


@dataclasses.dataclass(frozen=True)
class NetworkConfig(
    VLAEDenseOptions, ConvOptions, InfoganOptions, ResnetDenseOptions, ResnetConvOptions, Conv1DOptions, TCNOptions,
    TabularOptions,
):
    """Everything that decides an encoder and a decoder; a kind ignores the options it has no use for.

    `event_shape` is the shape of one datum, (H, W, C), (T, C) or (d,); `seed` fixes the initial weights and the
    dropout noise. Raises UserError (a ValueError) for a value of a wrong type or out of its range; whether a kind can
    take the shape is checked when it is built.
    """

    kind: str
    event_shape: tuple[int, ...]
    latent_dim: int
    seed: int = 0

    def __post_init__(self) -> None:
        # Lists arrive from JSON and from flags.
        object.__setattr__(self, "event_shape", check_event_shape(self.event_shape))
        for name in ("latent_dim", "seed"):
            value = getattr(self, name)
            if not _is_int(value) or value < (name == "latent_dim"):
                raise UserError(f"{name}={value!r}: must be an integer from {int(name == 'latent_dim')} on.")
        for name, value in hp.typed_options(self).items():
            object.__setattr__(self, name, value)
        hp.check_options(self)
        try:
            keras.activations.get(self.activation)
        except ValueError as error:
            raise UserError(
                f"activation={self.activation!r} is not known to Keras; "
                "take one such as relu, leaky_relu, elu, gelu, silu, softplus, tanh."
            ) from error

    @property
    def is_image(self) -> bool:
        """Whether a datum is an image (H, W, C)."""
        return len(self.event_shape) == 3

    @property
    def is_series(self) -> bool:
        """Whether a datum is a window (T, C) of a series."""
        return len(self.event_shape) == 2

    @property
    def num_values(self) -> int:
        """Numbers in one datum."""
        return math.prod(self.event_shape)


def option_names(record: type = NetworkConfig) -> tuple[str, ...]:
    """Returns the names of all options of a record, that is, of its fields that are flags."""
    return tuple(field.name for field in dataclasses.fields(record) if field.metadata)


def check_event_shape(event_shape: Any) -> tuple[int, ...]:
    """Returns the shape of one datum as a tuple; raises UserError unless it is (H, W, C), (T, C) or (d,)."""
    shape = tuple(event_shape) if hasattr(event_shape, "__iter__") else (event_shape,)
    if len(shape) not in (1, 2, 3) or not all(_is_int(size) and size > 0 for size in shape):
        raise UserError(f"event_shape={event_shape!r}: one datum is an image (H, W, C), a window "
                        "(T, C) of a series or a vector (d,).")
    return tuple(int(size) for size in shape)


def _is_int(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)
