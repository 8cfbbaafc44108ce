"""What takes turns in `benchmark.py curvature` on the side of the zoo; each function runs in a process of its own."""

import dataclasses
from typing import Any, Callable, Optional

import numpy as np

from benchmarks._memory import Memory
from benchmarks._rounds import Baton

STEP = "forward and backward step"


@dataclasses.dataclass(frozen=True)
class Net:
    """An autoencoder to be measured: dense of `widths`, or convolutional where `pixels` is not 0.

    Args:
      widths: of the encoder's layers, the data first, the latent last; the decoder mirrors them.
      pixels: side of the images; the net then is the small convolutional one, 8, 12 and 12 channels.
      batch: data in a step.
    """

    widths: tuple[int, ...] = (784, 512, 256, 2)
    pixels: int = 0
    batch: int = 128

    @property
    def label(self) -> str:
        """The net in words."""
        if self.pixels:
            return f"conv {self.pixels}x{self.pixels}, batch {self.batch}"
        return f"dense {'-'.join(map(str, self.widths))}, batch {self.batch}"

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (self.pixels, self.pixels, 1) if self.pixels else self.widths[:1]


def data(net: Net) -> np.ndarray:
    """Returns a batch of values in [0, 1], float32."""
    return np.random.default_rng(0).random((net.batch, *net.event_shape)).astype(np.float32)


def build(net: Net):
    """Returns (encoder, decoder), Keras models with tanh between the layers."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    if not net.pixels:
        halves = [net.widths, net.widths[::-1]]
        return tuple(keras.Sequential([keras.Input((widths[0],)), *_dense(widths)]) for widths in halves)
    side = net.pixels // 4

    def conv(channels):
        return layers.Conv2D(channels, 3, padding="same", use_bias=False)

    def tanh():
        return layers.Activation("tanh")

    encoder = [conv(8), layers.MaxPooling2D(), tanh(), conv(12), layers.MaxPooling2D(), tanh(), conv(12), tanh(),
               layers.Flatten(), layers.Dense(net.widths[-1])]
    decoder = [layers.Dense(side * side * 12), layers.Reshape((side, side, 12)), tanh(), conv(12),
               layers.UpSampling2D(), tanh(), conv(8), layers.UpSampling2D(), tanh(), conv(1)]
    return (keras.Sequential([keras.Input(net.event_shape), *encoder]),
            keras.Sequential([keras.Input(net.widths[-1:]), *decoder]))


def _dense(widths: tuple[int, ...]) -> list:
    from keras import layers

    found: list[Any] = []
    for width in widths[1:-1]:
        found += [layers.Dense(width), layers.Activation("tanh")]
    return [*found, layers.Dense(widths[-1])]


def step(baton: Baton, net: Net, steps: int, trains: bool = False) -> None:
    """The gradient of half the squared error by all weights, compiled; with `trains` also the step of Adam."""
    import keras
    import tensorflow as tf

    encoder, decoder = build(net)
    variables = [v for model in (encoder, decoder) for v in model.trainable_variables]
    x, optimizer = tf.constant(data(net)), keras.optimizers.Adam(1e-3)
    if trains:
        optimizer.build(variables)

    def gradient(x):
        with tf.GradientTape() as tape:
            loss = 0.5 * tf.reduce_sum(tf.square(decoder(encoder(x)) - x))
        gradients = tape.gradient(loss, variables)
        if not trains:
            return gradients
        optimizer.apply(gradients, variables)
        return [tf.reshape(loss, (1,))]

    compiled = tf.function(gradient, jit_compile=not net.pixels, autograph=False)
    _turns(baton, steps, lambda number: compiled(x)[0])


def ggn(baton: Baton, net: Net, steps: int, options: dict[str, Any]) -> None:
    """One generalised Gauss-Newton matrix of the batch by the zoo."""
    import tensorflow as tf

    from pae_zoo import curvature

    models, x = build(net), tf.constant(data(net))
    _turns(baton, steps, lambda number: _first(curvature.ggn(models, x, seed=(0, number), **options)))


def train(baton: Baton, argv: list[str], net: Net, steps: int, xla: Optional[bool] = None) -> None:
    """Training steps of one of the zoo's models in one compiled function, as the launcher takes them."""
    import keras
    import tensorflow as tf

    from pae_zoo import models
    from pae_zoo.experiment import launch

    module = models.find(launch.value_of(argv, "model", "ae"))
    flags = [f"--hidden_units={','.join(map(str, net.widths[1:-1]))}", f"--latent_dim={net.widths[-1]}",
             "--activation=tanh", f"--batch_size={net.batch}", "--dataset=npz:none", "--workdir=none"]
    hparams, _ = launch.parse_model(module, [*argv, *flags])
    model = module.MODEL.from_hparams(hparams, net.event_shape, 1)
    rows = np.random.default_rng(0).random((2048, *net.event_shape)).astype(np.float32)
    model.adapt(rows)
    model.compile(keras.optimizers.Adam(1e-3))
    model.optimizer.build(model.trained_variables)
    x = tf.constant(rows)

    def run(number):
        def body(i, loss):
            start = ((number + i) * net.batch) % (len(rows) - net.batch)
            # By numbers of rows, as the launcher does: XLA compiles a slice anew for each place it starts at.
            return i + 1, model.update(tf.gather(x, start + tf.range(net.batch)))

        return tf.while_loop(lambda i, loss: i < steps, body, (0, 0.0))[1]

    compiled = tf.function(run, jit_compile=model.xla_pays if xla is None else xla, autograph=False)
    _turns(baton, 1, lambda number: compiled(tf.constant(number)), count=steps)


def _first(found):
    """Returns a tensor of what ggn returns, to wait for."""
    import tensorflow as tf

    return tf.nest.flatten(found)[0] if not tf.is_tensor(found) else found


def _turns(baton: Baton, steps: int, run: Callable[[int], Any], count: int = 0) -> None:
    """Takes turns of `steps` calls of run(number); a turn counts as `count` steps where that is not 0."""
    memory, number = Memory(), 0
    while True:
        baton.start()
        for _ in range(steps):
            value = np.asarray(run(number))
            number += 1
        if not np.isfinite(value).all():
            raise RuntimeError("the numbers of a turn are not finite; there is nothing to compare.")
        baton.stop(count or steps, memory_mib=memory.peak())
