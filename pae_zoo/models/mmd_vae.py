"""mmd_vae: variational autoencoder (InfoVAE) that holds all codes to the prior, not those of each datum."""

import dataclasses
from typing import Any

import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core import hparams as hp
from pae_zoo.models import vae
from pae_zoo.models.parts import mmd, priors


@dataclasses.dataclass(frozen=True)
class HParams(mmd.MMDFlags, vae.BoundFlags):
    """Flags of the variational autoencoder with a discrepancy."""

    beta: float = hp.option(0.0, "Weight 1 - alpha of the KL term of each datum (0: none, as published).", low=0.0)


@register_keras_serializable("pae_zoo")
class MMDVAE(vae.VAE):
    """VAE that minimises -log p(y|z) + beta KL(q(z|y) || p) + lambda MMD^2(q(z), p) (Zhao et al., arXiv 1706.02262).

    It is eq. 6 there with beta = 1 - alpha. q(z) is the mixture of the q(z|y) of all data, of which the z of a batch
    are draws, and p = N(0, I). The loss of validation has no discrepancy, which is no datum's own; the metric mmd tells
    of it. `elbo` and `log_likelihood` are those of a VAE.

    Args beyond `VAE`: mmd_weight (lambda), mmd_kernel ("imq" or "rbf"): see the flags' help.

    Raises UserError for another kernel, or a weight below 0.
    """

    divides = False
    takes_priors = (priors.STANDARD,)
    tracked = (*vae.VAE.tracked, "mmd")

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", beta: float = 0.0, mmd_weight: float = 500.0,
                 mmd_kernel: str = mmd.IMQ, **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, beta=beta, **kwargs)
        self.mmd_weight, self.mmd_kernel = mmd.check(mmd_weight, mmd_kernel)

    def batch_terms(self, z: tf.Tensor, seed: tf.Tensor) -> dict[str, tuple[float, tf.Tensor]]:
        return {"mmd": (self.mmd_weight, mmd.from_prior(z, self.mmd_kernel, seed))}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mmd_weight": self.mmd_weight, "mmd_kernel": self.mmd_kernel}


MODEL = MMDVAE
