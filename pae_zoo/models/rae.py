"""rae: regularised autoencoder: small codes, a smooth decoder, and a density that is fitted to the codes afterwards."""

import dataclasses
from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo import densities
from pae_zoo.core import hparams as hp
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError, unknown
from pae_zoo.models import pae

NONE, L2, GRADIENT_PENALTY, SPECTRAL_NORM = REGULARISERS = ("none", "l2", "gradient_penalty", "spectral_norm")
# Steps of the power method: calls before training, steps of a call.
FIRST_CALLS, ITERATIONS = 20, 3
# Stream of a step's seed that the probe of the gradient penalty is drawn from.
PROBE = "rae/probe"


@dataclasses.dataclass(frozen=True)
class HParams(pae.HParams):
    """Flags of the regularised autoencoder."""

    density: str = hp.option("gaussian_mixture", "Density that is fitted to the codes afterwards, as of pae.",
                             choices=tuple(densities.NAMES))
    rae_regulariser: str = hp.option(
        L2, "What keeps the decoder smooth: 'l2', its weights' squares; 'gradient_penalty', half its Jacobian's; "
        "'spectral_norm', kernels of largest singular value 1; or 'none'.", choices=REGULARISERS)
    rae_latent: float = hp.option(0.01, "Weight beta of half the squared norm of a code.", low=0.0)
    rae_weight: float = hp.option(1e-3, "Weight lambda of the decoder's regulariser.", low=0.0)


class SpectralNorm:
    """Divides a kernel by its largest singular value, by steps of the power method that start from the last.

    Keras' optimizers call it after each update. Kernels of convolutions count as matrices (-1, last axis), as in
    Miyato et al., arXiv 1802.05957, section 2.1.

    Args: direction, a variable (last axis,), the right singular vector so far.
    """

    def __init__(self, direction: keras.Variable):
        self.direction = direction

    def __call__(self, kernel: Any) -> tf.Tensor:
        value = tf.convert_to_tensor(kernel)
        matrix = tf.reshape(value, (-1, value.shape[-1]))
        direction = right = tf.convert_to_tensor(self.direction)
        for _ in range(ITERATIONS):
            left = tf.linalg.l2_normalize(tf.linalg.matvec(matrix, direction))
            right = tf.linalg.matvec(matrix, left, transpose_a=True)
            direction = tf.linalg.l2_normalize(right)
        self.direction.assign(direction)
        return value / tf.maximum(tf.norm(right), 1e-12)


@register_keras_serializable("pae_zoo")
class RAE(pae.PAE):
    """Regularised autoencoder (Ghosh et al., arXiv 1903.12436): -log p(y|z) + beta/2 |z|^2 + lambda R(decoder).

    R is |w|^2 over the decoder's weights w ("l2"), or 1/2 |dE[y|z]/dz|^2 at the codes, of which one probe a datum gives
    an unbiased estimate ("gradient_penalty"). With "spectral_norm" the decoder's kernels are divided by their largest
    singular value after each update, and there is no R. Density, second stage and scores are those of `PAE`.

    Args beyond `PAE`: rae_regulariser ("none", "l2", "gradient_penalty" or "spectral_norm"), rae_latent (beta),
      rae_weight (lambda).

    Raises UserError for another regulariser, or a weight below 0.
    """

    divides = False
    default_density = "gaussian_mixture"

    def __init__(self, encoder: keras.Model, decoder: keras.Model, likelihood: Any = "gaussian_pixel",
                 rae_regulariser: str = L2, rae_latent: float = 0.01, rae_weight: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        if rae_regulariser not in REGULARISERS:
            raise unknown("rae_regulariser", rae_regulariser, REGULARISERS)
        if not (rae_latent >= 0 and rae_weight >= 0):
            raise UserError("rae_latent and rae_weight are weights of 0 or more; received "
                            f"{rae_latent} and {rae_weight}.")
        self.rae_regulariser, self.rae_latent, self.rae_weight = rae_regulariser, float(rae_latent), float(rae_weight)
        self.normed = []
        if rae_regulariser == SPECTRAL_NORM:
            self.normed = [weight for weight in self.decoder.trainable_variables if len(weight.shape) > 1]
            for number, kernel in enumerate(self.normed):
                kernel.constraint = SpectralNorm(self.add_weight(
                    name=f"direction_{number}", shape=kernel.shape[-1:], initializer="ones", trainable=False))

    def adapt(self, x: np.ndarray) -> None:
        super().adapt(x)
        for kernel in self.normed:
            for _ in range(FIRST_CALLS):
                kernel.assign(kernel.constraint(kernel))

    def extra_log_prob(self, z: tf.Tensor, residual: tf.Tensor, training: bool, weight: Optional[tf.Tensor],
                       seed: tf.Tensor) -> Optional[tf.Tensor]:
        before = super().extra_log_prob(z, residual, training, weight, seed)
        cost = 0.5 * self.rae_latent * tf.reduce_sum(tf.square(z), axis=-1)
        if self.rae_regulariser == L2:
            squares = [tf.reduce_sum(tf.square(tf.cast(w, z.dtype))) for w in self.decoder.trainable_variables]
            cost += self.rae_weight * tf.add_n(squares)
        elif self.rae_regulariser == GRADIENT_PENALTY:
            cost += 0.5 * self.rae_weight * self.jacobian_square(z, seed, training)
        return -cost if before is None else before - cost

    def jacobian_square(self, z: tf.Tensor, seed: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns an unbiased estimate of |dE[y|z]/dz|^2, all entries' squares, at z (batch, K), shape (batch,).

        It is |J'v|^2 of one v ~ N(0, I) a datum, whose mean over v is tr JJ' (Hutchinson 1990).
        """
        with tf.GradientTape() as tape:
            tape.watch(z)
            mean = self.likelihood.mean(self.decoder_outputs(z, training))
            probe = seeds.normal(tf.shape(mean), seeds.stream(seed, PROBE), mean.dtype, batch=0)
            along = tf.reduce_sum(mean * probe)
        return tf.reduce_sum(tf.square(tape.gradient(along, z)), axis=-1)

    def get_config(self) -> dict[str, Any]:
        own = ("rae_regulariser", "rae_latent", "rae_weight")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


MODEL = RAE
