"""The contract of every model: a `keras.Model` that trains, encodes, decodes and is saved alike.

x is data as the data set gives it (images: pixels in [0, 1], or uint8), y = preprocess(x) is what the
networks and the likelihood see. Every public method takes and returns x; only `decode` speaks y.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, Optional, Union

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo import likelihoods, networks
from pae_zoo.core import fit_data, inputs, optimizers, records, seeds, trainable
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.core.trainable import to_float
from pae_zoo.data import preprocessing as preprocessing_lib
from pae_zoo.models import capabilities
from pae_zoo.models.parts import builder, gaps, geometry_decoders, labels
from pae_zoo.models.parts import former as former_lib
from pae_zoo.models.parts.importance import ImportanceEstimate
from pae_zoo.models.parts.stages import Stage

tfd = tfp.distributions


class Autoencoder(gaps.TakesGaps, labels.TakesLabels, trainable.Trainable):
    """Encoder, decoder and observation model p(y|z), with training shared by all models of the zoo.

    Args:
      encoder: built Keras model, y (batch, *event) -> (batch, 2 K): mean and raw scale (or (batch, K) for
        a model that needs no scale).
      decoder: built Keras model, z (batch, K) -> (batch, *event), means or logits.
      likelihood: a name of `pae_zoo.likelihoods.NAMES`, or a `Likelihood` layer.
      preprocessing: a `Preprocessor` from x to y, part of the saved model; None is the identity.
      scale: observation std that a named likelihood starts from (None: the likelihood's own default).
      scale_annealing_steps: with likelihood "gaussian", sigma(t) falls from 1 to its final value over so
        many steps (Boehm & Seljak, arXiv 2006.05479, code); 0 switches it off.
      seed: base of every random number drawn in training: step t uses the seed (seed, t).

    Raises UserError, a ValueError, when encoder, decoder and likelihood do not fit together.
    """

    #: what the model can do, names of `capabilities.CAPABILITIES`: what tasks, serving, `apply` and help go by
    offers: frozenset[str] = frozenset()
    #: what the constructor is given as Keras objects
    parts: tuple[str, ...] = ("encoder", "decoder", "likelihood", "preprocessing")
    #: evaluation tasks that follow a training beside reconstruction and, where offered, likelihood
    default_tasks: tuple[str, ...] = ()
    #: whether the encoder may give K instead of 2 K outputs
    deterministic_encoder = False
    #: whether the encoder that flags build gives K outputs
    codes_only = False
    #: settings of earlier versions with which the model imitated published code, and the model that does so now
    former: Optional[former_lib.Former] = None
    #: whether draws are of whole networks, so that all data must be given one seed to meet the same networks
    draws_are_shared = False
    #: whether `predictive` means something before the training has ended
    predicts_in_training = True

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        likelihood="gaussian_learned",
        preprocessing: Optional[keras.layers.Layer] = None,
        scale: Optional[float] = None,
        scale_annealing_steps: int = 0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        factor = likelihoods.channels_factor(likelihood)
        self.event_shape, self.latent_dim = networks.check_pair(
            encoder, decoder, channels_factor=factor, deterministic=self.deterministic_encoder
        )
        self.encoder = encoder
        self.decoder = decoder
        if isinstance(likelihood, str):
            likelihood = likelihoods.build(likelihood, self.event_shape, scale=scale)
        self.likelihood = self.observation_model(self.with_gaps(encoder, likelihood))
        if not self.likelihood.built:
            self.likelihood.build((None, *self.event_shape))
        self.preprocessing = preprocessing_lib.Chain([]) if preprocessing is None else preprocessing
        if not self.preprocessing.built:
            self.preprocessing.build((None, *self.event_shape))
        if scale_annealing_steps and not isinstance(self.component, likelihoods.Gaussian):
            raise UserError(
                f"scale_annealing_steps={scale_annealing_steps} needs the likelihood 'gaussian' (a constant "
                f"scale); received {type(self.component).__name__}. Set it to 0 or change the likelihood."
            )
        self.scale_annealing_steps = int(scale_annealing_steps)
        self.built = True

    # ---- what each model defines -----------------------------------------------------------------

    def encode(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> tfd.Distribution:
        """Returns the distribution of the latent of x (batch, *event): event shape (latent_dim,).

        `seed` is for distributions that are found by noise; with None they depend on x alone.
        """
        raise NotImplementedError(f"{type(self).__name__} has no encoder distribution.")

    def prior(self) -> tfd.Distribution:
        """Returns the distribution that decoding starts from, event shape (latent_dim,)."""
        raise capabilities.lacking(self, "prior")

    def log_prob_latent(self, z: TensorLike) -> tf.Tensor:
        """Returns the log density that the model gives to latents z (..., K), nats, shape (...)."""
        return self.prior().log_prob(self.latents(z))

    def log_density_manifold(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns the density of the reconstructions of x on the surface of all of them, nats, shape (batch,)."""
        raise capabilities.lacking(self, "surface")

    def elbo(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns a lower bound of log p(x) in nats per datum, shape (batch,), a density of x."""
        raise capabilities.lacking(self, "elbo")

    def importance_estimate(self, x: TensorLike, num_samples: int,
                            seed: Optional[seeds.Seed] = None) -> ImportanceEstimate:
        """Returns the importance-sampled estimate of log p(x) with its diagnostics."""
        raise capabilities.lacking(self, "likelihood")

    def predictive(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> dict[str, tf.Tensor]:
        """Returns moments of the posterior predictive of x."""
        raise capabilities.lacking(self, "predictive")

    def predictive_log_prob(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns log p(x) under the mean of what the model draws for x, nats, shape (batch,), a density of x."""
        raise capabilities.lacking(self, "draws")

    def draw_reconstructions(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns `num_samples` drawn reconstructions of x, in the space of x, shape (num_samples, batch, *event)."""
        raise capabilities.lacking(self, "draws")

    def draw_codes(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns `num_samples` drawn latents of x, shape (num_samples, batch, latent_dim)."""
        raise capabilities.lacking(self, "draws")

    def decode_grid(self, z: TensorLike, num_samples: int,
                    seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and std over drawn decoders of the mean of y at latents z (batch, K), each (batch, *event)."""
        raise capabilities.lacking(self, "grid")

    def ood_scores(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> dict[str, tf.Tensor]:
        """Returns named scores of shape (batch,), each higher for more unusual x."""
        raise capabilities.lacking(self, "scores")

    def observation_model(self, likelihood: likelihoods.Likelihood) -> likelihoods.Likelihood:
        """Returns the observation model of a model that is given `likelihood`: here the same one."""
        return likelihood

    def geometry_decoder(self, num_members: int = 0, seed: Optional[seeds.Seed] = None) -> Any:
        """Returns the decoder that geodesics live on, z (n, K) -> what is known of y (n, *event), deterministic.

        One of: an object with `mean_and_members(z) -> (mean, members (S, n, *event))`, for decoders that are uncertain;
        one with `mean_and_std(z) -> (mean, std)`, for observation noise that depends on z; a function z -> mean of y. y
        is what the decoder sees (preprocessed), and means are those of the observation model.

        Args:
          num_members: decoders that a model which draws them draws, once, with `seed`; of an ensemble the first so
            many. 0: all members of an ensemble, ten draws of others.
          seed: pair of integers; None draws one from the model's generator.
        """
        return geometry_decoders.of(self)

    # ---- shared by all -----------------------------------------------------------------------------

    @property
    def float_type(self) -> tf.DType:
        """The type that everything is computed with: 64 bits where the encoder's weights have them, else 32."""
        types = {self.encoder.variable_dtype, *(weight.dtype for weight in self.encoder.weights)}
        return tf.float64 if "float64" in types else tf.float32

    def preprocess(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (y, log |dy/dx|) of shapes (batch, *event) and (batch,); seed=None is deterministic.

        Every method that takes x takes it through here: uint8 is divided by 255, any other numbers are cast to
        `float_type`. Raises UserError for a shape that `pae_zoo.core.inputs.shaped` does not take.
        """
        x = to_float(inputs.shaped(x, self.event_shape), self.float_type)
        return self.preprocessing.forward_and_log_det(x, seed)

    def latents(self, z: TensorLike) -> tf.Tensor:
        """Returns latents z (..., K) that a caller gives, of `float_type`; raises UserError for another last axis.

        A latent that is not finite becomes NaN as a whole.
        """
        z = inputs.ending(tf.cast(tf.convert_to_tensor(z), self.float_type), (self.latent_dim,), "z")
        return inputs.only_finite(z, z)

    def encoder_outputs(self, y: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, Optional[tf.Tensor]]:
        """Returns (mean, raw scale) of the encoder at y, each (batch, K); the scale is None if not given."""
        return self._mean_and_raw(self._told(self.encoder(y, training=training), y, training))

    def encoder_features(
        self, y: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, Optional[tf.Tensor], tf.Tensor]:
        """Returns (mean, raw scale, h) of the encoder at y: as `encoder_outputs`, and its last hidden layer (batch, H).

        h is what the last dense layer is given; of an encoder that is no `keras.Sequential` ending in one, the outputs.
        """
        outputs, hidden = networks.outputs_and_hidden(self.encoder, y, training)
        mean, raw = self._mean_and_raw(self._told(outputs, y, training))
        return mean, raw, tf.cast(self._told(hidden, y, training), self.float_type)

    def _told(self, codes: tf.Tensor, y: tf.Tensor, training: bool) -> tf.Tensor:
        # In training the loss, a function of y too, tells of rows that are not finite.
        if training:
            return codes
        return inputs.only_finite(codes, self.filled(y), given_axes=len(self.event_shape))

    def _mean_and_raw(self, outputs: tf.Tensor) -> tuple[tf.Tensor, Optional[tf.Tensor]]:
        outputs = tf.cast(outputs, self.float_type)
        mean = outputs[..., : self.latent_dim]
        raw = outputs[..., self.latent_dim :]
        return mean, (raw if raw.shape[-1] else None)

    def point(self, y: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the latent that stands for each datum y (batch, *event), deterministic: (batch, K)."""
        return self.encoder_outputs(y, training)[0]

    def latent_path(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns the latents that the model goes through on its way to the code of x, (steps, batch, K)."""
        raise capabilities.lacking(self, "path")

    def refined(self, update: str = "line_search", num_updates: int = 2) -> "Autoencoder":
        """Returns the model with codes that are refined at test by Newton steps on log p(x, z); see `VAE.refined`."""
        raise capabilities.lacking(self, "refine")

    def decoder_outputs(self, z: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the decoder's outputs for z (..., K), with any number of leading axes."""
        z = inputs.ending(z, (self.latent_dim,), "z")
        leading = z.shape[:-1]
        shape = leading.as_list() if leading.is_fully_defined() else tf.unstack(tf.shape(z)[:-1])
        flat = tf.reshape(z, (-1, self.latent_dim)) if z.shape.rank != 2 else z
        outputs = tf.cast(self.decoder(flat, training=training), self._outputs_type(z))
        outputs = self._drawn_from(outputs, flat, training)
        if z.shape.rank == 2:
            return outputs
        return tf.reshape(outputs, (*shape, *outputs.shape[1:]))

    def _drawn_from(self, outputs: tf.Tensor, z: tf.Tensor, training: bool) -> tf.Tensor:
        return outputs if training else inputs.only_finite(outputs, z, axes=len(self.event_shape))

    def _outputs_type(self, z: tf.Tensor) -> tf.DType:
        return tf.float64 if z.dtype == tf.float64 else self.float_type

    def decode(self, z: TensorLike) -> tfd.Distribution:
        """Returns p(y|z), a `tfd` distribution over one preprocessed datum, for z (..., K)."""
        return self.likelihood(self.decoder_outputs(self.latents(z)))

    def decode_mean(self, z: TensorLike) -> tf.Tensor:
        """Returns E[y|z] mapped back to x, shape (batch, *event); images are clipped to [0, 1]."""
        return self.to_data(self.likelihood.mean(self.decoder_outputs(self.latents(z))))

    def to_data(self, y: tf.Tensor) -> tf.Tensor:
        """Maps y back to x, inverting the preprocessing; pixels are clipped to [0, 1]."""
        x = self.preprocessing.inverse(y)
        return tf.clip_by_value(x, 0.0, 1.0) if self.takes_pixels else x

    def call(self, x: TensorLike, training: bool = False) -> tf.Tensor:
        """Returns the reconstruction of x (batch, *event), deterministic, in the space of x."""
        y, _ = self.preprocess(x)
        return self.to_data(self.likelihood.mean(self.decoder_outputs(self.point(y, training), training)))

    def sample(self, num: int, seed: Optional[seeds.Seed] = None, observation_noise: bool = False) -> tf.Tensor:
        """Draws `num` data: decoder means of prior draws, shape (num, *event).

        With `observation_noise`, draws from p(y|z) instead of taking its mean.
        """
        latent_seed, noise_seed = seeds.split(self.next_seed(seed), 2)
        z = self.sample_latent(num, latent_seed)
        if observation_noise:
            return self.to_data(self.decode(z).sample(seed=noise_seed))
        return self.decode_mean(z)

    def sample_latent(self, num: int, seed: seeds.Seed) -> tf.Tensor:
        """Draws `num` latents that `decode` takes, shape (num, latent_dim)."""
        return self.latent_from_base(self.prior().sample(num, seed=seed))

    def latent_from_base(self, u: tf.Tensor) -> tf.Tensor:
        """Maps points u (..., K) of the space of `prior()` to latents z that `decode` takes; here they are the same."""
        return self.latents(u)

    def base_from_latent(self, z: tf.Tensor) -> tf.Tensor:
        """Maps latents z (..., K) back to the space of `prior()`: the inverse of `latent_from_base`."""
        return self.latents(z)

    def log_likelihood(self, x: TensorLike, num_samples: int, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns the importance-sampled log p(x), nats, shape (batch,), with the model's own proposal."""
        return self.importance_estimate(x, num_samples, seed).log_likelihood

    def adapt(self, x: np.ndarray) -> None:
        """Sets data statistics from training data x: preprocessing, then the likelihood's initial scale."""
        self.preprocessing.adapt(x)
        rows = np.linspace(0, len(x) - 1, min(len(x), 10_000)).astype(int)
        y = np.concatenate([self.preprocess(x[rows[i : i + 1000]])[0].numpy() for i in range(0, len(rows), 1000)])
        self.likelihood.adapt(y)
        super().adapt(x)

    def measure(self, x: np.ndarray, train: Optional[np.ndarray] = None, batch_size: int = 500) -> None:
        """Measures what is known only after training, on held-out x: the std of "gaussian_pixel".

        `train`, the training data, is for models that measure something on them.
        """
        self.measure_noise(x, batch_size)

    def measure_scores(self, x: np.ndarray) -> None:
        """Measures on held-out x, when all stages have been trained, what scores are compared with; here nothing."""

    @property
    def measured_last(self) -> list[keras.Variable]:
        """The weights that `measure_scores` sets: no checkpoint of a training holds them."""
        return []

    def count_params(self) -> int:
        """Returns how many numbers the weights hold, without those of `measured_last`, which earlier models lack."""
        return super().count_params() - sum(int(np.prod(weight.shape)) for weight in self.measured_last)

    def score_notes(self) -> list[str]:
        """Returns a sentence for each score that `ood_scores` leaves out though the class has it."""
        return []

    def measure_noise(self, x: np.ndarray, batch_size: int = 500) -> None:
        """Sets the stds of "gaussian_pixel" to the root mean square of the residuals of x, value by value."""
        component = self.component
        if not isinstance(component, likelihoods.GaussianPixel):
            return
        total, count = 0.0, 0
        for start in range(0, len(x), batch_size):
            y, _ = self.preprocess(x[start : start + batch_size])
            residual = self.residual(y, self.likelihood.mean(self.decoder_outputs(self.point(y))))
            total = total + tf.reduce_sum(tf.square(tf.cast(residual, tf.float64)), axis=0)
            count += np.maximum(1, np.sum(~np.isnan(y), axis=0)) if self.takes_gaps else len(y)
        component.assign_scale(tf.sqrt(total / count))

    def findings(self) -> dict[str, float]:
        """Returns what `measure` found, for metrics.json: keys with a slash, values that are numbers."""
        return {}

    def timings(self, x: np.ndarray) -> dict[str, float]:
        """Returns the seconds that parts of a training step on x take, for metrics.json and TensorBoard."""
        return {}

    def scale_now(self) -> Optional[tf.Tensor]:
        """Returns sigma(t) = 1 - (t/T)(1 - sigma) while it is annealed over T steps, else None."""
        if not self.scale_annealing_steps:
            return None
        fraction = tf.cast(self.step, self.float_type) / float(self.scale_annealing_steps)
        return 1.0 - tf.minimum(fraction, 1.0) * (1.0 - self.likelihood.scale)

    @property
    def schedule_steps(self) -> int:
        return self.scale_annealing_steps

    @property
    def no_targets(self) -> str:
        if isinstance(self.component, likelihoods.GaussianPixel):
            return "the stds of likelihood gaussian_pixel are measured on x. Take gaussian_learned"
        return super().no_targets

    # ---- building from flags -----------------------------------------------------------------------

    @classmethod
    def options(cls, hparams: Any, total_steps: int) -> dict[str, Any]:
        """Returns the constructor's arguments that the model's own flags give, by equal names."""
        return labels.of_flags({f.name: getattr(hparams, f.name) for f in records.own_fields(type(hparams))})

    @classmethod
    def length_matters(cls, hparams: Any) -> bool:
        """Whether the number of training steps shapes the training, so that a run cannot be made longer."""
        return hparams.lr_schedule not in optimizers.ENDLESS

    @classmethod
    def from_hparams(cls, hparams: Any, event_shape: tuple[int, ...], total_steps: int) -> "Autoencoder":
        """Builds the model that the flags describe for data of shape `event_shape`; raises UserError."""
        encoder, decoder, preprocessing = builder.parts(hparams, event_shape, codes_only=cls.codes_only)
        return cls(
            encoder, decoder, likelihood=hparams.likelihood, preprocessing=preprocessing, scale=hparams.scale,
            seed=hparams.seed, name=hparams.model, **cls.options(hparams, total_steps),
        )

    @classmethod
    def inherit(cls, hparams: Any, before: Any, given: Collection[str]) -> Any:
        """Returns `hparams` with data and network flags of the run to start from, `before`, but for those `given`."""
        names = {f.name for f in dataclasses.fields(before) if f.metadata["group"] in (hp.DATA, hp.NETWORK)}
        known = names & {f.name for f in dataclasses.fields(hparams)}
        return dataclasses.replace(hparams, **{name: getattr(before, name) for name in known - set(given)})

    @classmethod
    def skips_first_stage(cls, hparams: Any) -> bool:
        """Whether the run of --init_workdir takes the place of the first stage of training."""
        return False

    def later_stages(self, hparams: Any) -> list[Stage]:
        """Returns the stages of training after the first, in order; here there are none."""
        return []

    def fit_stage(self, history: keras.callbacks.History, train: fit_data.Source, held_out: Optional[fit_data.Source],
                  steps: Optional[int], verbose: Union[str, int, None], stage: Stage) -> None:
        """Fits a later stage after plain `fit` of the first, with the arguments of `after_fit`.

        In between `measure` sees up to 10,000 validation data if there are some, else training data. The history gets
        the stage's losses under names that begin with the stage's. The part takes statistics anew, for its inputs have
        moved; data of weight 0 are left out.
        """
        measured = fit_data.examples(train if held_out is None else held_out, trainable.ADAPT_DATA)
        found = stage.read(train, steps)
        if found is None or not len(measured):
            return
        self.measure(measured)
        judge = None if held_out is None else stage.read(held_out)
        stage.part.adapted.assign(0)
        fitted = stage.train(stage.part, found[0], None if judge is None else judge[0], found[1], stage.settings,
                             self.stepping.asked, verbose)
        history.history.update({f"{stage.name}_{name}": values for name, values in fitted.items()})
        self.measure_scores(measured)

    def inherited_parts(self, other: "Autoencoder") -> tuple[str, ...]:
        """Returns the names of the parts whose weights `initialise_from` takes from another trained model."""
        return ("encoder", "decoder", "preprocessing", "likelihood")

    def check_start(self, other: "Autoencoder") -> None:
        """Raises UserError unless `initialise_from` can take its weights from another trained model."""
        for part in self.inherited_parts(other):
            mine, theirs = getattr(self, part).weights, self.weights_from(other, part)
            if [w.shape for w in mine] != [w.shape for w in theirs]:
                raise UserError(
                    f"--init_workdir holds a model whose {part} does not fit this one ({len(theirs)} weights, here "
                    f"{len(mine)}, or other shapes). Use the same network, latent, likelihood and preprocessing flags."
                )

    def initialise_from(self, other: "Autoencoder") -> None:
        """Takes the weights of `inherited_parts` from another trained model; raises UserError as `check_start` does."""
        self.check_start(other)
        for part in self.inherited_parts(other):
            for weight, value in zip(getattr(self, part).weights, self.weights_from(other, part)):
                weight.assign(value)
        self.adapted.assign(1)

    @classmethod
    def starts(cls, hparams: Any) -> tuple[str, ...]:
        """Returns the finished runs that a fresh one starts from: that of --init_workdir, where it is given."""
        return (hparams.init_workdir,) if hparams.init_workdir else ()

    def check_starts(self, others: Sequence["Autoencoder"]) -> None:
        """Raises UserError unless `initialise_from_all` can take its weights from the models of `starts`."""
        self.check_start(others[0])

    def initialise_from_all(self, others: Sequence["Autoencoder"]) -> None:
        """Takes its weights from the models of `starts`."""
        self.initialise_from(others[0])

    def weights_from(self, other: "Autoencoder", part: str) -> list[tf.Tensor]:
        """Returns the weights of a part of another model, in the shapes that this one takes them in."""
        return [tf.convert_to_tensor(weight) for weight in getattr(other, part).weights]

    # ---- saving ------------------------------------------------------------------------------------

    def build(self, input_shape: Any = None) -> None:
        # Parts are built before the model is; Keras calls this again on loading.
        self.built = True

    def get_config(self) -> dict[str, Any]:
        config = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in self.parts}
        config.update(scale_annealing_steps=self.scale_annealing_steps, seed=self.seed, name=self.name)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Optional[dict[str, Any]] = None) -> "Autoencoder":
        now, config = former_lib.of_config(cls, dict(config))
        for name in now.parts:
            config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects)
        return now(**config)
