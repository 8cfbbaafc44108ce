"""The convolutional networks of the Laplacian autoencoder: pooled on the way in, upsampled on the way out."""

import dataclasses
from typing import Callable

import keras

from pae_zoo.networks.config import ActivatedOptions, BiasedOptions, NetworkConfig
from pae_zoo.networks.family import Family, Maker, check_image, crop, pad

# Upstream's CelebA network has as many latents as channels: its last feature map, of one pixel, is the code.
CELEB_A_WIDTH = 128


@dataclasses.dataclass(frozen=True)
class _Plan:
    """One pair of networks in words, a word a layer.

    conv:C, dense:N, pool (2x2 maxima), up (2x2 nearest), act, drop and flatten are what they say; map:C is a dense
    layer with a value for each pixel and each of C channels of the coarsest feature map, and fold:C shapes them so.
    The dense layer that makes the code and the convolution that makes the image are not among the words.

    Args:
      encoder: words from the image to what the code is made of.
      decoder: words from the code to what the image is made of.
      size: side of the kernels.
      bias: whether convolutions have biases; False: only with `conv_bias`.
      square: whether images are padded to squares.
      code_size: values of the flattened encoder, where they are the code themselves; 0: a dense layer makes the code.
    """

    encoder: str
    decoder: str
    size: int = 3
    bias: bool = True
    square: bool = False
    code_size: int = 0

    @property
    def factor(self) -> int:
        """How often smaller the coarsest feature map is than the image, along each side."""
        return 2 ** self.encoder.split().count("pool")

    def sides(self, config: NetworkConfig) -> list[int]:
        """Height and width of an image that every pooling divides evenly: the data's, rounded up."""
        height, width = (-(-side // self.factor) * self.factor for side in config.event_shape[:2])
        return [max(height, width)] * 2 if self.square else [height, width]

    def conv(self, make: Maker, filters: int, last: bool = False) -> keras.Layer:
        """A convolution of the pair."""
        return make.conv(filters, self.size, use_bias=self.bias or make.config.conv_bias, last=last)

    def layers(self, words: str, make: Maker) -> list[keras.Layer]:
        """Returns the layers that the words stand for."""
        height, width = (side // self.factor for side in self.sides(make.config))
        plain = {
            "act": lambda: [make.activation()],
            "drop": make.dropout,
            "flatten": lambda: make.flatten(last=self.code_size > 0),
            "pool": lambda: [make.pool()],
            "up": lambda: [make.upsample()],
        }
        sized = {
            "conv": lambda number: self.conv(make, number),
            "dense": make.dense,
            "fold": lambda number: keras.layers.Reshape((height, width, number), name=make.name("reshape")),
            "map": lambda number: make.dense(height * width * number),
        }
        chain: list[keras.Layer] = []
        for word in words.split():
            stem, _, number = word.partition(":")
            chain += [sized[stem](int(number))] if number else plain[stem]()
        return chain


def _encoder(plan: _Plan, config: NetworkConfig, make: Maker, units: int) -> list[keras.Layer]:
    chain = [*pad(make, plan.sides(config)), *plan.layers(plan.encoder, make)]
    return chain if units == plan.code_size else [*chain, make.dense(units, last=True)]


def _decoder(plan: _Plan, config: NetworkConfig, make: Maker) -> list[keras.Layer]:
    chain = [*plan.layers(plan.decoder, make), plan.conv(make, make.output_shape[-1], last=True)]
    return chain + crop(make, plan.sides(config))


def _celeb_a(config: NetworkConfig) -> _Plan:
    """Halvings down to one pixel: it is the code itself if there are as many latents as channels."""
    direct = config.latent_dim == CELEB_A_WIDTH
    num_halvings = (max(config.event_shape[:2]) - 1).bit_length()
    # Dropout is for hidden values, not for the code.
    encoder = f"conv:{CELEB_A_WIDTH} " + num_halvings * f"act drop conv:{CELEB_A_WIDTH} pool "
    decoder = ("" if direct else f"map:{CELEB_A_WIDTH} ") + f"fold:{CELEB_A_WIDTH} "
    return _Plan(
        encoder + ("act flatten" if direct else "act drop flatten"),
        decoder + num_halvings * f"up conv:{CELEB_A_WIDTH} act drop ",
        size=5,
        square=True,
        code_size=CELEB_A_WIDTH if direct else 0,
    )


# Kinds whose convolutions have biases on demand.
BIASED = ("lae_mnist", "lae_svhn", "lae_svhn_baseline")


def _family(kind: str, summary: str, plan: Callable[[NetworkConfig], _Plan]) -> Family:
    return Family(
        kind,
        f"{summary}; images from 4 pixels a side",
        lambda config, make, units: _encoder(plan(config), config, make, units),
        lambda config, make: _decoder(plan(config), config, make),
        lambda config: check_image(config, 4),
        options=BiasedOptions if kind in BIASED else ActivatedOptions,
    )


# Activations stand where upstream has them, before or after a pooling; so does dropout, where upstream has it.
_PLANS = {
    "lae_mnist": (
        "3x3 convolutions 8-12-12, pooled twice",
        _Plan(
            "conv:8 pool act drop conv:12 pool act drop conv:12 act drop flatten",
            "map:12 fold:12 act drop conv:12 up act drop conv:8 up act drop",
            bias=False,
        ),
    ),
    "lae_fashion_mnist": (
        "3x3 convolutions 64-64, pooled twice, dense 2048-1024",
        _Plan(
            "conv:64 act drop pool conv:64 act drop pool flatten dense:2048 act dense:1024 act",
            "dense:1024 act drop dense:2048 act drop map:64 act drop fold:64 conv:64 up drop act conv:64 up drop act",
        ),
    ),
    "lae_cifar10": (
        "3x3 convolutions 64-64, pooled twice, dense 2048-1024-1024",
        _Plan(
            "conv:64 act drop pool conv:64 act drop pool flatten "
            "dense:2048 act drop dense:1024 act drop dense:1024 act drop",
            "dense:1024 act drop dense:1024 act drop dense:2048 act drop map:64 act drop fold:64 "
            "conv:64 up act drop conv:64 up act drop",
        ),
    ),
    "lae_cifar10_baseline": (
        "3x3 convolutions 16-32-64-64, pooled twice",
        _Plan(
            "conv:16 act drop conv:32 pool act drop conv:64 act drop conv:64 pool act drop flatten",
            "map:64 fold:64 act drop conv:64 up act drop conv:32 up act drop conv:16 drop act",
        ),
    ),
    "lae_svhn": (
        "3x3 convolutions 8-12-12-12, pooled three times",
        _Plan(
            "conv:8 pool act drop conv:12 pool act drop conv:12 pool act drop conv:12 act drop flatten",
            "act map:12 fold:12 act drop conv:12 up act drop conv:12 up act drop conv:8 up act drop",
            bias=False,
        ),
    ),
    "lae_svhn_baseline": (
        "3x3 convolutions 12-16-24-32, pooled three times",
        _Plan(
            "conv:12 pool act drop conv:16 pool act drop conv:24 pool act drop conv:32 act drop flatten",
            "act map:32 fold:32 act drop conv:24 up act drop conv:16 up act drop conv:12 up act drop",
            bias=False,
        ),
    ),
}

FAMILIES = (
    *(_family(kind, summary, lambda config, plan=plan: plan) for kind, (summary, plan) in _PLANS.items()),
    _family("lae_celeb_a", "5x5 convolutions of 128 channels, pooled to one pixel", _celeb_a),
)
