"""Values that are missing, by importance sampling of the latents given those that were seen."""

from typing import Any, Optional

import tensorflow as tf

from pae_zoo.core import inputs, seeds, trainable
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike

NUM_PROPOSALS = 100


def weighted(model: Any, x: TensorLike, num_proposals: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns x as floats, latents (S, batch, K) drawn from q(z|x_seen), and the logs of their weights (S, batch).

    A weight is p(x_seen|z) p(z) / q(z|x_seen), over the sum of all (Mattei & Frellsen, arXiv 1812.02633, eq. 11).
    """
    if num_proposals < 1:
        raise UserError(f"num_proposals={num_proposals}: at least one draw of q(z|x) is needed.")
    if not model.takes_gaps:
        raise UserError(f"This {type(model).__name__} was not trained on data with missing values: --missing=mask, or "
                        "build_encoder(..., missing=True), makes one that is.")
    y, _ = model.preprocess(x)
    proposal_seed, noise_seed = seeds.split(seed, 2)
    z, log_q = model.inferred(y, proposal_seed).from_noise(model._noise(y, num_proposals, noise_seed))
    log_weights = model.likelihood.log_prob(model.decoder_outputs(z), y) + model.log_prob_latent(z) - log_q
    given = trainable.to_float(inputs.shaped(x, model.event_shape), model.float_type)
    return given, z, tf.nn.log_softmax(log_weights, axis=0)


def mean_and_std(model: Any, x: TensorLike, num_proposals: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns E and std of p(x|x_seen), each (batch, *event), in the space of x: of what was seen, itself and 0."""
    given, z, log_weights = weighted(model, x, num_proposals, seed)
    outputs = model.decoder_outputs(z)
    means = model.likelihood.mean(outputs)
    # To first order in the noise: the preprocessing acts on each value by itself.
    noise = tf.sqrt(tf.broadcast_to(model.likelihood.variance(outputs), tf.shape(means)))
    flat = (-1, *model.event_shape)
    here, above, below = (tf.reshape(model.to_data(tf.reshape(one, flat)), tf.shape(means))
                          for one in (means, means + noise, means - noise))  # fmt: skip
    w = tf.exp(log_weights)[(..., *[None] * len(model.event_shape))]
    mean = tf.reduce_sum(w * here, axis=0)
    variance = tf.reduce_sum(w * (tf.square(here - mean) + tf.square(0.5 * (above - below))), axis=0)
    missing = tf.math.is_nan(given)
    return tf.where(missing, mean, given), tf.where(missing, tf.sqrt(variance), tf.zeros_like(variance))


def draws(model: Any, x: TensorLike, num_samples: int, num_proposals: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns `num_samples` draws of p(x|x_seen), (num_samples, batch, *event): what was seen stays as it is.

    By sampling importance resampling: latents are drawn again by their weights, then values given latents (Mattei &
    Frellsen, section 3.2).
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}: at least one draw is needed.")
    weight_seed, choice_seed, noise_seed = seeds.split(seed, 3)
    given, z, log_weights = weighted(model, x, num_proposals, weight_seed)
    chosen = _resampled(log_weights, num_samples, choice_seed)
    z = tf.gather(tf.transpose(z, (1, 0, 2)), chosen, batch_dims=1)  # the batch first, so that noise is a datum's own
    y = model.decode(z).sample(seed=noise_seed)
    values = tf.reshape(model.to_data(tf.reshape(y, (-1, *model.event_shape))), tf.shape(y))
    values = tf.where(tf.math.is_nan(given)[:, None], values, given[:, None])
    return tf.transpose(values, (1, 0, *range(2, values.shape.rank)))


def _resampled(log_weights: tf.Tensor, num_samples: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns numbers of proposals (batch, num_samples), drawn by their weights (S, batch).

    One uniform number a datum places evenly spaced points on the sum of the weights (systematic resampling): a datum's
    draws are spread. Proposals come in no order, so that neither do they.
    """
    levels = tf.transpose(tf.cumsum(tf.exp(log_weights), axis=0))
    start = seeds.uniform((tf.shape(levels)[0], 1), seed, levels.dtype)
    points = (tf.range(num_samples, dtype=levels.dtype) + start) / tf.cast(num_samples, levels.dtype)
    found = tf.searchsorted(levels / levels[:, -1:], points, side="right")
    return tf.minimum(found, tf.shape(log_weights)[0] - 1)


class Imputes:
    """The methods of a model that fills in what is missing."""

    def impute(self, x: TensorLike, num_samples: int = 1, seed: Optional[seeds.Seed] = None,
               num_proposals: int = NUM_PROPOSALS) -> tf.Tensor:
        """Returns draws of what is missing given what was seen, (num_samples, batch, *event), in the space of x.

        x (batch, *event) has NaN where a value is missing; all others stay as they are. See `imputation.draws`.

        Args:
          num_proposals: draws of q(z|x_seen) that are weighed for each datum.

        Raises UserError for a model that was not trained on data with missing values.

        Examples:
          >>> from pae_zoo import VAE, networks
          >>> encoder = networks.build_encoder("mlp", (3,), latent_dim=2, missing=True)
          >>> model = VAE(encoder, networks.build_decoder("mlp", (3,), latent_dim=2))
          >>> filled = model.impute([[1.0, float("nan"), 2.0]], num_samples=4, seed=(0, 1))
          >>> filled.shape, filled[:, 0, 0].numpy().tolist()
          (TensorShape([4, 1, 3]), [1.0, 1.0, 1.0, 1.0])
        """
        return draws(self, x, num_samples, num_proposals, self.next_seed(seed))  # type: ignore[attr-defined]

    def impute_mean(self, x: TensorLike, seed: Optional[seeds.Seed] = None,
                    num_proposals: int = NUM_PROPOSALS) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and std of what is missing given what was seen, each (batch, *event), in the space of x.

        Of a value that was seen they are the value and 0. See `impute`.
        """
        return mean_and_std(self, x, num_proposals, self.next_seed(seed))  # type: ignore[attr-defined]
