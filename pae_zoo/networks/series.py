"""Networks for windows (T, C) of a series: strided convolutions, and dilated ones in residual blocks."""

import keras

from pae_zoo.core.errors import UserError
from pae_zoo.networks.config import Conv1DOptions, NetworkConfig, TCNOptions
from pae_zoo.networks.family import Family, Maker, crop
from pae_zoo.networks.resnet import residual


def _check(config: NetworkConfig) -> None:
    if not config.is_series:
        raise UserError(f"{config.kind} takes windows (T, C) of a series; the data have shape {config.event_shape}. "
                        "For a table give --window, for arrays x of shape (n, T, C); for images take conv, for vectors "
                        "mlp.")


def _folded(make: Maker, length: int, filters: int) -> list[keras.Layer]:
    """From a code to a series of `length` steps."""
    return [make.dense(length * filters), *make.dropout(), make.activation(),
            keras.layers.Reshape((length, filters), name=make.name("reshape"))]  # fmt: skip


def _conv_encoder(config: NetworkConfig, make: Maker, units: int) -> list[keras.Layer]:
    chain: list[keras.Layer] = []
    for filters in config.filters:
        chain += [make.conv(filters, config.kernel_size, 2), *make.dropout(), make.activation()]
    return [*chain, *make.flatten(), make.dense(units, last=True)]


def _conv_decoder(config: NetworkConfig, make: Maker) -> list[keras.Layer]:
    factor = 2 ** len(config.filters)
    coarse = -(-config.event_shape[0] // factor)  # rounded up as SAME padding does
    inner = config.filters[-1] if config.filters else make.output_shape[-1]
    chain = _folded(make, coarse, inner)
    for filters in config.filters[::-1]:
        chain += [make.conv(filters, config.kernel_size, 2, transpose=True), *make.dropout(), make.activation()]
    chain.append(make.conv(make.output_shape[-1], config.kernel_size, last=True))
    return chain + crop(make, [coarse * factor])


def _block(config: NetworkConfig, make: Maker, length: int, dilation: int) -> keras.Layer:
    branch: list[keras.Layer] = []
    for _ in range(2):
        branch += [
            make.conv(config.num_filters, config.kernel_size, dilation_rate=dilation,
                      padding="causal" if config.causal else "same"),
            *make.dropout(),
            make.activation(),
        ]  # fmt: skip
    return residual(make, (length, config.num_filters), branch, [])


def _factor(config: NetworkConfig) -> int:
    return min(config.length_factor, config.event_shape[0])


def _tcn_encoder(config: NetworkConfig, make: Maker, units: int) -> list[keras.Layer]:
    length, factor = config.event_shape[0], _factor(config)
    chain = [make.conv(config.num_filters, 1), *(_block(config, make, length, d) for d in config.dilations)]
    if factor > 1:
        chain += [make.conv(config.num_filters, factor, factor), *make.dropout(), make.activation()]
    return [*chain, *make.flatten(), make.dense(units, last=True)]


def _tcn_decoder(config: NetworkConfig, make: Maker) -> list[keras.Layer]:
    length, factor = config.event_shape[0], _factor(config)
    coarse = -(-length // factor)
    chain = _folded(make, coarse, config.num_filters)
    if factor > 1:
        chain += [make.conv(config.num_filters, factor, factor, transpose=True), *make.dropout(), make.activation()]
    chain += [*crop(make, [coarse * factor]), *(_block(config, make, length, d) for d in config.dilations[::-1])]
    return [*chain, make.conv(make.output_shape[-1], 1, last=True)]


FAMILIES = (
    Family(
        "conv1d",
        "convolutions of stride 2 along time, one of each of --filters; windows (T, C) of a series",
        _conv_encoder,
        _conv_decoder,
        _check,
        options=Conv1DOptions,
    ),
    Family(
        "tcn",
        "residual blocks of dilated convolutions along time, one of each of --dilations; windows (T, C) of a series",
        _tcn_encoder,
        _tcn_decoder,
        _check,
        options=TCNOptions,
    ),
)
