"""Do intervals hold the truth as often as they say: quantiles of draws, and shares of what lies between them."""

import numpy as np

#: quantiles by the names of their keys; pairs of them bound the intervals of `INTERVALS`
QUANTILES = {"q05": 0.05, "q10": 0.10, "q25": 0.25, "q75": 0.75, "q90": 0.90, "q95": 0.95}
#: intervals by the names of their keys: the quantiles that bound them
INTERVALS = {"coverage_50": ("q25", "q75"), "coverage_80": ("q10", "q90"), "coverage_90": ("q05", "q95")}


def quantiles(draws: np.ndarray) -> np.ndarray:
    """Returns the quantiles of draws (S, ...), stacked in the order of `QUANTILES`: (6, ...).

    The k-th of S ordered draws is the k / (S + 1) quantile, so that a further draw lies below it so often.
    """
    return np.quantile(draws, list(QUANTILES.values()), axis=0, method="weibull").astype(np.float32)


def covered(truth: np.ndarray, bounds: np.ndarray) -> dict[str, np.ndarray]:
    """Returns, by the names of `INTERVALS`, which values of truth (...) lie between quantiles (6, ...)."""
    places = list(QUANTILES)
    return {name: (truth >= bounds[places.index(low)]) & (truth <= bounds[places.index(high)])
            for name, (low, high) in INTERVALS.items()}


def shares(truth: np.ndarray, bounds: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    """Returns the share of the counted values (n, ...) of n data that each interval holds, and <name>_stderr.

    The values of a datum are not independent: the standard error is that of the data's own shares, each weighed by its
    counted values.
    """
    found = {}
    axes = tuple(range(1, truth.ndim))
    number = counted.sum(axis=axes, dtype=np.float64)
    for name, inside in covered(truth, bounds).items():
        hits = (inside & counted).sum(axis=axes, dtype=np.float64)
        share = hits.sum() / number.sum()
        found[name] = float(share)
        found[f"{name}_stderr"] = float(np.sqrt(np.sum((hits - share * number) ** 2)) / number.sum())
    return found
