"""Autoregressive layers, affine or splines: each dimension changes by what those before it set."""

from typing import Any, Optional

import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.flows import elementwise
from pae_zoo.flows.base import ContextLayer, Pair
from pae_zoo.flows.conditioners import MADE


class Autoregressive(ContextLayer):
    """y_i = f(x_i; MADE_i(v_1 .. v_{i-1}, context)), f affine in x_i or a spline; what v is, subclasses say.

    In one direction all parameters come from one pass, in the other dimension after dimension is found, in a
    compiled loop of K passes. `layer(x, inverse, context)` takes a context (..., context_dim) whose leading axes
    broadcast with those of x.

    Args beyond `ContextLayer`:
      degrees: degrees of hidden units, "sequential" or "random" (drawn from the seed).
      start: how the masked network starts, "zero" (its last kernel) or "vlae"; see `MADE`.
    """

    options = (*ContextLayer.options, "degrees", "start")
    #: whether the one-pass direction is the inverse
    fast_inverse = True
    #: parameters of f per dimension
    num_parameters: int

    def __init__(self, *args: Any, degrees: str = "sequential", start: str = "zero", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.degrees = degrees
        self.start = start
        self.shares = degrees != "random"  # whose masks are constants, drawn from the seed

    def scale(self, x: tf.Tensor, parameters: tf.Tensor, inverse: bool) -> Pair:
        """Applies f to x (d, n) with parameters (p, d, n); returns (y, log dy/dx), both (d, n)."""
        raise NotImplementedError(f"{type(self).__name__} defines no function of one variable.")

    @property
    def driver(self) -> MADE:
        return self.network

    def make_weights(self) -> None:
        self.network = MADE(self.num_parameters, self.num_dims, degrees=self.degrees, start=self.start, name="made",
                            **self.driven())
        self.network.build((None, self.num_dims))

    def transform(self, x: tf.Tensor, inverse: bool, projected: Optional[tf.Tensor] = None, seed: Any = None) -> Pair:
        one_pass = inverse == self.fast_inverse
        # The network always sees the side that the fast direction starts from.
        seen = x if one_pass else self._solve(x, inverse, projected, seed)
        y, log_slope = self.scale(tf.transpose(x), self.network(seen, projected, seed=seed), inverse)
        return tf.transpose(y), tf.reduce_sum(log_slope, axis=0)

    def _solve(self, x: tf.Tensor, inverse: bool, projected: Optional[tf.Tensor], seed: Any) -> tf.Tensor:
        """Returns y of the slow direction, found dimension by dimension."""
        columns, dims = tf.transpose(x), tf.range(self.num_dims)

        def body(i, y):
            found, _ = self.scale(columns, self.network(y, projected, seed=seed), inverse)
            # Only dimension i: later ones are not known yet and could overflow.
            return i + 1, tf.where(dims == i, tf.transpose(found), y)

        _, y = tf.while_loop(
            lambda i, y: i < self.num_dims, body, (0, tf.zeros_like(x)), maximum_iterations=self.num_dims
        )
        return y


class AffineAutoregressive(Autoregressive):
    """f(x) = x exp(s) + m, |s| < 2.

    Args beyond `Autoregressive`:
      gate: f is g x + (1 - g) m, 0 < g < 1, instead; not the identity at the start.
    """

    options = (*Autoregressive.options, "gate")
    num_parameters = elementwise.AFFINE_PARAMETERS

    def __init__(self, gate: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gate = bool(gate)

    def scale(self, x: tf.Tensor, parameters: tf.Tensor, inverse: bool) -> Pair:
        return (elementwise.gated if self.gate else elementwise.affine)(x, parameters, inverse)


@register_keras_serializable("pae_zoo")
class MaskedAutoregressive(AffineAutoregressive):
    """z_i = u_i exp(s_i(z_1 .. z_{i-1})) + m_i(z_1 .. z_{i-1}): one pass for densities, K for samples.

    Masked autoregressive flow (Papamakarios et al., arXiv 1705.07057, eq. 2-3).
    """

    kind = "maf"


@register_keras_serializable("pae_zoo")
class InverseAutoregressive(AffineAutoregressive):
    """z_i = u_i exp(s_i(u_1 .. u_{i-1})) + m_i(u_1 .. u_{i-1}): one pass for samples, K for the density of a datum.

    Inverse autoregressive flow (Kingma et al., arXiv 1606.04934, eq. 9-14; the paper's own form with gate=True).
    """

    kind = "iaf"
    fast_inverse = False


@register_keras_serializable("pae_zoo")
class MaskedSpline(Autoregressive):
    """z_i = spline of u_i with parameters from z_1 .. z_{i-1}: one pass for densities, K for samples.

    RQ-NSF (AR) of Durkan et al., arXiv 1906.04032, section 3.2.

    Args beyond `Autoregressive`:
      bins, bound: as in `SplineCoupling`.

    Raises UserError for fewer than 2 bins, or for bins that could not be 0.01 wide.
    """

    kind = "maf_spline"
    options = (*Autoregressive.options, "bins", "bound")

    def __init__(self, bins: int = 8, bound: float = 5.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins, self.bound = int(bins), float(bound)
        self.num_parameters = elementwise.spline_parameters(self.bins, self.bound)

    def scale(self, x: tf.Tensor, parameters: tf.Tensor, inverse: bool) -> Pair:
        return elementwise.rational_quadratic(x, parameters, self.bound, inverse=not inverse)


LAYERS = (MaskedAutoregressive, InverseAutoregressive, MaskedSpline)
