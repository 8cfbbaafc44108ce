"""Scores as the code of Miani et al. computes them, against sums by hand and the models' own."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, build
from tiers import some

from pae_zoo import evaluation
from pae_zoo.evaluation.support import published_scores
from pae_zoo.evaluation.support.published_scores import ERROR_OF_MEAN, MEAN_ERROR, STANDARDISED
from pae_zoo.evaluation.tasks import ood

rng = np.random.default_rng(0)
DRAWS = rng.normal(size=(7, 4, 3, 2)).astype(np.float32)  # networks, data, values
Y = rng.normal(size=(4, 3, 2)).astype(np.float32)
CODES = rng.random((4, 5)).astype(np.float32)
MOMENTS = {"mean": tf.constant(DRAWS.mean(0)), "epistemic_variance": tf.constant(DRAWS.var(0)),
           "aleatoric_variance": tf.fill((4, 3, 2), 0.25), "latent_variance": tf.constant(CODES**2)}  # fmt: skip


@pytest.mark.parametrize("kind, expected", [
    (MEAN_ERROR, np.mean(np.sum((DRAWS - Y) ** 2, axis=(2, 3)), axis=0)),
    (ERROR_OF_MEAN, np.mean((DRAWS.mean(0) - Y) ** 2, axis=(1, 2))),
    (STANDARDISED, np.mean((DRAWS.mean(0) - Y) ** 2 / DRAWS.var(0) + np.log(DRAWS.std(0)), axis=(1, 2))),
])
def test_likelihoods_are_those_of_the_drawn_networks(kind, expected):
    found = published_scores.scores(kind, tf.constant(Y), MOMENTS, False)
    np.testing.assert_allclose(found["likelihood"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["output"], DRAWS.std(0).sum(axis=(1, 2)), rtol=1e-4)
    np.testing.assert_allclose(found["latent"], CODES.sum(axis=1), rtol=1e-5)
    decoded = published_scores.scores(kind, tf.constant(Y), MOMENTS, True)
    np.testing.assert_allclose(decoded["output"], 0.5 * 6, rtol=1e-6)


@pytest.mark.parametrize("name", some(["mcdropout_ae", "deep_ensemble_ae", "lae"], ["mcdropout_ae"]))
def test_the_task_has_them_beside_the_models_own(name, make_context):
    flags = dict(scores="published", ood_datasets=("noise",), test_samples=6, ood_bootstrap=0, num=60)
    context = make_context(build(name, test_samples=6), event_shape=EVENT_SHAPE, **flags)
    context.hparams = dataclasses.replace(context.hparams, model=name)
    found = evaluation.evaluate(context, ["ood"])
    for score in ("output", "latent", "likelihood", "typicality"):
        assert 0 <= found[f"ood/noise/published_{score}/auroc"] <= 1
    assert any(key.endswith("/auroc") and "published" not in key for key in found)
    assert found["ood/noise/published_output/fpr90"] >= found["ood/noise/published_output/fpr10"]


def test_models_without_a_counterpart_say_so(make_context, linear_gaussian):
    flags = dict(scores="published", ood_datasets=("noise",), ood_bootstrap=0, num=60)
    context = make_context(linear_gaussian, **flags)
    context.hparams = dataclasses.replace(context.hparams, model="hf")
    other = evaluation.evaluate(context, ["ood"])
    assert other["ood/published"] == "unsupported" and not any("published_" in key for key in other)


def test_shares_flagged_and_mean_scores():
    # Of four OOD scores half are found above 3, where one of four test scores is flagged.
    inside, outside = np.array([0.0, 1.0, 2.0, 5.0]), np.array([0.5, 1.5, 4.0, 6.0])
    found = dict(ood.by_level("a", inside, outside))
    assert found["a/mean_in"] == 2.0 and found["a/mean_out"] == 3.0
    expected = {0: 0.0, 10: 0.0, 20: 0.0, 30: 0.25, 40: 0.25, 50: 0.25, 60: 0.5, 70: 0.5, 80: 0.75, 90: 0.75}
    assert {percent: found[f"a/fpr{percent}"] for percent in expected} == expected
