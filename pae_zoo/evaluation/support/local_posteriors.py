"""The Gaussian that is best for one datum by itself: what an encoder would give if it were not amortised."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.core import seeds
from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.evaluation.context import Context, sentence

#: family -> weight of the covariance's part off the diagonal
FAMILIES = {"diagonal": 0.0, "full": 1.0}
STEPS, STEPS_PER_CALL = 500, 25
# Samples of a step come in pairs eps, -eps, which cancel what the gradient of the mean owes to even terms.
PAIRS = 8
RATE = 0.1
DECAY, DECAY_SQUARE, TINY = 0.9, 0.99, 1e-12
# Decoded data held at once.
DECODES_AT_ONCE = 4096
# Behind the moments of a posterior that offers none in closed form.
MOMENT_DRAWS = 500


class Gaussians(NamedTuple):
    """N(mean, root root^T) for each datum: mean (n, K), root (n, K, K) lower triangular with a positive diagonal."""

    mean: np.ndarray
    root: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """root root^T, (n, K, K)."""
        return self.root @ np.swapaxes(self.root, -1, -2)


def log_joint(model: Any, y: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
    """Returns log p(y|z) + log p(z), nats, (..., batch), for y (batch, *event) and z (..., batch, K)."""
    return model.likelihood.log_prob(model.decoder_outputs(z), y) + model.log_prob_latent(z)


def lower_root(covariance: np.ndarray) -> np.ndarray:
    """Returns the Cholesky factors of covariances (n, K, K), float64, with a millionth added to the diagonals."""
    covariance = covariance.astype(np.float64)
    # Moments of draws in float32 are positive definite only up to rounding.
    return np.linalg.cholesky(covariance * (1.0 + 1e-6 * np.eye(covariance.shape[-1])))


def mean_field_root(covariance: np.ndarray) -> np.ndarray:
    """Returns diagonal roots of the independent Gaussians closest to N(m, covariance) in KL(. || N): (n, K, K).

    Their precisions are the diagonal of the inverse covariance: narrower than its marginals.
    """
    inverse = np.linalg.inv(lower_root(covariance))
    precision = np.square(inverse).sum(axis=-2)
    return np.eye(covariance.shape[-1]) / np.sqrt(precision)[:, None, :]


class LocalPosteriors:
    """Moments of a model's q(z|x), the best Gaussian of a family for each datum, and log weights of Gaussians.

    Args:
      context: its model needs `encode`, `decoder_outputs`, `likelihood` and `log_prob_latent`.
    """

    def __init__(self, context: Context):
        self.context, self.model = context, context.model
        self.in_closed_form = True

    # ---- q of the model ----------------------------------------------------------------------------

    def moments(self, x: tf.Tensor, seed: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean (batch, K) and covariance (batch, K, K) of q(z|x), from 500 draws where they have no formula."""
        if self.in_closed_form:
            try:
                return tuple(part.numpy() for part in self.context.compile(self._exact_moments)(x, seed))
            except NotImplementedError as error:
                self.context.say(f"Moments of q(z|x) are those of {MOMENT_DRAWS} draws. {sentence(error)}")
                self.in_closed_form = False
        return tuple(part.numpy() for part in self.context.compile(self._drawn_moments)(x, seed))

    def _exact_moments(self, x, seed):
        posterior = self.model.encode(x, seed)
        if isinstance(posterior, tfp.distributions.Independent):  # which has a variance, but no covariance
            return posterior.mean(), tf.linalg.diag(posterior.variance())
        mean = posterior.mean()
        return mean, tf.broadcast_to(posterior.covariance(), (*mean.shape, mean.shape[-1]))

    def _drawn_moments(self, x, seed):
        proposal_seed, draw_seed = seeds.split(seed, 2)
        z = self.model.encode(x, proposal_seed).sample(MOMENT_DRAWS, seed=draw_seed)
        mean = tf.reduce_mean(z, axis=0)
        return mean, tf.einsum("sbi,sbj->bij", z - mean, z - mean) / (MOMENT_DRAWS - 1)

    # ---- the best Gaussian -------------------------------------------------------------------------

    @property
    def calls(self) -> int:
        """How often `best` updates its progress bar."""
        return -(-STEPS // STEPS_PER_CALL)

    def best(self, family: str, y: tf.Tensor, mean: np.ndarray, covariance: np.ndarray, seed: seeds.Seed,
             bar: Any) -> Gaussians:
        """Climbs the ELBO of y (batch, *event) in a family, "diagonal" or "full", from the moments of q(z|x).

        500 steps of Adam on the Gaussian's shift and root in units of the start, 16 samples a step, the rate falling
        linearly to 0. log q is differentiated through z alone (Roeder et al., arXiv 1703.09194, eq. 5), so that the
        gradient's noise vanishes where q is the posterior. The diagonal family starts from the KL-optimal mean field of
        the model's Gaussian. `bar` is updated `calls` times.
        """
        roots = lower_root(covariance) if family == "full" else mean_field_root(covariance)
        mean, root = tf.constant(mean, tf.float32), tf.constant(roots, tf.float32)
        full = tf.constant(FAMILIES[family])
        parameters = (tf.zeros_like(mean), tf.zeros_like(mean), tf.zeros_like(root))
        slots = (parameters, parameters)
        for first in range(0, STEPS, STEPS_PER_CALL):
            climb = self.context.compile(self._climb)
            parameters, slots = climb(y, mean, root, full, parameters, slots, tf.constant(first), seed)
            bar.update()
        shift, factor = parameters[0], _factor(parameters, full)
        return Gaussians((mean + tf.linalg.matvec(root, shift)).numpy(), tf.matmul(root, factor).numpy())

    def _climb(self, y, mean, root, full, parameters, slots, first, seed):
        """Returns (parameters, slots) after STEPS_PER_CALL steps of Adam, of which `first` is the first."""

        def body(step, parameters, slots):
            gradients = self._gradients(y, mean, root, full, parameters, seeds.fold_in(seed, step))
            count = tf.cast(step + 1, tf.float32)
            moving = [
                tf.nest.map_structure(lambda old, new, d=decay, p=power: d * old + (1.0 - d) * new**p, slot, gradients)
                for decay, power, slot in ((DECAY, 1, slots[0]), (DECAY_SQUARE, 2, slots[1]))
            ]
            rate = RATE * (1.0 - (count - 1.0) / STEPS) / (1.0 - DECAY**count)
            correction = 1.0 - DECAY_SQUARE**count
            parameters = tuple(
                p + rate * m / (tf.sqrt(v / correction) + TINY) for p, m, v in zip(parameters, *moving)
            )
            return step + 1, parameters, tuple(moving)

        _, parameters, slots = tf.while_loop(
            lambda step, *_: step < first + STEPS_PER_CALL, body, (first, parameters, slots)
        )
        return parameters, slots

    def _gradients(self, y, mean, root, full, parameters, seed):
        """Returns the gradients of each datum's ELBO in the parameters of its Gaussian."""
        noise = seeds.normal((mean.shape[0], PAIRS, mean.shape[1]), seed)
        noise = tf.concat([noise, -noise], axis=1)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(parameters)
            factor = _factor(parameters, full)
            w = parameters[0][:, None] + tf.matmul(noise, factor, transpose_b=True)
            z = mean[:, None] + tf.matmul(w, root, transpose_b=True)
            value = log_joint(self.model, y, tf.transpose(z, (1, 0, 2)))
            # -d log q / dw with q's parameters held fixed.
            score = tf.linalg.triangular_solve(factor, tf.transpose(noise, (0, 2, 1)), adjoint=True)
            entropy = tf.reduce_sum(tf.stop_gradient(tf.transpose(score, (0, 2, 1))) * w)
            objective = (tf.reduce_sum(value) + entropy) / (2 * PAIRS)
        return tape.gradient(objective, parameters)

    # ---- weights -----------------------------------------------------------------------------------

    def log_weights(self, y: tf.Tensor, gaussians: Gaussians, num_samples: int, seed: seeds.Seed) -> np.ndarray:
        """Returns log p(y, z_s) - log q(z_s), z_s ~ q, nats, (num_samples, batch) in float64; one seed, one noise."""
        chunk = max(1, min(num_samples, DECODES_AT_ONCE // len(gaussians.mean)))
        mean, root = (tf.constant(part, tf.float32) for part in gaussians)
        found = []
        for index in range(-(-num_samples // chunk)):
            noise = seeds.normal((len(mean), chunk, mean.shape[1]), seeds.fold_in(seed, index))
            found.append(self.context.compile(self._log_weights)(y, mean, root, noise).numpy())
        return np.concatenate(found)[:num_samples].astype(np.float64)

    def _log_weights(self, y, mean, root, noise):
        z = mean[:, None] + tf.matmul(noise, root, transpose_b=True)
        log_det = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(root)), axis=-1)
        log_q = -0.5 * tf.reduce_sum(tf.square(noise), axis=-1) - 0.5 * mean.shape[1] * LOG_2PI - log_det[:, None]
        return log_joint(self.model, y, tf.transpose(z, (1, 0, 2))) - tf.transpose(log_q)


def _factor(parameters, full: tf.Tensor) -> tf.Tensor:
    """Returns the lower triangular factor (batch, K, K): exp(log scale) on the diagonal, the tilt below if `full`."""
    _, log_scale, tilt = parameters
    return tf.linalg.set_diag(full * tf.linalg.band_part(tilt, -1, 0), tf.exp(log_scale))


def summaries(log_weights: np.ndarray) -> dict[str, np.ndarray]:
    """Returns elbo, log_likelihood (nats) and effective_sample_size of log weights (S, n), each (n,)."""
    largest = log_weights.max(axis=0)
    weights = np.exp(log_weights - largest)
    return {
        "elbo": log_weights.mean(axis=0),
        "log_likelihood": largest + np.log(weights.mean(axis=0)),
        "effective_sample_size": weights.sum(axis=0) ** 2 / np.square(weights).sum(axis=0),
    }
