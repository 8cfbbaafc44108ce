"""The density of codes: baselines against closed forms, keys, a Gaussian model against the Gaussian baseline."""

import numpy as np
import pytest
from battery import build
from scipy.integrate import trapezoid
from scipy.stats import multivariate_normal, norm

from pae_zoo.evaluation import UNSUPPORTED, evaluate
from pae_zoo.evaluation.metrics import density_baselines
from pae_zoo.evaluation.tasks import density


@pytest.fixture
def codes():
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(3, 3))
    return (generator.normal(size=(600, 3)) @ mixing + 2.0).astype(np.float32)


def test_the_gaussian_is_the_one_of_the_codes(codes):
    found = density_baselines.gaussian(codes, codes, 0)
    expected = multivariate_normal(codes.mean(0), np.cov(codes.T)).logpdf(codes[:40])
    np.testing.assert_allclose(found.log_prob(codes[:40]), expected, rtol=1e-5)


@pytest.mark.parametrize("name", list(density_baselines.BASELINES))
def test_a_baseline_is_a_density_and_samples_from_itself(name):
    """In one dimension the density integrates to one, and samples have the moments of the codes."""
    generator = np.random.default_rng(1)
    values = np.where(generator.random(800) < 0.3, -4.0, 1.0) + 0.5 * generator.normal(size=800)
    codes = values[:, None].astype(np.float32)
    found = density_baselines.BASELINES[name](codes, codes[:200], 0)
    grid = np.linspace(-25, 25, 20_001)[:, None]
    assert trapezoid(np.exp(found.log_prob(grid)), grid[:, 0]) == pytest.approx(1.0, abs=1e-3)
    drawn = found.sample(20_000, np.random.default_rng(2))
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.1)
    assert drawn.std() == pytest.approx(values.std(), rel=0.1)


def test_two_clumps_are_told_from_a_gaussian(codes):
    generator = np.random.default_rng(1)
    clumps = np.where(generator.random((800, 1)) < 0.5, -4.0, 4.0) + 0.3 * generator.normal(size=(800, 2))
    train, test = clumps[:600].astype(np.float32), clumps[600:].astype(np.float32)
    nll = {name: -fit(train, test, 0).log_prob(test).mean() for name, fit in density_baselines.BASELINES.items()}
    # Truth: -E log of 0.5 (N(-4, 0.09 I) + N(4, 0.09 I)), whose parts do not overlap.
    truth = np.log(2) + 2 * norm(scale=0.3).entropy()
    assert nll["mixture"] == pytest.approx(truth, abs=0.15)
    assert nll["kernel"] < nll["gaussian"] - 0.5


def test_keys_of_a_pae(make_context, feature_file):
    shape = (8, 8, 1)
    model = build("pae", event_shape=shape, density="flow", density_components=0)
    context = make_context(model, event_shape=shape, ood_datasets=("noise",), fid_weights=str(feature_file(shape)))
    model.flow.adapt(model.stage_codes(context.dataset.train.x))
    found = evaluate(context, ["density"])
    for name in (density.MODEL, *density_baselines.BASELINES):
        for key in ("nll", "frechet", "frechet_r", "c2st", "class_gap", "coverage", "auroc/noise"):
            assert np.isfinite(found[f"density/{name}/{key}"]), (name, key)
    assert np.isfinite(found["density/manifold"])
    # The training codes themselves are sampled from, and are no density.
    assert np.isfinite(found[f"density/{density.TRAINING_CODES}/frechet_r"])
    assert found[f"density/{density.TRAINING_CODES}/variance_ratio"] == pytest.approx(1.0, abs=0.05)
    assert f"density/{density.TRAINING_CODES}/nll" not in found
    # A flow that is still the identity behind its whitening is the Gaussian of the codes.
    assert found["density/model/nll"] == pytest.approx(found["density/gaussian/nll"], abs=0.2)
    assert found["density/base_square"] == pytest.approx(1.0, abs=0.1)
    assert {"density_base", "density_samples"} <= {path.stem for path in context.figures}


def test_a_vae_is_compared_too_and_vectors_have_no_pictures(make_context):
    model = build("vae", event_shape=(4,))
    context = make_context(model, event_shape=(4,))
    found = evaluate(context, ["density"])
    assert found["density/manifold"] == UNSUPPORTED
    assert "density/model/frechet" not in found and np.isfinite(found["density/kernel/nll"])


def test_a_model_without_a_density_is_unsupported(make_context):
    found = evaluate(make_context(build("ae", event_shape=(8, 8, 1))), ["density"])
    assert found == {"density": UNSUPPORTED}
