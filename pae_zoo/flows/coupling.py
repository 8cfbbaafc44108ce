"""Couplings: the second half of the dimensions changes by a function of one variable that the first half sets."""

from typing import Any, Optional

import keras
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.flows import elementwise
from pae_zoo.flows.base import ContextLayer, Pair
from pae_zoo.flows.conditioners import Conditioner


class Coupling(ContextLayer):
    """z_a = u_a, z_b = f(u_b; conditioner(u_a, context)), a the first ceil(K/2) dimensions, b the others.

    Of one dimension a is empty, and the parameters of f depend on nothing but the context.
    """

    shares = True
    #: parameters of f per dimension
    num_parameters: int

    def elementwise(self, x: tf.Tensor, parameters: tf.Tensor, inverse: bool) -> Pair:
        """Applies f to x (d, n) with parameters (p, d, n); returns (y, log|det dy/dx|) of shapes (d, n) and (n,)."""
        raise NotImplementedError(f"{type(self).__name__} defines no function of one variable.")

    @property
    def driver(self) -> Conditioner:
        return self.conditioner

    def make_weights(self) -> None:
        self.num_kept = (self.num_dims + 1) // 2 if self.num_dims > 1 else 0
        self.conditioner = Conditioner(self.num_parameters, self.num_dims - self.num_kept, name="conditioner",
                                       **self.driven())
        self.conditioner.build((None, max(1, self.num_kept)))

    def transform(self, x: tf.Tensor, inverse: bool, projected: Optional[tf.Tensor] = None, seed: Any = None) -> Pair:
        kept = x[:, : self.num_kept]
        changed = tf.transpose(x[:, self.num_kept :])
        seen = kept if self.num_kept else tf.ones_like(x[:, :1])
        changed, log_det = self.elementwise(changed, self.conditioner(seen, projected, seed=seed), inverse)
        return tf.concat([kept, tf.transpose(changed)], axis=-1), log_det


@register_keras_serializable("pae_zoo")
class AdditiveCoupling(Coupling):
    """z_b = u_b + m(u_a), which keeps volumes: NICE (Dinh et al., arXiv 1410.8516, section 3.2)."""

    kind = "additive"
    num_parameters = 1

    def elementwise(self, x: tf.Tensor, parameters: tf.Tensor, inverse: bool) -> Pair:
        shift = parameters[0]
        return (x - shift if inverse else x + shift), tf.zeros_like(x[0])


@register_keras_serializable("pae_zoo")
class AffineCoupling(Coupling):
    """z_b = u_b exp(s(u_a)) + m(u_a), |s| < 2: RealNVP (Dinh et al., arXiv 1605.08803, eq. 7-8)."""

    kind = "affine"
    num_parameters = elementwise.AFFINE_PARAMETERS

    def elementwise(self, x: tf.Tensor, parameters: tf.Tensor, inverse: bool) -> Pair:
        y, log_slope = elementwise.affine(x, parameters, inverse)
        return y, tf.reduce_sum(log_slope, axis=0)


@register_keras_serializable("pae_zoo")
class SplineCoupling(Coupling):
    """z_b = rational-quadratic spline of u_b: neural spline flow (Durkan et al., arXiv 1906.04032).

    The spline itself is evaluated from the data to the base, where training goes, and inverted in sampling.

    Args beyond `Coupling`:
      bins: bins of the spline, 2 or more.
      bound: the spline lives on [-bound, bound] and is the identity outside.

    Raises UserError for fewer than 2 bins, or for bins that could not be 0.01 wide.
    """

    kind = "spline"
    options = (*Coupling.options, "bins", "bound")

    def __init__(self, bins: int = 16, bound: float = 5.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins, self.bound = int(bins), float(bound)
        self.num_parameters = elementwise.spline_parameters(self.bins, self.bound)

    def elementwise(self, x: tf.Tensor, parameters: tf.Tensor, inverse: bool) -> Pair:
        y, log_slope = elementwise.rational_quadratic(x, parameters, self.bound, inverse=not inverse)
        return y, tf.reduce_sum(log_slope, axis=0)


LAYERS: tuple[type[keras.Layer], ...] = (AdditiveCoupling, AffineCoupling, SplineCoupling)
