"""Shortest paths over grids and neighbour graphs: lengths, ends, pieces, what is refused."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from test_gaussian_process import process, ring

from pae_zoo.core.errors import UserError
from pae_zoo.geometry.graphs import GridGraph, KNNGraph
from pae_zoo.geometry.manifold import Deterministic, MeanAndStd
from pae_zoo.geometry.solver import Settings, Solver

RNG = np.random.default_rng(0)
UNCOMPILED = Settings(init="graph", jit_compile=False, length_points=64)


def plane(d=2):
    """The identity: distances are those of the latents."""
    return Deterministic(lambda z: z, d)


def grid(manifold, low=-1.0, high=1.0, **options):
    return GridGraph(manifold, low, high, **{"jit_compile": False, **options})


def neighbours(manifold, points, **options):
    return KNNGraph(manifold, points, **{"jit_compile": False, **options})


def pairs(num, d=2, size=0.95):
    return RNG.uniform(-size, size, (num, d)), RNG.uniform(-size, size, (num, d))


def lengths(paths):
    return np.array([np.linalg.norm(np.diff(path, axis=0), axis=1).sum() for path in paths])


@pytest.mark.parametrize("d, count, most", [
    (1, None, 1.0), (2, 8, 1.0824), (2, 4, 1.4143), (3, 26, 1.13), (3, 6, 1.7321),
])
def test_distances_on_a_grid_in_flat_space(d, count, most):
    graph, (start, end) = grid(plane(d), neighbours=count), pairs(60, d)
    euclid = np.linalg.norm(start - end, axis=1)
    found = graph.distances(start, end)
    # An end is up to a diagonal of a cell from the corner that its path leaves by.
    assert (found >= euclid * (1 - 1e-5)).all()
    assert (found <= most * euclid + 2 * np.linalg.norm(graph.step) + 1e-4).all()
    far = euclid > 0.4
    assert (found[far] <= 1.05 * most * euclid[far] + 1e-4 + (d == 3) * np.linalg.norm(graph.step)).all()


def test_paths_run_from_end_to_end_and_are_as_long_as_said():
    graph, (start, end) = grid(plane(), side=20), pairs(10)
    paths = graph.paths(start, end)
    for path, a, b in zip(paths, start, end):
        np.testing.assert_array_equal(path[[0, -1]], [a, b])
        # Inner points are nodes.
        np.testing.assert_allclose(np.round((path[1:-1] + 1) / graph.step), (path[1:-1] + 1) / graph.step, atol=1e-9)
    np.testing.assert_allclose(lengths(paths), graph.distances(start, end), rtol=1e-5)


def test_a_refined_path_is_the_straight_line():
    (start, end), graph = pairs(12), grid(plane(), side=20)
    found = Solver(plane(), UNCOMPILED, graph).solve(start, end)
    np.testing.assert_allclose(found.lengths["rms"] / np.linalg.norm(start - end, axis=1), 1.0, atol=1e-3)


def test_a_path_does_not_depend_on_the_other_pairs():
    graph, (start, end) = grid(plane(), side=12), pairs(8)
    start[3:5] = start[0]  # one source, several targets
    together = graph.paths(start, end)
    for b, path in enumerate(together):
        (alone,) = graph.paths(start[b : b + 1], end[b : b + 1])
        np.testing.assert_array_equal(path, alone)


def test_many_sources_are_searched_in_parts(monkeypatch):
    graph, (start, end) = grid(plane(), side=12), pairs(9)
    whole = graph.distances(start, end)
    monkeypatch.setattr("pae_zoo.geometry.latent_graph.SEARCH_BYTES", 2 * 12 * len(graph.nodes))
    np.testing.assert_array_equal(graph.distances(start, end), whole)


def test_near_ends_are_joined_by_a_line():
    points = np.array([[0.31, 0.22], [0.31, 0.22], [0.05, 0.0]])
    others = np.array([[0.31, 0.22], [0.33, 0.22], [-0.02, 0.03]])
    for graph in (grid(plane(), side=20), neighbours(plane(), RNG.uniform(-1, 1, (200, 2)))):
        np.testing.assert_allclose(graph.distances(points, others), np.linalg.norm(points - others, axis=1), atol=1e-6)
        assert [len(path) for path in graph.paths(points, others)] == [2, 2, 2]


def test_edges_cost_the_way_along_them():
    """A fold between two nodes: the chord of the edge is short, the way is not."""
    folded = Deterministic(lambda z: tf.concat([z, tf.sin(np.pi * z)], axis=1), 1)
    ends = np.array([[0.0]]), np.array([[2.0]])
    found = {points: grid(folded, 0.0, 2.0, side=2, points_per_edge=points).distances(*ends)[0] for points in (2, 64)}
    assert found[2] == pytest.approx(2.0, rel=1e-4)
    assert found[64] == pytest.approx(4.6098, rel=1e-2)  # the length of a period of the sine


def test_neighbour_graph_in_many_dimensions():
    # Its own generator: the bound belongs to these points, whatever tests ran before.
    points = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    graph = neighbours(plane(8), points, neighbours=8)
    start, end = points[:20].astype(np.float64), points[20:40].astype(np.float64)
    ratio = graph.distances(start, end) / np.linalg.norm(start - end, axis=1)
    assert (ratio >= 1 - 1e-5).all() and ratio.max() < 2.0
    np.testing.assert_allclose(graph.distances(start, end), graph.distances(end, start), rtol=1e-6)
    small = neighbours(plane(8), points, max_nodes=50)
    assert len(small.nodes) == 50 and np.isfinite(small.distances(start, end)).all()
    again = neighbours(plane(8), points, max_nodes=50)
    np.testing.assert_array_equal(small.nodes, again.nodes)


def test_points_given_twice_are_one_node():
    points = np.repeat(RNG.normal(size=(20, 2)), 3, axis=0)
    graph = neighbours(plane(), points, neighbours=4)
    assert len(graph.nodes) == 20
    assert graph.distances(points[:1], points[1:2])[0] == 0.0


# ---- which way is taken --------------------------------------------------------------------------------------


class Ring:
    """The plane, certain on a ring of radius 1 alone: std `most` far from it."""

    def __init__(self, most):
        self.most = most

    def mean_and_std(self, z):
        radius = tf.norm(z + 1e-12, axis=-1, keepdims=True)
        return z, self.most * (1.01 - tf.exp(-tf.square(radius - 1) / 0.08)) * tf.ones_like(z)


def least_radius(paths):
    return np.array([np.linalg.norm(path, axis=1).min() for path in paths])


OPPOSITE = np.array([[1.0, 0.02], [0.7, 0.7]]), np.array([[-1.0, 0.02], [-0.7, -0.7]])


@functools.lru_cache
def certain_ring():
    return MeanAndStd(Ring(0.2), 2)


def test_weights_choose_between_the_expected_metric_and_low_variance():
    straight = grid(certain_ring(), -2.0, 2.0, side=40).paths(*OPPOSITE)
    around = grid(certain_ring(), -2.0, 2.0, side=40, weights="decorrelated").paths(*OPPOSITE)
    assert least_radius(straight).max() < 0.3 and least_radius(around).min() > 0.85


def test_energy_of_the_decorrelated_path_is_the_lower_one():
    settings = Settings(init="graph", jit_compile=False, steps=1)
    energies = [Solver(certain_ring(), settings, grid(certain_ring(), -2.0, 2.0, side=40, weights=weights))
                .solve(*OPPOSITE).initial_energy for weights in ("decorrelated", "expected")]
    assert (energies[0] < energies[1]).all()


def test_without_variance_both_weights_are_lengths():
    start, end = pairs(5)
    found = [grid(plane(), side=10, weights=weights).distances(start, end) for weights in ("expected", "decorrelated")]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("weights", ["expected", "decorrelated"])
@pytest.mark.parametrize("length_scale", [0.3, 0.5])
def test_paths_of_the_gaussian_process_keep_to_the_ring(weights, length_scale):
    latents, gp = ring()[0], process(length_scale=length_scale)
    angle = np.arctan2(latents[:, 1], latents[:, 0])
    start = latents[[np.argmin(abs(angle - a)) for a in (-3.0, -1.9, -0.8)]]
    end = latents[[np.argmin(abs(angle - a)) for a in (0.1, 1.2, 2.3)]]
    radius = np.linalg.norm(latents, axis=1).mean()
    for graph in (GridGraph.around(gp, latents, weights=weights, jit_compile=False),
                  neighbours(gp, latents, weights=weights)):
        assert least_radius(graph.paths(start, end)).min() > 0.7 * radius


# ---- what is refused -----------------------------------------------------------------------------------------


def test_ends_outside_the_grid():
    with pytest.raises(UserError, match=r"1 of 2 ends lie outside the grid, such as \[3.0, 0.0\]"):
        grid(plane(), side=5).paths([[0.0, 0.0], [3.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]])
    points = RNG.normal(size=(50, 2)) + 3
    GridGraph.around(plane(), points, side=5, jit_compile=False).paths(points[:25], points[25:])


@pytest.mark.parametrize("make, words", [
    (lambda: grid(plane(4), side=3), "up to 3"),
    (lambda: grid(plane(), 1.0, 1.0), "low < high"),
    (lambda: grid(plane(), [0.0, 0.0, 0.0], 1.0), r"low is one number or one for each of 2 latents"),
    (lambda: grid(plane(), side=(3, 3, 3)), r"side is one number .* received shape \(3,\)"),
    (lambda: GridGraph.around(plane(), np.zeros((4, 3))), r"around latents \(n, 2\)"),
    (lambda: grid(plane(), side=1), "side=1"),
    (lambda: grid(plane(), side=3000), "nodes in all"),
    (lambda: grid(plane(), neighbours=6), "allowed: 4, 8"),
    (lambda: grid(plane(), weights="length"), "weights='length'"),
    (lambda: grid(plane(), points_per_edge=1), "points_per_edge=1"),
    (lambda: neighbours(plane(), np.zeros((9, 2))), "1 different nodes are too few"),
    (lambda: neighbours(plane(), np.full((9, 2), np.nan)), "not all finite"),
    (lambda: neighbours(plane(), np.zeros((9, 3))), r"latents \(n, 2\)"),
    (lambda: grid(plane(), side=5).paths(np.zeros((2, 3)), np.zeros((2, 3))), r"\(B, 2\)"),
    (lambda: grid(plane(), side=5).paths([[np.nan, 0.0]], [[0.0, 0.0]]), "finite"),
])
def test_bad_input_is_one_clear_line(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_a_graph_in_pieces_says_how_many_and_can_be_bridged():
    points = np.concatenate([RNG.normal(size=(30, 2)) + shift for shift in ([0, 0], [50, 0], [0, 50])])
    with pytest.raises(UserError, match=r"3 pieces that no edge joins, of 30, 30, 30 nodes.*bridge=True"):
        neighbours(plane(), points)
    graph = neighbours(plane(), points, bridge=True)
    found = graph.distances(points[:1], points[45:46])
    assert 1.0 <= found[0] / np.linalg.norm(points[0] - points[45]) < 1.3


def test_where_the_decoder_is_not_finite_there_is_no_way():
    def broken(z):
        return tf.where(tf.abs(z[:, :1]) < 0.2, float("nan") * z, z)

    with pytest.raises(UserError, match=r"2 pieces.*edges were left out where the decoder is not finite"):
        grid(Deterministic(broken, 2), side=21)
    with pytest.raises(UserError, match="finite on none"):
        grid(Deterministic(lambda z: z * float("nan"), 2), side=5)

    def hole(z):
        return tf.where(tf.norm(z, axis=1, keepdims=True) < 0.3, float("nan") * z, z)

    graph = grid(Deterministic(hole, 2), side=21)
    (path,) = graph.paths([[-0.8, 0.0]], [[0.8, 0.0]])
    assert np.linalg.norm(path, axis=1).min() >= 0.3
    with pytest.raises(UserError, match="No path of finite cost"):
        graph.paths([[0.0, 0.0]], [[0.8, 0.0]])


def test_certain_nearly_everywhere_is_not_certain_alike():
    """More than half of the edges have the least variance; the others still cost more."""

    class Peak:
        latent_dim = 2

        def mean_and_std(self, z):
            inside = tf.reduce_sum(z**2, axis=-1, keepdims=True) < 0.25
            return z, tf.where(inside, 1.0, 0.01) * tf.ones_like(z)

    manifold = MeanAndStd(Peak(), 2)
    graph = GridGraph(manifold, [-2.0, -1.0], [2.0, 1.0], [24, 24], weights="decorrelated", jit_compile=False)
    path = graph.paths([[-1.5, 0.0]], [[1.5, 0.0]])[0]
    assert np.linalg.norm(path, axis=1).min() > 0.4
