"""A restoration in closed form: principal components whose coefficients are a mixture of Gaussians."""

from typing import Any, Optional

import numpy as np

from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.evaluation.metrics import coverage

COMPONENTS, DRAWS = 10, 400
# Least share of the mean variance that the residual of a value has: those that never vary are no certainty.
LEAST_RESIDUAL = 1e-3


class LinearMixture:
    """x = mean + V a + e, a a mixture of 10 Gaussians over `size` principal components, e independent by value.

    Args:
      train: training data (m, d), m of at least 20.
      size: components of the plane, fewer where the data have fewer.
      seed: integer, of the mixture's start and of draws.
    """

    def __init__(self, train: np.ndarray, size: int, seed: int):
        from sklearn.decomposition import PCA
        from sklearn.mixture import GaussianMixture

        self.seed = seed
        plane: Any = PCA(min(size, len(train) // 2, train.shape[1]), random_state=seed).fit(train)
        codes = plane.transform(train)
        residual = np.square(train - plane.inverse_transform(codes)).mean(axis=0, dtype=np.float64)
        # The plane has taken its share of the noise (Tipping & Bishop 1999, eq. 8, value by value).
        residual *= train.shape[1] / max(train.shape[1] - codes.shape[1], 1)
        self.mean, self.axes = plane.mean_.astype(np.float64), plane.components_.T.astype(np.float64)
        self.residual = np.maximum(residual, LEAST_RESIDUAL * max(train.var(axis=0).mean(), 1e-12))
        number = max(min(COMPONENTS, len(train) // (2 * codes.shape[1])), 1)
        options: dict[str, Any] = {"random_state": seed, "reg_covar": 1e-6, "max_iter": 30, "tol": 1e-2}
        scale = codes.std()
        fitted = GaussianMixture(number, **options).fit(codes / scale)
        self.weights, self.centres = np.asarray(fitted.weights_), scale * np.asarray(fitted.means_)
        self.precisions = np.linalg.inv(scale**2 * np.asarray(fitted.covariances_))

    def restore(
        self, x: np.ndarray, seen: np.ndarray, noise: float, blocks: Optional[np.ndarray] = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean (n, d) and quantiles (6, n, d) of clean data given the values of x (n, d) where `seen` is True.

        `noise` is the std of the noise in x. With `blocks`, whole numbers (d,), each value of x is the mean of those of
        its block, with one noise, and all are seen.
        """
        pairs = [self._restored(row, known, noise, blocks, index) for index, (row, known) in enumerate(zip(x, seen))]
        means, bounds = zip(*pairs)
        return np.stack(means), np.stack(bounds, axis=1)

    def _restored(
        self, x: np.ndarray, seen: np.ndarray, noise: float, blocks: Optional[np.ndarray], index: int
    ) -> tuple[np.ndarray, np.ndarray]:
        if blocks is None:
            values, axes, variances = x[seen] - self.mean[seen], self.axes[seen], self.residual[seen]
        else:
            average = (blocks == np.arange(blocks.max() + 1)[:, None]).astype(np.float64)
            average /= average.sum(axis=1, keepdims=True)
            values, axes, variances = average @ (x - self.mean), average @ self.axes, average**2 @ self.residual
        log_weights, means, precisions = self.posterior(values, axes, variances + noise**2)
        shares = np.exp(log_weights)
        generator = np.random.default_rng([self.seed & 0xFFFFFFFF, index])
        chosen = generator.choice(len(shares), DRAWS, p=shares / shares.sum())
        normal = generator.normal(size=(DRAWS, means.shape[1], 1))
        roots = np.linalg.cholesky(precisions)
        spread = np.linalg.solve(roots.transpose(0, 2, 1)[chosen], normal)[..., 0]
        draws = self.mean + (means[chosen] + spread) @ self.axes.T
        draws += np.sqrt(self.residual) * generator.normal(size=draws.shape)
        return self.mean + shares @ means @ self.axes.T, coverage.quantiles(draws)

    def posterior(
        self, values: np.ndarray, axes: np.ndarray, variances: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns log weights (M,), means (M, K) and precisions (M, K, K) of a given values = axes a + noise, (s,)."""
        scaled = axes / variances[:, None]
        precisions = self.precisions + axes.T @ scaled
        gain = np.einsum("mij,mj->mi", self.precisions, self.centres) + values @ scaled
        means = np.linalg.solve(precisions, gain[..., None])[..., 0]
        # log N(values; axes centre, axes S axes' + variances), by the determinant lemma and the posterior mean.
        away = values - self.centres @ axes.T
        explained = np.einsum("mk,mk->m", away @ scaled, means - self.centres)
        square = (away**2 / variances).sum(axis=1) - explained
        log_dets = np.linalg.slogdet(precisions)[1] - np.linalg.slogdet(self.precisions)[1] + np.log(variances).sum()
        log_weights = np.log(self.weights) - 0.5 * (square + log_dets + len(values) * LOG_2PI)
        return log_weights - np.logaddexp.reduce(log_weights), means, precisions
