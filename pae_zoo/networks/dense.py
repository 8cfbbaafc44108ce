"""Dense networks for data of any shape: mlp, vlae, vae10, fully_connected."""

from typing import Sequence

import keras

from pae_zoo.networks.config import DenseOptions, NetworkConfig, VLAEDenseOptions
from pae_zoo.networks.family import Family, Maker


def _hidden(make: Maker, widths: Sequence[int]) -> list[keras.Layer]:
    chain: list[keras.Layer] = []
    for width in widths:
        chain += [make.dense(width), *make.dropout(), make.activation()]
    return chain


def _encoder(make: Maker, widths: Sequence[int], units: int) -> list[keras.Layer]:
    return [*make.flatten(), *_hidden(make, widths), make.dense(units, last=True)]


def _decoder(make: Maker, widths: Sequence[int]) -> list[keras.Layer]:
    num_outputs = make.config.num_values * make.channels_factor
    return [*_hidden(make, widths), make.dense(num_outputs, last=True), *make.unflatten()]


def vlae_kernel(seed: int, init: str = "default") -> keras.Initializer:
    """Returns uniform weights of variance gain^2 / fan_out, as in the variational Laplace autoencoder.

    The intended gain 2^(1/3) keeps the variance of the backward signal over two relu layers and a linear one;
    upstream's code passes that number as the slope of a leaky relu, which makes the gain sqrt(2/(1 + 2^(2/3))):
    init="upstream".
    """
    scale = 2.0 ** (2 / 3) if init == "default" else 2.0 / (1 + 2.0 ** (2 / 3))
    return keras.initializers.VarianceScaling(scale, "fan_out", "uniform", seed=seed)


def vlae_bias(fan_in: int, seed: int) -> keras.Initializer:
    """Returns PyTorch's biases, uniform between -+1 / sqrt(fan_in)."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5, seed=seed)


def _vlae_chain(make: Maker, sizes: Sequence[int]) -> list[keras.Layer]:
    chain: list[keras.Layer] = []
    for index, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:])):
        last = index == len(sizes) - 2
        kernel, bias = vlae_kernel(make.seed(), make.config.init), vlae_bias(fan_in, make.seed())
        chain.append(make.dense(fan_out, kernel=kernel, bias=bias, last=last))
        if not last:
            chain += [*make.dropout(), make.activation()]
    return chain


def _vlae_encoder(config: NetworkConfig, make: Maker, units: int) -> list[keras.Layer]:
    return [*make.flatten(), *_vlae_chain(make, [config.num_values, *config.hidden_units, units])]


def _vlae_decoder(config: NetworkConfig, make: Maker) -> list[keras.Layer]:
    num_outputs = config.num_values * make.channels_factor
    return [
        *_vlae_chain(make, [config.latent_dim, *reversed(config.hidden_units), num_outputs]),
        *make.unflatten(),
    ]


FAMILIES = (
    Family(
        "mlp",
        "dense layers of --hidden_units, mirrored in the decoder; data of any shape",
        lambda config, make, units: _encoder(make, config.hidden_units, units),
        lambda config, make: _decoder(make, config.hidden_units[::-1]),
        options=DenseOptions,
    ),
    Family(
        "vlae",
        "mlp with the initial weights of the variational Laplace autoencoder; data of any shape",
        _vlae_encoder,
        _vlae_decoder,
        options=VLAEDenseOptions,
    ),
    Family(
        "vae10",
        "dense, encoder 256-64, decoder 64-256-256-1024; data of any shape",
        lambda config, make, units: _encoder(make, (256, 64), units),
        lambda config, make: _decoder(make, (64, 256, 256, 1024)),
        output="sigmoid",
    ),
    Family(
        "fully_connected",
        "dense 512-256-128, mirrored in the decoder; data of any shape",
        lambda config, make, units: _encoder(make, (512, 256, 128), units),
        lambda config, make: _decoder(make, (128, 256, 512)),
    ),
)
