"""The Frechet distance between the Gaussians that have the moments of two sets of features."""

from typing import Any, NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Mean (d,) of a set of features and a factor F (r, d) of its covariance F^T F, float64."""

    mean: np.ndarray
    factor: np.ndarray


def moments(features: np.ndarray) -> Moments:
    """Returns the moments of features (n, d), n >= 2, with n - 1 in the covariance's denominator.

    The factor is the triangle of a QR decomposition, so that the covariance is never squared and small
    eigenvalues keep their digits.

    Raises ValueError for fewer rows and for numbers that are not finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {features.shape}; (n, d) with n of at least 2 is needed.")
    if not np.isfinite(features).all():
        rows = int((~np.isfinite(features)).any(axis=1).sum())
        raise ValueError(f"{rows} of {len(features)} feature vectors are not finite; their distance is undefined.")
    mean = features.mean(axis=0)
    factor: Any = np.linalg.qr((features - mean) / np.sqrt(len(features) - 1), mode="r")
    return Moments(mean, factor)


def distance(first: Moments, second: Moments) -> float:
    """Returns |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in the features' units squared, at least 0.

    Heusel et al., arXiv 1706.08500, eq. 6 (Dowson & Landau 1982). C1 C2 has the eigenvalues of (F1 F2^T)(F1 F2^T)^T,
    so tr (C1 C2)^(1/2) is the sum of the singular values of F1 F2^T: no root of a matrix is taken, nothing becomes
    complex, and singular covariances need no jitter. What rounding leaves below 0 is returned as 0.

    Examples:
      >>> features = np.random.default_rng(0).normal(size=(100, 3))
      >>> round(distance(moments(features), moments(features + 2.0)), 6)  # 3 means, each 2 apart
      12.0
    """
    overlap = np.linalg.svd(first.factor @ second.factor.T, compute_uv=False).sum()
    between = np.sum((first.mean - second.mean) ** 2)
    return float(max(between + np.sum(first.factor**2) + np.sum(second.factor**2) - 2.0 * overlap, 0.0))
