"""Figures of merit of scores against the rank statistic, scikit-learn and naive resampling."""

import numpy as np
import pytest
from sklearn import metrics

from pae_zoo.evaluation.metrics import detection


def rank_statistic(inside, outside):
    larger = (outside[:, None] > inside[None]).mean()
    return larger + 0.5 * (outside[:, None] == inside[None]).mean()


@pytest.mark.parametrize("levels", [3, 1000, None])
def test_auroc_is_the_rank_statistic_ties_included(levels):
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(size=400), generator.normal(0.7, 1.5, size=300)
    if levels:
        inside, outside = np.round(inside * levels / 6), np.round(outside * levels / 6)
    found = detection.detection(inside, outside)
    assert found["auroc"] == pytest.approx(rank_statistic(inside, outside), abs=1e-12)
    swapped = detection.detection(outside, inside)
    assert swapped["auroc"] == pytest.approx(1 - found["auroc"], abs=1e-12)


@pytest.mark.parametrize("levels", [1, 4, None])
@pytest.mark.parametrize("sizes", [(60, 40), (3, 2), (1, 30)])
def test_error_of_auroc_is_that_of_resampled_scores(levels, sizes):
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(size=sizes[0]), generator.normal(0.7, 1.5, size=sizes[1])
    if levels:
        inside, outside = np.round(inside * levels / 6), np.round(outside * levels / 6)
    resampled = [
        rank_statistic(generator.choice(inside, len(inside)), generator.choice(outside, len(outside)))
        for _ in range(6000)
    ]
    found = detection.auroc_stderr(inside, outside)
    assert found == pytest.approx(np.std(resampled), rel=0.06, abs=1e-9)  # 6,000 resamples know it to 1 %


def test_perfect_scores_have_no_error_and_order_is_all_that_counts():
    assert detection.auroc_stderr(np.arange(50.0), np.arange(100.0, 120.0)) == 0.0
    inside, outside = np.random.default_rng(0).normal(size=(2, 80))
    found = detection.auroc_stderr(inside, outside)
    assert detection.auroc_stderr(np.exp(inside), np.exp(outside)) == found > 0.02
    assert detection.auroc_stderr(outside, inside) == pytest.approx(found)


def test_perfect_and_random_scores():
    perfect = detection.detection(np.arange(50.0), np.arange(100.0, 120.0))
    assert perfect == pytest.approx(
        {"auroc": 1.0, "auprc": 1.0, "auprc_in": 1.0, "fpr95": 0.0, "fpr80": 0.0})
    generator = np.random.default_rng(0)
    random = detection.detection(generator.normal(size=20_000), generator.normal(size=20_000))
    assert random["auroc"] == pytest.approx(0.5, abs=0.01)
    assert random["fpr95"] == pytest.approx(0.95, abs=0.01)
    assert random["fpr80"] == pytest.approx(0.8, abs=0.01)
    assert random["auprc"] == pytest.approx(0.5, abs=0.01)


def test_constant_scores_are_chance():
    found = detection.detection(np.zeros(30), np.zeros(10))
    assert found == {"auroc": 0.5, "auprc": 0.25, "auprc_in": 0.75, "fpr95": 1.0, "fpr80": 1.0}


def test_infinities_keep_their_order_and_nan_is_the_most_unusual():
    found = detection.detection(np.array([0.0, 1.0, -np.inf]), np.array([np.inf, np.nan, 2.0]))
    assert found["auroc"] == 1.0


def rounded_normals(sizes, levels):
    generator = np.random.default_rng(3)
    inside, outside = generator.normal(size=sizes[0]), generator.normal(0.7, 1.5, size=sizes[1])
    return (inside, outside) if levels is None else (np.round(inside * levels / 6), np.round(outside * levels / 6))


@pytest.mark.parametrize("levels", [4, 40, None])
def test_areas_and_curves_are_those_of_scikit_learn(levels):
    inside, outside = rounded_normals((300, 200), levels)
    labels, scores = np.repeat([0, 1], [300, 200]), np.concatenate([inside, outside])
    found = detection.detection(inside, outside)
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
    assert found["auprc"] == pytest.approx(metrics.average_precision_score(labels, scores), abs=1e-12)
    assert found["auprc_in"] == pytest.approx(metrics.average_precision_score(1 - labels, -scores), abs=1e-12)
    fpr, tpr, precision = detection.curves(inside, outside)
    expected = metrics.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose((fpr, tpr), (expected[0][1:], expected[1][1:]), atol=1e-12)
    expected = metrics.precision_recall_curve(labels, scores)
    np.testing.assert_allclose(precision[::-1], expected[0][:-1], atol=1e-12)
    np.testing.assert_allclose(tpr[::-1], expected[1][:-1], atol=1e-12)


def test_false_positive_rates_by_hand():
    inside, outside = np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([9.0, 8.0, 3.5, 2.5, 0.5])
    found = detection.detection(inside, outside)
    assert found["fpr80"] == 0.4  # four of five at 2.5, above which lie 3 and 4
    assert found["fpr95"] == 0.8  # all five at 0.5
    tied = detection.detection(np.array([1.0, 2.0]), np.array([2.0, 2.0, 2.0, 2.0, 3.0]))
    assert tied["fpr80"] == tied["fpr95"] == 0.5


@pytest.mark.parametrize("levels", [3, None])
def test_intervals_are_those_of_naive_resampling(levels, monkeypatch):
    inside, outside = rounded_normals((60, 40), levels)
    generator, naive = np.random.default_rng(5), []
    for _ in range(800):
        naive.append(detection.detection(generator.choice(inside, 60), generator.choice(outside, 40)))
    monkeypatch.setattr(detection, "CHUNK", 60 * 300)  # several pieces, the last one short
    found = detection.intervals(inside, outside, 800, np.random.default_rng(6))
    assert set(found) == set(naive[0])
    for name, (low, high) in found.items():
        expected = np.quantile([row[name] for row in naive], (0.025, 0.975))
        np.testing.assert_allclose((low, high), expected, atol=0.05, err_msg=name)


def test_counts_of_resamples_are_of_the_data():
    """Each resample has as many data as the set, and takes each datum equally often in the long run."""
    places = np.array([0, 0, 0, 3])
    counts = detection._resampled(places, 5, 4000, np.random.default_rng(0))
    assert counts.shape == (4000, 5) and (counts.sum(axis=1) == 4).all()
    np.testing.assert_allclose(counts.mean(axis=0), [3, 0, 0, 1, 0], atol=0.06)


def test_intervals_of_certain_scores_have_no_width():
    found = detection.intervals(np.arange(50.0), np.arange(100.0, 120.0), 20, np.random.default_rng(0))
    assert found["auroc"] == found["auprc"] == (1.0, 1.0) and found["fpr95"] == (0.0, 0.0)
    assert detection.intervals(np.zeros(9), np.zeros(7), 20, np.random.default_rng(0))["auroc"] == (0.5, 0.5)
