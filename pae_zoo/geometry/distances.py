"""Geodesic distances between all pairs of points, solved together."""

from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import numpy as np

from pae_zoo.core.errors import UserError, unknown
from pae_zoo.core.inputs import TensorLike
from pae_zoo.geometry.solver import Solver

# Pairs given to the solver at once; it cuts them further by its own memory.
CHUNK = 4096


class Distances(NamedTuple):
    """Distances between n points.

    distances: (n, n), float64, symmetric, 0 on the diagonal; NaN where no curve has a finite length.
    converged: (n, n), bool, whether the curve of a pair is a geodesic as far as the solver can tell. Where it is not,
      the number is the length of the best curve found, an upper bound.
    """

    distances: np.ndarray
    converged: np.ndarray


def pairwise_distances(
    solver: Solver, points: TensorLike, length: str = "rms", progress: Optional[Callable[[int], Any]] = None
) -> Distances:
    """Returns the lengths of the geodesics between all n (n - 1) / 2 pairs of points (n, d).

    length: "rms", "mean" or, for ensembles, "expected"; see `lengths.Lengths`. progress: called with the number of
    pairs done. Raises UserError for points that are not (n, d) or not finite, and for another length.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != solver.manifold.latent_dim:
        raise UserError(f"Points are an array (n, {solver.manifold.latent_dim}); received shape {points.shape}.")
    if not np.isfinite(points).all():
        raise UserError(f"Points must be finite numbers; {(~np.isfinite(points)).any(axis=1).sum()} of {len(points)} "
                        "are not.")
    if length not in solver.lengths.names:
        raise unknown("length", length, solver.lengths.names)
    first, second = np.triu_indices(len(points), 1)
    found, converged = np.zeros((len(points),) * 2), np.eye(len(points), dtype=bool)
    for start in range(0, len(first), CHUNK):
        a, b = first[start : start + CHUNK], second[start : start + CHUNK]
        solved = solver.solve(points[a], points[b], progress)
        values = np.where(solved.finite, solved.lengths[length], np.nan)
        found[a, b] = found[b, a] = values
        converged[a, b] = converged[b, a] = solved.converged
    return Distances(found, converged)


def medoid(distances: np.ndarray, weights: Optional[np.ndarray] = None) -> int:
    """Returns the row of the point with the least (weighted) mean square distance (n, n) to all points.

    Pairs without a distance, NaN, are left out; a point without any finite distance to another is no candidate. Raises
    UserError where no point has one.
    """
    square = np.square(np.asarray(distances, np.float64))
    weights = np.ones(len(square)) if weights is None else np.asarray(weights, np.float64)
    known = np.isfinite(square) * weights
    others = known.sum(axis=1) - np.diag(known)
    spread = np.nansum(square * weights, axis=1) / np.maximum(known.sum(axis=1), 1e-300)
    candidates = (others > 0) | (len(square) == 1)
    if not candidates.any():
        raise UserError(f"None of {len(square)} points has a finite distance to another: there is no medoid.")
    return int(np.argmin(np.where(candidates, spread, np.inf)))
