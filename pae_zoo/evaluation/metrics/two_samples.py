"""How two sets of codes differ: a classifier that tells them apart, shares of cells and classes, spread."""

import math
import warnings
from typing import Any

import numpy as np

from pae_zoo.evaluation.metrics import detection
from pae_zoo.evaluation.metrics.density_baselines import Whitening

HIDDEN_UNITS = (128, 64)
#: each set must have so many rows for a classifier to learn from one half and be judged on the other
LEAST_ROWS = 20
# Passes over the training half at most; a tenth of it, where it is large enough, stops the training before.
MOST_PASSES = 100


def c2st(first: np.ndarray, second: np.ndarray, seed: int) -> tuple[float, float]:
    """Returns AUROC and its standard error of a classifier that tells rows (n, d) from (m, d) by held-out halves.

    A multilayer perceptron of 128 and 64 units is trained on a random half of each set, standardised by it, and judged
    on the other half: .5 where the sets cannot be told apart (Lopez-Paz & Oquab, arXiv 1610.06545, by the area in place
    of the accuracy, so that the sizes of the sets do not matter).

    Raises ValueError for fewer than 20 rows in a set.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    if min(len(first), len(second)) < LEAST_ROWS:
        raise ValueError(f"a classifier needs {LEAST_ROWS} rows of each set; received {len(first)} and {len(second)}.")
    generator = np.random.default_rng(seed)
    halves = [np.array_split(rows[generator.permutation(len(rows))], 2) for rows in (first, second)]
    train = np.concatenate([half[0] for half in halves]).astype(np.float64)
    labels = np.repeat([0, 1], [len(half[0]) for half in halves])
    mean, std = train.mean(axis=0), train.std(axis=0)
    std[std == 0.0] = 1.0
    stops = len(train) >= 200  # on a tenth of it
    network: Any = MLPClassifier(HIDDEN_UNITS, early_stopping=stops, max_iter=MOST_PASSES, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the passes are few on purpose
        network.fit((train - mean) / std, labels)
    scores = [network.predict_proba((half[1] - mean) / std)[:, 1] for half in halves]
    return detection.auroc(*scores), detection.auroc_stderr(*scores)


def variance_ratio(first: np.ndarray, second: np.ndarray) -> float:
    """Returns tr(C1^-1 C2) / d with the covariances C of two sets of rows (n, d): 1 where they spread alike."""
    return float(Whitening(first).whiten(second).var(axis=0, ddof=1).mean())


def total_variation(first: np.ndarray, second: np.ndarray) -> float:
    """Returns half the summed absolute gaps of two vectors of shares: the share that would have to move."""
    return float(0.5 * np.abs(first - second).sum())


def variation_of_sampling(shares: np.ndarray, first: int, second: int) -> float:
    """Returns the total variation that two samples of `first` and `second` rows with the same `shares` have on average.

    The gap of a share p is about normal with the variance p (1 - p) (1 / first + 1 / second).
    """
    gaps = np.sqrt(shares * (1.0 - shares) * (1.0 / first + 1.0 / second))
    return float(0.5 * math.sqrt(2.0 / math.pi) * gaps.sum())
