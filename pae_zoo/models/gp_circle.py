"""gp_circle: Gaussian process decoder over whitened principal components, the picture of a ring with a hole."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any, Optional, Sequence

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from keras.saving import register_keras_serializable

from pae_zoo import likelihoods
from pae_zoo.core import hparams as hp
from pae_zoo.core import inputs, records, seeds, trainable
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.geometry import gaussian_process
from pae_zoo.models import base
from pae_zoo.models.parts import builder
from pae_zoo.models.parts.posteriors import standard_normal, standard_normal_log_prob

tfd = tfp.distributions

# Below this share of the largest variance a direction of the data is none.
LEAST_VARIANCE = 1e-8
# Log-variances go through as they are between these: far from them the likelihood's soft clip is the identity.
LOG_VARIANCES = (-30.0, 30.0)


@dataclasses.dataclass(frozen=True)
class HParams(records.SharedHParams):
    """Flags of the Gaussian process decoder, which has no networks and no step that learns."""

    dataset: str = records.with_default("dataset", "circle")
    latent_dim: int = records.with_default("latent_dim", 2)
    likelihood: str = records.with_default("likelihood", "gaussian_decoder")
    epochs: int = records.with_default("epochs", 1)
    num_points: int = hp.option(100, "Training data that the Gaussian process is conditioned on.", low=2, high=4000)
    length_scale: float = hp.option(0.5, "Length scale l of the kernel, in units of the whitened latents.", above=0.0)
    signal_std: float = hp.option(1.0, "Std of the Gaussian process before it has seen data.", above=0.0)
    noise_std: float = hp.option(0.1, "Std of the observation noise.", above=0.0)
    num_outputs: int = hp.option(
        0, "Outputs D' >= D of the geometry, for data that lie in a plane of a space of D' dimensions (0: D).", low=0)
    image_size: int = records.unread("image_size")
    crop: str = records.unread("crop")
    grey: bool = records.unread("grey")
    invert: bool = records.unread("invert")
    refine: str = records.unread("refine")
    refine_updates: int = records.unread("refine_updates")
    augment: tuple[str, ...] = records.unread("augment")
    rotate_degrees: float = records.unread("rotate_degrees")
    encoder: str = records.unread("encoder")
    decoder: str = records.unread("decoder")
    output: str = records.unread("output")
    scale: float = records.unread("scale")
    optimizer: str = records.unread("optimizer")
    adam_epsilon: float = records.unread("adam_epsilon")
    learning_rate: float = records.unread("learning_rate")
    lr_schedule: str = records.unread("lr_schedule")
    weight_decay: float = records.unread("weight_decay")
    clip_norm: float = records.unread("clip_norm")
    adam_beta1: float = records.unread("adam_beta1")
    adam_beta2: float = records.unread("adam_beta2")
    lr_warmup: int = records.unread("lr_warmup")
    lr_factor: float = records.unread("lr_factor")
    lr_patience: int = records.unread("lr_patience")
    lr_drops: tuple[int, ...] = records.unread("lr_drops")
    lr_period: int = records.unread("lr_period")
    lr_stretch: float = records.unread("lr_stretch")
    lr_floor: float = records.unread("lr_floor")
    clip_value: float = records.unread("clip_value")
    log_norms: bool = records.unread("log_norms")
    patience: int = records.unread("patience")


@register_keras_serializable("pae_zoo")
class WhitenedPCA(keras.layers.Layer):
    """y (batch, *event) -> z (batch, K): the first principal components, each with variance 1 over the data of `adapt`.

        z = (y - mean) V / sqrt(lambda)

    Before `adapt` it gives zeros. Directions point to where their largest component is positive.
    """

    def __init__(self, latent_dim: int, **kwargs):
        super().__init__(autocast=False, **kwargs)  # full precision under any policy
        self.latent_dim = int(latent_dim)

    def build(self, input_shape: Any) -> None:
        if self.built:
            return
        size = math.prod(input_shape[1:])
        self.mean = self.add_weight(name="mean", shape=(size,), initializer="zeros", trainable=False)
        shape = (size, self.latent_dim)
        self.matrix = self.add_weight(name="matrix", shape=shape, initializer="zeros", trainable=False)
        self.built = True

    def call(self, y: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(trainable.to_float(y), (-1, self.mean.shape[0]))
        return tf.matmul(flat - tf.cast(self.mean, flat.dtype), tf.cast(self.matrix, flat.dtype))

    def compute_output_shape(self, input_shape: Sequence[Optional[int]]) -> tuple:
        return (input_shape[0], self.latent_dim)

    def adapt(self, y: np.ndarray) -> np.ndarray:
        """Sets mean and directions from data y (n, *event) and returns their latents (n, K), float64.

        Raises UserError where the data do not spread in K directions.
        """
        flat = np.asarray(y, np.float64).reshape(len(y), -1)
        mean = flat.mean(axis=0)
        _, singular, axes = np.linalg.svd(flat - mean, full_matrices=False)
        variances = singular**2 / len(flat)
        spread = int(np.sum(variances > LEAST_VARIANCE * max(variances[0], 1e-300)))
        if spread < self.latent_dim:
            raise UserError(f"The {len(flat)} training data of the Gaussian process spread in {spread} directions; "
                            f"--latent_dim={self.latent_dim} is more. Lower it, or raise --num_points.")
        axes = axes[: self.latent_dim]
        axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
        matrix = axes.T / np.sqrt(variances[: self.latent_dim])
        self.mean.assign(mean)
        self.matrix.assign(matrix)
        return (flat - mean) @ matrix

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "latent_dim": self.latent_dim}


@register_keras_serializable("pae_zoo")
class GaussianProcessLayer(keras.layers.Layer):
    """z (batch, K) -> (batch, *event), the last axis doubled: posterior mean and log of the predictive variance.

        mean = m(z),  variance = c(z, z) + noise_std^2, the same for every output

    See `geometry.gaussian_process.GaussianProcess`, which it holds the factors of as float64 weights that do not train.
    Before `condition` it is the process that has seen no data.
    """

    def __init__(self, event_shape, num_points: int, length_scale: float = 0.5, signal_std: float = 1.0,
                 noise_std: float = 0.1, num_outputs: int = 0, **kwargs):
        super().__init__(autocast=False, **kwargs)  # full precision under any policy
        self.event_shape = tuple(int(size) for size in event_shape)
        self.scales = dict(length_scale=float(length_scale), signal_std=float(signal_std))
        self.noise_std, self.num_points, self.num_outputs = float(noise_std), int(num_points), int(num_outputs)
        size = math.prod(self.event_shape)
        if num_outputs and num_outputs < size:
            raise UserError(f"--num_outputs={num_outputs} is less than the {size} numbers of one datum; take at least "
                            "as many, or 0.")

    def build(self, input_shape: Any) -> None:
        if self.built:
            return
        num, size = self.num_points, math.prod(self.event_shape)
        shapes = dict(latents=(num, input_shape[-1]), coefficients=(num, size), whitening=(num, num), offset=(size,))
        self.factors = {
            name: self.add_weight(name=name, shape=shape, dtype="float64", initializer="zeros", trainable=False)
            for name, shape in shapes.items()
        }
        self.built = True

    @property
    def process(self) -> gaussian_process.GaussianProcess:
        """The Gaussian process of the weights as they are now."""
        factors = gaussian_process.Factors(**{name: tf.convert_to_tensor(w) for name, w in self.factors.items()})
        scales: dict[str, Any] = self.scales
        return gaussian_process.GaussianProcess.from_factors(
            factors, **scales, num_outputs=self.num_outputs or None)

    def condition(self, latents: np.ndarray, data: np.ndarray) -> None:
        """Sets the factors from `num_points` latents (n, K) and data (n, *event)."""
        found = gaussian_process.factorise(latents, data, **self.scales, noise_std=self.noise_std)
        for name, value in found._asdict().items():
            self.factors[name].assign(value)

    def mean_and_variance(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns m(z) and c(z, z), without noise, of every output at z (batch, K): each (batch, *event).

        NaN where z is not finite.
        """
        process = self.process
        shape = (-1, *self.event_shape)
        axes = len(self.event_shape)
        mean = inputs.only_finite(tf.reshape(process.mean(z), shape), z, axes)
        variance = inputs.only_finite(tf.reshape(process.variance(z), (-1, *[1] * axes)), z, axes)
        return mean, tf.broadcast_to(variance, tf.shape(mean))

    def call(self, z: tf.Tensor) -> tf.Tensor:
        z = tf.convert_to_tensor(z)
        mean, variance = self.mean_and_variance(z if z.dtype == tf.float64 else tf.cast(z, tf.float32))
        return tf.concat([mean, tf.math.log(variance + self.noise_std**2)], axis=-1)

    def compute_output_shape(self, input_shape: Sequence[Optional[int]]) -> tuple:
        return (input_shape[0], *self.event_shape[:-1], 2 * self.event_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(), **self.scales, "event_shape": self.event_shape, "noise_std": self.noise_std,
            "num_points": self.num_points, "num_outputs": self.num_outputs,
        }  # fmt: skip


@register_keras_serializable("pae_zoo")
class GPCircle(base.Autoencoder):
    """A Gaussian process from whitened principal components z to data x, conditioned on a few of the training data.

    Nothing in it is trained: `adapt`, which comes before the first step of any training, computes the components and
    the factors of the process; a training step only measures log p(x|z). Scales are given, for maximising the evidence
    lengthens the scale until the hole of a ring is closed (Hauberg, "Only Bayes should learn a manifold", arXiv
    1806.04994; Syrota et al., arXiv 2408.07507, figure 1).

    Args as `Autoencoder`: encoder a Keras model of a `WhitenedPCA`, decoder one of a `GaussianProcessLayer`, likelihood
    a `GaussianDecoder`; `GPCircle.from_parts` makes them.
    """

    offers = frozenset({"moments", "sample", "prior", "predictive", "grid", "scores"})
    deterministic_encoder = True
    codes_only = True
    tracked = ("nll", "mse")

    @classmethod
    def from_parts(cls, event_shape: Sequence[int], latent_dim: int = 2, num_points: int = 100,
                   length_scale: float = 0.5, signal_std: float = 1.0, noise_std: float = 0.1, num_outputs: int = 0,
                   **kwargs: Any) -> "GPCircle":
        """Returns the model for data of shape `event_shape`; arguments as the flags, `kwargs` as `Autoencoder`.

        Raises UserError for more latents than the data can have.
        """
        most = min(math.prod(event_shape), num_points - 1)
        if latent_dim > most:
            raise UserError(f"--latent_dim={latent_dim} is more than {num_points} points of {math.prod(event_shape)} "
                            f"numbers have directions; allowed: at most {most}.")
        encoder = keras.Sequential([keras.Input(event_shape), WhitenedPCA(latent_dim, name="pca")], name="encoder")
        layer = GaussianProcessLayer(event_shape, num_points, length_scale, signal_std, noise_std, num_outputs,
                                     name="gaussian_process")
        decoder = keras.Sequential([keras.Input((latent_dim,)), layer], name="decoder")
        return cls(encoder, decoder, likelihoods.GaussianDecoder(event_shape, *LOG_VARIANCES), **kwargs)

    @property
    def layer(self) -> GaussianProcessLayer:
        """The Gaussian process as a layer."""
        return self.decoder.layers[-1]

    def adapt(self, x: np.ndarray) -> None:
        """Sets preprocessing, principal components and process from `num_points` of the data, evenly spread.

        Raises UserError for fewer data than these.
        """
        num = self.layer.num_points
        if len(x) < num:
            raise UserError(f"--num_points={num} is more than the {len(x)} training data. Lower it, or give more data.")
        super().adapt(x)
        rows = np.linspace(0, len(x) - 1, num).astype(int)
        y = np.concatenate([self.preprocess(x[rows[i : i + 500]])[0].numpy() for i in range(0, num, 500)])
        self.layer.condition(self.encoder.layers[-1].adapt(y), y)

    # ---- the contract ------------------------------------------------------------------------------

    def encode(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> tfd.Distribution:
        """Returns the whitened components of x as a `tfd.VectorDeterministic`, event shape (latent_dim,)."""
        return tfd.VectorDeterministic(self.codes(x))

    def codes(self, x: TensorLike) -> tf.Tensor:
        """Returns the whitened principal components of x, shape (batch, latent_dim)."""
        return self.point(self.preprocess(x)[0])

    def prior(self) -> tfd.Distribution:
        """Returns N(0, I): the latents of the data have mean 0 and covariance I, but need not be normal."""
        return standard_normal(self.latent_dim, self.float_type)

    def log_prob_latent(self, z: TensorLike) -> tf.Tensor:
        """Returns log N(z; 0, I) of latents z (..., K), nats, shape (...)."""
        return standard_normal_log_prob(self.latents(z))

    def objective(self, x: tf.Tensor, seed: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        y, _ = self.preprocess(x, seeds.stream(seed, trainable.PREPROCESS) if training else None)
        outputs = self.decoder_outputs(self.point(y))
        nll = -self.likelihood.log_prob(outputs, y)
        square = tf.square(y - self.likelihood.mean(outputs))
        return {"loss": nll, "nll": nll, "mse": tf.reduce_mean(square, axis=list(range(1, y.shape.rank)))}

    def mean_and_std(self, z: TensorLike) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and std of the process at latents z (batch, K), without noise, in y: each (batch, *event)."""
        mean, variance = self.layer.mean_and_variance(self.latents(z))
        return mean, tf.sqrt(variance)

    def decode_grid(self, z: TensorLike, num_samples: int,
                    seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `mean_and_std(z)`: mean and std over all decoders that the process stands for, none is drawn."""
        return self.mean_and_std(z)

    def predictive(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> dict[str, tf.Tensor]:
        """Returns moments of the predictive distribution at the code of x, in the space of y, in closed form.

        Keys: "mean", "aleatoric_variance" (of the noise), "epistemic_variance" (of the process), (batch, *event);
        "latent_mean" and "latent_variance" (0), (batch, latent_dim).
        """
        z = self.codes(x)
        mean, variance = self.layer.mean_and_variance(z)
        noise = inputs.only_finite(self.layer.noise_std**2 * tf.ones_like(mean), z, len(self.event_shape))
        return {"mean": mean, "aleatoric_variance": noise, "epistemic_variance": variance, "latent_mean": z,
                "latent_variance": inputs.only_finite(tf.zeros_like(z), z)}

    def num_draws(self, num_samples: int) -> int:
        """Returns how many networks are behind the moments: none is drawn."""
        return 0

    def ood_scores(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> dict[str, tf.Tensor]:
        """Returns two scores, each (batch,), higher = more unusual.

        reconstruction: -log p(y|z) at the code, nats; output: the sum over values of the std of the process there.
        """
        y, _ = self.preprocess(x)
        z = self.point(y)
        axes = list(range(-len(self.event_shape), 0))
        return {
            "reconstruction": -self.likelihood.log_prob(self.decoder_outputs(z), y),
            "output": tf.reduce_sum(self.mean_and_std(z)[1], axis=axes),
        }

    def geometry_decoder(self, num_members: int = 0,
                         seed: Optional[seeds.Seed] = None) -> gaussian_process.GaussianProcess:
        """Returns the process itself, a manifold whose expected metric is known in closed form; nothing is drawn."""
        return self.layer.process

    # ---- building ----------------------------------------------------------------------------------

    @classmethod
    def from_hparams(cls, hparams: Any, event_shape: tuple[int, ...], total_steps: int) -> base.Autoencoder:
        if hparams.likelihood != "gaussian_decoder":
            raise UserError(f"--likelihood={hparams.likelihood} is not possible: a Gaussian process brings its own "
                            "variance at every latent, which is gaussian_decoder. Leave it out.")
        chain = builder.chain_of(hparams, event_shape)
        own = {f.name: getattr(hparams, f.name) for f in records.own_fields(type(hparams))}
        return cls.from_parts(event_shape, hparams.latent_dim, **own, preprocessing=chain, seed=hparams.seed,
                              name=hparams.model)

    @classmethod
    def inherit(cls, hparams: Any, before: Any, given: Collection[str]) -> Any:
        """Returns what every model inherits, from a run of this model alone; raises UserError for any other."""
        if before.model != hparams.model:
            raise UserError(f"--init_workdir={hparams.init_workdir} is a run of {before.model}, from which "
                            f"{hparams.model} can take nothing: its components and its process are computed from the "
                            "data. Leave it out.")
        return super().inherit(hparams, before, given)

    @classmethod
    def length_matters(cls, hparams: Any) -> bool:
        return False


MODEL = GPCircle
