"""Shortest paths over a graph of latents whose edges cost what a manifold says, by Dijkstra's algorithm."""

from typing import NamedTuple, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.core.errors import UserError, unknown
from pae_zoo.core.inputs import TensorLike
from pae_zoo.geometry.batching import RowMap
from pae_zoo.geometry.manifold import Manifold

WEIGHTS = ("expected", "decorrelated")
# What the variance above the least one is raised by, as a share of its median: no place is free of charge. On the ring
# of tests/geometry/surfaces.py paths of a grid have energy 137 with 0.1 % and 1 %, 647 with 10 %; the geodesics 133.
LEAST_EXCESS = 0.01
# Share of the cost that is latent length, so that a flat decoder still has a shortest path.
TIE_BREAK = 1e-6
# Bytes of distances and predecessors that Dijkstra's algorithm may return at once.
SEARCH_BYTES = 2**28


class _Found(NamedTuple):
    """Of one pair: its cost, and the rows of the nodes between its ends."""

    cost: float
    nodes: np.ndarray


class LatentGraph:
    """Nodes in a latent space, and edges that cost what the straight line between their ends costs.

    weights:
      "expected": the length under the expected metric, sum_k sqrt(E|df_k|^2) over the points of an edge.
      "decorrelated": sum_k sqrt((v_k - v_min + e) E|df_k|^2), v = tr Cov f. For many points, minimisers of the
        decorrelated energy follow geodesics of (v - v_min) J' J, J that of the mean (the conserved quantity |dmu/dt|^2
        - 2 T^2 v is least there). Here the expected metric takes the place of the mean's, which is 0 far from all data,
        and e is 1 % of the median of v - v_min over the edges, so that the most certain place is not free. Where v is
        constant it is "expected".

    Args:
      manifold: gives the costs.
      nodes: (n, d).
      edges: (E, 2), rows of nodes, each pair once.
      points_per_edge: points of an edge between which its cost is added up, at least 2.
      memory_mib, jit_compile: of the evaluation, see `batching.RowMap`.

    Raises UserError where the graph falls into pieces, or the decoder is finite nowhere.
    """

    #: what to do about a graph in pieces
    remedy = "Add edges, or nodes between the pieces."

    def __init__(self, manifold: Manifold, nodes: np.ndarray, edges: np.ndarray, weights: str = "expected",
                 points_per_edge: int = 5, memory_mib: float = 256, jit_compile: bool = True):
        if weights not in WEIGHTS:
            raise unknown("weights", weights, WEIGHTS)
        if points_per_edge < 2:
            raise UserError(f"points_per_edge={points_per_edge} is out of range; allowed: at least 2.")
        self.manifold, self.weights, self.nodes = manifold, weights, np.asarray(nodes, np.float64)
        self.points_per_edge = int(points_per_edge)
        row = 3.0 * manifold.size * points_per_edge * manifold.dtype.size
        self._pieces = RowMap(self._pieces_of, row, memory_mib, jit_compile)
        length, variance = self._evaluate(self.nodes[edges[:, 0]], self.nodes[edges[:, 1]])
        finite = np.isfinite(length).all(axis=1) & np.isfinite(variance).all(axis=1)
        if not finite.any():
            raise UserError(f"The decoder is finite on none of the {len(edges)} edges of the graph. Look at its "
                            "outputs, or choose other nodes.")
        self.least_variance = float(variance[finite].min())
        above = variance[finite] - self.least_variance
        # The mean where more than half of the edges have the least variance: a floor, and peaks on it.
        self.excess = LEAST_EXCESS * float(np.median(above) or above.mean())
        # Differences of rounding are none.
        self._flat = float(above.max()) <= 1e-6 * abs(self.least_variance)
        latent = np.linalg.norm(self.nodes[edges[:, 0]] - self.nodes[edges[:, 1]], axis=1)
        costs = self._sum(length, variance)
        self._tie_break = TIE_BREAK * costs[finite].sum() / max(latent[finite].sum(), 1e-300)
        self.edges, self.costs = edges[finite], (costs + self._tie_break * latent)[finite]
        self._check_connected(len(edges) - len(self.edges))

    def paths(self, start: TensorLike, end: TensorLike) -> list[np.ndarray]:
        """Returns a cheapest path for each pair of start and end (B, d): B arrays (m_i, d) with both ends.

        Ends are joined to the nodes near them, and pairs that share one of these to each other; the path of a pair does
        not depend on the other pairs. Raises UserError for ends that the graph does not reach.
        """
        start, end = self._ends(start, end)
        return [np.concatenate([a[None], self.nodes[found.nodes], b[None]])
                for a, b, found in zip(start, end, self._search(start, end))]

    def distances(self, start: TensorLike, end: TensorLike) -> np.ndarray:
        """Returns the costs of the paths from start to end (B, d), (B,), float64; errors as `paths`."""
        return np.array([found.cost for found in self._search(*self._ends(start, end))])

    def near(self, points: np.ndarray) -> np.ndarray:
        """Returns the rows of the nodes that points (n, d) are joined to, (n, k)."""
        raise NotImplementedError(f"{type(self).__name__} does not say which nodes are near a point.")

    # ---- costs -------------------------------------------------------------------------------------

    def _pieces_of(self, start: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the expected squares of the pieces of straight lines, and the variance in each: (E, pieces)."""
        t = tf.linspace(tf.zeros((), start.dtype), tf.ones((), start.dtype), self.points_per_edge)[:, None]
        found = self.manifold.segments(start[:, None] + t * (end - start)[:, None])
        return found.expected, 0.5 * (found.variance[:, 1:] + found.variance[:, :-1])

    def _evaluate(self, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the expected lengths of the pieces and the variance in each, float64."""
        dtype = self.manifold.dtype.as_numpy_dtype
        square, variance = self._pieces(start.astype(dtype), end.astype(dtype))
        return np.sqrt(np.maximum(square, 0.0).astype(np.float64)), variance.astype(np.float64)

    def _sum(self, length: np.ndarray, variance: np.ndarray) -> np.ndarray:
        if self.weights == "expected" or self._flat:
            return length.sum(axis=1)
        return np.sum(length * np.sqrt(np.maximum(variance - self.least_variance, 0.0) + self.excess), axis=1)

    def _cost(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Returns the costs of straight lines, (B,); not finite where the decoder is not."""
        return self._sum(*self._evaluate(start, end)) + self._tie_break * np.linalg.norm(end - start, axis=1)

    # ---- search ------------------------------------------------------------------------------------

    def _ends(self, start, end) -> tuple[np.ndarray, np.ndarray]:
        start, end = (np.atleast_2d(np.asarray(points, np.float64)) for points in (start, end))
        d = self.nodes.shape[1]
        if start.shape != end.shape or start.ndim != 2 or start.shape[1] != d:
            raise UserError(f"Pairs of latents are two arrays (B, {d}); received {start.shape} and {end.shape}.")
        if not (np.isfinite(start).all() and np.isfinite(end).all()):
            raise UserError("Ends of paths must be finite numbers; some are not.")
        return start, end

    def _search(self, start: np.ndarray, end: np.ndarray) -> list[_Found]:
        from scipy.sparse import csgraph, csr_array

        # One source serves all its targets.
        sources, source_of = np.unique(start, axis=0, return_inverse=True)
        source_of = source_of.reshape(-1)
        from_rows, from_costs = self._joints(sources)
        to_rows, to_costs = self._joints(end)
        direct = self._direct_costs(start, end, from_rows[source_of], to_rows)
        count, number = len(self.nodes), from_rows.shape[1]
        first, second = self.edges.T
        chunk = max(1, SEARCH_BYTES // (12 * count))
        found: list[Optional[_Found]] = [None] * len(start)
        for low in range(0, len(sources), chunk):
            some = np.arange(low, min(low + chunk, len(sources)))
            # Edges lead out of a source and never into it: paths do not run through other ends.
            out = np.repeat(count + np.arange(len(some)), number)
            reachable = np.isfinite(from_costs[some]).ravel()
            rows = np.concatenate([first, second, out[reachable]])
            columns = np.concatenate([second, first, from_rows[some].ravel()[reachable]])
            costs = np.concatenate([self.costs, self.costs, from_costs[some].ravel()[reachable]])
            graph = csr_array((costs, (rows, columns)), shape=(count + len(some),) * 2)
            cost, before = csgraph.dijkstra(graph, indices=count + np.arange(len(some)), return_predecessors=True)
            for pair in np.flatnonzero((source_of >= low) & (source_of < low + len(some))):
                row = source_of[pair] - low
                total = cost[row, to_rows[pair]] + to_costs[pair]
                best = np.argmin(total)
                if np.isfinite(direct[pair]) and direct[pair] <= total[best]:
                    found[pair] = _Found(direct[pair], np.zeros(0, int))
                elif np.isfinite(total[best]):
                    found[pair] = _Found(total[best], _walk(before[row], to_rows[pair, best], count))
        lost = [pair for pair, one in enumerate(found) if one is None]
        if lost:
            raise UserError(f"No path of finite cost joins {len(lost)} of the {len(found)} pairs, such as number "
                            f"{lost[0]}: the decoder is not finite around one of the ends. Leave them out.")
        return [one for one in found if one is not None]

    def _joints(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nodes that points (n, d) are joined to and the costs, each (n, k); infinite where not finite."""
        rows = self.near(points)
        costs = self._cost(np.repeat(points, rows.shape[1], axis=0), self.nodes[rows.ravel()]).reshape(rows.shape)
        return rows, np.where(np.isfinite(costs), costs, np.inf)

    def _direct_costs(self, start, end, from_rows, to_rows) -> np.ndarray:
        """Returns the cost of the straight line between ends that share a node, else infinity, (B,)."""
        near = (from_rows[:, :, None] == to_rows[:, None]).any(axis=(1, 2))
        found = np.full(len(start), np.inf)
        if near.any():
            costs = self._cost(start[near], end[near])
            found[near] = np.where(np.isfinite(costs), costs, np.inf)
        return found

    def _check_connected(self, lost: int) -> None:
        sizes = components(self.edges, len(self.nodes))[1]
        if len(sizes) < 2:
            return
        why = f" ({lost} edges were left out where the decoder is not finite)" if lost else ""
        shown = ", ".join(map(str, sizes[:5])) + (", ..." if len(sizes) > 5 else "")
        raise UserError(f"The graph falls into {len(sizes)} pieces that no edge joins, of {shown} nodes{why}. "
                        f"{self.remedy}")


def components(edges: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the piece that each node belongs to, -1 for nodes without edges, and the sizes, largest first.

    A node without an edge is no piece: the decoder is not finite there.
    """
    from scipy.sparse import coo_array, csgraph

    matrix = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    label = csgraph.connected_components(matrix, directed=False)[1]
    used = np.zeros(count, bool)
    used[edges.ravel()] = True
    kept, label[used] = np.unique(label[used], return_inverse=True)
    label[~used] = -1
    return label, np.sort(np.bincount(label[used], minlength=len(kept)))[::-1]


def _walk(before: np.ndarray, node: int, count: int) -> np.ndarray:
    """Returns the nodes from the source, left out, to `node`, from the predecessors of one source."""
    found = []
    while node < count:
        found.append(node)
        node = before[node]
    return np.array(found[::-1])
