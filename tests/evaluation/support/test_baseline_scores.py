"""WAIC, likelihood ratios and scores of the posterior, against closed forms and sums by hand."""

import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, build
from linear_vae import linear_model
from scipy.stats import multivariate_normal

from pae_zoo import evaluation
from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.support.baseline_scores import Posterior, Ratio, Waic


class Run:
    """A work directory that holds a model."""

    models: dict = {}

    def __init__(self, workdir):
        self.model = self.models[workdir]

    def load_model(self):
        return self.model


def test_waic_of_members_is_by_hand(make_context):
    model = build("deep_ensemble_ae", num_members=3, test_samples=3)
    context = make_context(model, event_shape=EVENT_SHAPE, num=30, test_samples=3)
    x = context.dataset.test.x.astype(np.float32) / 255
    y = model.preprocess(x)[0]
    values = np.stack([model.likelihood.log_prob(model.member_outputs(model.member_codes(y, m), m), y).numpy()
                       for m in range(3)])  # fmt: skip
    np.testing.assert_allclose(Waic(context).of(x, "test")["waic"], values.var(axis=0) - values.mean(axis=0),
                               rtol=1e-3, atol=1e-2)  # fmt: skip


def test_waic_and_ratios_over_runs(make_context, monkeypatch):
    model = build("vae")
    other, misfit = build("vae", seed=9), build("vae", event_shape=(4, 4, 1))
    monkeypatch.setattr(Run, "models", {"other": other, "misfit": misfit, "here": model})
    flags = dict(ood_datasets=("noise",), num=30, ood_bootstrap=0)
    context = make_context(model, event_shape=EVENT_SHAPE, ood_workdirs=("other",), background_workdir="other", **flags)
    context.run = Run("here")
    x = context.dataset.test.x[:5].astype(np.float32) / 255
    first, second = (-one.ood_scores(x, (1, 2))["likelihood"].numpy() for one in (model, other))
    found = Waic(context)._scores(tf.constant(x), tf.constant((1, 2)))["waic"]
    np.testing.assert_allclose(found, ((first - second) / 2) ** 2 - (first + second) / 2, rtol=1e-4)
    found = Ratio(context)._scores(tf.constant(x), tf.constant((1, 2)))["ratio"]
    np.testing.assert_allclose(found, second - first, rtol=1e-3, atol=1e-3)
    context = make_context(model, event_shape=EVENT_SHAPE, background_workdir="misfit", **flags)
    context.run = Run("here")
    with pytest.raises(UserError, match="takes data of shape"):
        Ratio(context)
    for scores, flag in (("waic", "--ood_workdirs"), ("ratio", "--background_workdir")):
        context = make_context(model, event_shape=EVENT_SHAPE, scores=scores, **flags)
        assert evaluation.evaluate(context, ["ood"])[f"ood/{scores}"] == "unsupported"
        assert any(flag in note for note in context.notes)


def test_the_posterior_of_a_linear_decoder_has_its_evidence(make_context):
    model, weight, bias = linear_model()
    context = make_context(model, event_shape=(7,), jit_compile=False)
    x = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
    found = Posterior(context).of(x, "test")
    precision = np.eye(len(weight)) + weight @ weight.T / 0.3**2
    np.testing.assert_allclose(found["volume"], -0.5 * np.linalg.slogdet(precision)[1], rtol=1e-4)
    np.testing.assert_allclose(found["jacobian"], -0.5 * np.linalg.slogdet(weight @ weight.T)[1], rtol=1e-3)
    # Laplace at another point than the maximum: less by half the square of the distance under the precision.
    exact = multivariate_normal(bias, weight.T @ weight + 0.3**2 * np.eye(7)).logpdf(x)
    mean = (x - bias) @ weight.T @ np.linalg.inv(precision) / 0.3**2
    away = model.encode(x).mean().numpy() - mean
    less = 0.5 * np.einsum("nk,kl,nl->n", away, precision, away)
    np.testing.assert_allclose(-found["evidence"], exact - less, rtol=1e-3, atol=1e-2)
