"""The Frechet mean: the point of least mean square geodesic distance to given ones."""

from typing import NamedTuple, Optional

import numpy as np

from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.geometry.maps import connect, coupled
from pae_zoo.geometry.solver import Solver

# A step that does not lower the variance is halved so many times before the search ends.
MOST_HALVINGS = 6


class FrechetMean(NamedTuple):
    """What the search for a mean found.

    point: (d,). variance: the weighted mean square distance to it, under the expected metric. converged: whether the
    gradient had vanished and all geodesics to the point had converged. trace: the variance after each step, the first
    one that of the start.
    """

    point: np.ndarray
    variance: float
    converged: bool
    trace: np.ndarray


def frechet_mean(
    solver: Solver, points: TensorLike, weights: Optional[np.ndarray] = None, steps: int = 50, tolerance: float = 1e-3,
    start: Optional[np.ndarray] = None,
) -> FrechetMean:  # fmt: skip
    """Returns the weighted Frechet mean of points (n, d) under the expected metric, by Riemannian gradient descent.

    A step goes from m to m + sum_n w_n log_m(x_n), all logarithms in one batch; it is halved while it raises the
    variance sum_n w_n d^2(m, x_n) (Pennec, Journal of Mathematical Imaging and Vision 25 (2006) 127). It ends when the
    mean logarithm is shorter than `tolerance` times the root of the variance, which it is compared with, or after
    `steps`. Where several means exist, as on a ring, it is the one that `start` leads to.

    Args:
      solver: gives manifold and settings; its geodesics are those of the expected metric, see `maps.coupled`.
      weights: (n,), not negative; they are divided by their sum. None: equal.
      start: (d,); None: the weighted mean of the latents.

    Raises UserError for points or weights that do not fit, and where no geodesic from the start is finite.
    """
    points, weights = _check(points, weights, solver.manifold.latent_dim)
    solver = coupled(solver)
    point = weights @ points if start is None else np.asarray(start, np.float64)
    state = _State(solver, point, points, weights)
    if not np.isfinite(state.variance):
        raise UserError("The decoder is not finite between the start of the mean and some of the points. Leave those "
                        "out, or give another start.")
    trace, size = [state.variance], 1.0
    for _ in range(steps):
        if state.still(tolerance):
            break
        for _ in range(MOST_HALVINGS):
            tried = _State(solver, state.point + size * state.step, points, weights)
            if tried.variance <= state.variance:
                break
            size /= 2
        else:
            break  # no way down: as near as the geodesics' own accuracy allows
        # The full step is right near the mean of a flat region, so a short one may grow again.
        state, size = tried, min(1.0, 1.5 * size)
        trace.append(state.variance)
    converged = state.still(tolerance) and state.all_converged
    return FrechetMean(state.point, state.variance, converged, np.array(trace))


class _State:
    """The geodesics from a point to all others: variance, mean logarithm, and its length."""

    def __init__(self, solver: Solver, point: np.ndarray, points: np.ndarray, weights: np.ndarray):
        found = connect(solver, np.broadcast_to(point, points.shape), points)
        used = weights > 0
        self.point = point
        self.variance = float(np.sum(weights[used] * found.distance[used] ** 2))
        self.step = weights[used] @ found.at_start[used]
        metric = solver.fields.metric(point[None])[0]
        self.slope = float(np.sqrt(max(self.step @ metric @ self.step, 0.0)))
        self.all_converged = bool(found.converged[used].all())

    def still(self, tolerance: float) -> bool:
        return self.slope <= tolerance * np.sqrt(self.variance)


def _check(points, weights, latent_dim: int) -> tuple[np.ndarray, np.ndarray]:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != latent_dim or not len(points) or not np.isfinite(points).all():
        raise UserError(f"A mean takes finite latents (n, {latent_dim}), n at least 1; received shape {points.shape}.")
    weights = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
    fit = weights.shape == (len(points),) and np.isfinite(weights).all() and (weights >= 0).all()
    if not fit or weights.sum() <= 0:
        raise UserError(f"Weights are {len(points)} numbers, none negative, not all 0; received shape {weights.shape}.")
    return points, weights / weights.sum()
