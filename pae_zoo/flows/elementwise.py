"""Monotone functions of one variable with parameters given per value: affine, rational-quadratic spline."""

import math

import tensorflow as tf

# Parameters per value: shift and log scale; or widths, heights and inner slopes of the bins.
AFFINE_PARAMETERS = 2
LOG_SCALE_LIMIT = 2.0
MIN_BIN = 1e-2
MIN_SLOPE = 1e-3


def spline_parameters(bins: int) -> int:
    """Returns how many parameters a spline of so many bins has per value."""
    return 3 * bins - 1


def affine(x: tf.Tensor, parameters: tf.Tensor, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """y = x exp(s) + m with s = 2 tanh(r / 2), parameters (2, n, d) = (m, r), x (n, d).

    Returns (y, log dy/dx), both (n, d). |s| < 2 keeps long chains from overflowing.
    """
    shift, raw = parameters[0], parameters[1]
    log_scale = LOG_SCALE_LIMIT * tf.tanh(raw / LOG_SCALE_LIMIT)
    if inverse:
        return (x - shift) * tf.exp(-log_scale), -log_scale
    return x * tf.exp(log_scale) + shift, log_scale


def gated(x: tf.Tensor, parameters: tf.Tensor, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """y = g x + (1 - g) m with g = sigmoid(r + 2), parameters (2, n, d) = (m, r), x (n, d).

    Returns (y, log dy/dx), both (n, d). The numerically stable form of Kingma et al., arXiv 1606.04934, eq.
    13-14, whose gates start open.
    """
    shift, raw = parameters[0], parameters[1] + 2.0
    log_gate = -tf.math.softplus(-raw)
    if inverse:
        return (x - tf.sigmoid(-raw) * shift) * tf.exp(-log_gate), -log_gate
    return x * tf.exp(log_gate) + tf.sigmoid(-raw) * shift, log_gate


def rational_quadratic(
    x: tf.Tensor, parameters: tf.Tensor, bound: float, inverse: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """The monotone rational-quadratic spline on [-bound, bound], the identity outside; slopes 1 at both ends.

    Durkan et al., arXiv 1906.04032, eq. 4-8. Parameters (3 b - 1, n, d) are for each value of x (n, d) the b
    raw widths (w = softmax, at least 0.01), b raw heights, and b - 1 raw slopes (softplus + 0.001); zeros give
    the identity. Returns (y, log dy/dx), both (n, d).
    """
    bins = (parameters.shape[0] + 1) // 3
    free = 2 * bound - bins * MIN_BIN
    widths = MIN_BIN + free * tf.nn.softmax(parameters[:bins], axis=0)
    heights = MIN_BIN + free * tf.nn.softmax(parameters[bins : 2 * bins], axis=0)
    # Clamped before the branch: the gradient of what is not chosen must be finite too.
    inside = tf.clip_by_value(x, -bound, bound)

    # The bin of x, as masks over the bins: `below` are those left of it. Where x is sorted into bins, no
    # gradient flows.
    known = tf.stop_gradient(heights if inverse else widths)
    edges = tf.cumsum(known[:-1], axis=0) - bound
    passed = tf.cast(inside >= edges, x.dtype)
    below = tf.concat([passed, tf.zeros_like(passed[:1])], axis=0)
    reached = tf.concat([tf.ones_like(passed[:1]), passed], axis=0)
    chosen = reached - below

    width, height = tf.reduce_sum(chosen * widths, axis=0), tf.reduce_sum(chosen * heights, axis=0)
    left = tf.reduce_sum(below * widths, axis=0) - bound
    bottom = tf.reduce_sum(below * heights, axis=0) - bound
    # A raw slope of 0 is a slope of 1, and so are the ends, which have none.
    raw_slopes = parameters[2 * bins :]
    slope_left = _slope(tf.reduce_sum(chosen[1:] * raw_slopes, axis=0))
    slope_right = _slope(tf.reduce_sum(chosen[:-1] * raw_slopes, axis=0))

    mean_slope = height / width
    bend = slope_left + slope_right - 2.0 * mean_slope
    if inverse:
        rise = inside - bottom
        a = height * (mean_slope - slope_left) + rise * bend
        b = height * slope_left - rise * bend
        root = tf.sqrt(tf.maximum(b * b + 4.0 * a * mean_slope * rise, tf.constant(1e-30, x.dtype)))
        part = 2.0 * mean_slope * rise / (b + root)
    else:
        part = (inside - left) / width
    rest = part * (1.0 - part)
    below_line = mean_slope + bend * rest
    if inverse:
        y = left + part * width
    else:
        y = bottom + height * (mean_slope * part * part + slope_left * rest) / below_line
    slope_of_y = slope_right * part * part + 2.0 * mean_slope * rest + slope_left * tf.square(1.0 - part)
    log_slope = 2.0 * tf.math.log(mean_slope) + tf.math.log(slope_of_y) - 2.0 * tf.math.log(below_line)
    outside = tf.abs(x) >= bound
    log_slope = tf.where(outside, tf.zeros_like(x), -log_slope if inverse else log_slope)
    return tf.where(outside, x, y), log_slope


def _slope(raw: tf.Tensor) -> tf.Tensor:
    return MIN_SLOPE + tf.math.softplus(raw + math.log(math.expm1(1.0 - MIN_SLOPE)))
