"""What the tasks on latent geometry share: the manifold of a model, pairs of test data, solvers from flags."""

import dataclasses
import math
import zlib
from typing import Any, NamedTuple, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.evaluation.context import Context, sentence, to_unit
from pae_zoo.geometry.batching import RowMap
from pae_zoo.geometry.graphs import GridGraph, KNNGraph
from pae_zoo.geometry.manifold import Deterministic, Embedded, Ensemble, Manifold, as_manifold
from pae_zoo.geometry.metrics import Fields
from pae_zoo.geometry.solver import Settings, Solver

# Training codes over which the graph is laid.
GRAPH_CODES = 2000
MOST_GRID_DIMENSIONS = 3


@dataclasses.dataclass(frozen=True)
class GeometryFlags:
    """The flags of geodesics, and of the data that they join."""

    pair_seed: int = option(67, "Chooses the test data of the tasks geodesics, distance_stability and clustering: the "
                            "same for all models and for every --seed.", low=0, high=2**31 - 1, group=EVALUATION)
    geodesic_energy: str = option(
        "auto", "What geodesics minimise; auto: decorrelated for ensembles and drawn decoders, coupled for a mean with "
        "a std, mean for a single decoder.", choices=("auto", "decorrelated", "coupled", "mean"), group=EVALUATION)
    geodesic_members: int = option(10, "Decoders drawn behind the geometry of a model that draws them; an ensemble has "
                                   "all of its own.", low=1, high=10_000, group=EVALUATION, smoke=3)
    geodesic_points: int = option(64, "Points of a curve on which its energy is computed.",
                                  low=3, high=100_000, group=EVALUATION, smoke=16)
    geodesic_reference: int = option(256, "Points R that the decorrelated energy refers to, whatever "
                                     "--geodesic_points: uncertainty counts in proportion to their square.",
                                     low=1, high=1_000_000, group=EVALUATION)
    geodesic_steps: int = option(0, "Most steps of the search for a geodesic (0: 200 of Gauss-Newton, 400 with "
                                 "more than four latents; 500 of Adam, which decoders without features take).",
                                 low=0, high=1_000_000, group=EVALUATION, smoke=20)
    geodesic_init: str = option(
        "both", "Where a search starts: the straight line, the shortest path of a graph over the latents, or both, of "
        "which the lower energy counts.", choices=("line", "graph", "both"), group=EVALUATION)


class Space(NamedTuple):
    """A model's latent space.

    decoder: what `geometry_decoder` returned. energies: those that differ for this kind of decoder, the default first.
    """

    decoder: Any
    manifold: Manifold
    energies: tuple[str, ...]


def space(context: Context) -> Space:
    """Returns the latent space of the model, made once; raises NotImplementedError for a model without geometry."""
    return context.once("latent_space", lambda: _space(context))


def _space(context: Context) -> Space:
    model = context.model
    if not hasattr(model, "geometry_decoder"):
        raise NotImplementedError(f"{type(model).__name__} has no decoder whose geometry is known: it has no "
                                  "geometry_decoder.")
    # An ensemble has the members it has; the flag is for models that draw theirs.
    drawn = 0 if hasattr(model, "num_members") else int(context.hparams.geodesic_members)
    decoder = model.geometry_decoder(drawn, context.seed_for("weights"))
    manifold = as_manifold(decoder, model.latent_dim)
    return Space(decoder, manifold, energies_of(manifold))


def energies_of(manifold: Manifold) -> tuple[str, ...]:
    """Returns the energies that differ on a manifold, the default first."""
    if isinstance(manifold, Deterministic):
        return ("mean",)
    if isinstance(manifold, Ensemble):
        return ("decorrelated", "coupled") if manifold.num_members > 1 else ("mean",)
    return ("coupled", "mean") if isinstance(manifold, Embedded) else ("coupled",)


def energy(context: Context, distances: bool = False) -> str:
    """Returns the energy that --geodesic_energy asks for; raises NotImplementedError where it cannot be had.

    distances: whether "auto" is to give the energy whose minimisers are shortest under the expected metric, which those
    of the decorrelated energy are not.
    """
    asked, offered = context.hparams.geodesic_energy, space(context).energies
    if asked == "auto":
        return "coupled" if distances and "coupled" in offered else offered[0]
    if asked == "mean" and offered == ("coupled",):
        raise NotImplementedError("This geometry has no mean of its own: take --geodesic_energy=coupled.")
    return asked


def settings(context: Context, kind: str, **changes: Any) -> Settings:
    """Returns the settings of a solver for the energy `kind`, from the flags."""
    options = context.hparams
    values = dict(energy=kind, num_points=int(options.geodesic_points), steps=int(options.geodesic_steps) or None,
                  reference_points=int(options.geodesic_reference), init=options.geodesic_init,
                  jit_compile=context.jit_compile)  # fmt: skip
    return Settings(**{**values, **changes})


def solver(context: Context, kind: str, ends: np.ndarray, manifold: Optional[Manifold] = None,
           **changes: Any) -> Solver:  # fmt: skip
    """Returns a solver for the energy `kind`, with a graph over training codes and `ends` (n, d) if the flags ask.

    Where no graph can be laid, a line says why and the search starts from straight lines.
    """
    manifold = space(context).manifold if manifold is None else manifold
    asked = settings(context, kind, **changes)
    if asked.init == "line":
        return Solver(manifold, asked)
    try:
        graph = _graph(context, manifold, kind, ends)
    except UserError as error:
        context.say(f"Geodesics start from straight lines, for no graph can be laid. {sentence(error)}")
        return Solver(manifold, dataclasses.replace(asked, init="line"))
    return Solver(manifold, asked, graph)


def _graph(context: Context, manifold: Manifold, kind: str, ends: np.ndarray):
    """Returns a grid for up to three latents, else training codes joined to their nearest neighbours."""
    weights = "decorrelated" if kind == "decorrelated" else "expected"
    options: dict[str, Any] = dict(weights=weights, jit_compile=context.jit_compile)
    codes = context.once("graph_codes", lambda: _training_codes(context))
    if manifold.latent_dim <= MOST_GRID_DIMENSIONS:
        return GridGraph.around(manifold, np.concatenate([codes, ends]), **options)
    neighbours = max(1, min(5, len(np.unique(codes, axis=0)) - 1))
    return KNNGraph(manifold, codes, neighbours=neighbours, bridge=True, **options)


def _training_codes(context: Context) -> np.ndarray:
    x = context.dataset.train.x
    return codes(context, x[context.choose(len(x), GRAPH_CODES, "graph")], "codes for the graph")


def codes(context: Context, x: np.ndarray, purpose: str) -> np.ndarray:
    """Returns the posterior means of x (n, *event), (n, latent_dim), float64."""
    return context.encode(x, purpose)[0].astype(np.float64)


# ---- pairs of test data ------------------------------------------------------------------------------------


def pairs(labels: Optional[np.ndarray], count: int, num: int, seed: int) -> np.ndarray:
    """Returns `num` pairs of indices below `count`, (num, 2), no index twice; each second pair has two labels.

    The first pairs of many are those of few. Labels (count,) may be None; where no two different ones are left, pairs
    are drawn as they come. Raises NotImplementedError where there are too few data.
    """
    if 2 * num > count:
        raise NotImplementedError(f"{num} pairs of different test data need {2 * num} of them; there are {count}. Ask "
                                  f"for at most {count // 2} pairs.")
    generator = np.random.default_rng([seed, 0x7061697273])
    order = generator.permutation(count)
    names = np.unique(labels) if labels is not None else []
    queues = {} if labels is None else {name: order[labels[order] == name] for name in names}
    used, found = np.zeros(count, bool), []
    for number in range(num):
        chosen = None
        if number % 2:
            left = {name: [i for i in queue if not used[i]][:1] for name, queue in queues.items()}
            left = [name for name, some in left.items() if some]
            if len(left) > 1:
                both = generator.choice(len(left), 2, replace=False)
                chosen = [next(i for i in queues[left[one]] if not used[i]) for one in both]
        if chosen is None:
            chosen = [int(i) for i in order[~used[order]][:2]]
        used[chosen] = True
        found.append(chosen)
    return np.array(found, int)


def test_pairs(context: Context, num: int) -> np.ndarray:
    """Returns `num` pairs of test data that --pair_seed chooses, whatever the model and --seed, (num, 2)."""
    test = context.dataset.test
    return pairs(test.y, len(test.x), num, int(context.hparams.pair_seed))


def label_names(context: Context, rows: np.ndarray) -> np.ndarray:
    """Returns the names of the labels of test data of any shape of indices; '' where there are none."""
    y = context.dataset.test.y
    if y is None:
        return np.full(np.shape(rows), "")
    names = context.dataset.label_names
    return np.asarray(names)[y[rows]] if names else y[rows].astype(str)


def checksum(x: np.ndarray) -> int:
    """Returns a number that tells data x apart from others."""
    return zlib.crc32(np.ascontiguousarray(x).tobytes())


def pixel_distances(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the Euclidean distances (n,) in data space of pairs of rows (n, 2) of x, in the units of x."""
    ends = to_unit(x[rows]).astype(np.float64).reshape(len(rows), 2, -1)
    return np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)


# ---- what is measured along curves -------------------------------------------------------------------------


class Outputs:
    """Mean and std of the decoder's outputs at latents, in the units of y, compiled once."""

    def __init__(self, context: Context):
        manifold = space(context).manifold
        if not isinstance(manifold, Embedded):
            raise NotImplementedError("This geometry has no features to decode.")
        self.event_shape, self._manifold = context.dataset.event_shape, manifold
        self._map = RowMap(
            self._of, 4.0 * manifold.size * manifold.dtype.size, jit_compile=context.jit_compile)  # fmt: skip

    def _of(self, z):
        mean, spread = self._manifold.features(z)
        std = tf.zeros_like(mean) if spread is None else tf.sqrt(tf.reduce_sum(tf.square(spread), axis=0))
        return mean, std

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and std at z (n, d), each (n, *event)."""
        found = self._map(z.astype(self._manifold.dtype.as_numpy_dtype))
        if found[0].shape[1] != math.prod(self.event_shape):
            raise NotImplementedError(f"The decoder gives {found[0].shape[1]} numbers for data of {self.event_shape}.")
        return tuple(values.reshape(-1, *self.event_shape) for values in found)


def uncertainty(context: Context, z: np.ndarray) -> Optional[np.ndarray]:
    """Returns the mean over outputs of the decoder's std at z (..., d), (...), in y; None for a certain decoder."""
    fields = _fields(context)
    try:
        return fields.uncertainty(z.reshape(-1, z.shape[-1])).reshape(z.shape[:-1]).astype(np.float64)
    except NotImplementedError:
        return None


def _fields(context: Context) -> Fields:
    return context.once("latent_fields", lambda: Fields(space(context).manifold, jit_compile=context.jit_compile))


def metric(context: Context, z: np.ndarray) -> np.ndarray:
    """Returns E[G] at z (n, d), (n, d, d), float64."""
    return _fields(context).metric(z).astype(np.float64)


def data_distances(codes: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """Returns the distances of points (B, T, d) to the nearest of the codes (n, d), mean along each path, (B,).

    In units of the mean distance of a code to its nearest neighbour; NaN where all codes are the same.
    """
    from scipy.spatial import KDTree

    tree = KDTree(codes)
    unit = tree.query(codes, k=min(2, len(codes)))[0].reshape(len(codes), -1)[:, -1].mean()
    found = tree.query(paths.reshape(-1, paths.shape[-1]))[0].reshape(paths.shape[:-1]).mean(axis=1)
    return found / unit if unit > 0 else np.full(len(paths), np.nan)


def mean(values: Optional[np.ndarray], keep: np.ndarray) -> float:
    """Returns the mean of the values (n,) that `keep` (n,) chooses; NaN for none."""
    return float(np.mean(values[keep])) if values is not None and keep.any() else float("nan")
