"""Stacked networks equal the single ones: every sort of layer, XLA, gradients, saving, precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import networks
from pae_zoo.core.errors import UserError

K = 3
layers = keras.layers


def mixed(number):
    """Dense, convolutions of both sorts, state, cropping: everything at once."""
    keras.utils.set_random_seed(number)
    net = keras.Sequential([
        keras.Input((K,)), layers.Dense(4 * 4 * 2, activation="relu"), layers.Reshape((4, 4, 2)),
        layers.Conv2DTranspose(3, 3, strides=2, padding="same"), layers.BatchNormalization(), layers.Activation("elu"),
        layers.UpSampling2D(2), layers.Conv2D(2, 3), layers.Cropping2D(1), layers.Flatten(), layers.Dense(5),
    ])  # fmt: skip
    net.layers[3].moving_mean.assign([0.1, 0.2, 0.3])
    return net


def build(kind, number, **options):
    return networks.build_decoder(kind, (8, 8, 1), K, hidden_units=(7, 6), seed=number, name=f"net_{number}", **options)


def shaken(net, number):
    """Biases start at zero, where members would not differ."""
    generator = np.random.default_rng(number)
    net.set_weights([w + 0.1 * generator.normal(size=w.shape).astype(w.dtype) if w.dtype.kind == "f" else w
                     for w in net.get_weights()])  # fmt: skip
    return net


CASES = {
    "mlp": lambda number: build("mlp", number, output="sigmoid"),
    "conv": lambda number: build("conv", number, num_filters=4),
    "resnet_fc": lambda number: build("resnet_fc", number, dense_size=6, num_layers=1),
    "infogan": lambda number: networks.build_decoder("infogan", (28, 28, 1), K, seed=number, name=f"net_{number}"),
    "mixed": mixed,
}


@pytest.fixture(scope="module")
def singles():
    return {name: [shaken(make(number), number) for number in range(3)]
            for name, make in CASES.items() if name != "infogan"}  # fmt: skip


def latents(num, seed=0, members=None):
    shape = (num, K) if members is None else (members, num, K)
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def compare(stacked, singles):
    z, own = latents(5), latents(4, 1, len(singles))
    expected = np.stack([net(z) for net in singles])
    np.testing.assert_allclose(stacked.members(z), expected, atol=1e-5)
    np.testing.assert_allclose(stacked(z), expected.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(stacked.each(own), [net(z) for net, z in zip(singles, own)], atol=1e-5)
    np.testing.assert_allclose(stacked.member(z, tf.constant(len(singles) - 1)), expected[-1], atol=1e-5)
    assert stacked.output_shape == singles[0].output_shape and stacked.input_shape == (None, K)


@pytest.mark.parametrize("name", ["mlp", "conv", "resnet_fc", "mixed"])
@pytest.mark.parametrize("num", [1, 3])
def test_members_are_the_single_networks(singles, name, num):
    compare(networks.StackedDecoder.stack(singles[name][:num]), singles[name][:num])


@pytest.mark.full
def test_published_networks_stack():
    compare(networks.StackedDecoder.stack([CASES["infogan"](number) for number in range(2)]),
            [CASES["infogan"](number) for number in range(2)])


@pytest.mark.parametrize("name", ["mlp", "mixed"])
def test_xla_and_gradients_reach_every_member(singles, name):
    stacked, z = networks.StackedDecoder.stack(singles[name]), latents(6, 1, 3)

    def loss_and_gradients(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = tf.reduce_sum(tf.square(stacked.each(z)))
        return loss, tape.gradient(loss, [z, *stacked.trainable_variables])

    eager = loss_and_gradients(z)
    for jit in (False, True):
        found = tf.function(loss_and_gradients, jit_compile=jit, autograph=False)(z)
        for a, b in zip(tf.nest.flatten(eager), tf.nest.flatten(found)):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    for gradient in eager[1]:
        assert gradient.shape[0] == 3 and all(np.any(one) for one in gradient.numpy())
    # The gradient of member s is that of the single network.
    single = singles[name][1]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(single(z[1])))
    for mine, theirs in zip(eager[1][1:], tape.gradient(loss, single.trainable_variables)):
        np.testing.assert_allclose(mine[1], theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "mixed"])
def test_saved_and_loaded_exactly(singles, name, tmp_path):
    stacked = networks.StackedDecoder.stack(singles[name])
    stacked.save(tmp_path / "stacked.keras")
    loaded = keras.saving.load_model(tmp_path / "stacked.keras")
    np.testing.assert_array_equal(loaded.members(latents(4)), stacked.members(latents(4)))
    assert loaded.count_params() == stacked.count_params() == 3 * singles[name][0].count_params()
    assert len(loaded.trainable_variables) == len(singles[name][0].trainable_variables)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_precision_is_that_of_the_single_networks(policy):
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(policy)
        singles = [build("mlp", number) for number in range(2)]
        stacked = networks.StackedDecoder.stack(singles)
    finally:
        keras.config.set_dtype_policy(before)
    z = latents(5)
    found, expected = stacked.members(z), tf.stack([net(z) for net in singles])
    assert found.dtype == expected.dtype and (policy != "float64" or found.dtype == tf.float64)
    found, expected = tf.cast(found, tf.float64), tf.cast(expected, tf.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-2 if policy != "float64" else 1e-12)


def test_training_calls_keep_state_member_by_member():
    """Moving averages move as in the single network, and dropout drops differently in every member."""
    keras.utils.set_random_seed(0)
    singles = [keras.Sequential([keras.Input((K,)), layers.Dense(4), layers.BatchNormalization()]) for _ in range(2)]
    stacked = networks.StackedDecoder.stack(singles)
    z = latents(8)
    np.testing.assert_allclose(stacked.members(z, training=True), [net(z, training=True) for net in singles], atol=1e-5)
    np.testing.assert_allclose(stacked.members(z), [net(z) for net in singles], atol=1e-5)
    # One member at a time moves its own averages alone.
    np.testing.assert_allclose(stacked.member(z, 1, training=True), singles[1](z, training=True), atol=1e-5)
    np.testing.assert_allclose(stacked.members(z), [net(z) for net in singles], atol=1e-5)

    dropping = keras.Sequential([keras.Input((K,)), networks.Dropout(0.5, seed=(0, 1))])
    stacked = networks.StackedDecoder(dropping, 2)
    ones = tf.ones((16, K))
    first, second = stacked.members(ones, training=True), stacked.members(ones, training=True)
    assert set(np.unique(first)) == {0.0, 2.0}
    assert np.any(first[0] != first[1]) and np.any(first != second)
    np.testing.assert_array_equal(stacked.members(ones), np.ones((2, 16, K)))


def test_masks_of_dropout_are_held():
    net = shaken(build("mlp", 0, dropout_rate=0.4), 0)
    draws = [(1, 2), (3, 4)]
    stacked, z = networks.StackedDecoder.masked(net, draws), latents(1)
    for seed, member in zip(draws, stacked.members(z)):
        with networks.dropout_noise(seed, always=True):
            np.testing.assert_allclose(member, net(z), atol=1e-6)
    np.testing.assert_allclose(stacked.members(tf.tile(z, (3, 1)))[:, 2], stacked.members(z)[:, 0], atol=1e-6)
    with pytest.raises(NotImplementedError, match="inside another layer"):
        networks.StackedDecoder.masked(build("resnet_fc", 0, dense_size=6, num_layers=1, dropout_rate=0.4), draws)


def test_the_first_members_are_copies(singles):
    stacked = networks.StackedDecoder.stack(singles["mlp"])
    some = stacked.first(2)
    np.testing.assert_allclose(some.members(latents(2)), stacked.members(latents(2))[:2], atol=1e-6)
    assert stacked.first(9).num_members == 3


def test_what_does_not_stack_is_refused(singles):
    with pytest.raises(UserError, match="same layers"):
        networks.StackedDecoder.stack([singles["mlp"][0], singles["conv"][0]])
    with pytest.raises(UserError, match="same layers"):
        networks.StackedDecoder.stack([build("mlp", 0), build("mlp", 0, activation="tanh")])
    with pytest.raises(UserError, match="at least one"):
        networks.StackedDecoder.stack([])
    with pytest.raises(UserError, match="no weight"):
        networks.StackedDecoder(keras.Sequential([keras.Input((K,)), layers.Dropout(0.5)]))
    with pytest.raises(UserError, match="is not built. Give it a keras.Input"):
        networks.StackedDecoder(keras.Sequential([layers.Dense(2)]))
