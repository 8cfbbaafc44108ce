"""The post-hoc Laplacian autoencoder: its fit, its scales, its start from another run."""

import battery
import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import build, images
from scipy import stats
from tiers import some

from pae_zoo import curvature
from pae_zoo.core.errors import UserError
from pae_zoo.curvature.predictive import linearised
from pae_zoo.models.bayesian import BayesianAE
from pae_zoo.models.lae import LAE
from pae_zoo.models.lae_posthoc import LAEPosthoc

STRUCTURES = ("diag", "block", "kron", "low_rank", "last_layer")


def small(**changes):
    """A small model with the diagonal of the curvature, and predictions by draws."""
    return build("lae_posthoc", **{"hidden_units": (6,), "latent_dim": 2, "curvature_method": "exact",
                                   "curvature_structure": "diag", "predictive": "mc", **changes})


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * float(tf.reduce_max(expected)))


@pytest.mark.parametrize("structure", some(STRUCTURES, ["diag", "low_rank"]))
def test_every_structure_fits_and_predicts(structure):
    model, x = small(curvature_structure=structure, curvature_rank=4), images(96)
    found = model.fit_posthoc(x, batch_size=40)
    assert np.isfinite(list(found.values())).all()
    assert found["posthoc/prior_precision"] > 0 and found["posthoc/noise_variance"] > 0
    moments = model.predictive(x[:4], 6, seed=(0, 1))
    assert np.isfinite(moments["mean"]).all() and (moments["epistemic_variance"].numpy() > 0).all()


def test_curvature_is_that_of_all_data_whatever_the_batch():
    model, x = small(), images(50)
    model.fit_posthoc(x, batch_size=16)
    expected = curvature.ggn((model.encoder, model.decoder), x)
    assert_close(model.posterior.curvature, expected)


def test_scales_are_a_fixed_point():
    model, x = small(), images(96)
    model.fit_posthoc(x)
    precision = model.posterior.precision().numpy().astype(np.float64)
    gamma, variance = float(model.posterior.prior_precision[0]), float(model.posterior.noise_variance)
    effective = precision.size - gamma * (1 / precision).sum()
    square = sum(float(tf.reduce_sum(tf.square(v))) for v in model.graph.variables)
    sse = float(tf.reduce_sum(tf.square(model.decoder_outputs(model.point(x)) - x)))
    assert gamma == pytest.approx(effective / square, rel=1e-3)
    assert variance == pytest.approx(sse / (x.size - effective), rel=1e-3)
    assert float(model.likelihood.scale) ** 2 == pytest.approx(variance, rel=1e-3)


def test_sigma_of_1_spreads_the_reconstructions_more_than_the_fitted_one():
    x = images(96)
    fitted, unit = small(), small(likelihood="gaussian", scale=1.0, optimize=("gamma",))
    for model in (fitted, unit):
        for mine, theirs in zip(model.graph.variables, fitted.graph.variables):
            mine.assign(theirs)
        model.fit_posthoc(x)
    errors = [np.square(model.predictive(x, 30, seed=(0, 1))["mean"] - x).sum() for model in (fitted, unit)]
    assert errors[0] < errors[1]


def test_one_pass_agrees_with_many_networks_where_weights_are_nearly_certain():
    x = images(96)
    model = small(predictive="linearised", prior_precision=1e4, optimize=("none",))
    model.fit_posthoc(x)
    found = model.moments(tf.constant(x[:5]), 1, (0, 1))
    drawn = tf.function(lambda y: BayesianAE.moments(model, y, 400, (0, 1)))(tf.constant(x[:5]))
    np.testing.assert_allclose(found["latent_variance"], drawn["latent_variance"], rtol=0.35)
    np.testing.assert_allclose(found["mean"], drawn["mean"], atol=0.01)
    # Variances of outputs are carried forward without their covariances.
    total = [float(tf.reduce_sum(one["epistemic_variance"])) for one in (found, drawn)]
    assert 0.4 < total[0] / total[1] < 2.5
    for key in ("mean_log_prob", "log_mean_prob"):
        np.testing.assert_allclose(found[key], drawn[key], rtol=0.01)
    assert set(found) == set(drawn)


@pytest.fixture
def double_precision():
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.mark.parametrize("structure", some(STRUCTURES, ["kron"]))
def test_densities_are_those_of_a_normal_with_the_covariance_of_all_values(double_precision, structure):
    """Against SciPy's normal, with the Jacobian by all weights at once."""
    options = {"curvature_structure": structure, "predictive": "linearised", "optimize": ("none",), "curvature_rank": 4}
    model, x = small(**options, density_rank=0), images(40).astype(np.float64)
    model.fit_posthoc(x)
    y = tf.constant(x[:3])
    values = [variable.value for variable in model.graph.variables]
    with tf.GradientTape(persistent=True) as tape:
        mean = tf.reshape(model.decoder_outputs(model.point(y)), (3, -1))
        flat = tf.reshape(mean, (-1,))
    jacobian = tape.jacobian(flat, values, experimental_use_pfor=False)
    jacobian = np.concatenate([np.reshape(one, (len(flat), -1)) for one in jacobian], axis=1)
    chosen, size = model.posterior.layout.sizes, len(flat) // 3
    jacobian = jacobian[:, -sum(chosen):] if structure == "last_layer" else jacobian
    covariance = np.einsum("bip,bjp->bij", jacobian.reshape(3, size, -1),
                           np.reshape(model.posterior.solve(tf.constant(jacobian)), (3, size, -1)))
    noise = float(model.likelihood.scale) ** 2
    found = model.density(x[:3])
    expected = [stats.multivariate_normal(m, c + noise * np.eye(size)).logpdf(one.ravel())
                for m, c, one in zip(mean.numpy(), covariance, x)]
    np.testing.assert_allclose(found["log_prob"], expected, rtol=1e-8)
    np.testing.assert_allclose(model.predictive_log_prob(x[:3], 1), found["log_prob"], rtol=1e-12)
    np.testing.assert_allclose(model.moments(y, 1, (0, 1))["log_mean_prob"], found["log_prob"], rtol=1e-12)
    gain = 0.5 * np.linalg.slogdet(np.eye(size) + covariance / noise)[1]
    np.testing.assert_allclose(found["mutual_information"], gain, rtol=1e-7)
    variances = np.einsum("bii->bi", covariance).reshape(x[:3].shape) + noise
    np.testing.assert_allclose(found["std"], np.sqrt(variances), rtol=1e-7)


def test_densities_of_few_directions_are_near_those_of_all():
    model, x = small(curvature_structure="kron", predictive="linearised", density_rank=8), images(96)
    model.fit_posthoc(x)
    found = model.density(x[:20])
    model.curvature_flags["density_rank"] = 0
    whole = model.density(x[:20])
    assert np.all((0 < found["share"]) & (found["share"] <= 1)) and "share" not in whole
    np.testing.assert_allclose(found["log_prob"], whole["log_prob"], rtol=0.02)
    # What is not finite has no density, and leaves the rest as it is.
    x[1, 0, 0] = np.nan
    some_missing = model.density(x[:2])
    np.testing.assert_array_equal(np.isnan(some_missing["log_prob"]), [False, True])
    np.testing.assert_allclose(some_missing["log_prob"][0], whole["log_prob"][0], rtol=1e-5)


def test_densities_of_drawn_networks_are_refused():
    with pytest.raises(UserError, match="predictive='linearised'"):
        small().density(images(2))


def test_one_pass_needs_a_gaussian():
    with pytest.raises(UserError, match="predictive='mc'"):
        small(predictive="linearised", likelihood="bernoulli")


def test_part_of_the_data_is_scaled_up():
    model, x = small(curvature_data=25), images(100)
    model.fit_posthoc(x)
    rows = np.linspace(0, 99, 25).astype(int)
    expected = 4 * curvature.ggn((model.encoder, model.decoder), x[rows])
    assert_close(model.posterior.curvature, expected)


def test_it_starts_from_an_autoencoder_with_raw_scales():
    before, model, x = build("ae", hidden_units=(6,), latent_dim=2), small(), images(5)
    model.initialise_from(before)
    np.testing.assert_allclose(model(x), before(x), rtol=1e-4, atol=1e-6)


def test_likelihoods_without_a_sigma_have_a_prior_precision_to_find():
    model = small(likelihood="bernoulli")
    found = model.fit_posthoc(images(64))
    assert found["posthoc/noise_variance"] == 1.0 and found["posthoc/prior_precision"] > 0


@pytest.mark.parametrize("changes, words", [
    ({"optimize": ("sigma2",)}, "optimize takes gamma"),
    ({"optimize": ("gamma", "sigma2"), "likelihood": "gaussian"}, "keeps constant"),
    ({"curvature_structure": "block", "curvature_method": "approx"}, "is not computed by"),
])
def test_settings_that_do_not_go_together_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        small(**changes)


@pytest.mark.parametrize("structure", ["kron", "block"])
def test_one_pass_knows_what_weights_have_in_common(structure):
    model, x = small(curvature_structure=structure, predictive="linearised"), images(64)
    model.fit_posthoc(x)
    found = model.predictive(x[:3], 1, seed=(0, 1))["epistemic_variance"]
    exact = curvature.predict(model.posterior, (model.encoder, model.decoder), tf.constant(x[:3]), "exact")["variance"]
    assert_close(found, exact)


def test_a_measured_noise_map_comes_before_the_fit():
    model, x = small(likelihood="gaussian_pixel", optimize=("gamma",)), images(96)
    model.measure(x, x)
    first = model.findings()["posthoc/log_evidence"]
    assert model.fit_posthoc(x)["posthoc/log_evidence"] == pytest.approx(first, rel=1e-4)


def test_a_data_set_is_seen_whole(monkeypatch):
    model, x = small(), images(50)
    monkeypatch.setattr("pae_zoo.core.trainable.ADAPT_DATA", 20)
    model.compile(jit_compile=False, run_eagerly=True)
    model.fit(tf.data.Dataset.from_tensor_slices(x).batch(20), verbose=0, epochs=1, shuffle=False)
    expected = curvature.ggn((model.encoder, model.decoder), x)
    assert_close(model.posterior.curvature, expected)


def test_a_data_set_without_end_is_seen_for_one_epoch():
    model, x = small(), images(40)
    model.compile(jit_compile=False, run_eagerly=True)
    model.fit(tf.data.Dataset.from_tensor_slices(x).batch(20).repeat(), verbose=0, steps_per_epoch=2, shuffle=False)
    assert_close(model.posterior.curvature, curvature.ggn((model.encoder, model.decoder), x))


def test_a_run_with_a_constant_sigma_is_started_from():
    before = battery.hparams("ae", likelihood="gaussian", scale=0.3)
    own = battery.hparams("lae_posthoc")
    found = LAEPosthoc.inherit(own, before, ["model", "init_workdir"])
    model = LAEPosthoc.from_hparams(found, battery.EVENT_SHAPE, 8)
    x = battery.images(32)
    model.adapt(x)
    model.measure(x, x)
    assert model.posthoc["optimize"] == ("gamma",) and model.likelihood.scale == 0.3
    np.testing.assert_allclose(model.posterior.noise_variance, 0.09, rtol=1e-5)
    with pytest.raises(UserError, match="keeps constant"):
        LAEPosthoc.from_hparams(LAEPosthoc.inherit(own, before, ["optimize"]), battery.EVENT_SHAPE, 8)


# ---- the score spread ------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", some(STRUCTURES[:4], ["diag", "kron"]))
def test_spread_is_the_larger_of_latent_std_and_error_in_units_of_their_quartiles(structure):
    model, x = small(curvature_structure=structure, curvature_rank=4, score_precision=30.0), images(96)
    model.measure(x, x)
    model.measure_scores(x[:40])
    other = curvature.predict(model.posterior, (model.encoder, model.decoder), tf.constant(x), "diagonal")
    statistics = np.stack([np.zeros(96), np.zeros(96)], axis=1)
    scales = (model.posterior.prior_precision.numpy(), float(model.posterior.noise_variance))
    model.posterior.assign_scales(1.0, 1.0, 30.0)
    covariance = linearised.covariance(model.posterior, model.encoder, tf.constant(x)).numpy()
    model.posterior.assign_scales(*scales, 1.0)
    statistics[:, 0] = np.log(np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)).sum(axis=1))
    statistics[:, 1] = np.log(np.square(other["mean"] - x).sum(axis=(1, 2, 3)))
    low, median, high = np.quantile(statistics[:40], (0.25, 0.5, 0.75), axis=0)
    expected = ((statistics - median) / ((high - low) / 1.349)).max(axis=1)
    found = model.ood_scores(x, seed=(0, 1))
    assert next(iter(found)) == "spread"
    np.testing.assert_allclose(found["spread"], expected, rtol=2e-3, atol=2e-3)


def test_scores_of_one_pass_need_no_outputs_variances():
    model, x = small(curvature_structure="kron", predictive="auto"), images(96)
    model.measure(x, x)
    model.measure_scores(x)
    found = model.ood_scores(x[:5], seed=(0, 1))
    assert list(found) == ["spread", "latent", "likelihood", "typicality"]
    covariance = linearised.covariance(model.posterior, model.encoder, tf.constant(x[:5])).numpy()
    expected = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)).sum(axis=1)
    np.testing.assert_allclose(found["latent"], expected, rtol=1e-4)
    outputs = model.decoder_outputs(model.point(tf.constant(x[:5])))
    np.testing.assert_allclose(found["likelihood"], -model.likelihood.log_prob(outputs, x[:5]), rtol=1e-5)


def test_spread_is_kept_with_the_model_and_left_out_where_nothing_was_measured(tmp_path):
    model, x = small(curvature_structure="kron"), images(40)
    model.measure(x, x)
    assert "spread" not in model.ood_scores(x, seed=(0, 1)) and "measure_scores" in model.score_notes()[0]
    model.measure_scores(x[:7])  # too few for quartiles
    assert "spread" not in model.ood_scores(x, seed=(0, 1)) and "fewer than 8" in model.score_notes()[0]
    model.measure_scores(x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not loaded.score_notes()
    np.testing.assert_allclose(loaded.ood_scores(x, (0, 1))["spread"], model.ood_scores(x, (0, 1))["spread"], rtol=1e-4)


@pytest.mark.parametrize("changes", [{"bayesian_layers": ("decoder",)}, {"curvature_structure": "last_layer"}])
def test_without_uncertain_encoders_there_is_no_spread(changes):
    model, x = small(**changes), images(40)
    model.measure(x, x)
    model.measure_scores(x)
    assert "spread" not in model.ood_scores(x, seed=(0, 1)) and "no layer of the encoder" in model.score_notes()[0]


def test_defaults_are_kronecker_factors_and_one_pass_where_sigma_is_one_number():
    model = build("lae_posthoc", hidden_units=(6,), latent_dim=2)
    assert model.posterior.structure == "kron" and model.is_linearised
    assert not build("lae_posthoc", hidden_units=(6,), latent_dim=2, likelihood="bernoulli").is_linearised


def test_settings_that_were_not_saved_mean_what_they_meant():
    config = build("lae_posthoc", hidden_units=(6,), latent_dim=2).get_config()
    for name in ("predictive", "curvature_structure", "score_precision"):
        del config[name]
    model = LAEPosthoc.from_config(config)
    assert model.posterior.structure == "diag" and not model.is_linearised


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_score_precision_that_is_none_is_refused(value):
    with pytest.raises(UserError, match="score_precision"):
        model = small()
        LAEPosthoc(model.encoder, model.decoder, score_precision=value)


def test_a_posterior_whose_draws_are_of_no_use_says_so(capsys):
    model, x = small(optimize=("none",), prior_precision=1e-6), images(40)
    model.measure(x, x)
    assert capsys.readouterr().err.count("times the squared error of the mean network") == 1
    small().measure(x, x)
    assert "times the squared error" not in capsys.readouterr().err


def with_raw_scales(model_class, like, **options):
    """A model of the networks of `like`, whose encoder gives raw scales beside the codes."""
    encoder = keras.models.clone_model(like.encoder)
    last = encoder.layers[-1]
    wide = keras.Sequential([
        keras.Input(like.event_shape), *encoder.layers[:-1], keras.layers.Dense(2 * like.latent_dim)])
    for mine, theirs in zip(encoder.layers[:-1], like.encoder.layers[:-1]):
        mine.set_weights(theirs.get_weights())
    kernel, bias = like.encoder.layers[-1].get_weights()
    assert isinstance(last, keras.layers.Dense)
    wide.layers[-1].set_weights([np.hstack([kernel, 0.3 + kernel]), np.hstack([bias, 1.0 + bias])])
    return model_class(wide, like.decoder, **options)


@pytest.mark.parametrize("structure", some(["diag", "kron", "low_rank", "last_layer"], ["diag", "kron"]))
def test_an_encoder_with_raw_scales_has_the_curvature_of_its_codes(structure):
    options = {"curvature_structure": structure, "optimize": ("none",), "predictive": "linearised",
               "curvature_method": "exact", "curvature_rank": 200}
    x = images(64)
    plain = small(**options)
    double = with_raw_scales(LAEPosthoc, plain, **options)
    double.likelihood.log_variance.assign(plain.likelihood.log_variance)
    for model in (plain, double):
        model.fit_posthoc(x)
    assert sum(double.posterior.layout.sizes) > sum(plain.posterior.layout.sizes) or structure == "last_layer"
    for key, found in plain.moments(tf.constant(x[:4]), 1, (0, 1)).items():
        np.testing.assert_allclose(double.moments(tf.constant(x[:4]), 1, (0, 1))[key], found, rtol=2e-3, err_msg=key)
    drawn = double.predictive(x[:4], 3, seed=(0, 1))
    assert np.isfinite(drawn["mean"]).all()
    # It starts from runs whose encoders have raw scales, or none.
    double.initialise_from(build("ae", hidden_units=(6,), latent_dim=2))


def test_an_encoder_with_raw_scales_trains_online(tmp_path):
    x = images(48)
    model = with_raw_scales(LAE, small(), test_samples=2)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    history = model.fit(x, epochs=1, batch_size=16, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predictive(x[:3], 2, seed=(0, 1))["mean"], model.predictive(x[:3], 2, seed=(0, 1))["mean"], rtol=1e-5)
