"""Figures of merit of scores that tell two sets of data apart, and their bootstrap intervals, from arrays alone."""

from typing import NamedTuple

import numpy as np

LEVELS = {"fpr95": 0.95, "fpr80": 0.80}
# Resampled counts that are held at once.
CHUNK = 2**22


class Ranked(NamedTuple):
    """Scores of both sets by their distinct values, in rising order: how many data of each set have which, (u,)."""

    inside: np.ndarray
    outside: np.ndarray


def ranked(inside: np.ndarray, outside: np.ndarray) -> Ranked:
    """Returns scores (n,) and (m,) by their distinct values; infinities keep their order, NaN counts as the highest."""
    scores = np.concatenate([inside, outside]).astype(np.float64)
    _, ranks = np.unique(np.where(np.isnan(scores), np.inf, scores), return_inverse=True)
    parts = (ranks[: len(inside)], ranks[len(inside) :])
    return Ranked(*(np.bincount(part, minlength=ranks.max() + 1) for part in parts))


def detection(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """Returns auroc, auprc, auprc_in, fpr95, fpr80 of scores (n,) and (m,); `outside` are the positives.

    auroc = P(outside > inside) + P(outside = inside) / 2; auprc is the average precision; auprc_in that of `inside` as
    positives, found by low scores; fpr95 is the least false positive rate at which at least 95 % of the positives are
    found.
    """
    found = ranked(inside, outside)
    return {name: float(values[0]) for name, values in figures(found.inside[None], found.outside[None]).items()}


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Returns P(outside > inside) + P(outside = inside) / 2 of scores (n,) and (m,).

    Examples:
      >>> auroc(np.array([1.0, 2.0, 3.0]), np.array([2.5, 4.0]))  # 5 of 6 pairs in order
      0.8333333333333334
    """
    return detection(inside, outside)["auroc"]


def auroc_stderr(inside: np.ndarray, outside: np.ndarray) -> float:
    """Returns the bootstrap standard error of the AUROC of scores (n,) and (m,), each set resampled by itself.

    K_ij = [out_j > in_i] + [out_j = in_i] / 2 has the mean AUROC; its variance over pairs splits into that of row
    means, of column means and a rest. The mean of resampled rows and columns then has the variance
    rows / n + columns / m + rest / (n m) exactly: what infinitely many resamples would give.
    """
    counts_in, counts_out = ranked(inside, outside)
    n, m = len(inside), len(outside)
    columns = np.repeat((np.cumsum(counts_in) - 0.5 * counts_in) / n, counts_out)
    rows = np.repeat(1.0 - (np.cumsum(counts_out) - 0.5 * counts_out) / m, counts_in)
    mean, ties = columns.mean(), counts_in @ counts_out / (n * m)
    rest = mean - 0.25 * ties - mean**2 - rows.var() - columns.var()
    return float(np.sqrt(max(rows.var() / n + columns.var() / m + rest / (n * m), 0.0)))


def intervals(
    inside: np.ndarray, outside: np.ndarray, num_resamples: int, generator: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """Returns (2.5 %, 97.5 %) quantiles of `detection`'s figures over bootstrap resamples of each set by itself.

    Only counts of distinct scores are resampled, which sorts once for all.
    """
    counts = ranked(inside, outside)
    places = [np.repeat(np.arange(len(part)), part) for part in counts]
    size = len(counts.inside)
    rows = max(CHUNK // max(size, len(inside), len(outside)), 1)
    parts = []
    for start in range(0, num_resamples, rows):
        number = min(rows, num_resamples - start)
        parts.append(figures(*(_resampled(place, size, number, generator) for place in places)))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: (float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975)))
            for name, values in joined.items()}


def curves(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns false positive rate, true positive rate (recall) and precision, each (u,), for falling thresholds."""
    counts = ranked(inside, outside)
    true, false = (np.cumsum(part[::-1]) for part in (counts.outside, counts.inside))
    return false / len(inside), true / len(outside), true / (true + false)


def _resampled(places: np.ndarray, size: int, number: int, generator: np.random.Generator) -> np.ndarray:
    """Returns counts (number, size) of resamples of `places` (n,), which lie in range(size)."""
    drawn = places[generator.integers(0, len(places), (number, len(places)))]
    drawn += size * np.arange(number)[:, None]
    return np.bincount(drawn.ravel(), minlength=number * size).reshape(number, size)


def figures(inside: np.ndarray, outside: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the figures of merit (b,) of counts (b, u) of both sets by distinct scores in rising order."""
    n, m = inside.sum(axis=1)[:, None], outside.sum(axis=1)[:, None]
    below = np.cumsum(inside, axis=1)
    found = {"auroc": (outside * (below - 0.5 * inside)).sum(axis=1) / (n * m)[:, 0]}
    # From the highest score down: how many of each set are found.
    true, false = (np.cumsum(counts[:, ::-1], axis=1) for counts in (outside, inside))
    found["auprc"] = (outside[:, ::-1] * true / np.maximum(true + false, 1)).sum(axis=1) / m[:, 0]
    above = np.cumsum(outside, axis=1)
    found["auprc_in"] = (inside * below / np.maximum(below + above, 1)).sum(axis=1) / n[:, 0]
    for name, level in LEVELS.items():
        first = np.argmax(true >= level * m * (1.0 - 1e-12), axis=1)
        found[name] = np.take_along_axis(false, first[:, None], axis=1)[:, 0] / n[:, 0]
    return found
