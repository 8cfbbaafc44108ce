"""Small symmetric positive definite systems: guarded factors, solves, functions of matrices, Krylov methods."""

from typing import Callable, NamedTuple

import tensorflow as tf

from pae_zoo.core import cholesky as guards
from pae_zoo.inference import derivatives

# Added to the diagonal, in units of its mean, when a factorisation fails: the first that helps is taken.
JITTER_LEVELS = (1e-6, 1e-4, 1e-2)
# Residuals below this part of the first vector are rounding: a Krylov space ends there.
KRYLOV_END = 1e-6

Product = Callable[[tf.Tensor], tf.Tensor]


class Factor(NamedTuple):
    """Lower Cholesky factor (batch, K, K), and how much of the mean diagonal was added to get it, (batch,)."""

    lower: tf.Tensor
    jitter: tf.Tensor


def symmetrise(matrix: tf.Tensor) -> tf.Tensor:
    """Returns (M + M^T) / 2."""
    return 0.5 * (matrix + tf.linalg.matrix_transpose(matrix))


def cholesky(matrix: tf.Tensor) -> Factor:
    """Returns the Cholesky factor of symmetrised matrices (batch, K, K), with jitter where rounding made it fail.

    Where there is no factor, 1e-6, 1e-4 or 1e-2 of the mean diagonal is added, the first that helps. The gradient is
    that of the matrix factored; a matrix that no jitter mends gives NaN.
    """
    return Factor(*_cholesky(symmetrise(matrix)))


@tf.custom_gradient
def _cholesky(matrix):
    lower, found = guards.guarded(matrix)
    eye = tf.eye(matrix.shape[-1], dtype=matrix.dtype)
    scale = tf.reduce_mean(tf.linalg.diag_part(matrix), axis=-1)

    def retry():
        best, level, done = lower, tf.zeros_like(scale), found
        for jitter in JITTER_LEVELS:
            other, mended = guards.guarded(matrix + (jitter * scale)[:, None, None] * eye)
            better = ~done & mended
            best = tf.where(better[:, None, None], other, best)
            level = tf.where(better, tf.constant(jitter, level.dtype), level)
            done |= better
        return best, level

    lower, level = tf.cond(tf.reduce_all(found), lambda: (lower, tf.zeros_like(scale)), retry)

    def gradient(upstream, _):
        # P = R^T Rbar, lower half with its diagonal halved; the gradient is the symmetric part of R^-T P R^-1.
        inner = tf.linalg.band_part(tf.matmul(lower, upstream, transpose_a=True), -1, 0)
        inner = tf.linalg.set_diag(inner, 0.5 * tf.linalg.diag_part(inner))
        half = tf.linalg.triangular_solve(lower, inner, adjoint=True)
        whole = tf.linalg.triangular_solve(lower, tf.linalg.matrix_transpose(half), adjoint=True)
        return symmetrise(whole)

    return (lower, level), gradient


def solve(matrix: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, Factor]:
    """Returns (matrix^-1 b, the factor) for matrices (batch, K, K) and b (batch, K).

    The gradient is one more solve with the same factor, not that of a factorisation; none flows to the factor.
    """
    factor = cholesky(tf.stop_gradient(matrix))

    @tf.custom_gradient
    def apply(matrix, b):
        x = guards.solve(factor.lower, b)

        def gradient(upstream):
            y = guards.solve(factor.lower, upstream)
            return -symmetrise(y[:, :, None] * x[:, None, :]), y

        return x, gradient

    return apply(matrix, b), factor


def weighted_gram(rows: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns J R J^T, (batch, K, K), for rows J (batch, K, n) and the diagonal of R, (batch, n).

    The backward pass takes one product of the forward one's size instead of three.
    """

    @tf.custom_gradient
    def apply(rows, weights):
        def gradient(upstream):
            mixed = tf.matmul(symmetrise(upstream), rows)
            return 2.0 * weights[:, None, :] * mixed, tf.reduce_sum(rows * mixed, axis=1)

        return tf.matmul(rows * weights[:, None, :], rows, transpose_b=True), gradient

    return apply(rows, weights)


def shared_gram(rows: tf.Tensor, metric: tf.Tensor) -> tf.Tensor:
    """Returns A G A^T, (batch, K, K), for rows A (batch, K, n) and one symmetric metric G (n, n).

    2 n^2 K operations a datum forward and as many backward, where automatic differentiation takes twice that
    backward: the gradient by A reuses A G.
    """
    num_rows, size = rows.shape[-2:]

    @tf.custom_gradient
    def apply(rows, metric):
        flat = tf.reshape(rows, (-1, size))
        mapped = tf.reshape(tf.matmul(flat, metric), (-1, num_rows, size))

        def gradient(upstream):
            both = symmetrise(upstream)
            mixed = tf.reshape(tf.matmul(both, rows), (-1, size))
            return 2.0 * tf.matmul(both, mapped), tf.matmul(flat, mixed, transpose_a=True)

        return tf.matmul(mapped, rows, transpose_b=True), gradient

    return apply(rows, metric)


def function_of(matrix: tf.Tensor, function: Callable, rank: int = 0) -> tf.Tensor:
    """Returns f(M) = V f(s) V^T of symmetric matrices (..., K, K), differentiable also where eigenvalues coincide.

    `function` maps eigenvalues (..., K) to (f(s), f'(s)). With rank > 0 only the largest `rank` eigenvalues keep their
    value, the others count 0. The gradient is V (D * V^T G V) V^T with divided differences D (Daleckii & Krein). A
    matrix that is not finite gives NaN, where TensorFlow would stop for all of them.
    """

    @tf.custom_gradient
    def apply(matrix):
        finite = tf.reduce_all(tf.math.is_finite(matrix), axis=[-2, -1], keepdims=True)
        values, vectors = tf.linalg.eigh(tf.where(finite, matrix, tf.zeros_like(matrix)))
        kept = tf.cast(tf.range(values.shape[-1]) >= values.shape[-1] - (rank or values.shape[-1]), values.dtype)
        image, slope = function(values * kept)
        slope = slope * kept

        def gradient(upstream):
            gaps = values[..., :, None] - values[..., None, :]
            rises = image[..., :, None] - image[..., None, :]
            mean_slope = 0.5 * (slope[..., :, None] + slope[..., None, :])
            # Eigenvalues this close cannot be told apart in the arithmetic at hand.
            unit = tf.reduce_max(tf.abs(values), axis=-1)[..., None, None] + 1.0
            close = tf.abs(gaps) < 1e-4 * unit
            ratios = tf.where(close, mean_slope, rises / tf.where(close, tf.ones_like(gaps), gaps))
            inner = tf.matmul(vectors, tf.matmul(symmetrise(upstream), vectors), transpose_a=True)
            return symmetrise(tf.matmul(tf.matmul(vectors, ratios * inner), vectors, transpose_b=True))

        found = tf.matmul(vectors * image[..., None, :], vectors, transpose_b=True)
        return tf.where(finite, found, tf.constant(float("nan"), found.dtype)), gradient

    return apply(symmetrise(matrix))


def log_det_one_plus(matrix: tf.Tensor, rank: int = 0) -> tf.Tensor:
    """Returns log |I + M_r| of symmetric matrices (..., K, K), M_r being their `rank` largest eigenvalues (0: all)."""

    def log1p(values):
        values = tf.maximum(values, 0.0)
        return tf.math.log1p(values), 1.0 / (1.0 + values)

    logs = function_of(matrix, log1p, rank)
    return tf.linalg.trace(logs)


def matrix_of(product: Product, like: tf.Tensor) -> tf.Tensor:
    """Returns the matrices (batch, K, K) of a symmetric map of vectors like `like` (batch, K), by K products."""
    columns = derivatives.in_all_directions(lambda _, tangents: product(tangents), like)
    return tf.transpose(columns, (1, 2, 0))


def conjugate_gradients(product: Product, b: tf.Tensor, iterations: int, precondition: Product) -> tf.Tensor:
    """Returns an approximation of M^-1 b, b (batch, K), by `iterations` preconditioned conjugate-gradient steps.

    `product` is v -> M v and `precondition` r -> P^-1 r. A datum that has converged stays as it is.
    Hestenes & Stiefel, J. Res. NBS 49 (1952) 409.
    """
    x, residual = tf.zeros_like(b), b
    z = precondition(residual)
    direction, square = z, _dot(residual, z)
    for _ in range(iterations):
        mapped = product(direction)
        length = tf.math.divide_no_nan(square, _dot(direction, mapped))
        x += length * direction
        residual -= length * mapped
        z = precondition(residual)
        following = _dot(residual, z)
        direction = z + tf.math.divide_no_nan(following, square) * direction
        square = following
    return x


def lanczos(product: Product, start: tf.Tensor, iterations: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns (Q, T, |start|) of the Krylov space of M = I + N, N semi-definite, from `start` (..., K).

    Q (..., m, K) has orthonormal rows, Q M Q^T = T (..., m, m) is tridiagonal, and f(M) start ~ |start| Q^T f(T) e_1.
    Where the space ends early, rows of Q are 0 and T has a 1 on the diagonal. Rows are orthogonalised against all
    before them. Golub & Meurant, Matrices, Moments and Quadrature, chapter 4.
    """
    norm = tf.sqrt(_dot(start, start))
    rows = [tf.math.divide_no_nan(start, norm)]
    diagonal, beside = [], []
    for number in range(iterations):
        row = rows[-1]
        alive = _dot(row, row) > 0.5
        mapped = product(row)
        alpha = _dot(row, mapped)
        diagonal.append(tf.where(alive, alpha, tf.ones_like(alpha))[..., 0])
        if number == iterations - 1:
            break
        residual = mapped - alpha * row
        for _ in range(2):  # twice is enough (Parlett)
            for former in rows:
                residual -= _dot(former, residual) * former
        square = _dot(residual, residual)
        ends = square <= tf.square(KRYLOV_END * tf.abs(alpha)) + 1e-30
        beta = tf.where(ends, tf.zeros_like(square), tf.sqrt(tf.where(ends, tf.ones_like(square), square)))
        rows.append(tf.math.divide_no_nan(residual, beta))
        beside.append(beta[..., 0])
    tridiagonal = tf.linalg.diag(tf.stack(diagonal, axis=-1))
    if beside:
        off = tf.linalg.diag(tf.stack(beside, axis=-1), k=1)
        tridiagonal += off + tf.linalg.matrix_transpose(off)
    return tf.stack(rows, axis=-2), tridiagonal, norm[..., 0]


def _dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(a * b, axis=-1, keepdims=True)
