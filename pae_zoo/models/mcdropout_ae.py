"""mcdropout_ae: autoencoder whose dropout stays on at prediction, so that every pass is another network."""

import dataclasses
from typing import Sequence

import keras
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo import networks
from pae_zoo.core import records
from pae_zoo.core.errors import UserError
from pae_zoo.models.bayesian import BayesianAE, Network
from pae_zoo.networks.config import Options


@dataclasses.dataclass(frozen=True)
class HParams(records.SampleFlags, records.SharedHParams):
    """Flags of the autoencoder with Monte Carlo dropout."""

    dropout_rate: float = records.with_default("dropout_rate", 0.2, Options)


@register_keras_serializable("pae_zoo")
class MCDropoutAE(BayesianAE):
    """Autoencoder trained with dropout, p(y|z = e(y)) maximised, and dropout kept for predictions.

    Each pass has masks of its own, and each datum in it (Gal & Ghahramani, arXiv 1506.02142, section 4). `encode`,
    `decode` and calling the model drop nothing.

    Raises UserError where encoder and decoder hold no `pae_zoo.networks.Dropout` with a rate above 0.
    """

    # Masks differ between data in any case.
    draws_are_shared = False

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        layers = [layer for net in (encoder, decoder) for layer in net._flatten_layers()]
        if any(isinstance(layer, keras.layers.Dropout) for layer in layers):
            raise UserError("keras.layers.Dropout draws by hidden state, which does not repeat; use "
                            "pae_zoo.networks.Dropout in its place.")
        if not any(isinstance(layer, networks.Dropout) and layer.rate > 0 for layer in layers):
            raise UserError("The networks hold no dropout layer with a rate above 0, so all passes would be equal. Set "
                            "--dropout_rate above 0 and take networks that have dropout, such as mlp or conv.")

    def network(self, seed: tf.Tensor) -> Network:
        """Returns the networks with the masks that `seed` draws, one for each datum."""

        def dropping(net):
            def apply(values):
                with networks.dropout_noise(seed, always=True):
                    return net(values)

            return apply

        return Network(dropping(lambda y: self.encoder_outputs(y)[0]), dropping(self.decoder_outputs))

    def stacked_decoders(self, drawn: Sequence[tf.Tensor]) -> networks.StackedDecoder:
        """Returns decoders with fixed masks, one for all latents: that of seed s is what `network` gives one datum."""
        return networks.StackedDecoder.masked(self.decoder, drawn)


MODEL = MCDropoutAE
