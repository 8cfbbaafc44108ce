"""A density by flow matching: a velocity field that carries N(0, I) to the data, integrated by Heun's method."""

from collections.abc import Sequence
from typing import Any, Optional

import keras
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core import forward_mode, labels, seeds
from pae_zoo.flows.base import FlowLayer, Pair
from pae_zoo.flows.flow import Flow

FREQUENCIES = 8


@register_keras_serializable("pae_zoo")
class Velocity(FlowLayer):
    """dx/dt = v(x, t) from t = 0, the base, to t = 1, the data: a dense network of x and of sines of t.

    The last kernel is zero at the start, so that the start is the identity. log_det is the integral of tr dv/dx, exact:
    one forward derivative for each dimension.

    Args:
      hidden_units, activation: hidden layers of the network.
      steps: steps of Heun's method, two evaluations each.
    """

    kind = "velocity"
    options = ("hidden_units", "activation", "steps")

    def __init__(self, hidden_units: Sequence[int] = (256, 256, 256), activation: str = "silu", steps: int = 30,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden_units, self.activation = tuple(int(units) for units in hidden_units), activation
        self.steps = int(steps)

    def make_weights(self) -> None:
        sizes = [self.num_dims + 2 * FREQUENCIES, *self.hidden_units, self.num_dims]
        self.kernels, self.biases = [], []
        for number, (size, units) in enumerate(zip(sizes, sizes[1:])):
            last = number == len(self.hidden_units)
            start = keras.initializers.GlorotUniform(seed=seeds.integer(*self.seed, number))
            self.kernels.append(self.add_weight(shape=(size, units), initializer="zeros" if last else start,
                                                name=f"kernel_{number}"))
            self.biases.append(self.add_weight(shape=(units,), initializer="zeros", name=f"bias_{number}"))

    def velocity(self, x: tf.Tensor, time: tf.Tensor) -> tf.Tensor:
        """Returns v(x, t) for x (n, K) and t (n, 1), shape (n, K)."""
        waves = time * tf.constant([[2.0**k * 3.141592653589793 / 2.0 for k in range(FREQUENCIES)]], x.dtype)
        hidden = tf.concat([x, tf.sin(waves), tf.cos(waves)], axis=-1)
        activation: Any = keras.activations.get(self.activation)
        for number, (kernel, bias) in enumerate(zip(self.kernels, self.biases)):
            hidden = tf.matmul(hidden, tf.convert_to_tensor(kernel)) + tf.convert_to_tensor(bias)
            hidden = activation(hidden) if number < len(self.hidden_units) else hidden
        return hidden

    def _rate(self, x: tf.Tensor, time: tf.Tensor, traced: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns v and tr dv/dx at rows x and one time, (n, K) and (n,)."""
        times = tf.fill((tf.shape(x)[0], 1), time)
        if not traced:
            return self.velocity(x, times), tf.zeros_like(x[:, 0])
        units = tf.eye(self.num_dims, dtype=x.dtype)
        trace, value = tf.zeros_like(x[:, 0]), tf.zeros_like(x)
        for i in range(self.num_dims):
            tangent = tf.broadcast_to(units[i], tf.shape(x))
            value, change = forward_mode.jvp(lambda points: self.velocity(points, times), x, tangent)
            trace += change[:, i]
        return value, trace

    def integrate(self, x: tf.Tensor, inverse: bool, traced: bool = True) -> Pair:
        """Returns where rows x (n, K) are carried, and with `traced` the integral of the trace, else 0."""
        width = tf.constant((-1.0 if inverse else 1.0) / self.steps, x.dtype)
        begin = tf.constant(1.0 if inverse else 0.0, x.dtype)

        def step(i, x, total):
            time = begin + tf.cast(i, x.dtype) * width
            first, first_trace = self._rate(x, time, traced)
            second, second_trace = self._rate(x + width * first, time + width, traced)
            return i + 1, x + 0.5 * width * (first + second), total + 0.5 * width * (first_trace + second_trace)

        _, x, total = tf.while_loop(lambda i, *_: i < self.steps, step, (0, x, tf.zeros_like(x[:, 0])))
        return x, total

    def transform(self, x: tf.Tensor, inverse: bool) -> Pair:
        return self.integrate(x, inverse)


@register_keras_serializable("pae_zoo")
class FlowMatching(Flow):
    """z carried from u ~ N(0, I) by a velocity field that is fitted to straight lines from noise to data.

    Minimises |v(x_t, t) - (z - u)|^2 with x_t = (1 - t) u + t z (Lipman et al., arXiv 2210.02747, eq. 23 with
    sigma_min = 0); "nll", of validation alone, is not computed in training. `log_prob` integrates backwards.

    Args:
      num_dims: K.
      hidden_units, activation, steps: of `Velocity`.
      whiten, seed, dtype: as in `Flow`.
    """

    def __init__(self, num_dims: int, hidden_units: Sequence[int] = (256, 256, 256), activation: str = "silu",
                 steps: int = 30, whiten: bool = True, seed: int = 0, dtype: Optional[str] = None,
                 **kwargs: Any) -> None:
        super().__init__(num_dims, layers=(), whiten=whiten, seed=seed, dtype=dtype, **kwargs)
        self.velocity_options: dict[str, Any] = dict(hidden_units=tuple(map(int, hidden_units)), activation=activation,
                                     steps=int(steps))
        layer = Velocity(seed=(self.seed, 0), dtype=self.dtype_policy, name="velocity", **self.velocity_options)
        layer.build((None, self.num_dims))
        self.chain = [layer]

    def objective(self, x: tf.Tensor, seed: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        """Returns "loss", the squared error of the velocity summed over dimensions, and as "nll" the same."""
        z = self._rows(x)
        if self.whitening is not None:
            z, _ = self.whitening.transform(z, inverse=True)
        noise_seed, time_seed = seeds.split(seed, 2)
        u = seeds.normal(tf.shape(z), noise_seed, z.dtype, batch=0)
        time = seeds.uniform((tf.shape(z)[0], 1), time_seed, z.dtype, batch=0)
        error = self.chain[0].velocity((1.0 - time) * u + time * z, time) - (z - u)
        loss = tf.reduce_sum(tf.square(error), axis=-1)
        return {"loss": loss, "nll": loss}

    def sample(self, num: int, seed: Any = None, context: Any = None, label: Any = None) -> tf.Tensor:
        self._seen(context)  # told that there is none
        if label is not None:
            labels.given(label, self.num_labels)
        u = self.base_distribution().sample(num, seed=self.next_seed(seed))
        z, _ = self.chain[0].integrate(u, inverse=False, traced=False)
        return z if self.whitening is None else self.whitening.transform(z, inverse=False)[0]

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("num_dims", "whiten", "seed", "name")}
        return {**own, **self.velocity_options, "dtype": self.dtype_policy.name}
