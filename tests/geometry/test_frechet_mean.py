"""The Frechet mean where it is known: in the plane, on the sphere, on a curve."""

import numpy as np
import pytest
import tensorflow as tf
from test_maps import arc, sphere

from pae_zoo.core.errors import UserError
from pae_zoo.geometry.frechet import frechet_mean
from pae_zoo.geometry.manifold import Deterministic
from pae_zoo.geometry.solver import Settings, Solver

RNG = np.random.default_rng(0)
UNCOMPILED = Settings(energy="coupled", jit_compile=False, length_points=128)


def solver(decoder, d=2, **changes):
    return Solver(Deterministic(decoder, d), UNCOMPILED)


def test_in_the_plane_it_is_the_mean():
    points, weights = RNG.normal(size=(9, 2)), RNG.uniform(size=9)
    plane = solver(lambda z: z @ tf.constant([[1.0, 0.3], [0.0, 2.0]]))
    found = frechet_mean(plane, points, start=points[0])
    np.testing.assert_allclose(found.point, points.mean(axis=0), atol=1e-2)
    spread = (points - points.mean(axis=0)) @ [[1.0, 0.3], [0.0, 2.0]]
    assert found.variance == pytest.approx(np.mean(np.sum(spread**2, axis=1)), rel=1e-3)
    assert found.converged and (np.diff(found.trace) <= 0).all() and found.trace[-1] == found.variance
    weighted = frechet_mean(plane, points, weights, start=points[0])
    np.testing.assert_allclose(weighted.point, weights @ points / weights.sum(), atol=1e-2)


def test_of_symmetric_points_on_the_sphere_it_is_the_pole():
    angle = 2 * np.pi * np.arange(5) / 5
    ring = 0.6 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = frechet_mean(solver(sphere), ring, start=[0.5, 0.2])
    np.testing.assert_allclose(found.point, [0.0, 0.0], atol=5e-3)
    assert found.converged and found.variance == pytest.approx(arc(ring[:1], np.zeros((1, 2)))[0] ** 2, rel=1e-3)


def test_on_the_sphere_it_minimises_the_mean_square_arc():
    points = RNG.uniform(-0.9, 0.9, (7, 2))
    found = frechet_mean(solver(sphere), points)

    def variance(point):
        return np.mean(arc(np.broadcast_to(point, points.shape), points) ** 2)

    assert found.variance == pytest.approx(variance(found.point), rel=1e-3)
    for step in (0.05, -0.05):
        for axis in range(2):
            assert variance(found.point + step * np.eye(2)[axis]) > variance(found.point)
    # The chart is no plane: the mean of the latents is another point.
    assert variance(points.mean(axis=0)) > variance(found.point)


def test_one_point_is_its_own_mean_and_weight_0_is_no_point():
    found = frechet_mean(solver(lambda z: z), [[0.4, 0.5]])
    assert found.converged and found.variance == 0.0 and len(found.trace) == 1
    found = frechet_mean(solver(lambda z: z), [[0.4, 0.5], [9.0, 9.0]], weights=[1.0, 0.0])
    np.testing.assert_allclose(found.point, [0.4, 0.5])


def test_too_few_steps_are_said():
    points = RNG.uniform(-0.9, 0.9, (4, 2))
    found = frechet_mean(solver(sphere), points, steps=0, start=points[0])
    assert not found.converged and len(found.trace) == 1
    np.testing.assert_array_equal(found.point, points[0])


@pytest.mark.parametrize("points, weights, words", [
    (np.zeros((0, 2)), None, "n at least 1"),
    (np.zeros((3, 3)), None, r"\(n, 2\)"),
    (np.full((3, 2), np.nan), None, "finite"),
    (np.zeros((3, 2)), [1.0, -1.0, 1.0], "none negative"),
    (np.zeros((3, 2)), [0.0, 0.0, 0.0], "not all 0"),
    (np.zeros((3, 2)), [1.0], "3 numbers"),
])
def test_bad_input_is_one_clear_line(points, weights, words):
    with pytest.raises(UserError, match=words):
        frechet_mean(solver(lambda z: z), points, weights)


def test_a_decoder_that_is_not_finite_is_told():
    with pytest.raises(UserError, match="not finite"):
        frechet_mean(solver(lambda z: z * float("nan")), RNG.normal(size=(3, 2)))
