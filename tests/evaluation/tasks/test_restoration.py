"""The task restoration: what it measures, draws and refuses, for every kind of likelihood and posterior."""

import csv
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from battery import build, images
from linear_vae import linear_model
from PIL import Image
from scipy.stats import multivariate_normal, norm

from pae_zoo import evaluation
from pae_zoo.core.errors import UserError
from pae_zoo.data import masks
from pae_zoo.evaluation.metrics import coverage
from pae_zoo.evaluation.support import restoring
from pae_zoo.evaluation.support.observing import Noise
from pae_zoo.evaluation.support.restoring import Restorer
from pae_zoo.evaluation.tasks import restoration
from pae_zoo.experiment import record

FEW = dict(restoration_images=6, restoration_starts=2, restoration_draws=12)
COMMON = {"map_log_joint", "encoding_log_joint", "improved", "map_decrement", "not_positive_definite",
          "runs_not_positive_definite", "information_gain", "modes", "evidence", "chi2/q25", "chi2/median", "chi2/q75",
          "chi2/q95", "evidence_gauss_newton"}  # fmt: skip
PARTS = {f"{name}/{part}" for name in ("mse_map", "mse_mean", "std", "predictive_std") for part in ("seen", "hidden")}
JUDGED = ("", "codes/", "simulated/", "simulated/codes/", "knn/", "linear_mixture/")
COMMON |= {f"{whose}{name}{end}" for whose in JUDGED for name in coverage.INTERVALS for end in ("", "_stderr")}
COMMON |= {"knn/mse_mean", "knn/seconds", "linear_mixture/mse_mean", "linear_mixture/seconds",
           "linear_mixture/fit_seconds", "seconds", "simulated/chi2/median"}  # fmt: skip
MOVED = {"acceptance", "jumps"}
BY_BRIGHTNESS = {"restoration/chi2_dark/median", "restoration/chi2_bright/median"}  # as far as there are such pixels


def curved_vae(event_shape=(6, 6, 1), gain=6.0, **flags):
    """A tiny model whose decoder bends, and whose encoder has learned nothing."""
    model = build("vae", event_shape=event_shape, activation="tanh", latent_dim=2, **flags)
    for weight in model.decoder.trainable_weights:
        if weight.shape.rank == 2 and weight.shape[-1] == 12:
            weight.assign(gain * weight)
    return model


@pytest.fixture
def restore(make_context):
    """Returns restore(model, **flags) -> (metrics, context): the task on data that the model itself made."""

    def run(model, flags=None, **context_options):
        shape = model.event_shape
        context = make_context(model, event_shape=shape, **{**FEW, **(flags or {})}, **context_options)
        x = model.sample(40, (1, 2), observation_noise=True).numpy()
        split = dataclasses.replace(context.dataset.test, x=x.astype(np.float32), y=np.arange(40) % 3)
        context.dataset = dataclasses.replace(context.dataset, test=split)
        return evaluation.evaluate(context, ["restoration"]), context

    return run


@pytest.mark.full
def test_metrics_figure_and_table(restore, tmp_path):
    model = curved_vae(scale=0.05, likelihood="gaussian", output="sigmoid")
    found, context = restore(model, dict(mask="columns:0-3", noise=0.05, restoration_images=24))
    assert set(found) - BY_BRIGHTNESS == {f"restoration/{name}" for name in COMMON | PARTS | MOVED}
    assert found["restoration/improved"] > 0.9
    assert found["restoration/map_log_joint"] > found["restoration/encoding_log_joint"]
    assert found["restoration/not_positive_definite"] == 0
    # The model made the data, at the noise that it is told: residuals are as large as it expects, less K of 12
    # degrees of freedom; pixels are clipped to [0, 1] before the noise is added.
    assert 0.5 < found["restoration/chi2/median"] < 1.3
    whole, _ = restore(model, dict(mask="none", noise=0.05, restoration_images=24))
    assert found["restoration/std/hidden"] > whole["restoration/std/seen"]
    assert found["restoration/information_gain"] < whole["restoration/information_gain"]
    again = evaluation.evaluate(context, ["restoration"])
    assert {key: value for key, value in found.items() if "seconds" not in key}.items() <= again.items()
    assert (tmp_path / "figures" / "restoration.png").exists()
    with open(tmp_path / "restoration.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24 and {"index", "label", "mse_map_hidden", "positive_definite"} < set(rows[0])
    mean = np.mean([float(row["log_joint"]) for row in rows])
    assert mean == pytest.approx(found["restoration/map_log_joint"], rel=1e-6)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian_decoder", "gaussian_pixel"])
@pytest.mark.full
def test_other_likelihoods(restore, likelihood):
    preprocess = ("binarise_static",) if likelihood == "bernoulli" else ("dequantise", "logit")
    found, _ = restore(curved_vae(likelihood=likelihood, preprocess=preprocess), dict(mask="pixels:0.5"))
    assert set(found) - BY_BRIGHTNESS == {f"restoration/{name}" for name in COMMON | PARTS | MOVED}
    assert found["restoration/improved"] > 0.8 and np.isfinite(list(found.values())).all()


def half_of_a_line(make_context, **flags):
    """Returns (restorer, weight, bias, seen, x) of a linear model that sees 4 of 7 values of 64 data."""
    model, weight, bias = linear_model()
    context = make_context(model, event_shape=(7,), jit_compile=False)
    options = dataclasses.replace(context.hparams, **{**FEW, "restoration_draws": 800, **flags})
    seen = np.broadcast_to(np.arange(7) < 4, (64, 7))
    restorer = Restorer(context, options, (3, 4))
    return restorer, weight, bias, seen, *restorer.simulated(64)


@pytest.mark.parametrize("posterior", ["moved", "mixture", "laplace"])
def test_the_posterior_of_a_linear_decoder_is_known(make_context, posterior):
    """Quantiles of latents and of hidden values, noise of the decoder included, against the closed form."""
    restorer, weight, bias, seen, u, x = half_of_a_line(make_context, restoration_posterior=posterior)
    found = restorer.restore(x, seen)
    known, hidden = weight[:, :4], weight[:, 4:]
    covariance = np.linalg.inv(np.eye(len(weight)) + known @ known.T / 0.3**2)
    mean = (x[:, :4] - bias[:4]) @ known.T @ covariance / 0.3**2
    std = np.sqrt(np.diag(covariance))
    for index, level in enumerate(coverage.QUANTILES.values()):
        away = np.abs(found.code_quantiles[:, index] - (mean + norm.ppf(level) * std)) / std
        assert away.mean() < 0.2, level
    predictive = np.sqrt(np.einsum("kd,kl,ld->d", hidden, covariance, hidden) + 0.3**2)
    # 800 draws, of 200 chains where they are moved, and noise that the data share.
    np.testing.assert_allclose(found.predictive_std[:, 4:].mean(0), predictive, rtol=0.12)
    centre = mean @ hidden + bias[4:]
    away = np.abs(found.quantiles[:, 0, 4:] - (centre - 1.645 * predictive)) / predictive
    assert away.mean() < 0.2
    shares = coverage.shares(x, np.moveaxis(found.quantiles, 1, 0), ~seen)
    assert abs(shares["coverage_90"] - 0.9) < 4 * shares["coverage_90_stderr"]
    if posterior == "mixture":
        assert found.resampled.all() and found.draws_ess.min() > 200


def test_maxima_of_a_linear_decoder_have_its_precision_and_evidence(make_context):
    restorer, weight, bias, seen, u, x = half_of_a_line(
        make_context, restoration_posterior="laplace", restoration_in_z=True, restoration_draws=12)
    found = restorer.restore(x, seen)
    known = weight[:, :4]
    precision = np.eye(len(weight)) + known @ known.T / 0.3**2
    mean = (x[:, :4] - bias[:4]) @ known.T @ np.linalg.inv(precision) / 0.3**2
    np.testing.assert_allclose(found.hessians[:, 0], np.broadcast_to(precision, found.hessians[:, 0].shape), rtol=1e-3,
                               atol=1e-3)  # fmt: skip
    np.testing.assert_allclose(found.gauss_newtons, found.hessians, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.u[:, 0], mean, atol=1e-3)
    np.testing.assert_allclose(found.z, found.u)  # a vae has no flow
    np.testing.assert_allclose(found.stds[:, 0], np.broadcast_to(np.sqrt(np.diag(np.linalg.inv(precision))),
                                                                 mean.shape), rtol=1e-3)  # fmt: skip
    exact = multivariate_normal(bias[:4], known.T @ known + 0.3**2 * np.eye(4)).logpdf(x[:, :4])
    for name in ("evidence", "evidence_gauss_newton", "evidence_z", "evidence_z_gauss_newton"):
        np.testing.assert_allclose(getattr(found, name), exact, rtol=1e-3, atol=2e-3)
    assert (np.diff(found.log_joint_of_runs, axis=1) <= 0).all() and found.draws_u.shape == (64, 12, len(weight))
    np.testing.assert_allclose(found.weights[:, 0], 1.0, atol=1e-6)
    assert not found.weights[:, 1:].any()


def test_noise_of_a_map_and_of_the_signal(make_context, tmp_path):
    np.save(tmp_path / "map.npy", np.full((6, 6), 0.2))
    model = build("vae", likelihood="gaussian", scale=0.1, preprocess=("scale",))
    flags = dict(noise_map=str(tmp_path / "map.npy"), noise_gain=0.05, **FEW)
    context = make_context(model, event_shape=model.event_shape, **flags)
    restorer = Restorer(context, record.make("vae", **flags), (0, 1))
    outputs = model.decoder_outputs(tf.random.stateless_normal((5, 3), (0, 1)))
    slope = model.preprocess(np.ones((1, 6, 6, 1)))[0] - model.preprocess(np.zeros((1, 6, 6, 1)))[0]
    mean = model.preprocessing.inverse(model.likelihood.mean(outputs)).numpy()
    expected = 0.1**2 + np.square(slope) * (0.2**2 + 0.05 * np.maximum(mean, 0))
    np.testing.assert_allclose(restorer.observation.variance(outputs), expected, rtol=1e-5)
    x = np.full((4000, 6, 6, 1), 0.6, np.float32)
    how = restoration.Corruption(np.ones(x.shape, bool), 0, restorer.noise)
    assert (how.corrupt(x, 0) - x).std() == pytest.approx(np.sqrt(0.2**2 + 0.05 * 0.6), rel=0.01)


def test_a_corruption_has_a_label():
    options = record.make("vae", mask="columns:0-3", noise=0.1, restoration_label="auto")
    assert restoration.label_of(options) == "columns_0-3+noise0.1"
    assert restoration.label_of(record.make("vae", noise=0.1)) == ""
    with pytest.raises(UserError, match="is no word"):
        evaluation.check(record.make("vae", restoration_label="a/b"))


def test_a_mixture_for_a_prior_takes_its_own_curvature(make_context):
    """Two hills far from 0 in the place of N(0, I): what is simulated is covered."""
    restorer, *_ = half_of_a_line(make_context)

    class Hills(tfp.distributions.MixtureSameFamily):
        def precision(self, u):
            return 4.0 * tf.eye(3, batch_shape=tf.shape(u)[:-1])

    centres = np.array([[4.0, 0.0, -3.0], [-4.0, 1.0, 0.0]], np.float32)
    parts = tfp.distributions.MultivariateNormalDiag(centres, 0.5 * np.ones(3, np.float32))
    restorer.model.prior = lambda: Hills(tfp.distributions.Categorical(probs=[0.7, 0.3]), parts)
    restorer = Restorer(restorer.context, restorer.options, (3, 4))
    assert restorer.prior_precision is not None
    u, x = restorer.simulated(64)
    found = restorer.restore(x, np.broadcast_to(np.arange(7) < 2, x.shape))
    shares = coverage.shares(u, np.moveaxis(found.code_quantiles, 1, 0), np.ones(u.shape, bool))
    for name, level in (("coverage_50", 0.5), ("coverage_80", 0.8), ("coverage_90", 0.9)):
        assert abs(shares[name] - level) < 4 * shares[f"{name}_stderr"], name
    assert np.isfinite(found.information_gain).all() and found.information_gain.mean() > 0


def test_draws_are_resampled_only_where_that_leaves_many(restore, capsys, monkeypatch):
    """Eight candidates for each draw never have nine times as many effective ones."""
    monkeypatch.setattr(restoring, "LEAST_EFFECTIVE", 9.0)
    found, _ = restore(curved_vae(likelihood="gaussian"), dict(restoration_posterior="mixture"))
    assert found["restoration/resampled"] == 0.0 and 0 < found["restoration/draws_ess"] <= 8 * 12
    assert "0 of 6 data have enough effective candidates" in capsys.readouterr().err


def test_an_image_that_is_downsampled_comes_back(restore):
    model = curved_vae(scale=0.05, likelihood="gaussian", output="sigmoid")
    found, context = restore(model, dict(downsample=3, noise=0.02, restoration_images=24, restoration_draws=60))
    assert abs(found["restoration/simulated/coverage_90"] - 0.9) < 5 * found["restoration/simulated/coverage_90_stderr"]
    assert 0.1 < found["restoration/simulated/chi2/median"] < 2.0
    assert "restoration/mse_mean/hidden" not in found


def test_block_means_and_their_noise():
    seen = np.ones((500, 6, 6, 1), bool)
    how = restoration.Corruption(seen, 3, Noise(0.2))
    x = np.random.default_rng(0).random((500, 6, 6, 1)).astype(np.float32)
    given = how.corrupt(x, 0)
    assert (given[:, :3, :3] == given[:, :1, :1]).all()
    noise = given[:, ::3, ::3, 0] - x.reshape(500, 2, 3, 2, 3).mean(axis=(2, 4))
    assert noise.std() == pytest.approx(0.2, rel=0.05) and how.counted.all()
    expected = np.repeat(np.repeat([[0, 1], [2, 3]], 3, axis=0), 3, axis=1)
    np.testing.assert_array_equal(how.blocks.reshape(6, 6), expected)


@pytest.mark.full
def test_nuts_adds_its_diagnostics(restore):
    flags = dict(restoration_posterior="nuts", restoration_draws=100, mask="none", restoration_images=3)
    found, _ = restore(curved_vae(likelihood="gaussian", scale=0.3), flags, jit_compile=False)
    assert 0.9 < found["restoration/r_hat_max"] < 1.3 and found["restoration/ess_min"] > 20
    assert found["restoration/divergences"] <= 6
    assert "restoration/mse_map/hidden" not in found and "restoration/mse_map/seen" in found


def test_vectors_are_masked_at_random(restore, tmp_path):
    model = curved_vae(event_shape=(9,), likelihood="gaussian", scale=0.1)
    found, context = restore(model, dict(restoration_label="b"))
    assert found["restoration/mse_map/hidden@b"] > 0 and all(key.endswith("@b") for key in found)
    with np.load(context.run.workdir / "restoration@b.npz") as file:
        assert file["u"].shape == file["z"].shape == (6, 3, 2) and file["draws_u"].shape == (6, 12, 2)
    pictures = {"restoration_latents@b", "restoration_modes@b"}
    assert pictures == {path.stem for path in (tmp_path / "figures").iterdir()}
    assert not (tmp_path / "figures" / "restoration.png").exists()


def test_pictures_equal_the_models_own(make_context):
    """Maximum, evidence and draws against the problem put together by hand."""
    model = curved_vae(likelihood="gaussian", scale=0.1, preprocess=("dequantise", "scale"))
    context = make_context(model, event_shape=model.event_shape, jit_compile=False)
    x = images(5)
    seen = masks.make(masks.parse("rows:0-1"), model.event_shape, 5)
    options = dataclasses.replace(context.hparams, **FEW, noise=0.2)
    restorer = Restorer(context, options, (3, 4))
    found = restorer.restore(x, seen)
    # Noise of 0.2 in x is 0.2 * 255 / 256 in y, for "scale" only shifts.
    np.testing.assert_allclose(restorer.observation.noise, 0.2 * 255 / 256, rtol=1e-5)
    problem = restorer.problem(tf.constant(x), seen)
    u = np.zeros((5, 2), np.float32)
    y, mean = model.preprocess(x)[0].numpy(), model.likelihood.mean(model.decoder_outputs(tf.constant(u))).numpy()
    variance = 0.1**2 + (0.2 * 255 / 256) ** 2
    terms = -0.5 * ((y - mean) ** 2 / variance + np.log(2 * np.pi * variance))
    expected = (terms * seen).sum(axis=(1, 2, 3)) + model.prior().log_prob(u).numpy()
    np.testing.assert_allclose(problem.log_joint(tf.constant(u)), expected, rtol=1e-4)
    assert (found.log_joint >= expected).all() and found.draws.shape == (5, 10, 6, 6, 1)
    # Data do not see one another.
    alone = restorer.restore(x[3:4], seen[3:4])
    np.testing.assert_allclose(alone.log_joint, found.log_joint[3:4], rtol=1e-5)
    np.testing.assert_allclose(alone.map, found.map[3:4], atol=2e-3)


@pytest.mark.parametrize("name, words", [
    ("ae", "no density over its latent space"), ("ensemble_vae", "MemberMixture is a mixture")])  # fmt: skip
def test_what_a_model_lacks_is_unsupported(make_context, capsys, name, words):
    model = build(name)
    found = evaluation.evaluate(make_context(model, event_shape=model.event_shape), ["restoration"])
    assert found == {"restoration": "unsupported"}
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("flags, model_flags, words", [
    (dict(mask="columns:0-6"), {}, "reaches beyond the images of 6x6"),
    (dict(mask="columns:0-5"), {}, "hides everything"),
    (dict(mask="left"), {}, "is not understood"),
    (dict(noise=0.1), dict(likelihood="bernoulli"), "has no Gaussian noise to add to"),
    (dict(noise=0.1), dict(preprocess=("dequantise", "logit")), "is not affine"),
    (dict(noise_map="no.npy"), {}, "no.npy"),
    (dict(noise_map="no.npy", noise=0.1), {}, "leave one out"),
    (dict(downsample=3, noise_gain=0.1), {}, "noise of one std"),
    (dict(downsample=4), {}, "not images of whole blocks of 4x4"),
    (dict(downsample=3), dict(likelihood="bernoulli"), "has no Gaussian means"),
])  # fmt: skip
def test_bad_input(make_context, flags, model_flags, words):
    model = build("vae", **model_flags)
    context = make_context(model, event_shape=model.event_shape, **flags)
    with pytest.raises(UserError, match=words):
        evaluation.evaluate(context, ["restoration"])


def test_the_grammar_of_masks():
    def hidden(text, shape=(4, 5, 3), num=2):
        return ~masks.make(masks.parse(text), shape, num)

    assert hidden("none").sum() == 0
    columns = hidden("columns:1-2")
    assert columns[:, :, 1:3].all() and columns.sum() == 2 * 4 * 2 * 3
    assert hidden("rows:3")[:, 3].all() and hidden("rows:3").sum() == 2 * 5 * 3
    rectangle = hidden("rectangle:1,0,2,4")
    assert rectangle[:, 1:3, :4].all() and rectangle.sum() == 2 * 8 * 3
    random = hidden("pixels:0.75")
    np.testing.assert_array_equal(random.all(axis=-1).sum(axis=(1, 2)), 15)
    np.testing.assert_array_equal(random.any(axis=-1), random.all(axis=-1))
    assert not np.array_equal(random[0], random[1])
    assert hidden("pixels:0.99", (3,)).sum() == 4  # one value of three is left
    assert masks.default((28, 28, 1)).text == "columns:0-13" and masks.default((7,)).text == "pixels:0.5"
    first, second = (masks.make(masks.parse("pixels:0.5"), (8, 8, 1), 2, seed) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_masks_from_files(tmp_path):
    one = np.ones((4, 5), np.uint8)
    one[:, :2] = 0
    each = np.stack([one, 1 - one, np.ones_like(one)])
    np.save(tmp_path / "one.npy", one)
    np.savez(tmp_path / "each.npz", mask=each, other=one)
    Image.fromarray(255 * one).save(tmp_path / "one.png")
    for name in ("one.npy", "one.png"):
        seen = masks.make(masks.parse(f"{tmp_path}/{name}"), (4, 5, 3), 2)
        np.testing.assert_array_equal(seen, np.broadcast_to(one[..., None] > 0, (2, 4, 5, 3)))
    seen = masks.make(masks.parse(f"{tmp_path}/each.npz"), (4, 5, 1), 3)
    np.testing.assert_array_equal(seen[..., 0], each > 0)
    np.save(tmp_path / "vector.npy", np.array([1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(masks.make(masks.parse(f"{tmp_path}/vector.npy"), (3,), 2)[1], [True, False, True])


@pytest.mark.parametrize("text, words", [
    ("columns:3-1", "is not understood"), ("columns:-1-3", "is not understood"), ("pixels:1.0", "is not understood"),
    ("pixels:", "is not understood"), ("rectangle:0,0,2", "is not understood"), ("rectangle:0,0,0,2", "is not under"),
    ("rows:0-9", "rows and columns count from 0"), ("rows:0-3", "hides everything"), ("{tmp}/no.npy", "does not exist"),
    ("{tmp}/small.npy", r"has the shape 2x2; needed: 4x5x1 or 4x5"), ("{tmp}/grey.npy", "other values than 0"),
    ("{tmp}/zero.npy", "hides everything"), ("{tmp}/each.npy", "hides everything of datum 1"),
    ("{tmp}/object.npy", "pickle"), ("{tmp}/broken.npz", "not a readable"), ("{tmp}/two.npz", "name the array"),
    ("{tmp}/nan.npy", "not finite"), ("{tmp}/broken.png", "not a readable"),
])  # fmt: skip
def test_bad_masks_are_refused(tmp_path, text, words):
    each = np.ones((2, 4, 5))
    each[1] = 0
    arrays = dict(small=np.ones((2, 2)), grey=np.full((4, 5), 0.5), zero=np.zeros((4, 5)), each=each,
                  object=np.array([None]), nan=np.full((4, 5), np.nan))
    for name, values in arrays.items():
        np.save(tmp_path / f"{name}.npy", values, allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.ones((4, 5)), b=np.ones((4, 5)))
    for name in ("broken.npz", "broken.png"):
        (tmp_path / name).write_bytes(b"not a file of its kind")
    with pytest.raises(UserError, match=words):
        masks.make(masks.parse(text.format(tmp=tmp_path)), (4, 5, 1), 2)


def test_regular_masks_are_for_images():
    with pytest.raises(UserError, match="vectors of 7 values take"):
        masks.make(masks.parse("rows:1-2"), (7,), 2)
