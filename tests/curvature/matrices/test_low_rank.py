"""Sketches: products with the Gauss-Newton matrix, and the eigenpairs that they tell of."""

import numpy as np
import pytest
import reference
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.matrices import gauss_newton, hessians, low_rank
from pae_zoo.curvature.network import graph as graphs
from pae_zoo.curvature.posteriors import build as posteriors

L = reference.L
SEED = (5, 6)


@pytest.fixture(autouse=True)
def double_precision():
    with reference.double_precision():
        yield


def sketch(model, x, rank, likelihood="gaussian", blocks=None, **kwargs):
    graph = graphs.read(model)
    hessian = hessians.resolve(likelihood)
    return low_rank.compute(graph, tf.constant(x), hessian, blocks or graph.blocks, rank, SEED, **kwargs)


def network():
    return reference.sequential((3,), L.Dense(4, activation="tanh"), L.Dense(2))


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "categorical"])
def test_images_are_products_with_the_matrix(likelihood):
    model = network()
    x = reference.data(model, 4)
    matrix = reference.gauss_newton(model, x, likelihood)
    found = sketch(model, x, 3, likelihood)
    omega = np.stack([low_rank._column(SEED, index, len(matrix), tf.float64) for index in range(3)], axis=1)
    np.testing.assert_allclose(found.image, matrix @ omega, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rank", [6, 9, 100])
def test_the_matrix_comes_back_where_the_rank_suffices(rank):
    model = network()
    x = reference.data(model, 3)  # three data of two outputs: rank 6
    matrix = reference.gauss_newton(model, x)
    vectors, values = low_rank.eigenpairs(sketch(model, x, rank))
    assert vectors.shape == (len(matrix), min(rank, len(matrix)))
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(vectors.shape[1]), atol=1e-8)
    np.testing.assert_allclose(vectors * values @ vectors.T, matrix, atol=1e-9 * np.abs(matrix).max())


def test_a_smaller_rank_stays_below_the_matrix_and_near_it():
    model = network()
    x = reference.data(model, 20)
    matrix = reference.gauss_newton(model, x)
    vectors, values = low_rank.eigenpairs(sketch(model, x, 12))
    rest = matrix - vectors * values @ vectors.T
    assert np.linalg.eigvalsh(rest).min() > -1e-8 * np.abs(matrix).max()
    assert np.linalg.norm(rest) < 0.2 * np.linalg.norm(matrix)


def test_single_precision_and_no_curvature():
    generator = np.random.default_rng(0)
    root = generator.normal(size=(40, 3)) * 100
    omega = np.stack([low_rank._column(SEED, index, 40, tf.float32) for index in range(8)], axis=1)
    image = tf.constant(root @ root.T @ omega, tf.float32)
    vectors, values = low_rank.eigenpairs(low_rank.Sketch(image, SEED))
    assert (values >= 0).all()
    np.testing.assert_allclose(vectors * values @ vectors.T, root @ root.T, atol=1e-4 * (values.max()))
    vectors, values = low_rank.eigenpairs(low_rank.Sketch(0 * image, SEED))
    assert not values.any() and vectors.shape == (40, 8)


def test_batches_add_up_and_chosen_layers_alone_count():
    model = network()
    x = reference.data(model, 6)
    whole = sketch(model, x, 4)
    parts = posteriors.add(sketch(model, x[:2], 4), sketch(model, x[2:], 4))
    np.testing.assert_allclose(parts.image, whole.image, rtol=1e-9)
    block = graphs.read(model).blocks[0]
    matrix = reference.gauss_newton(model, x)[block.start : block.stop, block.start : block.stop]
    vectors, values = low_rank.eigenpairs(sketch(model, x, block.size, blocks=[block]))
    np.testing.assert_allclose(vectors * values @ vectors.T, matrix, atol=1e-9 * np.abs(matrix).max())


def test_more_than_memory_is_refused():
    model = network()
    with pytest.raises(UserError, match="smaller rank"):
        sketch(model, reference.data(model), 8, memory=1e-4)


def test_the_diagonal_comes_with_the_sketch_and_the_posterior_has_it():
    model = network()
    x = tf.constant(reference.data(model, 20))
    matrix = reference.gauss_newton(model, x)
    found = gauss_newton.ggn(model, x, "low_rank", seed=SEED, rank=4, jit_compile=False)
    np.testing.assert_allclose(found.diagonal, np.diag(matrix), rtol=1e-8)
    halves = [gauss_newton.ggn(model, part, "low_rank", seed=SEED, rank=4, jit_compile=False)
              for part in (x[:9], x[9:])]
    np.testing.assert_allclose(posteriors.add(*halves).diagonal, np.diag(matrix), rtol=1e-8)
    posterior = posteriors.build("low_rank", model, found, dtype="float64")
    posterior.assign_scales(prior_precision=0.1)
    np.testing.assert_allclose(np.diag(posterior.precision()[0]), np.diag(matrix) + 0.1, rtol=1e-8)
    full = gauss_newton.ggn(model, x[:3], "low_rank", seed=SEED, rank=100, jit_compile=False)
    posterior = posteriors.build("low_rank", model, full, dtype="float64")
    assert not posterior.rest.numpy().any()
