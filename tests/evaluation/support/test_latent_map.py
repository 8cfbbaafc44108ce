"""The picture of the codes: whose stds its ellipses have, and what UMAP needs."""

import importlib.util

import numpy as np
import pytest
from battery import EVENT_SHAPE, build

from pae_zoo import evaluation
from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.support import latent_map
from pae_zoo.experiment import record
from pae_zoo.plotting import figures


def test_ellipses_have_the_std_of_the_code(make_context):
    context = make_context(build("vae"), event_shape=EVENT_SHAPE, num=30)
    _, variances = context.test_codes
    np.testing.assert_allclose(latent_map.spreads(context, variances, np.arange(5)), variances[:5])
    certain = make_context(build("ae"), event_shape=EVENT_SHAPE, num=30)
    assert latent_map.spreads(certain, np.zeros((30, 3)), np.arange(5)) is None


def test_ellipses_of_drawn_networks_are_between_networks(make_context, drawn_networks):
    context = make_context(drawn_networks, test_samples=7)
    found = latent_map.spreads(context, np.zeros((70, 2)), np.arange(4))
    x = context.dataset.test.x[:4].astype(np.float32) / 255
    draws = context.model.draw_codes(x, 7, context.network_seed).numpy()
    np.testing.assert_allclose(found, draws.var(axis=0), rtol=1e-4)


def test_outlines_lie_one_std_away():
    covariance = np.array([[2.0, 0.6], [0.6, 0.5]])
    (outline,) = figures.outlines(np.array([[1.0, -1.0]]), covariance[None])
    away = outline - [1.0, -1.0]
    np.testing.assert_allclose(np.einsum("ta,ab,tb->t", away, np.linalg.inv(covariance), away), 1.0, rtol=1e-9)


def test_umap_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'pae_zoo.umap.'"):
        evaluation.check(record.make(model="vae", latent_map="umap"))
