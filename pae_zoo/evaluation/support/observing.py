"""What a model takes incomplete data for: its likelihood, with noise in the pixels or means of blocks for them."""

from collections.abc import Callable
from typing import Any, NamedTuple, Union

import numpy as np
import tensorflow as tf

from pae_zoo import inference
from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.inference.observation import block_means


class Noise(NamedTuple):
    """Gaussian noise in x, of variance std^2 + gain max(x, 0).

    std: a number, or one for each value (*event). gain: what a value of 1 adds to the variance, as photons do.
    """

    std: Any = 0.0
    gain: float = 0.0

    @property
    def is_there(self) -> bool:
        """Whether there is any."""
        return bool(np.any(self.std)) or self.gain > 0

    def std_at(self, x: np.ndarray) -> np.ndarray:
        """Returns the std of the noise in each value of clean data x (n, *event)."""
        return np.sqrt(np.square(self.std) + self.gain * np.maximum(x, 0.0)).astype(np.float32)

    def typical(self, x: np.ndarray) -> float:
        """Returns the root mean square of the std in clean data x."""
        return float(np.sqrt(np.mean(np.square(self.std_at(x), dtype=np.float64))))

    @property
    def text(self) -> str:
        """The noise in words, for titles."""
        std = f"{self.std:g}" if np.ndim(self.std) == 0 else f"by a map, mean {np.mean(self.std):.3g}"
        return std + (f", gain {self.gain:g}" if self.gain else "")


def noise_of(options: Any, event_shape: tuple[int, ...]) -> Noise:
    """Returns the noise of --noise or --noise_map and of --noise_gain; raises UserError where they do not fit."""
    gain, text = options.noise_gain, options.noise_map
    if options.downsample and (gain or text):
        raise UserError("--downsample takes noise of one std, --noise; leave --noise_map and --noise_gain out.")
    if not text:
        return Noise(options.noise, gain)
    if options.noise:
        raise UserError(f"--noise={options.noise} and --noise_map={text} both say what the noise is; leave one out.")
    values = reading.npy(reading.locate(text), remedy="--noise_map takes a file .npy of stds, one for each value")
    shape = tuple(event_shape)
    if len(shape) == 3 and values.shape == shape[:2]:
        values = values[..., None]
    if values.ndim != len(shape) or not np.can_cast(values.dtype, np.float64) or any(
            one not in (1, whole) for one, whole in zip(values.shape, shape)):
        raise UserError(f"--noise_map={text} has the shape {values.shape}; needed: {shape}.")
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise UserError(f"--noise_map={text} holds stds that are negative or not finite.")
    return Noise(np.broadcast_to(values, shape).astype(np.float32), gain)


Observation = Union[inference.Gaussian, inference.Bernoulli, inference.Averaged]


def observation_of(model: Any, noise: Noise, side: int = 0) -> Observation:
    """Returns what a model takes data with noise for; with `side` they are means of blocks of pixels.

    Raises NotImplementedError for a mixture for a likelihood and for values that are neither Gaussian nor Bernoulli,
    UserError for noise or blocks that have no Gaussian form in y.
    """
    likelihood = model.likelihood
    alone = inference.observed(likelihood)
    if side:
        check_blocks(model.event_shape, side)
    if not (noise.is_there or side):
        return alone
    if isinstance(alone, inference.Gaussian):
        slope = _slope(model, f"--noise={noise.text}" if noise.is_there else f"--downsample={side}")
        if side:
            return inference.Averaged(alone, side, noise.std * block_means(slope, side))
        return inference.Gaussian(likelihood.mean, likelihood.variance, noise.std * slope, alone.constant_variance,
                                  _by_signal(model, noise.gain, slope) if noise.gain else None)
    flag, what = ("noise", "noise") if noise.is_there else ("downsample", "means")
    given = noise.text if noise.is_there else side
    raise UserError(f"--{flag}={given}: {type(likelihood).__name__} has no Gaussian {what} to add to; leave --{flag} "
                    "out, or train with a Gaussian likelihood.")


def _by_signal(model: Any, gain: float, slope: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the variance, in y, of noise in x of variance gain max(x, 0), as a function of the decoder's outputs."""
    # The preprocessing is affine: x = (y - y(0)) / slope, with the sign that y has.
    shape = (1, *model.event_shape)
    low, high = (tf.constant(model.preprocess(tf.fill(shape, value))[0].numpy()[0]) for value in (0.0, 1.0))

    def variance(outputs):
        mean = model.likelihood.mean(outputs)
        steep = tf.cast(high - low, mean.dtype)
        x = tf.math.divide_no_nan(mean - tf.cast(low, mean.dtype), steep)
        return gain * tf.cast(slope, mean.dtype) ** 2 * tf.nn.relu(x)

    return variance


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
