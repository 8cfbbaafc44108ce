"""Importance-sampled log p(x) by a streaming log-sum-exp: memory does not grow with the samples.

log p(x) ~ logsumexp_s [log p(x|z_s) + log p(z_s) - log q(z_s|x)] - log S with z_s ~ q(z|x)
(Burda et al., arXiv 1509.00519, eq. 8). The proposal q is computed once per datum.
"""

import functools
import math
from typing import Callable, NamedTuple, Union

import tensorflow as tf

from pae_zoo.core import pareto, seeds

# Decoded images held at once: enough to keep the matrix products busy, small enough for a laptop.
DECODES_PER_CHUNK = 8192
# Samples that share one seed.
BLOCK = 16


class ImportanceEstimate(NamedTuple):
    """Per-datum results, each of shape (batch,): nats, nats, a number between 1 and S, and the shape of the tail.

    Above a `pareto_k` of 0.7 the estimate is unreliable (`pae_zoo.core.pareto`); it is NaN below 21 samples.
    """

    log_likelihood: tf.Tensor
    elbo: tf.Tensor
    effective_sample_size: tf.Tensor
    pareto_k: tf.Tensor


def latent_noise(shape: tuple, count: int, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Returns standard normal noise (count, batch, K) for shape (batch, K), the same for a padded batch."""
    batch, *rest = shape
    noise = seeds.normal((batch, count, *rest), seed, dtype, batch=0)
    return tf.transpose(noise, (1, 0, *range(2, 2 + len(rest))))


def sample_noise(shape: tuple, seed: tf.Tensor, start: Union[int, tf.Tensor], count: int,
                 dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Returns standard normal noise (count, *shape) of samples start, start + 1, ...; start is a multiple of BLOCK.

    Each block of samples has its own seed, so the noise does not depend on how samples are cut into chunks;
    nor does that of a datum depend on how many data follow it in the batch.
    """
    if tf.executing_eagerly() and count > BLOCK:  # op by op a seed takes longer than the noise it makes
        return _compiled_noise(tuple(map(int, shape)), count, dtype)(seed, start)
    return _noise(shape, count, dtype, seed, start)


def _noise(shape, count, dtype, seed, start):
    blocks = -(-count // BLOCK)

    def draw(block):
        return latent_noise(shape, BLOCK, seeds.fold_in(seed, start // BLOCK + block), dtype)

    if blocks == 1:
        return draw(0)[:count]
    noise = tf.map_fn(draw, tf.range(blocks), fn_output_signature=dtype)
    return tf.reshape(noise, (blocks * BLOCK, *shape))[:count]


@functools.lru_cache(maxsize=64)
def _compiled_noise(shape, count, dtype):
    return tf.function(functools.partial(_noise, shape, count, dtype), autograph=False)


def estimate(
    log_weight: Callable[[tf.Tensor], tf.Tensor],
    noise_shape: tuple,
    num_samples: int,
    seed: tf.Tensor,
    chunk: int = 0,
    dtype: tf.DType = tf.float32,
) -> ImportanceEstimate:
    """Runs the estimator over `num_samples` draws, `chunk` at a time.

    Args:
      log_weight: maps noise (chunk, batch, K) to log weights (chunk, batch), in nats.
      noise_shape: (batch, K); batch may be a scalar tensor.
      num_samples: S, a positive Python integer.
      seed: pair of integers.
      chunk: samples decoded at once, rounded up to a multiple of BLOCK; 0 chooses it from the batch size.
      dtype: of noise and weights.

    Returns an ImportanceEstimate; its effective sample size is (sum w)^2 / sum w^2.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; received {num_samples}.")
    batch = noise_shape[0]
    if not chunk:
        chunk = max(1, DECODES_PER_CHUNK // batch) if isinstance(batch, int) else BLOCK
    chunk = min(-(-chunk // BLOCK) * BLOCK, num_samples)
    num_chunks = math.ceil(num_samples / chunk)
    tail = pareto.tail_length(num_samples)

    def body(i, first, second, total, largest):
        noise = sample_noise(noise_shape, seed, i * chunk, chunk, dtype)
        log_w = log_weight(noise)
        used = (i * chunk + tf.range(chunk) < num_samples)[:, None]
        masked = tf.where(used, log_w, tf.constant(-math.inf, log_w.dtype))
        first = tf.reduce_logsumexp(tf.concat([first[None], masked], 0), axis=0)
        second = tf.reduce_logsumexp(tf.concat([second[None], 2.0 * masked], 0), axis=0)
        total = total + tf.reduce_sum(tf.where(used, log_w, tf.zeros_like(log_w)), axis=0)
        if tail:
            largest = tf.math.top_k(tf.concat([largest, tf.transpose(masked)], axis=1), tail + 1).values
        return i + 1, first, second, total, largest

    lowest = tf.fill([batch], tf.constant(-math.inf, dtype))
    start = (tf.constant(0), lowest, lowest, tf.zeros([batch], dtype), tf.repeat(lowest[:, None], tail + 1, axis=1))
    _, first, second, total, largest = tf.while_loop(
        lambda i, *_: i < num_chunks, body, start, shape_invariants=_invariants(start)
    )
    return ImportanceEstimate(
        log_likelihood=first - math.log(num_samples),
        elbo=total / num_samples,
        effective_sample_size=tf.exp(2.0 * first - second),
        pareto_k=tf.cast(pareto.shape(largest), dtype) if tail else tf.fill([batch], tf.constant(math.nan, dtype)),
    )


def _invariants(values) -> tuple:
    return tuple(tf.TensorShape([None, *value.shape[1:]]) if value.shape.rank else value.shape for value in values)
