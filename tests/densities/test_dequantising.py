"""Columns of whole numbers: which they are, the noise, and what densities then say of them."""

import numpy as np
import pytest

from pae_zoo import densities
from pae_zoo.densities import dequantising

SHARES = np.array([0.1, 0.2, 0.4, 0.2, 0.1])


def data(num=1000, seed=0):
    """Whole numbers from 0 to 4, and a measurement that depends on them."""
    generator = np.random.default_rng(seed)
    number = generator.choice(5, num, p=SHARES)
    return np.stack([number, 0.5 * number + generator.normal(size=num)], axis=1)


def test_which_columns_are_whole():
    generator = np.random.default_rng(0)
    x = np.stack([generator.integers(3, size=1000), generator.normal(size=1000), np.arange(1000), np.full(1000, 2.0),
                  generator.integers(3, size=1000) + 0.5, -generator.integers(200, size=1000),
                  generator.integers(3, size=1000)], axis=1)
    assert dequantising.whole_columns(x, 6).tolist() == [True, False, False, True, False, True, False]
    assert not dequantising.whole_columns(np.arange(10.0)[:, None], 1).any()  # every row another value
    assert not dequantising.whole_columns(np.array([[1.0], [np.inf], [1.0], [1.0]]), 1).any()


def test_noise_is_uniform_seeded_and_in_whole_columns_alone():
    x = data(20_000)
    found = dequantising.spread(x, np.array([True, False]), (0, 1)).numpy()
    np.testing.assert_array_equal(found[:, 1], x[:, 1])
    np.testing.assert_array_equal(np.floor(found[:, 0] + 0.5), x[:, 0])
    assert np.var(found[:, 0] - x[:, 0]) == pytest.approx(1 / 12, rel=0.03)
    np.testing.assert_array_equal(found, dequantising.spread(x, np.array([True, False]), (0, 1)))


def probabilities(density):
    return np.exp(density.log_prob(np.arange(5.0)[:, None]).numpy())


@pytest.mark.parametrize("name, tolerance, options", [
    ("flow", 0.06, dict(layers=("spline",), depth=1, settings=dict(epochs=30, learning_rate=2e-2, ema=0.9))),
    ("gaussian_mixture", 0.12, dict(components=5)),  # of which each bends where a cell is flat
])  # fmt: skip
def test_densities_at_whole_numbers_are_their_probabilities(name, tolerance, options):
    """Without noise the density at them grows without bound, and says nothing of shares."""
    x = data(3000)[:, :1]
    spread = densities.fit(x, name, dequantise=True, **options)
    np.testing.assert_allclose(probabilities(spread), SHARES, atol=tolerance)
    assert probabilities(densities.fit(x, name, **options)).sum() > 2.0


def test_each_step_draws_anew_and_the_seed_fixes_all(monkeypatch):
    drawn, spread = [], dequantising.spread

    def told(x, whole, seed):
        drawn.append(len(x.shape))
        return spread(x, whole, seed)

    monkeypatch.setattr(dequantising, "spread", told)
    options = dict(density="flow", layers=("realnvp",), depth=1, hidden_units=(8,), dequantise=True, seed=3,
                   settings=dict(epochs=2, batch_size=100))
    first, same = densities.fit(data(300), **options), densities.fit(data(300), **options)
    assert len(drawn) == 6  # for each fit: data once, validation data once, and the steps, traced
    for one, other in zip(first.weights, same.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_data_without_whole_columns_train_as_before():
    x = np.random.default_rng(0).normal(size=(200, 2)).astype("float32")
    options = dict(density="flow", layers=("realnvp",), depth=1, hidden_units=(8,), settings=dict(epochs=1))
    plain, asked = densities.fit(x, **options), densities.fit(x, dequantise=True, **options)
    for one, other in zip(plain.weights, asked.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_context_is_not_spread():
    x, context = data(300)[:, 1:], data(300)[:, :1]
    options = dict(density="flow", layers=("realnvp",), depth=1, hidden_units=(8,), settings=dict(epochs=1))
    plain = densities.fit(x, context=context, **options)
    asked = densities.fit(x, context=context, dequantise=True, **options)
    for one, other in zip(plain.weights, asked.weights, strict=True):
        np.testing.assert_array_equal(one, other)
