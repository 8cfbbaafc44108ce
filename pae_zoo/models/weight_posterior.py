"""What both Laplacian autoencoders are: flags of the curvature, a Gaussian over the weights, predictions from it."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf

from pae_zoo import curvature, likelihoods, networks
from pae_zoo.core import hparams as hp
from pae_zoo.core import inputs, records, seeds
from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.core.errors import UserError, check_choice
from pae_zoo.curvature.matrices.gauss_newton import DENSE, DIAG, METHODS, Options
from pae_zoo.curvature.posteriors import build as posteriors
from pae_zoo.models.base import Autoencoder
from pae_zoo.models.bayesian import BayesianAE, Network
from pae_zoo.models.parts import weights

MC, LINEARISED = "mc", "linearised"
PREDICTIVES = (MC, LINEARISED)
WIDTH = "width"
# Of these H is a multiple of I, so that sigma enters by a factor alone.
GAUSSIANS = (likelihoods.Gaussian, likelihoods.GaussianLearned)


@dataclasses.dataclass(frozen=True)
class CurvatureFlags(records.SampleFlags, records.SharedHParams):
    """Flags of the curvature and of the Gaussian over weights."""

    curvature_method: str = hp.option("mc", "How the curvature of a batch is computed.", choices=METHODS[DIAG])
    curvature_probes: int = hp.option(1, "mc, hybrid: probes for each datum.", low=1, high=10_000)
    mix_width: int = hp.option(1024, "mix: full matrices where a layer has at most so many outputs.", low=0)
    mix_pattern: str = hp.option(
        WIDTH, "mix: where full matrices are kept: by --mix_width, or 'dense': between the dense layers before a "
        "reshape and after a flattening, whatever their widths.", choices=(WIDTH, DENSE))
    hybrid_layers: int = hp.option(2, "hybrid: layers from the last one that are exact.", low=0)
    curvature_memory: int = hp.option(2048, "MiB that the curvature may take.", low=1)
    bayesian_layers: tuple[str, ...] = hp.option(
        ("all",), "Layers with uncertain weights: all, encoder, decoder, last, or their names.")
    prior_precision: float = hp.option(1.0, "Precision gamma of the prior N(0, 1/gamma) of a weight.", above=0.0)
    hessian_scale: float = hp.option(1.0, "Factor kappa of the curvature in the precision.", above=0.0)
    predictive: str = hp.option(
        MC, "How moments and scores are found: from drawn networks, or linearised: in one pass, the network taken as "
        "linear in its weights.", choices=PREDICTIVES)


class LaplaceAE(BayesianAE):
    """An autoencoder with `posterior`, a Gaussian over the weights of encoder and decoder around their values.

    With predictive="linearised" the output is taken to be linear in the weights (Immer et al., AISTATS 2021): codes
    have the variances of J Lambda^-1 J^T. So have outputs, v, but for a diagonal Lambda, where they are carried through
    the layers one value apart from the others; and

        mean log p = sum_p [-1/2 log 2 pi sigma^2 - ((y_p - f_p)^2 + v_p) / (2 sigma^2)]
        log mean p = sum_p log N(y_p; f_p, sigma^2 + v_p)

    Drawn codes and reconstructions, and the grid over latents, are of drawn networks in any case.

    Args beyond `BayesianAE`: flags of the model.
    """

    def __init__(self, encoder, decoder, likelihood="gaussian_learned", structure: str = DIAG,
                 curvature_method: str = "mc", curvature_probes: int = 1, mix_width: int = 1024,
                 mix_pattern: str = WIDTH, hybrid_layers: int = 2, rank: int = 32, curvature_memory: int = 2048,
                 bayesian_layers: Sequence[str] = ("all",), prior_precision: float = 1.0, hessian_scale: float = 1.0,
                 predictive: str = MC, **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        given = self.encoder(keras.KerasTensor((None, *self.event_shape))).shape[-1]
        if given != self.latent_dim:
            raise UserError(f"The encoder gives {given} numbers, {self.latent_dim} codes and as many scales, but the "
                            "curvature is that of the decoder behind the encoder, so that its codes must be all it "
                            f"gives. Let the encoder's last layer have {self.latent_dim} units.")
        self.curvature_flags: dict[str, Any] = dict(
            curvature_method=curvature_method, curvature_probes=int(curvature_probes), mix_width=int(mix_width),
            mix_pattern=mix_pattern, hybrid_layers=int(hybrid_layers), curvature_memory=int(curvature_memory),
            bayesian_layers=tuple(bayesian_layers), prior_precision=float(prior_precision),
            hessian_scale=float(hessian_scale), predictive=predictive,
        )  # fmt: skip
        check_choice(mix_pattern, (WIDTH, DENSE), "mix_pattern")
        check_choice(predictive, PREDICTIVES, "predictive")
        self.graph = curvature.read((self.encoder, self.decoder))
        self.is_gaussian = type(self.likelihood) in GAUSSIANS
        if predictive == LINEARISED and not self.is_gaussian:
            raise UserError("predictive='linearised' needs a Gaussian with one sigma; received the likelihood "
                            f"{type(self.likelihood).__name__}. Take gaussian or gaussian_learned, or predictive='mc'.")
        # Structures of which one way is enough are computed exactly, whatever the method for others.
        method = "exact" if structure in ("low_rank", "last_layer") else curvature_method
        self.curvature_options: dict[str, Any] = dict(
            structure=structure, method=method, layers=tuple(bayesian_layers),
            likelihood="gaussian" if self.is_gaussian else self.likelihood, num_probes=int(curvature_probes),
            mix_width=int(mix_width), hybrid_layers=int(hybrid_layers), rank=int(rank), memory=int(curvature_memory))
        if mix_pattern == DENSE:
            self.curvature_options["mix_pattern"] = DENSE
        Options(**self.curvature_options)  # raises for what does not fit together
        self.posterior = self._build_posterior()
        self.posterior.assign_scales(prior_precision=prior_precision, kappa=hessian_scale)
        self._prepared = None

    def _build_posterior(self) -> posteriors.WeightPosterior:
        structure, layers = self.curvature_options["structure"], self.curvature_options["layers"]
        options = {"rank": self.curvature_options["rank"]} if structure == "low_rank" else {}
        example = None
        if structure == "last_layer":  # its form follows from the network: that of the curvature of any one datum
            example = curvature.ggn_fn(self.graph, tf.zeros((1, *self.event_shape)), **self.curvature_options)
        return posteriors.build(structure, self.graph, example, layers=layers, **options)

    # ---- networks ----------------------------------------------------------------------------------

    def network(self, seed: tf.Tensor) -> Network:
        """Returns the network whose weights `seed` draws from the posterior."""
        return self.network_at(*self.drawn_weights(seed))

    def drawn_weights(self, seed: tf.Tensor) -> tuple[Sequence, Sequence[tf.Tensor]]:
        mean = [tf.convert_to_tensor(variable) for variable in self.graph.variables]
        return self.graph.variables, self.posterior.sample_one(seed, self._prepared, mean)

    def stacked_decoders(self, drawn: Sequence[tf.Tensor]) -> networks.StackedDecoder:
        with self._factored():
            return super().stacked_decoders(drawn)

    def network_at(self, variables: Sequence, values: Sequence[tf.Tensor]) -> Network:
        """Returns the network with `values` in the place of some of its variables."""

        def encode(y):
            with weights.replaced(variables, values):
                return self.point(y)

        def decode(z):
            with weights.replaced(variables, values):
                return self.decoder_outputs(z)

        return Network(encode, decode)

    @contextlib.contextmanager
    def _factored(self):
        """Inside, `network` finds the factors of the precision made, once for all networks of a loop."""
        self._prepared = self.posterior.prepare()
        try:
            yield
        finally:
            self._prepared = None

    def over_networks(self, num_samples: int, seed: seeds.Seed, step: Callable, state: Any) -> Any:
        with self._factored():
            return super().over_networks(num_samples, seed, step, state)

    def draw(self, y: tf.Tensor, num_samples: int, seed: seeds.Seed) -> tuple[tf.Tensor, tf.Tensor]:
        with self._factored():
            return super().draw(y, num_samples, seed)

    # ---- moments -----------------------------------------------------------------------------------

    def moments(self, y: tf.Tensor, num_samples: int, seed: seeds.Seed) -> dict[str, tf.Tensor]:
        if self.curvature_flags["predictive"] == MC:
            return super().moments(y, num_samples, seed)
        memory = self.curvature_flags["curvature_memory"]
        found = curvature.predict(self.posterior, (self.encoder, self.decoder), y, memory=memory)
        mean, spread = found["mean"], found["variance"]
        noise = tf.broadcast_to(self.likelihood.variance(mean), tf.shape(mean))
        axes = list(range(1, y.shape.rank))
        square = tf.square(tf.cast(y, mean.dtype) - mean)

        def log_density(square, variance):
            return -0.5 * tf.reduce_sum(LOG_2PI + tf.math.log(variance) + square / variance, axis=axes)

        moments = {
            "mean": mean,
            "aleatoric_variance": noise,
            "epistemic_variance": spread,
            "latent_mean": found["latent_mean"],
            "latent_variance": tf.linalg.diag_part(found["latent_covariance"]),
            "mean_log_prob": log_density(square + spread, noise),
            "log_mean_prob": log_density(square, noise + spread),
        }
        return {name: inputs.only_finite(value, y, value.shape.rank - 1, len(axes)) for name, value in moments.items()}

    def num_draws(self, num_samples: int) -> int:
        return 0 if self.curvature_flags["predictive"] == LINEARISED else num_samples

    def measure(self, x: np.ndarray, train: Optional[np.ndarray] = None, batch_size: int = 500) -> None:
        """Sets the posterior's mean to the weights as they are, then measures on held-out x as `BayesianAE` does."""
        self.posterior.assign_mean([tf.convert_to_tensor(variable) for variable in self.graph.variables])
        super().measure(x, train, batch_size)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.curvature_flags}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Optional[dict[str, Any]] = None) -> Autoencoder:
        return super().from_config({name: hp.value_now(name, value) for name, value in config.items()}, custom_objects)
