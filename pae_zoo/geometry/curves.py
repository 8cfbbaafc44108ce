"""Curves between two latents: a straight line plus a combination of functions that vanish at both ends."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Optional

import numpy as np

from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike


class Family:
    """Functions on [0, 1] that are 0 at both ends, normalised: integral of phi_i' phi_j' = 1 for i = j, else 0.

    With it the energy of a curve in flat space is |end - start|^2 + |weights|^2. Functions come from slow to fast.
    """

    @property
    def size(self) -> int:
        """The number m of functions."""
        return self._mixing.shape[1]

    def basis(self, t: TensorLike) -> np.ndarray:
        """Returns phi(t) for t (...) in [0, 1], float64, shape (..., m)."""
        return self._raw(np.asarray(t, np.float64), 0) @ self._mixing

    def derivative(self, t: TensorLike) -> np.ndarray:
        """Returns phi'(t) for t (...), shape (..., m)."""
        return self._raw(np.asarray(t, np.float64), 1) @ self._mixing

    def second_derivative(self, t: TensorLike) -> np.ndarray:
        """Returns phi''(t) for t (...), shape (..., m)."""
        return self._raw(np.asarray(t, np.float64), 2) @ self._mixing

    @functools.cached_property
    def _mixing(self) -> np.ndarray:
        """The combinations of raw functions that vanish at the ends and are normalised, (raw, m)."""
        nodes, weights = np.polynomial.legendre.leggauss(4)
        edges = np.linspace(0.0, 1.0, self.num_pieces + 1)
        t = (edges[:-1, None] + np.diff(edges)[:, None] * (nodes + 1) / 2).ravel()
        weights = np.tile(weights / 2, self.num_pieces) / self.num_pieces
        free = self._free()
        value, slope = self._raw(t, 0) @ free, self._raw(t, 1) @ free
        mass, stiffness = (value.T * weights) @ value, (slope.T * weights) @ slope
        # The generalised eigenvectors of stiffness and mass: on the whole interval, sines.
        root = np.linalg.cholesky(mass)
        inner = np.linalg.solve(root, np.linalg.solve(root, stiffness).T)
        eigenvalues, vectors = np.linalg.eigh((inner + inner.T) / 2)
        vectors = np.linalg.solve(root.T, vectors) / np.sqrt(eigenvalues)
        return free @ vectors * np.where((value @ vectors)[0] < 0, -1.0, 1.0)

    num_pieces: int

    def _raw(self, t: np.ndarray, order: int) -> np.ndarray:
        """Returns the raw functions at t (...), or their derivative of order 1 or 2, shape (..., raw)."""
        raise NotImplementedError(f"{type(self).__name__} does not define its functions.")

    def _free(self) -> np.ndarray:
        """Returns the combinations of raw functions that the family allows, (raw, m)."""
        raise NotImplementedError(f"{type(self).__name__} does not say which combinations it allows.")


class CubicSpline(Family):
    """Piecewise cubics with continuous first and second derivatives: num_pieces + 1 functions.

    Equal pieces; no condition on the derivatives at the ends. The free combinations are the null space of the 2 + 3
    (num_pieces - 1) conditions on 4 num_pieces coefficients (Syrota et al., arXiv 2408.07507, code), in the powers of
    each piece's own time, which keeps them well conditioned.
    """

    def __init__(self, num_pieces: int = 10):
        if num_pieces < 1:
            raise UserError(f"A spline has at least 1 piece; received {num_pieces}.")
        self.num_pieces = int(num_pieces)

    def _raw(self, t, order):
        piece = np.clip(np.floor(t * self.num_pieces).astype(int), 0, self.num_pieces - 1)
        powers = _powers(t * self.num_pieces - piece, order) * float(self.num_pieces) ** order
        found = np.zeros((*t.shape, self.num_pieces, 4))
        np.put_along_axis(found, piece[..., None, None], powers[..., None, :], axis=-2)
        return found.reshape(*t.shape, -1)

    def _free(self):
        rows = [self._raw(np.zeros(()), 0), self._raw(np.ones(()), 0)]
        for knot in range(1, self.num_pieces):
            for order in range(3):
                row = np.zeros((self.num_pieces, 4))
                row[knot - 1], row[knot] = _powers(np.ones(()), order), -_powers(np.zeros(()), order)
                rows.append(row.ravel())
        conditions = np.stack(rows)
        return np.linalg.svd(conditions, full_matrices=True)[2][len(conditions) :].T


class Polyline(Family):
    """Straight pieces between num_pieces + 1 points evenly spread in time, the inner ones free."""

    def __init__(self, num_pieces: int = 32):
        if num_pieces < 2:
            raise UserError(f"A polyline that is not a straight line has at least 2 pieces; received {num_pieces}.")
        self.num_pieces = int(num_pieces)

    def _raw(self, t, order):
        place = t[..., None] * self.num_pieces - np.arange(1, self.num_pieces)
        if order == 0:
            return np.maximum(1.0 - np.abs(place), 0.0)
        if order == 1:
            inside = np.abs(place) <= 1.0
            return np.where(inside, np.where(place < 0, 1.0, -1.0), 0.0) * self.num_pieces
        return np.zeros_like(place)

    def _free(self):
        return np.eye(self.num_pieces - 1)


def _powers(u: np.ndarray, order: int) -> np.ndarray:
    """Returns the derivative of order 0, 1 or 2 of (1, u, u^2, u^3), shape (..., 4)."""
    one, zero = np.ones_like(u), np.zeros_like(u)
    rows = {
        0: (one, u, u**2, u**3),
        1: (zero, one, 2 * u, 3 * u**2),
        2: (zero, zero, 2 * one, 6 * u),
    }
    return np.stack(rows[order], axis=-1)


FAMILIES = {"spline": CubicSpline, "polyline": Polyline}


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """B curves c(t) = start + t (end - start) + phi(t) weights, as numpy arrays.

    start, end: (B, d). weights: (B, m, d).
    """

    family: Family
    start: np.ndarray
    end: np.ndarray
    weights: np.ndarray

    def __call__(self, t) -> np.ndarray:
        """Returns the points at times t, (T,) or one number for all, or (B, T) each its own: (B, T, d), float64."""
        t = np.atleast_1d(np.asarray(t, np.float64))
        line = self.start[:, None] + t[..., None] * (self.end - self.start)[:, None]
        return line + self.family.basis(t) @ self.weights

    def velocity(self, t: TensorLike) -> np.ndarray:
        """Returns dc/dt at times t, (T,) or (B, T): (B, T, d), float64."""
        slopes = self.family.derivative(np.atleast_1d(np.asarray(t, np.float64)))
        return (self.end - self.start)[:, None] + slopes @ self.weights

    def __getitem__(self, chosen) -> "Curves":
        """Returns the curves that an index array, mask or slice chooses."""
        if not isinstance(chosen, (slice, np.ndarray, list)):
            raise TypeError("Curves are chosen by a slice or an array; take curves[i : i + 1] for one.")
        return Curves(self.family, self.start[chosen], self.end[chosen], self.weights[chosen])

    def __len__(self) -> int:
        return len(self.start)

    def with_weights(self, weights: np.ndarray) -> "Curves":
        """Returns the curves between the same ends with other weights (B, m, d)."""
        return dataclasses.replace(self, weights=weights)


def straight(start: np.ndarray, end: np.ndarray, family: Optional[Family] = None) -> Curves:
    """Returns the straight lines from start (B, d) to end (B, d)."""
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    family = family or CubicSpline()
    return Curves(family, start, end, np.zeros((len(start), family.size, start.shape[-1])))


def fit(
    family: Family, paths: Sequence[np.ndarray], times: Optional[Sequence[np.ndarray]] = None, ridge: float = 1e-3
) -> Curves:
    """Returns the curves nearest to B paths of points, each (T_i, d), by ridge regression; ends are met exactly.

    times: one (T_i,) from 0 to 1 for each path; None takes the length travelled in the latent space. The ridge is
    relative to the mean square of the functions.
    """
    weights = []
    for number, path in enumerate(paths):
        path = np.asarray(path, np.float64)
        t = _travelled(path) if times is None else np.asarray(times[number], np.float64)
        basis = family.basis(t)
        gram = basis.T @ basis
        gram += ridge * max(np.trace(gram) / len(gram), 1e-12) * np.eye(len(gram))
        line = path[0] + t[:, None] * (path[-1] - path[0])
        weights.append(np.linalg.solve(gram, basis.T @ (path - line)))
    ends = np.stack([path[[0, -1]] for path in map(np.asarray, paths)]).astype(np.float64)
    return Curves(family, ends[:, 0], ends[:, 1], np.stack(weights))


def _travelled(path: np.ndarray) -> np.ndarray:
    """Returns the share of a path (T, d) that is travelled at each of its points, (T,)."""
    steps = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=-1))])
    return steps / steps[-1] if steps[-1] > 0 else np.linspace(0.0, 1.0, len(path))
