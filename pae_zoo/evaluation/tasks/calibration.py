"""Calibration: do the model's uncertainties say how large its errors are."""


import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from pae_zoo.evaluation.context import UNSUPPORTED, Context, to_unit
from pae_zoo.evaluation.metrics import calibration as metrics
from pae_zoo.evaluation.support.predictions import PredictionFlags, Predictions, mean_and_std, predict
from pae_zoo.evaluation.tasks.likelihood import bits_per_dim, has_bits
from pae_zoo.evaluation.tasks.reconstruction import standard_error
from pae_zoo.plotting import figures, uncertainty

SHOWN_IMAGES = 8
DENSITY_KEYS = ("calibration/log_prob", "calibration/log_prob_stderr", "calibration/nll_bits_per_dim")


@dataclasses.dataclass(frozen=True)
class Flags(PredictionFlags):
    """The flags of the task calibration."""


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """Errors of reconstructions against their predicted uncertainty: ranks, ENCE, coverage, predictive density.

    Errors are y - mean, y what the networks see, mean that of `predictive` with --test_samples draws; its epistemic
    variance is that of the drawn means, its aleatoric variance the observation noise. Needs a model with `predictive`.
    """
    found = predict(context)
    yield "calibration/num_samples", context.num_draws
    yield "calibration/sse", found.sse.mean()
    yield "calibration/sse_stderr", standard_error(found.sse)
    yield "calibration/mean_sse", (found.sse + found.spread).mean()
    yield from report_ranks(context, found)
    yield from report_values(context, found)
    yield from report_density(context, found)
    context.table("calibration.csv", found.columns(context))
    _show_images(context)


def report_ranks(context: Context, found: Predictions) -> Iterator[tuple[str, float]]:
    """Yields how the SSE of a datum goes with its uncertainty; saves the bins as table and picture."""
    scores = {"output": found.output, "latent": found.latent}
    if found.information is not None:
        scores["information"] = found.information
    deciles, widths, rows = {}, {}, []
    for name, score in scores.items():
        yield f"calibration/{name}/mean", score.mean()
        yield f"calibration/{name}/spearman", metrics.spearman(score, found.sse)
        yield f"calibration/{name}/top_decile_ratio", metrics.top_decile_ratio(score, found.sse)
        bins = {"count": metrics.equal_count(score, found.sse), "width": metrics.equal_width(score, found.sse)}
        label = "mutual information" if name == "information" else f"sum of {name} std"
        deciles[label] = bins["count"].error
        span = max(float(np.ptp(score)), 1e-300)
        centres = (0.5 * (bins["width"].low + bins["width"].high) - score.min()) / span
        widths[label] = (centres, bins["width"].error)
        rows += [(name, kind, number, *row) for kind, b in bins.items() for number, row in enumerate(zip(*b))]
    names = ("uncertainty", "bins", "bin", "low", "high", "mean", "sse", "count")
    context.table("calibration_bins.csv", dict(zip(names, zip(*rows))))
    title = f"{_title(context, found)}: error of the mean reconstruction by its uncertainty"
    label = "mean SSE (y squared)"
    figure = uncertainty.errors_by_uncertainty(deciles, widths, found.sse.mean(), title, label)
    _save(context, "calibration_errors", figure)


def report_values(context: Context, found: Predictions) -> Iterator[tuple[str, float]]:
    """Yields ENCE and coverage of single values; saves the reliability picture and its numbers."""
    parts = {"": found.total, "_epistemic": found.epistemic}
    for suffix, part in parts.items():
        yield f"calibration/ence{suffix}", part.ence()
        shares = dict(zip(metrics.LEVELS, part.coverage()))
        for level in (0.5, 0.9):
            yield f"calibration/coverage{100 * level:.0f}{suffix}", shares[level]
    yield "calibration/noise_std", found.noise.root_mean_variance
    yield "calibration/epistemic_std", found.epistemic.root_mean_variance
    drawn = {"epistemic + noise": found.total, "epistemic alone": found.epistemic, "noise alone": found.noise}
    bins = {name: part.bins() for name, part in drawn.items()}
    rows = [(name, *row) for name, columns in bins.items() for row in zip(*columns)]
    context.table("calibration_values.csv", dict(zip(("variance", "rmv", "rmse", "count"), zip(*rows))))
    columns = {"level": metrics.LEVELS, **{name: part.coverage() for name, part in drawn.items()}}
    context.table("calibration_coverage.csv", columns)
    groups = {name: (predicted, observed) for name, (predicted, observed, _) in bins.items()}
    covered = {name: part.coverage() for name, part in drawn.items()}
    title = f"{_title(context, found)}: predicted std against error, ENCE {found.total.ence():.3f}"
    figure = uncertainty.reliability(groups, covered, metrics.LEVELS, title, "units of y")
    _save(context, "calibration_reliability", figure)


def report_density(context: Context, found: Predictions) -> Iterator[tuple[str, Any]]:
    """Yields the log of the predictive density of the test data."""
    if found.log_prob is None:  # said already
        yield from ((key, UNSUPPORTED) for key in DENSITY_KEYS)
        return
    mean, size = found.log_prob.mean(), math.prod(context.dataset.event_shape)
    yield "calibration/log_prob", mean
    yield "calibration/log_prob_stderr", standard_error(found.log_prob)
    yield "calibration/nll_bits_per_dim", -mean / (size * math.log(2.0))
    if has_bits(context):
        yield "calibration/bits_per_dim", bits_per_dim(context, mean)


def _show_images(context: Context) -> None:
    """Writes data, reconstructions, means and variances over draws to TensorBoard, by the published code's tags."""
    if not context.is_image:
        return
    for name, split in (("train", context.dataset.train), ("val", context.dataset.valid)):
        x = split.x[:SHOWN_IMAGES]
        mean, std = mean_and_std(context, x)
        variance = figures.positive_rgb(std**2, max(float((std**2).mean(axis=-1).max()), 1e-12))
        rows = {"orig": to_unit(x), "recons": context.reconstruct(x), "mean_recons": mean}
        for tag, row in {**{tag: figures.to_rgb(row) for tag, row in rows.items()}, "var_recons": variance}.items():
            context.board.images(f"{name}/{tag}_images", row[None])


def _title(context: Context, found: Predictions) -> str:
    how = f"S = {context.num_draws}" if context.num_draws else "linearised"
    return f"{context.dataset.name}, {len(found.sse):,} test data, {how}"


def _save(context: Context, name: str, figure: Any) -> None:
    context.board.figure(name, figure)
    context.figure(name, figure)
