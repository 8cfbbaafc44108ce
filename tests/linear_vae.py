"""A VAE with a linear decoder, whose log p(x) and posteriors are known exactly."""

import numpy as np
import tensorflow_probability as tfp
from battery import LATENT_DIM

import pae_zoo
from pae_zoo import networks

tfd = tfp.distributions


def linear_model(sigma=0.3, dim=7, latent=LATENT_DIM, **changes):
    encoder = networks.build_encoder("mlp", (dim,), latent, hidden_units=(), seed=1)
    decoder = networks.build_decoder("mlp", (dim,), latent, hidden_units=(), seed=2)
    model = pae_zoo.VAE(encoder, decoder, likelihood="gaussian", scale=sigma, **changes)
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(size=(latent, dim)) * 0.7, generator.normal(size=dim)
    decoder.set_weights([weight, bias])
    return model, weight, bias


def set_exact_posterior(model, weight, bias, sigma):
    """Makes the encoder's mean the exact posterior mean, and its std the exact one where it is diagonal."""
    precision = np.eye(len(weight)) + weight @ weight.T / sigma**2
    gain = np.linalg.solve(precision, weight) / sigma**2
    std = np.sqrt(np.diag(np.linalg.inv(precision)))
    raw = np.log(np.expm1(std - 1e-6))
    kernel = np.concatenate([gain.T, np.zeros_like(gain.T)], axis=1)
    model.encoder.set_weights([kernel, np.concatenate([-gain @ bias, raw])])


def exact_log_prob(x, weight, bias, sigma):
    weight, bias = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
    covariance = weight.T @ weight + sigma**2 * np.eye(len(bias))
    return tfd.MultivariateNormalFullCovariance(bias, covariance).log_prob(x.astype(np.float64)).numpy()
