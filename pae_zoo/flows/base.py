"""The contract of every invertible layer: `layer(x, inverse) -> (y, log|det dy/dx|)`, base to data and back."""

from typing import Any, Callable, Optional, Sequence

import keras
import tensorflow as tf

from pae_zoo.core import inputs, seeds
from pae_zoo.core.errors import UserError
from pae_zoo.flows.bijector import FlowBijector
from pae_zoo.flows.conditioners import Conditioner

Pair = tuple[tf.Tensor, tf.Tensor]


def on_rows(function: Callable[[tf.Tensor], Pair], x: tf.Tensor) -> Pair:
    """Applies function: (n, K) -> ((n, K), (n,)) to x (..., K), any number of leading axes.

    Rows that are not finite give NaN alone, in both.
    """

    def told(rows: tf.Tensor) -> Pair:
        y, log_det = function(rows)
        return inputs.only_finite(y, rows), inputs.only_finite(log_det, rows, axes=0)

    if x.shape.rank == 2:
        return told(x)
    leading = x.shape[:-1]
    shape = leading.as_list() if leading.is_fully_defined() else tf.unstack(tf.shape(x)[:-1])
    y, log_det = told(tf.reshape(x, (-1, x.shape[-1])))
    return tf.reshape(y, (*shape, x.shape[-1])), tf.reshape(log_det, shape)


def on_rows_with(function: Callable[[tf.Tensor, tf.Tensor], Pair], x: tf.Tensor, context: tf.Tensor) -> Pair:
    """Applies function: (n, K), (n, C) -> ((n, K), (n,)) to x (..., K) and context (..., C).

    Leading axes broadcast. Rows where either is not finite give NaN alone, in both.
    """
    leading = tf.broadcast_dynamic_shape(tf.shape(x)[:-1], tf.shape(context)[:-1])
    x = tf.broadcast_to(x, tf.concat([leading, [x.shape[-1]]], axis=0))
    seen = tf.broadcast_to(context, tf.concat([leading, [context.shape[-1]]], axis=0))
    seen = tf.reshape(seen, (-1, context.shape[-1]))

    def told(rows: tf.Tensor) -> Pair:
        y, log_det = function(rows, seen)
        return inputs.only_finite(y, seen), inputs.only_finite(log_det, seen, axes=0)

    return on_rows(told, x)


class FlowLayer(keras.layers.Layer):
    """An invertible map of the last axis: forward takes the base u to the data z, inverse the data to the base.

    `layer(x, inverse=False)` maps x (..., K) to (y, log_det) of shapes (..., K) and (...); log_det is that of
    the map applied, so that of forward and inverse cancel. Subclasses define `make_weights` and `transform`.

    Args:
      seed: pair of integers, (base, index of the layer), from which initial weights and permutations are drawn.

    Raises UserError on building for fewer than `min_dims` dimensions.
    """

    #: name in the table of `pae_zoo.flows.LAYERS`
    kind: str = ""
    #: the fewest dimensions that the layer can take
    min_dims: int = 1
    #: arguments that `Flow` hands on
    options: tuple[str, ...] = ()
    #: width of the context that the layer sees beside x, 0 for none
    context_dim: int = 0
    #: share of hidden units that training leaves out, by the seed that `transform` is then given
    dropout: float = 0.0
    #: whether layers of equal settings and sizes compute alike but for their variables, whatever their seeds: then a
    #: graph holds what they compute once (`pae_zoo.flows.sharing`)
    shares: bool = False

    def __init__(self, seed: Sequence[int] = (0, 0), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = tuple(int(word) for word in seed)
        seeds.as_seed(self.seed)

    def build(self, input_shape: Sequence[Optional[int]]) -> None:
        if self.built:
            return
        num_dims = input_shape[-1]
        if num_dims is None or num_dims < self.min_dims:
            raise UserError(
                f"The flow layer {self.kind!r} takes data of {self.min_dims} or more dimensions, known when it is "
                f"built; received {num_dims}. Leave it out, or take one of another type."
            )
        self.num_dims = int(num_dims)
        self.make_weights()
        self.built = True

    def make_weights(self) -> None:
        """Creates the weights for `self.num_dims` dimensions."""

    def transform(self, x: tf.Tensor, inverse: bool) -> Pair:
        """Maps rows x (n, K) to (y, log_det) of shapes (n, K) and (n,)."""
        raise NotImplementedError(f"{type(self).__name__} defines no transform.")

    def call(self, x: tf.Tensor, inverse: bool = False) -> Pair:
        return on_rows(lambda rows: self.transform(rows, inverse), x)

    def adapt(self, x: Any) -> None:
        """Sets what is taken from data x (n, K), given on the data side of the layer, before training."""

    def bijector(self) -> FlowBijector:
        """Returns the layer as a TFP bijector, base to data; build one per use."""
        return FlowBijector(self, dtype=self.compute_dtype, name=self.name)

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in self.options}
        return {**super().get_config(), "seed": self.seed, **own}


class ContextLayer(FlowLayer):
    """A layer whose parameters a network gives, of x and, with `context_dim`, of a context too.

    `layer(x, inverse, context)` takes a context (..., context_dim) whose leading axes broadcast with those of x.
    Subclasses define `transform(x, inverse, projected, seed)` and hand what `driven` returns to what `driver` returns.

    Args:
      hidden_units, activation: the network's hidden layers.
      context_dim: width of the context, 0 for none.
      dropout, weight_decay: of the network (`Conditioner`), in the training of a `Flow`.

    Raises ValueError where a context is given and there is none, or the other way round.
    """

    options = ("hidden_units", "activation", "context_dim", "dropout", "weight_decay")

    def __init__(self, hidden_units: Sequence[int] = (128, 128), activation: str = "relu", context_dim: int = 0,
                 dropout: float = 0.0, weight_decay: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden_units = tuple(int(units) for units in hidden_units)
        self.activation = activation
        self.context_dim = int(context_dim)
        self.dropout, self.weight_decay = float(dropout), float(weight_decay)

    def driven(self) -> dict[str, Any]:
        """Returns the arguments of the network that are settings of the layer."""
        own = {name: getattr(self, name) for name in ContextLayer.options}
        return {**own, "seed": self.seed, "dtype": self.dtype_policy}

    @property
    def driver(self) -> Conditioner:
        """The network that gives the parameters."""
        raise NotImplementedError(f"{type(self).__name__} defines no network.")

    def project(self, context: tf.Tensor) -> tf.Tensor:
        """Returns what `transform` takes for a context (..., context_dim), the same leading axes."""
        return self.driver.project(context)

    def transform(self, x: tf.Tensor, inverse: bool, projected: Optional[tf.Tensor] = None, seed: Any = None) -> Pair:
        """`FlowLayer.transform`; projected is what `project` returned for the context of each row, seed of dropout."""
        raise NotImplementedError(f"{type(self).__name__} defines no transform.")

    def call(self, x: tf.Tensor, inverse: bool = False, context: Optional[tf.Tensor] = None) -> Pair:
        if (context is None) != (self.context_dim == 0):
            raise ValueError(
                f"{type(self).__name__} has context_dim={self.context_dim}; call it with a context exactly when "
                f"that is not 0 (received {'none' if context is None else context.shape})."
            )
        if context is None:
            return super().call(x, inverse)
        # Before the rows are repeated: many draws share the context of their datum.
        projected = self.project(context)
        return on_rows_with(lambda rows, seen: self.transform(rows, inverse, seen), x, projected)


def no_volume(x: tf.Tensor) -> tf.Tensor:
    """Returns the log-det of a map that keeps volumes, zeros of shape (n,), for rows x (n, K)."""
    return tf.zeros_like(x[:, 0])


def constant_volume(log_det: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Returns a scalar log-det for each of the rows x (n, K), shape (n,)."""
    return no_volume(x) + log_det
