"""savae: semi-amortised VAE, whose encoder's posterior is refined for each datum by steps of gradient ascent."""

import dataclasses
from typing import Any, Optional

import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core import hparams as hp
from pae_zoo.core import seeds
from pae_zoo.core.inputs import TensorLike
from pae_zoo.models import vae
from pae_zoo.models.parts import importance, priors
from pae_zoo.models.parts.former import Former
from pae_zoo.models.parts.posteriors import DiagonalPosterior

# Draws the noise of codes that have no seed of their own.
FIXED_SEED = (0, 0)


@dataclasses.dataclass(frozen=True)
class HParams(vae.HParams):
    """Flags of the semi-amortised VAE."""

    prior: str = priors.option(priors.WITHOUT_VAMP)
    num_svi_steps: int = hp.option(4, "Steps of gradient ascent from the encoder's posterior (0: the vae).",
                                   low=0, high=1000)
    svi_learning_rate: float = hp.option(
        1e-3, "Length of a step per unit of gradient; a stable one is below 2 / the largest posterior precision.",
        low=0.0)
    svi_clip: float = hp.option(
        5.0, "Largest norm of a datum's gradient, that of the mean and of the log variance apart (0: off).", low=0.0)
    svi_momentum: float = hp.option(0.0, "Momentum of the steps.", low=0.0, high=0.999)


@register_keras_serializable("pae_zoo")
class SAVAE(vae.VAE):
    """Semi-amortised VAE (Kim et al., arXiv 1802.02550, algorithm 1): q(z|y) = N(mu_T, diag(exp l_T)).

    From the encoder's mu_0 and l_0 = log variance, T steps climb the one-sample objective of each datum,

        mu <- mu + a clip(dL/dmu),    l <- l + a clip(dL/dl),    clip(g) = g min(1, c / |g|),

    with fresh noise in each, then l is clipped to [-10, 10]. L is what training maximises for one datum (the ELBO,
    or with beta, capacity or free bits their form of it). The steps are part of the graph: the loss at (mu_T, l_T)
    trains encoder and decoder through them, exact second derivatives included.

    Args beyond `VAE`: num_svi_steps (T), svi_learning_rate (a), svi_clip (c; 0: off), svi_momentum: see the flags'
      help.
    """

    divides = False
    takes_priors = priors.WITHOUT_VAMP
    former = Former("savae_published", "pae_zoo>SAVAEPublished", {"svi_update": ("ascent", "upstream")})

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", num_svi_steps: int = 4,
                 svi_learning_rate: float = 1e-3, svi_clip: float = 5.0, svi_momentum: float = 0.0, **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        self.num_svi_steps = int(num_svi_steps)
        self.svi_learning_rate = float(svi_learning_rate)
        self.svi_clip = float(svi_clip)
        self.svi_momentum = float(svi_momentum)

    # The posterior is the one of x itself.
    objective_takes = ()

    def posterior(self, y: tf.Tensor, seed: Optional[seeds.Seed] = None, training: bool = False) -> DiagonalPosterior:
        return self.refinement(y, seed, training)[-1]

    def latent_path(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        y = self.preprocess(x)[0]
        return self._refined_path(y, tf.stack([posterior.mean for posterior in self.refinement(y, seed)]))

    def refinement(self, y: tf.Tensor, seed: Optional[seeds.Seed] = None,
                   training: bool = False) -> list[DiagonalPosterior]:
        """Returns the posteriors of y (batch, *event) from the encoder's to that after the last step, T + 1 of them.

        `seed` draws the noise of the steps for each place in the batch; None takes the same fixed noise for all data,
        so that a code does not depend on the place either.
        """
        shape = (1, self.latent_dim) if seed is None else self._noise_shape(y)
        seed = FIXED_SEED if seed is None else seed
        path = [self.encoder_posterior(y, training)]
        values = [path[0].mean, 2.0 * tf.math.log(path[0].stddev)]
        speeds = [tf.zeros_like(value) for value in values]
        for step in range(self.num_svi_steps):
            noise = importance.latent_noise(shape, 1, seeds.fold_in(seed, step), y.dtype)
            gradients = self.svi_gradients(y, values, noise, training)
            speeds = [self.svi_momentum * speed + gradient for speed, gradient in zip(speeds, gradients)]
            mean, log_variance = (value + self.svi_learning_rate * speed for value, speed in zip(values, speeds))
            values = [mean, tf.clip_by_value(log_variance, -vae.LOG_VARIANCE_LIMIT, vae.LOG_VARIANCE_LIMIT)]
            path.append(DiagonalPosterior(values[0], tf.exp(0.5 * values[1])))
        return path

    def svi_gradients(self, y: tf.Tensor, values: list[tf.Tensor], noise: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """Returns the clipped gradients of a step, each (batch, K), at values = [mean, log variance].

        noise has shape (1, batch, K), or (1, 1, K) for all data.
        """
        with tf.GradientTape() as tape:
            tape.watch(values)
            posterior = DiagonalPosterior(values[0], tf.exp(0.5 * values[1]))
            z, log_q = posterior.from_noise(noise)
            outputs = self.decoder_outputs(z, training)
            log_prob = self.likelihood.log_prob(outputs, y, scale=self.scale_now() if training else None)[0]
            kl = posterior.kl_to_prior() if self.kl == "analytic" else (log_q - self.log_prob_latent(z))[0]
            target = self.climbed(log_prob - self.kl_penalty(kl))
        return [self.clip(gradient) for gradient in tape.gradient(target, values)]

    def climbed(self, bound: tf.Tensor) -> tf.Tensor:
        """Returns what the steps climb, a number, from the one-sample bounds of the data, (batch,)."""
        return tf.reduce_sum(bound)  # the sum: data of a batch do not share a step

    def clip(self, gradient: tf.Tensor) -> tf.Tensor:
        """Returns each row of a gradient (batch, K) with its L2 norm limited to svi_clip."""
        if not self.svi_clip:
            return gradient
        square = tf.reduce_sum(tf.square(gradient), axis=-1, keepdims=True)
        # The maximum before the root: the derivative of a norm at 0 is not finite.
        return gradient * self.svi_clip / tf.sqrt(tf.maximum(square, self.svi_clip**2))

    def get_config(self) -> dict[str, Any]:
        own = ("num_svi_steps", "svi_learning_rate", "svi_clip", "svi_momentum")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


MODEL = SAVAE
