"""Preprocessing of reals: round trips, log_det against autodiff, statistics by SciPy, saving, units of densities."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from battery import build
from tiers import some

from pae_zoo import data, networks
from pae_zoo.core.errors import UserError
from pae_zoo.data import preprocessing as pre
from pae_zoo.models import vae

RNG = np.random.default_rng(0)
N = 2000
TABLE = np.stack([
    RNG.normal(5e-7, 1e-7, N), RNG.normal(-3e5, 1e5, N), RNG.lognormal(0, 2, N), RNG.standard_t(2, N),
    RNG.integers(0, 2, N), RNG.poisson(3, N), np.where(RNG.random(N) < 0.7, 0, RNG.gamma(2, 9, N)), np.full(N, 4.0),
], axis=1).astype(np.float32)  # fmt: skip
STEPS = {"standardise": ["standardise"], "robust": ["robust"], "minmax": ["minmax"], "log1p": ["log1p"],
         "quantile": ["quantile"], "log1p,robust": ["log1p", "robust"]}  # fmt: skip


def built(name, x=TABLE):
    chain = pre.build_chain(STEPS[name], std_floor=0.0)
    chain.adapt(x)
    return chain


@pytest.mark.parametrize("name", STEPS)
def test_inverse_and_log_det(name):
    """y -> x -> y, and the determinant of the Jacobian; data beyond those of the training too, and eager as XLA."""
    chain, x = built(name), np.concatenate([TABLE[:40], TABLE[:4] * 3 - TABLE[4:8]])
    y, log_det = chain.forward_and_log_det(tf.constant(x))
    assert np.isfinite(y).all() and np.isfinite(log_det).all()
    spread = np.abs(TABLE).max(axis=0)
    np.testing.assert_allclose(chain.inverse(y) / spread, x / spread, atol=3e-5)
    double = tf.constant(x, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(double)
        y64, log_det64 = chain.forward_and_log_det(double)
    slopes = tape.gradient(y64, double)  # values map one by one: the Jacobian is diagonal
    np.testing.assert_allclose(log_det64, np.log(slopes).sum(axis=1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(log_det, log_det64, rtol=1e-4, atol=1e-3)
    compiled = tf.function(chain.forward_and_log_det, jit_compile=True, autograph=False)
    np.testing.assert_allclose(compiled(double)[0], y64, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", some(list(STEPS), ["quantile", "robust"]))
def test_saved_is_loaded(name, tmp_path):
    chain = built(name)
    model = keras.Sequential([keras.Input((TABLE.shape[1],)), chain])
    model.save(tmp_path / "chain.keras")
    loaded = keras.saving.load_model(tmp_path / "chain.keras")
    np.testing.assert_array_equal(loaded(TABLE[:9]), model(TABLE[:9]))


def test_statistics():
    y = built("robust").forward(TABLE).numpy()
    varying = [0, 1, 2, 3, 5]
    np.testing.assert_allclose(np.median(y[:, varying], axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(scipy.stats.iqr(y[:, varying], axis=0), 1.349, rtol=1e-3)
    y = built("minmax").forward(TABLE).numpy()[:, :-1]
    np.testing.assert_allclose([y.min(axis=0), y.max(axis=0)], [[0] * 7, [1] * 7], atol=1e-6)
    y = built("standardise").forward(TABLE).numpy()[:, :-1]
    np.testing.assert_allclose([y.mean(axis=0), y.std(axis=0)], [[0] * 7, [1] * 7], atol=1e-3)
    np.testing.assert_allclose(built("log1p").forward(TABLE)[:, 2], np.log1p(TABLE[:, 2]), rtol=1e-5)
    for name in STEPS:  # a constant is no reason to explode
        assert np.ptp(built(name).forward(TABLE).numpy()[:, -1]) == 0


def test_quantiles_make_columns_normal():
    """Continuous columns pass for normal ones, whatever they were; the map is close to the exact normal scores."""
    y = built("quantile").forward(TABLE).numpy()
    for column in (0, 1, 2, 3):
        assert scipy.stats.kstest(y[:, column], "norm").statistic < 0.02
        scores = scipy.stats.norm.ppf((scipy.stats.rankdata(TABLE[:, column]) - 0.5) / N)
        inner = np.abs(scores) < 1.5
        np.testing.assert_allclose(y[inner, column], scores[inner], atol=0.1)
    assert len(np.unique(y[:, 4])) == 2 and np.ptp(y[:, 4]) < 3  # two values are standardised


@pytest.mark.parametrize("name", STEPS)
def test_densities_integrate_to_one(name):
    """exp(log N(f(x)) + log_det) over x, by the trapezoid rule on a grid that is dense where the data are."""
    sample = np.sort(RNG.normal(2, 3, 3000)).astype(np.float32)[:, None]
    chain = built(name, sample)
    grid = np.linspace(-200, 200, 400_001, dtype=np.float32)[:, None]
    y, log_det = chain.forward_and_log_det(tf.constant(grid))
    density = np.exp(scipy.stats.norm.logpdf(y.numpy()[:, 0]) + log_det.numpy())
    assert np.trapezoid(density, grid[:, 0]) == pytest.approx(1, abs=2e-3)


def test_log_probabilities_are_in_the_units_of_the_data():
    """The same data in other units: densities differ by log of the unit for each column, and by nothing else."""
    x = TABLE[:256, :3] * [1e6, 1e-5, 1]
    found = {}
    for unit in (1.0, 1e-6, 1e4):
        encoder = networks.build_encoder("mlp", (3,), 2, hidden_units=(8,))
        decoder = networks.build_decoder("mlp", (3,), 2, hidden_units=(8,))
        model = vae.VAE(encoder, decoder, preprocessing=pre.build_chain(["standardise"], std_floor=0.0), seed=0)
        model.adapt((x * unit).astype(np.float32))
        found[unit] = model.elbo((x * unit).astype(np.float32), (0, 1)).numpy()
    for unit in (1e-6, 1e4):
        np.testing.assert_allclose(found[unit], found[1.0] - 3 * np.log(unit), atol=2e-3)


def test_images_of_reals_are_neither_refused_nor_clipped(tmp_path):
    """With a step that says so images leave [0, 1], in files, in `fit` and in reconstructions; without one they are
    refused with the remedy."""
    x = RNG.normal(40, 20, (30, 4, 4, 1)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(UserError, match="--preprocess=reals,standardise"):
        data.load(tmp_path / "x.npy")
    loaded = data.load(tmp_path / "x.npy", reals=True)
    assert loaded.info.value_range == "reals" and loaded.event_shape == (4, 4, 1)
    for names in (["reals", "standardise"], ["robust"]):
        assert pre.takes_reals(names)
        model = build("vae", (4, 4, 1), preprocess=tuple(names))
        assert not model.takes_pixels
        model.compile("adam", jit_compile=False)
        model.fit(loaded.train.x, epochs=1, verbose=0)
        assert np.abs(model(loaded.test.x)).max() > 2
    assert build("vae", (4, 4, 1)).takes_pixels
    for names in (["reals", "logit"], ["robust", "dequantise"]):
        with pytest.raises(UserError, match="takes values in"):
            pre.build_chain(names)
    assert pre.build_chain(["none"]).steps == []
    with pytest.raises(UserError, match="'none'"):
        pre.build_chain(["none", "centre"])
