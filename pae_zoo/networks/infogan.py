"""InfoGAN's network with spectral norms, behind all published images of the PAE."""

from typing import Any

import keras

from pae_zoo.networks.config import InfoganOptions, NetworkConfig
from pae_zoo.networks.family import Family, Maker, check_image, crop
from pae_zoo.networks.layers import SpectralNorm


def _normal(make: Maker) -> keras.Initializer:
    return keras.initializers.RandomNormal(stddev=0.02, seed=make.seed())


def _spectral(config: NetworkConfig, make: Maker, layer: keras.Layer) -> keras.Layer:
    if not config.spectral_norm:
        return layer
    return SpectralNorm(layer, seed=make.seed(), dtype=layer.dtype_policy, name=make.name("spectral"))


def _encoder(config: NetworkConfig, make: Maker, units: int) -> list[keras.Layer]:
    def conv(filters: int) -> keras.Layer:
        kernel = keras.initializers.TruncatedNormal(stddev=0.02, seed=make.seed())
        return _spectral(config, make, make.conv(filters, 4, 2, kernel=kernel))

    def dense(width: int, **options: Any) -> keras.Layer:
        return _spectral(config, make, make.dense(width, kernel=_normal(make), **options))

    # Keras' leaky_relu has upstream's slope, 0.2.
    return [
        conv(64),
        make.activation("leaky_relu"),
        conv(128),
        *make.norm(),
        *make.dropout(),
        make.activation("leaky_relu"),
        *make.flatten(),
        dense(1024),
        *make.norm(),
        *make.dropout(),
        make.activation("leaky_relu"),
        dense(units, last=True),
    ]


def _decoder(config: NetworkConfig, make: Maker) -> list[keras.Layer]:
    height, width = (-(-side // 4) for side in config.event_shape[:2])
    return [
        make.dense(1024, kernel=_normal(make)),
        *make.norm(),
        make.activation("relu"),
        make.dense(128 * height * width, kernel=_normal(make)),
        *make.norm(),
        make.activation("relu"),
        *make.dropout(),
        keras.layers.Reshape((height, width, 128), name=make.name("reshape")),
        make.conv(64, 4, 2, transpose=True, kernel=_normal(make)),
        *make.norm(),
        make.activation("relu"),
        *make.dropout(),
        make.conv(make.output_shape[-1], 4, 2, transpose=True, kernel=_normal(make), last=True),
        *crop(make, [4 * height, 4 * width]),
    ]


FAMILIES = (
    Family(
        "infogan",
        "InfoGAN's 4x4 convolutions with spectral norms in the encoder; images from 4 pixels a side",
        _encoder,
        _decoder,
        lambda config: check_image(config, 4),
        output="sigmoid",
        options=InfoganOptions,
    ),
)
