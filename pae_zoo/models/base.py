"""The contract of every model: a `keras.Model` that trains, encodes, decodes and is saved alike.

x is data as the data set gives it (images: pixels in [0, 1], or uint8), y = preprocess(x) is what the
networks and the likelihood see. Every public method takes and returns x; only `decode` speaks y.
"""

import contextlib
from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo import hparams as hp
from pae_zoo import likelihoods, networks, seeds
from pae_zoo.data import preprocessing as preprocessing_lib
from pae_zoo.errors import UserError
from pae_zoo.models import builder

tfd = tfp.distributions

# Stream numbers folded into a step's seed, so that no two uses of noise share their bits.
PREPROCESS, AUGMENT, VALIDATION = range(1, 4)


def to_float(x) -> tf.Tensor:
    """Returns x as floats: uint8 is divided by 255, anything else is cast to float32."""
    x = tf.convert_to_tensor(x)
    if x.dtype == tf.uint8:
        return tf.cast(x, tf.float32) / 255.0
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)


class Autoencoder(keras.Model):
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

    #: per-datum terms that `objective` returns besides "loss", tracked as metrics
    tracked: tuple[str, ...] = ()
    #: whether the encoder may give K instead of 2 K outputs
    deterministic_encoder = False

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
        super().__init__(**kwargs)
        factor = likelihoods.channels_factor(likelihood)
        self.event_shape, self.latent_dim = networks.check_pair(
            encoder, decoder, channels_factor=factor, deterministic=self.deterministic_encoder
        )
        self.encoder = encoder
        self.decoder = decoder
        if isinstance(likelihood, str):
            likelihood = likelihoods.build(likelihood, self.event_shape, scale=scale)
        self.likelihood = likelihood
        if not self.likelihood.built:
            self.likelihood.build((None, *self.event_shape))
        self.preprocessing = preprocessing_lib.Chain([]) if preprocessing is None else preprocessing
        if not self.preprocessing.built:
            self.preprocessing.build((None, *self.event_shape))
        if scale_annealing_steps and not isinstance(self.likelihood, likelihoods.Gaussian):
            raise UserError(
                f"scale_annealing_steps={scale_annealing_steps} needs the likelihood 'gaussian' (a constant "
                f"scale); received {type(self.likelihood).__name__}. Set it to 0 or change the likelihood."
            )
        self.scale_annealing_steps = int(scale_annealing_steps)
        self.seed = int(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.step = self.add_weight(
            name="step", shape=(), dtype="int64", initializer="zeros", trainable=False
        )
        self.adapted = self.add_weight(
            name="adapted", shape=(), dtype="int32", initializer="zeros", trainable=False
        )
        self._trackers = {n: keras.metrics.Mean(name=n) for n in ("loss", *self.tracked)}
        self._feed = None
        self.built = True

    # ---- what each model defines -----------------------------------------------------------------

    def objective(self, x: tf.Tensor, seed: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        """Returns per-datum terms of shape (batch,), in nats: "loss" (minimised) and `self.tracked`."""
        raise NotImplementedError(f"{type(self).__name__} defines no objective.")

    def encode(self, x, seed=None) -> tfd.Distribution:
        """Returns the distribution of the latent of x (batch, *event): event shape (latent_dim,)."""
        raise NotImplementedError(f"{type(self).__name__} has no encoder distribution.")

    def prior(self) -> tfd.Distribution:
        """Returns the distribution that decoding starts from, event shape (latent_dim,)."""
        raise NotImplementedError(f"{type(self).__name__} has no density over its latent space.")

    def elbo(self, x, seed=None) -> tf.Tensor:
        """Returns a lower bound of log p(x) in nats per datum, shape (batch,), a density of x."""
        raise NotImplementedError(f"{type(self).__name__} has no evidence lower bound.")

    def importance_estimate(self, x, num_samples: int, seed=None):
        """Returns the importance-sampled estimate of log p(x) with its diagnostics."""
        raise NotImplementedError(f"{type(self).__name__} has no likelihood to estimate.")

    def predictive(self, x, num_samples: int, seed=None) -> dict[str, tf.Tensor]:
        """Returns moments of the posterior predictive of x."""
        raise NotImplementedError(f"{type(self).__name__} has no posterior predictive distribution.")

    def ood_scores(self, x, seed=None) -> dict[str, tf.Tensor]:
        """Returns named scores of shape (batch,), each higher for more unusual x."""
        raise NotImplementedError(f"{type(self).__name__} has no out-of-distribution score.")

    # ---- shared by all -----------------------------------------------------------------------------

    def preprocess(self, x, seed=None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (y, log |dy/dx|) of shapes (batch, *event) and (batch,); seed=None is deterministic."""
        return self.preprocessing.forward_and_log_det(to_float(x), seed)

    def encoder_outputs(self, y: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, Optional[tf.Tensor]]:
        """Returns (mean, raw scale) of the encoder at y, each (batch, K); the scale is None if not given."""
        outputs = self.encoder(y, training=training)
        if outputs.dtype != tf.float64:
            outputs = tf.cast(outputs, tf.float32)
        mean = outputs[..., : self.latent_dim]
        raw = outputs[..., self.latent_dim :]
        return mean, (raw if raw.shape[-1] else None)

    def decoder_outputs(self, z: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the decoder's outputs for z (..., K), with any number of leading axes."""
        leading = z.shape[:-1]
        shape = leading.as_list() if leading.is_fully_defined() else tf.unstack(tf.shape(z)[:-1])
        flat = tf.reshape(z, (-1, self.latent_dim)) if z.shape.rank != 2 else z
        outputs = self.decoder(flat, training=training)
        if outputs.dtype != tf.float64:
            outputs = tf.cast(outputs, tf.float32)
        if z.shape.rank == 2:
            return outputs
        return tf.reshape(outputs, (*shape, *outputs.shape[1:]))

    def decode(self, z) -> tfd.Distribution:
        """Returns p(y|z), a `tfd` distribution over one preprocessed datum, for z (..., K)."""
        return self.likelihood(self.decoder_outputs(tf.convert_to_tensor(z)))

    def decode_mean(self, z) -> tf.Tensor:
        """Returns E[y|z] mapped back to x, shape (batch, *event); images are clipped to [0, 1]."""
        return self.to_data(self.likelihood.mean(self.decoder_outputs(tf.convert_to_tensor(z))))

    def to_data(self, y: tf.Tensor) -> tf.Tensor:
        """Maps y back to x, inverting the preprocessing; images are clipped to [0, 1]."""
        x = self.preprocessing.inverse(y)
        return tf.clip_by_value(x, 0.0, 1.0) if len(self.event_shape) == 3 else x

    def call(self, x, training: bool = False) -> tf.Tensor:
        """Returns the reconstruction of x (batch, *event), deterministic, in the space of x."""
        y, _ = self.preprocess(x)
        mean, _ = self.encoder_outputs(y, training)
        return self.to_data(self.likelihood.mean(self.decoder_outputs(mean, training)))

    def sample(self, num: int, seed=None, observation_noise: bool = False) -> tf.Tensor:
        """Draws `num` data: decoder means of prior draws, shape (num, *event).

        With `observation_noise`, draws from p(y|z) instead of taking its mean.
        """
        latent_seed, noise_seed = seeds.split(self.next_seed(seed), 2)
        z = self.sample_latent(num, latent_seed)
        if observation_noise:
            return self.to_data(self.decode(z).sample(seed=noise_seed))
        return self.decode_mean(z)

    def sample_latent(self, num, seed) -> tf.Tensor:
        """Draws `num` latents that `decode` takes, shape (num, latent_dim)."""
        return self.prior().sample(num, seed=seed)

    def log_likelihood(self, x, num_samples: int, seed=None) -> tf.Tensor:
        """Returns the importance-sampled log p(x), nats, shape (batch,), with the model's own proposal."""
        return self.importance_estimate(x, num_samples, seed).log_likelihood

    def next_seed(self, seed=None) -> tf.Tensor:
        """Returns `seed` as a tensor, or a fresh seed of this model's generator when it is None."""
        return seeds.as_seed(self.seed_generator.next() if seed is None else seed)

    def adapt(self, x: np.ndarray) -> None:
        """Sets data statistics from training data x: preprocessing, then the likelihood's initial scale."""
        self.preprocessing.adapt(x)
        rows = np.linspace(0, len(x) - 1, min(len(x), 10_000)).astype(int)
        y = np.concatenate(
            [self.preprocess(x[rows[i : i + 1000]])[0].numpy() for i in range(0, len(rows), 1000)]
        )
        self.likelihood.adapt(y)
        self.adapted.assign(1)

    def measure(self, x: np.ndarray, batch_size: int = 500) -> None:
        """Measures what is known only after training, on held-out x: the std of "gaussian_pixel"."""
        if not isinstance(self.likelihood, likelihoods.GaussianPixel):
            return
        total, count = 0.0, 0
        for start in range(0, len(x), batch_size):
            y, _ = self.preprocess(x[start : start + batch_size])
            mean, _ = self.encoder_outputs(y)
            residual = y - self.likelihood.mean(self.decoder_outputs(mean))
            total = total + tf.reduce_sum(tf.square(tf.cast(residual, tf.float64)), axis=0)
            count += len(y)
        self.likelihood.assign_scale(tf.sqrt(total / count))

    def scale_now(self) -> Optional[tf.Tensor]:
        """Returns sigma(t) = 1 - (t/T)(1 - sigma) while it is annealed over T steps, else None."""
        if not self.scale_annealing_steps:
            return None
        fraction = tf.cast(self.step, tf.float32) / float(self.scale_annealing_steps)
        return 1.0 - tf.minimum(fraction, 1.0) * (1.0 - self.likelihood.scale)

    @property
    def schedule_steps(self) -> int:
        """Steps after which the objective no longer changes; losses before it do not compare with later ones."""
        return self.scale_annealing_steps

    @property
    def xla_pays(self) -> bool:
        """Whether XLA makes this model's compiled loops faster: not convolutions on a CPU.

        XLA's CPU compiler brings convolutions into the form of its fast kernels at the top of a program alone, not
        in the body of a loop, where they are many times slower than TensorFlow's.
        """
        convolutional = any(len(weight.shape) == 4 for weight in self.trainable_weights)
        return not convolutional or bool(tf.config.list_logical_devices("GPU"))

    # ---- training ----------------------------------------------------------------------------------

    @property
    def metrics(self):
        # Keras' own tracker of "loss" is replaced by ours: it would hide the value and log 0.0.
        return list(self._trackers.values())

    def compile(self, optimizer="adam", jit_compile=True, **kwargs) -> None:
        """Keras' compile; the objective is the model's own, so `loss` and `metrics` are refused."""
        for name in ("loss", "metrics", "weighted_metrics"):
            if kwargs.get(name):
                raise UserError(
                    f"{type(self).__name__} has its own objective and metrics {sorted(self._trackers)}; "
                    f"received {name}={kwargs[name]!r}. Leave it out, or override `objective`."
                )
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def fit(self, x=None, *args, **kwargs):
        """Keras' fit; arrays and data sets of x, targets are ignored. Calls `adapt` first if nobody did."""
        if not int(keras.ops.convert_to_numpy(self.adapted)):
            self.adapt(_first_examples(x))
        return super().fit(x, *args, **kwargs)

    @contextlib.contextmanager
    def feeding(self, feed):
        """Inside, `fit` takes the blocks of batches that a `pae_zoo.data.pipelines.Feed` describes."""
        self._feed = feed
        self.train_function = self.test_function = None
        try:
            yield self
        finally:
            self._feed = None
            self.train_function = self.test_function = None

    def step_seed(self) -> tf.Tensor:
        """Returns the seed (base, t) of training step t, shape (2,), int32."""
        return tf.stack([tf.constant(self.seed & 0x7FFFFFFF, tf.int32), tf.cast(self.step, tf.int32)])

    def update(self, x: tf.Tensor, sample_weight=None) -> tf.Tensor:
        """Takes one optimizer step on the batch x and returns its loss, a scalar."""
        seed = self.step_seed()
        with tf.GradientTape() as tape:
            terms = self.objective(x, seed, training=True)
            loss = _weighted_mean(terms["loss"], sample_weight)
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            scaled = self.optimizer.scale_loss(loss / replicas)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        self.step.assign_add(1)
        self._track(terms, sample_weight)
        return loss

    def train_step(self, data):
        if self._feed is None:
            x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            self.update(to_float(x), sample_weight)
            return {m.name: m.result() for m in self.metrics}

        def body(i, finite):
            x = to_float(self._feed.batch(data, i))
            if self._feed.augment is not None:
                x = self._feed.augment(x, seeds.fold_in(self.step_seed(), AUGMENT))
            return i + 1, tf.math.is_finite(self.update(x))

        # A loss that is not finite ends the loop, so that `step` tells which step it was.
        tf.while_loop(lambda i, finite: (i < data["count"]) & finite, body, (0, True))
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, data):
        seed = seeds.fold_in((self.seed & 0x7FFFFFFF, 0), VALIDATION)
        if self._feed is None:
            x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            self._track(self.objective(to_float(x), seed, training=False), sample_weight)
            return {m.name: m.result() for m in self.metrics}

        def body(i):
            x = to_float(self._feed.batch(data, i))
            self._track(self.objective(x, seed, training=False), data["weight"][i])
            return (i + 1,)

        tf.while_loop(lambda i: i < data["count"], body, (0,))
        return {m.name: m.result() for m in self.metrics}

    def _track(self, terms: dict[str, tf.Tensor], sample_weight) -> None:
        for name, tracker in self._trackers.items():
            tracker.update_state(terms[name], sample_weight=sample_weight)

    # ---- building from flags -----------------------------------------------------------------------

    @classmethod
    def options(cls, hparams, total_steps: int) -> dict[str, Any]:
        """Returns the constructor's arguments that the model's own flags give, by equal names."""
        return {f.name: getattr(hparams, f.name) for f in hp.own_fields(type(hparams))}

    @classmethod
    def length_matters(cls, hparams) -> bool:
        """Whether the number of training steps shapes the training, so that a run cannot be made longer."""
        return hparams.lr_schedule != "constant"

    @classmethod
    def from_hparams(cls, hparams, event_shape: tuple[int, ...], total_steps: int) -> "Autoencoder":
        """Builds the model that the flags describe for data of shape `event_shape`; raises UserError."""
        encoder, decoder, preprocessing = builder.parts(hparams, event_shape)
        return cls(
            encoder, decoder, likelihood=hparams.likelihood, preprocessing=preprocessing, scale=hparams.scale,
            seed=hparams.seed, name=hparams.model, **cls.options(hparams, total_steps),
        )

    def initialise_from(self, other: "Autoencoder") -> None:
        """Takes the networks' weights, likelihood and data statistics of another trained model; raises UserError."""
        for part in ("encoder", "decoder", "preprocessing", "likelihood"):
            mine, theirs = getattr(self, part).weights, getattr(other, part).weights
            if [w.shape for w in mine] != [w.shape for w in theirs]:
                raise UserError(
                    f"--init_workdir holds a model whose {part} does not fit this one ({len(theirs)} weights, here "
                    f"{len(mine)}, or other shapes). Use the same network, latent, likelihood and preprocessing flags."
                )
            for weight, value in zip(mine, theirs):
                weight.assign(value)
        self.adapted.assign(1)

    # ---- saving ------------------------------------------------------------------------------------

    def build(self, input_shape=None) -> None:
        # Parts are built before the model is; Keras calls this again on loading.
        self.built = True

    def get_config(self) -> dict[str, Any]:
        parts = ("encoder", "decoder", "likelihood", "preprocessing")
        config = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in parts}
        config.update(scale_annealing_steps=self.scale_annealing_steps, seed=self.seed, name=self.name)
        return config

    def get_compile_config(self) -> Optional[dict[str, Any]]:
        if not self.compiled:
            return None
        optimizer = keras.saving.serialize_keras_object(self.optimizer)
        return {"optimizer": optimizer, "jit_compile": self.jit_compile, "run_eagerly": self.run_eagerly}

    def compile_from_config(self, config) -> None:
        self.compile(**{**config, "optimizer": keras.saving.deserialize_keras_object(config["optimizer"])})
        self.optimizer.build(self.trainable_variables)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for name in ("encoder", "decoder", "likelihood", "preprocessing"):
            config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects)
        return cls(**config)


def _weighted_mean(values: tf.Tensor, weight) -> tf.Tensor:
    if weight is None:
        return tf.reduce_mean(values)
    weight = tf.cast(weight, values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(values * weight), tf.reduce_sum(weight))


def _first_examples(x, num: int = 10_000) -> np.ndarray:
    """Returns an array whole, or the first `num` examples of a data set of batches, for `adapt`."""
    if not isinstance(x, tf.data.Dataset) and hasattr(x, "shape"):
        return np.asarray(x)
    batches, count = [], 0
    for batch in x:
        batch = batch[0] if isinstance(batch, (tuple, list)) else batch
        batches.append(np.asarray(batch))
        count += len(batches[-1])
        if count >= num:
            break
    return np.concatenate(batches)
