"""Derivatives of functions of u by forward mode: K products, never a matrix of outputs by weights."""

from collections.abc import Callable

import tensorflow as tf

from pae_zoo.core.forward_mode import jvp

# Rows that one product pushes through at least, so that small problems do not run K tiny products in turn.
ROWS_AT_ONCE = 1024
# Rows that a batch of unknown size, as a served model has it, is taken for.
UNKNOWN_ROWS = 64


def value_and_gradient(function: Callable, u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns function(u), of shape (...), and its gradient, of u's shape (..., K); rows must not meet in it."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(u)
        value = function(u)
    return value, tape.gradient(value, u, unconnected_gradients="zero")


def jacobian(function: Callable[[tf.Tensor], tf.Tensor], u: tf.Tensor) -> tf.Tensor:
    """Returns d function(u) / du_k for every k, stacked in front: (K, *shape of the value), by K forward products.

    u has the shape (..., K), K static, and `function` takes further leading axes; rows must not meet in it. Memory is
    that of K values. Several products run at a time when u has few rows.
    """

    def product(points, tangents):
        return jvp(function, points, tangents)[1]

    return in_all_directions(product, u)


def hessian(function: Callable[[tf.Tensor], tf.Tensor], u: tf.Tensor) -> tf.Tensor:
    """Returns the second derivatives of a function (..., K) -> (...) at u, symmetric, of shape (..., K, K).

    K products with the Hessian, reverse over reverse: forward over reverse would differentiate three times, which
    TensorFlow cannot do for a concatenation under XLA. Second derivatives at the kink of a relu count zero.
    """

    def product(points, tangents):
        along = value_and_gradient(
            lambda p: tf.reduce_sum(value_and_gradient(function, p)[1] * tangents, axis=-1), points
        )
        return along[1]

    found = in_all_directions(product, u)
    found = tf.transpose(found, [*range(1, len(found.shape)), 0])
    return 0.5 * (found + tf.linalg.matrix_transpose(found))


def in_all_directions(product: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], u: tf.Tensor) -> tf.Tensor:
    """Returns product(points, tangents) for the K unit vectors as tangents, stacked; both have shape (n, ..., K)."""
    size, rows = int(u.shape[-1]), u.shape[:-1].num_elements() or UNKNOWN_ROWS
    steps = -(-size // min(size, -(-ROWS_AT_ONCE // rows)))
    width = -(-size // steps)  # evenly, so that few directions are zeros
    directions = tf.reshape(tf.eye(steps * width, size, dtype=u.dtype), (steps, width, *[1] * (len(u.shape) - 1), size))

    def products(tangents):
        points = tf.repeat(u[None], width, axis=0)
        return product(points, tf.broadcast_to(tangents, tf.shape(points)))

    if steps == 1:
        return products(directions[0])
    found = tf.map_fn(products, directions, fn_output_signature=u.dtype)
    return tf.reshape(found, tf.concat([[steps * width], tf.shape(found)[2:]], axis=0))[:size]
