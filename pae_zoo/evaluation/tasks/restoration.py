"""Inpainting and denoising: what hides behind a mask and noise, and how sure the model is of it."""


import dataclasses
import re
import time
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, NamedTuple, Optional

import numpy as np

from pae_zoo.core.errors import UserError
from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.data import Dataset, masks
from pae_zoo.evaluation.context import Context, to_unit
from pae_zoo.evaluation.metrics import coverage, similar
from pae_zoo.evaluation.metrics.linear_restoration import LinearMixture
from pae_zoo.evaluation.support import maxima
from pae_zoo.evaluation.support import restored_pictures as pictures
from pae_zoo.evaluation.support.observing import Noise, averaged, check_blocks
from pae_zoo.evaluation.support.restored import Restoration
from pae_zoo.evaluation.support.restoring import RestorationFlags, Restorer, mask_of
from pae_zoo.plotting import figures

SHOWN_IMAGES = 8
LABEL = r"[\w.+-]{1,60}"
# Training data that are searched for neighbours, and that a mixture is fitted to.
MOST_SEARCHED = 20_000


@dataclasses.dataclass(frozen=True)
class Flags(RestorationFlags):
    """The flags of the task restoration."""

    restoration_images: int = option(64, "Test data that the task restoration restores, and data that it simulates.",
                                     low=1, group=EVALUATION, smoke=4)
    restoration_label: str = option("", "A word that keys, files and pictures end in, so that several corruptions of a "
                                    "run stay beside each other; 'auto' makes it of --mask, --noise and others.",
                                    group=EVALUATION)

    def check(self) -> None:
        """Raises UserError for a label that is no word."""
        if self.restoration_label and not re.fullmatch(LABEL, self.restoration_label):
            raise UserError(f"--restoration_label={self.restoration_label} is no word of letters, digits, - . _ and +.")


class Corruption(NamedTuple):
    """How data become incomplete: what is seen of them (n, *event), side of the blocks or 0, the noise."""

    seen: np.ndarray
    side: int
    noise: Noise

    @property
    def blocks(self) -> Optional[np.ndarray]:
        """The number of the block of each value, flat; None where pixels are seen."""
        if not self.side:
            return None
        height, width, channels = self.seen.shape[1:]
        rows, columns = (np.arange(size) // self.side for size in (height, width))
        first = rows[:, None] * (columns[-1] + 1) + columns
        return (channels * first[..., None] + np.arange(channels)).ravel()

    @property
    def counted(self) -> np.ndarray:
        """The values (n, *event) that a restoration is judged by: the hidden ones, all where none is hidden."""
        return self.seen if self.side or self.seen.all() else ~self.seen

    def corrupt(self, x: np.ndarray, seed: int) -> np.ndarray:
        """Returns x (n, *event) as it is given to be restored; the pixels of a block share its mean and noise."""
        noise = np.random.default_rng([seed & 0xFFFFFFFF, 0x6E6F6973]).normal(size=x.shape).astype(np.float32)
        if not self.side:
            return x + self.noise.std_at(x) * noise
        # The mean of the noise of side x side pixels has a std of 1 / side.
        return averaged(x, self.side) + np.float32(self.noise.std * self.side) * averaged(noise, self.side)


def label_of(options: Any) -> str:
    """Returns what keys and files of a restoration end in: --restoration_label, made of the corruption for 'auto'."""
    if options.restoration_label != "auto":
        return options.restoration_label
    named = [("", options.mask), ("means", options.downsample), ("noise", options.noise),
             ("map-", PurePath(options.noise_map).stem), ("gain", options.noise_gain)]  # fmt: skip
    words = [f"{name}{value}" if isinstance(value, str) else f"{name}{value:g}" for name, value in named if value]
    return "+".join(re.sub(r"[^A-Za-z0-9.-]+", "_", word) for word in words) or "half"


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """MAP and posterior of test data of which --mask hides a part and to which --noise is added, or blurred ones.

    The posterior is that of u, the variable that `prior()` describes, given the seen values (Boehm & Seljak, arXiv
    2006.05479, sections 3.3 and 3.4, and the notebooks on corrupted images). Without --mask half of a datum is hidden:
    the left columns of an image, random values of a vector. The same is done to as many data that the model itself
    makes, of which its intervals must hold what they say. Raises UserError for a mask or blocks that do not fit, and
    for noise where the model has no Gaussian likelihood or its preprocessing is not affine.
    """
    label = label_of(context.hparams)
    if not label:
        yield from _run(context)
        return
    inner = dataclasses.replace(context, variant=f"{context.variant}@{label}")
    yield from ((f"{key}@{label}", value) for key, value in _run(inner))


def _run(context: Context) -> Iterator[tuple[str, Any]]:
    options, test = context.hparams, context.dataset.test
    shape, side = context.dataset.event_shape, options.downsample
    mask = mask_of(options) if side or options.mask else masks.default(shape)
    restorer = Restorer(context, options, context.seed_for("restoration"))
    chosen = context.choose(len(test.x), options.restoration_images, "restoration")
    truth = to_unit(test.x[chosen])
    how = Corruption(masks.make(mask, shape, len(chosen), context.seed), side, restorer.noise)
    given = how.corrupt(truth, context.seed)
    found = restorer.restore(given, how.seen)
    yield from measure(found, truth, how.seen)
    yield from covered("restoration", found, truth, context.draws(truth, "restoration codes"), how, context.model)
    yield from simulate(context, restorer, how)
    yield from baselines(context, truth, given, how)
    write_table(context, found, truth, how.seen, chosen)
    if found.resampled is not None:
        context.say(f"restoration: {found.resampled.sum()} of {len(truth)} data have enough effective candidates for "
                    "their draws to be resampled; the draws of the others are those of the mixture.")
    if context.is_image:
        what = f"means of {side}x{side} pixels" if side else f"mask {mask.text}"
        title = f"{context.dataset.name} restored: {what}, noise {restorer.noise.text}"
        draw(context, found, truth, given, how.seen, title)
        draw_draws(context, found, truth, given, how.seen, title)
    shown = figures.hidden_rgb(given, how.seen) if context.is_image else None
    pictures.save(context, found, restorer, shown, chosen)
    context.save(f"restoration{context.suffix}.npz", lambda path: _archive(path, found, chosen, how))


def check_data(flags: Any, dataset: Optional[Dataset] = None) -> None:
    """Raises UserError unless --mask and --downsample fit the test data, where they are known."""
    if dataset is None:
        return
    if flags.downsample:
        check_blocks(tuple(dataset.event_shape), flags.downsample)
    elif flags.mask:
        num = min(flags.restoration_images, len(dataset.test.x))
        masks.make(masks.parse(flags.mask), dataset.event_shape, num, flags.seed)


def covered(
    name: str, found: Restoration, truth: np.ndarray, codes: np.ndarray, how: Corruption, model: Any
) -> Iterator[tuple[str, Any]]:
    """Yields how much of the truth (n, *event), and of its codes (n, K), lies in intervals of 50, 80 and 90 %."""
    for key, value in coverage.shares(truth, np.moveaxis(found.quantiles, 1, 0), how.counted).items():
        yield f"{name}/{key}", value
    u = model.base_from_latent(codes).numpy()
    for key, value in coverage.shares(u, np.moveaxis(found.code_quantiles, 1, 0), np.ones(u.shape, bool)).items():
        yield f"{name}/codes/{key}", value


def simulate(context: Context, restorer: Restorer, how: Corruption) -> Iterator[tuple[str, Any]]:
    """Yields the coverage of data that the model makes, of which everything is known, and the time that it takes."""
    latents, truth = restorer.simulated(len(how.seen))
    start = time.perf_counter()
    found = restorer.restore(how.corrupt(truth, context.seed + 1), how.seen)
    # All has been compiled for the test data.
    yield "restoration/seconds", (time.perf_counter() - start) / len(truth)
    yield from covered("restoration/simulated", found, truth, latents, how, context.model)
    yield "restoration/simulated/chi2/median", np.median(found.chi2)


def baselines(context: Context, truth: np.ndarray, given: np.ndarray, how: Corruption) -> Iterator[tuple[str, Any]]:
    """Yields what the nearest training data, and a mixture over principal components, say in the model's place."""
    train = context.dataset.train.x
    clean = to_unit(train[context.choose(len(train), MOST_SEARCHED, "restoration baselines")])
    shown = averaged(clean, how.side) if how.side else clean
    x, seen, shown, clean = (values.reshape(len(values), -1) for values in (given, how.seen, shown, clean))
    start = time.perf_counter()
    yield from _judged("knn", *similar.restore(x, seen, shown, clean), truth, how, start)
    fitted = LinearMixture(clean, int(context.model.latent_dim), context.seed & 0xFFFFFFFF)
    yield "restoration/linear_mixture/fit_seconds", time.perf_counter() - start
    start = time.perf_counter()
    found = fitted.restore(x, seen, how.noise.typical(clean.reshape(-1, *truth.shape[1:])), how.blocks)
    yield from _judged("linear_mixture", *found, truth, how, start)


def _judged(
    name: str, mean: np.ndarray, bounds: np.ndarray, truth: np.ndarray, how: Corruption, start: float
) -> Iterator[tuple[str, Any]]:
    yield f"restoration/{name}/seconds", (time.perf_counter() - start) / len(truth)
    square = np.square(mean.reshape(truth.shape) - truth)
    yield f"restoration/{name}/mse_mean", square[how.counted].mean(dtype=np.float64)
    for key, value in coverage.shares(truth, bounds.reshape(-1, *truth.shape), how.counted).items():
        yield f"restoration/{name}/{key}", value


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
            for name, std in (("std", found.std), ("predictive_std", found.predictive_std)):
                yield f"restoration/{name}/{part}", np.sqrt(np.square(std)[where].mean(dtype=np.float64))
    for part, values in (("chi2_dark", found.chi2_dark), ("chi2_bright", found.chi2_bright)):
        if values is not None and np.isfinite(values).any():
            yield f"restoration/{part}/median", np.nanmedian(values)
    for name in ("evidence_gauss_newton", "evidence_z", "evidence_z_gauss_newton"):
        values = getattr(found, name)
        if values is not None and np.isfinite(values).any():
            yield f"restoration/{name}", np.nanmean(values, dtype=np.float64)
    if found.positive_definite.any():
        yield "restoration/evidence", found.evidence[found.positive_definite].mean(dtype=np.float64)
    yield "restoration/not_positive_definite", np.sum(~found.positive_definite)
    yield "restoration/runs_not_positive_definite", found.flagged_runs.mean()
    yield "restoration/information_gain", found.information_gain.mean(dtype=np.float64)
    yield "restoration/modes", found.modes.mean()
    if found.draws_ess is not None and found.resampled is not None:
        yield "restoration/draws_ess", np.median(found.draws_ess)
        yield "restoration/resampled", found.resampled.mean()
    if found.acceptance is not None and found.jumps is not None:
        yield "restoration/acceptance", np.median(found.acceptance)
        yield "restoration/jumps", np.median(found.jumps)
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
        columns[f"predictive_std_{part}"] = np.sqrt(over(np.square(found.predictive_std), where))
    for name in ("draws_ess", "acceptance", "jumps", "r_hat", "ess", "divergences", "chi2_dark", "chi2_bright",
                 "evidence_gauss_newton", "evidence_z", "evidence_z_gauss_newton"):
        if getattr(found, name) is not None:
            columns[name] = getattr(found, name)
    context.table("restoration.csv", columns)


def draw(context: Context, found: Restoration, truth: np.ndarray, noisy: np.ndarray, seen: np.ndarray,
         title: str) -> None:
    """Saves a row per image: truth, what is given, the maximum, mean, some draws, and the std of every pixel."""
    rows = slice(0, SHOWN_IMAGES)
    limit = max(float(found.std[rows].mean(axis=-1).max()), 1e-6)
    draws = found.draws[rows, :4]
    shown = [figures.to_rgb(truth[rows]), figures.hidden_rgb(noisy[rows], seen[rows])]
    shown += [figures.to_rgb(found.map[rows]), figures.to_rgb(found.mean[rows])]
    shown += [figures.to_rgb(draws[:, k]) for k in range(draws.shape[1])]
    shown.append(figures.positive_rgb(found.std[rows], limit))
    labels = ["truth", "given", "maximum", "mean", *(f"draw {k + 1}" for k in range(draws.shape[1])), "std"]
    note = f"blue: hidden; std over posterior draws: black 0, pale yellow {limit:.2f}"
    table = np.stack(shown, axis=1)
    context.figure("restoration", figures.image_table(table, title, column_labels=labels, note=note))
    context.board.images("restored", table)


def draw_draws(context: Context, found: Restoration, truth: np.ndarray, noisy: np.ndarray, seen: np.ndarray,
               title: str) -> None:
    """Saves a row of draws per image and, where something is hidden, a row of what they put behind the mask."""
    rows, hides = [], not seen.all()
    labels = []
    for index in range(min(SHOWN_IMAGES, len(truth))):
        given, draws = figures.hidden_rgb(noisy[index], seen[index]), figures.to_rgb(found.draws[index])
        rows.append(np.stack([figures.to_rgb(truth[index]), given, *draws]))
        labels.append("draws")
        if hides:
            behind = np.where(seen[index], noisy[index], found.draws[index])
            mean = np.where(seen[index], noisy[index], found.mean[index])
            rows.append(np.stack([figures.to_rgb(mean), given, *figures.to_rgb(behind)]))
            labels.append("behind the mask")
    columns = ["truth", "given", *(f"draw {k + 1}" for k in range(found.draws.shape[1]))]
    note = "blue: hidden" + ("; rows behind the mask begin with the mean of the draws there" if hides else "")
    context.figure("restoration_draws", figures.image_table(np.stack(rows), title, labels, columns, note))


def _archive(path: Any, found: Restoration, chosen: np.ndarray, how: Corruption) -> None:
    """Writes what is kept of maxima and draws, with the numbers of the test data and what was seen of them."""
    kept = {name: getattr(found, name) for name in (*maxima.RECORDED, "evidence", "evidence_gauss_newton",
                                                    "evidence_z", "evidence_z_gauss_newton")}  # fmt: skip
    with open(path, "wb") as file:
        np.savez(file, index=chosen, seen=how.seen, **{name: one for name, one in kept.items() if one is not None})
