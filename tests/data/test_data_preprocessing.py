"""Preprocessing: round trips, log_det against autodiff, statistics, eager = XLA, save and load."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import some

from pae_zoo.core.errors import UserError
from pae_zoo.data import preprocessing as pre

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (200, 3, 4, 2)).astype(np.uint8)
UNIT = tf.constant(BYTES[:7] / 255.0, tf.float32)
SEED = (3, 4)

CHAINS = {
    "identity": [], "scale": ["scale"], "centre": ["centre"], "standardise": ["standardise"], "logit": ["logit"],
    "dequantise": ["dequantise"], "binarise": ["binarise_dynamic"], "static": ["binarise_static"],
    "vlae": ["dequantise", "logit", "centre"], "pae": ["dequantise", "scale"],
    "all": ["dequantise", "logit", "standardise", "scale"],
}  # fmt: skip
SMOOTH = [name for name in CHAINS if name not in ("binarise", "static")]


def built(name):
    chain = pre.build_chain(CHAINS[name])
    chain.adapt(BYTES)
    return chain


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("seed", [None, SEED])
def test_round_trip(name, seed):
    chain = built(name)
    y = chain.forward(UNIT, seed)
    x = chain.inverse(y)
    tolerance = 1e-5
    if seed is not None and chain.is_stochastic:  # the noise is part of u, so x is off by (U - 1/2) / 255
        tolerance += 0.5 / 255
    assert y.shape == x.shape == UNIT.shape and float(tf.reduce_max(tf.abs(x - UNIT))) < tolerance
    np.testing.assert_allclose(chain.forward(x), chain.forward(chain.inverse(chain.forward(x))), atol=1e-5)


def test_dequantised_u_is_recovered():
    """Acceptance 15 of the VLAE specification: inverse(forward(x)) recovers u to 1e-5."""
    u_chain, chain = pre.build_chain(["dequantise"]), built("vlae")
    seed = pre.seeds.fold_in(SEED, 0)  # the seed of the first step
    u = u_chain.steps[0].forward(UNIT, seed)
    rest = pre.Chain(chain.steps[1:])
    np.testing.assert_allclose(rest.inverse(chain.forward(UNIT, SEED)), u, atol=1e-5)
    assert float(tf.reduce_min(u)) > 0 and float(tf.reduce_max(u)) < 1
    np.testing.assert_array_equal(np.floor(256 * u.numpy()), BYTES[:7])


@pytest.mark.parametrize("name", SMOOTH)
def test_log_det_equals_autodiff(name):
    chain = built(name)
    x = UNIT[:3]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reshape(chain.forward(x, SEED), [3, -1])
    jacobian = np.array([np.diag(j) for j in tf.reshape(tape.batch_jacobian(y, x), [3, 24, 24]).numpy()])
    log_det = np.log(np.abs(jacobian)).sum(1)
    if "dequantise" in CHAINS[name]:  # counts 0 by contract: the density is that of u, not of x
        log_det -= 24 * np.log(255 / 256)
    np.testing.assert_allclose(chain.log_det(x, SEED), log_det, rtol=1e-5, atol=1e-4)
    assert chain.log_det(x).shape == (3,)


@pytest.mark.parametrize("name", some(list(CHAINS), ["all", "binarise"]))
def test_eager_function_and_xla_agree(name):
    chain = built(name)

    def both(x, seed):
        return chain.forward_and_log_det(x, seed)

    eager = both(UNIT, tf.constant(SEED))
    np.testing.assert_array_equal(eager[0], chain.forward(UNIT, SEED))
    np.testing.assert_array_equal(eager[1], chain.log_det(UNIT, SEED))
    for options in ({}, {"jit_compile": True}):
        other = tf.function(both, **options)(UNIT, tf.constant(SEED))
        np.testing.assert_allclose(other[0], eager[0], atol=1e-5)
        np.testing.assert_allclose(other[1], eager[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(CHAINS))
def test_more_leading_axes(name):
    chain = built(name)
    x = tf.reshape(UNIT[:6], [2, 3, 3, 4, 2])
    y, log_det = chain.forward_and_log_det(x)
    np.testing.assert_allclose(tf.reshape(y, [6, 3, 4, 2]), chain.forward(UNIT[:6]), atol=1e-6)
    np.testing.assert_allclose(tf.reshape(log_det, [6]), chain.log_det(UNIT[:6]), rtol=1e-6)


def test_statistics():
    unit = BYTES / 255.0
    centred = pre.build_chain(["centre"])
    centred.adapt(BYTES)
    assert (
        float(tf.reduce_max(tf.abs(tf.reduce_mean(centred.forward(tf.constant(unit, tf.float32)), 0)))) < 1e-6
    )
    standard = pre.build_chain(["standardise"])
    standard.adapt(unit.astype(np.float32))  # floats and bytes give the same
    y = standard.forward(tf.constant(unit, tf.float32)).numpy()
    np.testing.assert_allclose(y.std(0), 1, atol=1e-5)
    noisy = built("vlae")
    y = noisy.forward(tf.constant(unit, tf.float32), (8, 8)).numpy()
    assert np.abs(y.mean(0)).max() < 0.1 and len(noisy.weights) == 1


def test_adapt_in_chunks_equals_adapt_at_once(monkeypatch):
    from pae_zoo.data import preprocessing_steps

    whole = pre.build_chain(["scale", "standardise"])
    whole.adapt(BYTES)
    monkeypatch.setattr(preprocessing_steps, "_CHUNK", 7)
    parts = pre.build_chain(["scale", "standardise"])
    parts.adapt(BYTES)
    for one, two in zip(whole.weights, parts.weights):
        np.testing.assert_allclose(one, two, rtol=1e-5)
    with pytest.raises(ValueError, match="at least one"):
        pre.build_chain(["centre"]).adapt(BYTES[:0])


def test_constant_pixels_do_not_explode():
    constant = np.zeros((10, 2, 2, 1), np.uint8)
    chain = pre.build_chain(["standardise"], std_floor=0.1)
    chain.adapt(constant)
    np.testing.assert_allclose(chain.forward(tf.ones([1, 2, 2, 1])), 10 * np.ones((1, 2, 2, 1)), rtol=1e-6)
    assert float(chain.log_det(tf.ones([1, 2, 2, 1]))[0]) == pytest.approx(-4 * np.log(0.1), rel=1e-6)


def test_vectors():
    x = RNG.normal(3, 5, (100, 6)).astype(np.float32)
    chain = pre.build_chain(["standardise"])
    chain.adapt(x)
    assert chain.log_det(tf.constant(x)).shape == (100,)
    np.testing.assert_allclose(chain.forward(tf.constant(x)).numpy().std(0), 1, rtol=1e-4)


def test_columns_that_are_no_reals_stay():
    x = np.stack([RNG.normal(3, 5, 100), RNG.poisson(4, 100), RNG.normal(-1, 2, 100)], axis=1).astype(np.float32)
    chain = pre.build_chain(["standardise_real"], which=(True, False, True))
    chain.adapt(x)
    y, log_det = chain.forward_and_log_det(tf.constant(x))
    np.testing.assert_array_equal(y[:, 1], x[:, 1])
    np.testing.assert_allclose(np.std(y, axis=0)[[0, 2]], 1, rtol=1e-4)
    np.testing.assert_allclose(log_det, -np.log(x.std(axis=0)[[0, 2]]).sum(), rtol=1e-4)
    np.testing.assert_allclose(chain.inverse(y), x, rtol=1e-4, atol=1e-5)


def test_binarisation():
    dynamic, threshold = pre.Binarise("dynamic"), pre.Binarise("threshold")
    x = tf.tile(tf.constant([[0.0, 0.3, 0.7, 1.0]]), [20000, 1])
    mean = tf.reduce_mean(dynamic.forward(x, SEED), 0)
    np.testing.assert_allclose(mean, [0, 0.3, 0.7, 1], atol=0.015)
    for layer, seed in ((dynamic, None), (threshold, None), (threshold, SEED)):
        np.testing.assert_array_equal(layer.forward(x, seed)[0], [0, 0, 1, 1])
    assert dynamic.is_stochastic and not threshold.is_stochastic
    assert not np.array_equal(dynamic.forward(x, SEED), dynamic.forward(x, (4, 3)))


@pytest.mark.parametrize("name", list(CHAINS))
def test_value_range_holds(name):
    chain = built(name)
    bounds = chain.value_range()
    if "standardise" in CHAINS[name]:
        assert bounds is None
        return
    low, high = bounds
    ends = tf.stack([tf.zeros([3, 4, 2]), tf.ones([3, 4, 2])])
    for seed in (None, SEED):
        y = chain.forward(ends, seed)
        assert float(tf.reduce_min(y)) >= low - 1e-6 and float(tf.reduce_max(y)) <= high + 1e-6
    assert pre.build_chain(["scale"]).value_range((0.0, 1.0)) == (-0.5, 0.5)


def test_bits_per_dim_of_a_uniform_density_is_8():
    """Acceptance 15: log p = 0 on the unit cube gives 8 exactly."""
    assert pre.bits_per_dim(0.0, 784) == 8.0
    np.testing.assert_array_equal(pre.bits_per_dim(np.zeros(3, np.float32), 784), np.full(3, 8.0))
    assert pre.bits_per_dim(784 * np.log(256.0), 784) == pytest.approx(0.0, abs=1e-12)


@keras.saving.register_keras_serializable("tests")
class Holder(keras.Model):
    """A model that owns a chain as the zoo's models do."""

    def __init__(self, preprocessing, **kwargs):
        super().__init__(**kwargs)
        self.preprocessing = preprocessing

    def build(self, input_shape):
        if not self.built:
            self.preprocessing.build(input_shape)
            self.built = True

    def call(self, x):
        return self.preprocessing.forward(x)

    def get_config(self):
        return {
            **super().get_config(),
            "preprocessing": keras.saving.serialize_keras_object(self.preprocessing),
        }

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("preprocessing")), **config)


@pytest.mark.parametrize("name", list(CHAINS))
def test_statistics_travel_inside_a_keras_file(name, tmp_path):
    model = Holder(built(name))
    y = model(UNIT)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(UNIT), y)
    for one, two in zip(loaded.preprocessing.forward_and_log_det(UNIT, SEED),
                        model.preprocessing.forward_and_log_det(UNIT, SEED)):  # fmt: skip
        np.testing.assert_array_equal(one, two)
    assert not loaded.trainable_weights
    assert [w.shape for w in loaded.weights] == [w.shape for w in model.weights]


def test_works_inside_a_saved_model(tmp_path):
    chain = built("vlae")
    archive = keras.export.ExportArchive()
    archive.track(chain)
    signature = [tf.TensorSpec([None, 3, 4, 2]), tf.TensorSpec([2], tf.int32)]
    archive.add_endpoint("serve", chain.forward_and_log_det, signature)
    archive.write_out(str(tmp_path / "s"), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "s"))
    y, log_det = loaded.serve(UNIT, tf.constant(SEED))
    np.testing.assert_allclose(y, chain.forward(UNIT, SEED), atol=1e-5)
    np.testing.assert_allclose(log_det, chain.log_det(UNIT, SEED), rtol=1e-5)


def test_options_and_bad_names():
    chain = pre.build_chain(["logit", "scale"], margin=1e-3, low=-1.0, high=1.0)
    assert chain.steps[0].margin == 1e-3 and chain.steps[1].low == -1.0
    for names, options, message in (
        (["centr"], {}, "did you mean centre"),
        (["scale"], {"lo": 1}, "preprocessing option=.* is unknown"),
        (["centre", "logit"], {}, r"logit takes values in \[0, 1\]"),
        (["standardise", "binarise_dynamic"], {}, "unbounded"),
        (["logit"], {"margin": 0.7}, "margin"),
        (["scale"], {"low": 1.0, "high": 0.0}, "positive"),
    ):
        with pytest.raises(UserError, match=message):
            pre.build_chain(names, **options)


def test_mixed_precision_leaves_densities_in_float32():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        chain = built("all")
    finally:
        keras.config.set_dtype_policy("float32")
    y, log_det = chain.forward_and_log_det(UNIT)
    assert y.dtype == log_det.dtype == tf.float32 and all(w.dtype == "float32" for w in chain.weights)
