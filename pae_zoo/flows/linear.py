"""Layers that are linear in x: LU mixing, permutations, reflections, normalisation, whitening."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.flows.base import FlowLayer, Pair, constant_volume, no_volume

# Variances below this part of the largest one are raised to it: a dead code must not become all of the density.
EIGENVALUE_FLOOR = 1e-6
# A covariance of fewer rows a dimension is shrunk.
ROWS_A_DIMENSION = 10
NUM_REFLECTIONS = 4


def random_permutation(layer: FlowLayer) -> keras.Variable:
    """Adds a fixed permutation of the layer's dimensions to its weights, drawn from its seed, shape (K,)."""

    def draw(shape, dtype=None):
        return tf.cast(seeds.permutation(shape[0], layer.seed), dtype or "int64")

    return layer.add_weight(
        shape=(layer.num_dims,), dtype="int64", initializer=draw, trainable=False, name="permutation"
    )


def is_constant(x: np.ndarray) -> np.ndarray:
    """Returns for each column of x (n, K) whether it varies no more than by rounding, (K,).

    That is scikit-learn's rule (`StandardScaler`): in float64, var <= n eps var + (n mean eps)^2. A column whose std is
    below the rounding of its values in float32, in which flows compute, does not vary either.
    """
    x = np.asarray(x, np.float64)
    mean, variance, num = x.mean(axis=0), x.var(axis=0), len(x)
    eps = np.finfo(np.float64).eps
    single = np.finfo(np.float32).eps * np.abs(mean)
    return (variance <= num * eps * variance + (num * mean * eps) ** 2) | (variance <= single**2)


@register_keras_serializable("pae_zoo")
class LU(FlowLayer):
    """A dense matrix by its factors: u = L U P z, L unit lower, U upper triangular, P a fixed permutation.

    log|det du/dz| = sum log|diag U|, and diag U = exp(.) > 0. The start is P alone. The way back solves two
    triangular systems; nothing is inverted to find a determinant. Kingma & Dhariwal, arXiv 1807.03039, eq. 10-11.
    """

    kind = "lu"
    shares = True

    def make_weights(self) -> None:
        self.permutation = random_permutation(self)
        # One matrix holds all: L below the diagonal, log diag U on it, U above it.
        self.packed = self.add_weight(shape=(self.num_dims, self.num_dims), initializer="zeros", name="packed")

    def factors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns L and U, both (K, K)."""
        packed = tf.convert_to_tensor(self.packed)
        strict = packed - tf.linalg.band_part(packed, 0, -1)
        lower = strict + tf.eye(self.num_dims, dtype=packed.dtype)
        return lower, tf.linalg.set_diag(packed - strict, tf.exp(tf.linalg.diag_part(packed)))

    def transform(self, x: tf.Tensor, inverse: bool) -> Pair:
        lower, upper = self.factors()
        permutation = tf.one_hot(self.permutation.value, self.num_dims, dtype=x.dtype)
        log_det = constant_volume(tf.reduce_sum(tf.linalg.diag_part(tf.convert_to_tensor(self.packed))), x)
        if inverse:
            matrix = tf.matmul(tf.matmul(lower, upper), permutation)
            return tf.matmul(x, matrix, transpose_b=True), log_det
        # Solved for the unit vectors: K columns instead of one per row of x.
        solved = tf.linalg.triangular_solve(lower, tf.eye(self.num_dims, dtype=x.dtype), lower=True)
        solved = tf.linalg.triangular_solve(upper, solved, lower=False)
        return tf.matmul(x, tf.matmul(permutation, solved, transpose_a=True), transpose_b=True), -log_det


@register_keras_serializable("pae_zoo")
class Permutation(FlowLayer):
    """z_i = u_{p(i)}, p a random permutation, fixed by the seed."""

    kind = "permutation"

    def make_weights(self) -> None:
        self.permutation = random_permutation(self)

    def transform(self, x: tf.Tensor, inverse: bool) -> Pair:
        order = self.permutation.value
        return tf.gather(x, tf.argsort(order) if inverse else order, axis=-1), no_volume(x)


@register_keras_serializable("pae_zoo")
class Reverse(FlowLayer):
    """z_i = u_{K+1-i}."""

    kind = "reverse"

    def transform(self, x: tf.Tensor, inverse: bool) -> Pair:
        return tf.reverse(x, axis=[-1]), no_volume(x)


@register_keras_serializable("pae_zoo")
class Swap(FlowLayer):
    """Exchanges the halves: z = (u_b, u_a), a the first ceil(K/2) dimensions, b the others."""

    kind = "swap"
    min_dims = 2

    def transform(self, x: tf.Tensor, inverse: bool) -> Pair:
        first = self.num_dims // 2 if inverse else (self.num_dims + 1) // 2
        return tf.concat([x[:, first:], x[:, :first]], axis=-1), no_volume(x)


@register_keras_serializable("pae_zoo")
class ActNorm(FlowLayer):
    """z = exp(s) u + b, per dimension; `adapt` sets s and b so that data become mean 0 and variance 1, once.

    Kingma & Dhariwal, arXiv 1807.03039, section 3.1. `adapted` is a weight, so that loading does not start anew.
    """

    kind = "actnorm"

    def make_weights(self) -> None:
        shape = (self.num_dims,)
        self.log_scale = self.add_weight(shape=shape, initializer="zeros", name="log_scale")
        self.shift = self.add_weight(shape=shape, initializer="zeros", name="shift")
        self.adapted = self.add_weight(shape=(), dtype="int64", initializer="zeros", trainable=False, name="adapted")

    def adapt(self, x: Any) -> None:
        if np.asarray(keras.ops.convert_to_numpy(self.adapted)):
            return
        x = np.asarray(x, np.float64)
        self.shift.assign(x.mean(axis=0))
        # Dimensions of one value only keep scale 1.
        self.log_scale.assign(0.5 * np.log(np.where(is_constant(x), 1.0, x.var(axis=0))))
        self.adapted.assign(1)

    def transform(self, x: tf.Tensor, inverse: bool) -> Pair:
        log_scale, shift = tf.convert_to_tensor(self.log_scale), tf.convert_to_tensor(self.shift)
        log_det = constant_volume(tf.reduce_sum(log_scale), x)
        if inverse:
            return (x - shift) * tf.exp(-log_scale), -log_det
        return x * tf.exp(log_scale) + shift, log_det


def householder(x: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """Reflects x (..., K) at the hyperplane normal to v (..., K): x - 2 v (v.x) / |v|^2; leading axes broadcast.

    v = 0 is the identity; |det| = 1. Tomczak & Welling, arXiv 1611.09630, eq. 8.
    """
    tiny = tf.constant(1e-30, x.dtype)
    return x - 2.0 * v * (tf.reduce_sum(v * x, -1, keepdims=True) / (tf.reduce_sum(v * v, -1, keepdims=True) + tiny))


@register_keras_serializable("pae_zoo")
class Householder(FlowLayer):
    """z = H_F ... H_1 u, learned reflections H_i = I - 2 v_i v_i^T / |v_i|^2; an orthogonal matrix, log-det 0.

    Pairs of reflections start with equal v, so that the start is the identity. arXiv 1611.09630, section 3.

    Args:
      reflections: their number F, even.
    """

    kind = "householder"
    options = ("reflections",)

    def __init__(self, reflections: int = NUM_REFLECTIONS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reflections = int(reflections)
        if self.reflections < 2 or self.reflections % 2:
            raise UserError(f"reflections is even and 2 or more, to start as the identity; received {reflections}.")

    def make_weights(self) -> None:
        def draw(shape, dtype=None):
            half = seeds.normal((shape[0] // 2, shape[1]), self.seed, tf.as_dtype(dtype or "float32"))
            return tf.repeat(half, 2, axis=0)

        self.vectors = self.add_weight(shape=(self.reflections, self.num_dims), initializer=draw, name="vectors")

    def transform(self, x: tf.Tensor, inverse: bool) -> Pair:
        vectors = tf.unstack(tf.convert_to_tensor(self.vectors))
        y = x
        for v in reversed(vectors) if inverse else vectors:
            y = householder(y, v)
        return y, no_volume(x)


@register_keras_serializable("pae_zoo")
class Whitening(FlowLayer):
    """z = m + C^(1/2) v with mean m and covariance C of the data, set by `adapt` and not trained.

    Of fewer than ten rows a dimension C is shrunk, as correlations, by the rule of Ledoit & Wolf (J. Multivariate
    Analysis 88, 2004), so that directions in which few rows hardly vary do not become all of the density. Eigenvalues
    below 1e-6 of the largest are raised to that. The symmetric root turns no axis, and
    C^(1/2), its inverse and log det C^(1/2) are weights, found in float64.
    """

    kind = "whitening"

    def make_weights(self) -> None:
        shape = (self.num_dims, self.num_dims)
        self.mean = self.add_weight(shape=shape[:1], initializer="zeros", trainable=False, name="mean")
        self.root = self.add_weight(shape=shape, initializer="identity", trainable=False, name="root")
        self.unroot = self.add_weight(shape=shape, initializer="identity", trainable=False, name="unroot")
        self.log_det = self.add_weight(shape=(), initializer="zeros", trainable=False, name="log_det")

    def adapt(self, x: Any) -> None:
        x = np.asarray(x, np.float64)
        mean = x.mean(axis=0)
        values, vectors = np.linalg.eigh(_covariance(x - mean))
        if not is_constant(x).all():
            values = np.maximum(values, EIGENVALUE_FLOOR * values[-1])
        else:
            values = np.ones_like(values)
        self.mean.assign(mean)
        self.root.assign((vectors * np.sqrt(values)) @ vectors.T)
        self.unroot.assign((vectors / np.sqrt(values)) @ vectors.T)
        self.log_det.assign(0.5 * np.sum(np.log(values)))

    def transform(self, x: tf.Tensor, inverse: bool) -> Pair:
        log_det = constant_volume(tf.convert_to_tensor(self.log_det), x)
        mean = tf.convert_to_tensor(self.mean)
        if inverse:
            return tf.matmul(x - mean, tf.convert_to_tensor(self.unroot)), -log_det
        return tf.matmul(x, tf.convert_to_tensor(self.root)) + mean, log_det


def _covariance(away: np.ndarray) -> np.ndarray:
    """Returns the covariance of rows of mean 0 (n, K), of few rows shrunk, (K, K)."""
    num, size = away.shape
    if num >= ROWS_A_DIMENSION * size or size < 2:
        return away.T @ away / num
    from sklearn.covariance import ledoit_wolf

    std = away.std(axis=0)
    std = np.where(std > 0.0, std, 1.0)
    return ledoit_wolf(away / std, assume_centered=True)[0] * std * std[:, None]


LAYERS = (LU, Permutation, Reverse, Swap, ActNorm, Householder, Whitening)
