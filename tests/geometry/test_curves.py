"""Curves: smoothness, exact ends, derivatives, and fitting to paths."""

import numpy as np
import pytest

from pae_zoo import geometry
from pae_zoo.core.errors import UserError

FAMILIES = [geometry.CubicSpline(10), geometry.CubicSpline(1), geometry.Polyline(8)]
T = np.linspace(0.0, 1.0, 2001)


@pytest.mark.parametrize("family", FAMILIES, ids=["spline", "cubic", "polyline"])
def test_functions_vanish_at_the_ends_and_are_normalised(family):
    assert np.abs(family.basis([0.0, 1.0])).max() < 1e-12
    middles = (T[1:] + T[:-1]) / 2
    slopes = family.derivative(middles)
    gram = slopes.T @ slopes / len(middles)
    np.testing.assert_allclose(gram, np.eye(family.size), atol=1e-4)


@pytest.mark.parametrize("pieces", [1, 2, 10])
def test_a_spline_of_n_pieces_has_n_plus_1_functions(pieces):
    assert geometry.CubicSpline(pieces).size == pieces + 1


def test_value_slope_and_curvature_of_a_spline_have_no_jump_at_knots():
    family = geometry.CubicSpline(10)
    knots = np.arange(1, 10) / 10
    for order, least in ((family.basis, 1e-6), (family.derivative, 1e-5), (family.second_derivative, 1e-4)):
        jump = order(knots + 1e-9) - order(knots - 1e-9)
        assert np.abs(jump).max() < least


def test_the_third_derivative_does_jump():
    # Otherwise the family would be one cubic on the whole interval.
    family = geometry.CubicSpline(10)
    knots, step = np.arange(1, 10) / 10, 1e-3
    after = family.second_derivative(knots + step) - family.second_derivative(knots)
    before = family.second_derivative(knots) - family.second_derivative(knots - step)
    assert np.abs(after - before).max() / step > 10


@pytest.mark.parametrize("family", FAMILIES[:2], ids=["spline", "cubic"])
def test_derivatives_are_those_of_finite_differences(family):
    inner, step = T[5:-5:17], 1e-6
    for value, slope in ((family.basis, family.derivative), (family.derivative, family.second_derivative)):
        numerical = (value(inner + step) - value(inner - step)) / (2 * step)
        np.testing.assert_allclose(slope(inner), numerical, atol=1e-3 * np.abs(slope(inner)).max())


def test_no_weights_are_the_straight_line():
    start, end = np.array([[0.0, 1.0]]), np.array([[2.0, -1.0]])
    line = geometry.straight(start, end)
    np.testing.assert_allclose(line(T)[0], start + T[:, None] * (end - start), atol=1e-12)
    np.testing.assert_allclose(line.velocity(T)[0], np.broadcast_to(end - start, (len(T), 2)), atol=1e-12)


def test_ends_are_exact_whatever_the_weights():
    family = geometry.CubicSpline(10)
    weights = np.random.default_rng(0).normal(size=(3, family.size, 2))
    curves = geometry.Curves(family, np.ones((3, 2)), np.full((3, 2), 2.0), weights)
    np.testing.assert_allclose(curves([0.0, 1.0]), np.broadcast_to([[1.0], [2.0]], (3, 2, 2)), atol=1e-6)


def test_each_curve_may_have_times_of_its_own():
    family = geometry.CubicSpline(4)
    weights = np.random.default_rng(0).normal(size=(2, family.size, 3))
    curves = geometry.Curves(family, np.zeros((2, 3)), np.ones((2, 3)), weights)
    times = np.array([[0.0, 0.3, 1.0], [0.1, 0.2, 0.9]])
    np.testing.assert_allclose(curves(times)[1], curves(times[1])[1], atol=1e-12)


def test_fit_finds_the_curve_that_points_are_from():
    family = geometry.CubicSpline(6)
    weights = 0.3 * np.random.default_rng(0).normal(size=(2, family.size, 2))
    curves = geometry.Curves(family, np.zeros((2, 2)), np.ones((2, 2)), weights)
    found = geometry.fit(family, list(curves(T)), [T, T], ridge=1e-9)
    np.testing.assert_allclose(found.weights, weights, atol=1e-5)


def test_fit_without_times_takes_the_way_travelled():
    path = np.array([[0.0, 0.0], [0.1, 0.0], [1.0, 0.0]])
    found = geometry.fit(geometry.CubicSpline(4), [path])
    np.testing.assert_allclose(found.weights, 0.0, atol=1e-9)


def test_a_path_that_stays_where_it_is_fits():
    found = geometry.fit(geometry.CubicSpline(4), [np.zeros((3, 2))])
    assert np.isfinite(found.weights).all()


@pytest.mark.parametrize("make", [lambda: geometry.CubicSpline(0), lambda: geometry.Polyline(1)])
def test_too_few_pieces_are_refused(make):
    with pytest.raises(UserError, match="at least"):
        make()


def test_one_time_is_that_of_all_curves():
    lines = geometry.straight(np.zeros((3, 2)), np.ones((3, 2)))
    assert lines(0.5).shape == lines.velocity(0.5).shape == (3, 1, 2)
    np.testing.assert_array_equal(lines(0.5), np.full((3, 1, 2), 0.5))
