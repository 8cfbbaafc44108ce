"""Training in a work directory: order of data, equality with plain fit, resume, signals, losses that are not finite."""

import dataclasses
import json
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, ROWS, build, hparams, images
from tiers import some

from pae_zoo.data.pipelines import Feed
from pae_zoo.experiment import checkpoint, fitting
from pae_zoo.experiment.workdir import Run

NAMES = list(ROWS)


def make_feed(steps_per_call=2, **changes):
    options = dict(batch_size=16, seed=3, steps_per_call=steps_per_call)
    return Feed(images(70), images(25, seed=4), **{**options, **changes})


def train(name, workdir, feed=None, **changes):
    params = hparams(name, workdir=str(workdir), jit_compile=False, checkpoint_seconds=0.0, **changes)
    model = build(name, **changes)
    position = fitting.train(model, feed or make_feed(), params, Run(workdir))
    return model, position


def states(model):
    return [np.array(v) for v in [*model.variables, *model.optimizer.variables]]


def history(workdir):
    lines = Run(workdir).read_history()
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


# ---- order of data ---------------------------------------------------------------------------------------


def test_order_depends_on_seed_and_epoch_alone():
    feed, again, other = make_feed(), make_feed(steps_per_call=1), make_feed(seed=4)
    np.testing.assert_array_equal(feed.order(2), again.order(2))
    assert not np.array_equal(feed.order(2), feed.order(3))
    assert not np.array_equal(feed.order(2), other.order(2))
    rows = feed.order(0)
    assert rows.shape == (4, 16) and len(np.unique(rows)) == 64


def collect(feed, dataset):
    batches = []
    for block in dataset:
        batches += [feed.batch(block, i).numpy() for i in range(int(block["count"]))]
    return batches


@pytest.mark.parametrize("steps_per_call", [1, 3, 64])
def test_blocks_hold_the_batches_in_order(steps_per_call):
    feed = make_feed(steps_per_call)
    batches = collect(feed, feed.training(1, 0, 4, epochs=2))
    expected = [feed.train[rows] for epoch in (1, 2) for rows in feed.order(epoch)]
    np.testing.assert_array_equal(batches, expected)
    np.testing.assert_array_equal(collect(feed, feed.training(1, 3, 1)), expected[3:4])


def test_streaming_gives_the_same_batches():
    feed, stream = make_feed(3), make_feed(3, resident_bytes=0)
    assert feed.resident and not stream.resident
    np.testing.assert_array_equal(
        collect(feed, feed.training(0, 0, 4)), collect(stream, stream.training(0, 0, 4))
    )
    for a, b in zip(feed.validation(), stream.validation()):
        np.testing.assert_array_equal(a["weight"], b["weight"])


def test_validation_covers_every_datum_once():
    feed = make_feed(1)
    seen, weights = [], []
    for block in feed.validation():
        for i in range(int(block["count"])):
            seen.append(feed.batch(block, i).numpy())
            weights.append(block["weight"][i].numpy())
    weights = np.concatenate(weights)
    np.testing.assert_array_equal(np.concatenate(seen)[weights > 0], feed.valid)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="larger than the 70"):
        make_feed(batch_size=71)


# ---- fit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", some(NAMES, ["vae"]))
def test_plain_fit_equals_the_fast_path(name, tmp_path):
    feed = make_feed()
    fast, _ = train(name, tmp_path, feed, epochs=2)
    plain = build(name)
    plain.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    order = np.concatenate([feed.order(0), feed.order(1)])
    batches = tf.data.Dataset.from_tensor_slices(feed.train[order])  # one element is one batch
    found = plain.fit(batches, validation_data=(feed.valid,), validation_batch_size=16, shuffle=False, verbose=0)
    # What is measured after training, such as the noise of lae_posthoc, is not of the steps.
    measured = {id(v) for v in plain.likelihood.trainable_variables} if name == "lae_posthoc" else set()
    for mine, theirs in zip(plain.trained_variables, fast.trained_variables):
        if id(mine) not in measured:
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.history["val_loss"][-1], history(tmp_path)[-1]["valid/loss"], rtol=1e-5)


def test_xla_and_graph_train_alike(tmp_path):
    graph, _ = train("vae", tmp_path / "graph", epochs=1)
    params = hparams("vae", workdir=str(tmp_path / "xla"), epochs=1)
    compiled = build("vae")
    fitting.train(compiled, make_feed(), params, Run(tmp_path / "xla"))
    for mine, theirs in zip(graph.trained_variables, compiled.trained_variables):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=2e-5)


@pytest.mark.full
def test_steps_per_call_changes_nothing(tmp_path):
    one, _ = train("vae", tmp_path / "one", make_feed(1))
    many, _ = train("vae", tmp_path / "many", make_feed(4))
    for a, b in zip(states(one), states(many)):
        np.testing.assert_array_equal(a, b)
    assert history(tmp_path / "one") == history(tmp_path / "many")


# ---- resume ----------------------------------------------------------------------------------------------



def interrupted(name, workdir, calls, monkeypatch, **changes):
    """Trains until `calls` compiled calls have been made, then as after SIGTERM."""
    made = {"calls": 0}
    plain = fitting.Keeper.on_train_batch_end

    def stop(self, batch, logs=None):
        made["calls"] += 1
        if made["calls"] == calls:
            self.signum = signal.SIGTERM
        return plain(self, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(fitting.Keeper, "on_train_batch_end", stop)
        with pytest.raises(fitting.Interrupted):
            train(name, workdir, **changes)


@pytest.mark.parametrize("name", some(NAMES, ["vae", "lae"]))
def test_steps_after_a_checkpoint_are_those_without_one(name, tmp_path):
    # Eager steps: what a checkpoint holds and what a step draws differ between models, the loops do not.
    x = tf.constant(images(48).reshape(3, 16, *EVENT_SHAPE))
    dropout = {} if name == "lae" else {"dropout_rate": 0.2}  # its drawn weights take that place
    whole, resumed = build(name, **dropout), build(name, **dropout)
    for model in (whole, resumed):
        model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 9)), jit_compile=False)
    whole.update(x[0])
    whole.update(x[1])
    whole.next_seed()
    checkpoint.save(Run(tmp_path), whole, checkpoint.Position(steps=2))
    assert checkpoint.restore(Run(tmp_path), resumed).steps == 2
    for model in (whole, resumed):
        model.update(x[2])
    for a, b in zip(states(whole), states(resumed)):
        np.testing.assert_array_equal(a, b)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(whole.get_weights(), build(name).get_weights()))


@pytest.mark.parametrize("name", some(["ae", "vae", "pae"], ["vae"]))
def test_a_resumed_run_equals_the_uninterrupted_one(name, tmp_path, monkeypatch):
    changes = dict(dropout_rate=0.2, lr_schedule="cosine")
    whole, _ = train(name, tmp_path / "whole", **changes)
    # Stopped twice: in the middle of the second epoch, and at its end.
    interrupted(name, tmp_path / "parts", 3, monkeypatch, **changes)
    assert Run(tmp_path / "parts").load_arrays("last")[1]["steps"] == 6
    interrupted(name, tmp_path / "parts", 1, monkeypatch, **changes)
    assert Run(tmp_path / "parts").load_arrays("last")[1]["steps"] == 8
    resumed, position = train(name, tmp_path / "parts", **changes)
    assert position.steps == 12
    for a, b in zip(states(whole), states(resumed)):
        np.testing.assert_array_equal(a, b)
    assert history(tmp_path / "whole") == history(tmp_path / "parts")


@pytest.mark.full
def test_generators_of_a_users_own_layers_are_restored(tmp_path):
    model = build("vae")
    model.compile(optimizer="adam", jit_compile=False)
    drawn = [np.array(model.next_seed()) for _ in range(3)]
    checkpoint.save(Run(tmp_path), model, checkpoint.Position(steps=3))
    after = np.array(model.next_seed())
    again = build("vae")
    again.compile(optimizer="adam", jit_compile=False)
    assert checkpoint.restore(Run(tmp_path), again).steps == 3
    np.testing.assert_array_equal(again.next_seed(), after)
    assert len({tuple(d) for d in drawn}) == 3


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train("vae", tmp_path, epochs=1)
    with pytest.raises(ValueError, match="do not fit"):
        train("vae", tmp_path, latent_dim=5)


@pytest.mark.full
def test_raised_epochs_go_on_from_the_last_weights(tmp_path):
    train("vae", tmp_path / "a", epochs=2)
    longer, position = train("vae", tmp_path / "a", epochs=4)
    whole, _ = train("vae", tmp_path / "b", epochs=4)
    assert position.epoch == 4
    for a, b in zip(states(longer), states(whole)):
        np.testing.assert_array_equal(a, b)


def test_max_steps_ends_inside_an_epoch(tmp_path):
    _, position = train("vae", tmp_path, max_steps=7)
    assert (position.steps, position.epoch) == (7, 2)
    assert [line["step"] for line in history(tmp_path)] == [4, 7]


# ---- best weights, patience, NaN ---------------------------------------------------------------------------


def test_best_weights_on_validation_are_kept(tmp_path, monkeypatch):
    losses = iter([5.0, 2.0, 3.0])
    plain = fitting.Keeper.on_epoch_end
    monkeypatch.setattr(
        fitting.Keeper, "on_epoch_end",
        lambda self, epoch, logs: plain(self, epoch, {**logs, "val_loss": next(losses)}),
    )
    model, position = train("vae", tmp_path)
    assert position.best_epoch == 2 and int(model.step) == 8
    best, last = Run(tmp_path).load_arrays("best")[0], Run(tmp_path).load_arrays("last")[0]
    for mine, theirs in zip(checkpoint.state(model), best):
        np.testing.assert_array_equal(mine, theirs)
    assert any(not np.array_equal(a, b) for a, b in zip(best, last))


@pytest.mark.full
def test_patience_stops_early_also_across_a_resume(tmp_path, monkeypatch):
    values = {1: 5.0, 2: 6.0, 3: 7.0, 4: 8.0}
    plain = fitting.Keeper.on_epoch_end
    monkeypatch.setattr(
        fitting.Keeper, "on_epoch_end",
        lambda self, epoch, logs: plain(self, epoch, {**logs, "val_loss": values[epoch + 1]}),
    )
    interrupted("vae", tmp_path, 4, monkeypatch, epochs=4, patience=2)
    _, position = train("vae", tmp_path, epochs=4, patience=2)
    assert position.stopped_early and position.epoch == 3 and position.best_epoch == 1
    _, position = train("vae", tmp_path, epochs=4, patience=2)  # stays stopped
    assert position.epoch == 3


@pytest.mark.full
def test_losses_before_the_schedule_ends_do_not_count_as_best(tmp_path):
    _, position = train("vae", tmp_path, capacity=2.0, capacity_steps=9)
    assert position.best_epoch == 3


def test_a_loss_that_is_not_finite_names_step_batch_and_checkpoint(tmp_path):
    feed = make_feed()
    broken = feed.train.copy()
    row = feed.order(1)[2][5]  # third batch of the second epoch
    broken[row, 0, 0, 0] = np.nan
    feed = Feed(broken, feed.valid, 16, seed=3, steps_per_call=2)
    # The first epoch must stay clean: the row may only be met in the second.
    if row in feed.order(0):
        first = int(np.argwhere(feed.order(0) == row)[0][0])
        expected = f"step {first + 1} (epoch 1, batch {first + 1})"
    else:
        expected = "step 7 (epoch 2, batch 3)"
    with pytest.raises(fitting.NotFinite) as error:
        train("vae", tmp_path, feed)
    assert expected in str(error.value) and "min nan" in str(error.value)
    assert "checkpoint" in str(error.value)


class Climbing:
    """What a `Keeper` watches: a model of data of four values whose losses a test gives it."""

    event_shape, schedule_steps, step, metrics = (4,), 0, 1, ()


def watching(workdir, schedule_steps=0):
    keeper = fitting.Keeper(Run(workdir), make_feed(), Climbing(), checkpoint.Position(), hparams("vae"))
    keeper.set_model(Climbing())
    keeper.trained.schedule_steps = schedule_steps
    return lambda losses, allowed: [keeper._watch(loss, step, allowed) for step, loss in enumerate(losses, 1)]


@pytest.mark.parametrize("losses", [
    (550.0, 200.0, 1e5), (-3.0, -900.0, 1e5), (1e4, 200.0, 1e6), (0.5, 0.1, 500.0),
])  # fmt: skip
def test_a_loss_that_rises_by_orders_of_magnitude_ends_the_run(tmp_path, losses):
    with pytest.raises(fitting.Diverged, match="Lower --learning_rate") as caught:
        watching(tmp_path)(losses, fitting.EPOCH_RISE)
    assert f"{losses[-1]:.4g} at step 3" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("losses,schedule_steps", [
    ((1e6, 200.0, 5e5), 0),  # still below where it began
    ((550.0, 0.0, -900.0, 300.0), 0), ((-3.0, -900.0, 5e4), 0), ((0.5, 0.01, 40.0), 0),
    ((5.0, 1e4, 2e4), 2),  # an annealed scale raises it
])  # fmt: skip
def test_losses_of_sound_trainings_raise_no_alarm(tmp_path, losses, schedule_steps):
    watching(tmp_path, schedule_steps)(losses, fitting.EPOCH_RISE)


def test_a_run_that_diverges_stops_and_keeps_its_checkpoint(tmp_path, monkeypatch):
    model = build("vae")
    plain = type(model).objective

    def climbing(self, *args, **options):
        terms = plain(self, *args, **options)
        return {**terms, "loss": terms["loss"] + tf.cast(self.step > 4, tf.float32) * 1e7}

    monkeypatch.setattr(type(model), "objective", climbing)
    with pytest.raises(fitting.Diverged, match="epoch 2.*last.npz"):
        train("vae", tmp_path, epochs=4)
    assert len(history(tmp_path)) == 1 and (tmp_path / "checkpoints" / "last.npz").exists()


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train("ae", tmp_path, epochs=1)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.full
def test_history_holds_train_and_validation(tmp_path):
    train("vae", tmp_path, epochs=2)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    for key in ("train/loss", "train/elbo", "valid/loss", "valid/kl", "learning_rate", "step", "seconds"):
        assert key in lines[0]
    assert lines[0]["train/loss"] != 0.0 and EVENT_SHAPE


def test_steps_per_call_is_chosen_from_the_time_of_a_step():
    assert 1 <= fitting.steps_per_call(build("vae"), images(16)) <= fitting.MOST_STEPS_PER_CALL


# ---- XLA -------------------------------------------------------------------------------------------------


def test_xla_is_off_for_convolutions_on_a_cpu(monkeypatch):
    dense, conv = build("ae"), build("ae", encoder="conv", decoder="conv", num_filters=2)
    params = hparams("ae")
    assert fitting.uses_xla(dense, params)
    assert not fitting.uses_xla(dense, dataclasses.replace(params, jit_compile=False))
    assert fitting.uses_xla(dense, params, 100_000) and not fitting.uses_xla(dense, params, 100)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    assert not fitting.uses_xla(conv, params)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["a GPU"])
    assert fitting.uses_xla(conv, params) and fitting.uses_xla(dense, params, 100)
