"""Reconstruction error of the clean test data, in the units of x."""


import dataclasses
from collections.abc import Iterator

import numpy as np

from pae_zoo.core.records import SampleFlags
from pae_zoo.evaluation.context import Context, Projection, to_unit
from pae_zoo.plotting import figures, series

#: whether data may have missing values
TAKES_GAPS = True
SHOWN_IMAGES = 12
SHOWN_POINTS = 2000


@dataclasses.dataclass(frozen=True)
class Flags(SampleFlags):
    """The flags of the task reconstruction."""


def run(context: Context) -> Iterator[tuple[str, float]]:
    """Mean squared error on the test split, where in the image it arises, originals and reconstructions.

    xhat = model(x) is the deterministic reconstruction; errors are (x - xhat)^2 of clean x, for images in
    [0, 1] units (Boehm & Seljak, arXiv 2006.05479, print the same number for pixels in [-0.5, 0.5]). Of data with
    missing values those that were seen count.
    """
    x = context.dataset.test.x

    per_datum, per_pixel, start = [], np.zeros(context.dataset.event_shape), 0
    per_pixel_counts = np.zeros(context.dataset.event_shape)
    for xhat in context.stream(context.reconstruction, x, "reconstruction", brief=True):
        truth = to_unit(x[start : start + len(xhat)])
        seen = ~(np.isnan(truth) & context.takes_gaps)
        errors = np.where(seen, truth - xhat, 0) ** 2
        start += len(xhat)
        counts = seen.reshape(len(seen), -1).sum(axis=1)
        sums = errors.reshape(len(errors), -1).sum(axis=1, dtype=np.float64)
        per_datum.append((sums / np.maximum(counts, 1))[counts > 0])
        per_pixel += errors.sum(axis=0, dtype=np.float64)
        per_pixel_counts += seen.sum(axis=0)
    per_datum, per_pixel = np.concatenate(per_datum), per_pixel / np.maximum(per_pixel_counts, 1)

    yield "test/mse", per_datum.mean()
    yield "test/mse_stderr", standard_error(per_datum)
    yield "test/mse_pixel_min", per_pixel.min()
    yield "test/mse_pixel_max", per_pixel.max()

    title = f"{context.dataset.name}, {len(x):,} test data: mean squared error {per_datum.mean():.4g}"
    if context.is_image:
        draw_images(context, title)
        rms = np.sqrt(per_pixel.mean(axis=-1))
        label = "RMS of x - reconstruction, x in [0, 1]"
        title = f"{context.dataset.name}: error of each pixel\nover {len(x):,} test data"
        context.figure("residual_map", figures.heatmap(rms, title, label))
    elif context.is_series:
        draw_windows(context, title)
    else:
        draw_vectors(context, title)


def standard_error(values: np.ndarray) -> float:
    """Returns the standard error of the mean of values (n,); NaN for a single one."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def draw_images(context: Context, title: str) -> None:
    """Saves a grid of originals, reconstructions and their differences."""
    test = context.dataset.test
    chosen = context.choose(len(test.x), SHOWN_IMAGES, "reconstruction")
    xhat = context.reconstruct(test.x[chosen])
    x = context.without_gaps(test.x[chosen], xhat)
    limit = max(float(np.abs(x - xhat).mean(axis=-1).max()), 1e-6)
    table = np.stack(
        [figures.to_rgb(x), figures.to_rgb(xhat), figures.signed_rgb(x - xhat, limit)]
    )
    labels = ("original", "reconstruction", "difference")
    note = f"difference = original - reconstruction: red +{limit:.2f}, white 0, blue -{limit:.2f}"
    context.figure("reconstructions", figures.image_table(table, title, labels, note=note))
    context.board.images("data", table[:1])
    context.board.images("reconstruction_z", table[1:2])


def draw_windows(context: Context, title: str) -> None:
    """Saves windows of a series and their reconstructions as lines."""
    test = context.dataset.test
    chosen = context.choose(len(test.x), series.SHOWN, "reconstruction")
    groups = {"original": to_unit(test.x[chosen]), "reconstruction": context.reconstruct(test.x[chosen])}
    context.figure("reconstructions", series.panels(groups, title, context.channel_names))


def draw_vectors(context: Context, title: str) -> None:
    """Saves a scatter of data and their reconstructions in two dimensions."""
    test = context.dataset.test
    chosen = context.choose(len(test.x), SHOWN_POINTS, "reconstruction")
    xhat = context.reconstruct(test.x[chosen])
    x = context.without_gaps(test.x[chosen], xhat)
    groups = {"data": x, "reconstruction": xhat}
    context.figure("reconstructions", Projection(x, "x").draw(groups, title))
