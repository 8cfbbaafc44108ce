"""Sampled latents beside codes: what has the wrong mass, the wrong spread, or no codes beside it."""

import dataclasses

import numpy as np
import pytest
import tensorflow_probability as tfp

from pae_zoo import data
from pae_zoo.evaluation import evaluate
from pae_zoo.evaluation.support import code_quality


@pytest.fixture
def clumps(make_context, linear_gaussian):
    """Returns (context, draw): codes are the data, three clumps of equal shares; draw(shares, seed) makes more."""
    centres = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])

    def draw(shares, seed, num=900):
        generator = np.random.default_rng(seed)
        labels = generator.choice(3, num, p=shares)
        return (centres[labels] + 0.5 * generator.normal(size=(num, 2))).astype(np.float32), labels

    class Itself(linear_gaussian):
        """A model whose codes are the data."""

        def encode(self, x, seed=None):
            return tfp.distributions.VectorDeterministic(x)

    context = make_context(Itself, event_shape=(2,))
    even = np.full(3, 1 / 3)
    train, test = (data.Split(*draw(even, seed)) for seed in (0, 1))
    context.dataset = dataclasses.replace(context.dataset, train=train, test=test)
    return context, draw


def test_further_codes_pass_and_a_missing_clump_is_found(clumps):
    context, draw = clumps
    sampled = {"good": draw(np.full(3, 1 / 3), 2)[0], "lost": draw([0.5, 0.5, 0.0], 3)[0]}
    found = dict(code_quality.latent_quality(context, "all", sampled))
    assert abs(found["good/c2st"] - 0.5) < 4 * found["good/c2st_stderr"] < found["lost/c2st"] - 0.5
    assert found["good/variance_ratio"] == pytest.approx(1.0, abs=0.1)
    assert found["good/cells"] == pytest.approx(found["all/cells_sampling"], rel=0.35)
    # A third of the codes has no sample: so much mass is in the wrong place, but for sampling.
    assert found["lost/classes"] == pytest.approx(1 / 3, abs=0.05)
    assert found["lost/class_gap"] == pytest.approx(1 / 3, abs=0.05) and found["lost/cells"] > 1 / 3
    assert found["good/class_gap"] < 0.06


def test_samples_that_are_not_finite_give_nan(clumps):
    context, draw = clumps
    broken = draw(np.full(3, 1 / 3), 2)[0]
    broken[4, 1] = np.inf
    found = dict(code_quality.latent_quality(context, "all", {"broken": broken}))
    assert np.isnan([found[f"broken/{name}"] for name in (*code_quality.MEASURES, *code_quality.CLASS_MEASURES)]).all()


def test_too_few_codes_are_told(make_context, capsys):
    found = evaluate(make_context(num=12, event_shape=(3,)), ["generation"])
    assert found["generation/c2st"] == "unsupported"
    assert "by 20 codes at least; there are 12" in capsys.readouterr().err
