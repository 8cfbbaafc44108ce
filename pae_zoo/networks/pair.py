"""Whether any two Keras models fit together as an encoder and a decoder."""

from typing import Optional, Sequence

import keras

from pae_zoo.core.errors import UserError
from pae_zoo.networks.config import check_event_shape

Shape = tuple[Optional[int], ...]


def check_pair(
    encoder: keras.Model,
    decoder: keras.Model,
    event_shape: Optional[Sequence[int]] = None,
    latent_dim: Optional[int] = None,
    channels_factor: int = 1,
    deterministic: bool = False,
) -> tuple[tuple[int, ...], int]:
    """Returns (event_shape, latent_dim) of an encoder and a decoder that fit together.

    The encoder maps (batch, *event) to (batch, 2 * latent_dim), mean then raw scale; with
    `deterministic=True` (batch, latent_dim) will do too. The decoder maps (batch, latent_dim) to (batch,
    *event) with the last axis times `channels_factor`. What is not given is read off the models; a model that
    was never built needs it given, and is built. Raises UserError (a ValueError) where something does not fit
    or cannot be known.
    """
    given = None if event_shape is None else check_event_shape(event_shape)
    event = _input_shape(encoder, "encoder", given, "event_shape")
    check_event_shape(event)
    latent_given = None if latent_dim is None else (int(latent_dim),)
    latent = _input_shape(decoder, "decoder", latent_given, "latent_dim")
    if len(latent) != 1:
        raise UserError(f"The decoder takes latents of shape {latent}; a latent is a vector (latent_dim,).")

    size = latent[0]
    allowed = {(2 * size,): f"(batch, {2 * size}): mean, then raw scale"}
    if deterministic:
        allowed[(size,)] = f"(batch, {size}): the code"
    codes = _output_shape(encoder, event, "encoder")
    if codes not in allowed:
        raise UserError(
            f"The encoder gives shape {_batched(codes)}, but for the decoder's {size} latents it must give "
            f"{' or '.join(allowed.values())}. Change the encoder's last layer or the decoder's input."
        )
    wanted = (*event[:-1], event[-1] * channels_factor)
    output = _output_shape(decoder, latent, "decoder")
    if output != wanted:
        why = " (mean and log-variance along the last axis)" if channels_factor == 2 else ""
        raise UserError(
            f"The decoder gives shape {_batched(output)}, but for data of shape {event} it must give "
            f"{_batched(wanted)}{why}. Change the decoder's last layer."
        )
    return event, size


def codes_alone(encoder: keras.Model, event_shape: Sequence[int], latent_dim: int) -> keras.Model:
    """Returns an encoder as it is, or its layers and weights without the raw scales that it gives behind the codes."""
    given = encoder(keras.KerasTensor((None, *event_shape))).shape[-1]
    if given == latent_dim:
        return encoder
    policy = encoder.dtype_policy
    return keras.Sequential([
        keras.Input(tuple(event_shape)), encoder, keras.layers.Reshape((given, 1), dtype=policy),
        keras.layers.Cropping1D((0, given - latent_dim), dtype=policy),
        keras.layers.Reshape((latent_dim,), dtype=policy)])


def _input_shape(model: keras.Model, role: str, given: Optional[tuple[int, ...]], argument: str) -> tuple[int, ...]:
    """Returns the shape that the model takes without the batch axis, checked against the one given."""
    if not isinstance(model, keras.Layer):
        raise UserError(f"The {role} must be a Keras 3 model; received {type(model).__name__}.")
    shape = getattr(model, "input_shape", None)
    if shape is None:
        # A subclassed model knows only the shape that it was built with.
        shape = (model.get_build_config() or {}).get("input_shape")
    if shape is None:
        if given is None:
            raise UserError(
                f"The {role} was never built, so its input shape is unknown: call it once on data, or give "
                f"{argument}."
            )
        return given
    if not isinstance(shape, (tuple, list)) or any(isinstance(size, (tuple, list, dict)) for size in shape):
        raise UserError(f"The {role} must take one input; it takes {shape}.")
    known = tuple(shape)[1:]
    if given is not None:
        fits = len(known) == len(given) and all(k in (None, g) for k, g in zip(known, given))
        if not fits:
            raise UserError(f"The {role} takes shape {_batched(known)}, but {argument}={given} was given.")
        return given
    if None in known:
        raise UserError(f"The {role} takes any shape like {_batched(known)}: give {argument}.")
    return known


def _output_shape(model: keras.Model, shape: tuple[int, ...], role: str) -> Shape:
    """Returns the shape that the model gives for one datum, by a symbolic call."""
    spec = model(keras.KerasTensor((None, *shape)))
    if not hasattr(spec, "shape"):
        raise UserError(f"The {role} must give one tensor; it gives {type(spec).__name__}.")
    return tuple(spec.shape)[1:]


def _batched(shape: Shape) -> str:
    return f"(batch{''.join(f', {size}' for size in shape)})"
