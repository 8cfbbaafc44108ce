"""g(z) and its Jacobian for any differentiable decoder, by three backends that agree."""

import math

import keras
import tensorflow as tf

from pae_zoo import networks
from pae_zoo.core.errors import UserError
from pae_zoo.inference import derivatives
from pae_zoo.laplace import chain as chains

BACKENDS = ("layerwise", "forward", "reverse")


def choose(decoder: keras.Model, backend: str = "auto") -> str:
    """Returns the backend that "auto" stands for: layerwise where the decoder is a chain, else forward.

    Raises UserError for an unknown name, or layerwise for a decoder that is no chain of dense and elementwise layers.
    """
    if backend not in ("auto", *BACKENDS):
        raise UserError(f"linearisation={backend!r} is unknown; it is auto, {', '.join(BACKENDS)}.")
    if backend == "auto":
        return "layerwise" if chains.is_chain(decoder) else "forward"
    if backend == "layerwise" and not chains.is_chain(decoder):
        raise UserError(
            "linearisation='layerwise' takes a keras.Sequential of dense and elementwise layers; "
            f"{decoder.name} is none. Take 'forward' or 'auto'."
        )
    return backend


def linearise(decoder: keras.Model, z: tf.Tensor, backend: str = "auto") -> tuple[tf.Tensor, tf.Tensor]:
    """Returns g(z) (batch, n) and the Jacobian J (batch, K, n), J[:, k] = dg/dz_k, of a decoder at inference.

    n counts the values of one output, flattened. "layerwise" multiplies the layers' Jacobians out, right to left;
    "forward" pushes K tangents through the decoder, some at a time; "reverse" pulls n cotangents back. All of them can
    be differentiated by an outer tape. Park et al., ICML 2019, section 3.2.

    Args:
      decoder: a built Keras model, (batch, K) -> (batch, *event).
      z: (batch, K).
      backend: "auto", "layerwise", "forward" or "reverse"; see `choose`.

    Raises UserError as `choose` does, or where the decoder has no derivative by z.
    """
    backend = choose(decoder, backend)
    if backend == "layerwise":
        chain = chains.read(decoder)
        local = chain.at(z)
        return local.value, chain.jacobian(local)

    def outputs(points):
        flat = tf.reshape(points, (-1, z.shape[-1]))
        with networks.unrolled(decoder):
            value = decoder(flat, training=False)
        value = value if value.dtype == tf.float64 else tf.cast(value, tf.float32)
        return tf.reshape(value, (*chains.leading(points), math.prod(value.shape[1:])))

    if backend == "forward":
        return outputs(z), tf.transpose(derivatives.jacobian(outputs, z), (1, 0, 2))
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = outputs(z)
    return value, tf.linalg.matrix_transpose(tape.batch_jacobian(value, z))


def check_differentiable(decoder: keras.Model, latent_dim: int) -> None:
    """Raises UserError where no derivative of the decoder by z can be taken."""
    z = tf.zeros((1, latent_dim))
    try:
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = tf.reduce_sum(tf.cast(decoder(z, training=False), tf.float32))
        found = tape.gradient(value, z)
    except LookupError as error:
        found, reason = None, f" ({error})"
    else:
        reason = ""
    if found is None:
        raise UserError(
            f"The decoder {decoder.name} has no derivative by its latent{reason}, and the model linearises it. "
            "Replace what rounds, counts or leaves TensorFlow in it."
        )
