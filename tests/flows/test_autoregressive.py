"""What depends on what in masked networks, contexts, gates."""

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import flows

DIMS = 5


def build(cls, seed=0, **options):
    layer = cls(hidden_units=(16, 16), dtype="float64", seed=(seed, 0), **options)
    layer.build((None, DIMS))
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(0.4 * rng.normal(size=weight.shape))
    return layer


def rows(count=6, num_dims=DIMS, seed=1):
    return tf.constant(np.random.default_rng(seed).normal(size=(count, num_dims)))


@pytest.mark.parametrize("degrees", ("sequential", "random"))
@pytest.mark.parametrize("gate", (False, True))
@pytest.mark.parametrize("cls", (flows.MaskedAutoregressive, flows.InverseAutoregressive))
def test_jacobian_is_triangular_and_its_diagonal_the_log_det(cls, gate, degrees):
    layer, x = build(cls, gate=gate, degrees=degrees), rows()
    for inverse in (False, True):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y, log_det = layer(x, inverse=inverse)
        jacobian = tape.batch_jacobian(y, x, experimental_use_pfor=False).numpy()
        assert np.all(np.triu(jacobian, 1) == 0)
        # The last depends on all before it.
        assert np.all(np.any(jacobian[:, -1] != 0, axis=0))
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-10)
        np.testing.assert_allclose(layer(y, inverse=not inverse)[0], x, atol=1e-10)


@pytest.mark.parametrize("cls, inverse", ((flows.MaskedAutoregressive, True), (flows.InverseAutoregressive, False)))
def test_one_pass_one_way_and_one_per_dimension_the_other(cls, inverse, monkeypatch):
    layer, calls = build(cls), []
    pass_through = flows.MADE.call
    monkeypatch.setattr(flows.MADE, "call",
                        lambda self, *args, **given: calls.append(1) or pass_through(self, *args, **given))
    layer(rows(), inverse=inverse)
    assert len(calls) == 1
    layer(rows(), inverse=not inverse)
    assert len(calls) == 1 + DIMS + 1


@pytest.mark.parametrize("cls", (flows.MaskedAutoregressive, flows.InverseAutoregressive))
def test_a_context_reaches_every_dimension(cls):
    layer, x, context = build(cls, context_dim=3), rows(), rows(6, 3)
    assert any("context_kernel" in w.path for w in layer.trainable_weights)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(context)
        y, _ = layer(x, context=context)
    assert np.all(tape.batch_jacobian(y, context, experimental_use_pfor=False) != 0)
    np.testing.assert_allclose(layer(y, inverse=True, context=context)[0], x, atol=1e-10)
    # Leading axes broadcast: many draws for each datum's context.
    many, log_det = layer(tf.stack([x, 2 * x]), context=context)
    assert many.shape == (2, 6, DIMS) and log_det.shape == (2, 6)
    np.testing.assert_allclose(many[0], y, atol=1e-12)


@pytest.mark.parametrize("context_dim, context", ((0, rows(6, 3)), (3, None)))
def test_context_is_given_exactly_when_there_is_one(context_dim, context):
    with pytest.raises(ValueError, match="exactly when"):
        build(flows.InverseAutoregressive, context_dim=context_dim)(rows(), context=context)


def test_random_degrees_come_from_the_seed():
    first, same, other = (
        flows.MADE(2, DIMS, (64,), degrees="random", seed=(seed, 0)) for seed in (0, 0, 1)
    )
    masks = []
    for network in (first, same, other):
        network.build((None, DIMS))
        masks.append(network.masks[0])
    np.testing.assert_array_equal(masks[0], masks[1])
    assert np.any(masks[0] != masks[2])
    # Degrees run from 1 to K - 1: every hidden unit sees the first input, none the last.
    assert np.all(masks[0][0]) and not np.any(masks[0][-1])
    with pytest.raises(ValueError, match="'sequential' or 'random'"):
        flows.MADE(2, DIMS, degrees="shuffled")


def test_gates_start_open():
    layer = flows.InverseAutoregressive(hidden_units=(8,), gate=True)
    y, log_det = layer(tf.ones((1, DIMS)))
    np.testing.assert_allclose(y, tf.sigmoid(2.0), rtol=1e-6)
    np.testing.assert_allclose(log_det, DIMS * np.log(tf.sigmoid(2.0)), rtol=1e-5)


def test_prelu_has_one_trained_slope():
    layer, x = build(flows.InverseAutoregressive, activation="prelu"), rows()
    slopes = [weight for weight in layer.trainable_weights if weight.path.endswith("slope")]
    assert len(slopes) == 1 and slopes[0].shape == ()
    first = layer(x)[0]
    slopes[0].assign(1.0)  # the network is linear now: twice the distance is twice the change
    network = layer.network
    change = network(x + 1.0) - network(x)
    np.testing.assert_allclose(network(x + 2.0) - network(x), 2 * change, atol=1e-10)
    assert np.abs(layer(x)[0] - first).max() > 1e-3
    plain = flows.MADE(2, DIMS, (8,), activation="prelu")
    plain.build((None, DIMS))
    np.testing.assert_allclose(plain.slope, 0.25)
    assert flows.MADE.from_config(plain.get_config()).get_config() == plain.get_config()


def test_the_published_start_draws_all_but_the_gates_biases():
    network = flows.MADE(2, 50, (400,), context_dim=30, start="vlae", seed=(3, 0))
    network.build((None, 50))
    variance = 2 / (1 + 2 ** (2 / 3))
    np.testing.assert_allclose(np.var(network.kernels[0]), variance / 400, rtol=0.1)
    np.testing.assert_allclose(np.var(network.context_kernel), variance / 400, rtol=0.1)
    np.testing.assert_allclose(np.var(network.kernels[1]), variance / 50, rtol=0.1)
    np.testing.assert_allclose(np.std(network.biases[0]), 1, rtol=0.2)
    np.testing.assert_allclose(np.std(network.biases[1][:50]), 1, rtol=0.4)
    assert not np.any(network.biases[1][50:])
    with pytest.raises(ValueError, match="zero, vlae"):
        flows.MADE(2, DIMS, start="other")
