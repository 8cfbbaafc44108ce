"""A mixture whose scale matrices are few factors and a diagonal: for many dimensions, or few rows to each."""

from typing import Any

import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.densities.factor_em import FactorParameters, distances, inner_factors
from pae_zoo.densities.mixture import Mixture
from pae_zoo.densities.parameters import Parameters


@register_keras_serializable("pae_zoo")
class FactorMixture(Mixture):
    """A mixture of factor analysers: S_m = L_m L_m' + diag(n_m), L_m of D x r numbers.

    log p costs D r operations for a component, by Woodbury's identity, where whole matrices cost D^2.

    Args beyond `Mixture`:
      num_factors: r, from 1 to D - 1.

    Raises UserError for another number of factors.
    """

    def __init__(self, num_dims: int, num_components: int = 0, num_factors: int = 1, **kwargs: Any) -> None:
        self.num_factors = int(num_factors)
        if not 1 <= self.num_factors < max(num_dims, 2):
            raise UserError(f"A mixture over {num_dims} dimensions has from 1 to {max(num_dims - 1, 1)} factors; "
                            f"received factors={num_factors}. Take 0 for whole covariances.")
        super().__init__(num_dims, num_components, **kwargs)

    def make_scales(self, count: int, size: int) -> None:
        def draw(shape: Any, dtype: Any = None) -> tf.Tensor:
            # Not zeros, where no gradient would ever reach the loadings.
            seed = seeds.stream(self.seed, "mixture/loadings")
            return 0.1 * seeds.normal(shape, seed, tf.as_dtype(dtype or "float32"))

        self.loadings = self.add_weight(shape=(count, size, self.num_factors), initializer=draw, name="loadings")
        self.log_noise = self.add_weight(shape=(count, size), initializer="zeros", name="log_noise")

    def factor_parameters(self) -> FactorParameters:
        """Returns weights, means, loadings, noise and dof as float64 arrays; raises UserError before `fit`."""
        self._need_components("its parameters")
        dof = self.dof()
        weights, means, loadings, noise = (
            np.asarray(tf.convert_to_tensor(one), np.float64)
            for one in (self.log_weights(), self.means, self.loadings, self.log_noise))
        return FactorParameters(weights, means, loadings, np.exp(noise),
                                None if dof is None else np.asarray(dof, np.float64))

    def parameters(self) -> Parameters:
        """Returns the same with whole scale matrices, as `Mixture.parameters`: M D^2 numbers."""
        return self.factor_parameters().dense()

    def assign_scales(self, found: Any) -> None:
        if not isinstance(found, FactorParameters) or found.loadings.shape[2] != self.num_factors:
            raise UserError(f"This mixture takes FactorParameters of {self.num_factors} factors; received "
                            f"{type(found).__name__}.")
        self.loadings.assign(found.loadings)
        self.log_noise.assign(np.log(found.noise))

    def distances(self, u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pull, log_det, _ = self._inner(u.dtype)
        noise = tf.exp(tf.cast(self.log_noise.value, u.dtype))
        return distances(u, tf.cast(self.means.value, u.dtype), pull, noise)[0], log_det

    def weighted_precisions(self, share: tf.Tensor) -> tf.Tensor:
        pull = self._inner(share.dtype)[0]
        noise = tf.exp(tf.cast(self.log_noise.value, share.dtype))
        # S^-1 = diag(1 / n) - P P', P = diag(1 / n) L C^-T
        weighted = tf.einsum("nm,mir->nimr", share, pull)
        weighted = tf.reshape(weighted, (-1, self.num_dims, self.num_components * self.num_factors))
        flat = tf.reshape(tf.transpose(pull, (0, 2, 1)), (-1, self.num_dims))
        return tf.linalg.diag(tf.matmul(share, 1.0 / noise)) - tf.matmul(weighted, flat)

    def spread(self, noise: tf.Tensor, which: tf.Tensor, seed: Any) -> tf.Tensor:
        own_seed = seeds.stream(seed, "factor_mixture/factors")
        factors = seeds.normal((noise.shape[0], self.num_factors), own_seed, noise.dtype)
        own = tf.exp(0.5 * tf.cast(self.log_noise.value, noise.dtype))
        loadings = tf.gather(tf.cast(self.loadings.value, noise.dtype), which)
        return tf.linalg.matvec(loadings, factors) + tf.gather(own, which) * noise

    def mean_and_covariance(self) -> tuple[np.ndarray, np.ndarray]:
        if not self.fitted_components:
            return super().mean_and_covariance()
        return self.factor_parameters().mean_and_covariance()

    def _inner(self, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return inner_factors(tf.cast(self.loadings.value, dtype), tf.exp(tf.cast(self.log_noise.value, dtype)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_factors": self.num_factors}
