"""What models share whose latents a normalizing flow describes: flags, spaces, building."""

import dataclasses
from typing import TYPE_CHECKING, Optional

import tensorflow as tf

from pae_zoo import flows
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class FlowFlags:
    """Flags of a normalizing flow over the latents."""

    flow: tuple[str, ...] = hp.option(
        ("nsf",), "Flow over the latents: a preset (nice, realnvp, nsf, maf), or layers from the base to the codes, "
        "such as lu,spline,swap,affine.")
    flow_depth: int = hp.option(8, "Blocks of a preset; a list of layers is taken as it is.", low=1, high=200, smoke=2)
    flow_units: tuple[int, ...] = hp.option((128, 128), "Widths of the hidden layers of the flow's conditioners.",
                                            low=1, high=2**20, smoke=16)
    flow_bins: int = hp.option(16, "Bins of the flow's splines.", low=2, high=10_000, smoke=4)


class FlowLatent:
    """A model whose latents are z = F(u) with u ~ N(0, I), the flow F being `self.flow`."""

    flow: flows.Flow
    latent_dim: int
    seed: int
    #: options of the flow that the model fixes
    flow_options: dict = {}

    if TYPE_CHECKING:  # of the autoencoder that this is mixed into

        @property
        def float_type(self) -> tf.DType: ...

    def take_flow(self, flow: Optional[flows.Flow]) -> None:
        """Sets `self.flow`, the preset "nsf" for None; raises UserError for a flow of another size."""
        if flow is None:
            flow = flows.Flow(self.latent_dim, seed=self.seed, name="flow", **self.flow_options)
        if flow.num_dims != self.latent_dim:
            raise UserError(f"The flow has {flow.num_dims} dimensions, the encoder gives {self.latent_dim} latents. "
                            "Build the flow with the number of latents.")
        self.flow = flow

    def latent_from_base(self, u) -> tf.Tensor:
        """Returns z = F(u) for u (..., K)."""
        return tf.cast(self.flow.forward(u)[0], self.float_type)

    def base_from_latent(self, z) -> tf.Tensor:
        """Returns u = F^-1(z) for z (..., K)."""
        return tf.cast(self.flow.inverse(z)[0], self.float_type)

    def log_prob_latent(self, z) -> tf.Tensor:
        """Returns log p(z) = log N(F^-1(z); 0, I) + log |det dF^-1/dz|, nats, (..., K) -> (...)."""
        return tf.cast(self.flow.log_prob(z), self.float_type)

    @classmethod
    def options(cls, hparams, total_steps: int) -> dict:
        found = super().options(hparams, total_steps)  # pyright: ignore[reportAttributeAccessIssue]
        kept = {name: value for name, value in found.items() if not name.startswith("flow")}
        flow = flows.Flow(
            hparams.latent_dim, layers=hparams.flow, depth=hparams.flow_depth, hidden_units=hparams.flow_units,
            bins=hparams.flow_bins, noise=getattr(hparams, "flow_noise", 0.0), seed=hparams.seed, name="flow",
            **cls.flow_options,
        )  # fmt: skip
        return {**kept, "flow": flow}
