"""bbb_ae_published: bbb_ae with the loss and the initial weights of the code of Miani et al., arXiv 2206.15078."""

import dataclasses
from typing import Any

import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import check_choice
from pae_zoo.models import bbb_ae

LOSSES, STARTS = ("legacy", "elbo"), ("upstream", "network")
MEAN_RANGE = (-0.2, 0.2)


@dataclasses.dataclass(frozen=True)
class HParams(bbb_ae.HParams):
    """Flags of the autoencoder trained by Bayes by backprop with the published loss."""

    bbb_loss: str = hp.option(
        "legacy", "What is minimised: the squared error per pixel of the mean reconstruction plus the KL of a batch "
        "(legacy), or the negative evidence lower bound (elbo).", choices=LOSSES)
    bbb_init: str = hp.option(
        "upstream", "Initial means of the weights: uniform between -0.2 and 0.2 (upstream), or the network's own "
        "initial weights.", choices=STARTS)


@register_keras_serializable("pae_zoo")
class BBBAEPublished(bbb_ae.BBBAE):
    """`BBBAE` with the loss and the initial means of the code of Miani et al., arXiv 2206.15078.

    With batches of B data the loss of a datum is the squared error per pixel of the mean reconstruction plus kl_weight
    KL(q || p) B / N. The observation std is not in it: it is measured after training. Means start between -0.2 and 0.2.

    Args beyond `BBBAE`: bbb_loss ("legacy" or "elbo"), bbb_init ("upstream" or "network"): see the flags' help.

    Raises UserError for settings that do not exist.
    """

    former = None

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", bbb_loss: str = "legacy",
                 bbb_init: str = "upstream", **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        check_choice(bbb_loss, LOSSES, "bbb_loss")
        check_choice(bbb_init, STARTS, "bbb_init")
        self.bbb_loss, self.bbb_init = bbb_loss, bbb_init
        if bbb_loss == "legacy":
            self.leave_noise_out()
        if bbb_init == "upstream":
            for index, mean in enumerate(self.means):
                mean.assign(bbb_ae.uniform(MEAN_RANGE, self.seed, 2 * index + 1)(mean.shape, mean.dtype))

    def loss_of(self, nll: tf.Tensor, mse: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        if self.bbb_loss == "elbo":
            return super().loss_of(nll, mse, share)
        return share * tf.cast(tf.shape(mse)[0], share.dtype) + mse

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bbb_loss": self.bbb_loss, "bbb_init": self.bbb_init}


MODEL = BBBAEPublished
