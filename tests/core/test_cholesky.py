"""Guarded factors against NumPy's, and what they tell of matrices that have none."""

import numpy as np
import pytest
import tensorflow as tf
from tiers import some

from pae_zoo.core import cholesky

# Positive definite, singular, indefinite, of NaN: the first alone has a factor.
MATRICES = np.array([[[4.0, 2.0], [2.0, 3.0]], [[1.0, 1.0], [1.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]],
                     [[np.nan, 0.0], [0.0, 1.0]]])  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("jit", [False, True])
def test_a_factor_or_nan_as_a_whole(jit, dtype):
    lower, positive = tf.function(cholesky.guarded, jit_compile=jit)(tf.constant(MATRICES, dtype))
    np.testing.assert_array_equal(positive, [True, False, False, False])
    np.testing.assert_allclose(lower[0], np.linalg.cholesky(MATRICES[0]), rtol=1e-6)
    assert np.isnan(lower[1:]).all()


def test_any_number_of_leading_axes():
    lower, positive = cholesky.guarded(tf.constant(MATRICES[:1]))
    one, known = cholesky.guarded(tf.constant(MATRICES[0]))
    many, all_known = cholesky.guarded(tf.constant(MATRICES.reshape(2, 2, 2, 2)))
    np.testing.assert_array_equal(one, lower[0])
    np.testing.assert_array_equal(many[0, 0], lower[0])
    assert known and positive[0] and all_known.numpy().tolist() == [[True, False], [False, False]]


def test_the_gradient_is_that_of_the_factor():
    matrix = tf.constant(MATRICES[:1])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(matrix)
        plain, guarded = tf.linalg.cholesky(matrix), cholesky.guarded(matrix)[0]
    np.testing.assert_array_equal(tape.gradient(guarded, matrix), tape.gradient(plain, matrix))


@pytest.mark.parametrize("size", some([20, 70, 515, 600], [70, 515]))
def test_a_factor_in_blocks_is_the_factor(size):
    x = np.random.default_rng(0).normal(size=(size, size + 20))
    matrix = x @ x.T / size
    found = tf.function(cholesky.in_blocks, jit_compile=True, autograph=False)(tf.constant(matrix))
    np.testing.assert_allclose(found, np.linalg.cholesky(matrix), atol=1e-10)
    matrix[size // 2, size // 2] = -1.0
    lower, positive = cholesky.guarded(tf.constant(matrix), cholesky.in_blocks)
    assert not positive and np.isnan(lower).all()


def test_the_identity_stands_in_for_what_is_not_finite():
    found, finite = cholesky.finite_or_identity(tf.constant(MATRICES))
    np.testing.assert_array_equal(finite, [True, True, True, False])
    np.testing.assert_array_equal(found, [*MATRICES[:3], np.eye(2)])


def test_a_solution_is_that_of_the_matrix():
    vector = np.array([1.0, -2.0])
    found = cholesky.solve(cholesky.guarded(tf.constant(MATRICES[0]))[0], tf.constant(vector))
    np.testing.assert_allclose(MATRICES[0] @ found.numpy(), vector, rtol=1e-12)


@pytest.mark.parametrize("rows,columns", [(3, 5), (300, 129)])
def test_products_with_triangles_leave_out_zeros_alone(rows, columns):
    generator = np.random.default_rng(0)
    left, right = (np.tril(generator.normal(size=(size, size))) for size in (rows, columns))
    matrix = generator.normal(size=(rows, columns))
    np.testing.assert_allclose(cholesky.between(*map(tf.constant, (left, matrix, right))), left.T @ matrix @ right,
                               atol=1e-10)
