"""The options of every network, as one typed and checked record."""

import dataclasses
import math
from typing import Any

import keras

from pae_zoo.core.errors import UserError


def _option(default: Any, help: str, **limits: Any) -> Any:
    """A field whose metadata hold its help text and its limits: `min`, `max`, `choices`."""
    return dataclasses.field(default=default, metadata={"help": help, **limits})


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Everything that decides an encoder and a decoder; a kind ignores the options it has no use for.

    `event_shape` is the shape of one datum, (H, W, C) or (d,). Raises UserError (a ValueError) for a value
    of a wrong type or out of its range; whether a kind can take the shape is checked when it is built.
    """

    kind: str
    event_shape: tuple[int, ...]
    latent_dim: int
    hidden_units: tuple[int, ...] = _option(
        (512, 256), "mlp, vlae: widths of the encoder's hidden layers; the decoder mirrors them", min=1)
    activation: str = _option("relu", "hidden activation, any name Keras knows (infogan has its own)")
    dropout_rate: float = _option(0.0, "share of hidden units dropped while training", min=0.0, max=0.95)
    batch_norm: str = _option(
        "affine", "conv, infogan, resnet_conv: affine = scale and shift only, as upstream in effect; "
        "batch = true batch normalisation; none", choices=("affine", "batch", "none"))
    spectral_norm: bool = _option(True, "infogan: divide the encoder's kernels by their spectral norm")
    init: str = _option(
        "default", "vlae: default = gain 1.26 as meant; upstream = gain 0.879, what its code does",
        choices=("default", "upstream"))
    num_filters: int = _option(32, "conv: filters of the first layer", min=1)
    conv_bias: bool = _option(
        False, "conv: biases in the layers that a normalisation follows; lae_mnist, lae_svhn: in all convolutions")
    num_levels: int = _option(
        0, "conv: halvings of the image side; 0 = 3 from 64 pixels on, else 2", choices=(0, 2, 3))
    dense_size: int = _option(256, "resnet_fc: width", min=1)
    num_layers: int = _option(4, "resnet_fc: residual blocks", min=1)
    base_dim: int = _option(16, "resnet_conv: channels at full resolution", min=1)
    kernel_size: int = _option(3, "resnet_conv: side of the kernels", min=1)
    num_scale: int = _option(4, "resnet_conv: scales of the encoder", min=1)
    block_per_scale: int = _option(1, "resnet_conv: residual blocks at each scale", min=1)
    depth_per_block: int = _option(2, "resnet_conv: layers in a residual block", min=1)
    fc_dim: int = _option(512, "resnet_conv: width of the encoder's dense block", min=1)
    seed: int = _option(0, "fixes the initial weights and the dropout noise", min=0)

    def __post_init__(self) -> None:
        # Lists arrive from JSON and from flags.
        object.__setattr__(self, "event_shape", check_event_shape(self.event_shape))
        object.__setattr__(self, "hidden_units", tuple(self.hidden_units))
        if not _is_int(self.latent_dim) or self.latent_dim < 1:
            raise UserError(f"latent_dim={self.latent_dim!r}: must be an integer from 1 on.")
        for field in dataclasses.fields(self):
            if field.metadata:
                _check(field, getattr(self, field.name))
        try:
            keras.activations.get(self.activation)
        except ValueError as error:
            raise UserError(
                f"activation={self.activation!r} is not known to Keras; "
                "take one such as relu, leaky_relu, elu, gelu, silu, softplus, tanh."
            ) from error

    @property
    def is_image(self) -> bool:
        """Whether a datum is an image (H, W, C)."""
        return len(self.event_shape) == 3

    @property
    def num_values(self) -> int:
        """Numbers in one datum."""
        return math.prod(self.event_shape)


def option_names() -> tuple[str, ...]:
    """Returns the names of all options, that is, of all fields but kind, event_shape and latent_dim."""
    return tuple(field.name for field in dataclasses.fields(NetworkConfig) if field.metadata)


def check_event_shape(event_shape: Any) -> tuple[int, ...]:
    """Returns the shape of one datum as a tuple; raises UserError unless it is (H, W, C) or (d,)."""
    shape = tuple(event_shape) if hasattr(event_shape, "__iter__") else (event_shape,)
    if len(shape) not in (1, 3) or not all(_is_int(size) and size > 0 for size in shape):
        raise UserError(f"event_shape={event_shape!r}: one datum is an image (H, W, C) or a vector (d,).")
    return tuple(int(size) for size in shape)


def _is_int(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _check(field: dataclasses.Field, value: Any) -> None:
    """Raises UserError unless `value` has the type of the field's default and lies within its limits."""
    default, limits = field.default, field.metadata
    if isinstance(default, tuple):
        right = all(_is_int(item) for item in value)
    elif isinstance(default, float):
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
    elif isinstance(default, int) and not isinstance(default, bool):
        right = _is_int(value)
    else:
        right = isinstance(value, type(default))
    if not right:
        kind = type(default).__name__
        raise UserError(f"{field.name}={value!r}: must be of type {kind}, such as {default!r}.")
    items = value if isinstance(value, tuple) else (value,)
    low, high, choices = limits.get("min"), limits.get("max"), limits.get("choices")
    if choices and value not in choices:
        raise UserError(f"{field.name}={value!r}: must be one of {', '.join(map(str, choices))}.")
    if any((low is not None and item < low) or (high is not None and item > high) for item in items):
        bounds = f"from {low} on" if high is None else f"from {low} to {high}"
        raise UserError(f"{field.name}={value!r}: must be {bounds}.")
