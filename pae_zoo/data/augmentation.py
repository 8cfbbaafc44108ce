"""Random changes of training images, as Keras layers that are functions of (x, seed) alone.

Keras' own RandomRotation fails under XLA and hides its random state; these layers warp with a gather of
their own and draw from `pae_zoo.core.seeds`. All take float images (batch, H, W, C) in [0, 1] and return the same
shape; with `seed=None` the images come back unchanged.
"""

import math
from typing import Any, Optional, Sequence

import keras
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError, unknown
from pae_zoo.data.preprocessing import MOST_STEPS


def warp(x: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Reads images (batch, H, W, C) bilinearly at the points (rows, columns), each (batch, H', W').

    What lies outside an image counts as zero. Returns (batch, H', W', C).
    """
    shape = tf.shape(x)
    height, width = shape[1], shape[2]
    flat = tf.reshape(x, [shape[0], height * width, shape[3]])
    top, left = tf.floor(rows), tf.floor(columns)
    result = 0.0
    for down in (0, 1):
        for right in (0, 1):
            row, column = top + down, left + right
            weight = (1 - tf.abs(rows - row)) * (1 - tf.abs(columns - column))
            r, c = tf.cast(row, tf.int32), tf.cast(column, tf.int32)
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            index = tf.clip_by_value(r, 0, height - 1) * width + tf.clip_by_value(c, 0, width - 1)
            pixels = tf.gather(flat, tf.reshape(index, [shape[0], -1]), axis=1, batch_dims=1)
            weight = tf.reshape(tf.where(inside, weight, 0.0), [shape[0], -1, 1])
            result += weight * pixels
    return tf.reshape(result, [shape[0], tf.shape(rows)[1], tf.shape(rows)[2], shape[3]])


class Augmentation(keras.layers.Layer):
    """A random map of images; subclasses implement `apply(x, seed)`."""

    def __init__(self, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.built = True  # there are no weights to build

    def call(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns the changed images, or x itself without a seed.

        As Keras has it, a seed given by position must be a tensor; `layer(x, seed=(0, 1))` takes a pair too.
        """
        if seed is None:
            return x
        y = self.apply(x, seed)
        y.set_shape(x.shape)
        return y

    def apply(self, x: tf.Tensor, seed: seeds.Seed) -> tf.Tensor:
        """Returns the images (batch, H, W, C) changed at random."""
        raise NotImplementedError(f"{type(self).__name__} does not implement apply.")

    def compute_output_shape(self, input_shape: Sequence[Optional[int]]) -> tuple:
        return tuple(input_shape)


@keras.saving.register_keras_serializable("pae_zoo")
class Rotate(Augmentation):
    """Turns each image about its centre by an angle from U(-degrees, degrees), bilinear, with zero fill.

    `per_batch` draws one angle for the whole batch, as the original PAE did.
    """

    def __init__(self, degrees: float = 5.0, per_batch: bool = False, **kwargs):
        super().__init__(**kwargs)
        if degrees < 0:
            raise ValueError(f"degrees of Rotate must not be negative; received {degrees}.")
        self.degrees, self.per_batch = float(degrees), bool(per_batch)

    def apply(self, x: tf.Tensor, seed: seeds.Seed) -> tf.Tensor:
        count = 1 if self.per_batch else tf.shape(x)[0]
        angle = (2 * seeds.uniform([count], seed, x.dtype) - 1) * (self.degrees * math.pi / 180)
        return rotate(x, tf.broadcast_to(angle, [tf.shape(x)[0]]))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "degrees": self.degrees, "per_batch": self.per_batch}


def rotate(x: tf.Tensor, angle: tf.Tensor) -> tf.Tensor:
    """Turns images (batch, H, W, C) about their centres by `angle` (batch,), radians, counter-clockwise."""
    height, width = tf.shape(x)[1], tf.shape(x)[2]
    middle_row = tf.cast(height - 1, x.dtype) / 2
    middle_column = tf.cast(width - 1, x.dtype) / 2
    row = (tf.range(tf.cast(height, x.dtype), dtype=x.dtype) - middle_row)[None, :, None]
    column = (tf.range(tf.cast(width, x.dtype), dtype=x.dtype) - middle_column)[None, None, :]
    cosine, sine = tf.cos(angle)[:, None, None], tf.sin(angle)[:, None, None]
    rows = cosine * row + sine * column + middle_row
    columns = cosine * column - sine * row + middle_column
    return warp(x, rows, columns)


@keras.saving.register_keras_serializable("pae_zoo")
class Flip(Augmentation):
    """Mirrors each image left to right with probability 1/2."""

    def apply(self, x: tf.Tensor, seed: seeds.Seed) -> tf.Tensor:
        mirrored = seeds.uniform([tf.shape(x)[0], 1, 1, 1], seed, x.dtype) < 0.5
        return tf.where(mirrored, tf.reverse(x, axis=[2]), x)


@keras.saving.register_keras_serializable("pae_zoo")
class Crop(Augmentation):
    """Cuts a random (H - m) x (W - m) window out of each image and stretches it bilinearly to H x W.

    m = min(margin, H // 4, W // 4), so that the 8x8 digits lose 2 pixels where larger images lose 6.
    """

    def __init__(self, margin: int = 6, **kwargs):
        super().__init__(**kwargs)
        if margin < 0:
            raise ValueError(f"margin of Crop must not be negative; received {margin}.")
        self.margin = int(margin)

    def apply(self, x: tf.Tensor, seed: seeds.Seed) -> tf.Tensor:
        batch, height, width = tf.unstack(tf.shape(x)[:3])
        margin = tf.minimum(self.margin, tf.minimum(height, width) // 4)
        rows, columns = [], []
        for axis, (size, points) in enumerate(((height, rows), (width, columns))):
            size, free = tf.cast(size, x.dtype), tf.cast(margin, x.dtype)
            offset = tf.floor(seeds.uniform([batch, 1], seeds.fold_in(seed, axis), x.dtype) * (free + 1))
            point = (tf.range(size, dtype=x.dtype)[None] + 0.5) * ((size - free) / size) - 0.5
            points.append(tf.clip_by_value(point, 0.0, size - free - 1) + offset)
        grid = [batch, height, width]
        return warp(
            x, tf.broadcast_to(rows[0][:, :, None], grid), tf.broadcast_to(columns[0][:, None, :], grid)
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin}


@keras.saving.register_keras_serializable("pae_zoo")
class PadCrop(Augmentation):
    """Pads each image with p zeros on all sides and cuts a random window of its size out: a shift by up to p pixels.

    p = min(pad, H // 4, W // 4).
    """

    def __init__(self, pad: int = 4, **kwargs):
        super().__init__(**kwargs)
        if pad < 0:
            raise ValueError(f"pad of PadCrop must not be negative; received {pad}.")
        self.pad = int(pad)

    def apply(self, x: tf.Tensor, seed: seeds.Seed) -> tf.Tensor:
        batch, height, width = tf.unstack(tf.shape(x)[:3])
        free = tf.cast(tf.minimum(self.pad, tf.minimum(height, width) // 4), x.dtype)
        places = []
        for axis, size in enumerate((height, width)):
            draw = seeds.uniform([batch, 1], seeds.fold_in(seed, axis), x.dtype)
            shift = tf.floor(draw * (2 * free + 1)) - free
            places.append(tf.range(tf.cast(size, x.dtype), dtype=x.dtype)[None] + shift)
        grid = [batch, height, width]
        return warp(
            x, tf.broadcast_to(places[0][:, :, None], grid), tf.broadcast_to(places[1][:, None, :], grid)
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pad": self.pad}


@keras.saving.register_keras_serializable("pae_zoo")
class Brightness(Augmentation):
    """Adds one number from U(-delta, delta) to each image and clips to [0, 1]."""

    def __init__(self, delta: float = 0.2, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= delta <= 1:
            raise ValueError(f"delta of Brightness must lie in [0, 1]; received {delta}.")
        self.delta = float(delta)

    def apply(self, x: tf.Tensor, seed: seeds.Seed) -> tf.Tensor:
        shift = (2 * seeds.uniform([tf.shape(x)[0], 1, 1, 1], seed, x.dtype) - 1) * self.delta
        return tf.clip_by_value(x + shift, 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "delta": self.delta}


@keras.saving.register_keras_serializable("pae_zoo")
class AugmentationChain(Augmentation):
    """Augmentations applied in order, each with its own seed derived from the one given."""

    def __init__(self, steps: Sequence[Augmentation], **kwargs):
        super().__init__(**kwargs)
        self.steps = list(steps)

    def apply(self, x: tf.Tensor, seed: seeds.Seed) -> tf.Tensor:
        for index, step in enumerate(self.steps):
            x = step.call(x, seeds.fold_in(seed, index))
        return x

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "steps": [keras.saving.serialize_keras_object(step) for step in self.steps],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AugmentationChain":
        return cls([keras.saving.deserialize_keras_object(step) for step in config.pop("steps")], **config)


# name of the flag -> (class, {option: argument})
_STEPS = {
    "rotate": (Rotate, {"rotate_degrees": "degrees", "rotate_per_batch": "per_batch"}),
    "flip": (Flip, {}),
    "crop": (Crop, {"crop_margin": "margin"}),
    "pad_crop": (PadCrop, {"crop_pad": "pad"}),
    "brightness": (Brightness, {"brightness_delta": "delta"}),
}
NAMES = tuple(_STEPS)
#: {what the code of PAE calls one: its name here}
ALIASES = {"rot": "rotate", "bright": "brightness"}


def build_augmentation(names: Sequence[str], **options: Any) -> Optional[Augmentation]:
    """Returns a layer that applies the named augmentations (`NAMES`) in order, or None for no names.

    Options: `rotate_degrees` (default 5), `rotate_per_batch` (False), `crop_margin` (6 pixels),
    `crop_pad` (4 pixels), `brightness_delta` (0.2). Raises UserError for an unknown name or option, or a
    value out of range.
    """
    known = [option for _, arguments in _STEPS.values() for option in arguments]
    for option in options:
        if option not in known:
            raise unknown("augmentation option", option, known)
    if len(names) > MOST_STEPS:
        raise UserError(f"augmentation of {len(names)} steps; at most {MOST_STEPS} are taken: leave some out.")
    steps = []
    for name in (ALIASES.get(name, name) for name in names):
        if name not in _STEPS:
            raise unknown("augmentation", name, NAMES)
        kind, arguments = _STEPS[name]
        try:
            steps.append(
                kind(**{arguments[key]: value for key, value in options.items() if key in arguments})
            )
        except ValueError as error:
            raise UserError(f"augmentation {name}: {error}") from error
    return AugmentationChain(steps) if steps else None
