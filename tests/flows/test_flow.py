"""`Flow`: its layers, training on an array, saving, samples, bad input."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import pae_zoo
from pae_zoo import flows
from pae_zoo.core import seeds

SMALL = dict(hidden_units=(8, 8), bins=5, depth=2)
PRESETS = {
    "nice": ("lu", "additive"), "realnvp": ("lu", "affine"), "nsf": ("lu", "spline"), "maf": ("reverse", "maf"),
    "nsf_ar": ("reverse", "maf_spline"),
}
MIXED = ("lu", "spline", "swap", "affine", "actnorm", "iaf", "maf", "additive", "householder")


def data(count=300, num_dims=3, seed=0):
    return np.exp(np.random.default_rng(seed).normal(size=(count, num_dims))).astype("float32")


def fitted(layers="realnvp", **options):
    """A flow after six steps, taken eagerly: tracing would take longer."""
    flow = pae_zoo.Flow(3, layers=layers, **{**SMALL, **options})
    flow.compile("adam", jit_compile=False, run_eagerly=True)
    flow.fit(data(), epochs=2, batch_size=100, shuffle=False, verbose=0)
    return flow


# ---- which layers there are ------------------------------------------------------------------------------


def test_the_presets_are_these():
    assert flows.PRESETS == PRESETS


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("depth", (1, 3))
def test_layers_present_are_the_layers_asked_for(preset, depth):
    asked = flows.layer_types(preset, depth)
    assert asked == PRESETS[preset] * depth == flows.layer_types((preset,), depth)
    flow = pae_zoo.Flow(4, layers=(preset,), depth=depth, hidden_units=(8,))
    assert tuple(flow.layer_names) == asked
    assert [type(layer) for layer in flow.chain] == [flows.LAYERS[name] for name in asked]


def test_a_list_is_taken_as_it_is():
    assert flows.layer_types("lu, spline,swap") == ("lu", "spline", "swap")
    flow = pae_zoo.Flow(5, layers=MIXED, **SMALL)
    assert tuple(flow.layer_names) == MIXED
    assert [type(layer) for layer in flow.chain] == [flows.LAYERS[name] for name in MIXED]
    order = []
    for layer in flow.chain:
        layer.transform = lambda x, inverse, *_, kind=layer.kind: (order.append(kind), (x, x[:, 0]))[1]
    flow.forward(tf.zeros((1, 5)))
    assert tuple(order) == MIXED
    order.clear()
    flow.inverse(tf.zeros((1, 5)))
    assert tuple(order) == MIXED[::-1]


@pytest.mark.parametrize(
    "spec, depth, what",
    [
        ("splnie", 8, "Unknown flow layer 'splnie'; did you mean spline.*presets nice, .*maf, nsf_ar.*additive"),
        (("lu", "nfs"), 8, "'nfs'; did you mean nsf"),
        ("lu,nsf", 8, "a preset stands alone"),
        ((), 8, "Unknown flow layer ''"),
        ("nsf", 0, "depth=0"),
    ],
)
def test_bad_lists_are_told(spec, depth, what):
    with pytest.raises(pae_zoo.UserError, match=what):
        flows.layer_types(spec, depth)


@pytest.mark.parametrize("preset", PRESETS)
def test_one_dimension_is_enough(preset):
    """Of one dimension couplings have parameters that depend on nothing; the density still integrates to one."""
    flow = pae_zoo.Flow(1, layers=preset, depth=2, hidden_units=(8,), bins=5, whiten=False, dtype="float64")
    for weight in flow.trainable_weights:
        weight.assign_add(0.3 * np.random.default_rng(1).normal(size=weight.shape))
    grid = np.linspace(-30.0, 30.0, 20_001)[:, None]
    mass = np.sum(np.exp(flow.log_prob(grid))) * (grid[1, 0] - grid[0, 0])
    np.testing.assert_allclose(mass, 1.0, atol=1e-3)
    np.testing.assert_allclose(flow.forward(flow.inverse(grid)[0])[0], grid, atol=1e-6)


# ---- training --------------------------------------------------------------------------------------------


def test_fit_alone_improves_and_counts():
    flow = pae_zoo.Flow(3, layers="realnvp", **{**SMALL, "depth": 1})
    flow.compile(keras.optimizers.Adam(0.05), jit_compile=True)
    history = flow.fit(data(), epochs=10, batch_size=100, shuffle=False, verbose=0).history
    assert history["nll"][-1] < history["nll"][0] - 0.05
    assert history["loss"] == history["nll"]
    found = flow.evaluate(data(100, seed=1), batch_size=50, verbose=0, return_dict=True)
    assert found["nll"] == pytest.approx(-np.mean(flow.log_prob(data(100, seed=1))), rel=1e-4)
    np.testing.assert_allclose(flow.predict(data(7), verbose=0), flow.log_prob(data(7)), rtol=1e-4, atol=1e-4)


def test_a_step_changes_every_variable():
    flow = fitted(MIXED)
    variables = flow.trained_variables
    assert sum(len(layer.trainable_weights) for layer in flow.chain) == len(variables)
    before = [v.numpy() for v in variables]
    flow.fit(data(), batch_size=100, epochs=1, verbose=0)
    for variable, value in zip(variables, before):
        assert np.any(variable.numpy() != value), variable.path


@pytest.mark.full
def test_training_repeats_bitwise_and_the_seed_matters():
    first, same, other = fitted(seed=3, noise=0.1), fitted(seed=3, noise=0.1), fitted(seed=4, noise=0.1)
    for weight, twin in zip(first.weights, same.weights, strict=True):
        np.testing.assert_array_equal(weight, twin)
    assert np.any(first.log_prob(data(5)) != other.log_prob(data(5)))


def test_noise_is_in_units_of_whitened_data_and_only_in_training():
    flow = pae_zoo.Flow(3, layers=("reverse",), noise=0.5)
    x = 100 * np.random.default_rng(0).normal(size=(4000, 3)).astype("float32")
    flow.adapt(x)
    clean = flow.objective(x, (0, 1), training=False)["nll"]
    np.testing.assert_allclose(clean, -flow.log_prob(x), rtol=1e-5)
    noisy = flow.objective(x, (0, 1), training=True)["nll"]
    # E |v + e|^2 / 2 exceeds E |v|^2 / 2 by K noise^2 / 2.
    assert np.mean(noisy - clean) == pytest.approx(3 * 0.25 / 2, rel=0.1)


def test_adapt_standardises_what_the_first_layers_see():
    flow = pae_zoo.Flow(3, layers=("affine", "actnorm"), **SMALL)
    x = data() * [1.0, 100.0, 1e-4] + [5.0, 0.0, 1.0]
    flow.adapt(x)
    assert int(flow.chain[1].adapted) == 1
    u, log_det = flow.inverse(x)
    np.testing.assert_allclose(np.mean(u, 0), 0.0, atol=1e-3)
    np.testing.assert_allclose(np.cov(np.asarray(u).T), np.eye(3), atol=0.02)
    np.testing.assert_allclose(flow.forward(u)[1], -log_det, rtol=1e-4)
    raw = pae_zoo.Flow(3, layers=("reverse",), whiten=False)
    raw.adapt(x)
    np.testing.assert_array_equal(raw.inverse(x[:, ::-1])[0], x.astype("float32"))


@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_the_first_row_that_is_not_finite_is_named(bad):
    x = data()
    x[[3, 5], 1] = bad
    flow = pae_zoo.Flow(3, **SMALL)
    flow.compile("adam", jit_compile=False)
    with pytest.raises(pae_zoo.UserError, match="first in row 3"):
        flow.fit(x, verbose=0)
    flow.adapt(data())
    with pytest.raises(pae_zoo.UserError, match="first in row 3"):
        flow.fit(x, verbose=0)


@pytest.mark.parametrize("x", (np.zeros((10, 4)), np.zeros(3), np.zeros((1, 3))))
def test_arrays_of_another_shape_are_told(x):
    with pytest.raises(pae_zoo.UserError, match="trained on an array"):
        pae_zoo.Flow(3, **SMALL).adapt(x)
    if x.shape[-1] != 3:
        with pytest.raises(pae_zoo.UserError, match=r"over \(..., 3\)"):
            pae_zoo.Flow(3, **SMALL).log_prob(x)


def test_negative_noise_is_told():
    with pytest.raises(pae_zoo.UserError, match="received -0.1"):
        pae_zoo.Flow(3, noise=-0.1)


# ---- density and samples ---------------------------------------------------------------------------------


def test_log_prob_is_the_change_of_variables():
    flow = fitted(MIXED, dtype="float64")
    x = tf.constant(data(4), tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        u, log_det = flow.inverse(x)
    jacobian = tape.batch_jacobian(u, x, experimental_use_pfor=False)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-8)
    normal = -0.5 * np.sum(np.square(u), -1) - 1.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(flow.log_prob(x), normal + log_det, atol=1e-10)
    assert flow.log_prob(np.zeros((2, 5, 3))).shape == (2, 5)
    np.testing.assert_allclose(flow.forward(u)[0], x, atol=1e-9)


@pytest.mark.full
def test_samples_are_a_function_of_the_seed():
    flow = fitted(depth=1)
    draws = flow.sample(50, seed=(0, 1))
    assert draws.shape == (50, 3)
    np.testing.assert_array_equal(draws, flow.sample(50, seed=(0, 1)))
    np.testing.assert_allclose(draws[:10], flow.sample(10, seed=(0, 1)), rtol=1e-5, atol=1e-5)
    assert np.any(draws != flow.sample(50, seed=(0, 2)))
    assert np.any(flow.sample(5) != flow.sample(5))
    compiled = tf.function(lambda seed: flow.sample(50, seed), jit_compile=True)
    np.testing.assert_allclose(compiled(tf.constant([0, 1])), draws, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(flow.forward(seeds.normal((50, 3), (0, 1)))[0], draws)


def test_float64_flow_computes_in_float64():
    flow = fitted(dtype="float64")
    assert flow.log_prob(data(3)).dtype == flow.sample(2, seed=(0, 1)).dtype == tf.float64
    assert {w.dtype for w in flow.trainable_weights} == {"float64"}


def test_a_mixed_policy_leaves_densities_in_full_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        flow = pae_zoo.Flow(3, **SMALL)
        assert flow.log_prob(data(3)).dtype == tf.float32
    finally:
        keras.config.set_dtype_policy("float32")


# ---- saving ----------------------------------------------------------------------------------------------


@pytest.mark.full
def test_saved_while_training_it_goes_on_as_if_not(tmp_path):
    flow = fitted(MIXED, noise=0.05)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    assert loaded.get_config() == flow.get_config()
    np.testing.assert_array_equal(loaded.log_prob(data(9)), flow.log_prob(data(9)))
    np.testing.assert_array_equal(loaded.sample(9, seed=(0, 1)), flow.sample(9, seed=(0, 1)))
    for model in (flow, loaded):
        model.fit(data(), batch_size=100, epochs=1, shuffle=False, verbose=0)
    for weight, other in zip(flow.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(weight, other)


def test_weights_files_fit_and_paths_are_unique(tmp_path):
    flow, other = fitted(MIXED), pae_zoo.Flow(3, layers=MIXED, **SMALL, seed=9)
    paths = [w.path for w in flow.trainable_weights]
    assert len(paths) == len(set(paths))
    flow.save_weights(tmp_path / "flow.weights.h5")
    other.load_weights(tmp_path / "flow.weights.h5")
    np.testing.assert_array_equal(flow.log_prob(data(9)), other.log_prob(data(9)))
