"""iaf: VAE whose posterior goes through an inverse autoregressive flow that depends on the datum."""

import dataclasses
from typing import Any, Callable, Optional

import keras
import tensorflow as tf
import tensorflow_probability as tfp
from keras.saving import register_keras_serializable

from pae_zoo import flows, networks
from pae_zoo.core import hparams as hp
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.models import vae
from pae_zoo.models.parts import priors
from pae_zoo.models.parts.former import Former
from pae_zoo.models.parts.posteriors import DiagonalPosterior, Posterior, PosteriorDistribution

tfd = tfp.distributions


@dataclasses.dataclass(frozen=True)
class HParams(vae.HParams):
    """Flags of the VAE with an inverse autoregressive flow."""

    prior: str = priors.option(priors.WITHOUT_VAMP)
    kl: str = hp.option("mc", "KL(q||p) is estimated from the samples: a flow has no closed form.", choices=("mc",))
    gradient: str = hp.option("pathwise", "Gradient of log q(z|x): through z and the weights.", choices=("pathwise",))
    num_flows: int = hp.option(4, "Blocks F of the flow (0: the vae).", low=0, high=1000)
    iaf_units: int = hp.option(500, "Width of the hidden layer of each block's masked network.",
                               low=1, high=2**20, smoke=16)


class FlowPosterior(Posterior):
    """q(z|x) of z = f(z_0), z_0 from a diagonal Gaussian, f an invertible map that depends on the datum.

    Args:
      diagonal: the density of z_0, (batch, K).
      transform: maps z (..., batch, K) to (f(z), log|det df/dz|), with inverse=True to (f^-1(z), log|det df^-1/dz|).
    """

    def __init__(self, diagonal: DiagonalPosterior, transform: Callable[..., tuple[tf.Tensor, tf.Tensor]]):
        self.diagonal = diagonal
        self.transform = transform

    def from_noise(self, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_q = self.diagonal.from_noise(noise)
        z, log_det = self.transform(z)
        return z, log_q - log_det

    def log_prob(self, z: tf.Tensor) -> tf.Tensor:
        z, log_det = self.transform(z, inverse=True)
        return self.diagonal.log_prob(z) + log_det

    def point(self) -> tf.Tensor:
        return self.transform(self.diagonal.mean)[0]

    def moments(self, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.nn.moments(draws, axes=[0])

    def distribution(self) -> tfd.Distribution:
        return PosteriorDistribution(self, self.diagonal.mean)


@register_keras_serializable("pae_zoo")
class IAF(vae.VAE):
    """VAE with z = f_F(... f_1(z_0)), z_0 ~ N(m(y), diag s(y)^2), each f_i an inverse autoregressive block.

    Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow, arXiv 1606.04934, algorithm 1. A
    block gives g z + (1 - g) t with gate g and shift t of coordinate k from z_1 .. z_{k-1} and the encoder's last
    hidden layer, by a masked network of one hidden layer; the order of coordinates is reversed between blocks, and at
    the end where that restores it. Draws and their density are one pass, the density at any other z is K passes.

    Args beyond `VAE`: num_flows (F), iaf_units (width of the hidden layer).

    Raises UserError for kl="analytic" and gradient="sticking_the_landing", which need what a flow has not.
    """

    divides = False
    takes_priors = priors.WITHOUT_VAMP
    offers = vae.VAE.offers - {"moments"}
    former = Former("iaf_published", "pae_zoo>IAFPublished",
                    {"iaf_context": (True, False), "iaf_start": ("zero", "vlae")}, kept=("iaf_context", "iaf_start"))
    #: whether the flow sees the encoder's last hidden layer, and how its masked networks start (`flows.MADE`)
    sees_context, flow_start = True, "zero"

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", kl: str = "mc", num_flows: int = 4,
                 iaf_units: int = 500, **kwargs):
        if kl != "mc":
            raise UserError(f"A flow as posterior has no analytic KL; kl must be 'mc', received {kl!r}.")
        if kwargs.get("gradient", "pathwise") != "pathwise":
            raise UserError("gradient='sticking_the_landing' needs a density whose parameters can be held fixed, and "
                            "those of a flow are its weights. Leave it at 'pathwise'.")
        super().__init__(encoder, decoder, likelihood=likelihood, kl=kl, **kwargs)
        self.num_flows = int(num_flows)
        self.iaf_units = int(iaf_units)
        context_dim = networks.hidden_size(self.encoder, self.event_shape) if self.sees_context else 0
        self.blocks = []
        for index in range(self.num_flows):
            block = flows.InverseAutoregressive(
                hidden_units=(self.iaf_units,), activation="prelu", context_dim=context_dim, gate=True,
                degrees="random", start=self.flow_start, seed=(self.seed, index), name=f"iaf_{index}",
                dtype=keras.config.dtype_policy().variable_dtype,  # densities are never computed in half precision
            )
            block.build((None, self.latent_dim))
            self.blocks.append(block)

    def posterior(self, y: tf.Tensor, seed: Optional[seeds.Seed] = None, training: bool = False) -> FlowPosterior:
        mean, raw, hidden = self.encoder_features(y, training)
        context = hidden if self.sees_context else None
        return FlowPosterior(
            self.diagonal(mean, raw), lambda z, inverse=False: self.transform(z, context, inverse)
        )

    def transform(self, z: tf.Tensor, context: Optional[tf.Tensor] = None,
                  inverse: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Maps z (..., batch, K) through the flow or back: (z, log|det|) of shapes (..., batch, K) and (..., batch).

        `context` is the encoder's last hidden layer (batch, H), None without one.
        """
        total = tf.zeros_like(z[..., 0])
        # A reversal before each block but the first; an even number of blocks has one more at the end.
        last = self.num_flows > 0 and self.num_flows % 2 == 0
        if inverse and last:
            z = tf.reverse(z, axis=[-1])
        for index in reversed(range(self.num_flows)) if inverse else range(self.num_flows):
            if index and not inverse:
                z = tf.reverse(z, axis=[-1])
            z, log_det = self.blocks[index](z, inverse=inverse, context=context)
            total += log_det
            if index and inverse:
                z = tf.reverse(z, axis=[-1])
        return (z if inverse or not last else tf.reverse(z, axis=[-1])), total

    def get_config(self) -> dict[str, Any]:
        own = ("num_flows", "iaf_units")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


MODEL = IAF
