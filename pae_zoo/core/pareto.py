"""How heavy the tail of importance weights is: the shape of a generalised Pareto distribution fitted to it.

A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry, Pareto smoothed importance sampling, JMLR 25 (2024), arXiv
1507.02646. Above 0.7 the estimate cannot be trusted: neither its variance nor its error shrinks as the number of
draws says.
"""

import math

import numpy as np
import tensorflow as tf

#: shape above which an estimate is unreliable
UNRELIABLE = 0.7
# Fewer draws in the tail say nothing of its shape.
LEAST_TAIL = 5
# Zhang & Stephens' prior of the scale, and Vehtari's weak prior of the shape: ten draws of shape 1/2.
SCALE_PRIOR, SHAPE_DRAWS, SHAPE_PRIOR = 3.0, 10.0, 0.5
LEAST_CANDIDATES = 30
# Weights that differ by less than this part, or by rounding of their logs, are equal.
EQUAL, ROUNDINGS = 1e-3, 8.0


def tail_length(num_samples: int) -> int:
    """Returns how many of S weights are the tail: min(S/5, 3 sqrt(S)), rounded up; 0 where they are too few."""
    length = math.ceil(min(0.2 * num_samples, 3.0 * math.sqrt(num_samples)))
    return length if length >= LEAST_TAIL else 0


def shape(largest: tf.Tensor) -> tf.Tensor:
    """Returns the shape k of the tail, float64 (batch,), from the log weights that are largest, (batch, M + 1).

    They descend; the last is where the tail begins. Weights that are equal up to rounding have no tail and the shape
    minus infinity; weights that are not finite give NaN.
    """
    logs = tf.cast(largest, tf.float64)
    rounding = ROUNDINGS * float(np.finfo(largest.dtype.as_numpy_dtype).eps)
    least = tf.maximum(tf.constant(EQUAL, tf.float64), rounding * tf.abs(logs[:, 0]))
    logs -= logs[:, :1]
    excess = tf.reverse(tf.exp(logs[:, :-1]) - tf.exp(logs[:, -1:]), axis=[1])  # ascending
    flat = excess[:, -1] <= least
    found = _generalised_pareto(tf.where(flat[:, None], tf.ones_like(excess), excess))
    found = tf.where(flat, tf.constant(-math.inf, tf.float64), found)
    return tf.where(tf.reduce_all(tf.math.is_finite(logs), axis=1), found, tf.constant(math.nan, tf.float64))


def _generalised_pareto(excess: tf.Tensor) -> tf.Tensor:
    """Returns the shape of excesses (batch, M), ascending: J. Zhang, M. Stephens, Technometrics 51 (2009) 316."""
    num = excess.shape[1]
    candidates = LEAST_CANDIDATES + int(math.sqrt(num))
    spread = 1.0 - tf.sqrt(candidates / (tf.range(1, candidates + 1, dtype=tf.float64) - 0.5))
    quartile = tf.maximum(excess[:, int(num / 4 + 0.5) - 1, None], 1e-300)
    theta = spread / (SCALE_PRIOR * quartile) + 1.0 / excess[:, -1:]  # (batch, candidates)
    # A candidate at a time: the whole would be (batch, candidates, M).
    shapes = tf.stack([_mean_log(one, excess) for one in tf.unstack(theta, axis=1)], axis=1)
    profile = num * (tf.math.log(-theta / shapes) - shapes - 1.0)
    mean = tf.reduce_sum(theta * tf.nn.softmax(profile, axis=1), axis=1)
    found = _mean_log(mean, excess)
    return (num * found + SHAPE_DRAWS * SHAPE_PRIOR) / (num + SHAPE_DRAWS)


def _mean_log(theta: tf.Tensor, excess: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.math.log1p(-theta[:, None] * excess), axis=1)
