"""Log-densities of targets, and what targets would tell of the weights, with what outputs have in common.

Outputs are normal, f ~ N(m, C), C = J Lambda^-1 J^T of all d values of a datum, and targets are y ~ N(f, sigma^2 I):

    log p(y) = log N(y; m, C + sigma^2 I),    I(y; theta) = 1/2 log |I + C / sigma^2|

C takes d backward passes. 2 r of them, and as many forward ones, give Q diag(s) Q^T + c (I - Q Q^T): with V (d, r) of
orthonormal columns Q diag(s) Q^T = C V (V^T C V)^+ V^T C, which is never more than C, and what is left of its trace is
spread evenly over all other directions. V spans the image by C of random columns, whose products tell the trace.
Products with C are half the gradient of v^T C v by v.
"""

import math
from typing import NamedTuple, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.curvature.network import pieces
from pae_zoo.curvature.network.graph import Graph
from pae_zoo.curvature.posteriors.base import WeightPosterior
from pae_zoo.curvature.predictive import linearised


class LowRank(NamedTuple):
    """Covariances Q diag(s) Q^T + c (I - Q Q^T) of d values, in float64.

    Args:
      vectors: Q (B, d, r), of orthonormal columns, or of zeros where s is 0.
      values: s (B, r).
      rest: c (B,).
      share: which share of the trace s is, (B,).
    """

    vectors: tf.Tensor
    values: tf.Tensor
    rest: tf.Tensor
    share: tf.Tensor

    def variances(self) -> tf.Tensor:
        """Returns the diagonal (B, d)."""
        inside = tf.reduce_sum(self.vectors**2, axis=-1)
        known = tf.reduce_sum(self.vectors**2 * self.values[:, None, :], axis=-1)
        return known + self.rest[:, None] * tf.maximum(1.0 - inside, 0.0)


def low_rank(posterior: WeightPosterior, graph: Graph, x: tf.Tensor, rank: int, seed: seeds.Seed,
             memory: float = 2048, fallback: bool = False) -> LowRank:
    """Returns the covariances of the outputs at x (B, *event), in min(rank, d) directions.

    Other arguments and errors are those of `linearised.covariance`. Nystroem's approximation, see Frangella, Tropp &
    Udell, arXiv 2110.02820.
    """
    event = linearised.output_shape(graph, x)
    size = math.prod(event)
    rank = min(rank, size)
    basis = tf.linalg.qr(seeds.normal((size, rank), seed, tf.float64))[0]
    rows = tf.reshape(tf.transpose(basis), (rank, *event))
    first, span, image = (
        tf.linalg.matrix_transpose(tf.reshape(tf.cast(one, tf.float64), (-1, rank, size)))
        for one in linearised.products(posterior, graph, x, rows, memory, fallback))
    trace = tf.einsum("dr,bdr->b", basis, first) * (size / rank)
    core = tf.matmul(span, image, transpose_a=True)
    rounding = rank * float(np.finfo(x.dtype.as_numpy_dtype).eps)
    # F F^T = Y core^+ Y^T by a root of core, and its eigenvectors by those of F^T F.
    values, vectors = tf.linalg.eigh(0.5 * (core + tf.linalg.matrix_transpose(core)))
    factor = tf.matmul(image, vectors * _inverse_root(values, rounding))
    values, vectors = tf.linalg.eigh(tf.matmul(factor, factor, transpose_a=True))
    found = tf.matmul(factor, vectors * _inverse_root(values, rounding))
    values = tf.maximum(values, 0.0)
    known = tf.reduce_sum(values, axis=-1)
    return LowRank(found, values, tf.maximum(trace - known, 0.0) / max(size - rank, 1),
                   tf.minimum(tf.math.divide_no_nan(known, trace), 1.0))


def _inverse_root(values: tf.Tensor, rounding: float) -> tf.Tensor:
    """Returns 1 / sqrt of eigenvalues (B, r), as (B, 1, r); 0 for those that rounding may have made."""
    kept = values > rounding * values[:, -1:]
    return tf.where(kept, tf.math.rsqrt(tf.where(kept, values, tf.ones_like(values))), 0.0)[:, None, :]


def joint(posterior: WeightPosterior, graph: Graph, x: tf.Tensor, residual: tf.Tensor, noise: tf.Tensor,
          rank: Optional[int] = None, seed: seeds.Seed = (0, 0), memory: float = 2048,
          fallback: bool = False) -> dict[str, tf.Tensor]:
    """Returns how probable targets at x (B, *event) are, by what all their values have in common, some data at a time.

    "log_prob" and "mutual_information" (B,), nats, of residuals y - m (B, d) and a noise variance, and "variance"
    (B, d), the diagonal of C; with a rank, of `low_rank` in as many directions, also "share" (B,); all in float64.
    Other arguments and errors are those of `low_rank`.
    """
    size = residual.shape[-1]
    # Matrices over all outputs, a few of which are alive at once.
    piece = max(1, int(memory * 2**20 / 4) // (32 * size * (rank or size)))

    def some(x, residual):
        if rank is None:
            covariance = linearised.covariance(posterior, graph, x, memory, fallback)
            spread, found = tf.linalg.diag_part(covariance), of_covariance(residual, covariance, noise)
            share = tf.ones_like(found[0])
        else:
            covariance = low_rank(posterior, graph, x, rank, seed, memory, fallback)
            spread, found = covariance.variances(), of_low_rank(residual, covariance, noise)
            share = covariance.share
        return tf.concat([tf.stack([*found, share], axis=1), tf.cast(spread, tf.float64)], axis=1)

    number = pieces.size(x, 0)
    if isinstance(number, int) and number <= piece:
        found = some(x, residual)
    else:
        x, residual = pieces.pad(x, 0, piece), pieces.pad(residual, 0, piece)
        parts = pieces.one_by_one(
            lambda index: some(pieces.cut(x, 0, index, piece), pieces.cut(residual, 0, index, piece)),
            tf.range(-(-number // piece)), tf.float64)
        found = tf.reshape(parts, (-1, parts.shape[-1]))[:number]
    given = {} if rank is None else {"share": found[:, 2]}
    return {"log_prob": found[:, 0], "mutual_information": found[:, 1], "variance": found[:, 3:], **given}


def of_covariance(residual: tf.Tensor, covariance: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns log N(residual; 0, C + noise I) and 1/2 log |I + C / noise| (B,), nats, for C (B, d, d), in float64."""
    residual, covariance, noise = (tf.cast(one, tf.float64) for one in (residual, covariance, noise))
    size = residual.shape[-1]
    lower = tf.linalg.cholesky(covariance + noise * tf.eye(size, dtype=tf.float64))
    white = tf.linalg.triangular_solve(lower, residual[..., None])[..., 0]
    half = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(lower)), axis=-1)
    log_prob = -0.5 * (size * LOG_2PI + tf.reduce_sum(white**2, axis=-1)) - half
    return log_prob, half - 0.5 * size * tf.math.log(noise)


def of_low_rank(residual: tf.Tensor, covariance: LowRank, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what `of_covariance` does for a covariance of low rank and an even rest."""
    residual, noise = (tf.cast(one, tf.float64) for one in (residual, noise))
    seen = tf.einsum("bdr,bd->br", covariance.vectors, residual)
    size, rank = residual.shape[-1], covariance.values.shape[-1]
    inside, outside = covariance.values + noise, covariance.rest + noise
    left = tf.maximum(tf.reduce_sum(residual**2, axis=-1) - tf.reduce_sum(seen**2, axis=-1), 0.0)
    square = tf.reduce_sum(seen**2 / inside, axis=-1) + left / outside
    half = 0.5 * (tf.reduce_sum(tf.math.log(inside), axis=-1) + (size - rank) * tf.math.log(outside))
    return -0.5 * (size * LOG_2PI + square) - half, half - 0.5 * size * tf.math.log(noise)


def of_variances(residual: tf.Tensor, variance: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what `of_covariance` does for a diagonal C, of which `variance` (B, d) is the diagonal."""
    residual, variance, noise = (tf.cast(one, tf.float64) for one in (residual, variance, noise))
    log_prob = -0.5 * tf.reduce_sum(LOG_2PI + tf.math.log(variance + noise) + residual**2 / (variance + noise), -1)
    return log_prob, 0.5 * tf.reduce_sum(tf.math.log1p(variance / noise), axis=-1)
