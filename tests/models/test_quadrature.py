"""Importance-sampled log p(x) of nonlinear models of the amortisation line, against quadrature over the latents."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import build
from tiers import some

DIMS, LATENTS, POINTS = 3, 2, 20
# Own flags that make each posterior differ from the vae's.
FLAGS = {
    "vae": {},
    "savae": dict(num_svi_steps=3, svi_learning_rate=1e-2),
    "hf": dict(num_flows=3),
    "iaf": dict(num_flows=2, iaf_units=16),
    "vlae": dict(num_updates=2),
}


def bent(num):
    """Points of a bent sheet with noise, (num, DIMS)."""
    rng = np.random.default_rng(3)
    u, noise = rng.normal(size=(num, LATENTS)), 0.3 * rng.normal(size=(num, DIMS))
    sheet = np.stack([u[:, 0], np.sin(2 * u[:, 0]) + u[:, 1], 0.5 * u[:, 1] ** 2], axis=1)
    return (sheet + noise).astype(np.float32)


def by_quadrature(model, x, limit=7.0, side=301):
    """log p(x) by the trapezoidal rule over a grid of latents, in float64, (n,)."""
    axis = np.linspace(-limit, limit, side)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, LATENTS)
    means = model.decoder_outputs(tf.constant(z, tf.float32)).numpy().astype(np.float64)
    sigma = float(model.likelihood.sigma())
    square = (means**2).sum(1)[:, None] - 2 * means @ x.T.astype(np.float64) + (x.astype(np.float64) ** 2).sum(1)
    log_joint = -0.5 * square / sigma**2 - DIMS * math.log(sigma) - 0.5 * (z**2).sum(1)[:, None]
    log_joint -= 0.5 * (DIMS + LATENTS) * math.log(2 * math.pi)
    top = log_joint.max(axis=0)
    return top + np.log(np.exp(log_joint - top).sum(axis=0)) + 2 * math.log(axis[1] - axis[0])


@pytest.mark.parametrize("name", some(list(FLAGS), ["vae", "savae", "vlae"]))
def test_importance_sampling_meets_quadrature(name):
    x = bent(512 + POINTS)
    model = build(name, event_shape=(DIMS,), latent_dim=LATENTS, activation="tanh", likelihood="gaussian",
                  scale=0.6, adapted=False, **FLAGS[name])
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    model.fit(x[:512], epochs=30, batch_size=32, verbose=0, shuffle=False)  # Keras shuffles by hidden state
    test = x[512:]
    found = tf.function(lambda: model.importance_estimate(tf.constant(test), 10_000, (1, 2)), autograph=False)()
    exact = by_quadrature(model, test)
    difference = found.log_likelihood.numpy() - exact
    assert abs(difference.mean()) < 0.02 and np.abs(difference).max() < 0.2, difference
    # No accident of latents that the decoder ignores: the bound is loose, and z tells something of x.
    assert found.elbo.numpy().mean() < exact.mean() - 0.02
    assert np.ptp(model.point(tf.constant(test)), axis=0).max() > 1
