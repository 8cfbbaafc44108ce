"""The simple detectors of --baselines, fitted to training data, with the seconds that each takes."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from pae_zoo.evaluation.context import Context, sentence, to_unit
from pae_zoo.evaluation.metrics import outlier_baselines

# Training data that detectors are fitted to at most.
MOST_FITTED = 20_000


class Outliers:
    """Every detector of `outlier_baselines` that the model has rows for: those of codes need a code of each datum."""

    def __init__(self, context: Context):
        self.context = context
        self.size = int(context.model.latent_dim)
        train = context.dataset.train.x
        x = train[context.choose(len(train), MOST_FITTED, "detectors")]
        values = to_unit(x).reshape(len(x), -1)
        self.centre, self.scale = np.zeros(1), np.ones(1)
        if len(context.dataset.event_shape) == 1:  # columns in units of their own
            with np.errstate(all="ignore"):
                self.centre, scale = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
            self.scale = np.where(scale > 0, scale, 1.0)
        self.rows = self._values(x)
        try:
            self.rows["codes"] = context.draws(x, "codes of detectors")
        except NotImplementedError as error:
            context.say(f"ood: no baselines of codes. {sentence(error)}")
        self.scores, self.seconds = {}, {}
        seed = context.seed & 0xFFFFFFFF
        for name, detector in outlier_baselines.DETECTORS.items():
            if detector.of in self.rows:
                start = time.perf_counter()
                self.scores[name] = outlier_baselines.fit(detector, self.rows[detector.of], self.size, seed)
                self.seconds[name] = time.perf_counter() - start
        context.say(f"ood: baselines are fitted to {len(x):,} of {len(train):,} training data.")

    def _values(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the values of data as rows for detectors, vectors in units of the training data's columns."""
        values = (to_unit(x).reshape(len(x), -1) - self.centre) / self.scale
        return {"pixels": values, "rows": values} if len(self.context.dataset.event_shape) == 1 else {"pixels": values}

    def of(self, x: np.ndarray, what: str) -> dict[str, np.ndarray]:
        """Returns the scores (n,) of x (n, *event) as baseline_<name>, and counts the time that they take."""
        rows = self._values(x)
        if "codes" in self.rows:
            rows["codes"] = self.context.draws(x, f"codes of {what}")
        found = {}
        for name, score in self.scores.items():
            start = time.perf_counter()
            found[f"baseline_{name}"] = score(rows[outlier_baselines.DETECTORS[name].of])
            self.seconds[name] += time.perf_counter() - start
        return found

    def times(self) -> Iterator[tuple[str, Any]]:
        """Yields ood/baselines/<name>/seconds: of its fit and of all its scores, without the codes."""
        yield from ((f"ood/baselines/{name}/seconds", value) for name, value in self.seconds.items())
