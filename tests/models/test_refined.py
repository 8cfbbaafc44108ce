"""Codes refined at test: a closed form, every model that offers it, commands."""

import json

import battery
import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import build, built, images
from linear_vae import exact_log_prob, linear_model

import pae_zoo
from pae_zoo import evaluate, serving
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import launch
from pae_zoo.experiment.workdir import Run
from pae_zoo.inference import derivatives
from pae_zoo.models.parts.refinement import UPDATES

SIGMA, SEED = 0.3, (4, 5)
NAMES = [name for name, row in battery.ROWS.items() if "refine" in row.offers]


def rows(num=6, dim=7):
    return np.random.default_rng(1).normal(size=(num, dim)).astype(np.float32)


def log_joint(model, x, z):
    y, _ = model.preprocess(x)
    return (model.likelihood.log_prob(model.decoder_outputs(z), y) + model.log_prob_latent(z)).numpy()


def test_the_models_that_offer_it():
    assert set(NAMES) >= {"vae", "vlae", "flow_vae", "hf", "iaf", "ensemble_vae", "rbf_vae", "savae"}


@pytest.mark.parametrize("update", UPDATES)
def test_of_a_linear_decoder_one_step_gives_the_posterior_and_the_likelihood(update):
    model, weight, bias = linear_model(SIGMA)
    x = rows()
    refined, exact = model.refined(update, 1), exact_log_prob(x, weight, bias, SIGMA)
    precision = np.eye(len(weight)) + weight @ weight.T / SIGMA**2
    mean = (x - bias) @ weight.T / SIGMA**2 @ np.linalg.inv(precision)
    q = refined.encode(x)
    np.testing.assert_allclose(q.mean(), mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(q.covariance(), np.tile(np.linalg.inv(precision), (len(x), 1, 1)), rtol=1e-4, atol=1e-5)
    found = refined.importance_estimate(x, 40, SEED)
    np.testing.assert_allclose(found.log_likelihood, exact, rtol=1e-5)
    np.testing.assert_allclose(found.effective_sample_size, 40, rtol=1e-3)
    assert np.all(found.pareto_k.numpy() < 0.7)
    own = model.importance_estimate(x, 40, SEED)
    assert np.all(own.elbo.numpy() < found.elbo.numpy()) and np.mean(own.pareto_k.numpy() > 0.7) > 0.5


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("name", NAMES)
def test_log_joint_never_falls(name, update):
    model, x = built(name).refined(update, 3), images(5)
    path = model.latent_path(x, SEED)
    steps = path.shape[0] - 4  # of the model itself
    values = np.stack([log_joint(model, x, z) for z in path[steps:]])
    assert np.all(np.diff(values, axis=0) >= -1e-5 * np.abs(values[1:])), "a step lowered log p(x, z)"
    assert np.any(values[-1] > values[0])
    np.testing.assert_allclose(model.encode(x, SEED).mean(), path[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_itself_is_as_before(name):
    model, x = built(name), images(4)
    before = model.elbo(x, SEED).numpy()
    refined = model.refined()
    # vlae's own search at test ends at the same mode.
    assert name == "vlae" or not np.allclose(refined.elbo(x, SEED), before)
    np.testing.assert_array_equal(model.elbo(x, SEED), before)
    assert refined.decoder is model.decoder and type(refined) is type(model)
    assert [id(weight) for weight in refined.weights] == [id(weight) for weight in model.weights]


@pytest.mark.parametrize("name", ["vae", "flow_vae", "ensemble_vae"])
def test_a_saved_model_stays_refined(name, tmp_path):
    model, x = build(name).refined("newton", 3), images(4)
    model.save(tmp_path / "refined.keras")
    loaded = keras.models.load_model(tmp_path / "refined.keras")
    np.testing.assert_allclose(loaded.elbo(x, SEED), model.elbo(x, SEED), rtol=1e-6)
    assert (loaded.refining.update, loaded.refining.num_updates) == ("newton", 3)


def test_decoders_that_share_no_variance():
    # The modes of a Bernoulli model and of a decoded variance are found too.
    for likelihood in ("bernoulli", "gaussian_decoder", "gaussian_pixel"):
        model, x = build("vae", likelihood=likelihood), images(6)
        path = model.refined("line_search", 30).latent_path(x)
        y, _ = model.preprocess(x)

        def value(z, model=model, y=y):
            return model.likelihood.log_prob(model.decoder_outputs(z), y) + model.log_prob_latent(z)

        slopes = [np.linalg.norm(derivatives.value_and_gradient(value, z)[1], axis=1) for z in (path[0], path[-1])]
        # The median: at a kink of a relu a mode has two slopes.
        assert np.median(slopes[1] / slopes[0]) < 0.05


@pytest.mark.parametrize("arguments,words", [
    (("steps", 2), "one of newton, line_search; received 'steps'"),
    (("newton", 0), "between 1 and 1000 updates; received 0"),
])  # fmt: skip
def test_bad_settings_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        built("vae").refined(*arguments)


def test_a_model_without_a_posterior_says_so():
    with pytest.raises(NotImplementedError, match="AE has no decoder with a posterior"):
        built("ae").refined()


def test_a_decoder_without_derivatives_is_refused():
    decoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(36), keras.layers.Lambda(tf.round),
                                keras.layers.Reshape((6, 6, 1))])  # fmt: skip
    encoder = pae_zoo.networks.build_encoder("mlp", (6, 6, 1), 3, hidden_units=(4,))
    with pytest.raises(UserError, match="has no derivative by its latent"):
        pae_zoo.VAE(encoder, decoder).refined()


def test_exports_are_refined():
    model = build("vae").refined()
    functions, _ = serving.trace(model, only=("elbo",))
    x = images(3)
    served = functions["elbo"](tf.constant(x), tf.constant(SEED))["elbo"]
    np.testing.assert_allclose(served, model.elbo(x, SEED), rtol=1e-5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    from pae_zoo import main

    workdir = tmp_path_factory.mktemp("refined") / "run"
    assert launch.run(main.main, ["--model=vae", "--smoke", "--hidden_units=12", f"--workdir={workdir}"]) == 0
    return workdir


def test_the_likelihood_task_shows_both(finished):
    found = Run(finished).read_metrics()
    assert found["test/refined/elbo"] > found["test/elbo"]
    assert found["test/refined/elbo_stderr"] > 0


def test_evaluate_keeps_the_models_own_numbers(finished, capsys):
    before = Run(finished).read_metrics()
    flags = [f"--workdir={finished}", "--tasks=reconstruction,likelihood", "--refine=newton", "--refine_updates=3"]
    assert launch.run(evaluate.main, flags) == 0
    found = json.loads((finished / "metrics.json").read_text())
    assert found["test/elbo"] == before["test/elbo"] and found["test/elbo@newton3"] > found["test/elbo"]
    assert "test/refined/elbo@newton3" not in found
    assert (finished / "figures" / "likelihood@newton3.png").exists() and (finished / "likelihood@newton3.csv").exists()


def test_apply_and_export_take_it(finished, tmp_path, capsys):
    from pae_zoo import apply, export

    np.savez(tmp_path / "x.npz", x=images(4, event_shape=(8, 8, 1)))
    for name in ("own", "refined"):
        flags = [f"--workdir={finished}", f"--input=npz:{tmp_path}/x.npz", "--outputs=codes,elbo",
                 f"--out={tmp_path}/{name}.npz", *(["--refine=line_search"] if name == "refined" else [])]
        assert launch.run(apply.main, flags) == 0
    own, refined = (np.load(tmp_path / f"{name}.npz") for name in ("own", "refined"))
    assert not np.allclose(refined["elbo"], own["elbo"]) and not np.allclose(refined["codes"], own["codes"])
    flags = [f"--workdir={finished}", f"--export_dir={tmp_path}/served", "--refine=line_search"]
    assert launch.run(export.main, flags) == 0
    assert "encode           x -> mean, stddev" in capsys.readouterr().out


def test_a_launcher_refuses_it_where_there_is_none(tmp_path, capsys):
    from pae_zoo import main

    assert launch.run(main.main, ["--model=ae", "--refine=newton", f"--workdir={tmp_path}/run"]) == 2
    text = capsys.readouterr().err
    assert "--refine=newton: AE has no decoder with a posterior" in text and not (tmp_path / "run").exists()
