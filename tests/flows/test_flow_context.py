"""Densities p(z|c): layers and flows that see a context."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import pae_zoo
from pae_zoo import densities, flows

LAYERS = ("additive", "affine", "spline", "maf", "iaf", "maf_spline")
PRESETS = ("nice", "realnvp", "nsf", "maf", "nsf_ar")


def flow_of(layers, num_dims=2, seed=0, scale=0.3, **options):
    """A small flow whose weights are drawn, so that the context matters."""
    flow = pae_zoo.Flow(num_dims, layers=layers, depth=2, hidden_units=(8,), bins=5, context_dim=3, dtype="float64",
                        seed=seed, **options)
    generator = np.random.default_rng(seed)
    for weight in flow.trainable_weights:
        weight.assign_add(scale * generator.normal(size=weight.shape))
    return flow


def rows(num=6, width=2, seed=1):
    return np.random.default_rng(seed).normal(size=(num, width))


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_sees_its_context(kind):
    """Round trip, determinant against the Jacobian, and every parameter depends on the context."""
    (layer,) = flows.build([kind], 3, dtype="float64", hidden_units=(8,), bins=5, context_dim=2)
    generator = np.random.default_rng(0)
    for weight in layer.trainable_weights:
        weight.assign(0.4 * generator.normal(size=weight.shape))
    x, context = tf.constant(rows(width=3)), tf.constant(rows(seed=2))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, context])
        y, log_det = layer(x, context=context)
    jacobian = tape.batch_jacobian(y, x, experimental_use_pfor=False)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-9)
    back, other = layer(y, inverse=True, context=context)
    np.testing.assert_allclose(back, x, atol=1e-9)
    np.testing.assert_allclose(other, -log_det, atol=1e-9)
    assert np.all(np.any(tape.batch_jacobian(y, context, experimental_use_pfor=False)[:, -1] != 0, axis=0))
    with pytest.raises(ValueError, match="exactly when"):
        layer(x)


@pytest.mark.parametrize("layers", PRESETS)
def test_it_integrates_to_one_for_each_context(layers):
    flow = flow_of(layers, scale=0.15, whiten=False)
    side = np.linspace(-9.0, 9.0, 241)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 1, 2)
    contexts = rows(3, 3)
    log_prob = tf.function(flow.log_prob)(grid, contexts).numpy()
    assert log_prob.shape == (241 * 241, 3)
    np.testing.assert_allclose(np.exp(log_prob).sum(axis=0) * (side[1] - side[0]) ** 2, 1.0, atol=0.01)
    assert np.abs(log_prob[:, 0] - log_prob[:, 1]).max() > 0.01


def test_one_dimension_has_a_context_too():
    flow = flow_of("nsf", num_dims=1, whiten=False)
    side = np.linspace(-12.0, 12.0, 4001)
    log_prob = flow.log_prob(side[:, None, None], rows(3, 3)).numpy()
    np.testing.assert_allclose(np.exp(log_prob).sum(axis=0) * (side[1] - side[0]), 1.0, atol=1e-3)
    assert np.abs(log_prob[:, 0] - log_prob[:, 1]).max() > 0.01


def test_samples_follow_the_density_of_their_context():
    """They are the map of the base's draws; leading axes of the context come after the number of draws."""
    flow, contexts = flow_of("realnvp"), rows(4, 3)
    draws = flow.sample(50, seed=(0, 1), context=contexts)
    assert draws.shape == (50, 4, 2)
    u = flow.base_distribution().sample((50, 4), seed=(0, 1))
    np.testing.assert_allclose(draws[:, 1], flow.forward(u[:, 1], contexts[1])[0], atol=1e-9)
    assert flow.sample(5, seed=(0, 1), context=contexts[0]).shape == (5, 2)
    alone = flow.distribution(contexts[0])
    np.testing.assert_allclose(alone.log_prob(draws[:, 0]), flow.log_prob(draws[:, 0], contexts[0]), atol=1e-9)


def conditional_gaussian(num, seed):
    """z | c ~ N(A c + b, S): the rows (num, 2 + 2), and the mean log density of z given c."""
    generator = np.random.default_rng(seed)
    matrix, root = np.array([[2.0, -1.0], [0.5, 1.5]]), np.array([[0.5, 0.0], [0.3, 0.4]])
    context = generator.normal(size=(num, 2)) + 50.0
    noise = generator.normal(size=(num, 2))
    z = context @ matrix.T + 3.0 + noise @ root.T
    truth = np.mean(-0.5 * np.square(noise).sum(axis=1) - np.log(2 * np.pi) - np.log(np.linalg.det(root)))
    return z.astype("float32"), context.astype("float32"), truth


def test_it_finds_a_conditional_gaussian(tmp_path):
    """Of which nothing is seen without the context: p(z) is far wider. It is saved with the context's scale."""
    z, context, _ = conditional_gaussian(4000, 0)
    flow = densities.fit(z, "flow", context=context, layers=("maf",), depth=2, hidden_units=(32, 32),
                         settings=dict(epochs=40, learning_rate=5e-3, ema=0.9, patience=0))
    new, given, truth = conditional_gaussian(2000, 1)
    found = np.mean(flow.log_prob(new, given))
    assert truth - 0.25 < found < truth + 0.05
    np.testing.assert_allclose(flow(flow.join(new, given)), flow.log_prob(new, given), rtol=1e-5, atol=1e-5)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    np.testing.assert_array_equal(loaded.log_prob(new, given), flow.log_prob(new, given))
    assert loaded.get_config() == flow.get_config()


def test_rows_of_weight_zero_count_for_nothing():
    z, context, _ = conditional_gaussian(300, 0)
    weights = np.r_[np.ones(200), np.zeros(100)]
    context[200:] *= -50.0
    options = dict(density="flow", layers=("realnvp",), depth=1, hidden_units=(8,), settings=dict(epochs=2))
    weighted = densities.fit(z, context=context, weights=weights, **options)
    alone = densities.fit(z[:200], context=context[:200], weights=np.ones(200), **options)
    for one, other in zip(weighted.weights, alone.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_not_finite_stays_in_its_row():
    flow = flow_of("nsf")
    z, context = rows(), rows(width=3)
    context[2, 1] = np.nan
    z[4, 0] = np.inf
    assert np.isnan(flow.log_prob(z, context)).tolist() == [i in (2, 4) for i in range(6)]


def test_actnorm_sees_data_at_their_context():
    flow = pae_zoo.Flow(2, layers=("actnorm", "affine"), hidden_units=(8,), context_dim=2)
    for weight in flow.chain[1].trainable_weights:
        weight.assign(0.3 * np.random.default_rng(0).normal(size=weight.shape))
    z, context, _ = conditional_gaussian(500, 0)
    flow.adapt(flow.join(z, context))
    u = flow.inverse(z, context)[0].numpy()
    np.testing.assert_allclose(u.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(u.std(axis=0), 1.0, atol=1e-3)


@pytest.mark.parametrize("call, what", [
    (lambda: pae_zoo.Flow(2, layers=("lu", "reverse"), context_dim=1), "no layer takes a context"),
    (lambda: densities.make("student_mixture", 2, context_dim=1), "no layer takes a context"),
    (lambda: densities.make("flow_matching", 2, context_dim=1), "no layer takes a context"),
    (lambda: flow_of("nsf").log_prob(rows()), "give a context"),
    (lambda: pae_zoo.Flow(2).log_prob(rows(), rows()), "Received one"),
    (lambda: flow_of("nsf").log_prob(rows(), rows()), r"takes a context \(\.\.\., 3\)"),
    (lambda: flow_of("nsf").sample(3), "give a context"),
    (lambda: flow_of("nsf").join(rows(), rows(5, 3)), "are joined"),
    (lambda: flow_of("nsf").adapt(rows()), "with a context of 3"),
])  # fmt: skip
def test_bad_contexts_are_told(call, what):
    with pytest.raises(pae_zoo.UserError, match=what):
        call()
