"""Dropout that repeats, spectral normalisation, inert batch normalisation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import networks
from pae_zoo.networks.layers import Affine, Dropout, MeanSigmoid, SpectralNorm, dropout_noise

ONES = np.ones((50, 40), np.float32)


def test_dropout_keeps_the_share_and_the_mean():
    layer = Dropout(0.25)
    value = layer(np.ones((400, 100), np.float32), training=True).numpy()
    assert set(np.unique(value)) == {0.0, np.float32(1 / 0.75)}
    assert np.mean(value == 0) == pytest.approx(0.25, abs=0.01)
    np.testing.assert_array_equal(layer(ONES), ONES)
    np.testing.assert_array_equal(Dropout(0.0)(ONES, training=True), ONES)


def test_dropout_draws_differ_between_calls_layers_and_bases_and_repeat_between_runs():
    def draws(seed):
        layer = Dropout(0.5, seed=seed)
        return [layer(ONES, training=True).numpy() for _ in range(3)]

    first, again = draws((1, 2)), draws((1, 2))
    np.testing.assert_array_equal(first, again)
    others = [*first[1:], draws((1, 3))[0], draws((2, 2))[0], draws((2, 1))[0]]
    for other in others:
        # Independent masks of rate one half agree in half of the places.
        assert np.mean(other == first[0]) == pytest.approx(0.5, abs=0.06)


def test_dropout_counts_training_calls_only():
    layer = Dropout(0.5)
    for training in (True, False, None, True):
        layer(ONES, training=training)
    assert int(layer.count) == 2
    assert layer.non_trainable_weights == [layer.count]


def test_dropout_in_a_compiled_loop_equals_eager_calls():
    eager, compiled = Dropout(0.5), Dropout(0.5)
    total = sum(eager(ONES, training=True) for _ in range(4))
    compiled.build(ONES.shape)

    @tf.function(jit_compile=True)
    def loop(x):
        return tf.while_loop(
            lambda step, _: step < 4,
            lambda step, total: (step + 1, total + compiled(x, training=True)),
            (0, tf.zeros_like(x)),
        )[1]

    np.testing.assert_array_equal(loop(ONES), total)
    assert int(compiled.count) == int(eager.count) == 4


def test_dropout_gradient_is_its_mask():
    layer = Dropout(0.5)
    x = tf.constant(ONES)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    np.testing.assert_array_equal(tape.gradient(y, x), y)


def test_dropout_noise_replaces_hidden_state():
    model = networks.build_encoder("mlp", (6,), 2, hidden_units=(16, 16), dropout_rate=0.5)
    x = np.ones((8, 6), np.float32)
    counts = [layer.count for layer in model.layers if isinstance(layer, Dropout)]

    def draw(seed):
        with dropout_noise(seed):
            return model(x, training=True)

    first = draw((1, 2))
    model(x, training=True)
    np.testing.assert_array_equal(draw((1, 2)), first)
    np.testing.assert_allclose(tf.function(draw, jit_compile=True)(tf.constant([1, 2])), first, rtol=1e-5)
    assert np.any(draw((1, 3)) != first)
    assert [int(count) for count in counts] == [1, 1]
    assert np.any(model(x, training=True) != model(x, training=True))


def test_dropout_keeps_the_type_of_its_input():
    value = Dropout(0.5, dtype="float16")(ONES, training=True)
    assert value.dtype == tf.float16
    assert set(np.unique(value)) == {0.0, 2.0}


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_dropout_refuses_a_rate(rate):
    with pytest.raises(ValueError, match="must lie in"):
        Dropout(rate)


def test_affine_is_what_untrained_batch_norm_computes():
    x = np.random.default_rng(0).normal(size=(5, 3, 3, 4)).astype(np.float32)
    layer, reference = Affine(), keras.layers.BatchNormalization(epsilon=1e-5)
    np.testing.assert_allclose(layer(x), reference(x, training=False), rtol=1e-6)
    layer.gamma.assign([1, 2, 3, 4])
    layer.beta.assign([4, 3, 2, 1])
    np.testing.assert_allclose(layer(x), x / np.sqrt(1 + 1e-5) * [1, 2, 3, 4] + [4, 3, 2, 1], rtol=1e-5)


def test_mean_sigmoid_leaves_the_second_half():
    x = np.linspace(-4, 4, 12, dtype=np.float32).reshape(2, 6)
    value = MeanSigmoid(shift=-0.5)(x).numpy()
    np.testing.assert_allclose(value[:, :3], 1 / (1 + np.exp(-x[:, :3])) - 0.5, rtol=1e-5)
    np.testing.assert_array_equal(value[:, 3:], x[:, 3:])


def spectral(kind):
    rng = np.random.default_rng(0)
    start = keras.initializers.GlorotUniform(3)  # other kernels may have two nearly equal singular values
    if kind == "dense":
        dense = keras.layers.Dense(5, activation="tanh", bias_initializer="ones", kernel_initializer=start)
        return SpectralNorm(dense, seed=1), rng.normal(size=(4, 7)).astype(np.float32)
    if kind == "transposed":
        transposed = keras.layers.Conv2DTranspose(
            5, 3, strides=2, padding="same", bias_initializer="ones", kernel_initializer=start)
        return SpectralNorm(transposed, seed=1), rng.normal(size=(4, 4, 4, 3)).astype(np.float32)
    conv = keras.layers.Conv2D(5, 3, strides=2, padding="same", bias_initializer="ones", kernel_initializer=start)
    return SpectralNorm(conv, seed=1), rng.normal(size=(4, 8, 8, 3)).astype(np.float32)


both = pytest.mark.parametrize("kind", ["dense", "conv"])
every = pytest.mark.parametrize("kind", ["dense", "conv", "transposed"])


@every
def test_spectral_norm_converges_to_the_largest_singular_value(kind):
    layer, x = spectral(kind)
    layer(x)
    raw = layer.layer.kernel.numpy()
    for _ in range(60):
        layer(x, training=True)
    # (height, width, outputs, inputs) of a transposed convolution.
    matrix = np.swapaxes(raw, -1, -2) if kind == "transposed" else raw
    largest = np.linalg.svd(matrix.reshape(-1, 5), compute_uv=False)[0]
    assert float(layer.sigma()) == pytest.approx(largest, rel=1e-5)
    np.testing.assert_array_equal(layer.layer.kernel, raw)
    plain = layer.layer.from_config(layer.layer.get_config())
    plain.build(x.shape)
    plain.set_weights([raw / largest, np.ones(5)])
    np.testing.assert_allclose(layer(x), plain(x), rtol=1e-4, atol=1e-5)


def test_spectral_norm_divides_small_kernels_too():
    layer, x = spectral("dense")
    layer(x)
    for _ in range(60):
        layer(x, training=True)
    before = layer(x).numpy()
    layer.layer.kernel.assign(layer.layer.kernel * 1e-3)
    np.testing.assert_allclose(layer(x), before, rtol=1e-4, atol=1e-5)  # float32 of entries that nearly cancel


@both
def test_spectral_norm_changes_its_state_in_training_only(kind):
    layer, x = spectral(kind)
    first, u = layer(x).numpy(), layer.u.numpy()
    for batch in (1, 4, 2):
        layer(x[:batch])
    np.testing.assert_array_equal(layer.u, u)
    np.testing.assert_array_equal(layer(x), first)
    np.testing.assert_allclose(layer(x, training=True), first, rtol=1e-5, atol=1e-6)
    assert np.any(layer.u != u)
    assert [w.name for w in layer.trainable_weights] == ["kernel", "bias"]


def test_spectral_norm_stops_the_gradient_through_the_vectors():
    layer, x = spectral("dense")
    layer(x)
    kernel = layer.layer.kernel
    w, u = kernel.numpy().astype(np.float64), layer.u.numpy().astype(np.float64)
    v = w @ u / np.linalg.norm(w @ u)
    u = w.T @ v / np.linalg.norm(w.T @ v)
    with tf.GradientTape() as tape:
        sigma = layer.sigma()
    np.testing.assert_allclose(tape.gradient(sigma, kernel.value), np.outer(v, u), rtol=1e-4, atol=1e-6)
    assert float(sigma) == pytest.approx(v @ w @ u, rel=1e-5)


@both
def test_spectral_norm_is_saved_whole(kind, tmp_path):
    layer, x = spectral(kind)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model(x, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.layers[0].u, layer.u)
    for training in (False, True):
        np.testing.assert_array_equal(loaded(x, training=training), model(x, training=training))


def test_spectral_norm_refuses_other_layers():
    with pytest.raises(ValueError, match="wraps a Dense, a Conv2D or a Conv2DTranspose layer; got Flatten"):
        SpectralNorm(keras.layers.Flatten())
