"""How well distances agree over retrained models, and how well they tell pairs apart; arrays only.

Distances are arrays (M, P): M models, P pairs of points that are the same for all models. A distance that is the
same for every pair has no variation over models either, so a coefficient of variation alone says little: it is
always given beside the spread between pairs.
"""

from typing import Any, NamedTuple, Optional

import numpy as np

from pae_zoo.evaluation.metrics.calibration import spearman


def variation(values: np.ndarray) -> np.ndarray:
    """Returns std over models (M - 1 in the denominator) / mean over models, (P,); NaN where the mean is 0."""
    values = np.asarray(values, np.float64)
    mean = values.mean(axis=0)
    return np.divide(_std(values, axis=0), mean, out=np.full(mean.shape, np.nan), where=mean != 0)


def scale_free(values: np.ndarray) -> np.ndarray:
    """Returns each model's distances (M, P) divided by their mean over pairs: the unit of length drops out."""
    values = np.asarray(values, np.float64)
    mean = values.mean(axis=1, keepdims=True)
    return np.divide(values, mean, out=np.full(values.shape, np.nan), where=mean != 0)


def spread(values: np.ndarray) -> float:
    """Returns B: the std over pairs (P - 1) of the mean over models, divided by its mean; 0 for one number for all."""
    means = np.asarray(values, np.float64).mean(axis=0)
    return float(_std(means) / means.mean()) if means.mean() != 0 else float("nan")


def intraclass_correlation(values: np.ndarray) -> float:
    """Returns ICC(1) = (MSB - MSW) / (MSB + (M - 1) MSW), one-way: pairs are the targets, models the raters.

    1 where all models agree on distances that differ, at or below 0 where pairs differ no more than models do; NaN
    where all numbers are the same (Shrout & Fleiss, Psychological Bulletin 1979).

    Examples:
      >>> intraclass_correlation(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))
      1.0
    """
    values = np.asarray(values, np.float64)
    models, pairs = values.shape
    means = values.mean(axis=0)
    between = models * _std(means) ** 2
    within = np.square(values - means).sum() / (pairs * (models - 1))
    total = between + (models - 1) * within
    return float((between - within) / total) if total > 0 else float("nan")


def jackknife_error(values: np.ndarray) -> float:
    """Returns the standard error of the mean coefficient of variation, by leaving out one model at a time.

    Models are what is drawn anew in a repetition of the experiment; pairs are not independent. NaN below 3 models.
    """
    models = len(values)
    if models < 3:
        return float("nan")
    left = np.array([variation(np.delete(values, m, axis=0)).mean() for m in range(models)])
    return float(np.sqrt((models - 1) / models * np.square(left - left.mean()).sum()))


def describe(values: np.ndarray, reference: Optional[np.ndarray] = None) -> dict[str, float]:
    """Returns the figures of one distance (M, P): agreement of models, spread of pairs, and both together.

    reference: a distance (M', P) whose ranks of the pairs, by their means over models, `spearman` compares with.
    """
    values = np.asarray(values, np.float64)
    cv, free = variation(values), variation(scale_free(values))
    between = spread(values)
    found = {
        "cv": cv.mean(),
        "cv_stderr": jackknife_error(values),
        "cv_median": np.median(cv),
        "cv_scale_free": free.mean(),
        "spread": between,
        "cv_over_spread": cv.mean() / between if between > 0 else float("nan"),
        "icc": intraclass_correlation(values),
        "icc_scale_free": intraclass_correlation(scale_free(values)),
        "mean": values.mean(),
    }
    if reference is not None:
        found["spearman"] = spearman(values.mean(axis=0), np.asarray(reference).mean(axis=0))
    return {name: float(value) for name, value in found.items()}


class PairedTest(NamedTuple):
    """A one-sided paired t-test: mean difference, t, p under "the first is less", df, in how many pairs it is lower."""

    difference: float
    t: float
    p: float
    df: int
    lower: int
    pairs: int


def paired_test(first: np.ndarray, second: np.ndarray) -> PairedTest:
    """Tests whether `first` (P,) is less than `second` (P,), pair by pair (scipy.stats.ttest_rel, "less").

    t and p are NaN below 2 pairs, and where all differences are the same.
    """
    from scipy import stats

    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    difference, pairs = first - second, len(first)
    t = p = float("nan")
    scale = np.abs([first, second]).max() if pairs else 0.0
    if pairs > 1 and np.ptp(difference) > 1e-12 * scale:  # below that the difference is rounding alone
        result = stats.ttest_rel(first, second, alternative="less")
        t, p = float(result.statistic), float(result.pvalue)
    mean = float(difference.mean()) if pairs else float("nan")
    return PairedTest(mean, t, p, pairs - 1, int((difference < 0).sum()), pairs)


def listwise(usable: dict[Any, np.ndarray]) -> np.ndarray:
    """Returns which pairs (P,) every model of every column, given as (M, P), has a usable distance for."""
    return np.all([flags.all(axis=0) for flags in usable.values()], axis=0)


def density(values: np.ndarray, places: np.ndarray) -> Optional[np.ndarray]:
    """Returns a Gaussian kernel estimate (Scott's width) of values (n,) at places (m,).

    None if the values are all alike, or some are not finite.
    """
    from scipy import stats

    values = np.asarray(values, np.float64)
    if len(values) < 2 or not np.isfinite(values).all() or _std(values) <= 1e-12 * np.abs(values).max():
        return None
    return stats.gaussian_kde(values)(places)


def _std(values: np.ndarray, axis=None):
    """Returns the std with n - 1 in the denominator, exactly 0 where all values are the same."""
    values = np.asarray(values, np.float64)
    return np.where(np.ptp(values, axis=axis) == 0, 0.0, np.std(values, axis=axis, ddof=1))
