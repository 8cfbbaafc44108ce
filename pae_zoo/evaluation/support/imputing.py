"""Fills in hidden values by what a model reconstructs: the masks, the noise and the passes of the task imputation."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo import data
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.data import masks
from pae_zoo.evaluation.context import Context, sentence

NAMED = ("full", "noise", "half", "region")
# Side of the block of "region", as a share of the shorter side: 10 of 28 pixels.
REGION = 10 / 28


# ---- masks -------------------------------------------------------------------------------------------------


def parse(words: Sequence[str]) -> dict[str, str]:
    """Returns {slug: mask} of the words of --imputation_masks; raises UserError for one that is not understood.

    The commas within a rectangle have split it: whole numbers belong to the word before them.
    """
    texts: list[str] = []
    for word in words:
        if texts and texts[-1].startswith("rectangle:") and word.lstrip("-").isdigit():
            texts[-1] += f",{word}"
        else:
            texts.append(word)
    found = {}
    for text in texts:
        slug = data.slug(text)
        if slug in found:
            raise UserError(f"--imputation_masks names {text!r} twice; received {','.join(words)}.")
        if text not in NAMED:
            try:
                masks.parse(text)
            except UserError:
                raise UserError(
                    f"--imputation_masks: {text!r} is not understood; allowed: {', '.join(NAMED)}, {masks.GRAMMAR}."
                ) from None
        found[slug] = text
    return found


def seen(text: str, event_shape: Sequence[int], num: int, seed: int) -> np.ndarray:
    """Returns what is seen of `num` data, bool, (num, *event_shape), under a mask of `parse`.

    half hides the upper half of an image, the first half of a vector; region a square in the middle of an image, of
    10 / 28 of its shorter side. Raises NotImplementedError where a vector has no region, UserError for a mask that does
    not fit.
    """
    shape = tuple(event_shape)
    if text in ("full", "noise"):
        return np.full((num, *shape), text == "full")
    if text not in NAMED:
        return masks.make(masks.parse(text), shape, num, seed)
    if text == "region" and len(shape) != 3:
        raise NotImplementedError(f"The mask region is a block of an image; these data are vectors of shape {shape}.")
    found = np.ones((num, *shape), bool)
    if text == "half":
        found[:, : max(shape[0] // 2, 1)] = False
    else:
        side = max(round(REGION * min(shape[:2])), 1)
        top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
        found[:, top : top + side, left : left + side] = False
    return found


def noise(truth: np.ndarray, seed: int) -> np.ndarray:
    """Returns standard normal noise of the shape of truth (n, *event), each datum's stretched to [0, 1].

    For vectors it is stretched to the range of all data instead (Miani et al., NeurIPS 2022, code).
    """
    axes = tuple(range(1, truth.ndim))
    draws = np.random.default_rng([seed & 0xFFFFFFFF, 0x696D70]).normal(size=truth.shape).astype(np.float32)
    low, high = draws.min(axis=axes, keepdims=True), draws.max(axis=axes, keepdims=True)
    unit = (draws - low) / np.maximum(high - low, 1e-12)
    if truth.ndim == 4:
        return unit
    return truth.min() + (truth.max() - truth.min()) * unit


# ---- passes ------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Filled:
    """S images for each of b data.

    Attributes:
      given: (b, *event), what the model got: hidden values are noise.
      imputed: (S, b, *event), the seen values put back, unless all are seen.
      reconstructed: (S, b, *event), the model's own.
    """

    given: np.ndarray
    imputed: np.ndarray
    reconstructed: np.ndarray


class Imputer:
    """Draws S images for data of which a part is hidden.

    The first pass draws S reconstructions of the given image. In each round every one of them is refilled with the seen
    values and replaced by one draw of its own reconstructions. In the last pass, refilled once more, it is replaced by
    the mean of S draws of its reconstructions (Miani et al., NeurIPS 2022, code; rounds: Rezende et al., arXiv
    1401.4082). A model that draws none gives its one reconstruction in every pass, and S is 1.

    Args:
      context: gives the model, the compiler and the seed.
      num_samples, rounds: S, and the number of rounds.
    """

    def __init__(self, context: Context, num_samples: int, rounds: int):
        self.context, self.model, self.rounds = context, context.model, rounds
        self.num_samples = num_samples
        shared = context.network_seed
        self.shared = shared is not None
        self.base = context.seed_for("imputation") if shared is None else shared
        try:
            self.model.draw_reconstructions(tf.zeros((1, *context.dataset.event_shape)), 1, self.base)
        except NotImplementedError as error:
            context.say(f"imputation: one image for each datum. {sentence(error)}")
            self.num_samples, self._draws = 1, self._single

    def calls(self, num_data: int) -> int:
        """Returns how many steps the progress bar counts for so many data."""
        return -(-num_data // self.context.rows_at_once(num_data)) * (1 + (self.rounds + 1) * self.num_samples)

    def fill(self, truth: np.ndarray, given: np.ndarray, where_seen: np.ndarray,
             bar: Any) -> Iterator[tuple[slice, Filled]]:
        """Yields (rows, result) for batches of truth, given and where_seen, each (n, *event)."""
        size = self.context.rows_at_once(len(given))
        first, one, mean = (self.context.compile(fn) for fn in (self._draws, self._one, self._mean))
        # Where nothing is hidden, putting back what is seen would leave nothing of the model.
        everything = where_seen.all()
        for number, (batch, count) in enumerate(self.context.batches(given, size)):
            rows = slice(number * size, number * size + count)
            put_back = functools.partial(_put_back, truth[rows], where_seen[rows] & ~everything)
            draws = first(tf.constant(batch), self._seed(number, 0)).numpy()
            images = [put_back(image[:count]) for image in draws]
            bar.update()
            for round_number in range(1, self.rounds + 1):
                for s in range(self.num_samples):
                    seed = seeds.fold_in(self._seed(number, 1 + round_number), s)
                    images[s] = put_back(one(self._padded(images[s], size), seed).numpy()[:count])
                    bar.update()
            reconstructed = []
            for s, image in enumerate(images):
                seed = self._seed(number, 1)
                seed = seed if self.shared else seeds.fold_in(seed, s)
                reconstructed.append(mean(self._padded(image, size), seed).numpy()[:count])
                bar.update()
            reconstructed = np.stack(reconstructed)
            yield rows, Filled(batch[:count], np.stack([put_back(image) for image in reconstructed]), reconstructed)

    def _seed(self, batch_number: int, purpose: int) -> tf.Tensor:
        """Returns the seed of one pass: with a model that draws networks the same for all batches."""
        seed = seeds.fold_in(self.base, purpose)
        return seed if self.shared else seeds.fold_in(seed, batch_number)

    def _padded(self, x: np.ndarray, size: int) -> tf.Tensor:
        return tf.constant(next(self.context.batches(x, size))[0])

    # ---- compiled functions of one batch: x (b, *event) -------------------------------------------------

    def _draws(self, x, seed):
        return self.model.draw_reconstructions(x, self.num_samples, seed)

    def _single(self, x, seed):
        return self.model(x)[None]

    def _one(self, x, seed):
        return self.model.draw_reconstructions(x, 1, seed)[0] if self.num_samples > 1 else self._draws(x, seed)[0]

    def _mean(self, x, seed):
        return tf.reduce_mean(self._draws(x, seed), axis=0)


def _put_back(truth: np.ndarray, kept: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.where(kept, truth, x)
