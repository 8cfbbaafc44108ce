"""Precision, recall, density and coverage: two sets of features compared by balls around their points."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

NUM_NEIGHBOURS = 5
_ROWS = 500  # distances to 10,000 points at a time: 40 MB


class Neighbourhoods(NamedTuple):
    """Points (n, d) with the squared radii (n,) of the balls that reach to their k-th nearest neighbours."""

    points: np.ndarray
    radii: np.ndarray
    k: int


def neighbourhoods(points: np.ndarray, k: int = NUM_NEIGHBOURS) -> Neighbourhoods:
    """Returns the balls around `points` (n, d); a point is not its own neighbour. Raises ValueError unless n > k."""
    points = np.asarray(points, np.float64)
    if len(points) <= k:
        raise ValueError(f"{len(points)} points have no {k} neighbours; more than {k} are needed.")
    radii = [np.partition(block, k, axis=1)[:, k] for _, block in _blocks(points, points)]
    return Neighbourhoods(points, np.concatenate(radii), k)


def compare(real: Neighbourhoods, fake: Neighbourhoods) -> dict[str, float]:
    """Returns precision, recall, density, coverage of `fake` points against `real` ones.

    A point lies in a ball if it is closer to the centre than the k-th neighbour, or is the centre itself.
      precision = share of fake points in some real ball, recall = share of real points in some fake ball
        (Kynkaanniemi et al., arXiv 1904.06991, eq. 1-2);
      density = mean over fake points of the real balls they lie in, over k; coverage = share of real balls that
        hold a fake point (Naeem et al., arXiv 2002.09797, eq. 3-4).
    Two sets from one continuous distribution have density 1 on average. All but density are at most 1.
    """
    in_real = np.zeros(len(fake.points), np.int64)
    recalled = np.zeros(len(real.points), bool)
    covered = np.zeros(len(real.points), bool)
    for rows, block in _blocks(real.points, fake.points):
        inside = (block < real.radii[rows, None]) | (block == 0.0)
        in_real += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = ((block < fake.radii) | (block == 0.0)).any(axis=1)
    return {
        "precision": float((in_real > 0).mean()),
        "recall": float(recalled.mean()),
        "density": float(in_real.mean() / real.k),
        "coverage": float(covered.mean()),
    }


def nearest(points: np.ndarray, pool: np.ndarray, num: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns (distances, indices), each (n, num), of the `num` nearest of `pool` (m, d) to points (n, d).

    Examples:
      >>> distances, rows = nearest(np.array([[0.0], [5.0]]), np.array([[4.0], [1.0]]))
      >>> distances.tolist(), rows.tolist()
      ([[1.0], [1.0]], [[1], [0]])
    """
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=num, algorithm="brute").fit(pool).kneighbors(points)


def _blocks(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (rows, squared distances) by matrix products; those that rounding hides are exactly 0."""
    centre = columns.mean(axis=0)  # a common offset would cost digits
    rows, columns = rows - centre, columns - centre
    row_norms, column_norms = (rows**2).sum(axis=1), (columns**2).sum(axis=1)
    for start in range(0, len(rows), _ROWS):
        chosen = slice(start, start + _ROWS)
        scale = row_norms[chosen, None] + column_norms
        block = rows[chosen] @ columns.T
        block *= -2.0
        block += scale
        scale *= 1e-13
        block[block < scale] = 0.0
        yield chosen, block
