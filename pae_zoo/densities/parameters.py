"""The parameters of a mixture as arrays, and what follows in closed form: moments, other axes, conditionals."""

from typing import Any, NamedTuple, Optional

import numpy as np
import tensorflow as tf
from scipy.special import logsumexp

from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.core.errors import UserError

# Degrees of freedom stay between these: below, single samples lie far away; above, a t is a Gaussian.
LEAST_DOF, MOST_DOF = 4.0, 200.0
START_DOF = 15.0

Array = Any  # of NumPy or TensorFlow


def component_log_prob(delta: Array, log_det: Array, log_weights: Array, dof: Optional[Array],
                       num_dims: int) -> tf.Tensor:
    """Returns log w_m + log p_m(u), nats, (n, M), of the squared distances delta (n, M) in each component's metric.

    log_det (M,) is log|S_m|^(-1/2), dof (M,) or None for Gaussians. Peel & McLachlan, Statistics and Computing 10
    (2000), eq. 3.
    """
    if dof is None:
        return log_weights + log_det - 0.5 * (delta + num_dims * LOG_2PI)
    half = 0.5 * (dof + num_dims)
    constant = tf.math.lgamma(half) - tf.math.lgamma(0.5 * dof) - 0.5 * num_dims * tf.math.log(np.pi * dof)
    return log_weights + log_det + constant - half * tf.math.log1p(delta / dof)


class Parameters(NamedTuple):
    """A mixture of M components in D dimensions, float64.

    Attributes:
      log_weights: (M,), logs of weights that sum to one.
      means: (M, D).
      scales: (M, D, D), scale matrices S_m: covariances of Gaussians, (v - 2) / v times those of Student t.
      dof: (M,), degrees of freedom of Student t; None of Gaussians.
    """

    log_weights: np.ndarray
    means: np.ndarray
    scales: np.ndarray
    dof: Optional[np.ndarray]

    def mean_and_covariance(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns E[u] (D,) and Cov[u] (D, D)."""
        weights = np.exp(self.log_weights)
        mean = weights @ self.means
        spread = 1.0 if self.dof is None else (self.dof / (self.dof - 2.0))[:, None, None]
        away = self.means - mean
        return mean, np.einsum("m,mij->ij", weights, self.scales * spread + away[:, :, None] * away[:, None])

    def padded(self, count: int) -> "Parameters":
        """Returns the same density in `count` components: the heaviest ones are halved."""
        found = self
        while len(found.log_weights) < count:
            heaviest = int(np.argmax(found.log_weights))
            order = [*range(len(found.log_weights)), heaviest]
            logs = found.log_weights[order].copy()
            logs[[heaviest, -1]] -= np.log(2.0)
            found = Parameters(logs, found.means[order], found.scales[order],
                               None if found.dof is None else found.dof[order])
        return found

    def of_label(self, label: int, per_label: int) -> "Parameters":
        """Returns the density of the components `label` * per_label .. of a mixture by labels, given the label."""
        rows = slice(label * per_label, (label + 1) * per_label)
        return Parameters(self.log_weights[rows] - logsumexp(self.log_weights[rows]), self.means[rows],
                          self.scales[rows], None if self.dof is None else self.dof[rows])

    def moved(self, shift: np.ndarray, matrix: np.ndarray) -> "Parameters":
        """Returns the density of z = shift + matrix u, matrix (D, D) invertible."""
        return Parameters(self.log_weights, shift + self.means @ matrix.T, matrix @ self.scales @ matrix.T, self.dof)

    def marginal(self, kept: np.ndarray) -> "Parameters":
        """Returns the density of the dimensions `kept`, indices."""
        return Parameters(self.log_weights, self.means[:, kept], self.scales[:, kept][:, :, kept], self.dof)

    def log_prob(self, u: np.ndarray) -> np.ndarray:
        """Returns log p(u), nats, (n, D) -> (n,)."""
        return np.asarray(logsumexp(self.log_components(u), axis=1))

    def log_components(self, u: np.ndarray) -> np.ndarray:
        """Returns log w_m + log p_m(u), nats, (n, M)."""
        inverse = np.linalg.inv(np.linalg.cholesky(self.scales))
        away = np.asarray(u, np.float64)[:, None] - self.means
        delta = np.square(np.einsum("mij,nmj->nmi", inverse, away, optimize=True)).sum(axis=-1)
        log_det = np.log(np.diagonal(inverse, axis1=1, axis2=2)).sum(axis=1)
        return np.asarray(component_log_prob(delta, log_det, self.log_weights, self.dof, self.means.shape[1]))

    def conditional(self, seen: np.ndarray, values: np.ndarray) -> "Parameters":
        """Returns the density of the other dimensions, in order, given those in `seen` (d,) have `values` (d,).

        Exact. Of a Student t with d seen dimensions at squared distance delta: dof v + d, scale
        (v + delta) / (v + d) times the Schur complement (Ding, The American Statistician 70 (2016), eq. 4). None seen:
        the whole density. Raises UserError where all are seen, or for indices that are not there.
        """
        num_dims = self.means.shape[1]
        seen, values = np.atleast_1d(np.asarray(seen, int)), np.atleast_1d(np.asarray(values, np.float64))
        if len(set(seen.tolist())) != len(seen) or seen.size and not 0 <= seen.min() <= seen.max() < num_dims:
            raise UserError(f"seen lists different dimensions of 0 to {num_dims - 1}; received {seen.tolist()}.")
        if values.shape != seen.shape:
            raise UserError(f"values has one number for each of the {len(seen)} seen dimensions; received shape "
                            f"{values.shape}.")
        if not np.isfinite(values).all():
            raise UserError(f"values are finite numbers; received {values.tolist()}.")
        rest = np.setdiff1d(np.arange(num_dims), seen)
        if not len(rest):
            raise UserError("All dimensions are seen, so that nothing is left to be described. Leave one out.")
        if not len(seen):
            return self
        logs = self.marginal(seen).log_components(values[None])[0]
        s_seen = self.scales[:, seen][:, :, seen]
        cross = self.scales[:, rest][:, :, seen]
        gain = np.linalg.solve(s_seen, cross.transpose(0, 2, 1)).transpose(0, 2, 1)
        away = values - self.means[:, seen]
        means = self.means[:, rest] + np.einsum("mij,mj->mi", gain, away)
        scales = self.scales[:, rest][:, :, rest] - gain @ cross.transpose(0, 2, 1)
        dof = self.dof
        if dof is not None:
            delta = np.einsum("mi,mi->m", away, np.linalg.solve(s_seen, away[..., None])[..., 0])
            scales = scales * ((dof + delta) / (dof + len(seen)))[:, None, None]
            dof = dof + len(seen)
        return Parameters(logs - logsumexp(logs), means, scales, dof)

    def sample(self, num: int, generator: np.random.Generator) -> np.ndarray:
        """Draws `num` points, (num, D)."""
        weights = np.exp(self.log_weights)
        which = generator.choice(len(weights), size=num, p=weights / weights.sum())
        noise = generator.normal(size=(num, self.means.shape[1]))
        if self.dof is not None:
            noise *= np.sqrt(self.dof[which] / generator.chisquare(self.dof[which]))[:, None]
        return self.means[which] + np.einsum("nij,nj->ni", np.linalg.cholesky(self.scales)[which], noise)
