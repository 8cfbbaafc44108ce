"""Dense networks that give the parameters of a layer: all from all inputs, or each from the inputs before it."""

from typing import Any, Callable, Optional, Sequence, Union

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError

PRELU, PRELU_SLOPE = "prelu", 0.25
STARTS = ("zero", "vlae")


def _prelu(x: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    return tf.maximum(x, 0.0) + slope * tf.minimum(x, 0.0)


@keras.saving.register_keras_serializable("pae_zoo")
class Conditioner(keras.layers.Layer):
    """Dense network x (n, d) -> parameters (p, K, n), zero at the start, so that the layer it drives is the identity.

    Hidden kernels are Glorot uniform, biases and the last kernel zero.

    Args:
      num_parameters, num_dims: p and K of the output.
      hidden_units, activation: the hidden layers; "prelu" has one trained slope for all of them, at first 0.25.
      context_dim: width of a context vector that the first hidden layer sees beside x; 0 for none.
      seed: pair of integers for the initial weights.
      dropout: share of the hidden units that are left out, drawn for each row, wherever `call` is given a seed.
      weight_decay: that much times half the sum of the squared kernels is a loss (`losses`).

    Raises UserError for a dropout outside [0, 1), or a negative weight_decay.
    """

    def __init__(
        self,
        num_parameters: int,
        num_dims: int,
        hidden_units: Sequence[int] = (128, 128),
        activation: str = "relu",
        context_dim: int = 0,
        seed: Sequence[int] = (0, 0),
        dropout: float = 0.0,
        weight_decay: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"dropout is a share of hidden units, from 0 to below 1; received {dropout}.")
        if not weight_decay >= 0.0:
            raise UserError(f"weight_decay is 0 or more; received {weight_decay}.")
        self.dropout, self.weight_decay = float(dropout), float(weight_decay)
        self.num_parameters, self.num_dims = int(num_parameters), int(num_dims)
        self.hidden_units = tuple(int(units) for units in hidden_units)
        self.activation: Any = _prelu if activation == PRELU else keras.activations.get(activation)
        self.slope = None
        self.context_dim = int(context_dim)
        self.seed = tuple(int(word) for word in seed)

    def build(self, input_shape: Sequence[Optional[int]]) -> None:
        if self.built:
            return
        outputs = self.num_parameters * self.num_dims
        sizes = [input_shape[-1], *self.hidden_units, outputs]
        self.masks = self.make_masks(sizes)
        self.kernels, self.biases = [], []
        decay = keras.regularizers.L2(0.5 * self.weight_decay) if self.weight_decay else None
        for number, (size, units) in enumerate(zip(sizes, sizes[1:])):
            last = number == len(self.hidden_units)
            kernel, bias = self.initial_kernel(number, last), self.initial_bias(number, last)
            self.kernels.append(self.add_weight(shape=(size, units), initializer=kernel, regularizer=decay,
                                                name=f"kernel_{number}"))
            self.biases.append(self.add_weight(shape=(units,), initializer=bias, name=f"bias_{number}"))
        if self.context_dim:
            kernel = self.initial_kernel(len(sizes), last=False)
            self.context_kernel = self.add_weight(shape=(self.context_dim, sizes[1]), initializer=kernel,
                                                  regularizer=decay, name="context_kernel")
        if self.activation is _prelu:
            slope = keras.initializers.Constant(PRELU_SLOPE)
            self.slope = self.add_weight(shape=(), initializer=slope, name="slope")
        self.built = True

    def initial_kernel(self, number: int, last: bool) -> Union[str, keras.Initializer]:
        """Returns the initial kernel of layer `number`."""
        return "zeros" if last else keras.initializers.GlorotUniform(seed=self.seed_of(number))

    def initial_bias(self, number: int, last: bool) -> Union[str, Callable]:
        """Returns the initial bias of layer `number`."""
        return "zeros"

    def seed_of(self, number: int) -> int:
        """Returns the seed of the initial weights numbered so."""
        return seeds.integer(*self.seed, number)

    def make_masks(self, sizes: Sequence[int]) -> list[Optional[np.ndarray]]:
        """Returns for each kernel what it is multiplied with, of its shape, or None."""
        return [None] * (len(sizes) - 1)

    def project(self, context: tf.Tensor) -> tf.Tensor:
        """Returns what the first hidden layer adds for a context (..., context_dim), to be given to `call`."""
        return tf.matmul(context, tf.convert_to_tensor(self.context_kernel))

    def call(self, x: tf.Tensor, projected: Optional[tf.Tensor] = None, seed: Any = None) -> tf.Tensor:
        h = x
        for number, (kernel, bias, mask) in enumerate(zip(self.kernels, self.biases, self.masks)):
            kernel = tf.convert_to_tensor(kernel)
            h = tf.matmul(h, kernel if mask is None else kernel * tf.constant(mask, kernel.dtype)) + bias
            if number == 0 and projected is not None:
                h += projected
            if number < len(self.hidden_units):
                h = _prelu(h, self.slope.value) if self.slope is not None else self.activation(h)
                if self.dropout and seed is not None:
                    drawn = seeds.uniform(tf.shape(h), seeds.fold_in(seed, number), h.dtype, batch=0)
                    h = tf.where(drawn < self.dropout, tf.zeros_like(h), h / (1.0 - self.dropout))
        return tf.reshape(tf.transpose(h), (self.num_parameters, self.num_dims, -1))

    def get_config(self) -> dict[str, Any]:
        own = ("num_parameters", "num_dims", "hidden_units", "context_dim", "seed", "dropout", "weight_decay")
        config = {**super().get_config(), **{name: getattr(self, name) for name in own}}
        activation = PRELU if self.activation is _prelu else keras.activations.serialize(self.activation)
        return {**config, "activation": activation}


@keras.saving.register_keras_serializable("pae_zoo")
class MADE(Conditioner):
    """Masked dense network: the parameters of dimension i depend on x_1 .. x_{i-1} alone, and on all of the context.

    Every unit has a degree, x_i has i; a hidden unit sees units of its degree or less, output i those of less
    than i (Germain et al., arXiv 1502.03509, eq. 8-9). Degrees of hidden units run through 1 .. K-1 in turn, or
    with `degrees="random"` are drawn from `seed`; with a context also 0, so that x_1 depends on it too.

    The last kernel starts at zero; with `start="vlae"` weights start as in the code of Park et al., Variational Laplace
    Autoencoders, ICML 2019: kernels uniform with variance 0.773 / fan_out, biases N(0, 1), those of all parameters but
    the first zero.
    """

    def __init__(self, *args: Any, degrees: str = "sequential", start: str = "zero", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if degrees not in ("sequential", "random"):
            raise ValueError(f"degrees is 'sequential' or 'random'; received {degrees!r}.")
        if start not in STARTS:
            raise ValueError(f"start is one of {', '.join(STARTS)}; received {start!r}.")
        self.degrees = degrees
        self.start = start

    def initial_kernel(self, number: int, last: bool) -> Union[str, keras.Initializer]:
        if self.start == "zero":
            return super().initial_kernel(number, last)
        # The outputs of one parameter are a layer of their own there, so that fan_out is K.
        scale = 2.0 / (1 + 2.0 ** (2 / 3)) * (self.num_parameters if last else 1)
        return keras.initializers.VarianceScaling(scale, "fan_out", "uniform", seed=self.seed_of(number))

    def initial_bias(self, number: int, last: bool) -> Union[str, Callable]:
        if self.start == "zero":
            return "zeros"

        def draw(shape, dtype=None):
            count = self.num_dims if last else shape[0]
            drawn = seeds.normal([count], (self.seed_of(number), 1), tf.as_dtype(dtype or "float32"))
            return tf.pad(drawn, [[0, shape[0] - count]])

        return draw

    def make_masks(self, sizes: Sequence[int]) -> list[Optional[np.ndarray]]:
        inputs = np.arange(1, self.num_dims + 1)
        degrees, masks = inputs, []
        for number, units in enumerate(sizes[1:-1]):
            following = self._hidden_degrees(number, units)
            masks.append(degrees[:, None] <= following)
            degrees = following
        return [*masks, np.tile(degrees[:, None] < inputs, (1, self.num_parameters))]

    def _hidden_degrees(self, number: int, units: int) -> np.ndarray:
        lowest = 0 if self.context_dim else 1
        count = max(self.num_dims - lowest, 1)
        if self.degrees == "sequential":
            return np.arange(units) % count + lowest
        with tf.init_scope():
            draws = seeds.uniform([units], seeds.fold_in(self.seed, number)).numpy()
        return np.floor(draws * count).astype(int) + lowest

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "degrees": self.degrees, "start": self.start}
