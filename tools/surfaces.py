"""Manifolds with known geodesics, and a small ensemble trained on a circle in ten dimensions; shared with the tests."""

import functools
import math

import numpy as np
import tensorflow as tf

from pae_zoo import geometry
from pae_zoo.core import seeds

RADIUS, NOISE, DATA_DIM, MEMBERS = 3.0, 0.1, 10, 8


def sphere(z):
    """The unit sphere through the stereographic chart: z (n, 2) -> (n, 3)."""
    square = tf.reduce_sum(tf.square(z), axis=-1, keepdims=True)
    return tf.concat([2.0 * z, square - 1.0], axis=-1) / (square + 1.0)


def disk(num: int, radius: float = 0.9, seed: int = 0) -> np.ndarray:
    """Returns points (num, 2) uniform in a disk."""
    generator = np.random.default_rng(seed)
    angle = generator.uniform(0, 2 * np.pi, num)
    return radius * np.sqrt(generator.uniform(size=(num, 1))) * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def great_circles(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Returns the lengths (B,) of the geodesics of `sphere` between pairs (B, 2)."""
    first, last = (sphere(tf.constant(points)).numpy() for points in (start, end))
    return np.arccos(np.clip(np.sum(first * last, axis=1), -1.0, 1.0))


class Affine:
    """S affine decoders f_s(z) = z A_s + b_s; with `spread` 0 all are one."""

    def __init__(self, latent_dim: int = 2, num_outputs: int = 5, num_members: int = 3, spread: float = 1.0):
        generator = np.random.default_rng(4)
        self.latent_dim = latent_dim
        own = generator.normal(size=(num_members, latent_dim + 1, num_outputs)) * spread
        both = generator.normal(size=(latent_dim + 1, num_outputs)) + own
        self.weights, self.biases = both[:, :-1].astype(np.float32), both[:, -1:].astype(np.float32)

    def mean_and_members(self, z):
        members = tf.matmul(tf.broadcast_to(z, (len(self.weights), *z.shape)), tf.cast(self.weights, z.dtype))
        members += tf.cast(self.biases, z.dtype)
        return tf.reduce_mean(members, axis=0), members


class Network:
    """S dense networks with an activation between their layers, as `mean_and_members`."""

    def __init__(self, variables, num_members: int, activation=tf.nn.elu):
        self.variables, self.num_members, self.activation = variables, num_members, activation

    def mean_and_members(self, z):
        members = _dense(tf.broadcast_to(z, (self.num_members, *z.shape)), self.variables, self.activation)
        return tf.reduce_mean(members, axis=0), members


def random_network(widths, num_members: int = 3, seed: int = 0, activation=tf.nn.elu) -> Network:
    """Returns decoders of layer sizes `widths` with random weights."""
    generator = np.random.default_rng(seed)
    values = [tf.constant(value, tf.float32) for value in _initial(generator, widths, num_members)]
    return Network(values, num_members, activation)


def _initial(generator, widths, num_members):
    values = []
    for before, after in zip(widths, widths[1:]):
        values.append(generator.normal(size=(num_members, before, after)) / math.sqrt(before))
        values.append(0.1 * generator.normal(size=(num_members, 1, after)))
    return values


def _dense(values, variables, activation=tf.nn.elu):
    for number in range(0, len(variables), 2):
        values = tf.matmul(values, variables[number]) + variables[number + 1]
        if number < len(variables) - 2:
            values = activation(values)
    return values


@functools.lru_cache(maxsize=2)
def ring(steps: int = 3000, seed: int = 0):
    """Returns (decoder, codes (1000, 2), angles (1000,)) of a VAE with eight decoders trained on a circle in R^10.

    Radius 3, noise 0.1, networks 64-64 with elu, KL weight 0.05; each datum trains one member of its batch of 200.
    """
    generator = np.random.default_rng(seed)
    angles = generator.uniform(0, 2 * np.pi, 1000)
    plane = np.linalg.qr(generator.normal(size=(DATA_DIM, DATA_DIM)))[0][:2]
    data = RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=1) @ plane
    data = tf.constant(data + NOISE * generator.normal(size=data.shape), tf.float32)
    variables = [tf.Variable(value, dtype=tf.float32) for value in (
        *_initial(generator, (DATA_DIM, 64, 64, 4), 1), *_initial(generator, (2, 64, 64, DATA_DIM), MEMBERS))]
    encoder, decoder = variables[:6], variables[6:]
    moments = [(tf.Variable(tf.zeros_like(v)), tf.Variable(tf.zeros_like(v))) for v in variables]

    def step(number):
        index = tf.cast(seeds.uniform((200,), seeds.fold_in((seed, 1), number)) * 1000, tf.int32)
        x = tf.gather(data, index)
        noise = seeds.normal((200, 2), seeds.fold_in((seed, 2), number))
        with tf.GradientTape() as tape:
            mean, log_variance = tf.split(_dense(x[None], encoder)[0], 2, axis=-1)
            z = tf.reshape(mean + tf.exp(0.5 * log_variance) * noise, (MEMBERS, -1, 2))
            error = tf.reduce_sum(tf.square(_dense(z, decoder) - tf.reshape(x, (MEMBERS, -1, DATA_DIM)))) / 200
            kl = 0.5 * tf.reduce_sum(tf.square(mean) + tf.exp(log_variance) - log_variance - 1) / 200
            loss = error + 0.05 * kl
        time = tf.cast(number + 1, tf.float32)
        rate = 3e-3 * 0.5 * (1 + tf.cos(math.pi * time / steps))
        for variable, gradient, (first, second) in zip(variables, tape.gradient(loss, variables), moments):
            first.assign(0.9 * first + 0.1 * gradient)
            second.assign(0.999 * second + 0.001 * tf.square(gradient))
            unbiased = tf.sqrt(1 - 0.999**time) / (1 - 0.9**time)
            variable.assign_sub(rate * unbiased * first / (tf.sqrt(second) + 1e-8))
        return number + 1

    tf.function(lambda: tf.while_loop(lambda n: n < steps, lambda n: (step(n),), (0,)), jit_compile=True)()
    codes = tf.split(_dense(data[None], [tf.constant(v) for v in encoder])[0], 2, axis=-1)[0].numpy()
    return Network([tf.constant(v) for v in decoder], MEMBERS), codes, angles


def solver(decoder, latent_dim=None, graph=None, jit_compile=False, **settings):
    """Returns a solver on the manifold of a decoder."""
    settings = geometry.Settings(jit_compile=jit_compile, **settings)
    return geometry.Solver(geometry.as_manifold(decoder, latent_dim), settings, graph)
