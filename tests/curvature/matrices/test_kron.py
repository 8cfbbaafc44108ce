"""Kronecker factors: exact where theory says so, never indefinite, additive over batches."""

import numpy as np
import pytest
import reference
import tensorflow as tf

from pae_zoo.curvature.matrices import hessians, kron
from pae_zoo.curvature.network import graph as graphs
from pae_zoo.curvature.network import matrix_form
from pae_zoo.curvature.posteriors import build as posteriors

L = reference.L


@pytest.fixture(autouse=True)
def double_precision():
    with reference.double_precision():
        yield


def factors(model, x, likelihood="gaussian", **kwargs):
    graph = graphs.read(model)
    return kron.compute(graph, tf.constant(x), hessians.resolve(likelihood), graph.blocks, **kwargs)


def explicit(model, found):
    """The blocks (P_l, P_l) that factors stand for, in the flat order of the weights."""
    blocks = []
    graph = graphs.read(model)
    for block, one in zip(graph.blocks, found):
        if isinstance(one, kron.KronDiagonal):
            blocks.append(np.diag(one.diagonal))
            continue
        form = matrix_form.form_of(graph.step_of(block).layer)
        shapes = [variable.shape for variable in block.variables]
        matrix = tf.constant(np.kron(one.input_factor, one.output_factor) / one.count)
        half = matrix_form.to_flat(tf.reshape(matrix, (-1, *matrix_form.matrix_shape(form, shapes))), form, shapes)
        turned = tf.reshape(tf.transpose(half), (-1, *matrix_form.matrix_shape(form, shapes)))
        blocks.append(matrix_form.to_flat(turned, form, shapes).numpy())
    return blocks


def blocks_of(model, matrix):
    return [matrix[block.start : block.stop, block.start : block.stop] for block in graphs.read(model).blocks]


LINEAR = {
    "one dense layer": lambda: reference.sequential((3,), L.Dense(4)),
    "dense layers without activations": lambda: reference.sequential((3,), L.Dense(4), L.Dense(2), L.Dense(5)),
    "no bias": lambda: reference.sequential((3,), L.Dense(4, use_bias=False), L.Dense(2)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_networks_of_any_data_are_exact(name):
    model = LINEAR[name]()
    x = reference.data(model, 5)
    for found, expected in zip(explicit(model, factors(model, x)), blocks_of(model, reference.gauss_newton(model, x))):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "categorical"])
def test_dense_networks_of_one_datum_are_exact(likelihood):
    model = reference.sequential((3,), L.Dense(4, activation="tanh"), L.Dense(5, activation="softplus"), L.Dense(3))
    x = reference.data(model, 1)
    expected = blocks_of(model, reference.gauss_newton(model, x, likelihood))
    for found, one in zip(explicit(model, factors(model, x, likelihood)), expected):
        np.testing.assert_allclose(found, one, rtol=1e-8, atol=1e-10)


POINTS = {
    "conv": lambda: reference.sequential((1, 1, 3), L.Conv2D(4, 1, activation="tanh"), L.Conv2D(2, 1)),
    "whole image": lambda: reference.sequential((3, 2, 2), L.Conv2D(4, (3, 2), activation="tanh"), L.Conv2D(2, 1)),
    "transposed": lambda: reference.sequential((1, 1, 3), L.Conv2DTranspose(2, 1), L.Conv2DTranspose(3, 1)),
}


@pytest.mark.parametrize("name", POINTS)
def test_convolutions_of_one_datum_with_one_position_are_exact(name):
    model = POINTS[name]()
    x = reference.data(model, 1)
    expected = blocks_of(model, reference.gauss_newton(model, x))
    for found, one in zip(explicit(model, factors(model, x)), expected):
        np.testing.assert_allclose(found, one, rtol=1e-8, atol=1e-10)


CONVOLUTIONS = {
    "conv2d": lambda: L.Conv2D(3, (2, 3)),
    "same": lambda: L.Conv2D(3, (2, 3), padding="same"),
    "strided": lambda: L.Conv2D(3, 3, strides=2, padding="same", use_bias=False),
    "strided valid": lambda: L.Conv2D(3, 2, strides=(2, 1)),
    "dilated": lambda: L.Conv2D(3, 2, dilation_rate=2, padding="same"),
    "transposed": lambda: L.Conv2DTranspose(3, 3, strides=2, padding="same"),
    "transposed valid": lambda: L.Conv2DTranspose(3, (3, 2), strides=2),
    "transposed gaps": lambda: L.Conv2DTranspose(3, 2, strides=3, use_bias=False),
    "transposed gaps same": lambda: L.Conv2DTranspose(3, 2, strides=3, padding="same"),
    "transposed even": lambda: L.Conv2DTranspose(3, 4, strides=1, padding="same"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_inputs_times_derivatives_are_the_gradient(name):
    model = reference.sequential((4, 5, 2), CONVOLUTIONS[name]())
    (layer,) = model.layers
    x = tf.constant(reference.data(model, 2))
    with tf.GradientTape() as tape:
        y = layer(x)
        delta = tf.constant(np.random.default_rng(3).normal(size=y.shape))
    gradients = tape.gradient(y, [v.value for v in layer.trainable_variables], output_gradients=delta)
    form, shapes = matrix_form.form_of(layer), [variable.shape for variable in layer.trainable_variables]
    seen = matrix_form.inputs(layer, x)
    matrix = tf.einsum("bti,bto->io", seen, tf.reshape(delta, (2, -1, 3)))
    flat = matrix_form.to_flat(matrix[None], form, shapes)
    np.testing.assert_allclose(flat[0], graphs.flatten(gradients), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(matrix_form.to_matrix(flat, form, shapes)[0], matrix, rtol=1e-12)


@pytest.mark.parametrize("name, shape", [("causal", (6, 2)), ("transposed", (4, 2))])
def test_inputs_times_derivatives_along_one_axis(name, shape):
    made = {"causal": L.Conv1D(3, 2, padding="causal", dilation_rate=2),
            "transposed": L.Conv1DTranspose(3, 3, strides=2, padding="same")}
    model = reference.sequential(shape, made[name])
    (layer,) = model.layers
    x = tf.constant(reference.data(model, 2))
    with tf.GradientTape() as tape:
        y = layer(x)
    gradients = tape.gradient(y, [v.value for v in layer.trainable_variables], output_gradients=y)
    form, shapes = matrix_form.form_of(layer), [variable.shape for variable in layer.trainable_variables]
    matrix = tf.einsum("bti,bto->io", matrix_form.inputs(layer, x), y)
    np.testing.assert_allclose(
        matrix_form.to_flat(matrix[None], form, shapes)[0], graphs.flatten(gradients), rtol=1e-10, atol=1e-10)


def mixed():
    """Layers whose weights are a matrix, of every form, and layers whose are none."""
    return reference.sequential(
        (4, 4, 2), L.Conv2D(3, 2, padding="same"), L.BatchNormalization(), L.Activation("tanh"),
        L.Conv2DTranspose(2, 2, strides=2, padding="same"), L.PReLU(shared_axes=[1, 2]), L.Flatten(), L.Dense(3))


def test_layers_without_a_matrix_keep_their_diagonal():
    model = mixed()
    x = reference.data(model, 2)
    found = factors(model, x)
    expected = blocks_of(model, reference.gauss_newton(model, x))
    kinds = [isinstance(one, kron.KronDiagonal) for one in found]
    assert kinds == [False, True, False, True, False]
    for one, block in zip(found, expected):
        if isinstance(one, kron.KronDiagonal):
            np.testing.assert_allclose(one.diagonal, np.diag(block), rtol=1e-8)


def test_factors_are_semi_definite_and_add_up_over_batches():
    model = mixed()
    x = reference.data(model, 6)
    whole = factors(model, x)
    parts = posteriors.add(factors(model, x[:2]), factors(model, x[2:]))
    for one, other in zip(tf.nest.flatten(whole), tf.nest.flatten(parts)):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    for one in whole:
        if isinstance(one, kron.Kron):
            assert np.linalg.eigvalsh(one.input_factor).min() > -1e-10
            assert np.linalg.eigvalsh(one.output_factor).min() > -1e-10


def test_pieces_of_a_batch_count_no_padding():
    from pae_zoo.curvature.network import pieces

    model = mixed()
    x = reference.data(model, 5)
    whole = factors(model, x)
    with pieces.work_bytes(3000):
        parts = factors(model, x)
    for one, other in zip(tf.nest.flatten(whole), tf.nest.flatten(parts)):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_probes_have_the_exact_factors_as_their_mean():
    model = reference.sequential((3,), L.Dense(4, activation="tanh"), L.Dense(2))
    x = reference.data(model, 3)
    exact = factors(model, x)[0].output_factor.numpy()
    probes = factors(model, x, method="mc", seed=(0, 1), num_probes=20_000)[0].output_factor.numpy()
    assert np.linalg.norm(probes - exact) < 0.05 * np.linalg.norm(exact)


def test_posterior_of_factors_is_that_of_their_product():
    model = mixed()
    found = factors(model, reference.data(model, 3))
    posterior = posteriors.build("kron", model, found, dtype="float64")
    posterior.assign_scales(0.3, 0.2)
    for one, block in zip(posterior.precision(), explicit(model, found)):
        np.testing.assert_allclose(one, block / 0.2 + 0.3 * np.eye(len(block)), rtol=1e-8, atol=1e-9)


def test_uses_of_a_layer_count_as_positions():
    layer = L.Dense(3)
    model = reference.sequential((4,), L.Dense(3), layer, L.Activation("tanh"), layer, L.Dense(2))
    x = reference.data(model, 3)
    (_, found, _) = factors(model, x)
    kernel, bias = layer.get_weights()
    first, last = model.layers[0], model.layers[-1]
    a = x @ first.get_weights()[0] + first.get_weights()[1]
    h = np.tanh(a @ kernel + bias)
    seen = np.concatenate([np.c_[a, np.ones(3)], np.c_[h, np.ones(3)]])
    np.testing.assert_allclose(found.input_factor, seen.T @ seen, rtol=1e-9)
    out = last.get_weights()[0].T
    below = np.einsum("oj,kj,bk->bok", out, kernel, 1 - h**2)
    np.testing.assert_allclose(
        found.output_factor, 3 * out.T @ out + np.einsum("boi,boj->ij", below, below), rtol=1e-9)
    assert found.count == 6
