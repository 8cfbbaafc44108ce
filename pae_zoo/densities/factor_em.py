"""EM of mixtures of factor analysers, whose matrices have D (r + 1) numbers in the place of D (D + 1) / 2.

u = mu_m + L_m x + e with x ~ N(0, I_r) and e ~ N(0, diag(n_m)), both over the root of one gamma variable for Student t,
so that S_m = L_m L_m' + diag(n_m). With C C' = I + L' diag(n)^-1 L and q = C^-1 L' diag(n)^-1 (u - mu):

    (u - mu)' S^-1 (u - mu) = sum (u - mu)^2 / n - q'q,    log|S| = sum log n + 2 log|C|,    E[x|u] = C^-T q

No matrix of D x D numbers is made for each component (Ghahramani & Hinton, Technical Report CRG-TR-96-1).
"""

from typing import Any, NamedTuple, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.densities import em
from pae_zoo.densities.parameters import START_DOF, Parameters, component_log_prob

# Least variance of the noise of whitened data, as the ridge of full matrices.
LEAST_NOISE = em.RIDGE


class FactorParameters(NamedTuple):
    """A mixture of M factor analysers in D dimensions with r factors, float64.

    Attributes:
      log_weights, means, dof: as in `Parameters`.
      loadings: (M, D, r), L_m.
      noise: (M, D), n_m, variances.
    """

    log_weights: np.ndarray
    means: np.ndarray
    loadings: np.ndarray
    noise: np.ndarray
    dof: Optional[np.ndarray]

    def dense(self) -> Parameters:
        """Returns the same density with whole scale matrices (M, D, D)."""
        scales = self.loadings @ self.loadings.transpose(0, 2, 1) + self.noise[:, None] * np.eye(self.noise.shape[1])
        return Parameters(self.log_weights, self.means, scales, self.dof)

    def padded(self, count: int) -> "FactorParameters":
        """Returns the same density in `count` components: the heaviest ones are halved."""
        weights, places = np.exp(self.log_weights), np.arange(len(self.log_weights))
        while len(places) < count:
            heaviest = int(np.argmax(weights))
            weights[heaviest] *= 0.5
            weights, places = np.append(weights, weights[heaviest]), np.append(places, places[heaviest])
        return FactorParameters(np.log(weights), self.means[places], self.loadings[places], self.noise[places],
                                None if self.dof is None else self.dof[places])

    def mean_and_covariance(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns E[u] (D,) and Cov[u] (D, D)."""
        weights = np.exp(self.log_weights)
        mean = weights @ self.means
        spread = weights if self.dof is None else weights * self.dof / (self.dof - 2.0)
        away = self.means - mean
        stacked = self.loadings * np.sqrt(spread)[:, None, None]
        stacked = stacked.transpose(1, 0, 2).reshape(len(mean), -1)
        return mean, stacked @ stacked.T + np.diag(spread @ self.noise) + (away * weights[:, None]).T @ away


def inner_factors(loadings: Any, noise: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns diag(n)^-1 L C^-T (M, D, r), log|S|^(-1/2) (M,) and C (M, r, r), for (M, D, r) and (M, D)."""
    scaled = loadings / noise[..., None]
    inner = tf.matmul(loadings, scaled, transpose_a=True) + tf.eye(loadings.shape[-1], dtype=scaled.dtype)
    root = tf.linalg.cholesky(inner)
    pull = tf.linalg.matrix_transpose(tf.linalg.triangular_solve(root, tf.linalg.matrix_transpose(scaled)))
    log_det = -0.5 * tf.reduce_sum(tf.math.log(noise), axis=-1)
    return pull, log_det - tf.reduce_sum(tf.math.log(tf.linalg.diag_part(root)), axis=-1), root


def distances(u: tf.Tensor, means: tf.Tensor, pull: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the squared distances (n, M) of rows u (n, D), and q (n, M, r); `pull` is that of `inner_factors`."""
    count, num_dims, num_factors = pull.shape
    weights = 1.0 / noise
    linear = tf.matmul(u, -2.0 * means * weights, transpose_b=True)
    plain = tf.matmul(u * u, weights, transpose_b=True) + linear + tf.reduce_sum(means**2 * weights, axis=-1)
    flat = tf.reshape(tf.transpose(pull, (1, 0, 2)), (num_dims, count * num_factors))
    offset = tf.reshape(tf.einsum("mdr,md->mr", pull, means), [-1])
    q = tf.reshape(tf.matmul(u, flat) - offset, (-1, count, num_factors))
    return tf.maximum(plain - tf.reduce_sum(q**2, axis=-1), 0.0), q


class Factors:
    """EM with `num_factors` factors: what `pae_zoo.densities.em` has for full matrices."""

    def __init__(self, num_factors: int):
        self.num_factors = num_factors

    def numbers(self, num_dims: int) -> int:
        """Returns how many numbers a component has."""
        return num_dims * (self.num_factors + 2)

    def log_likelihood(self, found: FactorParameters, data: em.Data) -> float:
        """Returns the mean of log p(u) over the rows, nats."""
        return self._pass(found, data, gather=False)[0]

    def start(self, data: em.Data, num_components: int, student: bool, seed: int,
              pseudo_counts: float = 0.0) -> FactorParameters:
        """Returns the parameters that EM starts from: clusters of k-means, each with its leading directions."""
        from sklearn.utils.extmath import randomized_svd

        labels, means = em.clusters(data, num_components, seed)
        weights = np.ones(len(data.x)) if data.weights is None else data.weights
        rows = np.bincount(labels, weights, minlength=num_components)
        away = (data.x - means[labels]) * np.sqrt(weights)[:, None]
        num, width = data.num_dims, self.num_factors
        # As many rows as dimensions of the mean covariance smooth that of each cluster.
        shared = randomized_svd(away, min(width, *away.shape), random_state=seed & 0x7FFFFFFF)
        common = shared[1][:, None] * shared[2] * np.sqrt(num / data.total)
        mean_square = np.square(away).sum(axis=0) / data.total
        loadings, noise = np.zeros((num_components, num, width)), np.zeros((num_components, num))
        order = np.argsort(labels, kind="stable")
        bounds = np.searchsorted(labels[order], np.arange(num_components + 1))
        for m in range(num_components):
            mine = np.concatenate([away[order[bounds[m] : bounds[m + 1]]], common]) / np.sqrt(rows[m] + num)
            kept = min(width, *mine.shape)
            _, sizes, axes = randomized_svd(mine, kept, random_state=seed & 0x7FFFFFFF)
            own = np.square(away[order[bounds[m] : bounds[m + 1]]]).sum(axis=0)
            total = (own + num * mean_square) / (rows[m] + num)
            loadings[m, :, :kept] = 0.9 * axes.T * sizes
            noise[m] = total - np.square(loadings[m]).sum(axis=1)
        noise = np.maximum(noise, 0.05 * np.maximum(mean_square, LEAST_NOISE))
        rows = np.maximum(rows, 1e-3 * data.total / num_components)
        shrunk = 0.8 if student else 1.0
        return FactorParameters(np.log(rows / rows.sum()), means, np.sqrt(shrunk) * loadings, shrunk * noise,
                                np.full(num_components, START_DOF) if student else None)

    def step(self, found: FactorParameters, data: em.Data,
             pseudo_counts: float = 0.0) -> tuple[FactorParameters, float]:
        """Returns the parameters after one pass of EM, and the mean log likelihood before it, nats.

        Ghahramani & Hinton, section 3: (L, mu) by regression of u on (x, 1), with the shares of the components times
        the weights a of Student t.
        """
        before, sums = self._pass(found, data, gather=True)
        assert sums is not None
        kept = sums["rows"] > em.LEAST_ROWS * data.total / len(data.x)
        kept |= sums["rows"] == sums["rows"].max()
        rows, weight, u, square, q, uq, qq, tails = (
            sums[name][kept] for name in ("rows", "weight", "u", "square", "q", "uq", "qq", "tails"))
        inverse = np.linalg.inv(sums["root"][kept])  # E[x|u] = C^-T q, Cov[x|u] = (C C')^-1
        turn = inverse.transpose(0, 2, 1)
        width = self.num_factors
        second = np.zeros((len(rows), width + 1, width + 1))
        second[:, :width, :width] = turn @ (qq + rows[:, None, None] * np.eye(width)) @ inverse
        second[:, :width, width] = second[:, width, :width] = (turn @ q[..., None])[..., 0]
        second[:, width, width] = weight
        cross = np.concatenate([uq @ inverse, u[..., None]], axis=2)  # (M, D, r + 1)
        solved = np.linalg.solve(second, cross.transpose(0, 2, 1)).transpose(0, 2, 1)
        noise = (square - (solved * cross).sum(axis=2)) / rows[:, None]
        dof = None if found.dof is None else em.new_dof(found.dof[kept], tails / rows, data.num_dims)
        return FactorParameters(np.log(rows / rows.sum()), solved[..., width], solved[..., :width],
                                np.maximum(noise, LEAST_NOISE), dof), before

    def _pass(self, found: FactorParameters, data: em.Data,
              gather: bool) -> tuple[float, Optional[dict[str, np.ndarray]]]:
        dtype, count, width = data.dtype, len(found.log_weights), self.num_factors
        log_weights, means, loadings, noise = (tf.constant(part, dtype) for part in found[:4])
        dof = None if found.dof is None else tf.constant(found.dof, dtype)
        pull, log_det, root = inner_factors(loadings, noise)
        shapes = {"rows": (), "weight": (), "tails": (), "u": (data.num_dims,), "square": (data.num_dims,),
                  "q": (width,), "uq": (data.num_dims, width), "qq": (width, width)}
        sums: dict[str, np.ndarray] = {name: np.zeros((count, *shape)) for name, shape in shapes.items()}
        total, size = 0.0, max(1, em.CHUNK_VALUES // max(count * width, data.num_dims))
        for start in range(0, len(data.x), size):
            u = tf.constant(data.x[start : start + size].astype(dtype))
            weights = None if data.weights is None else data.weights[start : start + size, None].astype(dtype)
            delta, q = distances(u, means, pull, noise)
            logs = component_log_prob(delta, log_det, log_weights, dof, data.num_dims)
            each = tf.reduce_logsumexp(logs, axis=1, keepdims=True)
            total += float(np.sum(each if weights is None else each * weights, dtype=np.float64))
            if not gather:
                continue
            share = tf.exp(logs - each)
            pulled = share = share if weights is None else share * weights
            if dof is not None:
                strength = (dof + data.num_dims) / (dof + delta)
                pulled = share * strength
                sums["tails"] += tf.reduce_sum(share * (tf.math.log(strength) - strength), axis=0).numpy()
            pulled_q = pulled[..., None] * q
            flat = tf.matmul(u, tf.reshape(pulled_q, (-1, count * width)), transpose_a=True)
            found_sums = {
                "rows": tf.reduce_sum(share, axis=0), "weight": tf.reduce_sum(pulled, axis=0),
                "u": tf.matmul(pulled, u, transpose_a=True), "square": tf.matmul(pulled, u * u, transpose_a=True),
                "q": tf.reduce_sum(pulled_q, axis=0),
                "uq": tf.transpose(tf.reshape(flat, (data.num_dims, count, width)), (1, 0, 2)),
                "qq": tf.matmul(tf.transpose(pulled_q, (1, 2, 0)), tf.transpose(q, (1, 0, 2))),
            }  # fmt: skip
            for name, value in found_sums.items():
                sums[name] += value.numpy()
        return total / data.total, {**sums, "root": np.asarray(root, np.float64)} if gather else None
