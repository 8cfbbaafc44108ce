"""Inpainting and denoising: what hides behind a mask and noise, and how sure the model is of it."""


import dataclasses
from collections.abc import Iterator
from typing import Any, Optional

import numpy as np

from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.data import Dataset, masks
from pae_zoo.evaluation.context import Context, to_unit
from pae_zoo.evaluation.support.restoring import Restoration, RestorationFlags, Restorer
from pae_zoo.plotting import figures

SHOWN_IMAGES = 8


@dataclasses.dataclass(frozen=True)
class Flags(RestorationFlags):
    """The flags of the task restoration."""

    restoration_images: int = option(64, "Test data that the task restoration restores.", low=1, group=EVALUATION,
                                     smoke=4)


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """MAP and posterior of test data of which --mask hides a part and to which --noise is added.

    The posterior is that of u, the variable that `prior()` describes, given the seen values (Boehm & Seljak, arXiv
    2006.05479, sections 3.3 and 3.4, and the notebooks on corrupted images). Without --mask half of a datum is hidden:
    the left columns of an image, random values of a vector. Raises UserError for a mask that does not fit, and for
    noise where the model has no Gaussian likelihood or its preprocessing is not affine.
    """
    options, test = context.hparams, context.dataset.test
    shape = context.dataset.event_shape
    mask = masks.parse(options.mask) if options.mask else masks.default(shape)
    restorer = Restorer(context, options, context.seed_for("restoration"))
    chosen = context.choose(len(test.x), options.restoration_images, "restoration")
    truth = to_unit(test.x[chosen])
    seen = masks.make(mask, shape, len(chosen), context.seed)
    generator = np.random.default_rng([context.seed & 0xFFFFFFFF, 0x6E6F6973])
    noisy = truth + np.float32(options.noise) * generator.normal(size=truth.shape).astype(np.float32)
    found = restorer.restore(noisy, seen)
    yield from measure(found, truth, seen)
    write_table(context, found, truth, seen, chosen)
    if context.is_image:
        title = f"{context.dataset.name} restored: mask {mask.text}, noise {options.noise:g}"
        draw(context, found, truth, noisy, seen, title)


def check_data(flags: Any, dataset: Optional[Dataset] = None) -> None:
    """Raises UserError unless --mask fits the test data, where they are known."""
    if flags.mask and dataset is not None:
        num = min(flags.restoration_images, len(dataset.test.x))
        masks.make(masks.parse(flags.mask), dataset.event_shape, num, flags.seed)


def measure(found: Restoration, truth: np.ndarray, seen: np.ndarray) -> Iterator[tuple[str, Any]]:
    """Yields the metrics of restorations against the clean data (n, *event)."""
    yield "restoration/map_log_joint", found.log_joint.mean(dtype=np.float64)
    yield "restoration/encoding_log_joint", found.encoding_log_joint.mean(dtype=np.float64)
    yield "restoration/improved", np.mean(found.log_joint > found.encoding_log_joint)
    yield "restoration/map_decrement", np.median(found.decrement)
    for name, level in (("q25", 0.25), ("median", 0.5), ("q75", 0.75), ("q95", 0.95)):
        yield f"restoration/chi2/{name}", np.quantile(found.chi2, level)
    for part, where in (("seen", seen), ("hidden", ~seen)):
        if where.any():
            yield f"restoration/mse_map/{part}", np.square(found.map - truth)[where].mean(dtype=np.float64)
            yield f"restoration/mse_mean/{part}", np.square(found.mean - truth)[where].mean(dtype=np.float64)
            yield f"restoration/std/{part}", np.sqrt(np.square(found.std)[where].mean(dtype=np.float64))
    if found.positive_definite.any():
        yield "restoration/evidence", found.evidence[found.positive_definite].mean(dtype=np.float64)
    yield "restoration/not_positive_definite", np.sum(~found.positive_definite)
    yield "restoration/runs_not_positive_definite", found.flagged_runs.mean()
    yield "restoration/information_gain", found.information_gain.mean(dtype=np.float64)
    yield "restoration/modes", found.modes.mean()
    if found.draws_ess is not None:
        yield "restoration/draws_ess", np.median(found.draws_ess)
    if found.r_hat is not None and found.ess is not None and found.divergences is not None:
        yield "restoration/r_hat_max", found.r_hat.max()
        yield "restoration/ess_min", found.ess.min()
        yield "restoration/divergences", found.divergences.sum()


def write_table(context: Context, found: Restoration, truth: np.ndarray, seen: np.ndarray, chosen: np.ndarray) -> None:
    """Writes the numbers of every restored datum, with its index in the test split."""
    axes = tuple(range(1, truth.ndim))

    def over(values, where):
        count = where.sum(axis=axes)
        return np.where(count > 0, (values * where).sum(axis=axes, dtype=np.float64) / np.maximum(count, 1), np.nan)

    columns = {"index": chosen}
    if context.dataset.test.y is not None:
        columns["label"] = context.dataset.test.y[chosen]
    names = ("log_joint", "encoding_log_joint", "chi2", "decrement", "evidence", "information_gain", "modes")
    columns |= {name: getattr(found, name) for name in names}
    columns["positive_definite"] = found.positive_definite.astype(int)
    for part, where in (("seen", seen), ("hidden", ~seen)):
        columns[f"mse_map_{part}"] = over(np.square(found.map - truth), where)
        columns[f"mse_mean_{part}"] = over(np.square(found.mean - truth), where)
        columns[f"std_{part}"] = np.sqrt(over(np.square(found.std), where))
    for name in ("draws_ess", "r_hat", "ess", "divergences"):
        if getattr(found, name) is not None:
            columns[name] = getattr(found, name)
    context.table("restoration.csv", columns)


def draw(context: Context, found: Restoration, truth: np.ndarray, noisy: np.ndarray, seen: np.ndarray,
         title: str) -> None:
    """Saves a row per image: truth, what is given, the maximum, mean, some draws, and the std of every pixel."""
    rows = slice(0, SHOWN_IMAGES)
    limit = max(float(found.std[rows].mean(axis=-1).max()), 1e-6)
    draws = found.draws[rows]
    pictures = [figures.to_rgb(truth[rows]), figures.hidden_rgb(noisy[rows], seen[rows])]
    pictures += [figures.to_rgb(found.map[rows]), figures.to_rgb(found.mean[rows])]
    pictures += [figures.to_rgb(draws[:, k]) for k in range(draws.shape[1])]
    pictures.append(figures.positive_rgb(found.std[rows], limit))
    labels = ["truth", "given", "maximum", "mean", *(f"draw {k + 1}" for k in range(draws.shape[1])), "std"]
    note = f"blue: hidden; std over posterior draws: black 0, pale yellow {limit:.2f}"
    table = np.stack(pictures, axis=1)
    context.figure("restoration", figures.image_table(table, title, column_labels=labels, note=note))
    context.board.images("restored", table)
