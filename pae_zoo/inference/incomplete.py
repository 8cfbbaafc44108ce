"""Incomplete data of an autoencoder: the posterior of the base variable behind them, and where its search starts."""

from collections.abc import Callable
from typing import Any, Optional

import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.inference.observation import block_means
from pae_zoo.inference.problem import Problem

FILLING_ROUNDS = 3
FILLING_DRAWS = 16


class Incomplete:
    """What the search of u behind data x asks of a model: u ~ prior, z = latent_from_base(u), y ~ p(y|z).

    Args:
      model: has `prior`, `latent_from_base`, `base_from_latent`, `decoder_outputs`, `decode_mean`, `encode` and
        `preprocess`, as the models of `pae_zoo.models` do.
      observation: what the values of y are; see `inference.observed`.
      side: of the blocks of pixels whose means are seen in the place of the pixels; 0: the pixels are seen.

    Raises NotImplementedError for a model without a prior.
    """

    def __init__(self, model: Any, observation: Any, side: int = 0):
        self.model, self.observation, self.side = model, observation, side
        self.prior = model.prior()
        # A mixture's own curvature need not be positive definite; it says what to take in its place.
        precision = getattr(self.prior, "precision", None)
        self.prior_precision = precision if callable(precision) else None

    def problem(self, x: tf.Tensor, seen: tf.Tensor) -> Problem:
        """Returns the posterior of u given the seen values of x (batch, *event)."""
        y = self.model.preprocess(x)[0]
        if self.side:
            y = block_means(y, self.side)
            seen = tf.ones_like(y, tf.bool)
        return Problem(self.prior.log_prob, self.decode, self.observation, y, seen, self.prior_precision)

    def decode(self, u: tf.Tensor) -> tf.Tensor:
        """Returns the decoder's outputs at u (..., K)."""
        return self.model.decoder_outputs(self.model.latent_from_base(u))

    def picture(self, u: tf.Tensor) -> tf.Tensor:
        """Returns decoder means (rows, *event) in the units of x for u (rows, K)."""
        return self.model.decode_mean(self.model.latent_from_base(u))

    def encoding(self, x: tf.Tensor, seen: tf.Tensor, filling_seed: seeds.Seed, encode_seed: seeds.Seed,
                 told: Optional[Callable[[NotImplementedError], Any]] = None) -> tf.Tensor:
        """Returns u of the encoder for x whose hidden values are filled in, at last by what it decodes to itself.

        told: is called with the error of a posterior that has no mean, of which a draw is taken then.
        """
        filling = tf.reduce_mean(self.picture(self.prior.sample(FILLING_DRAWS, seed=filling_seed)), axis=0)
        filling = tf.broadcast_to(filling, tf.shape(x))

        def fill_in(i, filling, u):
            posterior = self.model.encode(tf.where(seen, x, filling), encode_seed)
            try:
                z = posterior.mean()
            except NotImplementedError as error:
                if told is not None:
                    told(error)
                z = posterior.sample(seed=encode_seed)
            u = self.model.base_from_latent(z)
            return i + 1, tf.ensure_shape(self.picture(u), x.shape), tf.ensure_shape(u, nothing.shape)

        nothing = tf.zeros((tf.shape(x)[0], self.model.latent_dim), x.dtype)
        nothing = tf.ensure_shape(nothing, (x.shape[0], self.model.latent_dim))
        filling = tf.ensure_shape(filling, x.shape)
        return tf.while_loop(lambda i, *_: i < FILLING_ROUNDS, fill_in, (tf.constant(0), filling, nothing))[2]


def best(u: tf.Tensor, log_likelihood: tf.Tensor, count: int) -> tf.Tensor:
    """Returns the `count` of u (m, K) with the highest log likelihood (m, batch), (count, batch, K)."""
    worst = tf.constant(-float("inf"), log_likelihood.dtype)
    found = tf.where(tf.math.is_nan(log_likelihood), worst, log_likelihood)
    return tf.gather(u, tf.argsort(-found, axis=0, stable=True)[:count])
