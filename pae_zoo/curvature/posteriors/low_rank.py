"""Posterior whose precision is of low rank beyond the prior's."""

from typing import Any, Optional

import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.matrices.low_rank import Sketch, eigenpairs
from pae_zoo.curvature.network.layout import Source
from pae_zoo.curvature.posteriors import evidence
from pae_zoo.curvature.posteriors.base import WeightPosterior


@register_keras_serializable("pae_zoo")
class LowRankPosterior(WeightPosterior):
    """Lambda = kappa U diag(s) U^T / sigma^2 + Gamma, with correlations between all weights.

    With Gamma^(-1/2) U (kappa s / sigma^2)^(1/2) = X diag(e)^(1/2) Z^T, X orthonormal (P_c, r), a root of the
    covariance is Gamma^(-1/2) (I - X X^T + X diag(1 + e)^(-1/2) X^T): the identity of Woodbury, in a form without
    differences of large numbers. Directions that the sketch did not see keep the prior's variance.

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

    def assign_curvature(self, curvature: Sketch) -> None:
        if tuple(curvature.image.shape) != tuple(self.vectors.shape):
            raise UserError(f"The posterior takes a sketch of shape {tuple(self.vectors.shape)}; received "
                            f"{tuple(curvature.image.shape)}.")
        vectors, values = eigenpairs(curvature)
        self.vectors.assign(vectors)
        self.values.assign(values)

    def prepare(self) -> list[tf.Tensor]:
        """Returns Gamma^(-1/2) (P_c,), X (P_c, r) and (1 + e)^(-1/2) (r,)."""
        roots = [tf.fill((size,), tf.sqrt(prior)) for size, prior in zip(self.layout.sizes, self.priors(tf.float64))]
        inverse = 1.0 / tf.concat(roots, axis=0)
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
        return [tf.matmul(scaled, vectors, transpose_b=True) + tf.linalg.diag(priors)]

    def spectrum(self) -> evidence.Spectrum:
        cuts = np.cumsum(self.layout.sizes)[:-1]
        return evidence.LowRank(np.split(self.vectors.numpy(), cuts), self.values.numpy())

    def _faults(self, state: dict[str, np.ndarray]) -> Optional[str]:
        return "its eigenvalues are negative" if (state["values"] < 0).any() else None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rank": self.rank}


def _shrunk(rows: tf.Tensor, basis: tf.Tensor, shrink: tf.Tensor) -> tf.Tensor:
    """Returns rows (n, P_c) whose components along the basis (P_c, r) are multiplied by `shrink` (r,)."""
    components = tf.matmul(rows, basis)
    rest = rows - tf.matmul(components, basis, transpose_b=True)
    # Once more: what rounding left along stiff directions may be larger than what belongs there.
    rest -= tf.matmul(tf.matmul(rest, basis), basis, transpose_b=True)
    return rest + tf.matmul(components * shrink, basis, transpose_b=True)
