"""The importance-sampled likelihood against the closed form of a linear-Gaussian model."""

import csv
import math

import battery
import keras
import numpy as np
import pytest
import tensorflow as tf

import pae_zoo
from pae_zoo.core import seeds
from pae_zoo.evaluation.context import to_unit
from pae_zoo.evaluation.tasks import likelihood


@pytest.mark.parametrize("event_shape", [(8, 8, 1), (3,)])
def test_exact_proposal_gives_the_closed_form(make_context, event_shape):
    context = make_context(event_shape=event_shape)
    results = dict(likelihood.run(context))
    exact = context.model.exact(to_unit(context.dataset.test.x))
    assert results["test/log_likelihood"] == pytest.approx(exact.mean(), abs=2e-3)
    assert results["test/elbo"] == pytest.approx(exact.mean(), abs=2e-3)
    assert results["test/log_likelihood_stderr"] == pytest.approx(exact.std(ddof=1) / np.sqrt(70), rel=1e-3)
    assert results["test/effective_sample_size"] == pytest.approx(20, rel=1e-2)
    assert results["test/elbo_gap"] == pytest.approx(0.0, abs=1e-3)
    assert results["test/importance_samples"] == 20
    assert "test/bits_per_dim" not in results


def test_wrong_proposal_gives_a_gap_and_few_effective_samples(make_context):
    context = make_context(event_shape=(3,), model_options={"bias": 0.3}, importance_samples=500)
    results = dict(likelihood.run(context))
    exact = context.model.exact(to_unit(context.dataset.test.x))
    assert results["test/elbo"] < results["test/log_likelihood"] - 0.1
    assert results["test/log_likelihood"] == pytest.approx(exact.mean(), abs=0.02)
    assert 1 <= results["test/effective_sample_size_min"] < results["test/effective_sample_size"] < 400


def test_sampling_error_is_the_spread_of_estimates(make_context, linear_gaussian):
    model = linear_gaussian((3,), bias=0.1)
    x = tf.repeat(tf.constant([[0.4, 0.1, 0.6]]), 400, axis=0)
    found = model.importance_estimate(x, 200, (1, 2))
    errors = likelihood.sampling_stderr(found.effective_sample_size.numpy(), 200)
    assert errors.mean() == pytest.approx(np.std(found.log_likelihood), rel=0.2)
    context = make_context(event_shape=(3,), model_options={"bias": 0.1})
    results = dict(likelihood.run(context))
    with open(context.run.workdir / "likelihood.csv") as file:
        rows = list(csv.DictReader(file))
    squares = [1.0 / float(row["effective_sample_size"]) - 1.0 / 20 for row in rows]
    np.testing.assert_allclose([float(row["sampling_stderr"]) ** 2 for row in rows], squares, rtol=1e-5, atol=1e-8)
    assert results["test/log_likelihood_sampling_stderr"] == pytest.approx(np.sqrt(np.sum(squares)) / 70, rel=1e-5)


def test_one_sample_has_no_sampling_error(make_context):
    results = dict(likelihood.run(make_context(event_shape=(3,), importance_samples=1)))
    assert "test/log_likelihood_sampling_stderr" not in results
    assert results["test/effective_sample_size"] == pytest.approx(1.0)


def test_model_space_value_uses_the_noise_of_the_estimate(make_context):
    chain = ("dequantise", "logit")
    context = make_context(model_options={"preprocess": chain}, num=32)
    results = dict(likelihood.run(context))
    seed = seeds.fold_in(context.seed_for("likelihood"), 0)
    x = to_unit(context.dataset.test.x)
    y, log_det = context.model.preprocess(x, seeds.split(seed, 3)[0])
    expected = context.model.exact(x, seeds.split(seed, 3)[0]) - log_det.numpy()
    assert results["test/log_likelihood_model_space"] == pytest.approx(expected.mean(), rel=1e-4)
    assert results["test/log_likelihood"] - results["test/log_likelihood_model_space"] == pytest.approx(
        log_det.numpy().mean(), rel=1e-4
    )


def test_bits_per_dim_of_dequantised_images(make_context):
    context = make_context(model_options={"preprocess": ("dequantise",)})
    results = dict(likelihood.run(context))
    expected = 8 - results["test/log_likelihood"] / (64 * math.log(2))
    assert results["test/bits_per_dim"] == pytest.approx(expected)


def test_bound_alone_is_reported_where_there_is_no_estimate(make_context, linear_gaussian):
    class BoundOnly(linear_gaussian):
        def importance_estimate(self, x, num_samples, seed=None):
            if num_samples > 1:
                raise NotImplementedError("Only a bound.")
            return super().importance_estimate(x, num_samples, seed)

    results = dict(likelihood.run(make_context(BoundOnly)))
    assert results["test/log_likelihood"] == "unsupported" and np.isfinite(results["test/elbo"])


def test_per_datum_values_average_to_the_metric(make_context):
    context = make_context()
    results = dict(likelihood.run(context))
    with open(context.run.workdir / "likelihood.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 70 and [int(row["label"]) for row in rows] == list(context.dataset.test.y)
    values = [float(row["log_likelihood"]) for row in rows]
    assert np.mean(values) == pytest.approx(results["test/log_likelihood"], rel=1e-6)


@pytest.mark.parametrize("name", [name for name, row in battery.ROWS.items() if "likelihood" in row.offers])
@pytest.mark.parametrize("method", ["elbo", "importance_estimate"])
def test_log_det_is_the_one_that_the_model_adds(name, method, monkeypatch):
    model = battery.build(name, preprocess=("dequantise", "logit"))
    x, seed = tf.constant(battery.images(4)), seeds.as_seed((1, 2))
    expected, used = likelihood.log_det(model, x, seed), []
    preprocess = model.preprocess

    def recording(*args, **kwargs):
        y, log_det = preprocess(*args, **kwargs)
        used.append(log_det)
        return y, log_det

    monkeypatch.setattr(model, "preprocess", recording)
    model.elbo(x, seed) if method == "elbo" else model.importance_estimate(x, 2, seed)
    np.testing.assert_array_equal(used[0], expected)
    assert np.abs(expected - preprocess(x, seed)[1]).max() > 1e-3


class Root(keras.layers.Layer):
    """sqrt(|z|), whose derivative at 0 is not finite."""

    def call(self, z):
        return tf.sqrt(tf.abs(z))


def test_refined_codes_that_are_not_finite_are_told(make_context, capsys):
    decoder = keras.Sequential([keras.Input((2,)), Root(), keras.layers.Dense(3)])
    encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, kernel_initializer="zeros")])
    context = make_context(pae_zoo.VAE(encoder, decoder), event_shape=(3,), num=32)
    found = dict(likelihood.run(context))
    assert math.isfinite(found["test/elbo"]) and math.isnan(found["test/refined/elbo"])
    assert "Refined codes of 32 of 32 data are not finite" in capsys.readouterr().err


def test_refined_numbers_are_beside_the_models_own(make_context, capsys):
    context = make_context(battery.build("vae"), event_shape=battery.EVENT_SHAPE, num=32, importance_samples=30)
    found = dict(likelihood.run(context))
    again = context.model.refined().elbo(to_unit(context.dataset.test.x), (0, 1))
    assert found["test/refined/elbo"] == pytest.approx(np.mean(again), rel=0.05)
    assert 0 <= found["test/refined/unreliable"] <= 1 and "test/refined/log_likelihood" in found
    assert "Codes refined by 2 line-searched Newton steps: ELBO" in capsys.readouterr().err
    with open(context.run.workdir / "likelihood.csv") as file:
        assert {"refined_elbo", "refined_pareto_k", "pareto_k"} <= set(next(csv.DictReader(file)))
    without = make_context(battery.build("vae"), event_shape=battery.EVENT_SHAPE, num=32, refine="none")
    assert not [key for key in dict(likelihood.run(without)) if "refined" in key]
