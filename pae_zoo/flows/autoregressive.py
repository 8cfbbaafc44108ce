"""Autoregressive affine layers: each dimension changes by what those before it set."""

from typing import Any, Optional, Sequence

import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.flows import elementwise
from pae_zoo.flows.base import FlowLayer, Pair, on_rows
from pae_zoo.flows.conditioners import MADE


class Autoregressive(FlowLayer):
    """y_i = f(x_i; MADE_i(v_1 .. v_{i-1}, context)), f affine in x_i; what v is, subclasses say.

    In one direction all parameters come from one pass, in the other dimension after dimension is found, in a
    compiled loop of K passes. `layer(x, inverse, context)` takes a context (..., context_dim) whose leading axes
    broadcast with those of x.

    Args:
      hidden_units, activation: the hidden layers of the masked network.
      context_dim: width of the context, 0 for none.
      gate: f is g x + (1 - g) m, 0 < g < 1, instead of x exp(s) + m, |s| < 2; not the identity at the start.
      degrees: degrees of hidden units, "sequential" or "random" (drawn from the seed).
      start: how the masked network starts, "zero" (its last kernel) or "vlae"; see `MADE`.
    """

    options = ("hidden_units", "activation", "context_dim", "gate", "degrees", "start")
    #: whether the one-pass direction is the inverse
    fast_inverse = True

    def __init__(
        self,
        hidden_units: Sequence[int] = (128, 128),
        activation: str = "relu",
        context_dim: int = 0,
        gate: bool = False,
        degrees: str = "sequential",
        start: str = "zero",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_units = tuple(int(units) for units in hidden_units)
        self.activation = activation
        self.context_dim = int(context_dim)
        self.gate = bool(gate)
        self.degrees = degrees
        self.start = start
        self.scale = elementwise.gated if self.gate else elementwise.affine

    def make_weights(self) -> None:
        self.network = MADE(
            elementwise.AFFINE_PARAMETERS, self.num_dims, self.hidden_units, self.activation, self.context_dim,
            degrees=self.degrees, start=self.start, seed=self.seed, dtype=self.dtype_policy, name="made",
        )
        self.network.build((None, self.num_dims))

    def call(self, x: tf.Tensor, inverse: bool = False, context: Optional[tf.Tensor] = None) -> Pair:
        if (context is None) != (self.context_dim == 0):
            raise ValueError(
                f"{type(self).__name__} has context_dim={self.context_dim}; call it with a context exactly when "
                f"that is not 0 (received {'none' if context is None else context.shape})."
            )
        projected = None
        if context is not None:
            # Before the rows are repeated: many draws share the context of their datum.
            projected = self.network.project(context)
            leading = tf.broadcast_dynamic_shape(tf.shape(x)[:-1], tf.shape(context)[:-1])
            x = tf.broadcast_to(x, tf.concat([leading, [self.num_dims]], axis=0))
            projected = tf.broadcast_to(projected, tf.concat([leading, [projected.shape[-1]]], axis=0))
            projected = tf.reshape(projected, (-1, projected.shape[-1]))
        return on_rows(lambda rows: self.transform(rows, inverse, projected), x)

    def transform(self, x: tf.Tensor, inverse: bool, projected: Optional[tf.Tensor] = None) -> Pair:
        one_pass = inverse == self.fast_inverse
        # The network always sees the side that the fast direction starts from.
        seen = x if one_pass else self._solve(x, inverse, projected)
        y, log_slope = self.scale(tf.transpose(x), self.network(seen, projected), inverse)
        return tf.transpose(y), tf.reduce_sum(log_slope, axis=0)

    def _solve(self, x: tf.Tensor, inverse: bool, projected: Optional[tf.Tensor]) -> tf.Tensor:
        """Returns y of the slow direction, found dimension by dimension."""
        columns, dims = tf.transpose(x), tf.range(self.num_dims)

        def body(i, y):
            found, _ = self.scale(columns, self.network(y, projected), inverse)
            # Only dimension i: later ones are not known yet and could overflow.
            return i + 1, tf.where(dims == i, tf.transpose(found), y)

        _, y = tf.while_loop(
            lambda i, y: i < self.num_dims, body, (0, tf.zeros_like(x)), maximum_iterations=self.num_dims
        )
        return y


@register_keras_serializable("pae_zoo")
class MaskedAutoregressive(Autoregressive):
    """z_i = u_i exp(s_i(z_1 .. z_{i-1})) + m_i(z_1 .. z_{i-1}): one pass for densities, K for samples.

    Masked autoregressive flow (Papamakarios et al., arXiv 1705.07057, eq. 2-3).
    """

    kind = "maf"


@register_keras_serializable("pae_zoo")
class InverseAutoregressive(Autoregressive):
    """z_i = u_i exp(s_i(u_1 .. u_{i-1})) + m_i(u_1 .. u_{i-1}): one pass for samples, K for the density of a datum.

    Inverse autoregressive flow (Kingma et al., arXiv 1606.04934, eq. 9-14; the paper's own form with gate=True).
    """

    kind = "iaf"
    fast_inverse = False


LAYERS = (MaskedAutoregressive, InverseAutoregressive)
