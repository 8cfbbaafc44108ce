"""wae: Wasserstein autoencoder: an autoencoder whose codes are held to N(0, I) by a discrepancy."""

import dataclasses
from typing import Any, Optional

import tensorflow as tf
import tensorflow_probability as tfp
from keras.saving import register_keras_serializable

from pae_zoo.core.inputs import TensorLike
from pae_zoo.models import ae
from pae_zoo.models.parts import mmd
from pae_zoo.models.parts.posteriors import standard_normal, standard_normal_log_prob


@dataclasses.dataclass(frozen=True)
class HParams(mmd.MMDFlags, ae.HParams):
    """Flags of the Wasserstein autoencoder."""


@register_keras_serializable("pae_zoo")
class WAE(ae.AE):
    """Autoencoder that minimises -log p(y | e(y)) + lambda MMD^2(q(z), N(0, I)) (Tolstikhin et al., arXiv 1711.01558).

    q(z) is the distribution of the codes e(y) of all data, of which those of a batch are draws: WAE-MMD, algorithm 2
    there, with a deterministic encoder. The loss of validation has no discrepancy, which is no datum's own.

    Args beyond `AE`: mmd_weight (lambda), mmd_kernel ("imq" or "rbf"): see the flags' help.

    Raises UserError for another kernel, or a weight below 0.
    """

    divides = False
    offers = ae.AE.offers | {"prior", "sample"}

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", mmd_weight: float = 500.0,
                 mmd_kernel: str = mmd.IMQ, **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        self.mmd_weight, self.mmd_kernel = mmd.check(mmd_weight, mmd_kernel)

    def prior(self) -> tfp.distributions.Distribution:
        """Returns N(0, I), event shape (latent_dim,)."""
        return standard_normal(self.latent_dim, self.float_type)

    def log_prob_latent(self, z: TensorLike) -> tf.Tensor:
        """Returns log N(z; 0, I) of latents z (..., K), nats, shape (...)."""
        return standard_normal_log_prob(self.latents(z))

    def extra_log_prob(self, z: tf.Tensor, residual: tf.Tensor, training: bool, weight: Optional[tf.Tensor],
                       seed: tf.Tensor) -> Optional[tf.Tensor]:
        before = super().extra_log_prob(z, residual, training, weight, seed)
        if not training:
            return before
        cost = tf.fill(tf.shape(z)[:1], self.mmd_weight * mmd.from_prior(z, self.mmd_kernel, seed))
        return -cost if before is None else before - cost

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mmd_weight": self.mmd_weight, "mmd_kernel": self.mmd_kernel}


MODEL = WAE
