"""Gaussian approximations of the posterior: Laplace at a maximum, and the mixture over distinct maxima."""

from typing import NamedTuple

import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.inference.search import normalised


class Laplace(NamedTuple):
    """N(mean, H^-1) for each of the leading axes (...), such as (starts, batch).

    Attributes:
      mean: (..., K).
      log_joint: (...), nats, at the mean.
      factor: (..., K, K), A with A A^T = H^-1.
      log_det: (...), log|H|.
      positive_definite: (...), bool. Where it is False the rest describes a surrogate that is no posterior: each
        curvature is replaced by its absolute value.
    """

    mean: tf.Tensor
    log_joint: tf.Tensor
    factor: tf.Tensor
    log_det: tf.Tensor
    positive_definite: tf.Tensor

    @property
    def evidence(self) -> tf.Tensor:
        """log p(y_seen) ~ log p(u*, y_seen) + K/2 log 2 pi - 1/2 log|H|, nats; NaN where H is not positive definite.

        Boehm & Seljak, arXiv 2006.05479, section 3.3.
        """
        value = self.log_joint + 0.5 * (self.mean.shape[-1] * LOG_2PI - self.log_det)
        return tf.where(self.positive_definite, value, tf.constant(float("nan"), value.dtype))

    @property
    def covariance(self) -> tf.Tensor:
        """H^-1, (..., K, K)."""
        return tf.matmul(self.factor, self.factor, transpose_b=True)

    @property
    def variance(self) -> tf.Tensor:
        """The diagonal of H^-1, (..., K)."""
        return tf.reduce_sum(self.factor**2, axis=-1)


def laplace(mean: tf.Tensor, log_joint: tf.Tensor, hessian: tf.Tensor) -> Laplace:
    """Returns the Laplace approximation with H (..., K, K), the Hessian of -log p(u, y_seen) at the mean (..., K).

    H counts as positive definite when the least eigenvalue of D^-1/2 H D^-1/2, D its diagonal, exceeds what rounding
    makes of zero, and H is finite. The eigenvalues are computed in float64; XLA is slow at this on a CPU for K above
    some tens.
    """
    dtype, size = hessian.dtype, hessian.shape[-1]
    hessian = tf.cast(hessian, tf.float64)
    finite = tf.reduce_all(tf.math.is_finite(hessian), axis=(-2, -1)) & tf.math.is_finite(log_joint)
    rising = tf.reduce_all(tf.linalg.diag_part(hessian) > 0, axis=-1)
    matrix, scale = normalised(hessian)
    values, vectors = tf.linalg.eigh(matrix)
    least = size * (1.2e-7 if dtype == tf.float32 else 2.2e-16)
    definite = finite & rising & (values[..., 0] > least)
    values = tf.maximum(tf.abs(values), least)
    factor = scale[..., None] * vectors * tf.math.rsqrt(values)[..., None, :]
    log_det = tf.reduce_sum(tf.math.log(values) - 2.0 * tf.math.log(scale), axis=-1)
    return Laplace(mean, log_joint, tf.cast(factor, dtype), tf.cast(log_det, dtype), definite)


class Mixture(NamedTuple):
    """Mixture of Laplace approximations, M runs for each of `batch` data, the best first.

    Attributes:
      weights: (M, batch), each datum's sum to 1; 0 for copies of a better run and runs without a positive definite H.
      modes: the runs as `Laplace`, leading axes (M, batch), sorted by falling log joint.
      kept: (M, batch), bool: the distinct modes that the mixture is made of.
      valid: (batch,), bool: whether the best run has a positive definite H. Where not, the best run's surrogate has
        all the weight, for draws to look at, and there is no evidence.
    """

    weights: tf.Tensor
    modes: Laplace
    kept: tf.Tensor
    valid: tf.Tensor

    @property
    def evidence(self) -> tf.Tensor:
        """log of the summed evidence of the modes, nats, (batch,); NaN where the best run is not valid."""
        evidence = tf.where(self.kept, self.modes.evidence, tf.constant(-float("inf"), self.weights.dtype))
        return tf.where(self.valid, tf.reduce_logsumexp(evidence, 0), tf.constant(float("nan"), evidence.dtype))

    def moments(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean (batch, K) and covariance (batch, K, K) of the mixture."""
        weights = self.weights[..., None]
        mean = tf.reduce_sum(weights * self.modes.mean, axis=0)
        offset = self.modes.mean - mean
        second = self.modes.covariance + offset[..., None] * offset[..., None, :]
        return mean, tf.reduce_sum(weights[..., None] * second, axis=0)

    def log_prob(self, u: tf.Tensor) -> tf.Tensor:
        """Returns the mixture's log density of u (num, batch, K) in nats, (num, batch)."""
        terms = []
        for index in range(self.weights.shape[0]):
            mode = Laplace(*(part[index] for part in self.modes))
            offset = tf.transpose(u - mode.mean, (1, 2, 0))
            square = tf.reduce_sum(tf.linalg.solve(mode.factor, offset) ** 2, axis=1)  # (batch, num)
            log_normal = 0.5 * (mode.log_det[:, None] - square - u.shape[-1] * LOG_2PI)
            terms.append(tf.math.log(self.weights[index])[:, None] + log_normal)
        return tf.transpose(tf.reduce_logsumexp(tf.stack(terms), axis=0))

    def sample(self, num: int, seed: seeds.Seed) -> tf.Tensor:
        """Returns draws (num, batch, K); the noise is shared by all data of the batch."""
        choice_seed, noise_seed = seeds.split(seed, 2)
        size, dtype = self.modes.mean.shape[-1], self.weights.dtype
        level = seeds.uniform((num, 1), choice_seed, dtype)
        noise = seeds.normal((num, 1, size), noise_seed, dtype)
        # The first mode whose cumulative weight reaches the level; rounding must not lead to a mode of weight 0.
        above = tf.cumsum(self.weights, axis=0)[:, None] < level * (1.0 - 1e-6)
        index = tf.reduce_sum(tf.cast(above, tf.int32), axis=0)  # (num, batch)
        index = tf.transpose(index)
        mean = tf.gather(tf.transpose(self.modes.mean, (1, 0, 2)), index, batch_dims=1)  # (batch, num, K)
        factor = tf.gather(tf.transpose(self.modes.factor, (1, 0, 2, 3)), index, batch_dims=1)
        draws = mean + tf.einsum("bnij,nj->bni", factor, noise[:, 0])
        return tf.transpose(draws, (1, 0, 2))


def mixture(runs: Laplace, single: bool = False, radius: float = 1.0) -> Mixture:
    """Returns the mixture of distinct modes among runs with leading axes (M, batch), or the best one alone.

    A run is a copy of a better one when it lies within `radius` posterior standard deviations of it,
    (u - u*)^T H* (u - u*) < radius^2: maxima of Gaussians of the same shape closer than twice that are one hill.
    Weights are proportional to exp(log joint - 1/2 log|H|), each mode's share of the evidence (Boehm & Seljak, arXiv
    2006.05479, notebooks on corrupted images, where copies were picked by hand).
    """
    order = tf.argsort(tf.where(tf.math.is_finite(runs.log_joint), -runs.log_joint, float("inf")), axis=0, stable=True)
    num = runs.mean.shape[0]
    runs = Laplace(*(_reorder(part, order) for part in runs))
    # H = A^-T A^-1, so the distance under H is the length of A^-1 (u - u*).
    offset = runs.mean[None] - runs.mean[:, None]  # (better, other, batch, K)
    solved = tf.linalg.solve(tf.cast(runs.factor, tf.float64), tf.cast(tf.transpose(offset, (0, 2, 3, 1)), tf.float64))
    near = tf.transpose(tf.reduce_sum(solved**2, axis=2), (0, 2, 1)) < radius**2  # (better, other, batch)
    kept: list[tf.Tensor] = []
    for index in range(num):
        own = runs.positive_definite[index]
        if single and index:
            own = tf.zeros_like(own)
        for better in range(index):
            own = own & ~(kept[better] & near[better, index])
        kept.append(own)
    kept_runs = tf.stack(kept)
    used = tf.where(kept[0], kept_runs, (tf.range(num) == 0)[:, None])
    log_weight = runs.log_joint - 0.5 * runs.log_det
    log_weight = tf.where(used, log_weight, tf.constant(-float("inf"), log_weight.dtype))
    return Mixture(tf.nn.softmax(log_weight, axis=0), runs, kept_runs, kept[0])


def resample(draws: tf.Tensor, log_weight: tf.Tensor, num: int, seed: seeds.Seed) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (num, batch, K) of `draws` (S, batch, K), chosen by weight, and the effective sample size, (batch,).

    Sampling-importance-resampling (Rubin 1988) with one uniform number for each datum, so that a draw of weight w
    appears num w times, rounded up or down. The effective sample size is (sum w)^2 / sum w^2, at most S.
    """
    weight = tf.nn.softmax(tf.where(tf.math.is_nan(log_weight), -float("inf"), log_weight), axis=0)
    offset = seeds.uniform((weight.shape[1], 1), seed, weight.dtype)
    positions = (tf.range(num, dtype=weight.dtype)[None] + offset) / num
    above = tf.transpose(tf.cumsum(weight, axis=0))  # (batch, S)
    index = tf.minimum(tf.searchsorted(above, positions), weight.shape[0] - 1)
    chosen = tf.gather(tf.transpose(draws, (1, 0, 2)), index, batch_dims=1)
    return tf.transpose(chosen, (1, 0, 2)), 1.0 / tf.reduce_sum(weight**2, axis=0)


def _reorder(values: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Returns values (M, batch, ...) with every datum's first axis in the order given, (M, batch)."""
    swap = [1, 0, *range(2, values.shape.rank)]
    return tf.transpose(tf.gather(tf.transpose(values, swap), tf.transpose(order), batch_dims=1), swap)


def information_gain(mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
    """Returns 1/2 sum_k (v_k + m_k^2 - 1 - log v_k), nats: what is learned about u beyond its prior N(0, I).

    Mean and variance of the posterior have the shape (..., K); the dimensions count as independent (Boehm & Seljak,
    arXiv 2006.05479, notebooks).
    """
    return 0.5 * tf.reduce_sum(variance + mean**2 - 1.0 - tf.math.log(variance), axis=-1)
