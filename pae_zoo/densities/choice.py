"""How many components a mixture has and how long EM runs: what is best on data held out."""

import dataclasses
import sys
from typing import Any, Optional

import numpy as np
from tqdm import tqdm

from pae_zoo.core import labels as labels_lib
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.densities import em
from pae_zoo.densities.factor_em import Factors

MOST_PASSES, TRIAL_PASSES = 40, 4
# EM ends when so many passes together gain less than this on data held out, nats.
PATIENCE, LEAST_GAIN = 3, 1e-3
# A component is left to no fewer rows than half its numbers, nor than this.
LEAST_ROWS = 20
MOST_COMPONENTS = 256
# Up to so many rows scale matrices may be drawn towards their mean, as by a multiple of D rows.
SMALL, PSEUDO_COUNTS = 5000, (0.0, 1.0, 4.0, 16.0)
HELD_OUT = 5


@dataclasses.dataclass
class _Fit:
    """A mixture under way: where EM stands, what was best on data held out, and after how many passes."""

    now: Any
    best: Any
    value: float
    passes: int
    best_passes: int
    pseudo_counts: float
    values: list[float]

    @property
    def components(self) -> int:
        return len(self.best.log_weights)


class _Search:
    """Fits mixtures to rows and judges them on others; `bar` is told of every pass."""

    def __init__(self, train: em.Data, valid: em.Data, student: bool, seed: int, bar: tqdm, method: Any):
        self.train, self.valid, self.student, self.seed, self.bar = train, valid, student, seed, bar
        self.method = method

    def begin(self, num_components: int, pseudo_counts: float) -> _Fit:
        found = self.method.start(self.train, num_components, self.student, self.seed, pseudo_counts)
        value = self.method.log_likelihood(found, self.valid)
        return _Fit(found, found, value, 0, 0, pseudo_counts, [value])

    def go_on(self, fit: _Fit, passes: int) -> None:
        """Takes up to so many passes in all, fewer where data held out gain nothing more."""
        while fit.passes < passes and not _settled(fit.values):
            fit.now, _ = self.method.step(fit.now, self.train, fit.pseudo_counts)
            value, fit.passes = self.method.log_likelihood(fit.now, self.valid), fit.passes + 1
            fit.values.append(value)
            if value > fit.value:
                fit.best, fit.value, fit.best_passes = fit.now, value, fit.passes
            self.bar.set_description_str(f"mixture of {fit.components}, pass {fit.passes}, valid {-fit.value:.4g}")
            self.bar.update()

    def trial(self, num_components: int, pseudo_counts: float) -> _Fit:
        fit = self.begin(num_components, pseudo_counts)
        self.go_on(fit, TRIAL_PASSES)
        return fit

    def best_number(self, start: int, most: int, pseudo_counts: float) -> _Fit:
        """Doubles the number of components while that is better after a few passes, or else halves it."""
        best = self.trial(start, pseudo_counts)
        for factor in (2.0, 0.5):
            number, first = start, best
            while True:
                number = int(number * factor)
                if not 1 <= number <= most:
                    break
                other = self.trial(number, pseudo_counts)
                if not other.value > best.value:
                    break
                best = other
            if best is not first:
                break
        return best


def _settled(values: list[float]) -> bool:
    """Whether the last passes gained nothing worth a pass on data held out."""
    if len(values) <= PATIENCE:
        return False
    return max(values[-PATIENCE:]) - max(values[:-PATIENCE]) < LEAST_GAIN * PATIENCE


def most_components(num_rows: float, numbers: int) -> int:
    """Returns the largest number of components, of so many numbers each, that is tried for so many rows."""
    return int(np.clip(num_rows // max(numbers // 2, LEAST_ROWS), 1, MOST_COMPONENTS))


def fit(x: np.ndarray, held_out: Optional[np.ndarray], weights: Optional[np.ndarray], num_components: int,
        student: bool, seed: int, verbose: bool = False, num_factors: int = 0) -> tuple[Any, dict[str, Any]]:
    """Returns a mixture fitted to whitened x (n, D), and how it was chosen; the arguments are those of `Mixture.fit`.

    The mixture is `Parameters`, with factors `FactorParameters`.
    Without validation data a fifth of the rows chooses components, pseudo-counts and passes; then all rows are fitted.
    Raises UserError for more components than rows.
    """
    x = np.asarray(x, np.float64)
    if weights is not None:
        weights = np.asarray(weights, np.float64)
        x, weights = x[weights > 0], weights[weights > 0]
    if num_components > len(x):
        raise UserError(f"A mixture of {num_components} components needs as many rows; received {len(x)}. Ask for "
                        "fewer components, or for 0, which chooses their number.")
    method: Any = Factors(num_factors) if num_factors else em
    whole = em.Data(x, weights)
    alone = held_out is None or not len(held_out)
    train, valid = _split(whole, seed) if alone else (whole, em.Data(np.asarray(held_out, np.float64)))
    with tqdm(unit="pass", disable=not (verbose and sys.stderr.isatty()), dynamic_ncols=True, leave=False) as bar:
        search = _Search(train, valid, student, seed, bar, method)
        chosen = _choose(search, num_components)
        search.go_on(chosen, MOST_PASSES)
        found = chosen.best
        if alone:
            found = method.start(whole, chosen.components, student, seed, chosen.pseudo_counts)
            for _ in range(chosen.best_passes):
                found, _ = method.step(found, whole, chosen.pseudo_counts)
                bar.update()
    return found, {"components": len(found.log_weights), "passes": chosen.best_passes,
                   "pseudo_counts": chosen.pseudo_counts, "mixture_nll": -chosen.value}


def fit_labels(x: np.ndarray, labels: Optional[np.ndarray], held_out: Optional[np.ndarray],
               held_out_labels: Optional[np.ndarray], weights: Optional[np.ndarray], mixture: Any,
               verbose: bool = False) -> tuple[Any, dict[str, Any]]:
    """Returns a mixture whose components belong to labels, each label's fitted to its own rows, and how.

    `mixture` says how many labels and components there are, and of which kind; a label without rows of its own gets
    those of all. Raises UserError without labels, or for more components than rows.
    """
    if labels is None or (held_out is not None and held_out_labels is None):
        raise UserError(f"This mixture has {mixture.num_labels} labels; give those of the rows.")
    x, labels = np.asarray(x, np.float64), labels_lib.checked(labels, mixture.num_labels)
    found, reports = [], []
    for label in range(mixture.num_labels):
        rows = labels == label
        rows = rows if rows.any() else np.ones(len(x), bool)
        judge = None
        if held_out is not None and held_out_labels is not None:
            judge = np.asarray(held_out)[np.asarray(held_out_labels) == label]
        one, report = fit(x[rows], judge, None if weights is None else weights[rows],
                          mixture.num_components // mixture.num_labels, mixture.student, mixture.seed, verbose,
                          mixture.num_factors)
        found.append(one)
        reports.append((report, int(rows.sum())))
    most = max(len(one.log_weights) for one in found)
    parts = [one.padded(most) for one in found]
    joined = type(parts[0])(*(None if pieces[0] is None else np.concatenate(pieces) for pieces in zip(*parts)))
    rows_of = np.asarray([count for _, count in reports], np.float64)
    joined = joined._replace(log_weights=joined.log_weights - np.log(mixture.num_labels))
    return joined, {
        "components": most * mixture.num_labels, "passes": max(report["passes"] for report, _ in reports),
        "pseudo_counts": max(report["pseudo_counts"] for report, _ in reports),
        "mixture_nll": float(np.average([report["mixture_nll"] for report, _ in reports], weights=rows_of))}


def _choose(search: _Search, num_components: int) -> _Fit:
    """Returns the mixture that is best after a few passes, of the numbers and pseudo-counts that are tried."""
    num_rows, num_dims = len(search.train.x), search.train.num_dims
    # Factors leave a component few numbers, which need no drawing together.
    counts = PSEUDO_COUNTS if num_rows <= SMALL and search.method is em else PSEUDO_COUNTS[:1]
    if num_components:
        trials = [search.trial(min(num_components, num_rows), count * num_dims) for count in counts]
    else:
        most = most_components(search.train.total, search.method.numbers(num_dims))
        trials = [search.best_number(max(1, most // 4), most, count * num_dims) for count in counts]
    return max(trials, key=lambda fit: fit.value)


def _split(whole: em.Data, seed: int) -> tuple[em.Data, em.Data]:
    """Returns four fifths of the rows and one fifth; of fewer than five rows all, twice."""
    num = len(whole.x)
    if num < HELD_OUT:
        return whole, whole
    order = np.random.default_rng(seeds.integer(seed & 0x7FFFFFFF, seeds.number_of("mixture/split"))).permutation(num)
    parts = order[num // HELD_OUT :], order[: num // HELD_OUT]
    first, second = (em.Data(whole.x[rows], None if whole.weights is None else whole.weights[rows]) for rows in parts)
    return first, second
