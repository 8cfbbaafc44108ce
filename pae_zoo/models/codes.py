"""Autoencoders that give a datum one code: what ae and the models with uncertain weights share."""

from typing import Optional

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo import networks
from pae_zoo.core import seeds, trainable
from pae_zoo.core.inputs import TensorLike
from pae_zoo.models import base

tfd = tfp.distributions


class Codes(base.Autoencoder):
    """An autoencoder that maximises log p(y | z = e(y)).

    Subclasses may add noise to the codes in training (`training_codes`) and terms to the objective (`extra_log_prob`).
    """

    offers = frozenset({"moments", "scores"})
    deterministic_encoder = True
    tracked = ("nll", "mse")
    objective_takes = ("target", "weight")

    def encode(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> tfd.Distribution:
        """Returns the code of x as a `tfd.VectorDeterministic`, event shape (latent_dim,)."""
        return tfd.VectorDeterministic(self.codes(x))

    def codes(self, x: TensorLike) -> tf.Tensor:
        """Returns the codes of x, shape (batch, latent_dim)."""
        return self.encoder_outputs(self.preprocess(x)[0])[0]

    def codes_chain(self) -> tuple[keras.Model, keras.Model]:
        """Returns encoder and decoder as models that are applied in turn, without raw scales behind the codes."""
        return networks.codes_alone(self.encoder, self.event_shape, self.latent_dim), self.decoder

    def training_codes(self, z: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns what a training step decodes in the place of codes z (batch, K)."""
        return z

    def extra_log_prob(self, z: tf.Tensor, residual: tf.Tensor, training: bool, weight: Optional[tf.Tensor],
                       seed: tf.Tensor) -> Optional[tf.Tensor]:
        """Returns what is maximised beside log p(y|z), (batch,), given y - E[y|z] (batch, *event); None: nothing."""
        return None

    def objective(self, x: tf.Tensor, seed: tf.Tensor, training: bool, target: Optional[tf.Tensor] = None,
                  weight: Optional[tf.Tensor] = None) -> dict[str, tf.Tensor]:
        preprocess_seed = seeds.stream(seed, trainable.PREPROCESS) if training else None
        y, _ = self.preprocess(x, preprocess_seed)
        z, _ = self.encoder_outputs(y, training)
        y = y if target is None else self.preprocess(target, preprocess_seed)[0]
        if training:
            z = self.training_codes(z, seed)
        outputs = self.decoder_outputs(z, training)
        mean = self.likelihood.mean(outputs)
        log_prob = self.likelihood.log_prob(outputs, y, scale=self.scale_now())
        residual = self.residual(y, mean)
        extra = self.extra_log_prob(z, residual, training, weight, seed)
        log_prob = log_prob if extra is None else log_prob + extra
        return {"loss": -log_prob, "nll": -log_prob, "mse": self.mean_square(residual, y)}

    def ood_scores(self, x: TensorLike, seed: Optional[seeds.Seed] = None) -> dict[str, tf.Tensor]:
        """Returns {"reconstruction": -log p(y|code)}, nats per datum, shape (batch,)."""
        y, _ = self.preprocess(x)
        outputs = self.decoder_outputs(self.encoder_outputs(y)[0])
        return {"reconstruction": -self.likelihood.log_prob(outputs, y)}
