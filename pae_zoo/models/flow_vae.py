"""flow_vae: variational autoencoder whose prior is a normalizing flow, trained with it."""

import dataclasses
from typing import Any, Optional, Union

import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo import densities, flows, laplace
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.models import vae
from pae_zoo.models.parts import priors
from pae_zoo.models.parts.flow_latent import FlowFlags, FlowLatent


@dataclasses.dataclass(frozen=True)
class HParams(FlowFlags, vae.BoundFlags):
    """Flags of the VAE with a flow as prior."""

    density: str = hp.option(
        "flow", "Density of the latents, trained with the rest: a flow, a mixture, or a flow of a mixture.",
        choices=("flow", *densities.WITH_MIXTURE))
    kl: str = hp.option("mc", "KL(q||p) is estimated from the samples: a flow has no closed form.", choices=("mc",))
    beta_annealing_steps: int = hp.option(0, "Steps over which the weight of the KL term goes from --beta to 1 "
                                          "(0: --beta throughout).", low=0)


# Of a mixture whose number of components is not given: there are no codes to choose it on before the training.
COMPONENTS = 32


@register_keras_serializable("pae_zoo")
class FlowVAE(FlowLatent, vae.VAE):
    """VAE with prior p(z) of z = F(u), u ~ p(u), F a flow trained jointly (the follow-up of arXiv 2006.05479).

    Maximises log p(y|z) + log p_F(z) - log q(z|y) with samples z ~ q. `prior` is p(u) over the base space u, N(0, I) or
    a mixture whose parameters are trained too; `log_prob_latent` is the density of z.

    Args beyond `VAE`:
      flow: a density over latent_dim dimensions without whitening, as `pae_zoo.densities.make` gives one; None makes a
        flow of the preset "nsf".
      beta_annealing_steps: T of beta(t) = beta + (1 - beta) min(t / T, 1); 0 keeps beta.

    Raises UserError for a flow of another size, or kl="analytic".
    """

    takes_priors = (priors.STANDARD,)
    parts = (*vae.VAE.parts, "flow")
    flow_options = {"whiten": False}

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", flow: Optional[flows.Flow] = None,
                 kl: str = "mc", beta_annealing_steps: int = 0, **kwargs):
        if kl != "mc":
            raise UserError(f"A flow as prior has no analytic KL; kl must be 'mc', received {kl!r}.")
        super().__init__(encoder, decoder, likelihood=likelihood, kl=kl, **kwargs)
        self.take_flow(flow)
        self.beta_annealing_steps = int(beta_annealing_steps)

    @classmethod
    def components_of(cls, hparams: Any) -> int:
        return (hparams.density_components or COMPONENTS) if hparams.density in densities.WITH_MIXTURE else 0

    def system(self, y: tf.Tensor, training: bool = False) -> laplace.System:
        return laplace.WithPrior(super().system(y, training), self.log_prob_latent)

    def beta_now(self) -> Union[float, tf.Tensor]:
        if not self.beta_annealing_steps:
            return self.beta
        fraction = tf.minimum(tf.cast(self.step, self.float_type) / self.beta_annealing_steps, 1.0)
        return self.beta + (1.0 - self.beta) * fraction

    @property
    def schedule_steps(self) -> int:
        return max(super().schedule_steps, self.beta_annealing_steps)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta_annealing_steps": self.beta_annealing_steps}


MODEL = FlowVAE
