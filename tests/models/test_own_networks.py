"""Networks that users build: Sequential, functional and subclassed, with K or 2 K outputs, in every model."""

import battery
import keras
import pytest
import tensorflow as tf

from pae_zoo import models, networks
from pae_zoo.core.errors import UserError

EVENT, K = battery.EVENT_SHAPE, battery.LATENT_DIM
L = keras.layers


class Own(keras.Model):
    """A subclassed network, which tells its layers to nobody."""

    def __init__(self, *layers):
        super().__init__()
        self.chain = list(layers)

    def call(self, x):
        for layer in self.chain:
            x = layer(x)
        return x


def network(kind, shape, *layers):
    if kind == "sequential":
        return keras.Sequential([keras.Input(shape), *layers])
    if kind == "functional":
        start = keras.Input(shape)
        x = start
        for layer in layers:
            x = layer(x)
        return keras.Model(start, x)
    found = Own(*layers)
    found(tf.zeros((1, *shape)))
    return found


def pair(kind, outputs, dropout):
    drop = [networks.Dropout(0.2)] if dropout else []
    encoder = network(kind, EVENT, L.Flatten(), L.Dense(6, activation="relu"), L.Dense(outputs))
    return encoder, network(kind, (K,), L.Dense(6, activation="relu"), *drop, L.Dense(36), L.Reshape(EVENT))


@pytest.mark.parametrize("name", sorted(set(battery.ROWS) - {"gp_circle"}))  # which has networks of its own
def test_they_work_or_are_told_when_given(name):
    x, cls = battery.images(4), models.find(name).MODEL
    works = []
    for kind in ("sequential", "functional", "subclassed"):
        for outputs in (K, 2 * K):
            parts = pair(kind, outputs, name == "mcdropout_ae")
            try:
                model = cls(*parts)
            except UserError as error:
                assert str(error).endswith("."), error
                continue
            works.append((kind, outputs))
            model(x)
            model.encode(x)
            model.count_data(4)
            model.objective(tf.constant(x), tf.constant([1, 2]), False)
            if kind != "subclassed":
                model.geometry_decoder(2, 3)
    assert ("sequential", K) in works or ("sequential", 2 * K) in works
    assert ("functional", K) in works or ("functional", 2 * K) in works


def test_only_a_chain_is_one():
    chain = pair("functional", K, True)[1]
    z = tf.random.normal((3, K))
    found = networks.as_sequential(chain)
    assert isinstance(found, keras.Sequential) and found.weights == chain.weights
    tf.debugging.assert_equal(found(z), chain(z))
    start = keras.Input((K,))
    forked = keras.Model(start, L.Add()([L.Dense(K)(start), start]))
    assert networks.as_sequential(forked) is forked
