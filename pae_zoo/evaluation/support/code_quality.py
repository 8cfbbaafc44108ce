"""How well sampled latents have the place of codes: told apart or not, shares of cells and classes, spread."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pae_zoo.evaluation.context import Context
from pae_zoo.evaluation.metrics import neighbours, two_samples
from pae_zoo.evaluation.metrics.density_baselines import Whitening

CELLS = 50
# Test codes that a classifier tells from samples, codes that cells are fitted to, labelled codes that are searched.
MOST_TOLD, MOST_CLUSTERED, MOST_SEARCHED = 10_000, 20_000, 20_000
MEASURES = ("c2st", "c2st_stderr", "variance_ratio", "cells")
CLASS_MEASURES = ("classes", "class_gap")


class Shares(NamedTuple):
    """Shares of the training codes in cells, those of `num` rows."""

    shares: np.ndarray
    num: int


class CodeReference:
    """The codes, draws from `encode`, that sampled latents are compared with.

    Raises NotImplementedError for a model without codes, or where there are too few of them.
    """

    def __init__(self, context: Context):
        self.context, self.dataset = context, context.dataset
        self.train = context.draws(self.dataset.train.x, "codes of train")
        self.test = context.draws(self.dataset.test.x, "codes of test")
        least = min(len(self.train), len(self.test))
        if least < two_samples.LEAST_ROWS:
            raise NotImplementedError(f"Samples are told from codes by {two_samples.LEAST_ROWS} codes at least; there "
                                      f"are {least}.")
        self.white = Whitening(self.train)

    @functools.cached_property
    def _cells(self):
        from sklearn.cluster import KMeans

        codes = self.white.whiten(self.train[self.context.choose(len(self.train), MOST_CLUSTERED, "cells")])
        number = min(CELLS, len(np.unique(codes, axis=0)), len(codes) // 10)
        options: dict[str, Any] = {"n_init": 1, "random_state": self.context.seed & 0xFFFFFFFF}
        return KMeans(max(number, 1), **options).fit(codes)

    @functools.cached_property
    def _train_cells(self) -> Shares:
        return Shares(self._shares_of_cells(self.train), len(self.train))

    def _shares_of_cells(self, codes: np.ndarray) -> np.ndarray:
        found = self._cells.predict(self.white.whiten(codes))
        return np.bincount(found, minlength=self._cells.n_clusters) / len(codes)

    @functools.cached_property
    def _classes(self) -> tuple[np.ndarray, np.ndarray]:
        """Whitened labelled codes (m, K) and their classes (m,), numbered from 0."""
        chosen = self.context.choose(len(self.train), MOST_SEARCHED, "labelled codes")
        _, classes = np.unique(self.dataset.train.y, return_inverse=True)
        return self.white.whiten(self.train[chosen]), classes.reshape(-1)[chosen]

    @property
    def has_classes(self) -> bool:
        """Whether training data have one label each."""
        y = self.dataset.train.y
        return y is not None and np.ndim(y) == 1

    def shares_of_classes(self, codes: np.ndarray) -> np.ndarray:
        """Returns the share of each class among codes (n, K), each of the class of the nearest labelled code."""
        pool, classes = self._classes
        _, nearest = neighbours.nearest(self.white.whiten(codes), pool)
        return np.bincount(classes[nearest[:, 0]], minlength=classes.max() + 1) / len(codes)

    @functools.cached_property
    def _test_classes(self) -> np.ndarray:
        return self.shares_of_classes(self.test)

    def measure(self, latents: np.ndarray) -> dict[str, float]:
        """Returns the measures of sampled latents (n, K); NaN where they are not finite."""
        names = [*MEASURES, *(CLASS_MEASURES if self.has_classes else ())]
        if not np.isfinite(latents).all() or len(latents) < two_samples.LEAST_ROWS:
            return dict.fromkeys(names, float("nan"))
        seed = self.context.seed & 0xFFFFFFFF
        told = self.test[self.context.choose(len(self.test), MOST_TOLD, "told apart")]
        values = [*two_samples.c2st(told, latents[:MOST_TOLD], seed), two_samples.variance_ratio(self.train, latents)]
        values.append(two_samples.total_variation(self._train_cells.shares, self._shares_of_cells(latents)))
        if self.has_classes:
            shares = self.shares_of_classes(latents)
            values.append(two_samples.total_variation(self._test_classes, shares))
            values.append(np.abs(self._test_classes - shares).max())
        return dict(zip(names, values))

    def cells_of_sampling(self, num: int) -> float:
        """Returns the variation over cells that `num` further codes would have by sampling alone."""
        return two_samples.variation_of_sampling(*self._train_cells, num)


def reference(context: Context) -> CodeReference:
    """Returns the context's `CodeReference`, made by the first task that asks; see there for errors."""
    return context.once("codes to compare with", lambda: CodeReference(context))


def latent_quality(context: Context, name: str, sampled: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Any]]:
    """Yields, of each of the `sampled` latents (n, K) under the key that stands for it, how well they pass for codes.

    The measures are c2st, c2st_stderr, variance_ratio, cells and, where there are labels, classes and class_gap;
    <name>/cells_sampling is what cells are by sampling alone. "unsupported" where there are too few codes.
    """
    try:
        against = reference(context)
    except NotImplementedError as error:
        yield from context.unsupported([f"{key}/{measure}" for key in sampled for measure in MEASURES], error)
        return
    for key, latents in sampled.items():
        yield from ((f"{key}/{measure}", value) for measure, value in against.measure(latents).items())
        yield f"{name}/cells_sampling", against.cells_of_sampling(len(latents))
