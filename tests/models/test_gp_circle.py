"""gp_circle: what it takes from data, that nothing trains, what it decodes, and its geometry."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import pae_zoo
from pae_zoo.core.errors import UserError
from pae_zoo.data import synthetic
from pae_zoo.experiment import record
from pae_zoo.geometry.gaussian_process import GaussianProcess
from pae_zoo.geometry.manifold import as_manifold
from pae_zoo.models.gp_circle import GPCircle

DATA = synthetic.SYNTHETIC["circle"].sample(np.random.default_rng(0), 400).astype(np.float32)
ROWS = np.linspace(0, 399, 60).astype(int)
CENTRE = np.zeros((1, 2), np.float32)


def make(adapted=True, **changes):
    model = GPCircle.from_parts((2,), **{"num_points": 60, **changes})
    if adapted:
        model.adapt(DATA)
    return model


@pytest.fixture(scope="module")
def model():
    return make()


def test_codes_are_whitened_on_the_ring(model):
    codes = model.codes(DATA[ROWS]).numpy()
    np.testing.assert_allclose(codes.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.cov(codes.T, ddof=0), np.eye(2), atol=1e-4)
    radius = np.linalg.norm(model.codes(DATA), axis=1)
    assert radius.mean() == pytest.approx(np.sqrt(2), rel=0.03) and radius.std() < 0.15
    np.testing.assert_allclose(model.encode(DATA[:3]).mean(), model.codes(DATA[:3]))


def test_the_decoder_is_the_gaussian_process_of_these_codes_and_data(model):
    expected = GaussianProcess(model.codes(DATA[ROWS]), DATA[ROWS])
    z = np.random.default_rng(1).normal(size=(20, 2)).astype(np.float32)
    decoded = model.decode(z)
    np.testing.assert_allclose(decoded.mean(), expected.mean(z), atol=1e-4)
    np.testing.assert_allclose(decoded.variance()[:, 0], expected.variance(z) + 0.01, rtol=1e-4)
    mean, std = model.mean_and_std(z)
    np.testing.assert_allclose(mean, decoded.mean(), atol=1e-5)
    np.testing.assert_allclose(std**2 + 0.01, decoded.variance(), rtol=1e-4)
    for a, b in zip(model.decode_grid(z, 5), (mean, std)):
        np.testing.assert_array_equal(a, b)
    moments = model.predictive(DATA[:5], 3)
    np.testing.assert_allclose(moments["aleatoric_variance"] + moments["epistemic_variance"],
                               model.decode(model.codes(DATA[:5])).variance(), rtol=1e-4)
    assert not np.any(moments["latent_variance"])


def test_the_hole_is_unusual(model):
    on_ring, in_hole = (model.ood_scores(x) for x in (DATA[:200], CENTRE))
    for name in ("reconstruction", "output"):
        assert float(in_hole[name][0]) > np.quantile(on_ring[name], 0.99)
    assert float(model.mean_and_std(CENTRE)[1][0, 0]) > 0.9


def test_nothing_trains():
    model = make()
    assert not model.trainable_variables and not model.trained_variables
    before = [np.array(w) for w in (*model.encoder.weights, *model.decoder.weights)]
    model.compile(jit_compile=False)
    history = model.fit(DATA, epochs=2, batch_size=100, verbose=0, shuffle=False).history
    assert history["loss"][0] == pytest.approx(history["loss"][1], rel=1e-5) and int(model.step) == 8
    for old, new in zip(before, (*model.encoder.weights, *model.decoder.weights)):
        np.testing.assert_array_equal(old, new)
    assert history["nll"][0] == pytest.approx(-float(tf.reduce_mean(model.decode(model.codes(DATA)).log_prob(DATA))),
                                              rel=1e-4)


def test_fit_conditions_a_model_that_has_seen_no_data():
    model = make(adapted=False)
    # Before, it is the process that has seen nothing.
    np.testing.assert_array_equal(model.mean_and_std(CENTRE), [[[0.0, 0.0]], [[1.0, 1.0]]])
    model.compile(jit_compile=False)
    model.fit(DATA, epochs=1, verbose=0)
    assert float(tf.reduce_mean(model.mean_and_std(model.codes(DATA))[1])) < 0.2


def test_saved_factors_keep_their_64_bits(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for mine, theirs in zip(model.layer.process.factors, loaded.layer.process.factors):
        assert theirs.dtype == tf.float64
        np.testing.assert_array_equal(mine, theirs)


def test_its_geometry_is_the_process(model):
    manifold = model.geometry_decoder(3, seed=(0, 1))
    assert as_manifold(manifold) is manifold and manifold.latent_dim == 2
    z = model.codes(DATA[:8])
    np.testing.assert_allclose(manifold.mean(z), model.mean_and_std(z)[0], atol=1e-6)
    # Twice as far in the hole as along the ring, of the same latent distance.
    ring = tf.constant([[[1.4, -0.2], [1.4, 0.2]]])
    hole = tf.constant([[[0.0, -0.2], [0.0, 0.2]]])
    assert float(manifold.segments(hole).expected[0, 0]) > 4 * float(manifold.segments(ring).expected[0, 0])


def test_more_outputs_change_the_geometry_alone(model):
    wide = make(num_outputs=10)
    z = model.codes(DATA[:8])
    np.testing.assert_array_equal(wide.decode(z).variance(), model.decode(z).variance())
    ratio = wide.geometry_decoder().segments(z[None]).variance / model.geometry_decoder().segments(z[None]).variance
    np.testing.assert_allclose(ratio, 5.0, rtol=1e-5)
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(wide)).layer.num_outputs == 10


def test_half_precision_leaves_codes_and_process_whole(model):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = make()
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(half.codes(DATA[:9]), model.codes(DATA[:9]), atol=1e-5)
    codes = model.codes(DATA[:9])
    np.testing.assert_allclose(half.decode_mean(codes), model.decode_mean(codes), atol=1e-5)


@pytest.mark.parametrize("call, words", [
    (lambda: make(num_points=500), "--num_points=500 is more than the 400"),
    (lambda: make(latent_dim=3), "--latent_dim=3.*at most 2"),
    (lambda: make(num_outputs=1), "--num_outputs=1"),
    (lambda: make(length_scale=-1.0), "length_scale=-1.0"),
    (lambda: make(adapted=False).adapt(np.stack([DATA[:, 0], DATA[:, 0]], 1)), "spread in 1 directions"),
    (lambda: GPCircle.from_hparams(record.make("gp_circle", likelihood="bernoulli"), (2,), 1), "likelihood=bernoulli"),
])
def test_bad_input_is_one_clear_line(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_it_is_exported_by_name():
    assert pae_zoo.GPCircle is GPCircle
