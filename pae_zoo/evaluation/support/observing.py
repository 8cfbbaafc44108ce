"""What a model takes incomplete data for: its likelihood, with noise in the pixels or means of blocks for them."""

from typing import Any, Union

import numpy as np
import tensorflow as tf

from pae_zoo import inference
from pae_zoo.core.errors import UserError
from pae_zoo.inference.observation import block_means

Observation = Union[inference.Gaussian, inference.Bernoulli, inference.Averaged]


def observation_of(model: Any, noise: float, side: int = 0) -> Observation:
    """Returns what a model takes data with noise of std `noise` for; with `side` they are means of blocks of pixels.

    Raises NotImplementedError for a mixture for a likelihood and for values that are neither Gaussian nor Bernoulli,
    UserError for noise or blocks that have no Gaussian form
    in y.
    """
    likelihood = model.likelihood
    if not likelihood.has_independent_values:
        raise NotImplementedError("Restoration sums over the values that are seen, and "
                                  f"{type(likelihood).__name__} is a mixture, not a product over values.")
    if not (likelihood.is_discrete or likelihood.has_gaussian_values):
        raise NotImplementedError("Restoration knows Gaussian and Bernoulli values, and "
                                  f"{type(likelihood).__name__} is neither.")
    if side:
        check_blocks(model.event_shape, side)
    if not likelihood.is_discrete:
        shared = likelihood.has_shared_precision
        flag = f"--noise={noise}" if noise else f"--downsample={side}"
        slope = _slope(model, flag) if noise or side else tf.zeros(())
        if not side:
            return inference.Gaussian(likelihood.mean, likelihood.variance, noise * slope, shared)
        pixels = inference.Gaussian(likelihood.mean, likelihood.variance, 0.0, shared)
        return inference.Averaged(pixels, side, noise * block_means(slope, side))
    if noise or side:
        flag, what = ("noise", "noise") if noise else ("downsample", "means")
        name = type(likelihood).__name__
        raise UserError(f"--{flag}={noise or side}: {name} has no Gaussian {what} to add to; leave --{flag} out, or "
                        "train with a Gaussian likelihood.")
    return inference.Bernoulli()


def check_blocks(event_shape: tuple[int, ...], side: int) -> None:
    """Raises UserError unless data of a shape are images of whole blocks of side x side pixels."""
    if len(event_shape) != 3 or event_shape[0] % side or event_shape[1] % side or side < 2:
        shape = "x".join(map(str, event_shape))
        raise UserError(f"--downsample={side}: data of shape {shape} are not images of whole blocks of {side}x{side} "
                        "pixels; give a divisor of height and width, at least 2.")


def averaged(images: np.ndarray, side: int) -> np.ndarray:
    """Returns images (n, H, W, C) of which every pixel is the mean of its block of side x side."""
    means = block_means(tf.constant(images), side).numpy()
    return means.repeat(side, axis=1).repeat(side, axis=2)


def _slope(model: Any, flag: str) -> tf.Tensor:
    """Returns abs(dy/dx), one per value: the preprocessing must be affine."""
    shape = (1, *model.event_shape)
    low, between, high = (model.preprocess(tf.fill(shape, value))[0].numpy()[0] for value in (0.0, 0.3, 1.0))
    slope = high - low
    if np.abs(between - low - 0.3 * slope).max() > 1e-4 * np.abs(slope).max():
        raise UserError(f"{flag}: the model's --preprocess is not affine, so that Gaussian noise in the pixels is not "
                        f"Gaussian for it; leave {flag.partition('=')[0]} out.")
    return tf.constant(np.abs(slope), tf.float32)
