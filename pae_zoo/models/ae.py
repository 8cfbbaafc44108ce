"""ae: deterministic autoencoder, trained for reconstruction alone (plain or hybrid objective)."""

import dataclasses
from typing import Any, Optional

import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo import likelihoods
from pae_zoo.core import hparams as hp
from pae_zoo.core import records, seeds
from pae_zoo.core.errors import UserError
from pae_zoo.models import codes
from pae_zoo.models.parts.posteriors import standard_normal_log_prob

# Stream of a step's seed that the noise on the codes is drawn from.
CODE_NOISE = "ae/codes"


@dataclasses.dataclass(frozen=True)
class HParams(records.SharedHParams):
    """Flags of the deterministic autoencoder."""

    objective_type: str = hp.option(
        "plain",
        "What is maximised: 'plain' log p(y|code), or 'hybrid' (from half of the training on, with a per-pixel "
        "std measured by then, plus log N(code; 0, I)).",
        choices=("plain", "hybrid"),
    )
    scale_annealing_steps: int = hp.option(
        0, "Steps over which the constant observation std falls from 1 to --scale (0: constant).", low=0
    )
    code_noise: float = hp.option(
        0.0, "Std of Gaussian noise added to the codes in training (1: the beta0-VAE, a VAE without KL term and with "
        "posterior std 1).", low=0.0
    )


@register_keras_serializable("pae_zoo")
class AE(codes.Codes):
    """Deterministic autoencoder: maximises log p(y | z = e(y)) (Boehm & Seljak, arXiv 2006.05479).

    With objective_type "hybrid" the first half of `hybrid_steps` trains so, while an average of the
    squared residuals of each pixel is kept; then the std of each pixel becomes max(that average's root,
    sigma) and log N(z; 0, I) is added. It needs the likelihood "gaussian_pixel".

    Args beyond `Autoencoder`:
      objective_type: "plain" or "hybrid".
      hybrid_steps: training steps in all, for "hybrid".
      code_noise: std of Gaussian noise on the codes in training.
    """

    may_take_gaps = True
    divides = True

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", objective_type="plain",
                 hybrid_steps: int = 0, code_noise: float = 0.0, **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        if objective_type not in ("plain", "hybrid"):
            raise UserError(f"objective_type is 'plain' or 'hybrid'; received {objective_type!r}.")
        self.objective_type = objective_type
        self.hybrid_steps = int(hybrid_steps)
        self.code_noise = float(code_noise)
        if objective_type == "hybrid":
            if not isinstance(self.likelihood, likelihoods.GaussianPixel) or self.hybrid_steps < 2:
                raise UserError(
                    "objective_type 'hybrid' needs likelihood 'gaussian_pixel' and hybrid_steps >= 2 (the "
                    f"number of training steps); received {type(self.likelihood).__name__} and {hybrid_steps}."
                )
            self.residual_square = self.add_weight(
                name="residual_square", shape=self.event_shape, initializer="zeros", trainable=False
            )

    @property
    def not_divided(self) -> str:
        if self.objective_type == "hybrid":
            return "the hybrid objective keeps an average over whole batches"
        return super().not_divided

    @classmethod
    def options(cls, hparams: Any, total_steps: int) -> dict:
        found = super().options(hparams, total_steps)
        if hparams.objective_type == "hybrid":
            found["hybrid_steps"] = total_steps
        return found

    @classmethod
    def length_matters(cls, hparams: Any) -> bool:
        return super().length_matters(hparams) or hparams.objective_type == "hybrid"

    def training_codes(self, z: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if not self.code_noise:
            return z
        return z + self.code_noise * seeds.normal(tf.shape(z), seeds.stream(seed, CODE_NOISE), z.dtype, batch=0)

    def extra_log_prob(self, z: tf.Tensor, residual: tf.Tensor, training: bool, weight: Optional[tf.Tensor],
                       seed: tf.Tensor) -> Optional[tf.Tensor]:
        return self._hybrid_term(z, residual, training, weight) if self.objective_type == "hybrid" else None

    def _hybrid_term(self, z: tf.Tensor, residual: tf.Tensor, training: bool, weight=None) -> tf.Tensor:
        """Keeps the residual average, sets the pixels' std at half time, returns log N(z; 0, I) after it."""
        half = self.hybrid_steps // 2
        if training:
            square = tf.stop_gradient(tf.square(residual))
            if weight is None:
                square = tf.reduce_mean(square, axis=0)
            else:
                square = tf.tensordot(tf.cast(weight / tf.reduce_sum(weight), square.dtype), square, 1)
            rate = tf.maximum(0.01, 1.0 / (tf.cast(self.step, square.dtype) + 1.0))
            self.residual_square.assign(self.residual_square + rate * (square - self.residual_square))
            scale = tf.convert_to_tensor(self.likelihood.scale)
            measured = tf.maximum(tf.sqrt(self.residual_square), scale)
            self.likelihood.assign_scale(tf.where(tf.equal(self.step, half), measured, scale))
        return tf.where(self.step >= half, standard_normal_log_prob(z), tf.zeros_like(z[:, 0]))

    @property
    def schedule_steps(self) -> int:
        return max(super().schedule_steps, self.hybrid_steps // 2)

    def measure(self, x: np.ndarray, train: Optional[np.ndarray] = None, batch_size: int = 500) -> None:
        # The hybrid objective has set the pixels' std itself, and has been trained with it.
        if self.objective_type == "plain":
            super().measure(x, train, batch_size)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "objective_type": self.objective_type,
            "hybrid_steps": self.hybrid_steps,
            "code_noise": self.code_noise,
        }


MODEL = AE


