"""Posterior whose precision is of low rank beyond a diagonal."""

from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.matrices.low_rank import Sketch, eigenpairs
from pae_zoo.curvature.network.layout import Source
from pae_zoo.curvature.posteriors import evidence
from pae_zoo.curvature.posteriors.base import WeightPosterior, finite


@register_keras_serializable("pae_zoo")
class LowRankPosterior(WeightPosterior):
    """Lambda = kappa (U diag(s) U^T + D) / sigma^2 + Gamma, with correlations between all weights.

    D is a diagonal, what U diag(s) U^T leaves of the diagonal of G: directions that the sketch did not see have
    curvature too, and without it the evidence would take them for undetermined by the data. A sketch without a diagonal
    has D = 0, as posteriors saved before have.

    With R = kappa D / sigma^2 + Gamma and R^(-1/2) U (kappa s / sigma^2)^(1/2) = X diag(e)^(1/2) Z^T, X orthonormal
    (P_c, r), a root of the covariance is R^(-1/2) (I - X X^T + X diag(1 + e)^(-1/2) X^T): the identity of Woodbury, in
    a form without differences of large numbers.

    Args:
      layout, layers, dtype: see `WeightPosterior`.
      rank: of G, r; at most the number of weights.
    """

    structure = "low_rank"
    is_separate = False

    def __init__(self, layout: Source, rank: int = 32, **kwargs: Any) -> None:
        if int(rank) != rank or rank < 1:
            raise UserError(f"rank={rank!r} must be an integer of at least 1.")
        self.rank = int(rank)
        super().__init__(layout, **kwargs)

    def _make(self):
        rank = min(self.rank, self.layout.num_chosen)
        self._afford(rank * self.layout.num_chosen, "The low-rank curvature")
        self.vectors = self._weight("vectors", (self.layout.num_chosen, rank))
        self.values = self._weight("values", (rank,))
        self.rest = self._weight("rest", (self.layout.num_chosen,))

    def assign_curvature(self, curvature: Sketch) -> None:
        if tuple(curvature.image.shape) != tuple(self.vectors.shape):
            raise UserError(f"The posterior takes a sketch of shape {tuple(self.vectors.shape)}; received "
                            f"{tuple(curvature.image.shape)}.")
        vectors, values = eigenpairs(curvature)
        self.vectors.assign(vectors)
        self.values.assign(values)
        rest = np.zeros(len(vectors))
        if curvature.diagonal is not None:
            finite([curvature.diagonal], "a low-rank posterior")
            whole = np.asarray(curvature.diagonal, np.float64)
            rest = whole - (vectors**2) @ values
            # Of what the sketch has caught in full, rounding is left.
            rest[rest < 10 * np.finfo(self.mean.dtype).eps * whole.max(initial=0.0)] = 0.0
        self.rest.assign(rest)

    def prepare(self) -> list[tf.Tensor]:
        """Returns R^(-1/2) (P_c,), X (P_c, r) and (1 + e)^(-1/2) (r,)."""
        priors = [tf.fill((size,), prior) for size, prior in zip(self.layout.sizes, self.priors(tf.float64))]
        rest = self.scale(tf.float64) * tf.cast(tf.convert_to_tensor(self.rest), tf.float64)
        inverse = tf.math.rsqrt(tf.concat(priors, axis=0) + rest)
        scaled = tf.sqrt(self.scale(tf.float64) * tf.cast(tf.convert_to_tensor(self.values), tf.float64))
        wide = inverse[:, None] * tf.cast(tf.convert_to_tensor(self.vectors), tf.float64) * scaled
        values, turn = tf.linalg.eigh(tf.matmul(wide, wide, transpose_a=True))
        # Directions that rounding hides have a factor of 1 anyway.
        kept = values > 1e-13 * tf.reduce_max(values)
        norm = tf.where(kept, tf.math.rsqrt(tf.where(kept, values, tf.ones_like(values))), 0.0)
        shrink = tf.where(kept, tf.math.rsqrt(1.0 + tf.maximum(values, 0.0)), 0.0)
        return [tf.cast(one, self.mean.dtype) for one in (inverse, tf.matmul(wide, turn) * norm, shrink)]

    def root(self, noise: tf.Tensor, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        inverse, basis, shrink = prepared or self.prepare()
        return inverse * _shrunk(noise, basis, shrink)

    def whiten(self, rows: tf.Tensor, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        inverse, basis, shrink = prepared or self.prepare()
        return _shrunk(inverse * rows, basis, shrink)

    def variances(self, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        inverse, basis, shrink = prepared or self.prepare()
        return inverse**2 * (1.0 - tf.reduce_sum(basis**2 * (1.0 - shrink**2), axis=1))

    def precision(self) -> Any:
        size = self.layout.num_chosen
        self._afford(size**2, "An explicit precision matrix")
        vectors = tf.convert_to_tensor(self.vectors)
        priors = tf.concat([tf.fill((n,), prior) for n, prior in zip(self.layout.sizes, self.priors())], axis=0)
        scaled = vectors * (self.scale() * tf.convert_to_tensor(self.values))
        rest = self.scale() * tf.convert_to_tensor(self.rest)
        return [tf.matmul(scaled, vectors, transpose_b=True) + tf.linalg.diag(priors + rest)]

    def spectrum(self) -> evidence.Spectrum:
        cuts = np.cumsum(self.layout.sizes)[:-1]
        rest = np.split(self.rest.numpy(), cuts)
        return evidence.LowRank(np.split(self.vectors.numpy(), cuts), self.values.numpy(), rest)

    def _faults(self, state: dict[str, np.ndarray]) -> Optional[str]:
        negative = (state["values"] < 0).any() or (state["rest"] < 0).any()
        return "its eigenvalues are negative" if negative else None

    def _restore(self, state: dict[str, np.ndarray], path: Union[str, Path]) -> None:
        super()._restore({"rest": np.zeros(self.layout.num_chosen, self.mean.dtype), **state}, path)

    def load_own_variables(self, store: Any) -> None:
        """Takes the weights from a file; one of before has no rest."""
        for index, variable in enumerate(self.weights):
            if variable is self.rest and str(index) not in store.keys():
                variable.assign(tf.zeros_like(variable))
            else:
                variable.assign(store[str(index)])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rank": self.rank}


def _shrunk(rows: tf.Tensor, basis: tf.Tensor, shrink: tf.Tensor) -> tf.Tensor:
    """Returns rows (n, P_c) whose components along the basis (P_c, r) are multiplied by `shrink` (r,)."""
    components = tf.matmul(rows, basis)
    rest = rows - tf.matmul(components, basis, transpose_b=True)
    # Once more: what rounding left along stiff directions may be larger than what belongs there.
    rest -= tf.matmul(tf.matmul(rest, basis), basis, transpose_b=True)
    return rest + tf.matmul(components * shrink, basis, transpose_b=True)
