"""Densities fitted to the codes of the training data, beside which a model's own density is judged."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pae_zoo import densities
from pae_zoo.core.distributions import LOG_2PI

# Kernels stand at so many codes at most: their cost grows with it, their score hardly.
MOST_KERNELS = 10_000
COMPONENTS = 50
# Codes whose density is computed at once.
CHUNK = 2000
# Bandwidths tried, in units of the whitened codes; the best on validation codes is taken.
BANDWIDTHS = tuple(np.geomspace(0.05, 1.0, 9))


@dataclass(frozen=True)
class Density:
    """A density of codes.

    Args:
      log_prob: maps codes (n, K) to nats, (n,).
      sample: maps (n, a `numpy` generator) to codes (n, K).
      note: how it was fitted, in words.
    """

    log_prob: Callable[[np.ndarray], np.ndarray]
    sample: Callable[[int, np.random.Generator], np.ndarray]
    note: str


class Whitening:
    """z = mean + L w with w of mean 0 and covariance I over the codes given; L is the Cholesky factor."""

    def __init__(self, codes: np.ndarray):
        codes = np.asarray(codes, np.float64)
        self.mean = codes.mean(axis=0)
        covariance = np.atleast_2d(np.cov(codes.T))
        # A latent without variance has no density; a floor keeps the factor regular.
        values, vectors = np.linalg.eigh(covariance)
        values = np.maximum(values, 1e-9 * values.max())
        self.factor = np.linalg.cholesky((vectors * values) @ vectors.T)
        self.log_det = np.log(np.diag(self.factor)).sum()

    def whiten(self, codes: np.ndarray) -> np.ndarray:
        """Returns w for codes (n, K)."""
        from scipy.linalg import solve_triangular

        return solve_triangular(self.factor, (np.asarray(codes, np.float64) - self.mean).T, lower=True).T

    def colour(self, whitened: np.ndarray) -> np.ndarray:
        """Returns codes for w (n, K)."""
        return self.mean + whitened @ self.factor.T


def gaussian(train: np.ndarray, valid: np.ndarray, seed: int) -> Density:
    """A Gaussian with the mean and the covariance of the codes."""
    white = Whitening(train)
    num_dims = train.shape[1]

    def log_prob(codes):
        w = white.whiten(codes)
        return -0.5 * (np.square(w).sum(axis=1) + num_dims * LOG_2PI) - white.log_det

    def sample(num, generator):
        return white.colour(generator.normal(size=(num, num_dims)))

    return Density(log_prob, sample, "full covariance")


def mixture(train: np.ndarray, valid: np.ndarray, seed: int) -> Density:
    """A mixture of Gaussians with full covariances, by EM on all codes, the pass best on validation codes."""
    white = Whitening(train)
    # A covariance takes some rows for each of its columns.
    number = max(min(COMPONENTS, len(train) // (5 * (train.shape[1] + 1))), 1)
    fitted = densities.Mixture(train.shape[1], number, student=False, seed=seed)
    fitted.fit(white.whiten(train).astype(np.float32), white.whiten(valid).astype(np.float32))
    found = fitted.parameters().moved(white.mean, white.factor)

    def log_prob(codes):
        return np.concatenate([found.log_prob(codes[i : i + CHUNK]) for i in range(0, len(codes), CHUNK)])

    return Density(log_prob, found.sample, f"{number} components of full covariance, fitted to {len(train)} codes")


def kernel(train: np.ndarray, valid: np.ndarray, seed: int) -> Density:
    """A kernel density estimate in the whitened space, its bandwidth chosen on validation codes, by scikit-learn."""
    from sklearn.neighbors import KernelDensity

    white = Whitening(train)
    centres = white.whiten(_some(train, MOST_KERNELS, seed))
    judge = white.whiten(_some(valid, 1000, seed))
    # One leaf: in many dimensions a tree only adds to the work.
    fits = {h: KernelDensity(bandwidth=h, leaf_size=len(centres)).fit(centres) for h in BANDWIDTHS}
    best = max(fits, key=lambda h: fits[h].score(judge))

    def sample(num, generator):
        chosen = generator.integers(len(centres), size=num)
        return white.colour(centres[chosen] + best * generator.normal(size=(num, train.shape[1])))

    note = f"Gaussian kernels of std {best:.2g} (whitened codes) at {len(centres)} codes"
    return Density(lambda codes: fits[best].score_samples(white.whiten(codes)) - white.log_det, sample, note)


def resampled(codes: np.ndarray) -> Density:
    """The codes themselves, drawn without repeats where there are enough: what no density samples better than."""

    def log_prob(points):
        raise NotImplementedError("Codes that are drawn again have no density.")

    def sample(num, generator):
        return codes[generator.choice(len(codes), num, replace=num > len(codes))]

    return Density(log_prob, sample, f"{len(codes)} codes themselves")


#: the densities by the names of their keys; each is fitted to (training codes, validation codes, seed)
BASELINES = {"gaussian": gaussian, "mixture": mixture, "kernel": kernel}


def _some(codes: np.ndarray, most: int, seed: int) -> np.ndarray:
    if len(codes) <= most:
        return codes
    return codes[np.random.default_rng(seed).permutation(len(codes))[:most]]
