"""iaf_published: iaf with the flow of the code of Park et al., ICML 2019, which does not see the datum."""

import dataclasses
from typing import Any

from keras.saving import register_keras_serializable

from pae_zoo.core import hparams as hp
from pae_zoo.flows.conditioners import STARTS
from pae_zoo.models import iaf


@dataclasses.dataclass(frozen=True)
class HParams(iaf.HParams):
    """Flags of the VAE with the published inverse autoregressive flow."""

    iaf_context: bool = hp.option(False, "Whether the flow sees the encoder's last hidden layer.")
    iaf_start: str = hp.option("vlae", "Start of the masked networks: vlae: random, as in the published code, or zero "
                               "(gates alone).", choices=STARTS)


@register_keras_serializable("pae_zoo")
class IAFPublished(iaf.IAF):
    """`IAF` with the flow of the code of Park et al., Variational Laplace Autoencoders, ICML 2019.

    Its masks remove the context too, so that the flow is the same for all data, and its last kernels start at random,
    with gates anywhere between closed and open.

    Args beyond `IAF`: iaf_context, iaf_start ("vlae" or "zero"): see the flags' help.
    """

    former = None

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", iaf_context: bool = False,
                 iaf_start: str = "vlae", **kwargs):
        # Before the blocks, which are built by them.
        self.sees_context, self.flow_start = bool(iaf_context), iaf_start
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "iaf_context": self.sees_context, "iaf_start": self.flow_start}


MODEL = IAFPublished
