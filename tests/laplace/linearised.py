"""Small decoders and systems that the tests of linearisations share."""

import keras
import numpy as np
import tensorflow as tf

from pae_zoo import likelihoods

LATENTS, HIDDEN, VALUES, BATCH = 3, 9, 7, 5


def decoder(activation="relu", dtype="float64", hidden=(HIDDEN, HIDDEN), latents=LATENTS, values=VALUES, seed=0):
    """Returns a dense decoder with random biases, latents -> values."""
    initial = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.5, seed=seed),
               "bias_initializer": keras.initializers.RandomNormal(stddev=0.3, seed=seed + 1)}  # fmt: skip
    layers = [keras.Input((latents,), dtype=dtype)]
    layers += [keras.layers.Dense(n, activation, dtype=dtype, **initial) for n in hidden]
    return keras.Sequential([*layers, keras.layers.Dense(values, dtype=dtype, **initial)])


def affine(dtype="float64", latents=LATENTS, values=VALUES):
    return decoder(dtype=dtype, hidden=(), latents=latents, values=values)


def points(num=BATCH, latents=LATENTS, dtype="float64", seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=(num, latents)), dtype)


def data(num=BATCH, values=VALUES, dtype="float64", seed=1):
    return tf.constant(np.random.default_rng(seed).uniform(size=(num, values)), dtype)


def likelihood(name="gaussian", values=VALUES, scale=0.3, dtype="float64"):
    return likelihoods.build(name, (values,), scale=scale, dtype=dtype)
