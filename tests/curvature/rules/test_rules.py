"""Rules of every layer class against the Gauss-Newton matrix from the Jacobian of the whole network."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

from pae_zoo import curvature, likelihoods
from pae_zoo.core.errors import UserError
from pae_zoo.curvature.matrices import hessians, record, sweeps
from pae_zoo.curvature.network import pieces
from pae_zoo.curvature.rules import registry

L = keras.layers


@pytest.fixture(autouse=True)
def double_precision():
    with reference.double_precision():
        yield


@pytest.mark.parametrize("name", reference.NETWORKS)
def test_exact_diagonals_and_blocks_are_those_of_the_explicit_matrix(name):
    network = reference.NETWORKS[name]()
    x = reference.data(network)
    explicit = reference.gauss_newton(network, x)
    graph = curvature.read(network)
    run, hessian = record.forward(graph, tf.constant(x)), hessians.Gaussian()
    np.testing.assert_allclose(run.output, network(x, training=False), rtol=1e-10, atol=1e-12)
    blocks = sweeps.all_rows(run, hessian, graph.blocks, sweeps.blocks_of_layers(run), 2**30)
    diagonals = sweeps.all_rows(run, hessian, graph.blocks, sweeps.diagonals(run), 2**30)
    for block, (found,), squares in zip(graph.blocks, blocks, diagonals):
        wanted = explicit[block.start : block.stop, block.start : block.stop]
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10 * scale, err_msg=block.name)
        assert np.linalg.eigvalsh(found).min() >= -1e-10 * scale
        assert [tuple(one.shape) for one in squares] == [tuple(variable.shape) for variable in block.variables]
        np.testing.assert_allclose(curvature.flatten(squares), np.diag(wanted), rtol=1e-8, atol=1e-10 * scale)


def test_likelihoods_whose_information_is_no_diagonal():
    """The layers have the matrix of the named Hessian of classes, and one that is not diagonal goes by its root."""
    output = tf.constant(np.random.default_rng(0).normal(size=(3, 4)))
    unit = tf.eye(4, batch_shape=[3], dtype=tf.float64)
    unit = tf.transpose(unit, (1, 0, 2))
    named = hessians.resolve("categorical").apply(output, unit)
    for name in ("categorical", "mixed:category:4"):
        layer = likelihoods.build(name, (4,), dtype="float64")
        hessian = hessians.resolve(layer)
        assert hessian.diagonal(output) is None and not hessian.is_diagonal
        np.testing.assert_allclose(hessian.apply(output, unit), named, rtol=1e-6, atol=1e-12)
        rows = hessian.root_rows(output, tf.constant(0), 4)
        np.testing.assert_allclose(tf.einsum("rbi,rbj->ibj", rows, rows), named, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["conv2d_same", "transposed", "dense_on_three_axes", "spectral"])
def test_pieces_of_any_size_give_the_same_sums(name):
    network = reference.NETWORKS[name]()
    graph, x = curvature.read(network), reference.data(network)
    run, hessian = record.forward(graph, tf.constant(x)), hessians.Gaussian()
    whole = sweeps.all_rows(run, hessian, graph.blocks, sweeps.diagonals(run), 2**30)
    for limit in (2000, 20000):
        with pieces.work_bytes(limit):
            parts = sweeps.all_rows(run, hessian, graph.blocks, sweeps.diagonals(run), 2 * sweeps.row_bytes(run))
        np.testing.assert_allclose(_flat(parts), _flat(whole), rtol=1e-10)


def test_an_autoencoder_of_convolutions_is_cut_at_its_bottleneck():
    encoder = reference.sequential((6, 6, 2), L.Conv2D(3, 3, activation="tanh"), L.Flatten(), L.Dense(2))
    decoder = reference.sequential(
        (2,), L.Dense(16, activation="tanh"), L.Reshape((4, 4, 1)), L.Conv2DTranspose(2, 3), seed=1)
    graph, x = curvature.read((encoder, decoder)), reference.data(encoder, 2)
    run = record.forward(graph, tf.constant(x))
    cut, = sweeps.cuts(run, graph.blocks, 2**30)
    assert run.inputs[graph.chain.steps[cut]].shape == (2, 2)
    assert not sweeps.cuts(run, graph.select("decoder"), 2**30)
    assert not sweeps.cuts(run, graph.blocks, 200)
    found = sweeps.all_rows(run, hessians.Gaussian(), graph.blocks, sweeps.diagonals(run), 2**30)
    np.testing.assert_allclose(_flat(found), np.diag(reference.gauss_newton((encoder, decoder), x)), rtol=1e-8)


def test_a_root_of_a_singular_matrix():
    factor = np.random.default_rng(0).normal(size=(4, 2, 5))
    gram = np.einsum("bri,brj->bij", factor, factor)
    root = sweeps.root_of(tf.constant(gram))
    np.testing.assert_allclose(np.einsum("bri,brj->bij", root, root), gram, atol=1e-12)


def test_backward_passes_stop_where_no_further_layer_is_chosen():
    network = reference.dense_autoencoder()
    graph = curvature.read(network)
    run = record.forward(graph, tf.constant(reference.data(network)))
    rows = tf.ones((2, 3, 6), tf.float64)
    assert len(run.cotangents(rows)) == len(graph.blocks)
    (step, delta), = run.cotangents(rows, graph.blocks[-1:]).items()
    assert step is graph.step_of(graph.blocks[-1]) and delta is rows
    assert run.descend(graph.chain.steps, rows, {step}, lambda *_: None) is rows


class Scale(L.Layer):
    """y = w^2 x: no layer that the curvature knows."""

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1],), initializer="ones")

    def call(self, inputs):
        return inputs * self.w**2


def test_an_unknown_layer_is_refused_by_name_and_differentiated_on_demand():
    network = reference.sequential((4,), L.Dense(3, activation="tanh"), Scale(name="stretch"), L.Dense(2))
    x = reference.data(network)
    with pytest.raises(UserError, match="class Scale, such as 'stretch'.*register_rule.*fallback=True"):
        curvature.ggn(network, x)
    found = curvature.ggn(network, x, fallback=True)
    np.testing.assert_allclose(found, np.diag(reference.gauss_newton(network, x)), rtol=1e-8)


def test_a_rule_of_ones_own(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    network = reference.sequential((4,), L.Dense(3, activation="tanh"), Scale(), L.Dense(2))
    x = reference.data(network)
    # What is left out, here rows, is made by automatic differentiation.
    curvature.register_rule(
        Scale,
        forward=lambda layer, a: a * registry.weight(layer.w, a.dtype) ** 2,
        slope=lambda layer, a: tf.ones_like(a) * registry.weight(layer.w, a.dtype) ** 2,
        squares=lambda layer, a, delta: [
            tf.reduce_sum((2 * registry.weight(layer.w, a.dtype) * a[None] * delta) ** 2, (0, 1))],
    )
    explicit = reference.gauss_newton(network, x)
    np.testing.assert_allclose(curvature.ggn(network, x), np.diag(explicit), rtol=1e-8)
    block = curvature.read(network).blocks[1]
    found = curvature.ggn(network, x, "block", layers=[block.name])[0]
    np.testing.assert_allclose(found, explicit[block.start : block.stop, block.start : block.stop], rtol=1e-8)
    with pytest.raises(UserError, match="no function 'square'; allowed: forward"):
        curvature.register_rule(Scale, square=None)


def test_layers_that_a_rule_does_not_cover_are_refused():
    grouped = reference.sequential((4, 4, 2), L.Conv2D(2, 2, groups=2, name="grouped"))
    with pytest.raises(UserError, match="'grouped' has 2 groups"):
        curvature.ggn(grouped, reference.data(grouped))
    mixing = curvature.read(reference.NETWORKS["layer_norm"]())
    step = next(step for step in mixing.chain.flat() if isinstance(step.layer, L.LayerNormalization))
    with pytest.raises(UserError, match="mixes values"):
        registry.slope(step, tf.zeros((1, 4, 5, 3), tf.float64))


def _flat(nested):
    return curvature.flatten([one for some in nested for one in some])
