"""Dense networks that give the parameters of a layer: all from all inputs, or each from the inputs before it."""

from typing import Any, Optional, Sequence

import keras
import numpy as np
import tensorflow as tf

from pae_zoo import seeds


@keras.saving.register_keras_serializable("pae_zoo")
class Conditioner(keras.layers.Layer):
    """Dense network x (n, d) -> parameters (p, K, n), zero at the start, so that the layer it drives is the identity.

    Hidden kernels are Glorot uniform, biases and the last kernel zero.

    Args:
      num_parameters, num_dims: p and K of the output.
      hidden_units, activation: the hidden layers.
      context_dim: width of a context vector that the first hidden layer sees beside x; 0 for none.
      seed: pair of integers for the initial weights.
    """

    def __init__(
        self,
        num_parameters: int,
        num_dims: int,
        hidden_units: Sequence[int] = (128, 128),
        activation: str = "relu",
        context_dim: int = 0,
        seed: Sequence[int] = (0, 0),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_parameters, self.num_dims = int(num_parameters), int(num_dims)
        self.hidden_units = tuple(int(units) for units in hidden_units)
        self.activation = keras.activations.get(activation)
        self.context_dim = int(context_dim)
        self.seed = tuple(int(word) for word in seed)

    def build(self, input_shape: Sequence[Optional[int]]) -> None:
        if self.built:
            return
        outputs = self.num_parameters * self.num_dims
        sizes = [input_shape[-1], *self.hidden_units, outputs]
        self.masks = self.make_masks(sizes)
        self.kernels, self.biases = [], []
        for number, (size, units) in enumerate(zip(sizes, sizes[1:])):
            last = number == len(self.hidden_units)
            initial = "zeros" if last else self._glorot(number)
            self.kernels.append(self.add_weight(shape=(size, units), initializer=initial, name=f"kernel_{number}"))
            self.biases.append(self.add_weight(shape=(units,), initializer="zeros", name=f"bias_{number}"))
        if self.context_dim:
            self.context_kernel = self.add_weight(
                shape=(self.context_dim, sizes[1]), initializer=self._glorot(len(sizes)), name="context_kernel"
            )
        self.built = True

    def make_masks(self, sizes: Sequence[int]) -> list[Optional[np.ndarray]]:
        """Returns for each kernel what it is multiplied with, of its shape, or None."""
        return [None] * (len(sizes) - 1)

    def call(self, x: tf.Tensor, context: Optional[tf.Tensor] = None) -> tf.Tensor:
        h = x
        for number, (kernel, bias, mask) in enumerate(zip(self.kernels, self.biases, self.masks)):
            kernel = tf.convert_to_tensor(kernel)
            h = tf.matmul(h, kernel if mask is None else kernel * tf.constant(mask, kernel.dtype)) + bias
            if number == 0 and context is not None:
                h += tf.matmul(context, tf.convert_to_tensor(self.context_kernel))
            if number < len(self.hidden_units):
                h = self.activation(h)
        return tf.reshape(tf.transpose(h), (self.num_parameters, self.num_dims, -1))

    def _glorot(self, number: int) -> keras.Initializer:
        return keras.initializers.GlorotUniform(seed=seeds.integer(*self.seed, number))

    def get_config(self) -> dict[str, Any]:
        own = ("num_parameters", "num_dims", "hidden_units", "context_dim", "seed")
        config = {**super().get_config(), **{name: getattr(self, name) for name in own}}
        return {**config, "activation": keras.activations.serialize(self.activation)}


@keras.saving.register_keras_serializable("pae_zoo")
class MADE(Conditioner):
    """Masked dense network: the parameters of dimension i depend on x_1 .. x_{i-1} alone, and on all of the context.

    Every unit has a degree, x_i has i; a hidden unit sees units of its degree or less, output i those of less
    than i (Germain et al., arXiv 1502.03509, eq. 8-9). Degrees of hidden units run through 1 .. K-1 in turn, or
    with `degrees="random"` are drawn from `seed`; with a context also 0, so that x_1 depends on it too.
    """

    def __init__(self, *args: Any, degrees: str = "sequential", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if degrees not in ("sequential", "random"):
            raise ValueError(f"degrees is 'sequential' or 'random'; received {degrees!r}.")
        self.degrees = degrees

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
        return {**super().get_config(), "degrees": self.degrees}
