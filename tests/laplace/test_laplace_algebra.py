"""Guarded factors, solves, functions of matrices and Krylov methods, against NumPy and autodiff."""

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo.core import cholesky
from pae_zoo.laplace import algebra

BATCH, SIZE = 4, 6


def spd(condition=10.0, seed=0, size=SIZE, dtype=np.float64):
    """Returns (BATCH, size, size) matrices with eigenvalues from 1 to `condition` in random axes."""
    generator = np.random.default_rng(seed)
    axes = np.linalg.qr(generator.normal(size=(BATCH, size, size)))[0]
    values = np.geomspace(1.0, condition, size)
    return ((axes * values) @ axes.transpose(0, 2, 1)).astype(dtype)


def vectors(seed=1, dtype=np.float64):
    return tf.constant(np.random.default_rng(seed).normal(size=(BATCH, SIZE)).astype(dtype))


def directional(function, matrix, seed=5, step=1e-5):
    """Returns the derivative along a random symmetric matrix, by the gradient and by central differences."""
    direction = algebra.symmetrise(tf.constant(np.random.default_rng(seed).normal(size=matrix.shape)))
    matrix = tf.constant(matrix)
    with tf.GradientTape() as tape:
        tape.watch(matrix)
        value = function(matrix)
    along = tf.reduce_sum(tape.gradient(value, matrix) * direction)
    return float(along), float((function(matrix + step * direction) - function(matrix - step * direction)) / (2 * step))


def test_cholesky_and_its_gradient():
    matrix = spd()
    np.testing.assert_allclose(algebra.cholesky(tf.constant(matrix)).lower, np.linalg.cholesky(matrix), rtol=1e-10)
    weights = tf.constant(np.random.default_rng(2).normal(size=matrix.shape))
    got, expected = directional(lambda m: tf.reduce_sum(weights * algebra.cholesky(m).lower), matrix)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("jit", [False, True])
def test_a_matrix_that_is_not_positive_definite_takes_counted_jitter(jit):
    matrix = spd(dtype=np.float32)
    broken = matrix[1] - 1.001 * np.outer(*2 * [np.linalg.eigh(matrix[1])[1][:, 0]])  # smallest eigenvalue -0.001
    matrix[1] = broken
    factor = tf.function(algebra.cholesky, jit_compile=jit)(tf.constant(matrix))
    assert np.isfinite(factor.lower).all()
    np.testing.assert_allclose(factor.jitter, [0, 1e-2, 0, 0])
    scale = np.mean(np.diag(broken))
    np.testing.assert_allclose(factor.lower[1] @ tf.transpose(factor.lower[1]), broken + 1e-2 * scale * np.eye(SIZE),
                               rtol=1e-4, atol=1e-4)
    hopeless = tf.constant(-np.eye(SIZE, dtype=np.float32)[None])
    assert np.isnan(tf.function(algebra.cholesky, jit_compile=jit)(hopeless).lower).all()


def test_solve_and_its_gradient():
    matrix, b = spd(), vectors()
    found, _ = algebra.solve(tf.constant(matrix), b)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, b.numpy()[..., None])[..., 0], rtol=1e-10)
    got, expected = directional(lambda m: tf.reduce_sum(algebra.solve(m, b)[0] ** 2), matrix)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(b)
        value = tf.reduce_sum(algebra.solve(tf.constant(matrix), b)[0] ** 2)
    y = np.linalg.solve(matrix, 2 * found.numpy()[..., None])[..., 0]
    np.testing.assert_allclose(tape.gradient(value, b), y, rtol=1e-8)


def test_grams_and_their_gradients_equal_automatic_ones():
    generator = np.random.default_rng(3)
    rows = tf.constant(generator.normal(size=(BATCH, 3, SIZE)))
    weights = tf.constant(generator.uniform(size=(BATCH, SIZE)))
    metric = tf.constant(spd()[0])
    target = tf.constant(generator.normal(size=(BATCH, 3, 3)))

    def gradients(function, *inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            found = function(*inputs)
            loss = tf.reduce_sum(target * found)
        return [found, *tape.gradient(loss, inputs)]

    pairs = (
        (algebra.weighted_gram, lambda j, r: tf.einsum("bkd,bd,bld->bkl", j, r, j), weights),
        (algebra.shared_gram, lambda a, g: tf.einsum("bkd,de,ble->bkl", a, 0.5 * (g + tf.transpose(g)), a), metric),
    )
    for mine, reference, second in pairs:
        for one, other in zip(gradients(mine, rows, second), gradients(reference, rows, second)):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rank", [0, 2])
def test_functions_of_matrices_and_their_gradients(rank):
    matrix = spd(30.0)

    def power(values):
        return values**-0.5, -0.5 * values**-1.5

    if rank == 0:
        root = algebra.function_of(tf.constant(matrix), power)
        np.testing.assert_allclose(root @ root, np.linalg.inv(matrix), rtol=1e-9, atol=1e-11)

    def square(values):
        return values**2, 2 * values

    target = tf.constant(np.random.default_rng(8).normal(size=matrix.shape))
    got, expected = directional(lambda m: tf.reduce_sum(target * algebra.function_of(m, square, rank)), matrix)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    got, expected = directional(lambda m: tf.reduce_sum(algebra.log_det_one_plus(m, rank)), matrix)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    values = np.linalg.eigvalsh(matrix)[:, -(rank or SIZE):]
    np.testing.assert_allclose(algebra.log_det_one_plus(tf.constant(matrix), rank), np.log1p(values).sum(1), rtol=1e-9)


def test_equal_eigenvalues_have_a_finite_gradient():
    matrix = np.tile(2.0 * np.eye(SIZE), (BATCH, 1, 1))
    got, expected = directional(lambda m: tf.reduce_sum(algebra.log_det_one_plus(m)), matrix)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_conjugate_gradients_end_in_the_solution():
    matrix, b = tf.constant(spd(100.0)), vectors()
    exact = algebra.solve(matrix, b)[0]

    def product(v):
        return tf.linalg.matvec(matrix, v)

    plain = algebra.conjugate_gradients(product, b, SIZE + 2, lambda r: r)
    np.testing.assert_allclose(plain, exact, rtol=1e-6)
    lower = algebra.cholesky(matrix + 0.01 * tf.eye(SIZE, dtype=matrix.dtype)).lower
    helped = algebra.conjugate_gradients(product, b, 2, lambda r: cholesky.solve(lower, r))
    unhelped = algebra.conjugate_gradients(product, b, 2, lambda r: r)
    assert np.abs(helped - exact).max() < 1e-3 < np.abs(unhelped - exact).max()


@pytest.mark.parametrize("size", [SIZE, 2])
def test_lanczos_gives_functions_of_a_matrix(size):
    # With size 2 of the directions changed, the space ends after three products.
    matrix = np.eye(SIZE) + spd(50.0) if size == SIZE else np.eye(SIZE) + (lambda j: j.transpose(0, 2, 1) @ j)(
        np.random.default_rng(0).normal(size=(BATCH, size, SIZE)))
    start = vectors()
    rows, tridiagonal, norm = algebra.lanczos(lambda v: tf.linalg.matvec(tf.constant(matrix), v), start, SIZE)
    values, axes = np.linalg.eigh(matrix)
    expected = np.einsum("bij,bj,bkj,bk->bi", axes, values**-0.5, axes, start)
    root = algebra.function_of(tridiagonal, lambda s: (s**-0.5, -0.5 * s**-1.5))[..., 0]
    found = norm[:, None] * tf.linalg.matvec(rows, root, transpose_a=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    logs = algebra.function_of(tridiagonal, lambda s: (tf.math.log(s), 1.0 / s))[..., 0, 0]
    weights = np.einsum("bij,bi->bj", axes, start) ** 2
    np.testing.assert_allclose(norm**2 * logs, (weights * np.log(values)).sum(1), rtol=1e-6)


def test_a_map_as_a_matrix():
    matrix = tf.constant(spd())
    found = algebra.matrix_of(lambda v: tf.linalg.matvec(matrix, v), vectors())
    np.testing.assert_allclose(found, matrix, atol=1e-12)
