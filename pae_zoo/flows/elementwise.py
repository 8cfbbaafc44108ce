"""Monotone functions of one variable with parameters given per value: affine, rational-quadratic spline.

Values have shape (d, n) and parameters (p, d, n), the batch last: then the sums over bins run over whole
vectors of data, the layout in which XLA on a CPU is fastest.
"""

import math

import numpy as np
import tensorflow as tf

from pae_zoo.core.errors import UserError

# Parameters per value: shift and log scale; or widths, heights and inner slopes of the bins.
AFFINE_PARAMETERS = 2
LOG_SCALE_LIMIT = 2.0
OPEN_GATE = 2.0
MIN_BIN = 1e-2
MIN_SLOPE = 1e-3
# Beyond it a bin has reached its least or greatest size anyway, and exp needs no maximum subtracted.
RAW_LIMIT = 20.0
# Greatest slope at a knot: beyond it the squares of slopes leave what float32 tells apart.
SLOPE_LIMIT = 1e3


def spline_parameters(bins: int, bound: float) -> int:
    """Returns how many parameters a spline of so many bins on [-bound, bound] has per value.

    Raises UserError for fewer than 2 bins, or for bins that could not be `MIN_BIN` wide.
    """
    if bins < 2 or bins * MIN_BIN >= 2 * bound:
        raise UserError(f"A spline needs 2 or more bins, of {MIN_BIN} each, within [-bound, bound]; received "
                        f"bins={bins}, bound={bound}. Take fewer bins or a larger bound.")
    return 3 * bins - 1


def affine(x: tf.Tensor, parameters: tf.Tensor, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """y = x exp(s) + m with s = 2 tanh(r / 2), parameters (2, d, n) = (m, r), x (d, n).

    Returns (y, log dy/dx), both (d, n). |s| < 2 keeps long chains from overflowing.
    """
    shift, raw = parameters[0], parameters[1]
    log_scale = LOG_SCALE_LIMIT * tf.tanh(raw / LOG_SCALE_LIMIT)
    if inverse:
        return (x - shift) * tf.exp(-log_scale), -log_scale
    return x * tf.exp(log_scale) + shift, log_scale


def gated(x: tf.Tensor, parameters: tf.Tensor, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """y = g x + (1 - g) m with g = sigmoid(r + 2), parameters (2, d, n) = (m, r), x (d, n).

    Returns (y, log dy/dx), both (d, n). The numerically stable form of Kingma et al., arXiv 1606.04934, eq.
    13-14, whose gates start open.
    """
    shift, raw = parameters[0], parameters[1] + OPEN_GATE
    log_gate = -tf.math.softplus(-raw)
    if inverse:
        return (x - tf.sigmoid(-raw) * shift) * tf.exp(-log_gate), -log_gate
    return x * tf.exp(log_gate) + tf.sigmoid(-raw) * shift, log_gate


def rational_quadratic(
    x: tf.Tensor, parameters: tf.Tensor, bound: float, inverse: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """The monotone rational-quadratic spline on [-bound, bound], the identity outside; slopes 1 at both ends.

    Durkan et al., arXiv 1906.04032, eq. 4-8. Parameters (3 b - 1, d, n) are for each value of x (d, n) the b
    raw widths (softmax, at least 0.01), b raw heights, and b - 1 raw slopes (softplus, at least 0.001); zeros
    give the identity. Returns (y, log dy/dx), both (d, n).
    """
    bins = (parameters.shape[0] + 1) // 3
    raw_sizes = tf.clip_by_value(parameters[: 2 * bins], -RAW_LIMIT, RAW_LIMIT)
    parts = tf.exp(tf.reshape(raw_sizes, (2, bins, *tf.unstack(tf.shape(x)))))
    scales = (2.0 * bound - bins * MIN_BIN) / tf.reduce_sum(parts, axis=1)
    # Clamped before the branch: the gradient of what is not chosen must be finite too.
    inside = tf.clip_by_value(x, -bound, bound)

    # Masks over the bins choose; a gather would have a scatter as its gradient, which XLA runs as a loop.
    index = _bin_of(inside, parts[int(inverse)], scales[int(inverse)], bound)
    numbers = tf.reshape(tf.range(bins, dtype=x.dtype), (bins, 1, 1))
    before, chosen = tf.cast(numbers < index, x.dtype), tf.cast(tf.equal(numbers, index), x.dtype)
    left, bottom = tf.unstack(tf.reduce_sum(before * parts, axis=1) * scales + (MIN_BIN * index - bound))
    width, height = tf.unstack(tf.reduce_sum(chosen * parts, axis=1) * scales + MIN_BIN)
    # A raw slope of 0 is a slope of 1, and so are the ends, which have none.
    raw_slopes = tf.minimum(parameters[2 * bins :], SLOPE_LIMIT)
    slope_left = _slope(tf.reduce_sum(chosen[1:] * raw_slopes, axis=0))
    slope_right = _slope(tf.reduce_sum(chosen[:-1] * raw_slopes, axis=0))

    mean_slope = height / width
    bend = slope_left + slope_right - 2.0 * mean_slope
    if inverse:
        rise = inside - bottom
        a = height * (mean_slope - slope_left) + rise * bend
        b = height * slope_left - rise * bend
        root = tf.sqrt(tf.maximum(b * b + 4.0 * a * mean_slope * rise, tf.constant(1e-30, x.dtype)))
        # The root of the quadratic by the formula that subtracts nothing; rounding may lead out of the bin.
        below = b < 0.0
        one = tf.ones_like(b)
        part = tf.where(below, (root - b) / (2.0 * tf.where(below, a, one)),
                        2.0 * mean_slope * rise / tf.where(below, one, b + root))
        part = tf.clip_by_value(part, 0.0, 1.0)
    else:
        part = (inside - left) / width
    rest = part * (1.0 - part)
    below_line = mean_slope + bend * rest
    if inverse:
        y = left + part * width
    else:
        y = bottom + height * (mean_slope * part * part + slope_left * rest) / below_line
    slope_of_y = slope_right * part * part + 2.0 * mean_slope * rest + slope_left * tf.square(1.0 - part)
    log_slope = tf.math.log(slope_of_y) + 2.0 * tf.math.log(mean_slope / below_line)
    outside = tf.abs(x) >= bound
    log_slope = tf.where(outside, tf.zeros_like(x), -log_slope if inverse else log_slope)
    return tf.where(outside, x, y), log_slope


def _bin_of(x: tf.Tensor, parts: tf.Tensor, scale: tf.Tensor, bound: float) -> tf.Tensor:
    """Returns the number, 0 to bins - 1, of the bin that x (d, n) lies in; bins are MIN_BIN + scale * parts long.

    No gradient flows through it. Sums over bins are a product with a triangular matrix, since XLA on a CPU
    takes quadratic time for `cumsum`.
    """
    parts, scale, x = tf.stop_gradient(parts), tf.stop_gradient(scale), tf.stop_gradient(x)
    bins = parts.shape[0]
    triangle = tf.constant(np.tri(bins - 1, bins), x.dtype)
    sums = tf.reshape(tf.matmul(triangle, tf.reshape(parts, (bins, -1))), (bins - 1, *tf.unstack(tf.shape(x))))
    least = tf.constant(MIN_BIN * np.arange(1, bins).reshape(-1, 1, 1) - bound, x.dtype)
    return tf.reduce_sum(tf.cast(x - least >= sums * scale, x.dtype), axis=0)


def _slope(raw: tf.Tensor) -> tf.Tensor:
    return MIN_SLOPE + tf.math.softplus(raw + math.log(math.expm1(1.0 - MIN_SLOPE)))
