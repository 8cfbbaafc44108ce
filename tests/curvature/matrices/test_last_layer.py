"""The last layer's curvature is exact, in the smallest form that holds it."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.matrices import hessians, last_layer
from pae_zoo.curvature.network import graph as graphs
from pae_zoo.curvature.posteriors import build as posteriors

L = reference.L


@pytest.fixture(autouse=True)
def double_precision():
    with reference.double_precision():
        yield


def hidden():
    return L.Dense(4, activation="tanh")


# name: (network, likelihood, leading and following size of the matrices)
CASES = {
    "dense": (lambda: reference.sequential((3,), hidden(), L.Dense(3)), "gaussian", (1, 5)),
    "no bias": (lambda: reference.sequential((3,), hidden(), L.Dense(3, use_bias=False)), "gaussian", (1, 4)),
    "bernoulli": (lambda: reference.sequential((3,), hidden(), L.Dense(3)), "bernoulli", (3, 5)),
    "reshaped": (lambda: reference.sequential((3,), hidden(), L.Dense(6), L.Reshape((2, 3))), "gaussian", (1, 5)),
    "activation": (lambda: reference.sequential((3,), hidden(), L.Dense(3, activation="sigmoid")), "gaussian", (3, 5)),
    "dropout": (lambda: reference.sequential((3,), hidden(), L.Dense(3), L.Dropout(0.5)), "gaussian", (1, 5)),
    "categorical": (lambda: reference.sequential((3,), hidden(), L.Dense(3)), "categorical", (1, 15)),
    "softmax": (lambda: reference.sequential((3,), hidden(), L.Dense(3, activation="softmax")), "gaussian", (1, 15)),
    "conv": (
        lambda: reference.sequential((4, 4, 1), L.Conv2D(2, 2, activation="tanh"), L.Conv2D(3, 2)), "gaussian", (1, 9)),
    "conv cropped": (
        lambda: reference.sequential((4, 4, 2), L.Conv2D(3, 3, padding="same"), L.Cropping2D(1)), "gaussian", (1, 19)),
    "conv bernoulli": (
        lambda: reference.sequential((4, 4, 2), L.Conv2D(3, 2, padding="same"), L.Flatten()), "bernoulli", (3, 9)),
    "dense cropped": (
        lambda: reference.sequential((3,), hidden(), L.Dense(8), L.Reshape((2, 4, 1)), L.Cropping2D((0, 1))),
        "gaussian", (8, 5)),
    "transposed": (
        lambda: reference.sequential((2, 2, 2), L.Conv2DTranspose(3, 2, strides=2, padding="same")), "bernoulli",
        (3, 9)),
}


@pytest.mark.parametrize("name", CASES)
def test_matrices_hold_the_layers_block(name):
    make, likelihood, (count, size) = CASES[name]
    model = make()
    x = reference.data(model, 3)
    graph = graphs.read(model)
    found = last_layer.compute(graph, tf.constant(x), hessians.resolve(likelihood), graph.blocks)
    assert found.matrices.shape == (count, size, size)
    posterior = posteriors.build("last_layer", model, found, dtype="float64")
    block = graph.blocks[-1]
    expected = reference.gauss_newton(model, x, likelihood)[block.start : block.stop, block.start : block.stop]
    covariance = np.linalg.inv(expected / 0.5 + 2.0 * np.eye(block.size))
    posterior.assign_scales(2.0, 0.5)
    eye = tf.eye(block.size, dtype=tf.float64)
    np.testing.assert_allclose(posterior.solve(eye), covariance, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(posterior.variances(), np.diag(covariance), rtol=1e-8)
    logs = np.linalg.slogdet(expected / 0.5 + 2.0 * np.eye(block.size))[1]
    np.testing.assert_allclose(posterior.spectrum().log_det(np.array([2.0]), 2.0), logs, rtol=1e-9)


def test_a_network_with_its_last_layer_in_a_branch_is_taken_whole():
    inputs = keras.Input((3,), dtype="float64")
    outputs = L.Add()([inputs, L.Dense(3)(L.Dense(4, activation="tanh")(inputs))])
    model = reference.randomised(keras.Model(inputs, outputs))
    graph = graphs.read(model)
    x = reference.data(model, 2)
    found = last_layer.compute(graph, tf.constant(x), hessians.resolve("gaussian"), graph.blocks)
    block = graph.blocks[-1]
    expected = reference.gauss_newton(model, x)[block.start :, block.start :]
    np.testing.assert_allclose(found.matrices[0], expected, rtol=1e-8, atol=1e-10)


def test_other_layers_and_more_than_memory_are_refused():
    model = CASES["dense"][0]()
    graph = graphs.read(model)
    x, hessian = tf.constant(reference.data(model)), hessians.resolve("gaussian")
    with pytest.raises(UserError, match="last layer"):
        last_layer.compute(graph, x, hessian, graph.blocks[:1])
    with pytest.raises(UserError, match="memory"):
        last_layer.compute(graph, x, hessian, graph.blocks, memory=1e-4)


def test_probes_have_the_exact_matrix_as_their_mean():
    model = reference.sequential((3,), hidden(), L.Dense(3))
    x = tf.constant(reference.data(model, 2))
    graph, hessian = graphs.read(model), hessians.resolve("categorical")
    exact = last_layer.compute(graph, x, hessian, graph.blocks).matrices[0].numpy()
    found = last_layer.compute(
        graph, x, hessian, graph.blocks, method="mc", seed=(0, 1), num_probes=4000).matrices[0].numpy()
    assert np.abs(found - exact).max() > 0
    # The variance of a product of two sums over signs is at most that with normal numbers.
    error = np.sqrt(2 * np.outer(np.diag(exact), np.diag(exact)) / 4000)
    assert (np.abs(found - exact) <= 4 * error + 1e-12).all()
