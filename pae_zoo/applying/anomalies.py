"""Which of one's own data are unusual for a model: p-values by its validation data, and what is odd about each."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo import anomaly
from pae_zoo.core import files, reading, seeds
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.data import Dataset
from pae_zoo.evaluation.context import Context, to_unit
from pae_zoo.plotting import figures

#: a model's own score of everything together; a model that has none of them has all its scores combined
PREFERRED = ("spread", "either")
FILE = "calibration.npz"
# Validation data that calibrate, the least std of a residual as a share of that of all values, and data shown.
MOST_DATA, LEAST_STD, SHOWN = 5000, 0.05, 24


@dataclasses.dataclass(frozen=True)
class AnomalyFlags:
    """The flags of --outputs=anomalies."""

    fdr: float = hp.option(0.05, "--outputs=anomalies flags data so that in the mean at most this share of the flagged "
                           "is usual.", low=1e-6, high=0.999, group=hp.EVALUATION)
    contamination: float = hp.option(0.0, "In place of --fdr: flag what scores above this quantile, from the top, of "
                                     "validation data, as scikit-learn and PyOD mean it (0: by --fdr).", low=0.0,
                                     high=0.5, group=hp.EVALUATION)


def check(options: Any, given: set[str]) -> None:
    """Raises UserError for rules of what is flagged without the output `anomalies`, and for two of them."""
    for name in ("fdr", "contamination"):
        if name in given and "anomalies" not in options.outputs:
            raise UserError(f"--{name} is for --outputs=anomalies; add it to --outputs.")
    if {"fdr", "contamination"} <= given:
        raise UserError("--fdr and --contamination are two rules of what is flagged; give one of them.")


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What a model says of data that it was not trained on.

    scores: {name: (n,)}; residual_std: (*event), the root mean square of x less its reconstruction.
    """

    scores: dict[str, np.ndarray]
    residual_std: np.ndarray

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the scores that are put together."""
        best = [name for name in PREFERRED if name in self.scores]
        return (best[0],) if best else tuple(self.scores)


def measure(context: Context, dataset: Dataset) -> Calibration:
    """Returns the calibration of the context's model by validation data; raises UserError where there are none."""
    if not len(dataset.valid):
        raise UserError("--outputs=anomalies needs validation data, which calibrate the scores; this run has none "
                        "(--validation_fraction=0).")
    x = dataset.valid.x[context.choose(len(dataset.valid), MOST_DATA, "anomalies")]
    found = _compute(context, x)
    residual = found.pop("residual")
    std = np.sqrt(np.mean(np.square(residual, dtype=np.float64), axis=0))
    std = np.maximum(std, LEAST_STD * np.sqrt(np.mean(np.square(std))) + 1e-12)
    return Calibration(found, std.astype(np.float32))


def kept(run: Any) -> Any:
    """Returns the calibration that a run keeps, or None."""
    path = run.workdir / FILE
    if not path.exists():
        return None
    arrays = reading.npz(path)
    scores = {name.removeprefix("score_"): values for name, values in arrays.items() if name.startswith("score_")}
    return Calibration(scores, arrays["residual_std"]) if scores and "residual_std" in arrays else None


def keep(run: Any, calibration: Calibration) -> None:
    """Keeps a calibration with a run, for data that come when its training data are away."""
    arrays: dict[str, Any] = {f"score_{name}": values for name, values in calibration.scores.items()}
    with files.file(run.workdir / FILE) as temporary, open(temporary, "wb") as file:
        np.savez(file, residual_std=calibration.residual_std, **arrays)


def find(context: Context, options: Any, x: np.ndarray, calibration: Calibration) -> dict[str, np.ndarray]:
    """Returns what is said of data x (n, *event), under the names of the output `anomalies`.

    anomaly_score, nats; anomaly_pvalue; anomaly_flag, 1 where reported at --fdr or --contamination; anomaly_rank, 1 the
    most unusual; anomaly_residual, x less its reconstruction in units of its std over validation data.
    """
    found = _compute(context, x)
    residual = found.pop("residual") / calibration.residual_std
    combined = anomaly.Combined({name: calibration.scores[name] for name in calibration.chosen})
    said = combined.score({name: found[name] for name in calibration.chosen})
    flag, how = anomaly.discoveries(said.pvalues, options.fdr), f"at a false discovery rate of {options.fdr:g}"
    if options.contamination:
        flag = said.scores > np.quantile(combined.calibration, 1.0 - options.contamination)
        how = f"above the {1.0 - options.contamination:g} quantile of validation data"
    # Scores beyond all of the calibration share the least p-value; the tails tell them apart.
    order = np.argsort(np.where(np.isnan(said.scores), -np.inf, -said.scores), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    context.say(f"anomalies: {int(flag.sum())} of {len(x)} data are flagged {how}, by "
                f"{' and '.join(calibration.chosen)} against "
                f"{len(combined.calibration):,} validation data; the least p-value there can be is "
                f"{1 / (1 + len(combined.calibration)):.2g}.")
    if x.ndim == 4 and not context.part:
        draw(context, to_unit(x[order[:SHOWN]]), residual[order[:SHOWN]], said.pvalues[order[:SHOWN]])
    return {"anomaly_score": said.scores.astype(np.float32), "anomaly_pvalue": said.pvalues.astype(np.float32),
            "anomaly_flag": flag.astype(np.int64), "anomaly_rank": rank,
            "anomaly_residual": residual.astype(np.float32)}


def draw(context: Context, x: np.ndarray, residual: np.ndarray, pvalues: np.ndarray) -> None:
    """Saves a page of the most unusual images (n, H, W, C), each beside its residual, with p-values."""
    limit = 5.0
    pairs = np.stack([figures.to_rgb(x), figures.positive_rgb(np.abs(residual).mean(axis=-1, keepdims=True), limit)], 1)
    columns = 3
    rows = -(-len(pairs) // columns)
    table = np.ones((rows * columns, *pairs.shape[1:]), pairs.dtype)
    table[: len(pairs)] = pairs
    table = table.reshape(rows, 2 * columns, *pairs.shape[2:])
    labels = [f"p {p:.1g}" for p in pvalues[::columns]]
    context.figure("anomalies", figures.image_table(
        table, "the most unusual, and where they differ from their reconstructions", row_labels=labels,
        note=f"right: |residual| in its stds, black 0, yellow {limit:g}; p: the first of a row"))


def calibrated(context: Context, run: Any, changed: bool, load: Callable[[], Dataset]) -> Calibration:
    """Returns the calibration of a run, made by the validation data of load() and kept where there is none.

    One of a model with other settings than the run's own (`changed`) is made anew and not kept. The context remembers
    it for the output. Raises UserError where the data are not there.
    """
    def make() -> Calibration:
        if not changed and kept(run) is not None:
            return kept(run)
        found = measure(context, load())
        if not changed:
            keep(run, found)
        return found

    return context.once("calibration", make)


class _Values:
    """The scores and the residual of a batch, as one function that is compiled once."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def of(self, x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = self.model.ood_scores(x, seeds.stream(seed, "apply/anomalies"))
        residual = tf.cast(x, tf.float32) - tf.cast(self.model(x), tf.float32)
        if self.model.takes_gaps:  # of a value that is missing nothing is odd
            residual = tf.where(tf.math.is_nan(x), 0.0, residual)
        return {**scores, "residual": residual}


def _compute(context: Context, x: np.ndarray) -> dict[str, np.ndarray]:
    return context.map_batches(context.once("anomaly values", lambda: _Values(context.model)).of, x, "anomalies")


def served(calibration: Calibration, model: Any) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    """Returns the function of the signature anomaly by a run's calibration: (x, seed) -> score, pvalue, residual."""
    combined = anomaly.Combined({name: calibration.scores[name] for name in calibration.chosen})
    values = _Values(model)

    def function(x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        found = values.of(x, seed)
        return {**combined.traced(found), "residual": found["residual"] / calibration.residual_std}

    return function
