"""The rational-quadratic spline against TFP's, which has its own parametrisation."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import pae_zoo
from pae_zoo import flows
from pae_zoo.flows import elementwise

BINS, BOUND, DIMS, COUNT = 7, 3.0, 4, 500


def parameters(scale=1.5, seed=0):
    shape = (elementwise.spline_parameters(BINS, BOUND), DIMS, COUNT)
    return tf.constant(np.random.default_rng(seed).normal(size=shape, scale=scale))


def values(seed=1, low=-4.0, high=4.0):
    return tf.constant(np.random.default_rng(seed).uniform(low, high, (DIMS, COUNT)))


def oracle(raw):
    """TFP's spline with the bins and slopes that ours should have."""

    def sizes(part):
        part = np.exp(part) / np.exp(part).sum(0)
        return np.moveaxis(0.01 + (2 * BOUND - BINS * 0.01) * part, 0, -1)

    raw = raw.numpy()
    slopes = np.moveaxis(1e-3 + np.log1p(np.exp(raw[2 * BINS :] + np.log(np.expm1(1 - 1e-3)))), 0, -1)
    return tfp.bijectors.RationalQuadraticSpline(
        sizes(raw[:BINS]), sizes(raw[BINS : 2 * BINS]), slopes, range_min=-BOUND, validate_args=True
    )


def test_value_and_slope_are_those_of_tfp():
    raw, x = parameters(), values()
    spline = oracle(raw)
    y, log_slope = elementwise.rational_quadratic(x, raw, BOUND, inverse=False)
    np.testing.assert_allclose(y, spline.forward(x), atol=1e-10)
    np.testing.assert_allclose(log_slope, spline.forward_log_det_jacobian(x), atol=1e-9)
    y, log_slope = elementwise.rational_quadratic(x, raw, BOUND, inverse=True)
    np.testing.assert_allclose(y, spline.inverse(x), atol=1e-9)
    np.testing.assert_allclose(log_slope, spline.inverse_log_det_jacobian(x, event_ndims=0), atol=1e-8)


def test_gradients_are_those_of_tfp():
    raw, x = parameters(), values(low=-2.9, high=2.9)
    with tf.GradientTape() as tape:
        tape.watch(x)
        ours = tf.reduce_sum(elementwise.rational_quadratic(x, raw, BOUND, inverse=False)[1])
    gradient = tape.gradient(ours, x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        theirs = tf.reduce_sum(oracle(raw).forward_log_det_jacobian(x))
    np.testing.assert_allclose(gradient, tape.gradient(theirs, x), atol=1e-6)


@pytest.mark.parametrize("inverse", (False, True))
def test_outside_the_interval_it_is_the_identity(inverse):
    x = tf.constant(np.random.default_rng(0).uniform(BOUND, 1e6, (DIMS, COUNT)))
    for side in (x, -x):
        y, log_slope = elementwise.rational_quadratic(side, parameters(), BOUND, inverse)
        np.testing.assert_array_equal(y, side)
        np.testing.assert_array_equal(log_slope, 0.0)


@pytest.mark.parametrize("inverse", (False, True))
def test_it_is_continuous_with_slope_one_at_both_ends(inverse):
    for end in (-BOUND, BOUND):
        x = tf.fill((DIMS, COUNT), tf.constant(end * (1 - 1e-9), tf.float64))
        y, log_slope = elementwise.rational_quadratic(x, parameters(), BOUND, inverse)
        np.testing.assert_allclose(y, end, atol=1e-5)
        np.testing.assert_allclose(log_slope, 0.0, atol=1e-3)


@pytest.mark.parametrize("inverse", (False, True))
@pytest.mark.parametrize("scale", (1.0, 10.0, 1e6))
def test_it_is_monotone(inverse, scale):
    x = tf.sort(values(), axis=-1)
    raw = tf.repeat(parameters(scale)[..., :1], COUNT, axis=-1)
    y, log_slope = elementwise.rational_quadratic(x, raw, BOUND, inverse)
    assert np.all(np.diff(y, axis=-1) >= 0) and np.all(np.isfinite(log_slope))
    if scale < 1e6:
        assert np.all(np.diff(y, axis=-1) > 0)


def test_zeros_are_the_identity():
    raw, x = tf.zeros((elementwise.spline_parameters(BINS, BOUND), DIMS, COUNT), tf.float64), values()
    for inverse in (False, True):
        y, log_slope = elementwise.rational_quadratic(x, raw, BOUND, inverse)
        np.testing.assert_allclose(y, x, atol=1e-12)
        np.testing.assert_allclose(log_slope, 0.0, atol=1e-12)


@pytest.mark.parametrize("options", (dict(bins=1), dict(bins=1001, bound=5.0), dict(bound=0.0)))
def test_bins_that_do_not_fit_are_told(options):
    with pytest.raises(pae_zoo.UserError, match="2 or more bins"):
        flows.SplineCoupling(**options)
