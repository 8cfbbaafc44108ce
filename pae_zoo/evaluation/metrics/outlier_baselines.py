"""Simple detectors of unusual data, from pixels or from codes, beside which a model's own scores are judged."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pae_zoo.evaluation.metrics import density_baselines, neighbours

# A datum's distance is that to this neighbour.
NUM_NEIGHBOURS = 5

#: maps rows (n, d) to scores (n,), higher for more unusual ones
Score = Callable[[np.ndarray], np.ndarray]


class Detector(NamedTuple):
    """A detector: what it is fitted to, and fit(training rows, size of the codes, seed).

    of: "pixels", all values of a datum; "rows", those of vectors alone; or "codes".
    """

    of: str
    fit: Callable[[np.ndarray, int, int], Score]


def pca_error(train: np.ndarray, size: int, seed: int) -> Score:
    """Squared distance from the plane of the first `size` principal components."""
    from sklearn.decomposition import PCA

    plane = PCA(min(size, *train.shape), random_state=seed).fit(train)
    return lambda x: np.square(x - plane.inverse_transform(plane.transform(x))).sum(axis=1)


def knn(train: np.ndarray, size: int, seed: int) -> Score:
    """Distance to the fifth nearest training row."""
    num = min(NUM_NEIGHBOURS, len(train))
    return lambda x: neighbours.nearest(x, train, num)[0][:, -1]


def mahalanobis(train: np.ndarray, size: int, seed: int) -> Score:
    """Squared distance from the mean in units of the covariance."""
    white = density_baselines.Whitening(train)
    return lambda x: np.square(white.whiten(x)).sum(axis=1)


def mixture(train: np.ndarray, size: int, seed: int) -> Score:
    """-log density of the mixture that the task density fits."""
    fitted = density_baselines.mixture(train, train, seed)
    return lambda x: -fitted.log_prob(x)


def isolation_forest(train: np.ndarray, size: int, seed: int) -> Score:
    """How few random cuts set a row apart (Liu et al. 2008), by scikit-learn."""
    from sklearn.ensemble import IsolationForest

    forest: Any = IsolationForest(random_state=seed).fit(train)
    return lambda x: -forest.score_samples(x)


def anomaly_detector(train: np.ndarray, size: int, seed: int) -> Score:
    """The score of `pae_zoo.anomaly.Detector`."""
    from pae_zoo import anomaly

    found = anomaly.Detector(train.shape[1], seed).learn(train)
    return lambda x: found.score(x).scores


#: the detectors by the names of their keys
DETECTORS = {
    "pca_error": Detector("pixels", pca_error),
    "knn_pixels": Detector("pixels", knn),
    "isolation_forest": Detector("pixels", isolation_forest),
    "anomaly_detector": Detector("rows", anomaly_detector),
    "knn_codes": Detector("codes", knn),
    "mahalanobis": Detector("codes", mahalanobis),
    "mixture": Detector("codes", mixture),
}


def fit(detector: Detector, train: np.ndarray, size: int, seed: int) -> Score:
    """Returns the fitted detector: rows that are not finite are left out of the fit, and score NaN.

    Raises ValueError for fewer than two finite training rows.
    """
    train = train[np.isfinite(train).all(axis=1)]
    if len(train) < 2:
        raise ValueError(f"{len(train)} training rows are finite; two are needed.")
    inner = detector.fit(train, size, seed)

    def score(rows: np.ndarray) -> np.ndarray:
        finite = np.isfinite(rows).all(axis=1)
        found = np.full(len(rows), np.nan)
        if finite.any():
            found[finite] = inner(rows[finite])
        return found

    return score
