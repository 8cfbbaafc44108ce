"""The convolutional network of the PAE's reference code."""

import keras

from pae_zoo.networks.config import ConvOptions, NetworkConfig
from pae_zoo.networks.family import Family, Maker, check_image, crop


def _num_levels(config: NetworkConfig) -> int:
    """Halvings of the side: upstream has two for sides of 28 and 32 and three for 64."""
    return config.num_levels or (3 if min(config.event_shape[:2]) >= 64 else 2)


def _coarse(config: NetworkConfig) -> list[int]:
    """Height and width after all halvings, rounded up as SAME padding does."""
    factor = 2 ** _num_levels(config)
    return [-(-side // factor) for side in config.event_shape[:2]]


def _check(config: NetworkConfig) -> None:
    check_image(config, 2 ** _num_levels(config))


def _block(config: NetworkConfig, make: Maker, filters: int, size: int, transpose: bool) -> list[keras.Layer]:
    return [
        make.conv(filters, size, 2, use_bias=config.conv_bias, transpose=transpose),
        *make.norm(),
        *make.dropout(),
        make.activation(),
    ]


def _encoder(config: NetworkConfig, make: Maker, units: int) -> list[keras.Layer]:
    chain: list[keras.Layer] = []
    for level, size in enumerate((5, 3, 5)[: _num_levels(config)]):
        chain += _block(config, make, config.num_filters * 2**level, size, transpose=False)
    return [*chain, *make.flatten(), make.dense(units, last=True)]


def _decoder(config: NetworkConfig, make: Maker) -> list[keras.Layer]:
    height, width = _coarse(config)
    top = 4 * config.num_filters
    chain = [
        make.dense(height * width * top),
        *make.dropout(),
        make.activation(),
        keras.layers.Reshape((height, width, top), name=make.name("reshape")),
    ]
    for level, size in reversed(list(enumerate((5, 3, 5)[: _num_levels(config)]))):
        chain += _block(config, make, config.num_filters * 2**level, size, transpose=True)
    chain.append(make.conv(make.output_shape[-1], 4, transpose=True, last=True))
    return chain + crop(make, [side * 2 ** _num_levels(config) for side in (height, width)])


FAMILIES = (
    Family(
        "conv",
        "5x5 and 3x3 convolutions of stride 2 from --num_filters on; images from 4 pixels a side",
        _encoder,
        _decoder,
        _check,
        options=ConvOptions,
    ),
)
