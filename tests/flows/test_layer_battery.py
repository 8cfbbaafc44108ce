"""One battery for every type of flow layer: even and odd dimensions, single and double precision."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import some

import pae_zoo
from pae_zoo import flows
from pae_zoo.flows import elementwise

UNITS, BINS = (8, 8), 5
KINDS = (
    "additive", "affine", "spline", "maf", "iaf", "maf_spline", "lu", "permutation", "reverse", "swap", "actnorm",
    "householder", "whitening",
)
COUPLINGS = ("additive", "affine", "spline")
AUTOREGRESSIVE = ("maf", "iaf", "maf_spline")
TRAINED = (*COUPLINGS, *AUTOREGRESSIVE, "lu", "actnorm", "householder")
# Those that start as a permutation, or as the identity.
PERMUTING = ("lu", "permutation", "reverse", "swap")
DIMS = (2, 5, 10, 32)
ROUND_TRIP = {"float32": 1e-4, "float64": 1e-9}
kinds = pytest.mark.parametrize("kind", KINDS)
trained_kinds = pytest.mark.parametrize("kind", TRAINED)


def build(kind, num_dims, dtype="float32", seed=0):
    (layer,) = flows.build([kind], num_dims, seed=seed, dtype=dtype, hidden_units=UNITS, bins=BINS)
    return layer


def data(num_dims, count=50, dtype="float32", seed=0):
    # Wider than the splines' interval, so that all branches are met.
    return tf.constant(2.5 * np.random.default_rng(seed).normal(size=(count, num_dims)), dtype)


@functools.cache
def trained(kind, num_dims, dtype="float32"):
    """A layer after three steps of Adam on skewed data from weights that are not the initial ones; do not change it."""
    layer = build(kind, num_dims, dtype)
    rng = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign_add(rng.normal(size=weight.shape, scale=0.1))
    x = tf.nn.softplus(data(num_dims, 300, dtype, seed=2))
    layer.adapt(x)
    optimizer = keras.optimizers.Adam(0.01)
    for _ in range(3 if layer.trainable_weights else 0):
        with tf.GradientTape() as tape:
            u, log_det = layer(x, inverse=kind != "iaf")
            loss = tf.reduce_mean(tf.reduce_sum(tf.square(u), -1) - log_det)
        optimizer.apply(tape.gradient(loss, layer.trainable_weights), layer.trainable_weights)
    return layer


def test_every_type_is_in_the_battery():
    assert set(flows.LAYERS) == set(KINDS)
    for kind, layer in flows.LAYERS.items():
        assert layer.kind == kind
        # No other class of the package may take its name, or saved models would load the wrong one.
        assert keras.saving.get_registered_object(f"pae_zoo>{layer.__name__}") is layer


@pytest.mark.parametrize("dtype, num_dims", some(
    [(dtype, num_dims) for dtype in ROUND_TRIP for num_dims in DIMS], [("float64", 5), ("float32", 10)]))
@kinds
def test_round_trip(kind, num_dims, dtype):
    x = data(num_dims, 1000, dtype)
    # An autoregressive layer takes a pass per dimension on the way back or forth: once is enough there.
    slow = kind in AUTOREGRESSIVE and num_dims > 5
    for layer in [trained(kind, num_dims, dtype)] + [build(kind, num_dims, dtype)] * (not slow):
        for first in (False,) if slow else (False, True):
            y, log_det = layer(x, inverse=first)
            back, other = layer(y, inverse=not first)
            assert y.dtype == log_det.dtype == dtype and log_det.shape == (1000,)
            assert np.abs(back - x).max() < ROUND_TRIP[dtype]
            assert np.abs(log_det + other).max() < 10 * ROUND_TRIP[dtype]


@pytest.mark.parametrize("num_dims", some((2, 5, 10), [5]))
@kinds
def test_log_det_is_that_of_the_jacobian(kind, num_dims):
    layer, x = trained(kind, num_dims, "float64"), data(num_dims, 4, "float64")
    # The slow direction of an autoregressive layer takes K passes for each of K rows of the Jacobian.
    slow = {"maf": False, "iaf": True, "maf_spline": False}.get(kind) if num_dims > 5 else None
    for inverse in {False, True} - {slow}:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y, log_det = layer(x, inverse=inverse)
        jacobian = tape.batch_jacobian(y, x, experimental_use_pfor=False)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-9)


@kinds
def test_start_is_the_identity_or_a_permutation(kind):
    for num_dims in (5, 32):
        layer, x = build(kind, num_dims, "float64"), data(num_dims, 20, "float64")
        y, log_det = layer(x)
        np.testing.assert_allclose(log_det, 0.0, atol=1e-9)
        if kind in PERMUTING:
            np.testing.assert_allclose(np.sort(y), np.sort(x), atol=1e-12)
            assert np.any(np.abs(y - x) > 0.1)
        else:
            np.testing.assert_allclose(y, x, atol=1e-9)


@trained_kinds
def test_gradient_reaches_every_weight(kind):
    layer, x = trained(kind, 5), data(5)
    for inverse in (False, True):
        with tf.GradientTape() as tape:
            y, log_det = layer(x, inverse=inverse)
            loss = tf.reduce_sum(tf.sin(y)) + tf.reduce_sum(log_det)
        for weight, gradient in zip(layer.trainable_weights, tape.gradient(loss, layer.trainable_weights)):
            assert gradient is not None and np.any(gradient) and np.all(np.isfinite(gradient)), weight.path


@pytest.mark.parametrize("kind", sorted(set(TRAINED) - {"additive", "householder", "lu", "actnorm"}))
def test_value_and_log_det_come_from_the_same_weights(kind):
    layer, x = trained(kind, 5), data(5)
    for inverse in (False, True):
        with tf.GradientTape(persistent=True) as tape:
            y, log_det = layer(x, inverse=inverse)
            targets = tf.reduce_sum(tf.sin(y)), tf.reduce_sum(log_det)
        for target in targets:
            for weight, gradient in zip(layer.trainable_weights, tape.gradient(target, layer.trainable_weights)):
                assert gradient is not None and np.any(gradient), weight.path


def dense(*sizes):
    return [shape for i, o in zip(sizes, sizes[1:]) for shape in ((i, o), (o,))]


@pytest.mark.parametrize("num_dims", (2, 5))
@trained_kinds
def test_trainable_variables_by_hand_count(kind, num_dims):
    kept, changed = num_dims - num_dims // 2, num_dims // 2
    expected = {
        "additive": dense(kept, *UNITS, changed),
        "affine": dense(kept, *UNITS, 2 * changed),
        "spline": dense(kept, *UNITS, (3 * BINS - 1) * changed),
        "maf": dense(num_dims, *UNITS, 2 * num_dims),
        "iaf": dense(num_dims, *UNITS, 2 * num_dims),
        "maf_spline": dense(num_dims, *UNITS, (3 * BINS - 1) * num_dims),
        "lu": [(num_dims, num_dims)],
        "actnorm": [(num_dims,)] * 2,
        "householder": [(4, num_dims)],
    }
    assert [tuple(w.shape) for w in build(kind, num_dims).trainable_weights] == expected[kind]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(TRAINED)))
def test_the_others_train_nothing(kind):
    assert build(kind, 5).trainable_weights == []


@pytest.mark.parametrize("kind", some(KINDS, ["spline", "maf"]))
def test_xla_equals_eager(kind):
    layer, x = trained(kind, 5), data(5)

    @tf.function(jit_compile=True)
    def both(x):
        return (*layer(x), *layer(x, inverse=True))

    for compiled, eager in zip(both(x), (*layer(x), *layer(x, inverse=True))):
        np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-5)


@kinds
def test_leading_axes(kind):
    layer, x = trained(kind, 5), data(5, 6)
    for inverse in (False, True):
        y, log_det = layer(x, inverse=inverse)
        deep, deep_log_det = layer(tf.reshape(x, (2, 1, 3, 5)), inverse=inverse)
        assert deep.shape == (2, 1, 3, 5) and deep_log_det.shape == (2, 1, 3)
        np.testing.assert_allclose(tf.reshape(deep, (6, 5)), y, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(tf.reshape(deep_log_det, (6,)), log_det, rtol=1e-6, atol=1e-6)
        single, single_log_det = layer(x[0], inverse=inverse)
        assert single.shape == (5,) and single_log_det.shape == ()
        np.testing.assert_allclose(single, y[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", some(KINDS, ["spline", "iaf", "householder"]))
def test_unknown_number_of_rows(kind):
    layer, x = trained(kind, 5), data(5, 6)
    shape = tf.TensorSpec((None, None, 5), tf.float32)
    y, log_det = tf.function(layer.__call__, input_signature=[shape])(tf.reshape(x, (2, 3, 5)))
    assert y.shape == (2, 3, 5) and log_det.shape == (2, 3)


@kinds
@pytest.mark.parametrize("num_dims", some((2, 5, 32), [5]))
def test_far_values_keep_value_and_gradient_finite(kind, num_dims):
    layer = trained(kind, num_dims)
    signs = np.sign(np.random.default_rng(0).normal(size=(6, num_dims)))
    x = tf.constant(np.concatenate([1e6 * signs, np.full((1, num_dims), 5.0), np.zeros((1, num_dims))]), tf.float32)
    for inverse in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, log_det = layer(x, inverse=inverse)
            loss = tf.reduce_sum(y) + tf.reduce_sum(log_det)
        assert np.all(np.isfinite(y)) and np.all(np.isfinite(log_det))
        for gradient in tape.gradient(loss, [x, *layer.trainable_weights]):
            assert np.all(np.isfinite(gradient))


@kinds
def test_saved_and_loaded_exactly(kind, tmp_path):
    flow = pae_zoo.Flow(5, layers=(kind, "reverse"), hidden_units=UNITS, bins=BINS, seed=4)
    rng = np.random.default_rng(0)
    for weight in flow.trainable_weights:
        weight.assign_add(rng.normal(size=weight.shape, scale=0.2))
    flow.adapt(np.exp(data(5, 100).numpy() / 3))
    flow.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    assert loaded.layer_names == [kind, "reverse"]
    for weight, other in zip(flow.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(weight, other)
    for inverse in (False, True):
        for value, other in zip(flow.transform(data(5), inverse), loaded.transform(data(5), inverse)):
            np.testing.assert_array_equal(value, other)


@kinds
def test_config_rebuilds_the_layer(kind):
    layer = trained(kind, 5)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
    again.build((None, 5))
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(data(5))[0], layer(data(5))[0])


@pytest.mark.parametrize("kind", some(KINDS, ["spline", "actnorm"]))
def test_a_keras_functional_model_takes_it(kind):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, trained(kind, 5)(inputs))
    np.testing.assert_allclose(model(data(5))[0], trained(kind, 5)(data(5))[0], rtol=1e-6)


@kinds
def test_seed_fixes_weights(kind):
    first, same, other = (build(kind, 32, seed=seed) for seed in (3, 3, 4))
    for weight, twin in zip(first.weights, same.weights, strict=True):
        np.testing.assert_array_equal(weight, twin)
    drawn = [i for i, w in enumerate(first.weights) if np.size(w) > 1 and np.std(w) > 0 and kind != "whitening"]
    assert bool(drawn) == (kind in (*COUPLINGS, *AUTOREGRESSIVE, "lu", "permutation", "householder"))
    assert all(np.any(first.get_weights()[i] != other.get_weights()[i]) for i in drawn)


def test_one_dimension_has_no_halves():
    with pytest.raises(pae_zoo.UserError, match="'swap' takes data of 2 or more dimensions.*received 1"):
        build("swap", 1)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"swap"}))
def test_one_dimension_is_enough(kind):
    layer, x = build(kind, 1), data(1)
    np.testing.assert_allclose(layer(layer(x)[0], inverse=True)[0], x, atol=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 0.3), ("float64", 1e-6)])
def test_splines_at_extreme_parameters(dtype, tolerance):
    """Values and log-determinants are finite, and those of the inverse cancel with the forward map's at its values."""
    generator, bins, bound = np.random.default_rng(0), 8, 5.0
    x = np.concatenate([generator.uniform(-5, 5, 900), np.linspace(-5, 5, 95), [1e6, -1e6, 5, -5, 0]])
    x = x[None].astype(dtype)
    for scale in (1, 20, 1e4, 1e30):
        size = (3 * bins - 1, *x.shape)
        parameters = (generator.choice([-1, 1], size) * generator.uniform(0, scale, size)).astype(dtype)
        z, inverse = elementwise.rational_quadratic(tf.constant(x), parameters, bound, inverse=True)
        y, forward = elementwise.rational_quadratic(z, parameters, bound, inverse=False)
        for values in (z, inverse, y, forward, *elementwise.rational_quadratic(x, parameters, bound, inverse=False)):
            assert np.isfinite(values).all(), scale
        np.testing.assert_allclose(forward, -inverse, atol=tolerance)
