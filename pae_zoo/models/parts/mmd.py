"""Maximum mean discrepancy between the codes of a batch and N(0, I): what mmd_vae and wae are trained by."""

import dataclasses
from typing import Any

import tensorflow as tf

from pae_zoo.core import hparams as hp
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError, unknown

IMQ, RBF = KERNELS = ("imq", "rbf")
# Kernels of these widths are averaged, in units of 2 K, the mean squared distance of two draws of N(0, I).
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# Stream of a step's seed that draws of the prior come from.
PRIOR_DRAWS = "mmd/prior"


@dataclasses.dataclass(frozen=True)
class MMDFlags:
    """Flags of the discrepancy."""

    mmd_weight: float = hp.option(500.0, "Weight lambda of the discrepancy of a batch's codes from N(0, I), in nats.",
                                  low=0.0)
    mmd_kernel: str = hp.option(IMQ, "Kernel of the discrepancy: inverse multi-quadratic, or Gaussian.",
                                choices=KERNELS)


def check(weight: float, kernel: str) -> tuple[float, str]:
    """Returns the settings of a model; raises UserError for another kernel or a weight below 0."""
    if kernel not in KERNELS:
        raise unknown("mmd_kernel", kernel, KERNELS)
    if not weight >= 0:
        raise UserError(f"mmd_weight is a weight of 0 or more; received {weight}.")
    return float(weight), kernel


def kernel_matrix(a: tf.Tensor, b: tf.Tensor, kernel: str) -> tf.Tensor:
    """Returns k(a_i, b_j) for a (n, K) and b (m, K), (n, m): the mean over the scales s of

    C / (C + r) ("imq", Tolstikhin et al., arXiv 1711.01558, section 4) or exp(-r / C) ("rbf"), r = |a_i - b_j|^2 and
    C = 2 K s.
    """
    square = tf.reduce_sum(tf.square(a), axis=-1)[:, None] + tf.reduce_sum(tf.square(b), axis=-1)
    square = tf.maximum(square - 2.0 * tf.matmul(a, b, transpose_b=True), 0.0)
    found = []
    for scale in SCALES:
        width = 2.0 * a.shape[-1] * scale
        found.append(width / (width + square) if kernel == IMQ else tf.exp(-square / width))
    return tf.add_n(found) / len(SCALES)


def discrepancy(q: tf.Tensor, p: tf.Tensor, kernel: str) -> tf.Tensor:
    """Returns the unbiased estimate of MMD^2 from draws q (n, K) and p (m, K), a number that may be below 0.

    It is the mean of k over pairs of q, plus that over pairs of p, less twice that over both (Gretton et al., JMLR 13
    (2012), eq. 3). A single draw has no pair, which counts as 0.
    """

    def pairs(x: tf.Tensor) -> tf.Tensor:
        matrix = kernel_matrix(x, x, kernel)
        count = tf.cast(tf.shape(x)[0], x.dtype)
        return (tf.reduce_sum(matrix) - tf.linalg.trace(matrix)) / tf.maximum(count * (count - 1.0), 1.0)

    return pairs(q) + pairs(p) - 2.0 * tf.reduce_mean(kernel_matrix(q, p, kernel))


def from_prior(z: tf.Tensor, kernel: str, seed: Any) -> tf.Tensor:
    """Returns the discrepancy of codes z (batch, K) from as many draws of N(0, I)."""
    return discrepancy(z, seeds.normal(tf.shape(z), seeds.stream(seed, PRIOR_DRAWS), z.dtype), kernel)
