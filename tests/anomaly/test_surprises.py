"""Surprises, p-values and discoveries: against SciPy and by simulation."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from pae_zoo import anomaly
from pae_zoo.core.errors import UserError


def test_surprises_are_shares_within_the_data_and_a_pareto_tail_beyond():
    scores = np.random.default_rng(0).exponential(size=2001)
    tail = anomaly.tail(scores)
    np.testing.assert_allclose(tail.threshold, np.quantile(scores, 0.9))
    middle = np.median(scores)
    np.testing.assert_allclose(tail.surprise(np.array([middle])), -np.log(1001.5 / 2002), rtol=1e-9)
    far = np.array([3.0, 5.0, 20.0])
    expected = 0.1 * stats.genpareto(tail.shape, tail.threshold, tail.scale).sf(far)
    np.testing.assert_allclose(tail.surprise(far), -np.log(expected), rtol=1e-9)
    # Of exponential scores p = exp(-s).
    np.testing.assert_allclose(tail.surprise(far), far, rtol=0.2)
    assert np.isnan(tail.surprise(np.array([np.nan]))).all()


def test_tied_scores_have_no_tail():
    tail = anomaly.tail(np.ones(50))
    np.testing.assert_allclose(tail.surprise(np.array([0.5, 1.0, 2.0])), -np.log(np.array([50.5, 50.5, 0.5]) / 51))


def test_pvalues_of_exchangeable_scores_are_valid():
    generator = np.random.default_rng(0)
    p = np.concatenate([anomaly.pvalues(*np.split(generator.normal(size=300), [100])) for _ in range(60)])
    for level in (0.01, 0.05, 0.10):
        # Rows that share a calibration are not independent: the band is that of sixty calibrations.
        slack = 3 * np.sqrt(level * (1 - level) * (1 / 6000 + 1 / (200 * 60)))
        assert abs(np.mean(p <= level) - level) < slack + 1 / 201
    assert anomaly.pvalues(np.array([9.0, np.nan]), np.zeros(9)).tolist()[0] == 0.1


def test_discoveries_are_those_of_scipy():
    p = np.random.default_rng(0).uniform(size=200) ** 3
    for fdr in (0.05, 0.2):
        np.testing.assert_array_equal(anomaly.discoveries(p, fdr), stats.false_discovery_control(p) <= fdr)
    assert not anomaly.discoveries(np.array([0.9, np.nan]), 0.05).any()
    with pytest.raises(UserError, match="received 1"):
        anomaly.discoveries(p, 1.0)


def test_a_smooth_maximum_lies_just_above_the_maximum():
    values = np.array([[0.0, 1.0, 300.0], [0.0, 2.0, 1.0]])
    np.testing.assert_allclose(anomaly.smooth_maximum(list(values), [1.0, 1.0]), [0.0, 2.0, 300.0], rtol=1e-5)
    np.testing.assert_allclose(anomaly.smooth_maximum([np.ones(1)] * 2, [1.0, 0.1]), 1.1 ** (1 / 16))


def test_scores_are_taken_as_models_give_them():
    x = np.random.default_rng(2).normal(size=(2, 50)).astype(np.float32)
    held_out = {"a": tf.constant(x[0]), "b": x[1]}
    combined = anomaly.Combined(held_out)
    again = anomaly.Combined({name: np.asarray(one, np.float64) for name, one in held_out.items()})
    np.testing.assert_allclose(combined.score(held_out).scores, again.calibration, rtol=1e-6)
