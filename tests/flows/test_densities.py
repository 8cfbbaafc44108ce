"""Densities that are known: every flow integrates to one, and training finds entropies."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import some

import pae_zoo
from pae_zoo.data import synthetic

COUPLINGS = {"additive": "nice", "affine": "realnvp", "spline": "nsf"}


def two_moons(rng, count):
    angle, side = rng.uniform(0, np.pi, count), rng.integers(0, 2, count)
    sign = 1 - 2 * side
    moons = np.stack([sign * np.cos(angle) + side, sign * np.sin(angle) + 0.5 * side], -1)
    return moons + 0.1 * rng.normal(size=(count, 2))


def log_normal(rng, count):
    return np.exp(rng.normal(size=(count, 2)))


@pytest.mark.parametrize("sample", (two_moons, log_normal))
@pytest.mark.parametrize("coupling", some(list(COUPLINGS), ["affine", "spline"]))
def test_a_trained_density_integrates_to_one(coupling, sample):
    x = sample(np.random.default_rng(0), 2000)
    flow = pae_zoo.Flow(2, layers=COUPLINGS[coupling], depth=2, hidden_units=(16, 16), bins=6)
    # Eagerly: tracing would take longer.
    flow.compile(keras.optimizers.Adam(0.01), jit_compile=False, run_eagerly=True)
    flow.fit(x, epochs=1, batch_size=200, verbose=0)
    draws = flow.sample(20_000, seed=(0, 1)).numpy()
    low, high = np.quantile(draws, [0.0005, 0.9995], axis=0)
    edges = [np.linspace(a, b, 201) for a, b in zip(low, high)]
    centres = np.stack(np.meshgrid(*[(e[1:] + e[:-1]) / 2 for e in edges], indexing="ij"), -1)
    cell = np.prod([e[1] - e[0] for e in edges])
    mass = np.sum(np.exp(flow.log_prob(centres).numpy().astype(np.float64))) * cell
    inside = np.mean(np.all((draws > low) & (draws < high), axis=-1))
    assert mass == pytest.approx(inside, abs=0.01)


def test_a_gaussian_is_found_at_once():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(4, 4))
    x = rng.normal(size=(20_000, 4)) @ mix.T
    flow = pae_zoo.Flow(4, layers="nsf", depth=2, hidden_units=(8,))
    flow.adapt(x)
    entropy = 2 * np.log(2 * np.pi * np.e) + np.linalg.slogdet(mix)[1]
    assert -np.mean(flow.log_prob(x)) == pytest.approx(entropy, abs=0.05)


def held_out_nll(name, num_train, **options):
    rng, density = np.random.default_rng(0), synthetic.SYNTHETIC[name]
    x, test = density.sample(rng, num_train), density.sample(rng, 4000)
    flow = pae_zoo.Flow(x.shape[1], **options)
    flow.compile("adam", jit_compile=True)
    flow.fit(x.astype("float32"), epochs=40, batch_size=100, verbose=0)
    log_prob = tf.function(flow.log_prob, jit_compile=True)
    return -np.mean(log_prob(test.astype("float32"))), -np.mean(density.log_prob(test)), test


@pytest.mark.slow
def test_entropy_of_four_log_normals():
    nll, truth, _ = held_out_nll("lognormal4", 9000, layers="realnvp", depth=6)
    assert truth == pytest.approx(5.676, abs=0.1)
    assert nll <= 5.85 and nll > truth - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("layers", ("realnvp", "nsf"))
def test_rotated_rosenbrock_is_below_its_gaussian(layers):
    nll, truth, test = held_out_nll("banana", 10_000, layers=layers)
    gaussian = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * np.cov(test.T))[1]
    assert truth < nll < gaussian - 5
