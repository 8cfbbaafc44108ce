"""pae: two stages, spaces, scores, what --init_workdir reuses."""

import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, LATENT_DIM, build, hparams, images

import pae_zoo
from pae_zoo import densities, flows, inference, main
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import launch
from pae_zoo.experiment.workdir import Run
from pae_zoo.models import pae as pae_lib

BEFORE = Path(__file__).resolve().parents[1] / "fixtures" / "before" / "pae"


def call(*argv):
    return launch.run(main.main, list(argv))


@pytest.fixture(scope="module")
def model():
    """A tiny pae, both stages trained by plain `fit`."""
    made = build("pae", density="flow", density_components=0, flow_epochs=3, flow_learning_rate=1e-2)
    made.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    made.fit(images(256), epochs=4, batch_size=32, verbose=0)
    return made


def test_fit_runs_both_stages(model):
    # Without validation data a tenth of the codes judges the epochs of the flow.
    assert int(model.step) == 32 and int(model.flow.step) == 3 * ((256 - 25) // 16)
    assert int(model.flow.adapted) == 1
    residual = np.asarray(model(images(256))) - images(256)
    expected = np.maximum(np.sqrt(np.mean(residual**2, axis=0)), model.likelihood.min_scale)
    np.testing.assert_allclose(model.likelihood.scale, expected, rtol=1e-3)  # measured between the stages


def test_unknown_flow_settings_are_refused():
    made = build("pae")
    with pytest.raises(UserError, match="clip_norm.*received.*'rate'"):
        pae_zoo.PAE(made.encoder, made.decoder, flow_settings={"rate": 1.0})


def test_the_first_stage_leaves_the_flow_alone():
    made = build("pae")
    made.compile("adam", jit_compile=False)
    before = [np.array(v) for v in made.flow.variables]
    made.update(tf.constant(images(16)))
    for old, new in zip(before, made.flow.variables):
        np.testing.assert_array_equal(old, new)
    assert len(made.trained_variables) + len(made.flow.trainable_variables) == len(made.trainable_variables)


def test_the_flow_has_the_layers_that_the_flags_name():
    assert build("pae", flow=("lu", "spline", "swap", "affine")).flow.layer_names == ["lu", "spline", "swap", "affine"]
    assert build("pae", flow=("realnvp",), flow_depth=3).flow.layer_names == ["lu", "affine"] * 3


def test_spaces_are_consistent(model):
    """A12: the joints of u and z space differ by log |det dF/du|; F and its inverse cancel."""
    u = model.prior().sample(20, seed=(0, 1))
    z, log_det = model.flow.forward(u)
    # The codes of these images almost lie on a plane: whitening multiplies their rounding by up to a thousand.
    np.testing.assert_allclose(model.base_from_latent(z), u, atol=5e-3)
    np.testing.assert_allclose(model.latent_from_base(u), z, atol=1e-6)
    np.testing.assert_allclose(model.log_prob_latent(z), model.prior().log_prob(u) - log_det, atol=2e-2)


def test_scores_are_what_their_names_say(model):
    x = images(9, seed=5)
    scores = model.ood_scores(x)
    z, y = model.codes(x), model.preprocess(x)[0]
    log_likelihood = model.decode(z).log_prob(y)
    np.testing.assert_allclose(scores["latent_density"], -model.flow.log_prob(z), rtol=1e-5)
    np.testing.assert_allclose(scores["reconstruction"], -log_likelihood, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(scores["joint"], scores["latent_density"] + scores["reconstruction"], rtol=1e-5)
    np.testing.assert_allclose(scores["gaussian_density"], -model.gaussian_log_prob(z), rtol=1e-5)
    residual = (np.asarray(y) - np.asarray(model(x))).reshape(9, -1)
    np.testing.assert_allclose(scores["squared_error"], (residual**2).sum(1), rtol=1e-4)


def robust_z(values, reference):
    low, median, high = np.quantile(reference, (0.25, 0.5, 0.75))
    return (values - median) / ((high - low) / 1.349)


def test_sums_of_scores_are_in_units_of_their_spread(model, tmp_path):
    """Plain `fit` measures the spread last, on training data where no others are held out; it is saved."""
    of_both, x = model.ood_scores(images(256)), images(9, seed=5)
    scores = {name: np.asarray(values) for name, values in model.ood_scores(x).items()}
    latent = robust_z(scores["latent_density"], of_both["latent_density"])
    error = robust_z(np.log(scores["squared_error"]), np.log(of_both["squared_error"]))
    np.testing.assert_allclose(scores["typical"], latent + error, rtol=1e-3, atol=1e-3)

    def weighted(x):
        residual = np.asarray(model.preprocess(x)[0]) - np.asarray(model(x))
        return np.log(np.square(residual / np.asarray(model.likelihood.scale)).sum(axis=(1, 2, 3)))

    weights = robust_z(weighted(x), weighted(images(256)))
    np.testing.assert_allclose(scores["either"], np.logaddexp(latent, weights), rtol=1e-3, atol=1e-3)
    model.save(tmp_path / "a.keras")
    again = keras.saving.load_model(tmp_path / "a.keras")
    np.testing.assert_allclose(again.ood_scores(x)["either"], scores["either"], rtol=1e-5)
    assert not again.score_notes()


def test_a_model_that_has_measured_nothing_leaves_them_out(tmp_path):
    made = build("pae")
    assert {"typical", "either"} & set(made.ood_scores(images(3))) == set()
    assert "measure_scores(x)" in made.score_notes()[0]
    made.measure_scores(images(40))
    assert {"typical", "either"} < set(tf.function(made.ood_scores)(images(3)))


def test_the_count_of_weights_is_that_of_before():
    """A run of before notes it, and is read no more where it differs."""
    made = build("pae")
    assert made.count_params() == sum(int(np.prod(v.shape)) for v in made.weights) - 6


def test_a_file_of_before_loads_without_the_spread():
    loaded = keras.saving.load_model(BEFORE / "saved.keras")
    assert not loaded.robust_scores.measured
    assert "typical" not in loaded.ood_scores(np.load(BEFORE / "expected.npz")["x"])


def test_the_gaussian_has_the_moments_of_the_codes():
    from scipy.stats import multivariate_normal

    generator = np.random.default_rng(0)
    codes = generator.normal(size=(400, LATENT_DIM)) @ generator.normal(size=(LATENT_DIM, LATENT_DIM)) + 3.0
    made = build("pae")
    made.flow.adapt(codes.astype(np.float32))
    expected = multivariate_normal(codes.mean(0), np.cov(codes.T, bias=True)).logpdf(codes[:50])
    np.testing.assert_allclose(made.gaussian_log_prob(codes[:50].astype(np.float32)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.full
def test_gaussian_pixel_map_is_measured_on_validation(tmp_path):
    workdir = tmp_path / "run"
    assert call("--model=pae", "--smoke", "--nojit_compile", "--latent_dim=2", f"--workdir={workdir}") == 0
    loaded = keras.saving.load_model(workdir / "model.keras")
    x = pae_zoo.data.load("digits", num_train=256).valid.x
    residual = loaded.preprocess(x)[0] - loaded.likelihood.mean(loaded.decoder_outputs(loaded.codes(x)))
    expected = np.maximum(np.sqrt(np.mean(np.square(residual), axis=0)), loaded.likelihood.min_scale)
    np.testing.assert_allclose(loaded.likelihood.scale, expected, rtol=1e-4)


@pytest.mark.parametrize("space", pae_lib.SPACES)
@pytest.mark.full
def test_interpolations_hold_both_ends(model, space):
    a, b = images(3, seed=1), images(3, seed=2)
    frames = model.interpolate(a, b, num=5, space=space)
    assert frames.shape == (3, 5, *EVENT_SHAPE)
    np.testing.assert_allclose(frames[:, 0], model.decode_mean(model.codes(a)), atol=1e-3)
    np.testing.assert_allclose(frames[:, -1], model.decode_mean(model.codes(b)), atol=1e-3)
    same = model.interpolate(a, a, num=3, space=space)
    np.testing.assert_allclose(same[:, 1], same[:, 0], atol=1e-3)


def test_the_straight_line_in_u_is_straight(model):
    a, b = images(2, seed=1), images(2, seed=2)
    u = 0.5 * (model.base_from_latent(model.codes(a)) + model.base_from_latent(model.codes(b)))
    expected = model.decode_mean(model.latent_from_base(u))
    np.testing.assert_allclose(model.interpolate(a, b, num=3)[:, 1], expected, atol=1e-4)


def test_an_unknown_space_is_refused(model):
    with pytest.raises(UserError, match="u_spherical"):
        model.interpolate(images(1), images(1), space="w")


def test_manifold_density_of_a_linear_decoder():
    """With g(z) = A z + b the density of the surface is log p(z) - 1/2 log det A'A."""
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(LATENT_DIM, 36)).astype(np.float32)
    encoder = keras.Sequential([keras.Input(EVENT_SHAPE), keras.layers.Flatten(), keras.layers.Dense(LATENT_DIM)])
    decoder = keras.Sequential(
        [keras.Input((LATENT_DIM,)), keras.layers.Dense(36), keras.layers.Reshape(EVENT_SHAPE)])
    decoder.layers[0].set_weights([matrix, np.zeros(36, np.float32)])
    linear = pae_zoo.PAE(encoder, decoder)
    x = images(4)
    expected = linear.log_prob_latent(linear.codes(x)) - 0.5 * np.linalg.slogdet(matrix @ matrix.T)[1]
    np.testing.assert_allclose(linear.log_density_manifold(x), expected, rtol=1e-4, atol=1e-3)
    matrix[1] = 0.0  # a flat direction
    decoder.layers[0].set_weights([matrix, np.zeros(36, np.float32)])
    assert np.all(np.isposinf(linear.log_density_manifold(x)))
    x[2] = np.nan
    np.testing.assert_array_equal(np.isnan(linear.log_density_manifold(x)), [False, False, True, False])


def test_codes_that_are_not_finite_are_refused():
    made = build("pae", activation="tanh")  # relu turns NaN into 0
    broken = images(8)
    broken[3] = np.nan
    with pytest.raises(UserError, match="1 of 8 codes are not finite"):
        made.stage_codes(broken)


def test_a_flow_of_another_size_is_refused():
    made = build("pae")
    with pytest.raises(UserError, match="2 dimensions.*3 latents"):
        pae_zoo.PAE(made.encoder, made.decoder, flow=flows.Flow(2, depth=1, hidden_units=(4,)))


# ---- posteriors go through the flow ----------------------------------------------------------------------------


def problems(model, x, seen):
    """The posterior problems of x in base space and in latent space."""
    y = model.preprocess(x)[0]
    observation = inference.Gaussian(model.likelihood.mean, model.likelihood.variance)
    prior = model.prior().log_prob

    def decode(u):
        return model.decoder_outputs(model.latent_from_base(u))

    base = inference.Problem(prior, decode, observation, y, seen)
    return base, inference.Problem(model.log_prob_latent, model.decoder_outputs, observation, y, seen)


@pytest.mark.full
def test_joints_in_both_spaces_differ_by_the_log_determinant(model):
    """A12: log p(x, z) = log p(x, u) - log |det dF/du|; Fisher informations are congruent through dF/du."""
    x, seen = images(5, seed=3), np.arange(36).reshape(EVENT_SHAPE) % 2 == 0
    base, latent = problems(model, x, seen)
    u = model.prior().sample(5, seed=(0, 1))
    z, log_det = model.flow.forward(u)
    np.testing.assert_allclose(latent.log_joint(z), base.log_joint(u) - log_det, rtol=1e-4, atol=2e-2)
    jacobian = tf.transpose(inference.derivatives.jacobian(model.latent_from_base, u), (1, 2, 0))  # (n, z, u)
    expected = tf.matmul(jacobian, tf.matmul(latent.fisher(z), jacobian), transpose_a=True)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(base.fisher(u), expected, atol=2e-3 * scale)


@pytest.mark.full
def test_the_posterior_of_a_masked_image_uses_the_flow(model):
    """A14: without the flow the masked posterior would be another one."""
    x, seen = images(3, seed=3), np.arange(36).reshape(EVENT_SHAPE) < 18
    base, _ = problems(model, x, seen)
    without = inference.Problem(base.log_prior, model.decoder_outputs, base.observation, base.y, seen)
    u = model.prior().sample(3, seed=(0, 1))
    assert np.abs(base.log_joint(u) - without.log_joint(u)).min() > 1.0


# ---- stage 1 from another run --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    """A finished smoke run of vae with networks of its own size."""
    workdir = tmp_path_factory.mktemp("first") / "vae"
    flags = ["--model=vae", "--smoke", "--nojit_compile", "--latent_dim=3", "--hidden_units=20,10", "--num_train=200"]
    assert call(*flags, f"--workdir={workdir}") == 0
    return workdir


def test_init_workdir_takes_the_place_of_the_first_stage(first_stage, tmp_path, capsys):
    flags = ["--model=pae", "--smoke", "--nojit_compile", "--density=flow", "--tasks=density",
             f"--init_workdir={first_stage}"]
    assert call(*flags, f"--workdir={tmp_path / 'pae'}") == 0
    before, after = (Run(path).load_model() for path in (first_stage, tmp_path / "pae"))
    pairs = zip(after.encoder.weights + after.decoder.weights, before.encoder.weights + before.decoder.weights)
    for mine, theirs in pairs:
        np.testing.assert_array_equal(mine, theirs)
    metrics = json.loads((tmp_path / "pae" / "metrics.json").read_text())
    assert metrics["train/steps"] == 0 and metrics["flow/steps"] > 0 and "density/model/nll" in metrics
    config = json.loads((tmp_path / "pae" / "config.json").read_text())["hparams"]
    assert config["latent_dim"] == 3 and config["num_train"] == 200 and config["likelihood"] == "gaussian_pixel"
    capsys.readouterr()
    assert call(*flags, f"--workdir={tmp_path / 'pae'}") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_a_first_stage_of_another_shape_is_refused_in_one_line(first_stage, tmp_path, capsys):
    flags = ["--model=pae", "--smoke", f"--init_workdir={first_stage}", f"--workdir={tmp_path / 'run'}"]
    for wrong in ("--latent_dim=5", "--hidden_units=7", "--dataset=circle"):
        assert call(*flags, wrong) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert len(lines) == 1 and "does not fit" in lines[0]
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong,expected", [
    ("--flow=lu,splnie", "spline"), ("--flow=swap --latent_dim=1", "2 or more"), ("--flow_bins=1", "at least 2"),
])  # fmt: skip
def test_a_bad_flow_is_refused_in_one_line(wrong, expected, tmp_path, capsys):
    assert call("--model=pae", "--smoke", *wrong.split(), f"--workdir={tmp_path / 'run'}") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and expected in lines[0], lines
    assert not (tmp_path / "run").exists()


# ---- code noise ----------------------------------------------------------------------------------------------


def test_code_noise_perturbs_training_only():
    params = hparams("ae")
    noisy, plain = build("ae", code_noise=1.0), build("ae")
    x, seed = tf.constant(images(8)), (1, 2)
    assert params.code_noise == 0.0
    np.testing.assert_array_equal(noisy.objective(x, seed, False)["loss"], plain.objective(x, seed, False)["loss"])
    assert np.abs(noisy.objective(x, seed, True)["loss"] - plain.objective(x, seed, True)["loss"]).max() > 1e-3


def test_dataclass_defaults():
    assert {f.name: f.default for f in dataclasses.fields(pae_lib.HParams)}["likelihood"] == "gaussian_pixel"


# ---- densities of the codes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", densities.NAMES)
def test_every_density_is_fitted_by_plain_fit(density):
    """The prior is the density's base, log p(z) its own; a mixture has the components that were asked for."""
    components = {"density_components": 2 if density in densities.WITH_MIXTURE else 0}
    made = build("pae", density=density, **components)
    made.compile("adam", jit_compile=False, run_eagerly=True)
    made.flow_settings["epochs"] = 1
    made.fit(images(60), epochs=1, batch_size=30, verbose=0)
    z = made.codes(images(5, seed=2))
    u, log_det = made.flow.inverse(z)
    np.testing.assert_allclose(made.log_prob_latent(z), made.prior().log_prob(u) + log_det, rtol=1e-4, atol=1e-4)
    assert made.sample(3, seed=(0, 1)).shape == (3, *EVENT_SHAPE) and int(made.flow.adapted) == 1
    if components["density_components"]:
        assert made.flow.base.fitted_components == 2


def test_covariances_of_factors_are_asked_for_by_a_flag():
    size = {"latent_dim": 4, "density": "student_mixture", "density_components": 2}
    assert build("pae", density_factors=2, **size).flow.base.num_factors == 2
    assert build("pae", **size).flow.base.num_factors == 0
    assert build("pae", **{**size, "latent_dim": 65}).flow.base.num_factors == 16


def test_a_stage_goes_on_from_the_mixture_that_was_fitted(first_stage, tmp_path, monkeypatch, capsys):
    """A run that ended after EM, or in a later epoch, fits no mixture again and ends as the one that did not stop."""
    monkeypatch.setattr("pae_zoo.densities.training.LAYERS_FROM", 0)
    calls, fit = [], densities.Mixture.fit
    monkeypatch.setattr(densities.Mixture, "fit", lambda self, *args: calls.append(1) or fit(self, *args))
    flags = ["--model=pae", "--smoke", "--nojit_compile", "--flow_depth=1", "--flow_units=8", "--flow_epochs=2",
             "--tasks=reconstruction", f"--init_workdir={first_stage}"]
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert call(*flags, f"--workdir={whole}") == 0
    assert "flow: components" in capsys.readouterr().out and len(calls) == 1
    shutil.copytree(whole, again)
    for name in ("metrics.json", "model.keras", "metrics_flow.jsonl", "checkpoints/flow_last.npz",
                 "checkpoints/flow_best.npz"):
        (again / name).unlink()
    assert call(*flags, f"--workdir={again}") == 0
    assert len(calls) == 1
    for mine, theirs in zip(Run(again).load_model().weights, Run(whole).load_model().weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_few_codes_take_no_steps_and_are_told(first_stage, tmp_path, capsys):
    flags = ["--model=pae", "--smoke", "--nojit_compile", "--tasks=reconstruction", f"--init_workdir={first_stage}"]
    assert call(*flags, f"--workdir={tmp_path / 'run'}") == 0
    assert "training data are fewer than 5000: no steps are taken" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["flow/steps"] == 0 and metrics["flow/components"] >= 1


def test_components_of_a_density_without_them_are_refused_in_one_line(tmp_path, capsys):
    flags = ["--model=pae", "--smoke", "--density=flow", "--density_components=3", f"--workdir={tmp_path / 'r'}"]
    assert call(*flags) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and "has no components" in lines[0] and not (tmp_path / "r").exists()
