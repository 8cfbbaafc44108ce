"""The task amortisation: gaps against closed forms of a linear decoder, paths, latents in use, TensorBoard."""

import csv

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from battery import build
from linear_vae import exact_log_prob, linear_model

from pae_zoo import evaluation
from pae_zoo.core import seeds
from pae_zoo.evaluation.context import to_unit
from pae_zoo.evaluation.support import latent_use, local_posteriors
from pae_zoo.evaluation.tasks import amortisation
from pae_zoo.models.vae import VAE

tfd = tfp.distributions

SIGMA = 0.5


@pytest.fixture
def few_steps(monkeypatch):
    """Cuts searches short, where the optimum does not matter."""
    monkeypatch.setattr(local_posteriors, "STEPS", 25)


def true_posterior(x, weight, bias, sigma=SIGMA):
    """Returns mean (n, K) and precision (K, K) of z given x under a linear decoder."""
    precision = np.eye(len(weight)) + weight @ weight.T / sigma**2
    return np.linalg.solve(precision, weight @ (x - bias).T / sigma**2).T, precision


def test_gaps_of_a_linear_decoder(make_context):
    model, weight, bias = linear_model(SIGMA)
    # Under XLA here, as users run it; without it in the tests below.
    context = make_context(model, event_shape=(7,), jit_compile=True, amortisation_images=40, batch_size=64)
    found = evaluation.evaluate(context, ["amortisation"])
    x = context.dataset.test.x[context.choose(70, 40, "amortisation")]
    mean, precision = true_posterior(x, weight, bias)
    exact = exact_log_prob(x, weight, bias, SIGMA).mean()
    q = model.encode(x)
    posterior = tfd.MultivariateNormalFullCovariance(mean.astype(np.float32), np.linalg.inv(precision).astype("f4"))
    kl = tfd.kl_divergence(tfd.MultivariateNormalDiag(q.mean(), q.stddev()), posterior).numpy()
    # KL of the mean field N(m, diag(Lam)^-1) to N(m, Lam^-1).
    mean_field = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert mean_field > 0.05
    key = "amortisation/"
    assert found[f"{key}log_likelihood"] == pytest.approx(exact, abs=0.02)
    assert found[f"{key}proposal"] == "full" and found[f"{key}effective_sample_size"] > 900
    # The noise of 1,000 draws of log w under the encoder's q, which is far off.
    assert found[f"{key}inference_gap"] == pytest.approx(kl.mean(), rel=0.05)
    assert found[f"{key}full/approximation_gap"] == pytest.approx(0.0, abs=0.01)
    assert found[f"{key}diagonal/approximation_gap"] == pytest.approx(mean_field, abs=0.02)
    for family in ("diagonal", "full"):
        parts = found[f"{key}{family}/approximation_gap"] + found[f"{key}{family}/amortisation_gap"]
        assert parts == pytest.approx(found[f"{key}inference_gap"], abs=1e-9)
        assert found[f"{key}{family}/share_better"] == 1.0
    assert found[f"{key}full/elbo"] == pytest.approx(exact, abs=0.02)


@pytest.mark.full
def test_best_gaussians_are_the_closed_forms(make_context):
    model, weight, bias = linear_model(SIGMA)
    context = make_context(model, event_shape=(7,))
    x = context.dataset.test.x[:9]
    found, best, own = amortisation.measure_gaps(context, x)
    mean, precision = true_posterior(x, weight, bias)
    expected = np.linalg.inv(precision)
    full, diagonal = best["full"], best["diagonal"]
    np.testing.assert_allclose(full.covariance, np.broadcast_to(expected, full.covariance.shape), atol=0.01)
    np.testing.assert_allclose(np.diagonal(diagonal.covariance, axis1=1, axis2=2), np.broadcast_to(
        1.0 / np.diag(precision), (9, 3)), rtol=0.1)
    for gaussians in best.values():
        np.testing.assert_allclose(gaussians.mean, mean, atol=0.02)
    variance = model.encode(x).variance().numpy()
    np.testing.assert_allclose(own, variance[:, :, None] * np.eye(3), rtol=1e-5)
    # One seed, one noise: with equal Gaussians the families' numbers are equal.
    local = local_posteriors.LocalPosteriors(context)
    y = tf.constant(x)
    twice = [local.log_weights(y, full, 50, (1, 2)) for _ in range(2)]
    np.testing.assert_array_equal(*twice)
    assert twice[0].shape == (50, 9) and np.ptp(twice[0], axis=0).max() < 0.5


def test_mean_field_start():
    generator = np.random.default_rng(0)
    root = generator.normal(size=(5, 4, 4))
    covariance = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(4)
    found = np.diagonal(local_posteriors.mean_field_root(covariance), axis1=1, axis2=2) ** -2.0
    np.testing.assert_allclose(found, np.diagonal(np.linalg.inv(covariance), axis1=1, axis2=2), rtol=1e-3)


def test_summaries_of_log_weights():
    log_weights = np.log(np.array([[1.0, 2.0], [3.0, 2.0]])) + 900.0
    found = local_posteriors.summaries(log_weights)
    np.testing.assert_allclose(found["log_likelihood"], 900.0 + np.log([2.0, 2.0]))
    np.testing.assert_allclose(found["elbo"], 900.0 + np.array([0.5 * np.log(3.0), np.log(2.0)]))
    np.testing.assert_allclose(found["effective_sample_size"], [1.6, 2.0])


@pytest.mark.full
def test_all_bounds_see_the_same_noisy_data(make_context):
    """With dequantised data the model's own estimate and those of other proposals are densities of the same y."""
    model = build("vae", preprocess=("dequantise", "logit"), likelihood="gaussian", scale=1.0, logit_margin=0.01,
                  latent_dim=1)  # fmt: skip
    for weight in model.encoder.weights:
        weight.assign(tf.zeros_like(weight))
    model.decoder.weights[0].assign(0.3 * model.decoder.weights[0])
    context = make_context(model, event_shape=model.event_shape)
    x = context.dataset.test.x[:5]
    found, _, _ = amortisation.measure_gaps(context, x)
    assert found["effective_sample_size"].min() > 100
    assert np.abs(found["log_det"]).min() > 1.0
    for family in ("diagonal", "full"):
        np.testing.assert_allclose(found[f"{family}_log_likelihood"], found["log_likelihood"], atol=0.2)
    other = model.importance_estimate(to_unit(x), 1000, (7, 8)).log_likelihood
    assert np.abs(other - found["log_likelihood"]).max() > 0.5


def test_best_proposal_is_one_for_all():
    found = {"log_likelihood": np.array([0.0, 5.0]), "diagonal_log_likelihood": np.array([3.0, 3.0]),
             "full_log_likelihood": np.array([4.0, 1.0])}  # fmt: skip
    assert amortisation.best_proposal(found) == "diagonal_"
    found["log_likelihood"] += 1.0
    assert amortisation.best_proposal(found) == ""


# ---- paths ---------------------------------------------------------------------------------------------


class Stepping(VAE):
    """A VAE with two updates, half of the way to `goal` and all of it."""

    goal = 0.0

    def latent_path(self, x, seed=None):
        start = super().latent_path(x, seed)[0]
        return tf.stack([start, 0.5 * (start + self.goal), tf.zeros_like(start) + self.goal])


def stepping(source, goal=0.0):
    """Returns a Stepping with the parts of a VAE."""
    model = Stepping(source.encoder, source.decoder, likelihood=source.likelihood, preprocessing=source.preprocessing)
    model.goal = np.float32(goal)
    return model


@pytest.mark.full
def test_path_of_updates(make_context, few_steps):
    source, weight, bias = linear_model(SIGMA)
    model = stepping(source, goal=0.1)
    context = make_context(model, event_shape=(7,), amortisation_images=20)
    found = dict(amortisation.run(context))
    x = context.dataset.test.x[context.choose(70, 20, "amortisation")]
    start = model.encode(x).mean().numpy()
    joint = []
    for t, z in enumerate((start, 0.5 * (start + 0.1), np.full_like(start, 0.1))):
        residual = x - z @ weight - bias
        log_prob = -0.5 * (residual**2).sum(-1) / SIGMA**2 - 3.5 * np.log(2 * np.pi * SIGMA**2)
        joint.append(log_prob - 0.5 * (z**2).sum(-1) - 1.5 * np.log(2 * np.pi))
        assert found[f"amortisation/log_joint/{t}"] == pytest.approx(joint[-1].mean(), rel=1e-4)
        assert found[f"amortisation/recon_error/{t}"] == pytest.approx(-log_prob.mean(), rel=1e-4)
        assert found[f"amortisation/mse/{t}"] == pytest.approx((residual**2).mean(), rel=1e-4)
    rose = np.diff(joint, axis=0) >= 0
    for t in (1, 2):
        assert found[f"amortisation/share_improved/{t}"] == pytest.approx(rose[t - 1].mean())
    assert found["amortisation/share_improved"] == pytest.approx(rose.all(axis=0).mean())
    assert found["amortisation/log_joint/2_stderr"] == pytest.approx(np.std(joint[2], ddof=1) / np.sqrt(20), rel=1e-3)
    assert "amortisation/log_joint/3" not in found
    assert {path.stem for path in context.figures} == {
        "amortisation_climb", "amortisation_latents", "amortisation_covariances"}  # fmt: skip
    with open(context.run.workdir / "amortisation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["log_joint_1"]) for row in rows], joint[1], rtol=1e-4)
    gap = [float(row["full_elbo"]) - float(row["elbo"]) for row in rows]
    assert np.mean(gap) == pytest.approx(found["amortisation/full/amortisation_gap"], rel=1e-5)


def test_images_figures_and_upstream_tags(make_context, few_steps):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = stepping(build("vae"))
    context = make_context(model, event_shape=model.event_shape, amortisation_images=9)
    found = evaluation.evaluate(context, ["amortisation"])
    assert {path.stem for path in context.figures} == {f"amortisation_{name}" for name in (
        "climb", "path", "latents", "covariances")}  # fmt: skip
    events = EventAccumulator(str(context.run.workdir / "tensorboard" / "evaluation"))
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {"data", "reconstruction_z", "generated", "reconstruction_mu/0", "reconstruction_mu/1", "reconstruction_mu",
            "test/loss", "test/loglikelihood", "kl_div", "recon_error", "recon_error/0", "recon_error/1"} <= tags
    assert not {"reconstruction_mu/2", "recon_error/2"} & tags

    def value(tag):
        return float(tf.make_ndarray(events.Tensors(tag)[0].tensor_proto))

    assert value("test/loss") == pytest.approx(value("kl_div") + value("recon_error"), rel=1e-5)
    assert value("test/loglikelihood") == pytest.approx(found["amortisation/log_likelihood"], rel=1e-5)
    assert value("recon_error/1") == pytest.approx(found["amortisation/recon_error/1"], rel=1e-5)
    # One draw of the bound against a thousand of the same q.
    draws = [model.elbo(to_unit(context.dataset.test.x), seeds.as_seed((i, 5))).numpy() for i in range(10)]
    assert value("test/loss") == pytest.approx(-np.mean(draws), abs=float(2 * np.std(draws)))


@pytest.mark.full
def test_a_model_without_updates_has_one_mean(make_context, few_steps):
    model = build("vae")
    found = dict(amortisation.run(make_context(model, event_shape=model.event_shape, amortisation_images=3)))
    assert "amortisation/log_joint/0" in found and "amortisation/share_improved" not in found
    assert found["amortisation/off_diagonal_correlation"] == 0.0
    assert found["amortisation/num_images"] == 3


# ---- latents in use ------------------------------------------------------------------------------------


class Implicit:
    """A distribution of which only draws are known."""

    def __init__(self, distribution):
        self.sample, self.log_prob = distribution.sample, distribution.log_prob

    def mean(self):
        raise NotImplementedError("No moments in closed form.")

    variance = covariance = mean


class Drawn(VAE):
    """A VAE that keeps the moments of its posterior to itself."""

    def encode(self, x, seed=None):
        return Implicit(super().encode(x, seed))


def unused_latent(cls, dim=7):
    """Returns a linear model of the class whose last latent is the prior's whatever x is."""
    source, *_ = linear_model(SIGMA, dim)
    kernel, offset = (np.array(part) for part in source.encoder.get_weights())
    kernel[:, [2, 3, 4, 5]] = 0.0
    offset[:] = (0.3, -0.2, 0.0, -2.0, -1.0, np.log(np.expm1(1.0)))
    source.encoder.set_weights([kernel, offset])
    return cls(source.encoder, source.decoder, likelihood=source.likelihood)


def test_active_units_and_aggregate_moments(make_context):
    context = make_context(unused_latent(VAE), event_shape=(7,))
    found, order = _finish(latent_use.report(context))
    q = context.model.encode(context.dataset.test.x)
    means, variances = q.mean().numpy(), q.variance().numpy()
    variance = means.var(axis=0) + variances.mean(axis=0)
    assert found["amortisation/active_units"] == 2 and order[-1] == 2
    assert found["amortisation/aggregate_mean_max"] == pytest.approx(np.abs(means.mean(axis=0)).max(), rel=1e-4)
    assert found["amortisation/aggregate_variance_min"] == pytest.approx(variance.min(), rel=1e-4)
    assert found["amortisation/aggregate_variance_max"] == pytest.approx(variance.max(), rel=1e-4)
    kl = tfd.kl_divergence(tfd.Normal(means.mean(0), np.sqrt(variance)), tfd.Normal(0.0, 1.0)).numpy().sum()
    assert found["amortisation/aggregate_kl"] == pytest.approx(kl, rel=1e-3, abs=1e-4)


@pytest.mark.full
def test_moments_from_draws_where_there_is_no_formula(make_context, few_steps, capsys):
    exact = latent_use.moments(make_context(unused_latent(VAE), event_shape=(7,)))
    context = make_context(unused_latent(Drawn), event_shape=(7,), amortisation_images=10)
    drawn = latent_use.moments(context)
    assert drawn[-1] == 70
    for known, found in zip(exact[:3], drawn[:3]):
        np.testing.assert_allclose(found, known, atol=0.04)
    # The noise of the draws alone would make a latent active: a variance of 1 over 100 draws.
    assert drawn[1][2] < 0.008
    results = evaluation.evaluate(context, ["amortisation"])
    assert results["amortisation/off_diagonal_correlation"] == "unsupported"
    assert np.isfinite(results["amortisation/full/off_diagonal_correlation"])
    assert np.isfinite(results["amortisation/full/amortisation_gap"])
    assert "No moments in closed form." in capsys.readouterr().err
    assert "amortisation_covariances" not in {path.stem for path in context.figures}


def test_correlation_off_the_diagonal():
    covariance = np.array([[[4.0, 1.0], [1.0, 1.0]], [[1.0, -0.25], [-0.25, 1.0]]])
    assert latent_use.off_diagonal(covariance) == pytest.approx((0.5 + 0.25) / 2)
    np.testing.assert_allclose(latent_use.correlation(covariance)[0], [[1.0, 0.5], [0.5, 1.0]])


def test_unsupported_without_a_bound(make_context, capsys):
    model = build("ae")
    found = evaluation.evaluate(make_context(model, event_shape=model.event_shape), ["amortisation"])
    assert found == {"amortisation": "unsupported"}
    assert "no likelihood to estimate" in capsys.readouterr().err


def _finish(generator):
    """Returns what a generator yielded, as a dictionary, and what it returned."""
    found = {}
    while True:
        try:
            key, value = next(generator)
        except StopIteration as stop:
            return found, stop.value
        found[key] = value
