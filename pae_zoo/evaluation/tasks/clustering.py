"""Clusters of test data by geodesic and by Euclidean distances, scored by their labels."""


import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.evaluation.context import Context
from pae_zoo.evaluation.support import latent_geometry
from pae_zoo.geometry.distances import pairwise_distances
from pae_zoo.plotting import geometry
from pae_zoo.plotting.geometry import Clustering

RESTARTS = 10
MOST_SWEEPS = 100

#: whether data may have missing values
TAKES_GAPS = True


@dataclasses.dataclass(frozen=True)
class Flags(latent_geometry.GeometryFlags):
    """The flags of the task clustering."""

    cluster_points: int = option(60, "Test data that the task clustering clusters.",
                                 low=2, high=10_000, group=EVALUATION, smoke=24)


class Medoids(NamedTuple):
    """k medoids, sorted, (k,), the cluster of each point, (n,), and the sum of distances to the medoids."""

    medoids: np.ndarray
    clusters: np.ndarray
    cost: float


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """k-medoids of test data on geodesic and on Euclidean distances, with as many clusters as there are classes.

    --cluster_points test data, nearly as many of each class, that --pair_seed chooses. Distances are lengths of curves
    of least coupled energy, the shortest under the expected metric, unless --geodesic_energy says otherwise. Scores:
    accuracy under the best matching of clusters and classes, adjusted Rand index, normalised mutual information. Needs
    labels.
    """
    kind = latent_geometry.energy(context, distances=True)
    test = context.dataset.test
    chosen = choose(test.y, int(context.hparams.cluster_points), int(context.hparams.pair_seed), context.dataset.name)
    labels = test.y[chosen]
    num_clusters = len(np.unique(labels))
    codes = latent_geometry.codes(context, test.x[chosen], "clustering codes")
    solver = latent_geometry.solver(context, kind, codes)
    with context.progress(len(codes) * (len(codes) - 1) // 2, "geodesics", "pair") as bar:
        found = pairwise_distances(solver, codes, "mean" if kind == "mean" else "rms", bar.update)
    upper = np.triu_indices(len(codes), 1)
    yield "clustering/num_points", len(codes)
    yield "clustering/num_clusters", num_clusters
    yield "clustering/converged", found.converged[upper].mean()
    yield "clustering/finite", np.isfinite(found.distances[upper]).mean()
    euclidean = np.linalg.norm(codes[:, None] - codes, axis=-1)
    distances = {"geodesic": found.distances, "euclidean": euclidean}
    results = {}
    for name, matrix in distances.items():
        if not np.isfinite(matrix).all():
            context.say(f"clustering/{name}: left out, for some distances are no numbers.")
            continue
        results[name] = k_medoids(matrix, num_clusters, int(context.hparams.pair_seed))
        for score, value in scores(labels, results[name].clusters).items():
            yield f"clustering/{name}/{score}", value
    _report(context, chosen, codes, distances, results)


# ---- k-medoids ---------------------------------------------------------------------------------------------


def choose(labels: Any, num: int, seed: int, name: str) -> np.ndarray:
    """Returns up to `num` sorted indices of data, of each class as nearly as many as the data allow.

    Raises NotImplementedError without labels (n,), and where `num` is not above the number of classes.
    """
    if labels is None:
        raise NotImplementedError(f"{name} has no labels, by which clusters are scored.")
    names, num = np.unique(labels), min(num, len(labels))
    if len(names) < 2 or num <= len(names):
        raise NotImplementedError(f"Clusters of {num} data with {len(names)} labels say nothing: it takes at least two "
                                  "labels and more data than labels.")
    generator = np.random.default_rng([seed, 0x636C7573])
    order = generator.permutation(len(labels))
    # The first of each class, then the second of each, and so on.
    turn = np.zeros(len(labels), int)
    for one in names:
        members = order[labels[order] == one]
        turn[members] = np.arange(len(members))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:num])


def k_medoids(distances: np.ndarray, k: int, seed: int = 0, restarts: int = RESTARTS) -> Medoids:
    """Returns the k points of (n, n) distances with the least sum of distances of all points to the nearest of them.

    Swaps of one medoid against one point, the best first, until none helps (PAM, Kaufman & Rousseeuw 1987), from a
    greedy start and from `restarts` - 1 random ones. Ties go to the lower index.
    """
    distances = np.asarray(distances, np.float64)
    generator = np.random.default_rng([seed, 0x6D6564])
    starts = [_greedy(distances, k)] + [generator.permutation(len(distances))[:k] for _ in range(restarts - 1)]
    found = [_swap(distances, start) for start in starts]
    medoids = np.sort(min(found, key=lambda one: one[1])[0])
    nearest = distances[:, medoids]
    return Medoids(medoids, nearest.argmin(axis=1), float(nearest.min(axis=1).sum()))


def _greedy(distances: np.ndarray, k: int) -> np.ndarray:
    """Returns k medoids of which each lowers the sum of distances most, given those before it."""
    nearest = np.full(len(distances), np.inf)
    found: list[int] = []
    for _ in range(k):
        costs = np.minimum(distances, nearest).sum(axis=1)
        costs[found] = np.inf
        found.append(int(costs.argmin()))
        nearest = np.minimum(nearest, distances[found[-1]])
    return np.array(found)


def _swap(distances: np.ndarray, medoids: np.ndarray) -> tuple[np.ndarray, float]:
    medoids = medoids.copy()
    cost = distances[:, medoids].min(axis=1).sum()
    for _ in range(MOST_SWEEPS * len(medoids)):
        best = (cost, 0, 0)
        for place in range(len(medoids)):
            others = np.delete(medoids, place)
            rest = distances[:, others].min(axis=1) if len(others) else np.full(len(distances), np.inf)
            costs = np.minimum(distances, rest).sum(axis=1)  # row h: with h in the place of the medoid
            best = min(best, (costs.min(), place, int(costs.argmin())))
        if not best[0] < cost * (1 - 1e-12):
            break
        cost, medoids[best[1]] = best[0], best[2]
    return medoids, float(cost)


def scores(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """Returns accuracy (best matching of clusters to labels), adjusted_rand, mutual_information; both are (n,)."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    names, index = np.unique(labels, return_inverse=True)
    counts = np.zeros((int(clusters.max()) + 1, len(names)), int)
    np.add.at(counts, (clusters, index), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return {
        "accuracy": float(counts[rows, columns].sum() / len(labels)),
        "adjusted_rand": float(adjusted_rand_score(labels, clusters)),
        "mutual_information": float(normalized_mutual_info_score(labels, clusters)),
    }


# ---- what is saved -----------------------------------------------------------------------------------------


def places(distances: np.ndarray) -> np.ndarray:
    """Returns points (n, 2) whose distances are as near to (n, n) as a plane allows (classical scaling, Torgerson).

    The largest entry of each axis is positive.
    """
    square = np.square(distances)
    centred = square - square.mean(axis=0) - square.mean(axis=1, keepdims=True) + square.mean()
    values, vectors = np.linalg.eigh(-0.5 * centred)
    found = vectors[:, ::-1][:, :2] * np.sqrt(np.maximum(values[::-1][:2], 0.0))
    found = np.pad(found, ((0, 0), (0, 2 - found.shape[1])))
    return found * np.where(found[np.abs(found).argmax(axis=0), range(2)] < 0, -1.0, 1.0)


def _report(context: Context, chosen, codes, distances, results: dict[str, Medoids]) -> None:
    """Saves the clusters and the distances as tables, and a picture."""
    names = latent_geometry.label_names(context, chosen)
    columns = {"index": chosen, "label": names}
    for name, found in results.items():
        columns[f"cluster_{name}"] = found.clusters
        columns[f"medoid_{name}"] = np.isin(np.arange(len(chosen)), found.medoids).astype(int)
    context.table("clustering.csv", columns)
    a, b = np.triu_indices(len(chosen), 1)
    context.table("clustering_distances.csv", {"index_a": chosen[a], "index_b": chosen[b],
                                               **{name: matrix[a, b] for name, matrix in distances.items()}})
    if not results:
        return
    plane = codes.shape[1] == 2
    panels = {}
    for name, found in results.items():
        values = scores(names, found.clusters)
        caption = f"accuracy {values['accuracy']:.2f}, adjusted Rand index {values['adjusted_rand']:.2f}"
        where = codes if plane else places(distances[name])
        heading = f"{'Euclidean' if name == 'euclidean' else name} distance" + ("" if plane else ", scaled to a plane")
        panels[heading] = Clustering(
            where, found.clusters, found.medoids, caption)
    title = f"{context.dataset.name}: k-medoids of {len(chosen)} test data, shown by their labels; medoids are ringed"
    axes = ("z[0]", "z[1]") if plane else ("first axis", "second axis")
    figure = geometry.clusters(panels, names, title, axes)
    context.board.figure("clustering", figure)
    context.figure("clustering", figure)
