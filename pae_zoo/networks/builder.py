"""Builds an encoder and a decoder from a kind, the shape of a datum and typed options."""

import dataclasses
import math
from typing import Any, Sequence

import keras
import numpy as np

from pae_zoo.core import columns
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError, unknown
from pae_zoo.networks import conv, dense, infogan, lae, resnet, series, tabular
from pae_zoo.networks.config import NetworkConfig, Options, option_names
from pae_zoo.networks.family import DECODER, ENCODER, OUTPUTS, Family, Maker
from pae_zoo.networks.layers import WithMask

_FAMILIES: dict[str, Family] = {
    family.kind: family for module in (dense, conv, infogan, resnet, lae, series, tabular) for family in module.FAMILIES
}
#: the names of all kinds, those that are registered later too
KINDS = _FAMILIES.keys()
DEFAULT_OUTPUT: dict[str, str] = {kind: family.output for kind, family in _FAMILIES.items()}


_OWN = frozenset(_FAMILIES)


def check(family: Family) -> None:
    """Raises UserError for a kind of network under a name of the package's."""
    if family.kind in _OWN and _FAMILIES[family.kind] != family:
        raise UserError(f"There is a network kind {family.kind!r} already; take another name.")


def register(family: Family) -> None:
    """Makes a kind of network known, with the options that it reads; see `check`."""
    check(family)
    _FAMILIES[family.kind] = family
    DEFAULT_OUTPUT[family.kind] = family.output


def options_of(kind: str) -> type[Options]:
    """Returns the record of the options that a kind reads; raises UserError for an unknown kind."""
    if kind not in _FAMILIES:
        raise unknown("network", kind, KINDS)
    return _FAMILIES[kind].options


def describe() -> dict[str, str]:
    """Returns {kind: one line} for help texts."""
    return {kind: family.summary for kind, family in _FAMILIES.items()}


def build_encoder(
    kind: str,
    event_shape: Sequence[int],
    latent_dim: int,
    *,
    hidden_units: Sequence[int] = (512, 256),
    activation: str = "relu",
    seed: int = 0,
    deterministic: bool = False,
    missing: bool = False,
    name: str = "encoder",
    **options: Any,
) -> keras.Model:
    """Returns a model (batch, *event_shape) -> (batch, 2 * latent_dim): mean, then raw scale.

    `deterministic=True` leaves the raw scale out: (batch, latent_dim). With `missing` the network takes NaN for a value
    that is missing, and sees values and mask. `options` are fields of NetworkConfig. Raises UserError (a ValueError)
    for an unknown kind or option, a value out of range, or a shape that the kind cannot take.
    """
    config = _config(kind, event_shape, latent_dim, hidden_units, activation, seed, options)
    return encoder_from_config(config, deterministic=deterministic, missing=missing, name=name)


def build_decoder(
    kind: str,
    event_shape: Sequence[int],
    latent_dim: int,
    *,
    channels_factor: int = 1,
    output: str = "linear",
    hidden_units: Sequence[int] = (512, 256),
    activation: str = "relu",
    seed: int = 0,
    name: str = "decoder",
    **options: Any,
) -> keras.Model:
    """Returns a model (batch, latent_dim) -> (batch, *event_shape).

    `hidden_units` are the encoder's; the decoder of mlp and vlae goes through them backwards. `output` is
    linear, sigmoid, or sigmoid_centred (sigmoid - 0.5); `DEFAULT_OUTPUT` tells what each kind has upstream.
    With channels_factor=2 the last axis doubles: mean, then raw log-variance; the nonlinearity acts on the
    mean. Raises UserError as `build_encoder` does.
    """
    config = _config(kind, event_shape, latent_dim, hidden_units, activation, seed, options)
    return decoder_from_config(config, channels_factor=channels_factor, output=output, name=name)


def encoder_from_config(
    config: NetworkConfig, *, deterministic: bool = False, missing: bool = False, name: str = "encoder"
) -> keras.Model:
    """Returns the encoder that a config describes; see `build_encoder`."""
    units = config.latent_dim * (1 if deterministic else 2)
    inputs, first = keras.Input(config.event_shape, name="x"), []
    if missing:
        *event, channels = config.event_shape
        mask = (columns.BINARY,) * channels if config.column_kinds else ()
        config = dataclasses.replace(config, event_shape=(*event, 2 * channels),
                                     column_kinds=(*config.column_kinds, *mask))
        first = [WithMask(name=f"{name}_with_mask")]
    family = _family(config)
    chain = family.encoder(config, Maker(config, ENCODER, name), units)
    return _started(_model(inputs, [*first, *chain], name), config, ENCODER)


def decoder_from_config(
    config: NetworkConfig, *, channels_factor: int = 1, output: str = "linear", name: str = "decoder"
) -> keras.Model:
    """Returns the decoder that a config describes; see `build_decoder`."""
    family = _family(config)
    if channels_factor not in (1, 2):
        raise UserError(f"channels_factor={channels_factor!r}: must be 1 (mean) or 2 (mean, log-variance).")
    if output not in OUTPUTS:
        raise UserError(f"output={output!r}: must be one of {', '.join(OUTPUTS)}.")
    make = Maker(config, DECODER, name, output, channels_factor)
    chain = [*family.decoder(config, make), *make.nonlinearity()]
    return _started(_model(keras.Input((config.latent_dim,), name="z"), chain, name), config, DECODER)


def _model(inputs: Any, chain: list[keras.Layer], name: str) -> keras.Sequential:
    # Built here, layers have the paths that they will have after loading; Sequential would prepend its name.
    value = inputs
    for layer in chain:
        value = layer(value)
    return keras.Sequential([inputs, *chain], name=name)


def _started(network: keras.Sequential, config: NetworkConfig, role: int) -> keras.Sequential:
    """Returns the network, with the initial weights of PyTorch's layers where the config asks for them.

    Kernels and biases are uniform within 1/sqrt(n), n the inputs of a value of a dense layer or a convolution; of a
    transposed one PyTorch takes the outputs times the values of a kernel for n, and so is it here.
    """
    if not config.torch_init:
        return network
    generator = np.random.default_rng([config.seed, role, 0x746F7263])
    for layer in (part for one in network.layers for part in one._flatten_layers()):
        kernel = getattr(layer, "kernel", None)
        if kernel is None or getattr(layer, "bias", kernel) is kernel:
            continue
        # The last axis of a kernel has the outputs, of a transposed one the inputs.
        count = math.prod(kernel.shape) // kernel.shape[-1]
        for weight in (kernel, layer.bias):
            if weight is not None:
                weight.assign(generator.uniform(-(count**-0.5), count**-0.5, weight.shape))
    return network


def _config(
    kind: str, event_shape: Any, latent_dim: int, hidden_units: Any, activation: str, seed: int, options: dict
) -> NetworkConfig:
    record = _record()
    strange = sorted(set(options) - set(option_names(record)))
    if strange:
        raise unknown("network option", strange[0], option_names(record))
    return record(
        kind=kind, event_shape=event_shape, latent_dim=latent_dim, hidden_units=hidden_units, activation=activation,
        seed=seed, **options)


def _record() -> type[NetworkConfig]:
    """Returns the config with the options of all kinds."""
    more = {family.options: None for family in _FAMILIES.values() if not issubclass(NetworkConfig, family.options)}
    return hp.compose(NetworkConfig.__name__, *more, NetworkConfig) if more else NetworkConfig


def _family(config: NetworkConfig) -> Family:
    options_of(config.kind)
    family = _FAMILIES[config.kind]
    family.check(config)
    return family
