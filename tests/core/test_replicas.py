"""Replicas that share batches do what one device does: noise, losses, gradients, state."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import pae_zoo
from pae_zoo import networks
from pae_zoo.core import parts, replicas, seeds
from pae_zoo.core.errors import UserError

RUNS = Path(__file__).with_name("replica_runs.py")
TOOLS = Path(__file__).resolve().parents[2] / "tools"


def compared(*command):
    """Returns what the script prints of each model."""
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def same(found):
    # Adam divides rounding by the root of a square that may be as small; the losses are those of ten steps.
    return all(one["metrics"] < 1e-5 and one["weights"] < 1e-4 for one in found)


@pytest.mark.full
@pytest.mark.parametrize("devices", [2, 4])
def test_ten_steps_on_replicas_are_those_of_one_device(devices):
    found = compared(RUNS, "vae,ae,vlae,ensemble_vae,flow_vae,lae,flow,pae", devices)
    assert len(found) == 8 and same(found), found


@pytest.mark.full
def test_two_processes_are_one_device():
    found = compared(TOOLS / "local_cluster.py", "2", "--", sys.executable, RUNS, "vae,pae", "workers")
    assert len(found) == 2 and same(found), found


def pieces(draw, total, count):
    for number in range(count):
        offset, size = parts.divided(number, count, total)
        with parts.taken(parts.Part(offset, size, total)):
            yield draw(size)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_have_the_noise_of_the_whole(count):
    whole = seeds.normal((7, 3), (1, 2))
    # Not bit for bit: an operation on vectors takes the last numbers of an array one by one.
    np.testing.assert_allclose(whole, tf.concat(list(pieces(lambda n: seeds.normal(
        (n, 3), (1, 2), batch=0), 7, count)), 0), rtol=1e-6)
    whole = seeds.uniform((2, 7, 3), (1, 2))
    np.testing.assert_array_equal(whole, tf.concat(list(pieces(lambda n: seeds.uniform(
        tf.constant((2, n, 3)), (1, 2), batch=1), 7, count)), 1))


def test_batches_one_after_the_other_have_the_noise_of_the_whole():
    whole = tf.reshape(seeds.normal((3 * 7, 2), (1, 2)), (3, 7, 2))
    found = [tf.reshape(one, (3, -1, 2)) for one in pieces(lambda n: seeds.normal((3 * n, 2), (1, 2), batch=0), 7, 3)]
    np.testing.assert_allclose(whole, tf.concat(found, 1), rtol=1e-6)


def test_more_parts_than_rows():
    found = list(pieces(lambda n: seeds.normal((n, 3), (1, 2), batch=0), 2, 3))
    np.testing.assert_allclose(seeds.normal((2, 3), (1, 2)), tf.concat(found, 0), rtol=1e-6)


def test_noise_that_belongs_to_nobody_is_refused():
    with pytest.raises(UserError, match="Train it on one device"):
        list(pieces(lambda n: seeds.normal((n, 3), (1, 2)), 4, 2))
    list(pieces(lambda n: seeds.normal((5,), (1, 2), batch=None), 4, 2))


def test_shares_sum_up_to_the_mean():
    values, weight = tf.constant([1.0, 5.0, 3.0, 8.0, 2.0]), tf.constant([1.0, 0.0, 2.0, 1.0, 3.0])
    for given in (None, weight):
        total = 0.0
        for number in range(2):
            offset, size = parts.divided(number, 2, 5)
            with parts.taken(parts.Part(offset, size, 5, None, given)) as part:
                total += parts.mean(part.rows(values), part.rows(given))
        np.testing.assert_allclose(total, parts.mean(values, given), rtol=1e-6)


@pytest.fixture(scope="module")
def strategy():
    return tf.distribute.MirroredStrategy(["CPU:0"])


def pair(encoder=()):
    chain = [keras.Input((8,)), *encoder, keras.layers.Dense(4)]
    return keras.Sequential(chain), networks.build_decoder("mlp", (8,), latent_dim=2, hidden_units=(4,))


def test_steps_in_the_scope_of_a_strategy_are_those_of_one_device(strategy):
    """Of one replica, as replicas take them; those of several have a process of their own, above."""
    x = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    weight = np.array([1, 2, 0, 1, 0, 0, 0, 0], np.float32)
    weights = []
    for scope in (contextlib.nullcontext(), strategy.scope()):
        keras.utils.set_random_seed(0)
        with scope:
            model = pae_zoo.VAE(*pair(), seed=1)
            model.compile("sgd")
        # The last batch has no weight, and takes no step.
        history = model.fit(x, sample_weight=weight, batch_size=4, epochs=1, verbose=0, shuffle=False).history
        weights.append([history["loss"], *map(replicas.value, (model.step, *model.trainable_variables))])
    for one, shared in zip(*weights, strict=True):
        np.testing.assert_allclose(one, shared, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name, layers, told", [
    ("IAF", (), "IAF cannot be trained by replicas .* has not been made for a part of a batch"),
    ("WAE", (), "WAE cannot be trained by replicas"),
    ("VAE", (keras.layers.BatchNormalization,), "normalises by the batch"),
    ("VAE", (lambda: keras.layers.Dropout(0.1),), "draws noise from a state of its own; take pae_zoo.networks.Dropout"),
])
def test_what_replicas_cannot_share_is_told(name, layers, told, strategy):
    with strategy.scope():
        model = getattr(pae_zoo, name)(*pair([make() for make in layers]))
        with pytest.raises(UserError, match=told + ".*one device"):
            model.compile("adam")


def test_what_was_made_outside_of_the_scope_is_told(strategy):
    outside = pair(), keras.optimizers.Adam()
    with strategy.scope():
        with pytest.raises(UserError, match="weights of VAE were made outside of the strategy's scope, such as "):
            pae_zoo.VAE(*outside[0]).compile("adam")
        model = pae_zoo.VAE(*pair())
        with pytest.raises(UserError, match="The optimizer of VAE was made outside"):
            model.compile(outside[1])
    model.compile("adam")  # by name anywhere


def test_a_loss_that_is_scaled_is_refused(strategy):
    with strategy.scope():
        model = pae_zoo.VAE(*pair())
        with pytest.raises(UserError, match="Take mixed_bfloat16"):
            model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))
