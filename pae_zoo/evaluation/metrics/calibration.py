"""Numbers of calibration and of rejection, from arrays: nothing here knows a model."""

from typing import NamedTuple

import numpy as np

CLASSIFIER_BINS = 15
LEVELS = np.round(np.arange(0.05, 0.96, 0.05), 2)  # of central intervals
# Fine bins of variances: from 1e-16 to 1e8 in steps of 0.02 %, so that epistemic variances tell apart values to whose
# variance noise adds much more.
LEAST_VARIANCE, STEP, FINE_BINS = 1e-16, 2e-4, 276_310


# ---- a classifier's confidence -------------------------------------------------------------------------


class ConfidenceBins(NamedTuple):
    """Accuracy, mean confidence and share of the data of each bin, (num_bins,); 0 where a bin is empty."""

    accuracy: np.ndarray
    confidence: np.ndarray
    share: np.ndarray


def confidence_bins(confidence: np.ndarray, correct: np.ndarray, num_bins: int = CLASSIFIER_BINS) -> ConfidenceBins:
    """Sorts predictions of confidence (n,) in [0, 1], correct (n,) or not, into bins (0, 1/B], .., (1 - 1/B, 1]."""
    index = np.clip(np.ceil(np.asarray(confidence, np.float64) * num_bins).astype(int) - 1, 0, num_bins - 1)
    counts = np.bincount(index, minlength=num_bins)
    some = np.maximum(counts, 1)
    accuracy = np.bincount(index, weights=np.asarray(correct, np.float64), minlength=num_bins) / some
    means = np.bincount(index, weights=confidence, minlength=num_bins) / some
    return ConfidenceBins(accuracy, means, counts / max(len(index), 1))


def confidence_errors(bins: ConfidenceBins) -> dict[str, float]:
    """Returns ece, mce and rmsce: mean, largest and root mean square of abs(accuracy - confidence) over bins.

    Means are weighted by the shares of the bins (Naeini et al., AAAI 2015; Kumar et al., arXiv 1909.10155).

    Examples:
      >>> bins = confidence_bins(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, True, True, False]))
      >>> round(confidence_errors(bins)["ece"], 3)  # 0.1 too low twice, 0.1 too high twice
      0.1
    """
    gaps = np.abs(bins.accuracy - bins.confidence) * (bins.share > 0)
    return {
        "ece": float(bins.share @ gaps),
        "mce": float(gaps.max()),
        "rmsce": float(np.sqrt(bins.share @ gaps**2)),
    }


# ---- errors against uncertainties ----------------------------------------------------------------------


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the rank correlation of (n,) and (n,), ties at their mean rank; 0 where one of them is constant.

    Examples:
      >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 10.0, 100.0]))
      1.0
    """
    from scipy import stats

    ranks = [stats.rankdata(values) for values in (a, b)]
    left, right = (values - values.mean() for values in ranks)
    scale = np.sqrt((left @ left) * (right @ right))
    return float(left @ right / scale) if scale > 0 else 0.0


def average_ties(errors: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns errors (n,) of which those with equal scores (n,) are replaced by their mean.

    Sums over the data in the order of the scores are then those expected of a random order within ties.
    """
    _, index = np.unique(scores, return_inverse=True)
    return (np.bincount(index, weights=errors) / np.bincount(index))[index]


class ScoreBins(NamedTuple):
    """Lowest, highest and mean score, mean error and number of data of each bin, (num_bins,)."""

    low: np.ndarray
    high: np.ndarray
    score: np.ndarray
    error: np.ndarray
    count: np.ndarray  # pyright: ignore[reportIncompatibleMethodOverride]


def equal_count(scores: np.ndarray, errors: np.ndarray, num_bins: int = 10) -> ScoreBins:
    """Cuts data in the order of their scores (n,) into bins of (nearly) equal numbers; fewer bins if n is less."""
    errors = average_ties(errors, scores)
    order = np.argsort(scores, kind="stable")
    parts = [part for part in np.array_split(order, num_bins) if len(part)]
    rows = [(scores[p].min(), scores[p].max(), scores[p].mean(), errors[p].mean(), len(p)) for p in parts]
    return ScoreBins(*map(np.array, zip(*rows)))


def equal_width(scores: np.ndarray, errors: np.ndarray, num_bins: int = 10) -> ScoreBins:
    """Cuts the range of the scores (n,) into bins of equal width; means of empty ones are NaN."""
    edges = np.linspace(scores.min(), scores.max(), num_bins + 1)
    index = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, num_bins - 1)
    count = np.bincount(index, minlength=num_bins)
    some = np.where(count > 0, count, np.nan)
    score, error = (np.bincount(index, weights=values, minlength=num_bins) / some for values in (scores, errors))
    return ScoreBins(edges[:-1], edges[1:], score, error, count)


def top_decile_ratio(scores: np.ndarray, errors: np.ndarray) -> float:
    """Returns the mean error of the tenth of the data with the highest scores, over that of all; 1 if all are alike."""
    overall = errors.mean(dtype=np.float64)
    return float(equal_count(scores, errors).error[-1] / overall) if overall > 0 else 1.0


# ---- predicted variances of single values ---------------------------------------------------------------


class VarianceCalibration:
    """Errors of single values against their predicted variances, summed up as they come.

    Values are sorted into fine bins of the variance; `bins` joins these to bins of nearly equal numbers of values,
    whose sums are exact.
    """

    def __init__(self):
        self._count, self._variance, self._square = np.zeros((3, FINE_BINS))
        self._inside = np.zeros(len(LEVELS))

    def add(self, errors: np.ndarray, variances: np.ndarray) -> None:
        """Takes errors, of any shape, and their variances, of the same shape."""
        from scipy import special

        square, variances = np.square(errors, dtype=np.float64).ravel(), variances.astype(np.float64).ravel()
        place = np.log(np.maximum(variances, LEAST_VARIANCE) / LEAST_VARIANCE) / STEP
        index = np.minimum(place, FINE_BINS - 1).astype(int)
        for total, weights in ((self._count, None), (self._variance, variances), (self._square, square)):
            total += np.bincount(index, weights, minlength=len(total))
        limits = np.square(special.ndtri(0.5 + 0.5 * LEVELS))
        for number, limit in enumerate(limits):
            self._inside[number] += np.count_nonzero(square <= limit * variances)

    @property
    def count(self) -> int:
        """The number of values so far."""
        return int(self._count.sum())

    @property
    def root_mean_variance(self) -> float:
        """The root of the mean predicted variance of all values."""
        return float(np.sqrt(self._variance.sum() / self.count))

    def bins(self, num_bins: int = CLASSIFIER_BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns root mean variance, root mean squared error and number of values of each bin that has some."""
        centre = np.cumsum(self._count) - 0.5 * self._count
        index = np.minimum((num_bins * centre / self.count).astype(int), num_bins - 1)
        count, variance, square = (
            np.bincount(index, weights=values, minlength=num_bins)
            for values in (self._count, self._variance, self._square)
        )
        some = count > 0
        return np.sqrt(variance[some] / count[some]), np.sqrt(square[some] / count[some]), count[some]

    def ence(self, num_bins: int = CLASSIFIER_BINS) -> float:
        """Returns the expected normalised calibration error: the mean over bins of abs(RMV - RMSE) / RMV.

        RMV is the root of a bin's mean variance, RMSE that of its mean squared error (Levi et al., arXiv
        1905.11659). A bin without variance and without error counts as 0, one with error alone makes it infinite.
        """
        rmv, rmse, _ = self.bins(num_bins)
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(rmv == rmse, 0.0, np.abs(rmv - rmse) / rmv)
        return float(terms.mean())

    def coverage(self) -> np.ndarray:
        """Returns the share of values within the central interval of each of `LEVELS` of a Gaussian."""
        return self._inside / self.count


# ---- rejection -------------------------------------------------------------------------------------------


def retained_error(errors: np.ndarray, scores: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """Returns the mean error of what is left when these shares of the data, those of the highest scores, are rejected.

    errors, scores: (n,); rejected: (k,) in [0, 1). At least one datum is left. Among equal scores chance decides: the
    mean over its choices is returned.

    Examples:
      >>> errors, scores = np.array([4.0, 1.0, 1.0, 2.0]), np.array([0.9, 0.1, 0.2, 0.3])
      >>> print(retained_error(errors, scores, np.array([0.0, 0.25])).round(3))
      [2.    1.333]
    """
    ordered = average_ties(errors, scores)[np.argsort(scores, kind="stable")]
    kept = np.maximum(np.rint((1.0 - np.asarray(rejected)) * len(errors)).astype(int), 1)
    return np.cumsum(ordered, dtype=np.float64)[kept - 1] / kept


def area(curve: np.ndarray) -> float:
    """Returns the mean height of a curve (k,) at equal steps, by the trapezoidal rule."""
    return float((0.5 * (curve[1:] + curve[:-1])).mean())
