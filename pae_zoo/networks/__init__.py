"""Encoders and decoders as Keras models; they know nothing of losses."""

from pae_zoo.networks.builder import (
    DEFAULT_OUTPUT,
    KINDS,
    build_decoder,
    build_encoder,
    check,
    decoder_from_config,
    describe,
    encoder_from_config,
    options_of,
    register,
)
from pae_zoo.networks.config import NetworkConfig, Options, option_names
from pae_zoo.networks.dense import vlae_bias, vlae_kernel
from pae_zoo.networks.family import Family
from pae_zoo.networks.features import hidden_size, outputs_and_hidden
from pae_zoo.networks.layers import Affine, Dropout, SpectralNorm, WithMask, dropout_noise, sees_mask
from pae_zoo.networks.pair import check_pair, codes_alone
from pae_zoo.networks.recurrent import unrolled
from pae_zoo.networks.stacked import StackedDecoder, as_sequential

__all__ = [
    "DEFAULT_OUTPUT",
    "Family",
    "KINDS",
    "Affine",
    "Dropout",
    "NetworkConfig",
    "Options",
    "SpectralNorm",
    "StackedDecoder",
    "WithMask",
    "as_sequential",
    "build_decoder",
    "build_encoder",
    "check",
    "check_pair",
    "codes_alone",
    "decoder_from_config",
    "describe",
    "dropout_noise",
    "encoder_from_config",
    "hidden_size",
    "option_names",
    "options_of",
    "outputs_and_hidden",
    "register",
    "sees_mask",
    "unrolled",
    "vlae_bias",
    "vlae_kernel",
]
