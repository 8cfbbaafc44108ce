"""vlae_published: vlae with the search of Park et al., ICML 2019, through which everything is differentiated."""

from keras.saving import register_keras_serializable

from pae_zoo.core import records
from pae_zoo.models import vlae

SETTINGS = {"num_updates": 4, "update_lr": 0.5, "update_schedule": "harmonic", "search": "newton",
            "search_gradient": "full", "warmup_steps": 0, "test_updates": 0}

#: flags of the variational Laplace autoencoder as published
HParams = records.with_defaults(vlae.HParams, {**SETTINGS, "lr_schedule": "constant"})


@register_keras_serializable("pae_zoo")
class VLAEPublished(vlae.VLAE):
    """`VLAE` with the settings of Park, Kim & Kim, Variational Laplace Autoencoders, ICML 2019, arXiv 2211.17267.

    Four updates of lengths 1/2, 1/4, 1/6 and 1/8 from the encoder's mean, in training and at test, all of them
    differentiated through; no warm-up.

    Args: those of `VLAE`, with defaults of its own.
    """

    divides = False

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **{**SETTINGS, **kwargs})


MODEL = VLAEPublished
