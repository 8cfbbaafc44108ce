"""Schedules of the learning rate and optimizers against closed forms and Keras' own."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from pae_zoo.core import optimizers
from pae_zoo.core.errors import UserError
from pae_zoo.core.norms import Norms
from pae_zoo.core.optimizers import Shape
from pae_zoo.experiment import record

RATE, STEPS, PLAIN = 2e-3, 100, Shape()


def rates(name, shape=PLAIN, steps=range(STEPS)):
    found = optimizers.schedule(name, RATE, STEPS, shape)
    return np.array([float(found(tf.constant(step, tf.int64))) if callable(found) else found for step in steps])


def cosine(share, floor=0.0):
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))


def test_cosines_end_at_the_floor():
    expected = [RATE * cosine(step / STEPS, 0.1) for step in range(STEPS)]
    np.testing.assert_allclose(rates("cosine", Shape(floor=0.1)), expected, rtol=1e-5)


def test_a_warm_up_is_linear_and_the_schedule_follows():
    found, plain = rates("cosine", Shape(warmup=20)), [RATE * cosine(step / 80) for step in range(80)]
    np.testing.assert_allclose(found[:20], RATE * np.arange(1, 21) / 21, rtol=1e-5)
    np.testing.assert_allclose(found[20:], plain, rtol=1e-5, atol=1e-9)
    constant = rates("constant", Shape(warmup=20))
    np.testing.assert_allclose(constant, RATE * np.minimum(np.arange(1, 101) / 21, 1.0), rtol=1e-5)


def test_restarts_begin_at_the_whole_rate_and_grow_longer():
    found = rates("restarts", Shape(period=20, stretch=2.0))
    periods = [cosine(step / 20) for step in range(20)] + [cosine(step / 40) for step in range(40)]
    np.testing.assert_allclose(found[:60], RATE * np.array(periods), rtol=1e-4, atol=1e-9)
    equal = rates("restarts", Shape(period=25, stretch=1.0))
    np.testing.assert_allclose(equal[:25], equal[75:], rtol=1e-4, atol=1e-9)
    # A third of the steps, and twice that: both end with the training.
    assert rates("restarts")[-1] < 0.01 * RATE and np.argmax(rates("restarts")[1:]) + 1 == 34


def test_pieces_fall_at_their_shares():
    found = rates("piecewise", Shape(factor=0.1, drops=(20, 50)))
    expected = np.where(np.arange(STEPS) <= 20, 1.0, np.where(np.arange(STEPS) <= 50, 0.1, 0.01))
    np.testing.assert_allclose(found, RATE * expected, rtol=1e-5)


@pytest.mark.parametrize("name", optimizers.SCHEDULES)
def test_schedules_are_saved_with_the_optimizer(name):
    shape = Shape(warmup=7, floor=0.2, period=30)
    optimizer = optimizers.make("adam", optimizers.schedule(name, RATE, STEPS, shape), betas=(0.8, 0.95))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert (again.beta_1, again.beta_2) == (0.8, 0.95)
    steps = (0, 3, 50)
    found = [float(again._learning_rate(tf.constant(step, tf.int64))) for step in steps]
    np.testing.assert_allclose(found, rates(name, shape, steps), rtol=1e-6)


def test_values_are_clipped_and_betas_are_adams():
    flags = record.make("vae", clip_value=0.5, optimizer="sgd", learning_rate=1.0)
    weight = keras.Variable([1.0, 1.0, 1.0])
    optimizers.of_flags(flags, 10).apply([tf.constant([3.0, 0.2, -9.0])], [weight])
    np.testing.assert_allclose(weight, [0.5, 0.8, 1.5], rtol=1e-6)
    mine, theirs = keras.Variable([1.0]), keras.Variable([1.0])
    flags = record.make("vae", adam_beta1=0.5, adam_beta2=0.75, adam_epsilon=1e-3, learning_rate=0.1)
    pair = optimizers.of_flags(flags, 10), keras.optimizers.Adam(0.1, beta_1=0.5, beta_2=0.75, epsilon=1e-3)
    for gradient in (0.3, -2.0, 0.1):
        for optimizer, weight in zip(pair, (mine, theirs)):
            optimizer.apply([tf.constant([gradient])], [weight])
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("changes, words", [
    (dict(clip_norm=1.0, clip_value=1.0), "exclude each other"), (dict(lr_drops=(40, 20)), "percents of the steps"),
    (dict(lr_drops=(0,)), "percents"), (dict(lr_drops=(100,)), "percents"),
    (dict(lr_schedule="plateau", lr_warmup=3), "goes by validation losses"),
])
def test_flags_that_do_not_go_together_are_told(changes, words):
    flags = dataclasses.replace(record.make("vae"), **changes)
    with pytest.raises(UserError, match=words):
        optimizers.check(flags)


def test_norms_are_those_of_all_that_moves():
    norms, weights = Norms(True), [keras.Variable([1.0, 2.0]), keras.Variable([[3.0]]), keras.Variable([5.0])]
    before = norms.before(weights)
    for weight, value in zip(weights, ([4.0, 2.0], [[7.0]], [5.0])):
        weight.assign(value)
    norms.update([tf.constant([6.0, 0.0]), None, tf.constant([8.0])], 2.0, before, weights)
    assert [float(metric.result()) for metric in norms.metrics] == [5.0, 5.0]
    assert not Norms().metrics and not Norms().before(weights)
