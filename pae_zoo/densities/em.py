"""Mixtures by expectation maximisation, as products of matrices.

Each squared distance is linear in the products u_i u_j, so that a pass over n rows is two matrix products, with M
columns of D (D + 1) / 2 + D + 1 coefficients, and what is elementwise touches (n, M) values alone.
"""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

import numpy as np
import tensorflow as tf
from scipy.special import digamma

from pae_zoo.densities.parameters import LEAST_DOF, MOST_DOF, START_DOF, Parameters, component_log_prob

# Added to the diagonal of each scale matrix of whitened data.
RIDGE = 1e-4
# Values of one array of a chunk of rows.
CHUNK_VALUES = 5_000_000
# Values of products that are kept from pass to pass, 256 MB in float32; others are made again.
KEPT_VALUES = 2**26
# Above so many rows sums of products are taken in float32: the passes differ by 1e-5 nats and take two thirds.
SINGLE_ABOVE = 20_000
# Components with less weight than so many rows are dropped: they stand for single points.
LEAST_ROWS = 2.0


class Sums(NamedTuple):
    """What a pass gathers of each component: moments (M, F), rows (M,), sum r (log a - a) (M,)."""

    moments: np.ndarray
    rows: np.ndarray
    tails: np.ndarray


class Data:
    """Rows whose products are taken a chunk at a time, float64 (n, D), with weights (n,) or None."""

    def __init__(self, x: np.ndarray, weights: Optional[np.ndarray] = None):
        self.x, self.weights = np.asarray(x, np.float64), weights
        self.num_dims = self.x.shape[1]
        self.pairs = np.triu_indices(self.num_dims)
        self.total = float(len(x) if weights is None else weights.sum())
        self.dtype = np.float32 if len(self.x) > SINGLE_ABOVE else np.float64
        self.width = len(self.pairs[0]) + self.num_dims + 1
        self._size, self._kept = 0, {}

    def chunks(self, num_components: int) -> Iterator[tuple[tf.Tensor, Optional[np.ndarray]]]:
        """Yields (features (rows, F), weights (rows, 1) or None), a chunk at a time."""
        size = max(1, CHUNK_VALUES // max(self.width, num_components))
        if size != self._size:
            self._size, self._kept = size, {}
        for start in range(0, len(self.x), size):
            weights = None if self.weights is None else self.weights[start : start + size, None].astype(self.dtype)
            yield self._features(start, size), weights

    def _features(self, start: int, size: int) -> tf.Tensor:
        if start in self._kept:
            return self._kept[start]
        rows = self.x[start : start + size].astype(self.dtype)
        features = np.empty((len(rows), self.width), self.dtype)
        end = 0
        for i in range(self.num_dims):  # a run of neighbours each, in the order of `pairs`
            begin, end = end, end + self.num_dims - i
            np.multiply(rows[:, i : i + 1], rows[:, i:], out=features[:, begin:end])
        features[:, end:-1], features[:, -1] = rows, 1.0
        found = tf.constant(features)
        if (start + size) * self.width <= KEPT_VALUES:
            self._kept[start] = found
        return found


def _coefficients(found: Parameters, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Returns (F, M) coefficients of the squared distances in the features, and log|S_m|^(-1/2), (M,)."""
    inverse = np.linalg.inv(np.linalg.cholesky(found.scales))
    log_det = np.log(np.diagonal(inverse, axis1=1, axis2=2)).sum(axis=1)
    precision = inverse.transpose(0, 2, 1) @ inverse
    linear = np.einsum("mij,mj->mi", precision, found.means)
    doubled = 2.0 * precision - precision * np.eye(data.num_dims)
    constant = np.einsum("mi,mi->m", found.means, linear)[:, None]
    return np.concatenate([doubled[:, data.pairs[0], data.pairs[1]], -2.0 * linear, constant], axis=1).T, log_det


def log_likelihood(found: Parameters, data: Data) -> float:
    """Returns the mean of log p(u) over the rows, nats."""
    return _pass(found, data, gather=False)[0]


def _pass(found: Parameters, data: Data, gather: bool) -> tuple[float, Optional[Sums]]:
    coefficients, log_det = _coefficients(found, data)
    single = [tf.constant(value, data.dtype) for value in (coefficients, log_det, found.log_weights)]
    dof = None if found.dof is None else tf.constant(found.dof, data.dtype)
    count = len(found.log_weights)
    moments, rows, tails, total = np.zeros((count, data.width)), np.zeros(count), np.zeros(count), 0.0
    for features, weights in data.chunks(count):
        delta = tf.maximum(tf.matmul(features, single[0]), 0.0)
        logs = component_log_prob(delta, single[1], single[2], dof, data.num_dims)
        each = tf.reduce_logsumexp(logs, axis=1, keepdims=True)
        total += float(np.sum(each if weights is None else each * weights, dtype=np.float64))
        if not gather:
            continue
        share = tf.exp(logs - each)
        share = share if weights is None else share * weights
        pulled = share
        if dof is not None:
            pull = (dof + data.num_dims) / (dof + delta)
            pulled = share * pull
            tails += tf.reduce_sum(share * (tf.math.log(pull) - pull), axis=0).numpy()
        moments += tf.matmul(pulled, features, transpose_a=True).numpy()
        rows += tf.reduce_sum(share, axis=0).numpy()
    return total / data.total, Sums(moments, rows, tails) if gather else None


def step(found: Parameters, data: Data, pseudo_counts: float = 0.0) -> tuple[Parameters, float]:
    """Returns the parameters after one pass of EM, and the mean log likelihood before it, nats.

    McLachlan & Peel, Finite Mixture Models (2000), section 7.5. With `pseudo_counts` each scale matrix is drawn, as
    by so many rows, towards the mean one at its own size; towards a multiple of I where there is one component.
    """
    before, sums = _pass(found, data, gather=True)
    assert sums is not None
    kept = sums.rows > LEAST_ROWS * data.total / len(data.x)
    kept |= sums.rows == sums.rows.max()
    moments, rows, num = sums.moments[kept], sums.rows[kept], data.num_dims
    pulled = moments[:, -1:]
    means = moments[:, -1 - num : -1] / pulled
    second = np.zeros((len(rows), num, num))
    second[:, data.pairs[0], data.pairs[1]] = second[:, data.pairs[1], data.pairs[0]] = moments[:, : -1 - num]
    scales = (second - pulled[..., None] * means[:, :, None] * means[:, None]) / rows[:, None, None]
    scales = regularised(scales, rows, pseudo_counts)
    dof = None if found.dof is None else new_dof(found.dof[kept], sums.tails[kept] / rows, num)
    return Parameters(np.log(rows / rows.sum()), means, scales, dof), before


def regularised(scales: np.ndarray, rows: np.ndarray, pseudo_counts: float) -> np.ndarray:
    """Returns scale matrices (M, D, D) with the ridge, and with `pseudo_counts` rows of the mean matrix at own size."""
    num = scales.shape[1]
    if pseudo_counts:
        mean = np.einsum("m,mij->ij", rows / rows.sum(), scales) if len(rows) > 1 else np.eye(num)
        mean = mean + RIDGE * np.eye(num)
        size = np.trace(np.linalg.solve(mean, scales), axis1=1, axis2=2) / num
        weight = (rows / (rows + pseudo_counts))[:, None, None]
        scales = weight * scales + (1.0 - weight) * size[:, None, None] * mean
    # Rounding of single precision must not leave a matrix indefinite.
    values, vectors = np.linalg.eigh(0.5 * (scales + scales.transpose(0, 2, 1)))
    values = np.maximum(values, 0.0) + RIDGE
    return (vectors * values[:, None]) @ vectors.transpose(0, 2, 1)


def new_dof(before: np.ndarray, tails: np.ndarray, num_dims: int) -> np.ndarray:
    """Returns the roots v of 1 - digamma(v/2) + log(v/2) + tails + digamma((v'+D)/2) - log((v'+D)/2), by bisection."""
    half = 0.5 * (before + num_dims)
    constant = 1.0 + tails + digamma(half) - np.log(half)
    low, high = np.full_like(before, LEAST_DOF), np.full_like(before, MOST_DOF)
    for _ in range(40):
        middle = np.sqrt(low * high)
        above = np.log(0.5 * middle) - digamma(0.5 * middle) + constant > 0.0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.sqrt(low * high)


def numbers(num_dims: int) -> int:
    """Returns how many numbers a component has."""
    return num_dims * (num_dims + 3) // 2


def clusters(data: Data, num_components: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels (n,) and centres (M, D) of mini-batch k-means."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    x = data.x
    if num_components == 1:
        return np.zeros(len(x), int), np.average(x, axis=0, weights=data.weights)[None]
    starts: Any = 3 if len(x) < 5000 else 1
    found = MiniBatchKMeans(num_components, random_state=seed & 0x7FFFFFFF, n_init=starts, batch_size=2048,
                            max_iter=30)
    with warnings.catch_warnings():
        # Fewer distinct rows than components: those that are left over have next to no weight.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found.fit(x, sample_weight=data.weights)
    return np.asarray(found.predict(x)), np.asarray(found.cluster_centers_, np.float64)


def start(data: Data, num_components: int, student: bool, seed: int, pseudo_counts: float = 0.0) -> Parameters:
    """Returns the parameters that EM starts from: clusters of mini-batch k-means, smoothed by their mean covariance."""
    x, num = data.x, data.num_dims
    labels, means = clusters(data, num_components, seed)
    weights = np.ones(len(x)) if data.weights is None else data.weights
    rows = np.bincount(labels, weights, minlength=num_components)
    away = x - means[labels]
    mean = np.einsum("n,ni,nj->ij", weights, away, away, optimize=True) / data.total
    scales = np.zeros((num_components, num, num))
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(num_components + 1))
    for m in range(num_components):
        mine = order[bounds[m] : bounds[m + 1]]
        scales[m] = (away[mine] * weights[mine, None]).T @ away[mine]
    scales = (scales + num * mean) / (rows + num)[:, None, None]
    rows = np.maximum(rows, 1e-3 * data.total / num_components)
    scales = regularised((0.8 if student else 1.0) * scales, rows, pseudo_counts)
    return Parameters(np.log(rows / rows.sum()), means, scales,
                      np.full(num_components, START_DOF) if student else None)
