"""Graphs of latents, a grid or encoded data: where a search for geodesics may start."""

import itertools
from collections.abc import Sequence
from typing import Any, Optional, Union

import numpy as np

from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.geometry.latent_graph import LatentGraph, components
from pae_zoo.geometry.manifold import Manifold

# Nodes to a side of a grid, by its dimensions.
SIDES = {1: 256, 2: 48, 3: 16}
MOST_NODES = 2_000_000


class GridGraph(LatentGraph):
    """A regular grid over a box of up to three latents.

    Its paths are longer than the straightest ones, by up to 8 % in a flat plane with 8 neighbours: they are starts.

    Args:
      low, high: corners of the box, (d,).
      side: nodes along an axis, one number or one for each; None: 256, 48 or 16 for 1, 2 or 3 latents.
      neighbours: 3^d - 1 (None; 8 in the plane), or 2 d, along the axes alone.
      points_per_edge: fewer than other graphs take, for the edges are short.
      options: as `LatentGraph`.

    Raises UserError for more than three latents, a box without inside, and numbers of neighbours or nodes not allowed.
    """

    remedy = "Choose a box where the decoder is finite."

    def __init__(self, manifold: Manifold, low, high, side: Union[int, Sequence[int], None] = None,
                 neighbours: Optional[int] = None, points_per_edge: int = 3, **options):
        d = manifold.latent_dim
        if d > 3:
            raise UserError(f"A grid over {d} latents would need too many nodes; grids are for up to 3. Take a "
                            "KNNGraph.")
        for name, given in (("low", low), ("high", high), ("side", SIDES[d] if side is None else side)):
            if np.shape(given) not in ((), (1,), (d,)):
                raise UserError(f"{name} is one number or one for each of {d} latents; received shape "
                                f"{np.shape(given)}.")
        self.low, self.high = np.broadcast_to(low, (d,)).astype(float), np.broadcast_to(high, (d,)).astype(float)
        if not (np.isfinite(self.high - self.low).all() and (self.high > self.low).all()):
            raise UserError(f"A box has finite low < high in each of {d} latents; received {low} and {high}.")
        self.sides = np.broadcast_to(SIDES[d] if side is None else side, (d,)).astype(int)
        if self.sides.min() < 2 or np.prod(self.sides) > MOST_NODES:
            raise UserError(f"side={side} is out of range; allowed: at least 2, and {MOST_NODES:,} nodes in all.")
        taken = 3**d - 1 if neighbours is None else neighbours
        if taken not in (2 * d, 3**d - 1):
            raise UserError(f"neighbours={taken} is not possible with {d} latents; allowed: {2 * d}, {3**d - 1}.")
        self.step = (self.high - self.low) / (self.sides - 1)
        index = np.stack(np.meshgrid(*map(np.arange, self.sides), indexing="ij"), axis=-1).reshape(-1, d)
        edges = []
        for offset in itertools.product((-1, 0, 1), repeat=d):
            # Each pair once: of two opposite offsets the later one.
            if offset > (0,) * d and (taken > 2 * d or sum(map(abs, offset)) == 1):
                other = index + offset
                inside = ((other >= 0) & (other < self.sides)).all(axis=1)
                edges.append(np.stack([self._row(index[inside]), self._row(other[inside])], axis=1))
        nodes = self.low + index * self.step
        super().__init__(manifold, nodes, np.concatenate(edges), points_per_edge=points_per_edge, **options)

    @classmethod
    def around(cls, manifold: Manifold, points: TensorLike, margin: float = 0.1, **options: Any) -> "GridGraph":
        """Returns the grid over a box that holds points (n, d) and their mean +- 3 std, wider by `margin` a side."""
        points = np.asarray(points, np.float64)
        if points.ndim != 2 or points.shape[1] != manifold.latent_dim or not len(points):
            raise UserError(f"A grid is laid around latents (n, {manifold.latent_dim}), n at least 1; received shape "
                            f"{points.shape}.")
        centre, spread = points.mean(axis=0), 3 * points.std(axis=0)
        low, high = np.minimum(points.min(axis=0), centre - spread), np.maximum(points.max(axis=0), centre + spread)
        wider = margin * (high - low) + 1e-6
        return cls(manifold, low - wider, high + wider, **options)

    def near(self, points: np.ndarray) -> np.ndarray:
        slack = 1e-6 * (self.high - self.low)
        outside = ((points < self.low - slack) | (points > self.high + slack)).any(axis=1)
        if outside.any():
            raise UserError(f"{outside.sum()} of {len(points)} ends lie outside the grid, such as "
                            f"{points[outside][0].round(3).tolist()}; it reaches from {self.low.round(3).tolist()} to "
                            f"{self.high.round(3).tolist()}. Make the grid larger, as GridGraph.around does.")
        cell = np.clip(np.floor((points - self.low) / self.step).astype(int), 0, self.sides - 2)
        corners = np.array(list(itertools.product((0, 1), repeat=len(self.sides))))
        return self._row(cell[:, None] + corners)

    def _row(self, index: np.ndarray) -> np.ndarray:
        return np.asarray(np.ravel_multi_index(tuple(np.moveaxis(index, -1, 0)), self.sides))


class KNNGraph(LatentGraph):
    """Encoded data joined to their nearest neighbours, in any number of latents.

    Two nodes are joined if either is among the nearest of the other. Arvanitidis et al., arXiv 1710.11379, start their
    search on such a graph over the centres of clusters.

    Args:
      points: latents (n, d).
      neighbours: how many nearest nodes each is joined to.
      max_nodes: more points than these are replaced by the centres of so many clusters (k-means).
      bridge: whether pieces that no edge joins are joined by the shortest lines between them.
      seed: of the clusters.
      options: as `LatentGraph`.

    Raises UserError for too few points, and for a graph in pieces unless `bridge`.
    """

    remedy = "Raise neighbours, or set bridge=True to join them by the shortest lines between them."

    def __init__(self, manifold: Manifold, points, neighbours: int = 5, max_nodes: int = 1000, bridge: bool = False,
                 seed: int = 0, **options):
        from sklearn.neighbors import NearestNeighbors

        points = np.asarray(points, np.float64)
        if points.ndim != 2 or points.shape[1] != manifold.latent_dim or not np.isfinite(points).all():
            raise UserError(f"A graph takes finite latents (n, {manifold.latent_dim}); received shape {points.shape}"
                            f"{'' if np.isfinite(points).all() else ', not all finite'}.")
        nodes = np.unique(points, axis=0)
        if len(nodes) > max_nodes:
            nodes = np.unique(_cluster_centres(nodes, max_nodes, seed), axis=0)
        if neighbours < 1 or len(nodes) <= neighbours:
            raise UserError(f"{len(nodes)} different nodes are too few for neighbours={neighbours}; it takes at least "
                            "1 neighbour and more nodes than neighbours. Give more points, or fewer neighbours.")
        self.neighbours = int(neighbours)
        self._index = NearestNeighbors(n_neighbors=self.neighbours).fit(nodes)
        nearest = self._index.kneighbors(return_distance=False)  # without the node itself
        edges = np.stack([np.repeat(np.arange(len(nodes)), self.neighbours), nearest.ravel()], axis=1)
        edges = np.unique(np.sort(edges, axis=1), axis=0)
        if bridge:
            edges = np.concatenate([edges, _bridges(nodes, edges)])
        super().__init__(manifold, nodes, edges, **options)

    def near(self, points: np.ndarray) -> np.ndarray:
        return self._index.kneighbors(points, return_distance=False)


def _cluster_centres(points: np.ndarray, num: int, seed: int) -> np.ndarray:
    from sklearn.cluster import MiniBatchKMeans

    # Batches of 4096 and few of them: the centres need to cover the data, no more.
    options: dict[str, Any] = dict(batch_size=4096, max_iter=30, n_init=1, random_state=seed)
    return np.asarray(MiniBatchKMeans(num, **options).fit(points).cluster_centers_)


def _bridges(nodes: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Returns the edges (k - 1, 2) of least total length that join the k pieces of a graph."""
    from scipy.sparse import csgraph
    from scipy.spatial.distance import cdist

    label, sizes = components(edges, len(nodes))
    if len(sizes) < 2:
        return np.zeros((0, 2), int)
    distances = cdist(nodes, nodes)
    # Within a piece all is near, so that the spanning tree leaves it as seldom as it can.
    tree = csgraph.minimum_spanning_tree(np.where(label[:, None] == label, 1e-9 * distances, distances)).tocoo()
    found = np.stack([tree.row, tree.col], axis=1)
    return found[label[found[:, 0]] != label[found[:, 1]]]
