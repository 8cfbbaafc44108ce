"""What models share whose latents have a density of their own: flags, spaces, building."""

import dataclasses
from typing import TYPE_CHECKING, Any, Optional

import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo import densities, flows
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.models.parts import labels


@dataclasses.dataclass(frozen=True)
class FlowFlags(labels.LabelFlags):
    """Flags of the density of the latents."""

    density: str = hp.option(
        "mixture_flow", "Density of the latents: a Gaussian, mixtures by EM, a flow, a flow that starts from a mixture "
        "of Student t, or flow matching.", choices=tuple(densities.NAMES), before="flow")
    density_factors: int = hp.option(
        -1, "Columns of the factors behind each covariance of a mixture (0: whole covariances; -1: 0 up to 64 latents, "
        "16 above).", low=-1, high=10_000, before=0)
    density_components: int = hp.option(0, "Components of a mixture (0: chosen on validation data).", low=0,
                                        high=10_000)
    flow: tuple[str, ...] = hp.option(
        ("nsf",), "Flow over the latents: a preset (nice, realnvp, nsf, maf), or layers from the base to the codes, "
        "such as lu,spline,swap,affine.")
    flow_depth: int = hp.option(4, "Blocks of a preset; a list of layers is taken as it is.", low=1, high=200, smoke=2)
    flow_units: tuple[int, ...] = hp.option((128, 128), "Widths of the hidden layers of the flow's conditioners.",
                                            low=1, high=2**20, smoke=16)
    flow_bins: int = hp.option(8, "Bins of the flow's splines.", low=2, high=10_000, smoke=4)


class FlowLatent:
    """A model whose latents are z = F(u), u of the base of `self.flow`: N(0, I), or a mixture."""

    flow: flows.Flow
    latent_dim: int
    seed: int
    label: Optional[tf.Tensor]
    #: options of the density that the model fixes
    flow_options: dict = {}
    #: the density that a model built without one has
    default_density = "flow"

    if TYPE_CHECKING:  # of the autoencoder that this is mixed into

        @property
        def float_type(self) -> tf.DType: ...

    def take_flow(self, flow: Optional[flows.Flow]) -> None:
        """Sets `self.flow`, `default_density` for None; raises UserError for a density of another size."""
        if flow is None:
            flow = densities.make(self.default_density, self.latent_dim, seed=self.seed, name="flow",
                                  **self.flow_options)
        if flow.num_dims != self.latent_dim:
            raise UserError(f"The flow has {flow.num_dims} dimensions, the encoder gives {self.latent_dim} latents. "
                            "Build the flow with the number of latents.")
        self.flow, self.num_labels = flow, flow.num_labels

    def prior(self) -> tfp.distributions.Distribution:
        """Returns the density of the base space u, event shape (latent_dim,): N(0, I), or the fitted mixture."""
        return self.flow.base_distribution(self.float_type, self.label)

    def latent_from_base(self, u: Any) -> tf.Tensor:
        """Returns z = F(u) for u (..., K)."""
        return tf.cast(self.flow.forward(u)[0], self.float_type)

    def base_from_latent(self, z: Any) -> tf.Tensor:
        """Returns u = F^-1(z) for z (..., K)."""
        return tf.cast(self.flow.inverse(z)[0], self.float_type)

    def log_prob_latent(self, z: Any) -> tf.Tensor:
        """Returns log p(z) = log p(u) + log |det dF^-1/dz|, u = F^-1(z), nats, (..., K) -> (...)."""
        return tf.cast(self.flow.log_prob(z, label=self.label), self.float_type)

    def log_joint_latent(self, z: Any) -> tf.Tensor:
        """Returns log p(z, c) of every label c, nats, (..., K) -> (..., C); raises UserError without labels."""
        return tf.cast(self.flow.log_label_prob(z) + self.flow.log_prob(z)[..., None], self.float_type)

    def count_labels(self, labels: Any, weights: Any = None) -> None:
        """Takes the shares of labels from those of the training data, (n,), where the mixture has components."""
        if self.flow.base is not None and self.flow.base.fitted_components:  # others count them in fitting
            self.flow.base.count_labels(labels, weights)

    @classmethod
    def options(cls, hparams: Any, total_steps: int) -> dict[str, Any]:
        found = super().options(hparams, total_steps)  # pyright: ignore[reportAttributeAccessIssue]
        kept = {name: value for name, value in found.items()
                if not name.startswith(("flow", "density")) and name != "num_labels"}
        flow = densities.make(
            hparams.density, hparams.latent_dim, layers=hparams.flow, depth=hparams.flow_depth,
            hidden_units=hparams.flow_units, bins=hparams.flow_bins, components=cls.components_of(hparams),
            factors=None if hparams.density_factors < 0 else hparams.density_factors,
            noise=getattr(hparams, "flow_noise", 0.0), num_labels=found.get("num_labels", 0), seed=hparams.seed,
            name="flow", **cls.flow_options,
        )  # fmt: skip
        return {**kept, "flow": flow}

    @classmethod
    def components_of(cls, hparams: Any) -> int:
        """Returns the number of components of the mixture; 0 where fitting chooses it, or there is none."""
        return hparams.density_components
