"""rbf_vae: variational autoencoder whose observation std grows away from the codes, by radial basis functions."""

import dataclasses
import functools
from typing import Any, Optional, Union

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from keras.saving import register_keras_serializable

from pae_zoo import laplace, likelihoods
from pae_zoo.core import distributions, fit_data, records, seeds, trainable
from pae_zoo.core import hparams as hp
from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.models import base, vae
from pae_zoo.models.parts import geometry_decoders
from pae_zoo.models.parts.rbf_precision import PUBLISHED, RECIPES, RELEASED, STURDY, RBFPrecision, rows

tfd = tfp.distributions

# Stream of the draws that the recipe "released" fits to.
ROWS = "rbf_vae/rows"
_SETTINGS = {"epochs": 5, "batch_size": 128, "learning_rate": 3e-2}


@dataclasses.dataclass(frozen=True)
class HParams(vae.HParams):
    """Flags of the variational autoencoder with RBF variances; shared training flags drive its first stage."""

    likelihood: str = records.with_default("likelihood", "gaussian")
    rbf_centres: int = hp.option(10, "Radial basis functions: clusters of the codes.", low=1, high=100_000)
    rbf_alpha: float = hp.option(1.0, "published, released: factor of the mean distance to a centre, or its square, "
                                 "that is its bandwidth.",
                                 above=0.0)
    rbf_floor: float = hp.option(0.1, "published, released: precision zeta far from all codes, where the std is "
                                 "zeta^-1/2.", above=0.0)
    rbf_recipe: str = hp.option(
        PUBLISHED, "How the precision is fitted: to the residuals (published), to the log-variances of "
        "--likelihood=gaussian_decoder (sturdy), or as the code of Syrota et al. does (released).", choices=RECIPES)
    rbf_epochs: int = hp.option(5, "Passes over the codes that fit the precision.", low=1, smoke=2)
    rbf_batch_size: int = hp.option(128, "Codes per step of that fit.", low=1, smoke=32)
    rbf_learning_rate: float = hp.option(3e-2, "Initial learning rate of that fit.", above=0.0)


@register_keras_serializable("pae_zoo")
class GivenGaussian(likelihoods.Wrapping):
    """Gaussian whose output is [mean, log-variance] along the last axis, taken as they are.

        log p(y|z) = -1/2 sum_p (log 2 pi + s_p + exp(-s_p) (y_p - mean_p)^2)

    Args: component, the observation model of the first stage, whose weights are kept.
    """

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        mean, log_variance = tf.split(output, 2, axis=-1)
        return self._independent(distributions.Normal(mean, tf.exp(0.5 * log_variance)))

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        return tf.split(output, 2, axis=-1)[0]

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        return tf.exp(tf.split(output, 2, axis=-1)[1])

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        output, y = self._both(output, y, factor=2)
        mean, log_variance = tf.split(output, 2, axis=-1)
        square = tf.square(y - mean)
        return -0.5 * self._sum(log_variance + square * tf.exp(-log_variance)) - (
            0.5 * self.num_values * LOG_2PI)

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Likelihood.score_and_fisher`; g = [mean, s], and the Fisher information of s is 1/2."""
        self._no_scale(scale)
        output, y = self._both(output, y, factor=2)
        mean, log_variance = tf.split(output, 2, axis=-1)
        precision = tf.exp(-log_variance)
        score = tf.concat([precision * (y - mean), 0.5 * (precision * tf.square(y - mean) - 1.0)], axis=-1)
        return score, tf.concat([precision, 0.5 * tf.ones_like(precision)], axis=-1)


@register_keras_serializable("pae_zoo")
class RBFVAE(vae.VAE):
    """VAE with p(y|z) = N(mu(z), sigma(z)^2), sigma^2 = 1/beta(z) + 1e-4 (Arvanitidis et al., ICLR 2018, section 4).

    The first stage trains a VAE with the observation model `likelihood`. The second freezes it and fits the precision
    beta, a sum of radial basis functions of z, to the codes and residuals of the training data (`RBFPrecision`): near
    the codes sigma is the error of the decoder, far from them it grows to zeta^-1/2. `fit` runs both. Before the second
    stage sigma is that of `likelihood`; after it `decode`, `elbo`, `log_likelihood` and all scores have sigma(z).

    Args beyond `VAE`: rbf_centres, rbf_alpha, rbf_floor, rbf_recipe: see the flags' help;
      rbf_settings: options of plain `fit` for the second stage: epochs, batch_size, learning_rate.

    Raises UserError for an observation model without a variance of its own, or that the recipe cannot take.
    """

    divides = False
    offers = vae.VAE.offers - {"impute"}
    may_take_gaps = False
    impute, impute_mean = base.Autoencoder.impute, base.Autoencoder.impute_mean

    def __init__(self, encoder, decoder, likelihood="gaussian", rbf_centres: int = 10, rbf_alpha: float = 1.0,
                 rbf_floor: float = 0.1, rbf_recipe: str = PUBLISHED, rbf_settings: Optional[dict] = None, **kwargs):
        super().__init__(encoder, decoder, likelihood=likelihood, **kwargs)
        component = self.likelihood.component
        if self.likelihood.is_discrete or component.is_discrete:
            raise UserError(f"rbf_vae has Gaussian noise; the likelihood {type(component).__name__} has none. Take "
                            "gaussian, gaussian_learned, gaussian_pixel or gaussian_decoder.")
        if rbf_recipe == STURDY and not isinstance(component, likelihoods.GaussianDecoder):
            raise UserError("rbf_recipe='sturdy' follows the log-variances of a decoder; the likelihood "
                            f"{type(component).__name__} has none. Take gaussian_decoder, or the recipe published.")
        self.rbf_settings = {**_SETTINGS, **(rbf_settings or {})}
        if set(self.rbf_settings) != set(_SETTINGS):
            raise UserError(f"rbf_settings takes {', '.join(_SETTINGS)}; received {sorted(rbf_settings or ())}.")
        self.rbf_flags = dict(rbf_centres=int(rbf_centres), rbf_alpha=float(rbf_alpha), rbf_floor=float(rbf_floor),
                              rbf_recipe=rbf_recipe)
        self.rbf = RBFPrecision(self.latent_dim, self.likelihood.num_values, rbf_centres, rbf_alpha, rbf_floor,
                                rbf_recipe, seed=self.seed, name="rbf")

    def observation_model(self, likelihood: likelihoods.Likelihood) -> likelihoods.Likelihood:
        return likelihood if isinstance(likelihood, GivenGaussian) else GivenGaussian(likelihood, name="likelihood")

    # ---- decoder -----------------------------------------------------------------------------------

    def first_stage_outputs(self, z: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns what the decoder network gives for z (..., K)."""
        return super().decoder_outputs(z, training)

    def decoder_outputs(self, z: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns [mean, log sigma^2] along the last axis for z (..., K), with any number of leading axes."""
        outputs = self.first_stage_outputs(z, training)
        component = self.likelihood.component
        mean = component.mean(outputs)
        variance = tf.cast(tf.reshape(self.rbf.variance(z), tf.shape(mean)), mean.dtype)
        variance = tf.where(self.rbf.fitted.value > 0, variance, component.variance(outputs))
        return self._drawn_from(tf.concat([mean, tf.math.log(variance)], axis=-1), z, training)

    def system(self, y: tf.Tensor, training: bool = False) -> laplace.System:
        """Returns the model of p(y, z) with mean and std linearised, for y (batch, *event)."""
        *event, channels = self.event_shape

        def shaped(values):
            return tf.reshape(values, (-1, *event, 2 * channels))

        def outputs(z):
            return tf.reshape(self.decoder_outputs(z), (-1, 2 * self.likelihood.num_values))

        def score_and_fisher(values):
            score, fisher = self.likelihood.score_and_fisher(shaped(values), y)
            return tf.reshape(score, tf.shape(values)), tf.reshape(fisher, tf.shape(values))

        return laplace.FunctionSystem(outputs, lambda values: self.likelihood.log_prob(shaped(values), y),
                                      score_and_fisher)

    def mean_and_std(self, z: TensorLike) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mu(z) and sigma(z) for z (n, K), each (n, *event)."""
        outputs = self.decoder_outputs(self.latents(z))
        return self.likelihood.mean(outputs), tf.sqrt(self.likelihood.variance(outputs))

    def mean_and_root_precision(self, z: TensorLike) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mu(z) and beta(z)^1/2, each (n, *event): wrong as a std, kept to repeat the published baseline.

        The code of Syrota et al. (arXiv 2408.07507) takes beta for the variance in the metric of its RBF geodesics, so
        that they avoid the data and seek what is far from them. Use `mean_and_std`.
        """
        z = self.latents(z)
        mean = self.likelihood.component.mean(self.first_stage_outputs(z))
        return mean, tf.cast(tf.reshape(tf.sqrt(self.rbf.precision(z)), tf.shape(mean)), mean.dtype)

    def geometry_decoder(self, num_members: int = 0, seed: Optional[seeds.Seed] = None) -> Any:
        """Returns an object with `mean_and_std(z)`; the arguments change nothing."""
        return geometry_decoders.MeanAndStd(self.mean_and_std)

    # ---- training ----------------------------------------------------------------------------------

    def adapt(self, x: np.ndarray) -> None:
        # What would stop the second stage is told before the first one is trained.
        if len(x) < self.rbf.num_centres:
            raise UserError(f"{len(x)} training data cannot make {self.rbf.num_centres} clusters. Take --rbf_centres "
                            "of at most that, or more data.")
        super().adapt(x)

    # The second stage fits the residuals of x.
    objective_takes = ()

    def reconstruction_log_prob(self, z: tf.Tensor, y: tf.Tensor, seed: tf.Tensor, training: bool) -> tf.Tensor:
        outputs = self.first_stage_outputs(z, training)
        return self.likelihood.component.log_prob(outputs, y, scale=self.scale_now())

    @property
    def trained_variables(self) -> list:
        """The variables of the first stage; the precision is fitted by its own objective."""
        own = {id(v) for v in self.rbf.trainable_variables}
        return [v for v in self.trainable_variables if id(v) not in own]

    def stage_rows(self, x: np.ndarray, batch_size: int = 1000) -> np.ndarray:
        """Returns what the precision is fitted to: for x (n, *event) the mean of q(z|x) and the target of every value.

        Side by side, (n, K + D) float32, and held in memory whole. The recipe "released" has a draw for the mean.
        """
        seed = seeds.stream((self.seed, 0), ROWS)
        found = [self._stage_row(trainable.to_float(x[i : i + batch_size]), seeds.fold_in(seed, i))
                 for i in range(0, len(x), batch_size)]
        return np.concatenate([rows(z.numpy(), target.numpy()) for z, target in found])

    @functools.cached_property
    def _stage_row(self):
        component = self.likelihood.component

        def row(x, seed):
            y, _ = self.preprocess(x)
            z = self.point(y)
            if self.rbf.recipe == RELEASED:
                z = self.inferred(y).from_noise(self._noise(y, 1, seed))[0][0]
            outputs = self.first_stage_outputs(z)
            if self.rbf.recipe == STURDY:
                return z, component.log_variance(outputs)
            return z, tf.square(y - component.mean(outputs))

        return tf.function(functools.partial(row), autograph=False)

    def later_stages(self, hparams: Any) -> list[base.Stage]:
        settings = {name: getattr(hparams, f"rbf_{name}") for name in _SETTINGS}
        return [base.Stage("rbf", self.rbf, self.stage_rows, settings)]

    reads_again = True

    def after_fit(self, history: keras.callbacks.History, train: fit_data.Source, held_out: Optional[fit_data.Source],
                  steps: Optional[int], verbose: Union[str, int, None]) -> None:
        """Fits the precision to the codes; the history has its loss as rbf_loss, ..."""
        stage = base.Stage("rbf", self.rbf, self.stage_rows, self.rbf_settings)
        self.fit_stage(history, train, held_out, steps, verbose, stage)

    def findings(self) -> dict[str, float]:
        """Returns how many clusters had no spread and took that of all codes: rbf/clusters_alone."""
        return {"rbf/clusters_alone": float(self.rbf.num_alone)}

    def serving_signatures(self) -> dict[str, Any]:
        """Returns the signature decode_with_std: at z the image, the mean of y and its std, in the units of y."""

        def decode_with_std(z):
            mean, std = self.mean_and_std(z)
            return {"x": self.to_data(mean), "mean": mean, "std": std}

        return {"decode_with_std": (("z",), decode_with_std)}

    # ---- building ----------------------------------------------------------------------------------

    @classmethod
    def options(cls, hparams: Any, total_steps: int) -> dict[str, Any]:
        found = super().options(hparams, total_steps)
        settings = {name: found.pop(f"rbf_{name}") for name in _SETTINGS}
        return {**found, "rbf_settings": settings}

    @classmethod
    def length_matters(cls, hparams: Any) -> bool:
        return True  # the precision is fitted to the codes of the first stage as it ends

    @classmethod
    def skips_first_stage(cls, hparams: Any) -> bool:
        return bool(hparams.init_workdir)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.rbf_flags, "rbf_settings": self.rbf_settings}


MODEL = RBFVAE
