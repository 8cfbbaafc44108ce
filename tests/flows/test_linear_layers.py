"""What is particular to LU, ActNorm, Householder and whitening layers."""

import numpy as np
import pytest
import tensorflow as tf

import pae_zoo
from pae_zoo import flows


def data(count=400, num_dims=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, num_dims)) @ rng.normal(size=(num_dims, num_dims)) + rng.normal(size=num_dims)


def test_lu_is_the_product_of_its_factors():
    (layer,) = flows.build(["lu"], 5, dtype="float64")
    layer.packed.assign(np.random.default_rng(0).normal(size=(5, 5)))
    lower, upper = (factor.numpy() for factor in layer.factors())
    assert np.all(np.triu(lower, 1) == 0) and np.all(np.diag(lower) == 1) and np.all(np.tril(upper, -1) == 0)
    permutation = np.eye(5)[layer.permutation.numpy()]
    x = data()
    u, log_det = layer(x, inverse=True)
    np.testing.assert_allclose(u, x @ (lower @ upper @ permutation).T, atol=1e-10)
    np.testing.assert_allclose(log_det, np.sum(np.log(np.abs(np.diag(upper)))), atol=1e-12)


def test_actnorm_normalises_its_data_once():
    (layer,) = flows.build(["actnorm"], 5, dtype="float64")
    x = data()
    layer.adapt(x)
    u, _ = layer(x, inverse=True)
    np.testing.assert_allclose(np.mean(u, 0), 0.0, atol=1e-10)
    np.testing.assert_allclose(np.std(u, 0), 1.0, atol=1e-10)
    before = [w.numpy() for w in layer.weights]
    layer.adapt(3 * x)
    for weight, value in zip(layer.weights, before):
        np.testing.assert_array_equal(weight, value)


def test_actnorm_of_one_value_keeps_its_scale():
    (layer,) = flows.build(["actnorm"], 2, dtype="float64")
    layer.adapt(np.stack([np.full(10, 3.0), np.arange(10.0)], -1))
    assert layer.log_scale.numpy()[0] == 0 and layer.shift.numpy()[0] == 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_column_that_is_constant_in_float32_keeps_its_scale(dtype):
    from sklearn.preprocessing import StandardScaler

    x = np.stack([np.full(1000, 0.1), np.full(1000, 1e6 / 3), np.full(1000, -1e-9), np.zeros(1000),
                  np.random.default_rng(0).normal(size=1000)], -1).astype(np.float32)  # fmt: skip
    (layer,) = flows.build(["actnorm"], 5, dtype=dtype)
    layer.adapt(x)
    np.testing.assert_allclose(np.exp(layer.log_scale), StandardScaler().fit(x.astype(np.float64)).scale_, rtol=1e-6)
    assert np.all(layer.log_scale.numpy()[:4] == 0)
    (layer,) = flows.build(["whitening"], 4, dtype=dtype)
    layer.adapt(x[:, :4])
    assert layer.log_det.numpy() == 0


def test_whitening_gives_unit_covariance_and_turns_no_axis():
    (layer,) = flows.build(["whitening"], 5, dtype="float64")
    x = data()
    layer.adapt(x)
    v, log_det = layer(x, inverse=True)
    np.testing.assert_allclose(np.cov(np.asarray(v).T, bias=True), np.eye(5), atol=1e-8)
    covariance = np.cov(x.T, bias=True)
    np.testing.assert_allclose(log_det, -0.5 * np.linalg.slogdet(covariance)[1], atol=1e-8)
    root = layer.root.numpy()
    np.testing.assert_allclose(root, root.T, atol=1e-12)
    np.testing.assert_allclose(root @ root, covariance, atol=1e-8)


def test_whitening_of_dead_dimensions_stays_finite():
    (layer,) = flows.build(["whitening"], 5)
    x = data()
    x[:, 2] = 1.0
    layer.adapt(x)
    v, log_det = layer(x, inverse=True)
    assert np.all(np.isfinite(v)) and np.all(np.abs(log_det) < 50)
    layer.adapt(np.ones((10, 5)))
    np.testing.assert_allclose(layer(np.ones((1, 5)), inverse=True)[0], 0.0)


def test_householder_product_is_orthogonal_with_the_sign_of_the_count():
    rng = np.random.default_rng(0)
    for count in (1, 2, 3):
        rows = tf.eye(5, dtype=tf.float64)
        for v in rng.normal(size=(count, 5)):
            rows = flows.householder(rows, tf.constant(v))
        np.testing.assert_allclose(rows @ tf.transpose(rows), np.eye(5), atol=1e-12)
        assert np.linalg.det(rows) == pytest.approx((-1) ** count)


def test_householder_takes_vectors_per_datum_and_zero():
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(3, 2, 5)).astype("float32"), rng.normal(size=(2, 5)).astype("float32")
    v[1] = 0.0
    v = tf.constant(v)
    with tf.GradientTape() as tape:
        tape.watch(v)
        y = flows.householder(tf.constant(x), v)
        loss = tf.reduce_sum(tf.sin(y))
    assert y.shape == (3, 2, 5) and np.all(np.isfinite(tape.gradient(loss, v)))
    np.testing.assert_array_equal(y[:, 1], x[:, 1])
    np.testing.assert_allclose(tf.norm(y, axis=-1), tf.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(flows.householder(y, v), x, atol=1e-5)


@pytest.mark.parametrize("reflections", (0, 3))
def test_reflections_come_in_pairs(reflections):
    with pytest.raises(pae_zoo.UserError, match=f"even and 2 or more.*received {reflections}"):
        flows.Householder(reflections)
