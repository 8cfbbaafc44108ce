"""Priors of a VAE that are learned with the rest: the VampPrior and a mixture of Gaussians."""

import dataclasses
import math
from typing import Any, Callable, Optional, Union

import keras
import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core import hparams as hp
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.densities.mixture import Mixture, by_rows
from pae_zoo.models.parts import labels
from pae_zoo.models.parts.mixtures import UniformMixture
from pae_zoo.models.parts.posteriors import DiagonalPosterior, diag_normal

STANDARD, VAMP, MIXTURE = KINDS = ("standard", "vamp", "mixture")
#: of models whose q(z|x) is not the encoder's Gaussian alone
WITHOUT_VAMP = (STANDARD, MIXTURE)
# Std of the noise on the data that pseudo-inputs start from: equal ones would stay equal.
START_NOISE = 0.01


def option(kinds: tuple[str, ...]) -> Any:
    """Returns the flag of the prior of a model that takes `kinds`."""
    words = {STANDARD: "N(0, I)", VAMP: "'vamp', the mean of q(z|u) over learned pseudo-inputs u",
             MIXTURE: "'mixture', learned Gaussians"}  # fmt: skip
    return hp.option(STANDARD, f"Prior of the latents: {'; '.join(words[kind] for kind in kinds)}. Learned ones need "
                     "--kl=mc; --condition=label takes it by itself.", choices=kinds)


@dataclasses.dataclass(frozen=True)
class PriorFlags(labels.LabelFlags):
    """Flags of the prior of the latents."""

    prior: str = option(KINDS)
    prior_components: int = hp.option(64, "Pseudo-inputs, or Gaussians, of a learned prior.", low=1, high=10_000)


@register_keras_serializable("pae_zoo")
class PseudoInputs(keras.layers.Layer):
    """The pseudo-inputs u_1 .. u_M of a VampPrior, in the space of y: a weight (count, values of y)."""

    def __init__(self, event_shape: tuple[int, ...], count: int, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.event_shape, self.count, self.seed = tuple(event_shape), int(count), int(seed)
        shape = (self.count, math.prod(self.event_shape))
        self.values = self.add_weight(shape=shape, initializer=self.noise, name="values")
        self.built = True

    def noise(self, shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        """Returns the standard normal numbers that pseudo-inputs start from."""
        return seeds.normal(shape, seeds.stream(self.seed, "priors/pseudo_inputs"), tf.as_dtype(dtype or "float32"))

    def y(self, dtype: tf.DType) -> tf.Tensor:
        """Returns the pseudo-inputs (count, *event)."""
        return tf.reshape(tf.cast(self.values.value, dtype), (self.count, *self.event_shape))

    def start_at(self, y: tf.Tensor) -> None:
        """Sets the pseudo-inputs to `count` of y (n, *event), evenly chosen, with a little noise."""
        rows = np.linspace(0, len(y) - 1, self.count).astype(int)
        chosen = tf.reshape(tf.cast(tf.gather(y, rows), self.values.dtype), self.values.shape)
        self.values.assign(chosen + START_NOISE * self.noise(tuple(self.values.shape), self.values.dtype))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "event_shape": self.event_shape, "count": self.count, "seed": self.seed}


class MeanOfPosteriors(UniformMixture):
    """p(z) = 1/M sum_m q(z|u_m), of the Gaussians q of M pseudo-inputs (Tomczak & Welling, arXiv 1705.07120, eq. 8)."""

    @property
    def posterior(self) -> DiagonalPosterior:
        """q(z|u_m) of all pseudo-inputs, mean and stddev (M, K)."""
        normal = self.components_distribution.distribution
        return DiagonalPosterior(normal.loc, normal.scale)

    def log_components(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns log q(z|u_m) / M, nats, (n, K) -> (n, M)."""
        return self.posterior.log_prob(rows[:, None]) - math.log(self._num)

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return self._by_rows(lambda rows: tf.reduce_logsumexp(self.log_components(rows), axis=-1), value, ())

    def precision(self, u: tf.Tensor) -> tf.Tensor:
        """Returns a positive definite curvature of -log p at u, (..., K) -> (..., K, K), as `Mixture.precision`."""
        inverse = 1.0 / tf.square(self.posterior.stddev)
        return tf.linalg.diag(self._by_rows(
            lambda rows: tf.matmul(tf.nn.softmax(self.log_components(rows)), inverse), u, self.event_shape[:1]))

    def _by_rows(self, function: Callable[[tf.Tensor], tf.Tensor], u: tf.Tensor, ending: Any) -> tf.Tensor:
        return by_rows(function, u, self.event_shape[0], self._num, tuple(ending))


def make(kind: str, components: int, model: Any) -> Optional[keras.layers.Layer]:
    """Returns the layer that holds the weights of the prior of a VAE, None of N(0, I); raises UserError."""
    if kind not in model.takes_priors:
        known = ", ".join(model.takes_priors)
        raise UserError(f"The prior of {type(model).__name__} is one of {known}; received {kind!r}."
                        if kind in KINDS else f"prior is one of {known}; received {kind!r}.")
    if model.num_labels and kind == VAMP:
        raise UserError("prior='vamp' has no labels; received num_labels="
                        f"{model.num_labels}. Take 'standard', one Gaussian for each label, or 'mixture'.")
    if kind == STANDARD and not model.num_labels:
        return None
    if model.kl != "mc":
        raise UserError(f"prior={kind!r} has no closed form of the KL; set kl='mc'. Received kl={model.kl!r}.")
    if components < 1:
        raise UserError(f"A learned prior has 1 component or more; received prior_components={components}.")
    # Densities are never computed in half precision.
    options = dict(seed=model.seed, dtype=keras.config.dtype_policy().variable_dtype, name="prior")
    if kind == VAMP:
        return PseudoInputs(model.event_shape, components, **options)
    if not model.num_labels:
        return Mixture(model.latent_dim, components, student=False, **options)
    per_label = max(1, components // model.num_labels) if kind == MIXTURE else 1
    return Mixture(model.latent_dim, per_label * model.num_labels, student=False, num_labels=model.num_labels,
                   **options)


def distribution(held: Union[PseudoInputs, Mixture], model: Any) -> Any:
    """Returns the density of the latents that `held` and the encoder of a VAE make, event shape (K,)."""
    if isinstance(held, Mixture):
        return held.distribution(model.float_type, model.label)
    posterior = model.encoder_posterior(held.y(model.float_type))
    return MeanOfPosteriors(diag_normal(posterior.mean, posterior.stddev), held.count, name="MeanOfPosteriors")
