"""Dropout and weight decay of the networks that drive layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import pae_zoo
from pae_zoo import densities, flows
from pae_zoo.core.errors import UserError

LAYERS = ("additive", "affine", "spline", "maf", "iaf", "maf_spline")


def rows(num=6, width=4, seed=1):
    return np.random.default_rng(seed).normal(size=(num, width))


def test_dropout_leaves_its_share_out_and_keeps_the_mean():
    """Inputs of one, kernels of one and no bias: a row of the last layer is the scaled number of units that stay."""
    network = flows.Conditioner(1, 1, (100,), dropout=0.3, dtype="float64")
    network.build((None, 1))
    for kernel in network.kernels:
        kernel.assign(tf.ones_like(kernel))
    x = np.ones((2000, 1))
    kept = network(x, seed=(3, 4)).numpy()[0, 0] * 0.7
    np.testing.assert_allclose(kept, kept.round(), atol=1e-9)
    # The number that stays is binomial: mean 70, variance 21.
    assert abs(kept.mean() - 70.0) < 4 * np.sqrt(21.0 / 2000) and abs(kept.var() - 21.0) < 3.0
    np.testing.assert_array_equal(network(x), 100.0)
    np.testing.assert_array_equal(network(x, seed=(3, 4)), network(x, seed=(3, 4)))
    assert np.any(network(x, seed=(3, 4)) != network(x, seed=(3, 5)))


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_with_units_left_out_is_still_invertible(kind):
    (layer,) = flows.build([kind], 4, dtype="float64", hidden_units=(16,), bins=5, dropout=0.5)
    generator = np.random.default_rng(0)
    for weight in layer.trainable_weights:
        weight.assign(0.4 * generator.normal(size=weight.shape))
    x = tf.constant(rows())
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y, log_det = layer.transform(x, False, seed=(1, 2))
    jacobian = tape.batch_jacobian(y, x, experimental_use_pfor=False)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-9)
    back, other = layer.transform(y, True, seed=(1, 2))
    np.testing.assert_allclose(back, x, atol=1e-9)
    np.testing.assert_allclose(other, -log_det, atol=1e-9)
    assert np.any(layer(x)[0] != y)


def test_training_alone_drops_out():
    flow = pae_zoo.Flow(4, layers="realnvp", depth=2, hidden_units=(16,), dropout=0.5)
    for weight in flow.trainable_weights:
        weight.assign_add(0.3 * tf.ones_like(weight))
    x = tf.constant(rows(), tf.float32)
    trained, judged = (flow.objective(x, (0, 1), training)["nll"] for training in (True, False))
    np.testing.assert_allclose(judged, -flow.log_prob(x), rtol=1e-6)
    assert np.abs(trained - judged).max() > 0.01


def test_weight_decay_is_the_penalty_of_kernels_alone():
    """The gradient of the loss with it, less that without, is weight_decay times each kernel, 0 for the rest."""
    built = [pae_zoo.Flow(4, layers="nsf", depth=1, hidden_units=(8,), bins=4, weight_decay=decay)
             for decay in (0, 0.1)]
    x = tf.constant(rows(), tf.float32)
    gradients = []
    for flow in built:
        flow.set_weights(built[0].get_weights())
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(flow.objective(x, (0, 0), True)["loss"]) + tf.add_n([0.0, *flow.losses])
        gradients.append(tape.gradient(loss, flow.trainable_weights))
    for weight, without, with_decay in zip(built[0].trainable_weights, *gradients):
        expected = 0.1 * weight if "conditioner/kernel" in weight.path else tf.zeros_like(weight)
        np.testing.assert_allclose(with_decay - without, expected, atol=1e-5)
    assert any("conditioner/kernel" in weight.path for weight in built[0].trainable_weights)


def test_strong_decay_leaves_the_whitened_gaussian_and_validation_is_told_without_it():
    x = np.exp(rows(600, 2)).astype("float32")
    settings = dict(epochs=3, batch_size=50, learning_rate=1e-2, ema=0.0)
    free, tied = (densities.fit(x[:500], "flow", x[500:], settings=settings, layers=("affine",), hidden_units=(8,),
                                weight_decay=decay) for decay in (0.0, 100.0))
    kernels = [np.abs(flow.chain[0].conditioner.kernels[-1]).max() for flow in (free, tied)]
    assert kernels[1] < 0.02 < kernels[0]
    # The loss of the first kernel alone is tens of nats.
    found = tied.evaluate(x[500:], batch_size=100, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["nll"], -np.mean(tied.log_prob(x[500:])), rtol=1e-5)


def test_both_are_saved(tmp_path):
    flow = pae_zoo.Flow(3, layers="maf", depth=1, hidden_units=(8,), dropout=0.25, weight_decay=0.5)
    flow.save(tmp_path / "flow.keras")
    again = keras.saving.load_model(tmp_path / "flow.keras")
    network = again.chain[-1].network
    assert (network.dropout, network.weight_decay) == (0.25, 0.5) and len(again.losses) == len(flow.losses) > 0
    np.testing.assert_array_equal(again.log_prob(rows(5, 3)), flow.log_prob(rows(5, 3)))


def test_a_flow_without_them_is_saved_as_before():
    """Runs of before keep a hash of the configuration."""
    names = {"dropout", "weight_decay"}
    assert not names & set(pae_zoo.Flow(3, layers="nsf", depth=1).get_config())
    assert names - {"dropout"} <= set(pae_zoo.Flow(3, layers="nsf", depth=1, weight_decay=0.1).get_config())


@pytest.mark.parametrize("wrong, match", [({"dropout": 1.0}, "below 1"), ({"weight_decay": -1.0}, "0 or more")])
def test_what_is_refused(wrong, match):
    with pytest.raises(UserError, match=match):
        pae_zoo.Flow(3, layers="nsf", depth=1, **wrong)
