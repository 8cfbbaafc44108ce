"""Running Kronecker factors: their recursion, the precision that draws come from, the posterior that is left."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pae_zoo.curvature.matrices.kron import Kron, KronDiagonal
from pae_zoo.curvature.posteriors.running_kron import RunningKron


def psd(generator, size):
    root = generator.normal(size=(size, size))
    return tf.constant(root @ root.T)


@pytest.fixture
def posterior():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.PReLU()])
    found = RunningKron(model, dtype="float64")
    found.assign_scales(prior_precision=np.array([0.5, 2.0]), kappa=1.3)
    return found


def curvature_of(seed):
    generator = np.random.default_rng(seed)
    return [Kron(psd(generator, 4), psd(generator, 2), tf.constant(5.0, tf.float64)),
            KronDiagonal(tf.constant(generator.uniform(0, 3, 2)))]


def damped(posterior):
    left, right = (one.numpy() for one in posterior.factors["0"])
    right = 1.3 * right
    share = np.sqrt(0.5 * np.trace(left) / 4 / (np.trace(right) / 2))
    return np.kron(left + share * np.eye(4), right + 0.5 / share * np.eye(2))


def test_factors_go_a_share_of_the_way(posterior):
    for seed, share in ((0, 1.0), (1, 0.25)):
        posterior.assign_factors(posterior.moved(curvature_of(seed), share, 2.0))
    first, second = curvature_of(0), curvature_of(1)
    left, right = posterior.factors["0"]
    np.testing.assert_allclose(left, 0.75 * first[0].input_factor / 5 + 0.25 * second[0].input_factor / 5)
    np.testing.assert_allclose(right, 1.5 * first[0].output_factor + 0.5 * second[0].output_factor)
    np.testing.assert_allclose(posterior.values[1], 1.5 * first[1].diagonal + 0.5 * second[1].diagonal)


def test_draws_have_the_damped_precision_and_sums_are_its(posterior):
    posterior.assign_factors(posterior.moved(curvature_of(0), 1.0, 2.0))
    posterior.factorise()
    precision = damped(posterior)
    draws = np.stack([posterior.deviation((0, number))[0] for number in range(3000)])
    expected = np.linalg.inv(precision)
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=0.12 * np.abs(expected).max())
    wanted = [np.linalg.slogdet(precision)[1], np.trace(expected)]
    np.testing.assert_allclose(posterior.sums[0], wanted, rtol=1e-9)
    other = 1.3 * posterior.values[1].numpy() + 2.0
    np.testing.assert_allclose(posterior.sums[1], [np.log(other).sum(), (1 / other).sum()], rtol=1e-9)


def test_roots_stay_where_it_is_not_their_turn(posterior):
    posterior.assign_factors(posterior.moved(curvature_of(0), 1.0, 2.0))
    posterior.factorise(False)
    np.testing.assert_array_equal(posterior.roots["0"][0], np.eye(4))
    posterior.factorise(tf.constant(True))
    assert np.abs(posterior.roots["0"][0].numpy() - np.eye(4)).max() > 0.1


def test_it_settles_to_the_product_of_the_factors(posterior):
    posterior.assign_factors(posterior.moved(curvature_of(0), 1.0, 2.0))
    posterior.rescale(3.0)
    posterior.settle()
    made = curvature_of(0)
    expected = 1.3 * 6 * np.kron(made[0].input_factor, made[0].output_factor) / 5 + 0.5 * np.eye(8)
    first, last = posterior.precision()
    np.testing.assert_allclose(first, expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(np.diag(last), 1.3 * 6 * made[1].diagonal + 2.0)


def test_without_curvature_the_prior_is_all(posterior):
    posterior.factorise()
    np.testing.assert_allclose(posterior.sums[0], [8 * np.log(0.5), 16.0], rtol=1e-9)
