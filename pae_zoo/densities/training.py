"""Fitting a density to an array: one recipe for plain Python, models and the launcher."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Optional, Union

import numpy as np
import tensorflow as tf

from pae_zoo.core import optimizers, seeds
from pae_zoo.core.averaging import KeepBest
from pae_zoo.core.errors import UserError
from pae_zoo.densities import dequantising
from pae_zoo.densities.builder import make
from pae_zoo.flows.flow import Flow

# Without validation data one row in so many is held out, of at least so many rows.
HELD_OUT, LEAST_ROWS = 10, 50
# On fewer rows layers after a mixture gain little or nothing, and take most of the time.
LAYERS_FROM = 5000


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the layers of a density are trained, after its mixture: Adam on averages of the weights.

    epochs at most, batch_size, learning_rate, lr_schedule (of `pae_zoo.core.optimizers`), clip_norm (0: off), patience
    (epochs without a better validation loss; 0: off), ema (decay of the averages; 0: none).
    """

    epochs: int = 12
    batch_size: int = 256
    learning_rate: float = 1e-3
    lr_schedule: str = "cosine"
    clip_norm: float = 5.0
    patience: int = 4
    ema: float = 0.999


def least_rows(density: Flow) -> int:
    """Returns how many rows the layers of a density need to be trained: 0 but where a mixture does without them."""
    return LAYERS_FROM if density.base is not None and density.chain else 0


def train(density: Flow, x: np.ndarray, held_out: Optional[np.ndarray] = None, weights: Optional[np.ndarray] = None,
          settings: Union[Settings, Mapping[str, Any], None] = None, jit_compile: Union[bool, str] = "auto",
          verbose: Union[int, str, None] = 0, dequantise: bool = False) -> dict[str, list[float]]:
    """Fits a density to x (n, K): whitening, mixture by EM, then layers by steps; best on validation is kept.

    Args:
      held_out: validation data (m, K); None holds out a tenth of x, where x has 50 rows or more.
      weights: (n,), how often each row counts; 0 leaves it out.
      settings: of the steps, of which a density without layers, or a mixture's on fewer than 5,000 rows, takes none;
        None takes `Settings()`.
      dequantise: whether columns of up to 256 different whole numbers get uniform noise on [-1/2, 1/2), drawn anew in
        each step, validation data once. log p at whole numbers is then the density of the spread value at the centre
        of its cell of size 1, about the log of the number's probability.

    With a context x and held_out are what `Flow.join` makes. Returns {name: value of every epoch}; the first of
    "val_nll" is that of the start, where there are validation data.
    """
    chosen = settings if isinstance(settings, Settings) else Settings(**(settings or {}))
    x = np.asarray(x)
    if weights is not None:
        weights = np.asarray(weights)
        x, weights = x[weights > 0], weights[weights > 0]
    if held_out is None and len(x) >= LEAST_ROWS:
        order = np.random.default_rng(seeds.integer(density.seed & 0x7FFFFFFF, HELD_OUT)).permutation(len(x))
        kept, rest = order[len(x) // HELD_OUT :], order[: len(x) // HELD_OUT]
        held_out, x = x[rest], x[kept]
        weights = None if weights is None else weights[kept]
    given, whole = x, np.zeros(1, bool)
    seed = seeds.stream(density.seed & 0x7FFFFFFF, "densities/dequantise")
    if dequantise:
        aside = seeds.stream(density.seed & 0x7FFFFFFF, "densities/dequantise_held_out")
        whole = dequantising.whole_columns(x, density.num_dims)
        given, x = x.astype(density.compute_dtype), _spread_once(x, whole, seed, density)
        held_out = None if held_out is None else _spread_once(held_out, whole, aside, density)
    density.adapted.assign(0)
    density.adapt(x)
    with density.scope():
        density.prepare(x, held_out, weights, bool(verbose))
    epochs = chosen.epochs if density.chain and len(x) >= least_rows(density) else 0
    if not epochs:
        return {}
    batch_size = min(chosen.batch_size, len(x))
    steps = epochs * (len(x) // batch_size)
    rate = optimizers.schedule(chosen.lr_schedule, chosen.learning_rate, steps)
    with density.scope():
        density.compile(optimizers.make("adam", rate, chosen.clip_norm), jit_compile=jit_compile, ema=chosen.ema)
    start = None
    if held_out is not None:
        start = float(density.evaluate(held_out, batch_size=1000, verbose=0, return_dict=True)["nll"])
    # Not the loss, which weight decay adds to.
    keeper = [] if held_out is None else [KeepBest(chosen.patience, start, "val_nll")]
    # Not Keras' own shuffling, which draws from a state of the whole process.
    rows = {"x": given} if weights is None else {"x": given, "sample_weight": weights}
    data = tf.data.Dataset.from_tensor_slices(rows).shuffle(len(x), seed=density.seed, reshuffle_each_iteration=True)
    data = data.batch(batch_size, drop_remainder=True)
    if whole.any():
        # Batches are shuffled in every epoch, so that the noise of batch i meets other rows.
        data = data.enumerate(2).map(lambda i, batch: {
            **batch, "x": dequantising.spread(batch["x"], whole, seeds.fold_in(seed, i))})
    history = density.fit(data, epochs=epochs, verbose=verbose, validation_data=held_out, callbacks=keeper).history
    return {**history, "val_nll": [start, *history["val_nll"]]} if start is not None else history


def _spread_once(x: np.ndarray, whole: np.ndarray, seed: Any, density: Flow) -> np.ndarray:
    return dequantising.spread(np.asarray(x, density.compute_dtype), whole, seed).numpy()


def fit(x: np.ndarray, density: str = "mixture_flow", held_out: Any = None,
        weights: Optional[np.ndarray] = None, settings: Union[Settings, Mapping[str, Any], None] = None,
        seed: int = 0, verbose: Union[int, str, None] = 0, context: Optional[np.ndarray] = None,
        dequantise: bool = False, labels: Optional[np.ndarray] = None, **options: Any) -> Flow:
    """Returns a density of the rows of x (n, K), fitted.

    Args:
      density: one of `pae_zoo.densities.NAMES`.
      held_out, weights, settings, verbose, dequantise: as in `train`.
      seed: of everything that is drawn.
      context: (n, C), for the density p(x|c) of each context; held_out are then a pair (rows, context).
      labels: (n,) whole numbers from 0, for p(x|c) of each label c beside p(x); held_out are then (rows, labels).
      options: of `make`, such as components=20.

    Raises UserError for an unknown name, for what are no rows of finite numbers, or more components than rows.
    """
    x = np.asarray(x)
    if context is not None and labels is None:
        options["context_dim"] = np.shape(context)[-1] if np.ndim(context) == 2 else 1
    if labels is not None:
        given = np.asarray(labels)
        if context is not None or given.shape != x.shape[:1] or not given.size:
            raise UserError(f"labels are one whole number for each of {len(x)} rows, without a context; received shape "
                            f"{given.shape}{'' if context is None else ' and a context'}.")
        options.setdefault("num_labels", int(given.max()) + 1 if given.dtype.kind in "iuf" else 1)
        context = given
    found = make(density, x.shape[-1] if x.ndim == 2 else 1, seed=seed, **options)
    if context is not None:
        x = found.join(x, context)
        held_out = None if held_out is None else found.join(*held_out)
    train(found, x, held_out, weights, settings, verbose=verbose, dequantise=dequantise)
    return found
