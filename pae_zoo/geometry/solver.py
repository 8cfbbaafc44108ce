"""Geodesics between many pairs of latents at once: one compiled program, one result for each pair."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError, unknown
from pae_zoo.core.inputs import TensorLike
from pae_zoo.geometry import curves as curves_lib
from pae_zoo.geometry import descent, energies, gauss_newton, sampled
from pae_zoo.geometry.batching import batch_size
from pae_zoo.geometry.curves import Curves
from pae_zoo.geometry.lengths import NUM_POINTS, Lengths
from pae_zoo.geometry.manifold import Embedded, Ensemble, Manifold, MeanAlone, as_manifold
from pae_zoo.geometry.metrics import Fields

# Raised by every change of what the default settings find: saved distances of another version do not compare.
SOLVER_VERSION = 4
METHODS = ("auto", "gauss_newton", "adam")
INITS = ("line", "graph", "both", "random")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How geodesics are found.

    Args:
      energy: "decorrelated", "coupled", "mean" or "interpolated" (see `energies.weights`), or "sampled": the published
        one-sample estimator, for comparison.
      num_points: T, points of a curve on which the energy is computed.
      reference_points: R of the decorrelated energy, at least 1; None is the published form, which depends on
        num_points.
      correlation: of the interpolated energy.
      curve, num_pieces: "spline" or "polyline", and its pieces.
      init: "line", "graph" (shortest paths of the graph), "both" (the lower energy of the two), or "random":
        normal weights of std `init_scale` times the distance of the ends.
      method: "gauss_newton", "adam", or "auto": the first for decoders; the second for a Gaussian process or a metric
        alone, whose curvature it does not have whole.
      steps: most steps; None is 200 of Gauss-Newton (400 with more than four latents), 500 of Adam.
      learning_rate: of Adam, relative to the latent distance of the ends. cosine: whether it falls to 0.
      tolerance, patience: when a curve has converged; see `descent.adam` and `gauss_newton.minimise`.
      polish: L-BFGS steps after Adam, at most; Gauss-Newton needs none and takes none.
      curvature_points: of Gauss-Newton: points of a curve at which the metric is looked at.
      length_points: N, points of a curve on which lengths are computed.
      memory_mib: memory that a batch of curves may need; None is 2048 on a GPU and 16 on a CPU, where decoders that
        leave the caches are slower than curves that take turns.
      jit_compile: whether XLA compiles the program; convolutions on a CPU are faster without.
      seed: of "random" and "sampled".

    Raises UserError for a value that is not allowed.
    """

    energy: str = "decorrelated"
    num_points: int = 64
    reference_points: Optional[int] = energies.PUBLISHED_POINTS
    correlation: float = 0.5
    curve: str = "spline"
    num_pieces: int = 10
    init: str = "line"
    init_scale: float = 0.3
    method: str = "auto"
    steps: Optional[int] = None
    learning_rate: float = 0.02
    cosine: bool = True
    tolerance: float = 1e-6
    patience: int = 50
    polish: int = 0
    curvature_points: int = 16
    length_points: int = NUM_POINTS
    memory_mib: Optional[float] = None
    jit_compile: bool = True
    seed: int = 0

    def __post_init__(self):
        for name, allowed in (("method", METHODS), ("init", INITS), ("curve", tuple(curves_lib.FAMILIES))):
            if getattr(self, name) not in allowed:
                raise unknown(name, getattr(self, name), allowed)
        if self.energy != "sampled":
            energies.weights(self.energy, 2, correlation=self.correlation)
        for name, least in (("num_points", 3), ("length_points", 2), ("num_pieces", 1), ("patience", 1), ("polish", 0),
                            ("curvature_points", 1), ("init_scale", 0.0), ("tolerance", 0.0)):
            if not getattr(self, name) >= least:
                raise UserError(f"{name}={getattr(self, name)} is out of range; allowed: at least {least}.")
        for name in ("steps", "reference_points"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is out of range; allowed: at least 1, or None.")
        for name in ("learning_rate", "memory_mib"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} is out of range; allowed: above 0.")
        if self.method == "gauss_newton" and self.energy == "sampled":
            raise UserError("The sampled energy has no Gauss-Newton steps; take method='adam'.")


class Geodesics(NamedTuple):
    """Curves of least energy between B pairs, with what is known of each.

    initial_energy, energy (B,): before and after, of the closed form, float64. lengths: {name: (B,)}, see
    `lengths.Lengths`.
    converged (B,): whether the energy had stopped falling; finite (B,): whether energies and lengths are numbers. Where
    one is False the curve is not the geodesic. steps (B,): taken, with `polish`
    those of the slowest curve of its batch. trace: best energy after each step, (steps + 1, B).
    """

    curves: Curves
    initial_energy: np.ndarray
    energy: np.ndarray
    lengths: dict[str, np.ndarray]
    converged: np.ndarray
    finite: np.ndarray
    steps: np.ndarray
    trace: np.ndarray


class Path(NamedTuple):
    """Points (B, num, d) of geodesics at even times, their rms lengths (B,), and whether each had converged (B,)."""

    points: tf.Tensor
    length: tf.Tensor
    converged: tf.Tensor


class Solver:
    """Finds geodesics on one manifold; programs are compiled once for each size of batch.

    Args:
      manifold: where they run. settings: how they are found.
      graph: a `graphs.GridGraph` or `graphs.KNNGraph` for init "graph" and "both".

    Raises UserError for settings that the manifold does not allow.
    """

    def __init__(self, manifold: Manifold, settings: Settings = Settings(), graph: Any = None):
        self.manifold, self.settings, self.graph = manifold, settings, graph
        if settings.init in ("graph", "both") and graph is None:
            raise UserError(f"init={settings.init!r} needs a graph: give a GridGraph or a KNNGraph.")
        if settings.energy == "sampled" and not isinstance(manifold, Ensemble):
            raise UserError("The sampled energy draws members, and this decoder has none; take energy='decorrelated'.")
        self.coupled: Optional[Solver] = None  # see `maps.coupled`
        self.uses_gauss_newton = settings.energy != "sampled" and (
            settings.method == "gauss_newton"
            or settings.method == "auto" and isinstance(manifold, Embedded))
        self.steps = settings.steps or (
            gauss_newton.plan(manifold.latent_dim).steps if self.uses_gauss_newton else 500)
        if settings.polish and (self.uses_gauss_newton or settings.energy == "sampled"):
            raise UserError(f"polish={settings.polish} is for what follows Adam on an energy in closed form; take "
                            "method='adam' and another energy than 'sampled', or polish=0.")
        self.family = curves_lib.FAMILIES[settings.curve](settings.num_pieces)
        self.times = np.linspace(0.0, 1.0, settings.num_points)
        on_gpu = bool(tf.config.list_logical_devices("GPU"))
        self.memory_mib = settings.memory_mib or (2048 if on_gpu else 16)
        self.lengths = Lengths(manifold, settings.length_points, self.memory_mib, settings.jit_compile)
        self.fields = Fields(manifold, self.memory_mib, settings.jit_compile)
        self._target = MeanAlone(manifold) if settings.energy == "mean" and isinstance(manifold, Embedded) else manifold
        decoded = 6 * settings.num_points
        matrices = 0
        if self.uses_gauss_newton:
            where = gauss_newton.curvature(self.family, settings.curvature_points, settings.num_points)
            decoded += 2 * (1 + manifold.latent_dim) * len(where.times)
            matrices = 4 * (self.family.size * manifold.latent_dim) ** 2
        self._bytes_per_curve = (decoded * manifold.size + matrices) * manifold.dtype.size
        # TensorFlow tells functions apart by their code, partial objects by themselves: no warning of retracing.
        self._program = tf.function(functools.partial(self._minimise), jit_compile=settings.jit_compile,
                                    autograph=False)  # fmt: skip

    def solve(self, start: TensorLike, end: TensorLike, progress: Optional[Callable[[int], Any]] = None) -> Geodesics:
        """Returns the geodesics from start (B, d) to end (B, d); the number of pairs does not change any of them.

        progress: called with the number of pairs done, after each batch. Raises UserError for shapes that do not fit
        or ends that are not finite.
        """
        start, end = self._ends(start, end)
        if self.settings.init != "both":
            return self._from(self._initial(self.settings.init, start, end), progress)
        line = self._from(self._initial("line", start, end), None)
        return _lower(line, self._from(self._initial("graph", start, end), progress))

    def straight(self, start: TensorLike, end: TensorLike) -> Geodesics:
        """Returns the straight lines between start (B, d) and end (B, d) with their energies and lengths."""
        lines = curves_lib.straight(*self._ends(start, end), self.family)
        return self._from(lines, None, steps=0)

    def energy(self, curves: Curves) -> np.ndarray:
        """Returns the energies (B,) of curves in closed form."""
        return self._from(curves, None, steps=0).energy

    def path(self, start: tf.Tensor, end: tf.Tensor, num: int) -> Path:
        """Returns the geodesics from start (B, d) to end (B, d) as tensors: for graphs, where B may be unknown.

        The search is that of `solve` from straight lines, and all pairs are in memory at once. Of a pair with an end
        that is not finite all numbers are NaN. Raises UserError for another `init` and for less than two points.
        """
        if self.settings.init != "line" or num < 2:
            raise UserError(f"A path takes init='line' and at least 2 points; received init={self.settings.init!r} and "
                            f"{num}.")
        start, end = (tf.cast(points, self.manifold.dtype) for points in (start, end))
        lines = tf.tile(tf.zeros_like(start)[:, None], (1, self.family.size, 1))
        found = self._minimise(start, end, lines, tf.range(tf.shape(start)[0]), self.steps)
        same = tf.reduce_all(start == end, axis=-1)
        weights = tf.where(same[:, None, None], tf.zeros_like(found[0]), found[0])

        def at(times):
            share = tf.constant(times, start.dtype)[:, None]
            basis = tf.constant(self.family.basis(times), start.dtype)
            return start[:, None] + share * (end - start)[:, None] + tf.einsum("tm,bmd->btd", basis, weights)

        length = self.lengths.of_points(at(np.linspace(0.0, 1.0, self.settings.length_points)))["rms"]
        sound = tf.math.is_finite(length)
        nan = tf.constant(float("nan"), start.dtype)
        return Path(tf.where(sound[:, None, None], at(np.linspace(0.0, 1.0, num)), nan), tf.where(sound, length, nan),
                    (found[4] | same) & sound)

    @property
    def rows(self) -> int:
        """How many pairs fit into `memory_mib` at once, with their lengths."""
        by_length = 3 * self.settings.length_points * self.manifold.size * self.manifold.dtype.size
        return max(1, int(self.memory_mib * 2**20 / max(self._bytes_per_curve, by_length)))

    # ---- batches -----------------------------------------------------------------------------------

    def _ends(self, start, end) -> tuple[np.ndarray, np.ndarray]:
        start, end = (np.atleast_2d(np.asarray(points, np.float64)) for points in (start, end))
        d = self.manifold.latent_dim
        if not start.size:
            raise UserError("There is no pair to join: give at least one.")
        if start.shape != end.shape or start.ndim != 2 or start.shape[1] != d:
            raise UserError(f"Pairs of latents are two arrays (B, {d}); received {start.shape} and {end.shape}.")
        if not (np.isfinite(start).all() and np.isfinite(end).all()):
            raise UserError("Ends of geodesics must be finite numbers; some are not.")
        return start, end

    def _initial(self, name: str, start: np.ndarray, end: np.ndarray) -> Curves:
        if name == "graph":
            return dataclasses.replace(curves_lib.fit(self.family, self.graph.paths(start, end)), start=start, end=end)
        lines = curves_lib.straight(start, end, self.family)
        if name == "random":
            noise = [seeds.normal(lines.weights.shape[1:], seeds.fold_in((self.settings.seed, 0), b), tf.float64)
                     for b in range(len(start))]  # fmt: skip
            distances = np.linalg.norm(end - start, axis=1)[:, None, None]
            return lines.with_weights(self.settings.init_scale * distances * np.stack(noise))
        return lines

    def _from(self, curves: Curves, progress: Optional[Callable[[int], Any]], steps: Optional[int] = None) -> Geodesics:
        count = len(curves)
        size = batch_size(count, self._bytes_per_curve, self.memory_mib)
        dtype = self.manifold.dtype.as_numpy_dtype
        parts = []
        for first in range(0, count, size):
            batch = curves[first : first + size]
            kept = len(batch)
            rows = np.minimum(np.arange(size), kept - 1)
            arrays = [tf.constant(array[rows], dtype) for array in (batch.start, batch.end, batch.weights)]
            numbers = tf.constant(first + rows, tf.int32)
            found = self._program(*arrays, numbers, steps=self.steps if steps is None else steps)
            parts.append([values.numpy()[..., :kept] for values in found[1:]] + [found[0].numpy()[:kept]])
            if progress is not None:
                progress(kept)
        initial, energy, taken, converged, trace, constant = (
            np.concatenate(part, axis=-1) for part in list(zip(*parts))[:-1])
        initial, energy, trace = (values.astype(np.float64) + constant for values in (initial, energy, trace))
        weights = np.concatenate([part[-1] for part in parts]).astype(np.float64)
        # From a point to itself the way is to stay, also where an energy would have the curve wait elsewhere.
        same = (curves.start == curves.end).all(axis=1)
        weights[same], energy[same] = 0.0, initial[same]
        solved = curves.with_weights(weights)
        lengths = self.lengths(solved)
        finite = np.isfinite(energy) & np.all([np.isfinite(value) for value in lengths.values()], axis=0)
        return Geodesics(solved, initial, energy, lengths, (converged | same) & finite, finite, taken, trace)

    # ---- the compiled program ----------------------------------------------------------------------

    def _minimise(self, start, end, weights, numbers, steps: int):
        settings, dtype = self.settings, start.dtype
        basis = tf.constant(self.family.basis(self.times), dtype)
        times = tf.constant(self.times, dtype)
        line = start[:, None] + times[:, None] * (end - start)[:, None]
        sampling = settings.energy == "sampled"
        by = energies.weights("decorrelated" if sampling else settings.energy, settings.num_points,
                              None if sampling else settings.reference_points, settings.correlation)  # fmt: skip

        def points(weights):
            return line + tf.einsum("tm,bmd->btd", basis, weights)

        # The same for all curves between two ends, and added again in float64: it may be so large that float32 would
        # have no digits left for what the search changes.
        base, constant = None, tf.zeros_like(start[:, 0])
        if by.point and not sampling:
            base = tf.reduce_min(self._target.segments(tf.stack([start, end], axis=1)).variance, axis=-1)
            constant = 2.0 * by.point * (settings.num_points - 1) * base

        def value(weights):
            segments = self._target.segments(points(weights))
            return energies.weighted(segments, by, base), energies.movable(segments, by)

        if not steps:
            initial, none = value(weights)[0], tf.zeros_like(numbers)
            return weights, initial, initial, none, none > 0, initial[None], constant
        if self.uses_gauss_newton:
            where = gauss_newton.curvature(self.family, settings.curvature_points, settings.num_points)
            at = tf.constant(where.times, dtype)
            looked = start[:, None] + at[:, None] * (end - start)[:, None]
            coarse = tf.constant(where.basis, dtype)

            def hessian(weights):
                points = looked + tf.einsum("tm,bmd->btd", coarse, weights)
                return gauss_newton.hessian(self._target, points, where, by)

            found = gauss_newton.minimise(value, hessian, weights, steps, settings.tolerance,
                                          gauss_newton.refresh_steps(steps, self.manifold.latent_dim))
        else:
            def objective(weights, step):
                energy, part = value(weights)
                return energy, energy, part

            if sampling:
                seed, members = (settings.seed, 1), self._target
                assert isinstance(members, Ensemble)  # as __init__ has made sure

                def objective(weights, step):
                    drawn, expected = sampled.energies(
                        members, points(weights), numbers, seeds.fold_in(seed, step))  # fmt: skip
                    return drawn, expected, expected

            rates = settings.learning_rate * tf.norm(end - start, axis=-1)
            found = descent.adam(objective, weights, rates, steps, settings.tolerance, settings.patience,
                                 settings.cosine)  # fmt: skip
            if settings.polish:
                last = descent.lbfgs(value, found.weights, found.energy, settings.polish, settings.tolerance)
                trace = tf.concat([found.trace, last.trace[1:]], axis=0)
                found = descent.Found(last.weights, last.energy, found.steps + last.steps,
                                      found.converged | last.converged, trace)  # fmt: skip
        return found.weights, found.trace[0], found.energy, found.steps, found.converged, found.trace, constant


def solve_geodesics(decoder: Any, start: TensorLike, end: TensorLike, settings: Settings = Settings(),
                    graph: Any = None, latent_dim: Optional[int] = None) -> Geodesics:
    """Returns the geodesics from start (B, d) to end (B, d) in the latent space of a decoder.

    decoder: see `manifold.as_manifold`: any callable z (n, d) -> (n, ...) of TensorFlow operations will do, or an
    object with `mean_and_members(z)` or `mean_and_std(z)`. Other arguments: see `Solver`.

    Examples:
      >>> def plane(z):
      ...     return 2.0 * z
      >>> found = solve_geodesics(plane, [[0.0, 0.0]], [[3.0, 4.0]], Settings(energy="mean", jit_compile=False))
      >>> found.lengths["rms"].round(3).tolist(), found.converged.tolist()
      ([10.0], [True])
    """
    if latent_dim is None and not hasattr(decoder, "latent_dim"):
        latent_dim = np.atleast_2d(start).shape[-1]
    return Solver(as_manifold(decoder, latent_dim), settings, graph).solve(start, end)


def _lower(a: Geodesics, b: Geodesics) -> Geodesics:
    """Returns for each pair the one of two geodesics that has the lower energy."""
    first = ~(b.energy < a.energy) | ~b.finite
    first &= a.finite | ~b.finite
    pick = lambda x, y: np.where(first, x, y)  # noqa: E731
    weights = np.where(first[:, None, None], a.curves.weights, b.curves.weights)
    rows = max(len(a.trace), len(b.trace))
    traces = [np.concatenate([t, np.repeat(t[-1:], rows - len(t), axis=0)]) for t in (a.trace, b.trace)]
    return Geodesics(
        a.curves.with_weights(weights), pick(a.initial_energy, b.initial_energy), pick(a.energy, b.energy),
        {name: pick(a.lengths[name], b.lengths[name]) for name in a.lengths}, pick(a.converged, b.converged),
        pick(a.finite, b.finite), pick(a.steps, b.steps), pick(*traces),
    )
