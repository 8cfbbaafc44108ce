"""Residual networks, dense and convolutional; each block is a nested model, so that the net is a chain."""

from typing import Callable, Sequence

import keras

from pae_zoo.networks.config import NetworkConfig, ResnetConvOptions, ResnetDenseOptions
from pae_zoo.networks.family import Family, Maker, check_image, crop, pad

MAX_CHANNELS = 1024


def residual(
    make: Maker, shape: Sequence[int], branch: list[keras.Layer], shortcut: list[keras.Layer]
) -> keras.Model:
    """Returns the model x -> branch(x) + shortcut(x) for x of the given shape."""
    name = make.name("block")
    x = keras.Input(shape, name=f"{name}_input")
    ends = []
    for chain in (branch, shortcut):
        y = x
        for layer in chain:
            y = layer(y)
        ends.append(y)
    return keras.Model(x, keras.layers.Add(name=f"{name}_sum")(ends), name=name)


def _dense_chain(config: NetworkConfig, make: Maker, units: int) -> list[keras.Layer]:
    size = config.dense_size
    chain: list[keras.Layer] = [make.dense(size)]
    for _ in range(config.num_layers):
        branch: list[keras.Layer] = []
        for _ in range(2):
            branch += [make.dense(size), *make.dropout(), make.activation()]
        chain.append(residual(make, (size,), branch, []))
    return [*chain, make.dense(units, last=True)]


def _block(
    make: Maker, shape: Sequence[int], layer: Callable[[], keras.Layer], norm: bool
) -> keras.Model:
    """depth_per_block times (normalisation, relu, layer), plus a linear layer as the shortcut."""
    branch: list[keras.Layer] = []
    for _ in range(make.config.depth_per_block):
        branch += [*(make.norm() if norm else []), make.activation("relu"), *make.dropout(), layer()]
    return residual(make, shape, branch, [layer()])


def _scale_blocks(make: Maker, side: int, channels: int) -> list[keras.Layer]:
    return [
        _block(
            make, (side, side, channels), lambda: make.conv(channels, make.config.kernel_size), norm=True)
        for _ in range(make.config.block_per_scale)
    ]


def _side(config: NetworkConfig) -> int:
    """The power of two that the image is padded to."""
    return 2 ** (max(config.event_shape[:2]) - 1).bit_length()


def _conv_encoder(config: NetworkConfig, make: Maker, units: int) -> list[keras.Layer]:
    side, channels = _side(config), config.base_dim
    chain = [*pad(make, [side, side]), make.conv(channels, config.kernel_size)]
    for scale in range(config.num_scale):
        chain += _scale_blocks(make, side, channels)
        if scale < config.num_scale - 1:
            side, channels = -(-side // 2), 2 * channels
            chain.append(make.conv(channels, config.kernel_size, 2))
    chain += [
        keras.layers.GlobalAveragePooling2D(name=make.name("pool")),
        _block(make, (channels,), lambda: make.dense(config.fc_dim), norm=False),
        make.dense(units, last=True),
    ]
    return chain


def _conv_decoder(config: NetworkConfig, make: Maker) -> list[keras.Layer]:
    target, side = _side(config), 2
    num_doublings = target.bit_length() - 2
    widths = [min(config.base_dim * 2**level, MAX_CHANNELS) for level in range(num_doublings + 1)][::-1]
    chain: list[keras.Layer] = [
        make.dense(side * side * widths[0]),
        keras.layers.Reshape((side, side, widths[0]), name=make.name("reshape")),
    ]
    for channels in widths[1:]:
        side *= 2
        chain.append(make.conv(channels, config.kernel_size, 2, transpose=True))
        chain += _scale_blocks(make, side, channels)
    return [
        *chain,
        make.conv(make.output_shape[-1], config.kernel_size, last=True),
        *crop(make, [target, target]),
    ]


FAMILIES = (
    Family(
        "resnet_fc",
        "dense residual blocks of --dense_size, --num_layers of them; data of any shape",
        lambda config, make, units: [*make.flatten(), *_dense_chain(config, make, units)],
        lambda config, make: [
            *_dense_chain(config, make, config.num_values * make.channels_factor),
            *make.unflatten(),
        ],
        options=ResnetDenseOptions,
    ),
    Family(
        "resnet_conv",
        "convolutional residual blocks at --num_scale scales; images, padded to a power of two",
        _conv_encoder,
        _conv_decoder,
        lambda config: check_image(config, 4),
        output="sigmoid",
        options=ResnetConvOptions,
    ),
)
