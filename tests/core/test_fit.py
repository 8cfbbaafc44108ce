"""What plain `fit`, `evaluate` and `predict` make of what they are given, over all models and flows."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, ROWS, build, images
from tiers import some

import pae_zoo
from pae_zoo import networks
from pae_zoo.core import fit_data, trainable
from pae_zoo.core.errors import UserError

NAMES = list(ROWS)
FEW = dict(epochs=1, batch_size=16, verbose=0)


def small(name="vae", **changes):
    """Returns a compiled model of the battery that has seen no data; a step run is cheaper than one traced."""
    model = build(name, adapted=False, **changes)
    model.compile("adam", run_eagerly=True, jit_compile=False)
    return model


@pytest.fixture
def eager_stages(monkeypatch):
    """Later stages are run step by step, as the first one of `small` is."""
    compile_part = trainable.Trainable.compile
    monkeypatch.setattr(trainable.Trainable, "compile", lambda self, *args, **how: compile_part(
        self, *args, **{"run_eagerly": True, **how}))


def flow(**options):
    found = pae_zoo.Flow(3, layers=("actnorm", "affine"), depth=2, hidden_units=(4,), **options)
    found.compile("adam", run_eagerly=True, jit_compile=False)
    return found


def values(model):
    return [np.array(variable.value) for variable in model.variables if "seed_generator" not in variable.path]


def assert_equal(mine, theirs):
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*some(NAMES, ["ae", "vae", "pae", "lae", "rbf_vae"]), "flow"])
def test_weights_of_zero_leave_everything_as_it_is(name):
    model, x = (flow(), np.random.default_rng(0).normal(size=(32, 3))) if name == "flow" else (small(name), images(32))
    before = values(model)
    model.fit(x, sample_weight=np.zeros(len(x)), **FEW)
    assert_equal(values(model), before)
    if name in ("vae", "flow"):  # the batches of a data set are the same steps; momentum and decay do not act either
        xla = name == "flow"
        model.compile(keras.optimizers.AdamW(weight_decay=0.1), jit_compile=xla, run_eagerly=not xla)
        model.fit(x, **FEW)
        before = values(model)
        model.fit(tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x)), np.zeros(len(x)))).batch(16), verbose=0)
        model.train_on_batch(x, sample_weight=np.zeros(len(x)))
        assert_equal(values(model), before)


def test_data_of_weight_zero_count_for_nothing():
    x, kept = images(32), np.arange(32) % 4 != 3
    broken = np.where(kept[:, None, None, None], x, 1.0).astype(np.float32)
    found = []
    for data in (x, broken):  # what stands in a row of weight 0 does not matter
        model = small("lae", hidden_units=(6,), likelihood="gaussian_learned")
        model.fit(data, sample_weight=kept.astype(float), shuffle=False, **FEW)
        assert float(model.num_data) == 24
        found.append(values(model))
    for mine, theirs in zip(*found):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_weights_of_a_column_are_those_of_a_row():
    x, w = images(32), np.linspace(0, 2, 32)
    losses = []
    for one in (w, w[:, None]):
        losses.append(small().fit(x, x, sample_weight=one, shuffle=False, **FEW).history["loss"][0])
        model = small()
        model.adapt(x)
        losses[-1] += model.evaluate(x, sample_weight=one, batch_size=16, verbose=0)[0]
    assert losses[0] == losses[1]
    terms = model.objective(tf.constant(x[:16]), model.step_seed(), training=True)["loss"]
    np.testing.assert_allclose(model.update(tf.constant(x[:16]), w[:16]), np.average(terms, weights=w[:16]), rtol=1e-5)
    for bad, words in ((np.ones((32, 6, 6)), "one weight for each datum"), (np.ones(31), "equally many"),
                       (["a"] * 32, "allowed are numbers"),
                       (-np.ones(32), "0 or more"), (np.full(32, np.nan), "0 or more")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            model.fit(x, sample_weight=bad, **FEW)


def test_class_weights_are_weights_of_labels():
    x, labels = images(32), np.arange(32) % 2
    table = {0: 3.0, 1: 0.0}
    losses = [
        small().fit(x, labels, class_weight=table, shuffle=False, **FEW).history["loss"][0],
        small().fit(x, np.array(["a", "b"])[labels], class_weight={"a": 3.0, "b": 0.0}, shuffle=False,
                    **FEW).history["loss"][0],
        small().fit(x, np.eye(2)[labels], class_weight=table, shuffle=False, **FEW).history["loss"][0],
        small().fit(tf.data.Dataset.from_tensor_slices((x, labels)).batch(16), class_weight=table,
                    verbose=0).history["loss"][0],
        small().fit(x, sample_weight=np.where(labels, 0.0, 3.0), shuffle=False, **FEW).history["loss"][0],
    ]  # fmt: skip
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)
    for given, words in ((dict(), "needs labels"), (dict(y=x), "needs labels"),
                         (dict(y=labels, sample_weight=np.ones(32)), "exclude each other")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            small().fit(x, class_weight=table, **given, **FEW)


# ---- losses of layers ----------------------------------------------------------------------------------


def own_network(regulariser=None, activity=None):
    layers = keras.layers
    encoder = keras.Sequential([
        layers.Input((4,)), layers.Dense(8, kernel_regularizer=regulariser, activity_regularizer=activity,
                                         kernel_initializer=keras.initializers.GlorotUniform(seed=1)),
        layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(seed=2))])  # fmt: skip
    return encoder, networks.build_decoder("mlp", (4,), 2, hidden_units=(8,), seed=3)


@pytest.mark.parametrize("kind", ["kernel", "activity"])
def test_what_layers_add_is_part_of_the_loss(kind):
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    how = {"regulariser": keras.regularizers.L2(10.0)} if kind == "kernel" else {"activity": keras.regularizers.L2(0.1)}
    losses, kernels = [], []
    for options in ({}, how):
        model = pae_zoo.VAE(*own_network(**options), likelihood="gaussian")
        model.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
        kernel = model.encoder.layers[0].kernel
        before = np.array(kernel)
        hidden = x @ before
        losses.append([model.fit(x, batch_size=16, verbose=0, shuffle=False).history["loss"][0],
                       model.evaluate(x, batch_size=16, verbose=0)[0]])  # fmt: skip
        kernels.append(np.array(kernel))
    extra = 10.0 * np.sum(before**2) if kind == "kernel" else 0.1 * np.sum(hidden**2) / 16
    np.testing.assert_allclose(losses[1][0] - losses[0][0], extra, rtol=1e-4)
    assert losses[1][1] > losses[0][1] + 0.5 * extra  # and of what evaluation says
    if kind == "kernel":  # one step of gradient descent on 10 |W|^2
        np.testing.assert_allclose(kernels[1], kernels[0] - 1e-3 * 20.0 * before, rtol=1e-4, atol=1e-6)


class Looping(pae_zoo.AE):
    """An autoencoder that decodes inside of a loop, where what its layers add is out of reach."""

    def decoder_outputs(self, z, training=False):
        start = tf.zeros((tf.shape(z)[0], 4))
        return tf.while_loop(lambda i, _: i < 1, lambda i, _: (i + 1, self.decoder(z, training=training)), (0, start),
                             shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, 4])))[1]  # fmt: skip


def test_losses_of_activations_in_a_loop_are_refused():
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, activity_regularizer="l2")])
    x = np.random.default_rng(0).uniform(size=(16, 4)).astype(np.float32)
    model = Looping(own_network()[0], decoder, likelihood="gaussian")
    model.compile("adam", jit_compile=False)
    with pytest.raises(UserError, match="inside of a loop of Looping"):
        model.fit(x, verbose=0)


# ---- what fit reads of the data --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bbb_ae", "lae"])
def test_the_number_of_data_is_that_of_this_fit_without_held_out_rows(name, monkeypatch):
    model, x = small(name, hidden_units=(6,)), images(64)
    monkeypatch.setattr(type(model), "measure", lambda *args: None)  # traced anew after every fit
    with pytest.raises(UserError, match="number of its training data"):
        model.train_on_batch(x[:8])
    counts = []
    for data, how in ((x[:8], {}), (x, {}), (x, dict(validation_split=0.25)),
                      (tf.data.Dataset.from_tensor_slices(x).batch(16).repeat(), dict(steps_per_epoch=2)),
                      (x, dict(sample_weight=np.full(64, 0.5)))):  # fmt: skip
        model.fit(data, epochs=1, verbose=0, **how)
        counts.append(float(model.num_data))
    assert counts == [8, 64, 48, 32, 32]
    model.train_on_batch(x[:8])
    assert float(model.num_data) == 32


@pytest.mark.parametrize("name", ["pae", "rbf_vae", "lae_posthoc"])
def test_held_out_rows_are_met_by_validation_alone(name, eager_stages):
    x = images(64)
    odd = x.copy()
    odd[48:] = 1.0 - x[48:] / 3
    models = [small(name), small(name)]
    for model, data in zip(models, (x, odd)):
        keras.utils.set_random_seed(0)  # of Keras' shuffling of codes
        model.fit(data, validation_split=0.25, epochs=1, batch_size=16, verbose=0, shuffle=False)
    # Validation codes choose how many components and passes a density of codes takes; its statistics are of the others.
    part = {"pae": "flow", "rbf_vae": "rbf", "lae_posthoc": "posterior"}[name]
    parts = [getattr(model, part) for model in models]
    assert_equal(*(values(one.whitening if name == "pae" else one) for one in parts))
    with pytest.raises(UserError, match="leaves 0 of 64"):
        small().fit(x, validation_split=0.999, **FEW)


def test_flows_of_a_second_fit_take_the_new_codes(eager_stages):
    model, x = small("pae"), images(48)  # so few that none are held out
    model.fit(x, **FEW)
    model.encoder.set_weights([w * 3 for w in model.encoder.get_weights()])
    model.fit(x, epochs=1, batch_size=64, verbose=0)
    codes = model.stage_codes(x)
    np.testing.assert_allclose(model.flow.whitening.weights[0], codes.mean(axis=0), atol=1e-4)


# ---- noise of evaluation ---------------------------------------------------------------------------


def test_batches_of_an_evaluation_have_noise_of_their_own():
    model, x = build("vae", latent_dim=3), np.repeat(images(1), 256, axis=0)
    model.compile("adam", jit_compile=False)
    bound = {size: model.evaluate(x, batch_size=size, verbose=0, return_dict=True)["elbo"] for size in (1, 8, 64)}
    draws = np.concatenate([model.elbo(x, (5, n)) for n in range(8)])
    error = draws.std() / np.sqrt(256)
    for size, found in bound.items():
        assert abs(found - draws.mean()) < 4 * error, size
    assert model.evaluate(x, batch_size=8, verbose=0, return_dict=True)["elbo"] == bound[8]  # and the same each time
    history = model.fit(x[:16], validation_data=(x,), epochs=2, batch_size=8, verbose=0,
                        sample_weight=np.zeros(16)).history["val_elbo"]  # fmt: skip
    assert history == pytest.approx([bound[8]] * 2, abs=1e-6)


# ---- values, types and kinds of data ---------------------------------------------------------------


RAGGED = [np.zeros((4, 3)), np.zeros((4, 2))]


@pytest.mark.parametrize("name", some(NAMES, ["vae", "ae"]))
def test_values_that_images_cannot_have_are_refused(name):
    model, x = small(name), images(32)
    broken = x.copy()
    broken[21, 3, 2] = np.nan
    for bad, words in ((x * 255, r"from .* to 2\d\d.*\[0, 1\].*divide 0..255"), (x * 2 - 1, r"\(x \+ 1\) / 2"),
                       ((x * 255).astype(np.int64), "divide 0..255"), (broken, "row 21")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            model.fit(bad, **FEW)
        with pytest.raises(UserError, match=words):
            model.fit(x, validation_data=(bad,), **FEW)
        if name == "vae":
            batches = tf.data.Dataset.from_tensor_slices(bad).batch(8)
            with pytest.raises(UserError, match=words.replace("row 21", "row 5 of batch 2")):
                model.fit(batches, verbose=0)
            with pytest.raises(UserError, match=words.replace("row 21", "batch 2.* row 5")):
                model.fit(iter(np.split(bad, 4)), verbose=0)


def test_a_flow_takes_integers_as_the_numbers_that_they_are():
    rows = np.random.default_rng(0).integers(0, 255, (64, 3)).astype(np.uint8)
    flows = [flow(), flow(), flow()]
    for one, data in zip(flows, (rows, rows.astype(np.float32), tf.data.Dataset.from_tensor_slices(rows).batch(16))):
        one.fit(data, epochs=2, verbose=0, shuffle=False, **({} if data is not rows and hasattr(data, "map") else
                                                             dict(batch_size=16)))  # fmt: skip
    np.testing.assert_array_equal(flows[0].log_prob(rows), flows[1].log_prob(rows))
    np.testing.assert_allclose(flows[0].log_prob(rows), flows[2].log_prob(rows), rtol=1e-5)
    assert np.abs(flows[0].sample(400, (0, 1)).numpy().mean() - 127) < 20


def test_a_late_row_that_is_no_number_ends_a_flow():
    rows = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    one = flow()
    one.fit(rows, **FEW)
    rows[50, 1] = np.inf
    before = int(one.step)
    with pytest.raises(UserError, match="row 2 of batch 3"):
        one.fit(tf.data.Dataset.from_tensor_slices(rows).batch(16), verbose=0)
    assert int(one.step) - before <= 3 and all(np.isfinite(value).all() for value in values(one))


def once(x, size=8):
    yield from np.split(x, len(x) // size)


class Table(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return len(self.x) // 8

    def __getitem__(self, index):
        return {"image": self.x[index * 8 : index * 8 + 8], "label": np.zeros(8)}


class Loader:
    """What torch's DataLoader is: batches by iteration, and a length."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x) // 8

    def __iter__(self):
        return once(self.x)


def kinds(x):
    """Yields (name, what fit takes): the same batches of 8, in every form that users have them in."""
    slices = tf.data.Dataset.from_tensor_slices
    yield "data set", slices(x).batch(8)
    yield "labels", slices((x, np.zeros(len(x), int))).batch(8)
    yield "dict", slices({"image": x, "label": np.zeros(len(x), int)}).batch(8)
    yield "dict of one", slices({"pixels": x}).batch(8)
    yield "targets", slices((x, x)).batch(8)
    yield "float64", slices(x.astype(np.float64)).batch(8)
    yield "no channel", slices(x[..., 0]).batch(8)
    yield "generator", once(x)
    yield "generator of tuples", ((one, np.zeros(8)) for one in once(x))
    yield "generator of weights", ((one, None, np.ones(8)) for one in once(x))
    waiting = once(x)
    yield "one pass", tf.data.Dataset.from_generator(
        lambda: waiting, output_signature=tf.TensorSpec((None, *EVENT_SHAPE)))  # fmt: skip
    yield "table", Table(x)
    yield "loader", Loader(x)


@pytest.mark.parametrize("name", some(["ae", "vae", "pae", "bbb_ae", "lae_posthoc"], ["vae", "pae"]))
def test_every_kind_of_data_is_the_same_training(name, eager_stages):
    x, expected = images(16), None
    for kind, data in kinds(x):
        # Models of several stages read again what the others read once: that matters to sources, not to batches.
        if name != "vae" and kind not in ("data set", "generator", "one pass", "table", "loader"):
            continue
        keras.utils.set_random_seed(0)  # of Keras' shuffling of codes
        model = small(name)
        model.fit(data, epochs=1, verbose=0, shuffle=False)
        found = values(model)
        expected = found if expected is None else expected
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5, err_msg=kind)
        assert int(model.step) == 2, kind


def test_arrays_of_every_kind_are_the_same_training():
    x = images(16)
    arrays = {"array": x, "float64": x.astype(np.float64), "tensor": tf.constant(x), "rows": list(x), "one": [x],
              "no channel": x[..., 0], "dict": {"image": x}, "bytes": None}  # fmt: skip
    losses = {}
    for kind, data in arrays.items():
        data = np.round(x * 255).astype(np.uint8) if data is None else data
        losses[kind] = small().fit(data, shuffle=False, **FEW).history["loss"][0]
    np.testing.assert_allclose(list(losses.values()), losses["array"], rtol=1e-3)


def test_what_is_no_data_is_said_in_a_sentence():
    x = images(16)
    for bad, words in (
        (None, "needs data"), ("npz:digits.npz", "x is a str"), (3, "x is a int"), (RAGGED, "do not make one array"),
        (x[:0], "no data"), (np.full((4, *EVENT_SHAPE), "a"), "allowed are numbers"), ({"a": x, "b": x}, "exactly one"),
        (np.zeros((4, 5)), "one datum is"), (iter([]), "no batch"),
        (tf.data.Dataset.from_tensor_slices(x).take(0).batch(2), "no batch"),
        (tf.data.Dataset.from_tensor_slices(["a"]).batch(1), "dense tensors of numbers"),
        (tf.data.Dataset.from_tensor_slices(({"a": x, "b": x}, x)).batch(1), "exactly one"),
    ):
        with pytest.raises(UserError, match=words):
            small().fit(bad, **{**FEW, "batch_size": None})
    with pytest.raises(UserError, match="yields them itself"):
        small().fit(tf.data.Dataset.from_tensor_slices(x).batch(8), x, verbose=0)
    with pytest.raises(UserError, match="y has shape"):
        small().fit(x, x[:, :3], **FEW)
    with pytest.raises(UserError, match="could be read once only"):
        small().fit(once(x), epochs=2, verbose=0)


def test_evaluate_and_predict_take_what_fit_takes():
    model, x = small(), images(16)
    model.adapt(x)
    expected = model.evaluate(x, batch_size=8, verbose=0)
    shown = model.predict(x, batch_size=8, verbose=0)
    for kind, data in kinds(x):
        np.testing.assert_allclose(model.evaluate(data, verbose=0), expected, rtol=1e-5, err_msg=kind)
    for kind, data in kinds(x):
        np.testing.assert_allclose(model.predict(data, verbose=0), shown, atol=1e-6, err_msg=kind)
    broken = x.copy()
    broken[3] = np.nan
    assert np.isnan(model.evaluate(broken, batch_size=8, verbose=0)[0])


# ---- targets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", some(NAMES, ["ae", "vae", "vlae"]))
def test_clean_targets_are_learned_or_refused(name):
    model, clean = small(name), images(64)
    noisy = np.clip(clean + 0.3 * np.random.default_rng(0).normal(size=clean.shape), 0, 1).astype(np.float32)
    if model.no_targets:
        with pytest.raises(UserError, match="takes no such targets.*Take"):
            model.fit(noisy, clean, **FEW)
        with pytest.raises(UserError, match="takes no such targets"):
            model.fit(tf.data.Dataset.from_tensor_slices((noisy, clean)).batch(16), verbose=0)
        model.fit(clean, clean.copy(), **FEW)
        grey = np.round(clean * 255).astype(np.uint8)
        model.fit(grey, grey / 255, **FEW)
        return
    model.adapt(noisy)
    loss = model.evaluate(noisy, clean, batch_size=64, verbose=0)[0]
    seed = trainable.seeds.fold_in(trainable.seeds.stream((model.seed, 0), trainable.VALIDATION), 0)
    own = model.objective(tf.constant(noisy), seed, training=False, target=tf.constant(clean))["loss"]
    np.testing.assert_allclose(loss, np.mean(own), rtol=1e-5)
    assert abs(loss - model.evaluate(noisy, batch_size=64, verbose=0)[0]) > 1e-3
    same = model.objective(tf.constant(clean), seed, training=False, target=tf.constant(clean))["loss"]
    np.testing.assert_allclose(same, model.objective(tf.constant(clean), seed, training=False)["loss"], rtol=1e-5)
    model.fit(noisy, clean, **FEW)


def test_targets_teach_to_denoise():
    clean = images(512, seed=3)
    noisy = np.clip(clean + 0.4 * np.random.default_rng(0).normal(size=clean.shape), 0, 1).astype(np.float32)
    errors = []
    for target in (None, clean):
        model = small("ae", hidden_units=(32,))
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
        model.fit(noisy, target, epochs=15, batch_size=64, verbose=0)
        errors.append(np.mean((model.predict(noisy, verbose=0) - clean) ** 2))
    assert errors[1] < 0.9 * errors[0]


# ---- callbacks and export ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", some(NAMES, ["vae", "lae"]))
def test_every_metric_can_be_monitored(name):
    model, x = small(name), images(16)
    monitors = [f"val_{metric.name}" for metric in model.metrics]
    stops = [keras.callbacks.EarlyStopping(monitor, patience=5) for monitor in monitors]
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=5)
    model.fit(x, validation_data=(x,), callbacks=[*stops, plateau], **FEW)
    alone = keras.callbacks.EarlyStopping(monitors[-1])
    model.fit(x, validation_data=x, callbacks=alone, **FEW)
    assert alone.mode == stops[-1].mode
    with pytest.raises(UserError, match="is no metric of .* there are loss"):
        model.fit(x, callbacks=[keras.callbacks.EarlyStopping("val_nothing")], **FEW)
    up = {stop.monitor for stop in stops if stop.mode == "max"}
    assert up == {f"val_{name}" for name in ("elbo", "log_prior") if f"val_{name}" in monitors}


@pytest.mark.parametrize("name", some(NAMES, ["ae", "vae"]))
def test_a_called_model_is_exported(name, tmp_path):
    model, x = build(name), images(3)
    expected = model(x)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(tf.constant(x)), expected, atol=1e-5)
    assert "x" in served.signatures["serving_default"].structured_input_signature[1]


def test_a_look_at_data_keeps_what_it_read():
    x = images(32)
    form = fit_data.Form(EVENT_SHAPE, "VAE", unit=True)
    source = fit_data.read(form, once(x), keep=True)
    assert len(fit_data.examples(source, 10)) == 16
    met = np.concatenate([batch[0] for batch in source.keras()[0]])
    np.testing.assert_array_equal(met, x)
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in fit_data.weighted(source)]), x)


@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
@pytest.mark.parametrize("name", some(NAMES, ["rbf_vae"]))
def test_models_of_another_precision_are_fitted_and_called(name, policy):
    before, x = keras.config.dtype_policy(), images(32)
    keras.config.set_dtype_policy(policy)
    try:
        model = small(name)
        losses = model.fit(x.astype(np.float64), validation_data=(x,), **FEW).history
        assert np.isfinite(losses["loss"] + losses["val_loss"]).all()
        assert model(x[:2].astype(np.float64)).dtype == (tf.float64 if policy == "float64" else tf.float32)
    finally:
        keras.config.set_dtype_policy(before)
