"""Cholesky factors of batches of matrices that tell where there is none, instead of numbers without a meaning."""

import tensorflow as tf


def guarded(matrix: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns lower factors L (..., n, n) of symmetric matrices L L^T, and which matrices have one, bool (...).

    TensorFlow returns NaN or garbage for a matrix that is not positive definite, in silence, and which of them depends
    on the device and on XLA. Here the factor of one that is not, or not finite, is NaN as a whole.
    """
    lower = tf.linalg.cholesky(matrix)
    diagonal = tf.linalg.diag_part(lower)
    positive = tf.reduce_all(tf.math.is_finite(diagonal) & (diagonal > 0), axis=-1)
    return tf.where(positive[..., None, None], lower, tf.constant(float("nan"), lower.dtype)), positive


def finite_or_identity(matrix: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns matrices (..., n, n) with the identity for those that are not finite, and which are finite, bool (...).

    What has a factor can be computed on in every row, and the rows without a meaning be told at the end.
    """
    finite = tf.reduce_all(tf.math.is_finite(matrix), axis=(-2, -1))
    return tf.where(finite[..., None, None], matrix, tf.eye(matrix.shape[-1], dtype=matrix.dtype)), finite


def solve(lower: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
    """Returns (L L^T)^-1 v for v (..., n) by two triangular solves."""
    return tf.linalg.cholesky_solve(lower, vector[..., None])[..., 0]
