"""Distances between all pairs: symmetric, 0 on the diagonal, flagged where they are none."""

import numpy as np
import pytest
import tensorflow as tf
from test_maps import arc, sphere

from pae_zoo.core.errors import UserError
from pae_zoo.geometry import distances
from pae_zoo.geometry.distances import medoid, pairwise_distances
from pae_zoo.geometry.manifold import Deterministic
from pae_zoo.geometry.solver import Settings, Solver

RNG = np.random.default_rng(0)
UNCOMPILED = Settings(jit_compile=False)


def test_all_pairs_on_the_sphere(monkeypatch):
    points = RNG.uniform(-0.7, 0.7, (9, 2))
    points[4] = points[2]
    solver = Solver(Deterministic(sphere, 2), UNCOMPILED)
    done = []
    found = pairwise_distances(solver, points, progress=done.append)
    assert found.distances.shape == (9, 9) and found.distances.dtype == np.float64 and sum(done) == 36
    np.testing.assert_array_equal(found.distances, found.distances.T)
    np.testing.assert_array_equal(np.diag(found.distances), 0.0)
    assert found.distances[2, 4] == 0.0 and found.converged.all()
    first, second = np.triu_indices(9, 1)
    expected = arc(points[first], points[second])
    np.testing.assert_allclose(found.distances[first, second], expected, rtol=5e-3, atol=1e-6)
    # Cut into parts, the same numbers.
    monkeypatch.setattr(distances, "CHUNK", 10)
    np.testing.assert_allclose(pairwise_distances(solver, points).distances, found.distances, rtol=1e-4)
    np.testing.assert_allclose(
        pairwise_distances(solver, points[:3], length="mean").distances, found.distances[:3, :3], rtol=1e-4)


def test_what_is_no_distance_is_flagged_and_no_number():
    def torn(z):
        return tf.where(z[:, :1] > 2.0, tf.constant(float("nan")), z)

    points = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    found = pairwise_distances(Solver(Deterministic(torn, 2), UNCOMPILED), points)
    assert np.isnan(found.distances[[0, 1], 2]).all() and not found.converged[[0, 1], 2].any()
    assert found.distances[0, 1] == pytest.approx(1.0, rel=1e-4) and found.converged[0, 1]
    np.testing.assert_array_equal(found.converged, found.converged.T)
    assert found.converged.diagonal().all() and medoid(found.distances) in (0, 1)


def test_what_the_solver_could_not_finish_is_flagged():
    solver = Solver(Deterministic(sphere, 2), Settings(jit_compile=False, steps=1))
    found = pairwise_distances(solver, RNG.uniform(-0.9, 0.9, (4, 2)))
    assert np.isfinite(found.distances).all()
    assert not found.converged[np.triu_indices(4, 1)].all()


def test_one_point_and_none():
    solver = Solver(Deterministic(lambda z: z, 2), UNCOMPILED)
    assert pairwise_distances(solver, np.zeros((1, 2))).distances.tolist() == [[0.0]]
    assert pairwise_distances(solver, np.zeros((0, 2))).distances.shape == (0, 0)


def test_bad_input_is_one_clear_line():
    solver = Solver(Deterministic(lambda z: z, 2), UNCOMPILED)
    with pytest.raises(UserError, match="length='euclid'"):
        pairwise_distances(solver, np.zeros((3, 2)), length="euclid")
    with pytest.raises(UserError, match=r"\(n, 2\)"):
        pairwise_distances(solver, np.zeros(3))
    with pytest.raises(UserError, match=r"\(n, 2\); received shape \(1, 3\)"):
        pairwise_distances(solver, np.zeros((1, 3)))
    with pytest.raises(UserError, match="1 of 3 are not"):
        pairwise_distances(solver, [[0.0, 1.0], [np.nan, 0.0], [1.0, 1.0]])
    with pytest.raises(UserError, match="no medoid"):
        medoid(np.where(np.eye(3), 0.0, np.nan))


def test_medoid_is_the_point_of_least_mean_square_distance():
    points = np.concatenate([RNG.normal(size=(20, 2)), [[0.0, 0.0]]])
    matrix = np.linalg.norm(points[:, None] - points, axis=-1)
    assert medoid(matrix) == np.argmin((matrix**2).mean(axis=1))
    weights = np.where(np.arange(21) == 3, 1000.0, 1.0)
    assert medoid(matrix, weights) == 3
    assert medoid(np.zeros((1, 1))) == 0
