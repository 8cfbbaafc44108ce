"""Encoders and decoders as Keras models; they know nothing of losses."""

from pae_zoo.networks.builder import (
    DEFAULT_OUTPUT,
    KINDS,
    build_decoder,
    build_encoder,
    decoder_from_config,
    describe,
    encoder_from_config,
)
from pae_zoo.networks.config import NetworkConfig
from pae_zoo.networks.dense import vlae_bias, vlae_kernel
from pae_zoo.networks.features import hidden_size, outputs_and_hidden
from pae_zoo.networks.layers import Affine, Dropout, SpectralNorm, dropout_noise
from pae_zoo.networks.pair import check_pair
from pae_zoo.networks.recurrent import unrolled
from pae_zoo.networks.stacked import StackedDecoder, as_sequential

__all__ = [
    "DEFAULT_OUTPUT",
    "KINDS",
    "Affine",
    "Dropout",
    "NetworkConfig",
    "SpectralNorm",
    "StackedDecoder",
    "as_sequential",
    "build_decoder",
    "build_encoder",
    "check_pair",
    "decoder_from_config",
    "describe",
    "dropout_noise",
    "encoder_from_config",
    "hidden_size",
    "outputs_and_hidden",
    "unrolled",
    "vlae_bias",
    "vlae_kernel",
]
