"""How good generated images are: Frechet distance, precision, recall, density, coverage, nearest training images.

Images are compared with test images as features of one network; `choice.find` says which. The features of the
test images are computed once per context, so any task may ask.
"""


import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Union

import numpy as np

from pae_zoo.core import seeds
from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.evaluation.context import Context, to_unit
from pae_zoo.evaluation.features import choice, extractor
from pae_zoo.evaluation.metrics import frechet, neighbours
from pae_zoo.plotting import figures

SHOWN_SAMPLES, SHOWN_NEIGHBOURS = 12, 3
SEARCHED_ROWS = 2000  # samples, and test images, whose nearest training image is sought
KINDS = ("samples", "reconstructions", "raw_prior", "floor")
MEASURES = ("precision", "recall", "density", "coverage")
NEAREST = "generation/nearest_train"

Images = Union[np.ndarray, Iterable[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class FrechetFlags(choice.FeatureFlags):
    """The flags of Frechet distances."""

    frechet_samples: int = option(
        10_000, "Images on each side of a Frechet distance (fewer where the test split has fewer).", low=2,
        group=EVALUATION, smoke=128)
    fid_min_max: bool = option(False, "Stretch each image to [0, 1] before its features, as the PAE paper's notebooks "
                               "did.", group=EVALUATION)


class Reference:
    """The test images that generated ones are compared with, and the network that does it.

    Raises NotImplementedError where no network fits the data, or where there are too few test data; UserError
    for a bad --fid_weights.
    """

    def __init__(self, context: Context):
        test = context.dataset.test.x
        self.context = context
        self.extractor = choice.find(context)
        self.num = min(int(context.hparams.frechet_samples), len(test))
        if self.num <= neighbours.NUM_NEIGHBOURS:
            raise NotImplementedError(
                f"Frechet distance and neighbours need more than {neighbours.NUM_NEIGHBOURS} test images; there are "
                f"{self.num}."
            )
        self.rounds = test.dtype == np.uint8
        self.chosen = context.choose(len(test), self.num, "frechet")
        self.features = self.features_of(_slices(test[self.chosen]), self.num, "test")
        self.moments = frechet.moments(self.features)
        if self.num <= self.features.shape[1]:
            context.say(
                f"Frechet distances: {self.num} images give a singular covariance of {self.features.shape[1]} features;"
                " compare only with numbers of the same --frechet_samples."
            )

    @property
    def preparation(self) -> str:
        """What is done to all images before the features are taken, in words."""
        steps = ["rounded to 8 bits" if self.rounds else "not rounded"]
        steps += ["each image stretched to [0, 1]"] if self.context.hparams.fid_min_max else []
        steps += [self.extractor.preparation] if self.extractor.preparation else []
        return ", ".join(steps)

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Returns images (n, H, W, C) in [0, 1] as the network gets them: rounded like the data, stretched if asked."""
        x = np.clip(to_unit(images), 0.0, 1.0)
        x = np.rint(255.0 * x) / np.float32(255.0) if self.rounds else x
        if self.context.hparams.fid_min_max:
            low, high = x.min(axis=(1, 2, 3), keepdims=True), x.max(axis=(1, 2, 3), keepdims=True)
            x = (x - low) / np.maximum(high - low, np.float32(1e-6))
        return x.astype(np.float32)

    def features_of(self, images: Images, total: int, what: str) -> np.ndarray:
        """Returns features (n, d) of images, one array or many; rows of images that are not finite are NaN."""
        parts = []
        with self.context.progress(total, f"features of {what}", "image") as bar:
            for batch in [images] if isinstance(images, np.ndarray) else images:
                found = self.extractor.features(self.prepare(batch))
                found[~np.isfinite(batch).reshape(len(batch), -1).all(axis=1)] = np.nan
                parts.append(found)
                bar.update(len(batch))
        return np.concatenate(parts)

    def frechet(self, found: np.ndarray) -> float:
        """Returns the Frechet distance of features (n, d) to those of the test images; NaN if they hold NaN."""
        if not np.isfinite(found).all():
            return float("nan")
        return frechet.distance(self.moments, frechet.moments(found))

    @functools.cached_property
    def reconstructions(self) -> np.ndarray:
        """Features of the reconstructions of the test images (n, d): the best that the decoder can do."""
        x = self.context.dataset.test.x[self.chosen]
        decoded = self.context.stream(self.context.reconstruction, x, "frechet reconstructions", brief=True)
        return self.features_of(decoded, self.num, "reconstructions")

    @functools.cached_property
    def _reconstructed(self):
        return frechet.moments(self.reconstructions)

    def frechet_r(self, found: np.ndarray) -> float:
        """Returns the Frechet distance of features (n, d) to those of `reconstructions`; NaN if either holds NaN."""
        if not (np.isfinite(found).all() and np.isfinite(self.reconstructions).all()):
            return float("nan")
        return frechet.distance(self._reconstructed, frechet.moments(found))

    def reconstructed_floor(self) -> float:
        """Returns the Frechet distance of reconstructions of training images to those of test images."""
        train = self.context.dataset.train.x
        chosen = self.context.choose(len(train), self.num, "frechet floor")
        decoded = self.context.stream(self.context.reconstruction, train[chosen], "frechet reconstructed floor",
                                      brief=True)
        return self.frechet_r(self.features_of(decoded, len(chosen), "reconstructed training data"))

    @functools.cached_property
    def _neighbourhoods(self) -> neighbours.Neighbourhoods:
        return neighbours.neighbourhoods(self.features)

    def compare(self, found: np.ndarray) -> dict[str, float]:
        """Returns precision, recall, density, coverage of features (n, d); NaN if they hold NaN."""
        if not np.isfinite(found).all():
            return dict.fromkeys(MEASURES, float("nan"))
        return neighbours.compare(self._neighbourhoods, neighbours.neighbourhoods(found))

    @functools.cached_property
    def train_features(self) -> np.ndarray:
        """Features of the training images (m, d): of all, or of as many as there are test images for a costly net."""
        train = self.context.dataset.train.x
        num = self.num if self.extractor.costly else len(train)
        self.train_chosen = self.context.choose(len(train), num, "frechet train")
        return self.features_of(_slices(train, self.train_chosen), len(self.train_chosen), "training data")

    def floor_features(self) -> np.ndarray:
        """Features of as many training images as test images are used, or of all where there are fewer."""
        return self.train_features[self.context.choose(len(self.train_features), self.num, "frechet floor")]


def reference(context: Context) -> Reference:
    """Returns the context's `Reference`, built by the first task that asks; see there for errors."""
    return context.once("frechet reference", lambda: Reference(context))


def num_images(context: Context) -> int:
    """Returns how many images a Frechet distance should be taken of: its bias depends on their number."""
    return reference(context).num


def frechet_to_test(context: Context, images: Images) -> float:
    """Returns the Frechet distance of images (n, H, W, C) in [0, 1], one array or many, to the test images.

    n should be `num_images(context)`. NaN where images are not finite. Raises NotImplementedError, with a sentence,
    where no feature network fits the data; UserError for a bad --fid_weights.
    """
    found = reference(context)
    return found.frechet(found.features_of(images, found.num, "images"))


def sample_quality(context: Context, name: str, images: Images) -> Iterator[tuple[str, Any]]:
    """Yields <name>/frechet, /frechet_r, /precision, /recall, /density, /coverage of images (n, H, W, C).

    They are compared with test images, `frechet_r` with reconstructions of test images. n should be
    `num_images(context)`. All are "unsupported" where no feature network fits the data.
    """
    keys = [f"{name}/{measure}" for measure in ("frechet", "frechet_r", *MEASURES)]
    try:
        against = reference(context)
    except NotImplementedError as error:
        yield from context.unsupported(keys, error)
        return
    found = against.features_of(images, against.num, name)
    yield from zip(keys, (against.frechet(found), against.frechet_r(found), *against.compare(found).values()))


# ---- of the model ----------------------------------------------------------------------------------------


def model_quality(context: Context) -> Iterator[tuple[str, Any]]:
    """Yields the Frechet distances of samples, reconstructions, raw prior and training data, and what else samples
    tell: precision, recall, density, coverage, distance to training images; saves `frechet` and `nearest_train`.
    """
    try:
        against = reference(context)
    except NotImplementedError as error:
        keys = [f"generation/frechet/{kind}" for kind in KINDS]
        keys += [f"generation/frechet_r/{kind}" for kind in ("samples", "floor")]
        yield from context.unsupported([*keys, *(f"generation/{measure}" for measure in MEASURES), NEAREST], error)
        return
    model, num, distances = context.model, against.num, {}
    size = min(extractor.BATCH, num)
    shown: list[np.ndarray] = []
    try:
        samples = _drawn(context, lambda seed: model.sample(size, seed), "frechet samples", num)
        found = against.features_of(_first_kept(samples, shown), num, "samples")
    except NotImplementedError as error:
        found = None
        keys = ["generation/frechet/samples", "generation/frechet_r/samples"]
        keys += [*(f"generation/{measure}" for measure in MEASURES), NEAREST]
        yield from context.unsupported(keys, error)
    else:
        distances["samples"] = against.frechet(found)
        yield "generation/frechet_r/samples", against.frechet_r(found)
        yield from ((f"generation/{measure}", value) for measure, value in against.compare(found).items())

    distances["reconstructions"] = against.frechet(against.reconstructions)
    yield "generation/frechet_r/floor", against.reconstructed_floor()
    raw = _drawn(
        context, lambda seed: model.decode_mean(seeds.normal((size, model.latent_dim), seed)), "frechet raw prior", num
    )
    distances["raw_prior"] = against.frechet(against.features_of(raw, num, "raw prior"))
    floor = against.floor_features()
    distances["floor"] = against.frechet(floor)

    yield from ((f"generation/frechet/{kind}", value) for kind, value in distances.items())
    yield "generation/frechet/extractor", against.extractor.label
    yield "generation/frechet/num_samples", num
    yield "generation/frechet/num_floor", len(floor)
    yield "generation/frechet/preparation", against.preparation
    labels = {
        "samples": "samples", "reconstructions": "reconstructions of test data", "raw_prior": "decoded N(0, I)",
        "floor": f"training data (n = {len(floor):,})",
    }  # fmt: skip
    bars = {labels[kind]: distances[kind] for kind in KINDS if kind in distances and np.isfinite(distances[kind])}
    title = f"{context.dataset.name}: Frechet distance of {num:,} images to {num:,} test images"
    context.figure("frechet", figures.bars(bars, title, f"features of {against.extractor.label}; lower is better"))
    if found is not None and np.isfinite(found).all():
        yield from draw_nearest(context, against, found, np.concatenate(shown)[:SHOWN_SAMPLES])


def draw_nearest(
    context: Context, against: Reference, found: np.ndarray, samples: np.ndarray
) -> Iterator[tuple[str, Any]]:
    """Yields the distance of samples to their nearest training image over that of test images; shows the first few.

    `found` are the features of all samples, `samples` the first images of them.
    """
    pool = against.train_features
    rows = min(SEARCHED_ROWS, len(found))
    of_samples, _ = neighbours.nearest(found[:rows], pool)
    of_test, _ = neighbours.nearest(against.features[context.choose(against.num, rows, "nearest")], pool)
    if not of_test.any():
        yield from context.unsupported([NEAREST], NotImplementedError("The test images are training images too."))
        return
    ratio = of_samples.mean() / of_test.mean()
    yield NEAREST, ratio
    distances, indices = neighbours.nearest(found[: len(samples)], pool, min(SHOWN_NEIGHBOURS, len(pool)))
    train = to_unit(context.dataset.train.x[against.train_chosen[indices]])
    table = np.concatenate([samples[:, None], train], axis=1).swapaxes(0, 1)
    names = ["sample", *(f"nearest {i + 1}" for i in range(indices.shape[1]))]
    above = [f"{value:.2g}" for value in distances[:, 0] / of_test.mean()]
    note = f"above: distance to nearest 1; the mean of test images is 1, of samples {ratio:.2f}"
    title = f"{context.dataset.name}: samples and the nearest of {len(pool):,} training images, by features"
    context.figure("nearest_train", figures.image_table(table, title, names, above, note))


def _drawn(context: Context, draw: Callable, purpose: str, num: int) -> Iterator[np.ndarray]:
    """Yields draw(seed) in batches until there are `num` rows; batch i has the seed fold_in(purpose, i)."""
    compiled, base = context.compile(draw), context.seed_for(purpose)
    count, number = 0, 0
    while count < num:
        batch = compiled(seeds.fold_in(base, number)).numpy()[: num - count]
        yield batch
        count, number = count + len(batch), number + 1


def _slices(x: np.ndarray, rows: Union[np.ndarray, None] = None) -> Iterator[np.ndarray]:
    """Yields x, or the chosen rows of it, a batch at a time."""
    rows = np.arange(len(x)) if rows is None else rows
    for start in range(0, len(rows), extractor.BATCH):
        yield x[rows[start : start + extractor.BATCH]]


def _first_kept(batches: Iterable[np.ndarray], kept: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the batches, and appends those that hold the first SHOWN_SAMPLES rows to `kept`."""
    for batch in batches:
        if sum(map(len, kept)) < SHOWN_SAMPLES:
            kept.append(batch)
        yield batch
