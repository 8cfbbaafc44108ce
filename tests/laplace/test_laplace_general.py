"""Systems of any function and any prior against those of a decoder under N(0, I)."""

import numpy as np
import tensorflow as tf
from linearised import BATCH, LATENTS, data, decoder, likelihood, points

from pae_zoo import laplace
from pae_zoo.inference import derivatives
from pae_zoo.laplace import ExplicitSystem, FunctionSystem, WithPrior


def both(activation="tanh"):
    net, observed, y = decoder(activation), likelihood(), data()
    function = FunctionSystem(
        lambda z: net(z, training=False), lambda values: observed.log_prob(values, y),
        lambda values: observed.score_and_fisher(values, y))
    return ExplicitSystem(net, observed, y), function


def mixture(z):
    """log of 0.7 N(z; 1, 1) + 0.3 N(z; -2, 0.25) in every coordinate, up to a constant."""
    parts = tf.stack([np.log(0.7) - 0.5 * (z - 1.0) ** 2, np.log(0.6) - 2.0 * (z + 2.0) ** 2])
    return tf.reduce_sum(tf.reduce_logsumexp(parts, axis=0), axis=-1)


def test_a_function_gives_what_its_decoder_gives():
    explicit, function = both()
    z = points()
    for own, other in zip(function.at(z), explicit.at(z)):
        np.testing.assert_allclose(own, other, rtol=1e-10)
    many = tf.stack([z, 2.0 * z])
    np.testing.assert_allclose(function.log_joint(many), explicit.log_joint(many), rtol=1e-12)


def test_the_standard_normal_as_a_prior_changes_nothing():
    explicit, _ = both()
    z = points()
    wrapped = WithPrior(explicit, lambda z: -0.5 * tf.reduce_sum(tf.square(z), axis=-1))
    for own, other in zip(wrapped.at(z), explicit.at(z)):
        np.testing.assert_allclose(own, other, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(wrapped.log_joint(z), explicit.log_joint(z), rtol=1e-12)


def test_gradient_and_curvature_of_another_prior():
    explicit, _ = both("relu")  # piecewise linear: the precision is the negative Hessian
    z = 0.1 * points() + 1.0  # where the prior is log-concave
    system = WithPrior(explicit, mixture)
    gram, gradient = system.at(z)
    np.testing.assert_allclose(gradient, derivatives.value_and_gradient(system.log_joint, z)[1], rtol=1e-8)
    exact = -derivatives.hessian(system.log_joint, z)
    np.testing.assert_allclose(gram + np.eye(LATENTS), exact, rtol=1e-6, atol=1e-6)


def test_the_precision_stays_positive_where_the_prior_is_not_log_concave():
    explicit, _ = both()
    z = tf.fill([BATCH, LATENTS], tf.constant(-0.7, tf.float64))
    assert np.all(np.linalg.eigvalsh(-derivatives.hessian(mixture, z)) < 0)
    gram = WithPrior(explicit, mixture).at(z).gram.numpy() - explicit.at(z).gram.numpy()
    assert np.all(np.linalg.eigvalsh(gram + np.eye(LATENTS)) > 0)


def test_searches_climb_with_another_prior():
    explicit, _ = both()
    system = WithPrior(explicit, mixture)
    path = laplace.run(laplace.Search(5, 1.0, "line_search"), system, points()).path
    values = np.stack([system.log_joint(mu) for mu in path])
    assert np.all(np.diff(values, axis=0) >= -1e-9 * np.abs(values[1:]))
    assert np.abs(derivatives.value_and_gradient(system.log_joint, path[-1])[1]).max() < 0.3 * np.abs(
        derivatives.value_and_gradient(system.log_joint, path[0])[1]).max()


def test_gains_are_differences_of_log_joint_and_lose_no_digits():
    y, mu = data(), points()
    others = mu + 0.01 * tf.stack([points(seed=3), points(seed=4)])
    net, observed = decoder("tanh"), likelihood(scale=0.01)
    exact = laplace.ExplicitSystem(net, observed, y)
    expected = exact.log_joint(others) - exact.log_joint(mu)
    for system in (exact, laplace.GramSystem(net, observed, y)):
        np.testing.assert_allclose(system.gain(mu, others), expected, rtol=1e-9, atol=1e-9)
        prior = WithPrior(system, mixture)
        np.testing.assert_allclose(prior.gain(mu, others), prior.log_joint(others) - prior.log_joint(mu), rtol=1e-9,
                                   atol=1e-9)
    small, sharp = decoder("tanh", dtype="float32"), likelihood(scale=0.01, dtype="float32")
    small.set_weights(net.get_weights())
    single = laplace.GramSystem(small, sharp, tf.cast(y, tf.float32))
    found = single.gain(tf.cast(mu, tf.float32), tf.cast(others, tf.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=0.02)


def test_products_are_those_of_the_precision():
    explicit, _ = both()
    z = points()
    system = WithPrior(explicit, mixture)
    gram, gradient = system.at(z)
    product, other = system.products(z)
    v = tf.stack([z, tf.ones_like(z)])
    precision = gram + tf.eye(LATENTS, dtype=tf.float64)
    np.testing.assert_allclose(product(v), tf.linalg.matvec(precision, v), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(other, gradient, rtol=1e-10)
