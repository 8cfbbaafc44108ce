"""The mean of densities: its value, its samples, what it has not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import pae_zoo
from pae_zoo import densities


def member(shift, seed=0, num_dims=2, **options):
    x = shift + np.random.default_rng(seed).normal(size=(200, num_dims)).astype("float32")
    return densities.fit(x, "gaussian", **options)


@pytest.fixture(scope="module")
def pair():
    return densities.Ensemble([member(0.0), member(6.0, seed=1)])


def points(num=20):
    return np.random.default_rng(2).normal(3.0, 4.0, size=(num, 2)).astype("float32")


def test_it_is_the_mean_of_the_densities(pair):
    x = points()
    mean = np.mean([np.exp(np.asarray(one.log_prob(x), np.float64)) for one in pair.members], axis=0)
    np.testing.assert_allclose(np.exp(np.asarray(pair.log_prob(x), np.float64)), mean, rtol=1e-4)
    np.testing.assert_allclose(pair.predict(x, verbose=0), pair.log_prob(x), rtol=1e-5)
    assert pair.log_prob(x.reshape(4, 5, 2)).shape == (4, 5)
    # Far away, where each density is 0 in single precision.
    assert np.isfinite(pair.log_prob(np.full((1, 2), 300.0))).all()
    x[3, 0] = np.nan
    assert np.isnan(pair.log_prob(x)).tolist() == [i == 3 for i in range(20)]


def test_samples_come_from_members_in_equal_parts(pair):
    draws = pair.sample(4000, seed=(0, 1)).numpy()
    np.testing.assert_array_equal(draws, pair.sample(4000, seed=(0, 1)))
    assert np.any(draws != pair.sample(4000, seed=(0, 2)).numpy())
    second = draws[:, 0] > 3.0
    assert abs(second.mean() - 0.5) < 0.03
    np.testing.assert_allclose(draws[second].mean(axis=0), 6.0, atol=0.2)
    np.testing.assert_allclose(draws[~second].std(axis=0), 1.0, atol=0.15)
    compiled = tf.function(lambda: pair.sample(50, (0, 1)))()
    np.testing.assert_allclose(compiled, pair.sample(50, (0, 1)), atol=1e-5)


def test_it_is_saved_and_exported(pair, tmp_path):
    x = points()
    pair.save(tmp_path / "pair.keras")
    loaded = keras.saving.load_model(tmp_path / "pair.keras")
    np.testing.assert_array_equal(loaded.log_prob(x), pair.log_prob(x))
    assert loaded.get_config() == pair.get_config()
    pair.export(str(tmp_path / "served"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(tf.constant(x)), pair.log_prob(x), rtol=1e-4)


def test_fit_goes_on_training_all_members():
    flows = [densities.make("flow", 2, layers=("realnvp",), depth=1, hidden_units=(8,), seed=seed) for seed in (0, 1)]
    both, x = densities.Ensemble(flows), points(200)
    before = [weight.numpy() for weight in both.trained_variables]
    both.compile("adam", jit_compile=False)
    history = both.fit(x, epochs=2, batch_size=50, verbose=0).history
    assert history["nll"][-1] < history["nll"][0]
    assert all(np.any(a != b.numpy()) for a, b in zip(before, both.trained_variables, strict=True))


def test_ensembles_of_ensembles_and_of_contexts(pair):
    x = points()
    nested = densities.Ensemble([pair, pair.members[0]])
    parts = [pair.log_prob(x), pair.members[0].log_prob(x)]
    np.testing.assert_allclose(nested.log_prob(x), np.logaddexp(*parts) - np.log(2.0), rtol=1e-5)
    given = [pae_zoo.Flow(2, layers=("realnvp",), depth=1, hidden_units=(8,), context_dim=1, seed=s) for s in (0, 1)]
    both, context = densities.Ensemble(given), x[:, :1]
    parts = [one.log_prob(x, context) for one in given]
    np.testing.assert_allclose(both.log_prob(x, context), np.logaddexp(*parts) - np.log(2.0), rtol=1e-5)
    np.testing.assert_allclose(both(given[0].join(x, context)), both.log_prob(x, context), rtol=1e-5)
    assert both.sample(3, seed=(0, 1), context=context).shape == (3, 20, 2)


def test_it_has_no_base(pair):
    for call in (pair.forward, pair.inverse):
        with pytest.raises(NotImplementedError, match="An Ensemble has no base space"):
            call(points())


@pytest.mark.parametrize("members, what", [
    (lambda: [], "received none"), (lambda: [member(0.0), member(0.0, num_dims=3)], "same numbers of dimensions"),
])  # fmt: skip
def test_bad_members_are_told(members, what):
    with pytest.raises(pae_zoo.UserError, match=what):
        densities.Ensemble(members())
