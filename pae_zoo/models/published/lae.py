"""lae_published: lae with the loss of the code of Miani et al., arXiv 2206.15078, and its factor of the curvature."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core import hparams as hp
from pae_zoo.core import records
from pae_zoo.core.errors import UserError
from pae_zoo.curvature.matrices.gauss_newton import DIAG
from pae_zoo.models import lae
from pae_zoo.models.weight_posterior import MC


@dataclasses.dataclass(frozen=True)
class HParams(lae.HParams):
    """Flags of the Laplacian autoencoder with the published loss."""

    curvature_structure: str = records.with_default("curvature_structure", DIAG, lae.HParams)
    predictive: str = records.with_default("predictive", MC, lae.HParams)
    prior_precision: float = records.with_default("prior_precision", 1.0, lae.HParams)
    hessian_every: int = records.with_default("hessian_every", 1, lae.HParams)
    draw_every: int = records.with_default("draw_every", 1, lae.HParams)
    final_curvature_data: int = records.with_default("final_curvature_data", 0, lae.HParams)
    alpha: float = hp.option(0.0, "Weight of the prior term (gamma |mu|^2 - P log gamma)/2 in the loss.", low=0.0)


@register_keras_serializable("pae_zoo")
class LAEPublished(lae.LAE):
    """`LAE` with the loss of the code of Miani et al., arXiv 2206.15078, per datum

        c mean_k MSE(theta_k) + alpha (gamma |mu|^2 - P log gamma) / 2

    for sigma = 1, whose curvature has the factor c = 1/2, half of what it should be, or `curvature_constant`. h begins
    at N, and is not corrected for it: with m = 0.999 thousands of steps pass before that has decayed. The observation
    std is not in the loss: it is measured after training.

    Args beyond `LAE`: alpha.

    Raises UserError for a decoder of variances, which nothing would train.
    """

    divides = False
    former = None

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", alpha: float = 0.0,
                 curvature_structure: str = DIAG, predictive: str = MC, hessian_every: int = 1, draw_every: int = 1,
                 prior_precision: float = 1.0, final_curvature_data: int = 0, **kwargs):
        if curvature_structure != DIAG:
            raise UserError(f"curvature_structure={curvature_structure!r} is not that of the published code, the "
                            "diagonal. Take diag, or --model=lae.")
        super().__init__(encoder, decoder, likelihood=likelihood, curvature_structure=curvature_structure,
                         predictive=predictive, hessian_every=hessian_every, draw_every=draw_every,
                         prior_precision=prior_precision, final_curvature_data=final_curvature_data, **kwargs)
        self.alpha = float(alpha)
        self.leave_noise_out()
        self.posterior.curvature.assign(tf.ones_like(self.posterior.curvature))  # N of them, by `count_data`

    def share_of_refresh(self) -> tf.Tensor:
        return tf.constant(1.0 - self.memory_factor**self.hessian_every, self.num_data.dtype)

    def at_the_start(self, draw: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return list(draw)

    def loss_of(self, nll: tf.Tensor, mse: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        regularizer = self._prior_term()
        return self._constant() * mse + self.alpha * regularizer, regularizer

    def natural_constant(self) -> tf.Tensor:
        return tf.constant(0.5, self.num_data.dtype)

    def _prior_term(self) -> tf.Tensor:
        """Returns (gamma |mu|^2 - P log gamma) / 2, -log p(mu) up to a constant."""
        sizes = self.posterior.layout.sizes
        logs = tf.add_n([size * tf.math.log(gamma) for size, gamma in zip(sizes, self.posterior.priors())])
        return 0.5 * (self._weighted_square() - logs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}


MODEL = LAEPublished
