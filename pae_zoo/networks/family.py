"""What a family of networks is made of: its description, and the maker of its named, seeded layers."""

import collections
import dataclasses
from typing import Any, Callable, Optional, Sequence

import keras

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.networks import layers as zoo_layers
from pae_zoo.networks.config import ActivatedOptions, NetworkConfig, Options

ENCODER, DECODER = 0, 1
MOST_LAYERS = 2000
OUTPUTS = ("linear", "sigmoid", "sigmoid_centred")


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of network.

    `encoder(config, make, units)` and `decoder(config, make)` return the chain of layers between the input
    and the output; the encoder's ends in `units` numbers, the decoder's in `make.output_shape`, before the
    output nonlinearity. `check(config)` raises UserError for a shape that the kind cannot take. `options` is the record
    of the options that the kind reads: its flags.
    """

    kind: str
    summary: str
    encoder: Callable[[NetworkConfig, "Maker", int], list[keras.Layer]]
    decoder: Callable[[NetworkConfig, "Maker"], list[keras.Layer]]
    check: Callable[[NetworkConfig], None] = lambda config: None
    output: str = "linear"
    options: type[Options] = ActivatedOptions


class Maker:
    """Makes the layers of one network, with names and seeds that depend on nothing but the config.

    Keras numbers unnamed layers by a global counter and seeds initialisers at random; both would differ
    between two builds of the same network in one process. Names begin with the model's, so that the
    variables of an encoder and a decoder have different paths.
    """

    def __init__(
        self,
        config: NetworkConfig,
        role: int,
        model_name: str,
        output: str = "linear",
        channels_factor: int = 1,
    ) -> None:
        self.config = config
        self.role = role
        self.model_name = model_name
        self.output = output
        self.channels_factor = channels_factor
        self._names: collections.Counter = collections.Counter()
        self._num_seeds = 0

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the decoder's output for one datum."""
        shape = self.config.event_shape
        return (*shape[:-1], shape[-1] * self.channels_factor)

    def seed(self) -> int:
        """Returns the next seed of this network."""
        self._num_seeds += 1
        return seeds.integer(self.config.seed, self.role, self._num_seeds)

    def name(self, stem: str) -> str:
        """Returns the name of the next layer of this sort."""
        number = self._names[stem]
        self._names[stem] += 1
        if self._names.total() > MOST_LAYERS:
            raise UserError(
                f"A network of more than {MOST_LAYERS} layers would take minutes to build; lower --num_layers, "
                "--num_scale, --block_per_scale, --depth_per_block, or list fewer --hidden_units.")  # fmt: skip
        return f"{self.model_name}_{stem}_{number}"

    def dense(
        self,
        units: int,
        kernel: Optional[keras.Initializer] = None,
        bias: Optional[keras.Initializer] = None,
        last: bool = False,
    ) -> keras.layers.Dense:
        """A linear dense layer: Glorot uniform, zero bias unless told otherwise."""
        initial: Any = kernel or keras.initializers.GlorotUniform(seed=self.seed())
        first: Any = bias or "zeros"
        return keras.layers.Dense(
            units,
            kernel_initializer=initial,
            bias_initializer=first,
            dtype=_head_policy() if last else None,
            name=self.name("dense"),
        )

    def conv(
        self,
        filters: int,
        size: int,
        stride: int = 1,
        *,
        use_bias: bool = True,
        transpose: bool = False,
        kernel: Optional[keras.Initializer] = None,
        last: bool = False,
        **options: Any,
    ) -> keras.Layer:
        """A linear convolution, or its transpose, with SAME padding: Glorot uniform, zero bias.

        Of windows (T, C) it is one along T. `options` go to Keras' layer.
        """
        layers = keras.layers
        pair = (layers.Conv1D, layers.Conv1DTranspose) if self.config.is_series else (
            layers.Conv2D, layers.Conv2DTranspose)  # fmt: skip
        layer: Any = pair[transpose]
        return layer(
            filters,
            size,
            strides=stride,
            **{"padding": "same", **options},
            use_bias=use_bias,
            kernel_initializer=kernel or keras.initializers.GlorotUniform(seed=self.seed()),
            dtype=_head_policy() if last else None,
            name=self.name("conv_transpose" if transpose else "conv"),
        )

    def activation(self, activation: Optional[str] = None) -> keras.layers.Activation:
        """The config's activation, or the one named, as a layer of its own."""
        return keras.layers.Activation(activation or self.config.activation, name=self.name("activation"))

    def dropout(self) -> list[keras.Layer]:
        """A dropout layer, or nothing where the rate is 0."""
        if self.config.dropout_rate == 0:
            return []
        index = self._names["dropout"] + 1000 * self.role
        return [
            zoo_layers.Dropout(
                self.config.dropout_rate, seed=(self.config.seed, index), name=self.name("dropout"))
        ]

    def norm(self) -> list[keras.Layer]:
        """The config's normalisation, or nothing."""
        if self.config.batch_norm == "none":
            return []
        if self.config.batch_norm == "affine":
            return [zoo_layers.Affine(name=self.name("norm"))]
        return [keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=self.name("norm"))]

    def pool(self) -> keras.layers.MaxPooling2D:
        """The maximum of every 2x2 pixels."""
        return keras.layers.MaxPooling2D(2, name=self.name("pool"))

    def upsample(self) -> keras.layers.UpSampling2D:
        """Every pixel repeated 2x2 times."""
        return keras.layers.UpSampling2D(2, name=self.name("upsample"))

    def flatten(self, last: bool = False) -> list[keras.Layer]:
        """A flattening layer, or nothing where a datum is a vector."""
        if len(self.config.event_shape) == 1:
            return []
        return [keras.layers.Flatten(dtype=_head_policy() if last else None, name=self.name("flatten"))]

    def unflatten(self) -> list[keras.Layer]:
        """A reshaping of the decoder's last dense layer to the shape of a datum, or nothing for vectors."""
        if len(self.config.event_shape) == 1:
            return []
        return [keras.layers.Reshape(self.output_shape, name=self.name("reshape"))]

    def nonlinearity(self) -> list[keras.Layer]:
        """The decoder's output nonlinearity; with two halves it acts on the mean's half only."""
        if self.output == "linear":
            return []
        shift = -0.5 if self.output == "sigmoid_centred" else 0.0
        policy = _head_policy()
        if self.channels_factor == 2:
            return [zoo_layers.MeanSigmoid(shift=shift, dtype=policy, name=self.name("output"))]
        chain: list[keras.layers.Layer] = [keras.layers.Activation("sigmoid", dtype=policy, name=self.name("output"))]
        if shift:
            chain.append(keras.layers.Rescaling(1.0, offset=shift, dtype=policy, name=self.name("shift")))
        return chain


def _head_policy() -> str:
    """The type of a network's last layer: full precision, also where the global policy is a mixed one."""
    return keras.config.dtype_policy().variable_dtype


def check_image(config: NetworkConfig, least: int) -> None:
    """Raises UserError unless a datum is an image of at least `least` pixels a side."""
    if not config.is_image:
        raise UserError(
            f"{config.kind} takes images (H, W, C); the data have shape {config.event_shape}. "
            "For series (T, C) take conv1d or tcn; for them and for vectors mlp, vlae, vae10, fully_connected or "
            "resnet_fc."
        )
    if min(config.event_shape[:2]) < least:
        raise UserError(
            f"{config.kind} takes images of at least {least}x{least} pixels; the data have shape "
            f"{config.event_shape}. Take mlp, or enlarge them with --image_size."
        )


def _margins(make: Maker, sides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Rows and columns by which images of `sides` exceed the data, before and after them."""
    excess = [side - have for side, have in zip(sides, make.config.event_shape)]
    return tuple((extra // 2, extra - extra // 2) for extra in excess)


def pad(make: Maker, sides: Sequence[int]) -> list[keras.Layer]:
    """A centred padding of images to `sides` with zeros, or nothing."""
    margins = _margins(make, sides)
    return [keras.layers.ZeroPadding2D(margins, name=make.name("pad"))] if any(map(any, margins)) else []


def crop(make: Maker, sides: Sequence[int]) -> list[keras.Layer]:
    """A centred cropping from `sides` to the size of the data, images or windows, or nothing."""
    margins = _margins(make, sides)
    if not any(map(any, margins)):
        return []
    if make.config.is_series:
        return [keras.layers.Cropping1D(margins[0], name=make.name("crop"))]
    return [keras.layers.Cropping2D(margins, name=make.name("crop"))]
