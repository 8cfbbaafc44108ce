"""Averages of weights: their formula, what validation and the finished model go by, checkpoints."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import build, images

import pae_zoo
from pae_zoo.core.averaging import Averages


def test_averages_are_the_recursion():
    weight = tf.Variable(1.0)
    averages, expected = Averages(0.9), 1.0
    averages.build([weight])
    for step in range(1, 200):
        weight.assign(float(step))
        averages.update(tf.constant(step))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    np.testing.assert_allclose(averages.variables[0], expected, rtol=1e-5)
    with averages.inside():
        np.testing.assert_allclose(weight, expected, rtol=1e-5)
    assert float(weight) == 199.0
    averages.take()
    np.testing.assert_allclose(weight, expected, rtol=1e-5)


def test_validation_and_the_finished_model_go_by_averages():
    model, x = build("ae"), images(64)
    model.compile(keras.optimizers.Adam(0.05), jit_compile=False, ema=0.99)
    history = model.fit(x, epochs=2, batch_size=16, verbose=0, validation_data=(x,)).history
    for weight, average in zip(model.trained_variables, model.averages.variables, strict=True):
        np.testing.assert_array_equal(weight, average)
    found = model.evaluate(x, batch_size=32, verbose=0, return_dict=True)
    assert history["val_loss"][-1] == pytest.approx(found["loss"], rel=1e-4)


def test_without_averages_nothing_changes():
    model, x = build("ae"), images(32)
    model.compile("adam", jit_compile=False)
    model.fit(x, epochs=1, batch_size=16, verbose=0)
    assert model.averages.variables == [] and "ema" not in model.get_compile_config()


def test_a_bad_decay_is_told():
    with pytest.raises(pae_zoo.UserError, match="from 0 to below 1; received 1.5"):
        build("ae").compile("adam", ema=1.5)
