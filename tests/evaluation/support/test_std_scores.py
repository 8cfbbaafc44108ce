"""Scores by standard deviations, against sums by hand, and the task that has them beside the model's own."""

import numpy as np
import pytest
from battery import EVENT_SHAPE, build

from pae_zoo import evaluation
from pae_zoo.evaluation.support.std_scores import StdScores


@pytest.fixture
def context_of(make_context):
    """Returns make(model name) -> context of a tiny model whose decoder gives variances."""
    flags = dict(scores="std", ood_datasets=("noise",), test_samples=6, ood_bootstrap=0, num=40)
    return lambda name: make_context(build(name, likelihood="gaussian_decoder"), event_shape=EVENT_SHAPE, **flags)


def test_scores_of_an_autoencoder_are_sums_of_what_it_decodes(context_of):
    context = context_of("ae")
    model, x = context.model, context.dataset.test.x.astype(np.float32) / 255
    found = StdScores(context).of(x, "test")
    outputs = model.decoder_outputs(model.codes(x))
    np.testing.assert_allclose(found["output"], np.sqrt(model.likelihood.variance(outputs)).sum((1, 2, 3)), rtol=1e-5)
    valid = -model.likelihood.log_prob(model.decoder_outputs(model.codes(context.dataset.valid.x)),
                                       model.preprocess(context.dataset.valid.x)[0]).numpy()  # fmt: skip
    own = model.ood_scores(x)["reconstruction"].numpy()
    np.testing.assert_allclose(found["typicality"], np.abs(own - valid.mean()), rtol=1e-4, atol=1e-3)
    assert set(found) == {"output", "typicality"}


def test_the_task_has_them_beside_the_elbo(context_of):
    context = context_of("vae")
    x = context.dataset.test.x.astype(np.float32) / 255
    latent = StdScores(context).of(x, "test")["latent"]
    np.testing.assert_allclose(latent, context.model.encode(x).stddev().numpy().sum(axis=1), rtol=1e-4)
    found = evaluation.evaluate(context, ["ood"])
    for score in ("elbo", "latent", "output", "typicality"):
        assert 0 <= found[f"ood/noise/{score}/auroc"] <= 1 and 0 <= found[f"ood/noise/{score}/fpr50"] <= 1


def test_models_without_stds_say_so(make_context):
    flags = dict(scores="std", ood_datasets=("noise",), ood_bootstrap=0, num=40)
    found = evaluation.evaluate(make_context(build("ae"), event_shape=EVENT_SHAPE, **flags), ["ood"])
    assert found["ood/std"] == "unsupported" and "ood/noise/reconstruction/auroc" in found
