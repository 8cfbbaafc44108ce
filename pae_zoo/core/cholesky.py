"""Cholesky factors of batches of matrices that tell where there is none, instead of numbers without a meaning."""

from typing import Callable

import tensorflow as tf

# Columns that `in_blocks` finds at a time, and the size above which it halves a matrix first.
BLOCK, HALVED = 32, 512
# Columns that `between` finds at a time.
STRIP = 128


def guarded(matrix: tf.Tensor, factor: Callable[[tf.Tensor], tf.Tensor] = tf.linalg.cholesky
            ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns lower factors L (..., n, n) of symmetric matrices L L^T, and which matrices have one, bool (...).

    TensorFlow returns NaN or garbage for a matrix that is not positive definite, in silence, and which of them depends
    on the device and on XLA. Here the factor of one that is not, or not finite, is NaN as a whole. `factor` finds it.
    """
    lower = factor(matrix)
    diagonal = tf.linalg.diag_part(lower)
    positive = tf.reduce_all(tf.math.is_finite(diagonal) & (diagonal > 0), axis=-1)
    return tf.where(positive[..., None, None], lower, tf.constant(float("nan"), lower.dtype)), positive


def in_blocks(matrix: tf.Tensor) -> tf.Tensor:
    """Returns the lower factor (n, n) of a symmetric matrix, mostly by products of matrices.

    For large matrices inside compiled functions: XLA's own factorisation on a CPU goes by single columns and takes
    three times as long at n = 500 to 800.
    """
    size = matrix.shape[-1]
    if size <= BLOCK:
        return tf.linalg.cholesky(matrix)
    if size <= HALVED:
        return _by_columns(matrix)
    half = -(-size // (2 * BLOCK)) * BLOCK
    first = in_blocks(matrix[:half, :half])
    below = tf.transpose(tf.linalg.triangular_solve(first, matrix[:half, half:]))
    last = in_blocks(matrix[half:, half:] - tf.matmul(below, below, transpose_b=True))
    return tf.concat([tf.pad(first, [[0, 0], [0, size - half]]), tf.concat([below, last], axis=1)], axis=0)


def _by_columns(matrix: tf.Tensor) -> tf.Tensor:
    """Returns the lower factor, `BLOCK` columns after another in a loop, so that there is little to compile."""
    size = matrix.shape[-1]
    number = -(-size // BLOCK)
    whole = number * BLOCK
    # The identity at the end keeps what is appended apart.
    padded = tf.linalg.set_diag(tf.pad(matrix, [[0, whole - size]] * 2), tf.concat(
        [tf.linalg.diag_part(matrix), tf.ones((whole - size,), matrix.dtype)], axis=0))
    columns = tf.transpose(tf.reshape(padded, (whole, number, BLOCK)), (1, 0, 2))
    rows = tf.range(whole)[:, None]

    def more(index, lower):
        start = index * BLOCK
        left = columns[index] - tf.matmul(lower, tf.slice(lower, (start, 0), (BLOCK, whole)), transpose_b=True)
        corner = tf.linalg.cholesky(tf.slice(left, (start, 0), (BLOCK, BLOCK)))
        found = tf.transpose(tf.linalg.triangular_solve(corner, tf.transpose(left)))
        found = tf.where(rows >= start + tf.range(BLOCK), found, tf.zeros_like(found))
        return index + 1, lower + tf.roll(tf.pad(found, [[0, 0], [0, whole - BLOCK]]), start, axis=1)

    start = (tf.constant(0), tf.zeros_like(padded))
    lower = tf.while_loop(lambda index, _: index < number, more, start, parallel_iterations=1)[1]
    return lower[:size, :size]


def between(left: tf.Tensor, matrix: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Returns A^T M B, (n, m), of lower triangles A (n, n) and B (m, m), without most of their zeros.

    With the inverses of factors it does what two triangular solves do, in products alone, which XLA does faster on a
    CPU.
    """
    rows, columns = matrix.shape
    matrix = tf.concat([tf.matmul(left[at:, at : at + STRIP], matrix[at:], transpose_a=True)
                        for at in range(0, rows, STRIP)], axis=0)
    return tf.concat([tf.matmul(matrix[:, at:], right[at:, at : at + STRIP]) for at in range(0, columns, STRIP)],
                     axis=1)


def finite_or_identity(matrix: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns matrices (..., n, n) with the identity for those that are not finite, and which are finite, bool (...).

    What has a factor can be computed on in every row, and the rows without a meaning be told at the end.
    """
    finite = tf.reduce_all(tf.math.is_finite(matrix), axis=(-2, -1))
    return tf.where(finite[..., None, None], matrix, tf.eye(matrix.shape[-1], dtype=matrix.dtype)), finite


def solve(lower: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
    """Returns (L L^T)^-1 v for v (..., n) by two triangular solves."""
    return tf.linalg.cholesky_solve(lower, vector[..., None])[..., 0]
