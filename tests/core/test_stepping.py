"""Steps of plain `fit` are the same ones, however they are taken: operation by operation, by a graph, or in blocks."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import build, images

import pae_zoo
from pae_zoo.core import stepping
from pae_zoo.flows.sharing import Shared

ROWS = np.random.default_rng(0).normal(size=(45, 3)).astype(np.float32)


class Watcher(keras.callbacks.Callback):
    """Counts the calls for single steps."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(batch)


def flow(**how):
    found = pae_zoo.Flow(3, layers="nsf", depth=2, hidden_units=(4,), bins=4, noise=0.1, dropout=0.2)
    found.compile(keras.optimizers.Adam(1e-2, global_clipnorm=1.0), **how)
    return found


def values(model):
    return [np.array(variable.value) for variable in model.trained_variables]


def assert_close(mine, theirs):
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def by_operations():
    """A flow after two epochs of three batches, the last of them shorter, and its history."""
    found = flow(run_eagerly=True)
    history = found.fit(ROWS, batch_size=20, epochs=2, shuffle=False, verbose=0).history
    return values(found), history["loss"]


def test_a_graph_takes_the_steps_that_operations_take(by_operations):
    made, options = flow(), tf.config.optimizer.get_experimental_options()
    history = made.fit(ROWS, batch_size=20, epochs=2, shuffle=False, verbose=0, validation_data=(ROWS,)).history
    assert made.stepping._made == stepping.Plan(stepping.GRAPH, False) and not made.jit_compile
    assert_close(values(made), by_operations[0])
    np.testing.assert_allclose(history["loss"], by_operations[1], rtol=1e-4)
    assert tf.config.optimizer.get_experimental_options() == {"disable_meta_optimizer": False, **options}
    before = values(made)
    made.train_on_batch(ROWS[:20])  # the same function, and a batch by itself
    assert any(np.any(a != b) for a, b in zip(before, values(made)))


@pytest.mark.parametrize("kind", ["array", pytest.param("data set", marks=pytest.mark.full)])
def test_blocks_are_the_same_steps(kind, capsys):
    x, found = images(40), []
    for jit_compile in (False, True):
        model = build("ae", adapted=False)
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=jit_compile)
        given, how = x, dict(batch_size=16, shuffle=False)
        if kind == "data set":
            given, how = tf.data.Dataset.from_tensor_slices(x).batch(16), {}
        history = model.fit(given, epochs=2, verbose=2 * jit_compile, **how).history
        found.append((values(model), history["loss"], int(np.asarray(model.step))))
        assert model.stepping._made.kind == (stepping.BLOCKS if jit_compile else stepping.GRAPH)
        assert model.steps_per_execution == 1
    assert "3/3 - " in capsys.readouterr().out
    (weights, losses, steps), expected = found[1], found[0]
    assert_close(weights, expected[0])
    np.testing.assert_allclose(losses, expected[1], rtol=1e-4)
    assert steps == expected[2] == 6


def test_who_looks_at_single_steps_sees_each():
    watcher = Watcher()
    model = build("ae", adapted=False)
    model.compile("adam", jit_compile=False)
    model.fit(images(40), batch_size=16, epochs=1, verbose=0, callbacks=[watcher])
    assert watcher.seen == [0, 1, 2]
    assert stepping._watched([watcher]) and stepping._watched([keras.callbacks.TerminateOnNaN()])
    quiet = [keras.callbacks.EarlyStopping(), keras.callbacks.ModelCheckpoint("a.keras"), keras.callbacks.History()]
    assert not stepping._watched(quiet) and not stepping._watched(None)
    assert stepping._watched([keras.callbacks.ModelCheckpoint("a.keras", save_freq=10)])


def test_xla_compiles_where_steps_are_many(monkeypatch):
    model, small = build("ae"), pae_zoo.Flow(3, depth=1)
    assert not model.xla_saves(1999, 10**9) and model.xla_saves(2000, 1)
    assert not small.xla_saves(300, 3000) and small.xla_saves(400, 3000) and not small.xla_saves(199, 10**9)
    for jit_compile in (True, False, "auto"):
        model.compile("adam", jit_compile=jit_compile)
        assert model.get_compile_config()["jit_compile"] == jit_compile
    monkeypatch.setattr(stepping, "on_gpu", lambda: True)
    assert not stepping._few(model, 1, None, None)
    monkeypatch.setattr(stepping, "on_gpu", lambda: False)
    assert stepping._few(model, 1, pae_zoo.core.fit_data.read(model.form(), images(4)), None)
    assert not stepping._few(model, None, None, None)


def test_branches_of_a_choice_have_an_adam_of_their_own():
    weight, optimizer = keras.Variable([1.0, 2.0]), keras.optimizers.Adam(0.1)
    optimizer.build([weight])

    @tf.function(autograph=False)
    def step(first):
        def take(gradient):
            optimizer.apply([tf.constant(gradient)], [weight])
            return optimizer.iterations.value

        with stepping._fused(optimizer):
            return tf.cond(first, lambda: take([1.0, -1.0]), lambda: take([-1.0, 1.0]))

    step(tf.constant(False))
    np.testing.assert_allclose(weight.numpy(), [1.1, 1.9], rtol=1e-5)


def test_equal_layers_share_one_function():
    made = pae_zoo.Flow(4, layers=("lu", "spline", "lu", "spline", "maf"), hidden_units=(4,), bins=4)
    shared = Shared(made.chain)

    @tf.function(autograph=False)
    def log_det(x):
        for layer in made.chain:
            direct, through = layer.transform(x, True), shared(layer)(x, True)
            tf.debugging.assert_near(direct[0], through[0], atol=1e-5)
            x = through[0]
        return x

    for weight in made.trainable_weights:
        weight.assign_add(0.1 * np.random.default_rng(1).normal(size=weight.shape))
    log_det(tf.constant(np.random.default_rng(2).normal(size=(5, 4)), tf.float32))
    assert len(shared._functions) == 2
    drawn = pae_zoo.flows.LAYERS["maf"](degrees="random")
    assert not drawn.shares and pae_zoo.flows.LAYERS["maf"]().shares
