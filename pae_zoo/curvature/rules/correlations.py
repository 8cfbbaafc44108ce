"""Gradients by the kernel of a convolution, for every datum and row: correlations of an image with values at positions.

Row w of a kernel meets the image at the positions moved by w, so that G[w] = sum_p image[p + w] out[p]. The image seen
through all windows at once takes as many times its memory as the kernel has rows; here it is moved rather than copied,
or unfolded along one side of the window, and the values at the positions along the other.
"""

import math
from typing import Any, NamedTuple, Sequence

import tensorflow as tf

from pae_zoo.curvature.network import pieces

# More places of a window than these are not taken one by one: each is an operation to be traced.
MANY = 32
# What is assumed of the number of rows where it is not known.
ROWS = 1
TAPS, TURNED, SIDES, WINDOWS = "taps", "turned", "sides", "windows"


class Geometry(NamedTuple):
    """How a window moves over an image of one or two sides: by side its size, stride, dilation, and zeros around."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    rates: tuple[int, ...]
    zeros: tuple[tuple[int, int], ...]

    @property
    def taps(self) -> int:
        """The number of places of the window."""
        return math.prod(self.sizes)

    def copies(self, image: int, out: int) -> dict[str, int]:
        """Returns how many numbers each way of `correlations` puts together at a position of a datum.

        Args:
          image: channels, times rows.
          out: the same of the values at the positions.
        """
        high, wide = ((1,) + self.sizes)[-2:]
        is_dense = set(self.strides) == {1}
        found = {TAPS if self.taps <= MANY else WINDOWS: self.taps * image}
        if self.taps <= MANY and is_dense:
            found[TURNED] = self.taps * out
        if high + wide <= MANY and is_dense:
            found[SIDES] = wide * image + high * out
        return found

    def values(self, positions: int, image: int, out: int) -> int:
        """Returns how many numbers are made for one datum of so many positions; arguments as those of `copies`."""
        return self.taps * image * out + positions * min(self.copies(image, out).values())


def geometry(layer: Any, shape: Sequence[int], padding: str) -> Geometry:
    """Returns the geometry of a layer's window on an image of `shape`, a number by side; padding "same" or "valid"."""
    zeros = []
    for size, kernel, stride, rate in zip(shape, layer.kernel_size, layer.strides, layer.dilation_rate):
        more = 0
        if padding == "same":
            more = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * rate + 1 - size)
        zeros.append((more // 2, more - more // 2))
    return Geometry(tuple(layer.kernel_size), tuple(layer.strides), tuple(layer.dilation_rate), tuple(zeros))


def correlations(image: tf.Tensor, out: tf.Tensor, window: Geometry) -> tf.Tensor:
    """Returns G[w, c, d] = sum_p image[p strides + w rates, c] out[p, d] for every row and datum: (R, B, *sizes, C, D).

    Args:
      image: (R or 1, B, *sides, C), one or two sides.
      out: (R or 1, B, *positions, D).
      window: how the one moves over the other.
    """
    sides = len(window.sizes)
    image = tf.pad(image, [[0, 0], [0, 0], *window.zeros, [0, 0]])
    if sides == 1:
        image, out = image[:, :, None], out[:, :, None]
        window = Geometry((1, *window.sizes), (1, *window.strides), (1, *window.rates), ((0, 0), *window.zeros))
    copies = window.copies(*(one.shape[-1] * (one.shape[0] or ROWS) for one in (image, out)))
    ways = {TAPS: _taps, TURNED: _turned, SIDES: _by_sides, WINDOWS: _windows}
    found = ways[min(copies, key=lambda way: copies[way])](image, out, window)
    return tf.squeeze(found, 2) if sides == 1 else found


def _taps(image: tf.Tensor, out: tf.Tensor, window: Geometry) -> tf.Tensor:
    """One product for each place of the window, with the image moved."""
    moved = [_moved(image, place, window, out.shape[2:4]) for place in _places(window)]
    out = _positions(out)
    return _by_place([tf.matmul(one, out, transpose_a=True) for one in moved], window)


def _turned(image: tf.Tensor, out: tf.Tensor, window: Geometry) -> tf.Tensor:
    """One product for each place of the window, with what is at the positions moved the other way; strides of 1."""
    shape, flat = image.shape[2:4], _positions(image)
    out = tf.pad(out, [[0, 0], [0, 0], *([(n - 1) * r] * 2 for n, r in zip(window.sizes, window.rates)), [0, 0]])
    moved = []
    for place in _places(window):
        (top, left) = ((n - 1 - i) * r for n, i, r in zip(window.sizes, place, window.rates))
        moved.append(_positions(out[:, :, top : top + shape[0], left : left + shape[1]]))
    return _by_place([tf.matmul(flat, one, transpose_a=True) for one in moved], window)


def _by_sides(image: tf.Tensor, out: tf.Tensor, window: Geometry) -> tf.Tensor:
    """One product of the image unfolded along the second side and the values along the first; strides of 1."""
    (high, wide), (down, right) = window.sizes, window.rates
    rows, columns, channels = image.shape[2], out.shape[3], (image.shape[-1], out.shape[-1])
    image = tf.concat([image[:, :, :, i * right : i * right + columns] for i in range(wide)], -1)
    out = tf.pad(out, [[0, 0], [0, 0], [(high - 1) * down] * 2, [0, 0], [0, 0]])
    starts = [(high - 1 - i) * down for i in range(high)]
    out = tf.concat([out[:, :, start : start + rows] for start in starts], -1)
    found = tf.matmul(_positions(image), _positions(out), transpose_a=True)
    found = tf.reshape(found, (*_leading(found), wide, channels[0], high, channels[1]))
    return tf.transpose(found, (0, 1, 4, 2, 3, 5))


def _windows(image: tf.Tensor, out: tf.Tensor, window: Geometry) -> tf.Tensor:
    """One product with all that the windows see."""
    seen = tf.image.extract_patches(
        tf.reshape(image, (-1, *image.shape[2:])), *((1, *each, 1) for each in window[:3]), padding="VALID")
    seen = tf.reshape(seen, (*_leading(image), math.prod(seen.shape[1:3]), seen.shape[-1]))
    found = tf.matmul(seen, _positions(out), transpose_a=True)
    return tf.reshape(found, (*_leading(found), *window.sizes, image.shape[-1], out.shape[-1]))


def _places(window: Geometry) -> list[tuple[int, int]]:
    return [(i, j) for i in range(window.sizes[0]) for j in range(window.sizes[1])]


def _moved(image: tf.Tensor, place: tuple[int, int], window: Geometry, out_shape: Sequence[int]) -> tf.Tensor:
    """Returns what a place of the window sees at all positions, (R, B, positions, C)."""
    slices = []
    for i, num, stride, rate in zip(place, out_shape, window.strides, window.rates):
        slices.append(slice(i * rate, i * rate + stride * (num - 1) + 1, stride))
    return _positions(image[:, :, slices[0], slices[1]])


def _by_place(found: list[tf.Tensor], window: Geometry) -> tf.Tensor:
    stacked = tf.stack(found, 2)
    return tf.reshape(stacked, (*_leading(stacked), *window.sizes, *stacked.shape[-2:]))


def _positions(values: tf.Tensor) -> tf.Tensor:
    """(R, B, ..., C) -> (R, B, positions, C)."""
    return tf.reshape(values, (*_leading(values), math.prod(values.shape[2:-1]), values.shape[-1]))


def _leading(values: tf.Tensor) -> list:
    return [pieces.size(values, 0), pieces.size(values, 1)]
