"""What a task is given: the model, its data and run, and the loop over padded batches."""

import functools
import math
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.core import records, seeds
from pae_zoo.evaluation.tensorboard import Board
from pae_zoo.plotting import figures as plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNSUPPORTED = "unsupported"
# Test data from which XLA saves, on a CPU, what it takes to compile a pass over them.
XLA_DATA = 2000
# Most rows, and values, of a batch for which networks are drawn.
SHARED_ROWS, SHARED_VALUES = 1000, 10**6


def sentence(error: Exception) -> str:
    """Returns the message of `error` as one line."""
    return " ".join(str(error).split())


def to_unit(x: np.ndarray) -> np.ndarray:
    """Returns x as float32: uint8 is divided by 255, anything else keeps its values."""
    return x.astype(np.float32) / np.float32(255.0) if x.dtype == np.uint8 else x.astype(np.float32)


@dataclass(eq=False, repr=False)
class Context:
    """The model under evaluation with everything a task may use.

    Args:
      model: a model of `pae_zoo.models`; only the contract of `models/base.py` is used.
      dataset: a `pae_zoo.data.Dataset`; its test split is what tasks report on.
      hparams: needs `batch_size`, `jit_compile`, `importance_samples`, `ood_datasets`, `data_dir`, `download`.
      run: the work directory: `.workdir`, `.figures` (paths) and `.save(relative path, writer)`.
      seed: integer from which all randomness of the evaluation follows.
      variant: what follows the names of keys and files where the model is not that of the run, such as "@epoch=40".
    """

    model: Any
    dataset: Any
    hparams: Any
    run: Any
    seed: int = 0
    variant: str = ""
    figures: list = field(default_factory=list)  # paths of the pictures saved so far
    notes: list = field(default_factory=list)  # lines told to the user so far
    progress_prefix: str = ""

    def __post_init__(self):
        self._compiled: dict[Callable, Callable] = {}
        self._made: dict[str, Any] = {}
        #: of data that come in parts, which of them: their noise differs
        self.part = ""
        self.board = Board(self.run, step=training_step(self.model), suffix=self.suffix)

    @property
    def suffix(self) -> str:
        """What follows the names of keys, tables and figures of what is not the run's own, so that both are kept."""
        refine = getattr(self.hparams, "refine", "auto")
        return self.variant + (f"@{refine}{self.hparams.refine_updates}" if refine in records.REFINING else "")

    @property
    def beside(self) -> Optional["Context"]:
        """The context of the model with refined codes that --refine=auto shows beside the model's own, or None."""
        offers = "refine" in getattr(self.model, "offers", ()) and self.model.refining is None
        if getattr(self.hparams, "refine", "none") != "auto" or not offers:
            return None
        found = self.once("beside", lambda: replace(self, model=self.model.refined(
            num_updates=self.hparams.refine_updates)))  # fmt: skip
        found.progress_prefix = self.progress_prefix
        return found

    @property
    def is_image(self) -> bool:
        """Whether one datum is an image (H, W, C)."""
        return len(self.dataset.event_shape) == 3

    @property
    def is_series(self) -> bool:
        """Whether one datum is a window (T, C) of a series."""
        return len(self.dataset.event_shape) == 2

    @property
    def channel_names(self) -> list[str]:
        """The names of the numbers of a step of a series, none where they have none."""
        return [] if self.dataset.table is None else self.dataset.table.outputs

    def say(self, line: str) -> None:
        """Tells the user one line, on stderr, and keeps it in `notes`."""
        self.notes.append(line)
        print(line, file=sys.stderr, flush=True)

    def unsupported(self, keys: Iterable[str], error: NotImplementedError) -> list[tuple[str, str]]:
        """Says why the model does not offer `keys` and returns them marked as such."""
        keys = list(keys)
        self.say(f"{', '.join(keys)}: unsupported. {sentence(error)}")
        return [(key, UNSUPPORTED) for key in keys]

    def figure(self, name: str, figure: "Figure") -> None:
        """Saves `figure` as figures/<name>.png, or as --figure_format says, whole or not at all."""
        kind = getattr(self.hparams, "figure_format", "png")
        name = f"{name}{self.suffix}.{kind}"
        self.save(f"figures/{name}", lambda path: figure.savefig(path, format=kind, dpi=plotting.DPI))
        self.figures.append(self.run.figures / name)

    def save(self, relative: str, writer: Callable) -> None:
        """Lets `writer(path)` write one file of the work directory, whole or not at all."""
        self.run.save(relative, writer)

    def table(self, relative: str, columns: dict[str, Any]) -> None:
        """Saves equally long columns as a CSV file with a header line."""

        def write(path):
            with open(path, "w", encoding="utf-8") as file:
                file.write(",".join(columns) + "\n")
                for row in zip(*columns.values()):
                    file.write(",".join(_cell(value) for value in row) + "\n")

        path = PurePath(relative)
        self.save(str(path.with_name(f"{path.stem}{self.suffix}{path.suffix}")), write)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Returns `make()`; what tasks share under one name is made by the first that asks."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    # ---- randomness --------------------------------------------------------------------------------

    def seed_for(self, purpose: str) -> tf.Tensor:
        """Returns the seed pair of one purpose: its noise does not depend on which other tasks run."""
        return seeds.stream((self.seed, 0), purpose)

    @property
    def network_seed(self) -> Optional[tf.Tensor]:
        """The seed of the networks that a model draws for all data alike, None for a model that draws none."""
        return self.seed_for("weights") if getattr(self.model, "draws_are_shared", False) else None

    @property
    def num_draws(self) -> int:
        """How many networks or latents are behind a prediction: `--test_samples`, or what the model has; 0 for none."""
        num = int(self.hparams.test_samples)
        return self.model.num_draws(num) if hasattr(self.model, "num_draws") else num

    @property
    def num_networks(self) -> int:
        """How many networks or latents are drawn for pictures and the latent grid: `--test_samples`, or all members."""
        num = int(self.hparams.test_samples)
        return self.model.num_networks(num) if hasattr(self.model, "num_networks") else num

    def choose(self, num_data: int, num: int, purpose: str) -> np.ndarray:
        """Returns up to `num` sorted indices below `num_data`, drawn once from the seed and `purpose`."""
        generator = np.random.default_rng([self.seed & 0xFFFFFFFF, zlib.crc32(purpose.encode())])
        return np.sort(generator.permutation(num_data)[:num])

    # ---- loops -------------------------------------------------------------------------------------

    @property
    def jit_compile(self) -> bool:
        """Whether XLA compiles what is computed: as the flag says, unless it makes this model slower."""
        return bool(self.hparams.jit_compile) and getattr(self.model, "xla_pays", True)

    @functools.cached_property
    def has_few(self) -> bool:
        """Whether the test data are so few that passes over them end sooner without XLA: on a CPU."""
        return len(self.dataset.test.x) < XLA_DATA and not tf.config.list_logical_devices("GPU")

    def compile(self, fn: Callable, brief: bool = False) -> Callable:
        """Returns `fn` as a compiled function; asking again for the same `fn` gives the same one.

        `brief`: it is a pass or a few, which XLA compiles where data are many.
        """
        if fn not in self._compiled:
            # TensorFlow warns when the same code is traced anew, as it must be for each of many runs; it tells
            # functions apart by their code, and partial objects by themselves.
            xla = self.jit_compile and not (brief and self.has_few)
            self._compiled[fn] = tf.function(functools.partial(fn), jit_compile=xla, autograph=False)
        return self._compiled[fn]

    def batches(self, x: np.ndarray, batch_size: Optional[int] = None) -> Iterator[tuple[np.ndarray, int]]:
        """Yields (batch, count): float32 batches of one size, the last padded with copies of its last row.

        No batch is padded far beyond the data. Only the first `count` rows are data. One size means one compilation.
        """
        size = min(batch_size or int(self.hparams.batch_size), max(len(x), SHARED_ROWS))
        for start in range(0, len(x), size):
            batch = to_unit(x[start : start + size])
            count = len(batch)
            if count < size:
                batch = np.concatenate([batch, np.repeat(batch[-1:], size - count, axis=0)])
            yield batch, count

    def rows_at_once(self, num_data: int) -> int:
        """Returns the rows of a batch: `batch_size`, or more where many data meet the same drawn networks.

        Drawing a network takes as long as applying it to hundreds of data.
        """
        size = int(self.hparams.batch_size)
        if self.network_seed is None or num_data <= size:
            return size
        return max(size, min(SHARED_ROWS, SHARED_VALUES // max(1, math.prod(self.model.event_shape))))

    def stream(self, fn: Callable, x: np.ndarray, purpose: str, unit: str = "batch",
               rows: Optional[int] = None, brief: bool = False) -> Iterator[Any]:
        """Yields fn(batch, seed) for each batch of x, as numpy arrays cut to the rows that are data.

        `fn` returns a tensor or a structure of tensors whose first axis is the batch; it is compiled once
        for all sets of data. Batch i has the seed fold_in(seed_for(purpose), i); with a model that draws whole
        networks, all batches of all purposes have the seed `network_seed`, and meet the same networks. `rows` is the
        size of a batch where the usual one, to which few data are padded, would be a waste. `brief` as for `compile`.
        """
        compiled, base, shared = self.compile(fn, brief), self.seed_for(f"{purpose}{self.part}"), self.network_seed
        size = rows or self.rows_at_once(len(x))
        with self.progress(-(-len(x) // size), purpose, unit) as bar:
            for index, (batch, count) in enumerate(self.batches(x, size)):
                seed = seeds.fold_in(base, index) if shared is None else shared
                outputs = compiled(tf.constant(batch), seed)
                yield tf.nest.map_structure(lambda values: values.numpy()[:count], outputs)  # noqa: B023
                bar.update()

    def map_batches(self, fn: Callable, x: np.ndarray, purpose: str, rows: Optional[int] = None,
                    brief: bool = False) -> Any:
        """Returns what `stream` yields, concatenated over all of x."""
        parts = list(self.stream(fn, x, purpose, rows=rows, brief=brief))
        return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *parts)

    def progress(self, total: int, description: str, unit: str = "batch") -> Any:
        """Returns a progress bar on stderr; loops that end soon show none, logs get a line now and then."""
        from tqdm import tqdm

        terminal = sys.stderr.isatty()
        return tqdm(
            total=total,
            desc=f"{self.progress_prefix} {description}".strip(),
            unit=unit,
            file=sys.stderr,
            leave=False,
            delay=0.5 if terminal else 10.0,
            mininterval=0.2 if terminal else 30.0,
        )

    # ---- numbers shared by tasks -------------------------------------------------------------------

    def reconstruct(self, x: np.ndarray) -> np.ndarray:
        """Returns the model's reconstruction of x (n, *event), in the space of x."""
        return self.map_batches(self.reconstruction, x, "reconstructions", brief=True)

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Returns the decoder's means for z (n, latent_dim), in the space of x: (n, *event)."""
        return self.map_batches(self._decode, z, "decode", brief=True)

    def encode(self, x: np.ndarray, purpose: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns (codes, variances) of x, each (n, latent_dim): posterior means, or a seeded draw.

        A posterior without closed-form moments gives a draw and zero variance, and a line says so.
        """
        try:
            return self.map_batches(self._moments, x, purpose, brief=True)
        except NotImplementedError as error:
            codes = self.draws(x, purpose)
            self.say(f"Codes are draws: the posterior has no closed-form moments. {sentence(error)}")
            return codes, np.zeros_like(codes)

    def draws(self, x: np.ndarray, purpose: str) -> np.ndarray:
        """Returns a seeded draw from `encode` for each row of x, (n, latent_dim): the codes where they are certain."""
        return self.map_batches(self._draw, x, purpose, brief=True)

    @functools.cached_property
    def test_codes(self) -> tuple[np.ndarray, np.ndarray]:
        """`encode` of the test split, computed once."""
        return self.encode(self.dataset.test.x, "codes")

    def without_gaps(self, x: np.ndarray, xhat: np.ndarray) -> np.ndarray:
        """Returns data x (n, *event) as floats for pictures: a missing value has its reconstruction's."""
        x = to_unit(x)
        return np.where(np.isnan(x), xhat, x) if self.takes_gaps else x

    @property
    def takes_gaps(self) -> bool:
        """Whether NaN in data stands for values that are missing, for the model."""
        return getattr(self.model, "takes_gaps", False)

    def reconstruction(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns the deterministic reconstruction of one batch, for `stream`; the seed is not used."""
        return self.model(x)

    def _decode(self, z, seed):
        return self.model.decode_mean(z)

    def _moments(self, x, seed):
        posterior = self.model.encode(x, seed)
        return posterior.mean(), posterior.variance()

    def _draw(self, x, seed):
        return self.model.encode(x, seed).sample(seed=seed)


class Projection:
    """Two coordinates of vectors: themselves when there are two, else their first principal components.

    Vectors of one dimension have no map; `draw` gives their histogram.
    """

    def __init__(self, vectors: np.ndarray, name: str = "z"):
        vectors = np.asarray(vectors, np.float64)
        self.mean, self.shares = np.zeros(vectors.shape[1]), None
        self.axes: np.ndarray
        if vectors.shape[1] <= 2:
            self.axes, self.labels = np.eye(vectors.shape[1]), (f"{name}[0]", f"{name}[1]")
        else:
            self.mean = vectors.mean(axis=0)
            variances, axes = principal_axes(vectors)
            axes = axes[:, ::-1][:, :2]
            # The sign of an eigenvector is arbitrary: the largest entry is made positive, for a stable picture.
            self.axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(2)])
            self.shares = np.maximum(variances[::-1][:2], 0.0) / max(variances.sum(), 1e-300)
            self.labels = tuple(
                f"principal component {i + 1} ({100 * share:.0f} % of the variance)"
                for i, share in enumerate(self.shares)
            )

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Returns coordinates (n, 2) of vectors (n, d), or (n, 1) where d = 1."""
        return (np.asarray(vectors, np.float64) - self.mean) @ self.axes

    def draw(self, groups: dict[str, np.ndarray], title: str) -> "Figure":
        """Returns a scatter of named groups of vectors (n, d), or their histograms where d = 1."""
        groups = {name: self(vectors) for name, vectors in groups.items()}
        if next(iter(groups.values())).shape[1] == 1:
            return plotting.histogram({name: v[:, 0] for name, v in groups.items()}, title, self.labels[0])
        return plotting.points(groups, title, self.labels)


def principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns variances, ascending, and axes as columns (d, m) of vectors (n, d), m = min(n, d), with 2 at the least.

    More dimensions than vectors are taken by the products of the vectors, (n, n), in place of the covariances, (d, d).
    """
    count, dims = vectors.shape
    if dims <= max(count, 2):
        return np.linalg.eigh(np.cov(vectors.T))
    centred = np.concatenate([vectors - vectors.mean(axis=0), np.zeros((max(0, 2 - count), dims))])
    variances, weights = np.linalg.eigh(centred @ centred.T / max(count - 1, 1))
    axes = centred.T @ weights
    return variances, axes / np.maximum(np.linalg.norm(axes, axis=0), 1e-300)


def training_step(model: Any) -> int:
    """Returns the number of training steps that `model` has taken, 0 when it keeps no count."""
    step = getattr(model, "step", None)
    return 0 if step is None else int(step)


def _cell(value) -> str:
    return f"{value:.9g}" if isinstance(value, (float, np.floating)) else str(value)
