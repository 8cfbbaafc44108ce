"""Hand-written training loops of the model `ae`, against which the launcher is measured.

All minimise what `ae` minimises with the likelihood gaussian_learned: the mean over the batch of
    1/2 exp(-s) sum_p (y_p - g_p)^2 + D/2 (s + log 2 pi),    s >= -12.
"""

import math

import numpy as np

from benchmarks._network import Layer, Network

LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-7
FLOOR = -12.0


def _apply_tf(layer: Layer, h, arrays):
    import tensorflow as tf

    kind, options = layer.kind, layer.options
    if kind == "dense":
        return tf.matmul(h, arrays[0]) + arrays[1]
    if kind == "conv":
        h = tf.nn.conv2d(h, arrays[0], options["stride"], "SAME")
        return h + arrays[1] if options["bias"] else h
    if kind == "conv_transpose":
        stride, kernel = options["stride"], arrays[0]
        shape = (h.shape[0], h.shape[1] * stride, h.shape[2] * stride, kernel.shape[2])
        h = tf.nn.conv2d_transpose(h, kernel, shape, stride, "SAME")
        return h + arrays[1] if options["bias"] else h
    if kind == "affine":
        return h * (arrays[0] / (1 + 1e-5) ** 0.5) + arrays[1]
    if kind == "activation":
        return getattr(tf.nn, options["name"])(h)
    if kind == "reshape":
        return tf.reshape(h, (h.shape[0], *options["shape"]))
    (top, bottom), (left, right) = options["margins"]
    return h[:, top : h.shape[1] - bottom, left : h.shape[2] - right]


class HandLoop:
    """TensorFlow without Keras: all steps of an epoch in one XLA program over data on the device.

    Weights and Adam's moments are loop variables. With `update=False` the gradients are only summed, which
    tells what Adam costs; `xla=False` leaves the program to TensorFlow's own runtime.
    """

    def __init__(self, network: Network, x: np.ndarray, update: bool = True, xla: bool = True):
        import tensorflow as tf

        self.network, self.update = network, update
        self.x = tf.constant(x)
        arrays = [array for layer in network.layers for array in layer.arrays]
        self.weights = [tf.constant(array) for array in [*arrays, np.float32(network.log_variance)]]
        self.first = [tf.zeros_like(weight) for weight in self.weights]
        self.second = [tf.zeros_like(weight) for weight in self.weights]
        self.steps = tf.constant(0.0)
        self._epoch = tf.function(self._steps, jit_compile=xla)

    def __call__(self, rows: np.ndarray) -> float:
        """Takes one step per row of `rows`, (steps, batch_size), row numbers; returns the mean loss."""
        import tensorflow as tf

        state = (self.weights, self.first, self.second, self.steps)
        total, (self.weights, self.first, self.second, self.steps) = self._epoch(tf.constant(rows), state)
        return float(total) / len(rows)

    def loss(self, x, weights):
        """Returns the loss of one batch of uint8 or float data."""
        import tensorflow as tf

        y = tf.cast(x, tf.float32) / 255.0 if x.dtype == tf.uint8 else x
        h, left = y, list(weights[:-1])

        def run(layers, h):
            for layer in layers:
                arrays = [left.pop(0) for _ in layer.arrays]
                h = _apply_tf(layer, h, arrays)
            return h

        z = run(self.network.encoder, h)[:, : self.network.latent_dim]
        squares = tf.reduce_sum(
            tf.square(y - run(self.network.decoder, z)), axis=list(range(1, y.shape.rank))
        )
        log_variance = tf.maximum(weights[-1], FLOOR)
        half = 0.5 * math.prod(self.network.event_shape)
        return tf.reduce_mean(0.5 * tf.exp(-log_variance) * squares) + half * (
            log_variance + math.log(2 * math.pi)
        )

    def _steps(self, rows, state):
        import tensorflow as tf

        def body(i, total, state):
            weights, first, second, steps = state
            with tf.GradientTape() as tape:
                tape.watch(weights)
                loss = self.loss(tf.gather(self.x, rows[i]), weights)
            gradients = tape.gradient(loss, weights)
            steps += 1.0
            if not self.update:
                first = [a + b for a, b in zip(first, gradients)]
                return i + 1, total + loss, (weights, first, second, steps)
            rate = LEARNING_RATE * tf.sqrt(1 - BETA_2**steps) / (1 - BETA_1**steps)
            first = [m + (g - m) * (1 - BETA_1) for m, g in zip(first, gradients)]
            second = [v + (g * g - v) * (1 - BETA_2) for v, g in zip(second, gradients)]
            weights = [w - rate * m / (tf.sqrt(v) + EPSILON) for w, m, v in zip(weights, first, second)]
            weights[-1] = tf.maximum(weights[-1], FLOOR)
            return i + 1, total + loss, (weights, first, second, steps)

        _, total, state = tf.while_loop(lambda i, *_: i < rows.shape[0], body, (0, 0.0, state))
        return total, state


class TorchLoop:
    """PyTorch on the same network, eager, data in memory; `adam` are the options of torch.optim.Adam."""

    def __init__(self, network: Network, x: np.ndarray, **adam):
        import torch

        self.network = network
        self.x = torch.from_numpy(x)
        self.weights = [
            torch.nn.Parameter(torch.from_numpy(_to_torch(layer, index, array)))
            for layer in network.layers
            for index, array in enumerate(layer.arrays)
        ]
        self.log_variance = torch.nn.Parameter(torch.tensor(network.log_variance, dtype=torch.float32))
        parameters = [*self.weights, self.log_variance]
        self.optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, eps=EPSILON, **adam)

    def __call__(self, rows: np.ndarray) -> float:
        """Takes one step per row of `rows`, (steps, batch_size), row numbers; returns the mean loss."""
        import torch

        total = torch.zeros(())
        for batch in torch.from_numpy(rows):
            self.optimizer.zero_grad()
            loss = self.loss(self.x[batch])
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                self.log_variance.clamp_(min=FLOOR)
                total += loss.detach()
        return float(total) / len(rows)

    def loss(self, x):
        """Returns the loss of one batch of uint8 or float data."""
        import torch

        y = x.float() / 255.0 if x.dtype == torch.uint8 else x
        h, left = y, list(self.weights)
        if len(self.network.event_shape) == 3:
            h = h.permute(0, 3, 1, 2)  # torch's convolutions take channels first

        def run(layers, h):
            for layer in layers:
                h = _apply_torch(layer, h, [left.pop(0) for _ in layer.arrays])
            return h

        z = run(self.network.encoder, h)[:, : self.network.latent_dim]
        g = run(self.network.decoder, z)
        g = g.permute(0, 2, 3, 1) if g.ndim == 4 else g
        squares = torch.square(y - g).flatten(1).sum(1)
        half = 0.5 * math.prod(self.network.event_shape)
        return (0.5 * torch.exp(-self.log_variance) * squares).mean() + half * (
            self.log_variance + math.log(2 * math.pi)
        )


def _to_torch(layer: Layer, index: int, array: np.ndarray) -> np.ndarray:
    if index == 0 and layer.kind == "conv":
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    if index == 0 and layer.kind == "conv_transpose":
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    return np.ascontiguousarray(array.T) if index == 0 and layer.kind == "dense" else array.copy()


def _apply_torch(layer: Layer, h, arrays):
    import torch
    from torch.nn import functional

    kind, options = layer.kind, layer.options
    if kind == "dense":
        return functional.linear(h, arrays[0], arrays[1])
    if kind == "conv":
        stride, size = options["stride"], arrays[0].shape[-1]
        pads = []
        for side in reversed(h.shape[2:]):  # TensorFlow's SAME: the odd pixel goes behind
            extra = max((-(-side // stride) - 1) * stride + size - side, 0)
            pads += [extra // 2, extra - extra // 2]
        return functional.conv2d(
            functional.pad(h, pads), arrays[0], arrays[1] if options["bias"] else None, stride
        )
    if kind == "conv_transpose":
        stride, size = options["stride"], arrays[0].shape[-1]
        height, width = h.shape[2] * stride, h.shape[3] * stride
        first = max(size - stride, 0) // 2
        h = functional.conv_transpose2d(h, arrays[0], arrays[1] if options["bias"] else None, stride)
        return h[:, :, first : first + height, first : first + width]
    if kind == "affine":
        scale, shift = arrays[0] / (1 + 1e-5) ** 0.5, arrays[1]
        return h * scale[:, None, None] + shift[:, None, None] if h.ndim == 4 else h * scale + shift
    if kind == "activation":
        return getattr(torch, options["name"])(h)
    if kind == "reshape":
        shape = options["shape"]
        if len(shape) == 3:
            return h.reshape(h.shape[0], *shape).permute(0, 3, 1, 2)
        return (h.permute(0, 2, 3, 1) if h.ndim == 4 else h).reshape(h.shape[0], *shape)
    (top, bottom), (left, right) = options["margins"]
    return h[:, :, top : h.shape[2] - bottom, left : h.shape[3] - right]
