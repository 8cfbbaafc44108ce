"""AUROC and its kin against the rank statistic, OOD sets and their conversion."""

import csv

import numpy as np
import pytest

from pae_zoo import data
from pae_zoo.errors import UserError
from pae_zoo.evaluation import ood


def rank_statistic(inside, outside):
    larger = (outside[:, None] > inside[None]).mean()
    return larger + 0.5 * (outside[:, None] == inside[None]).mean()


@pytest.mark.parametrize("levels", [3, 1000, None])
def test_auroc_is_the_rank_statistic_ties_included(levels):
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(size=400), generator.normal(0.7, 1.5, size=300)
    if levels:
        inside, outside = np.round(inside * levels / 6), np.round(outside * levels / 6)
    found = ood.detection(inside, outside)
    assert found["auroc"] == pytest.approx(rank_statistic(inside, outside), abs=1e-12)
    swapped = ood.detection(outside, inside)
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
    found = ood.auroc_stderr(inside, outside)
    assert found == pytest.approx(np.std(resampled), rel=0.06, abs=1e-9)  # 6,000 resamples know it to 1 %


def test_perfect_scores_have_no_error_and_order_is_all_that_counts():
    assert ood.auroc_stderr(np.arange(50.0), np.arange(100.0, 120.0)) == 0.0
    inside, outside = np.random.default_rng(0).normal(size=(2, 80))
    found = ood.auroc_stderr(inside, outside)
    assert ood.auroc_stderr(np.exp(inside), np.exp(outside)) == found > 0.02
    assert ood.auroc_stderr(outside, inside) == pytest.approx(found)


def test_perfect_and_random_scores():
    perfect = ood.detection(np.arange(50.0), np.arange(100.0, 120.0))
    assert perfect == pytest.approx({"auroc": 1.0, "auprc": 1.0, "fpr95": 0.0, "fpr80": 0.0})
    generator = np.random.default_rng(0)
    random = ood.detection(generator.normal(size=20_000), generator.normal(size=20_000))
    assert random["auroc"] == pytest.approx(0.5, abs=0.01)
    assert random["fpr95"] == pytest.approx(0.95, abs=0.01)
    assert random["fpr80"] == pytest.approx(0.8, abs=0.01)
    assert random["auprc"] == pytest.approx(0.5, abs=0.01)


def test_constant_scores_are_chance():
    found = ood.detection(np.zeros(30), np.zeros(10))
    assert found == {"auroc": 0.5, "auprc": 0.25, "fpr95": 1.0, "fpr80": 1.0}


def test_infinities_keep_their_order_and_nan_is_the_most_unusual():
    found = ood.detection(np.array([0.0, 1.0, -np.inf]), np.array([np.inf, np.nan, 2.0]))
    assert found["auroc"] == 1.0


def test_default_sets_are_made_from_the_data(make_context, capsys):
    context = make_context()
    results = dict(ood.run(context))
    for name in ("constant", "noise", "hflip", "vflip"):
        for key in ("auroc", "auprc", "fpr95", "fpr80"):
            assert 0 <= results[f"ood/{name}/reconstruction/{key}"] <= 1
        assert 0 <= results[f"ood/{name}/reconstruction/auroc_stderr"] < 0.1
        assert results[f"ood/{name}/prevalence"] == 0.5 and results[f"ood/{name}/num"] == 70
    assert results["ood/noise/reconstruction/auroc"] > 0.9
    kinds = {path.stem for path in context.figures}
    assert {"ood_noise_scores", "ood_noise_curves", "ood_noise_codes"} <= kinds
    with open(context.run.workdir / "ood_noise.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 140 and {"out", "index", "reconstruction", "kl", "elbo"} == set(rows[0])
    scores = np.array([float(row["kl"]) for row in rows])
    out = np.array([int(row["out"]) for row in rows])
    expected = rank_statistic(scores[out == 0], scores[out == 1])
    assert results["ood/noise/kl/auroc"] == pytest.approx(expected, abs=1e-9)


def test_only_the_named_sets_run(make_context):
    results = dict(ood.run(make_context(ood_datasets=("noise",))))
    assert {key.split("/")[1] for key in results} == {"noise"}


def test_vectors_need_named_sets(make_context, monkeypatch, capsys):
    assert dict(ood.run(make_context(event_shape=(3,)))) == {}
    assert "--ood_datasets" in capsys.readouterr().err
    with pytest.raises(UserError, match="made from images"):
        list(ood.run(make_context(event_shape=(3,), ood_datasets=("hflip",))))
    split = data.Split(np.zeros((20, 3), np.float32) + 9)
    loaded = data.Dataset("far", split, split, split, (3,), data.Info("Far", (3,), "reals", "none", "test"))
    monkeypatch.setattr(data, "check_name", lambda name: None)
    monkeypatch.setattr(data, "load", lambda name, **options: loaded)
    results = dict(ood.run(make_context(event_shape=(3,), ood_datasets=("far",))))
    assert results["ood/far/reconstruction/auroc"] == 1.0


def test_unknown_set_is_refused_before_any_is_loaded(make_context, monkeypatch):
    monkeypatch.setattr(data, "load", lambda name, **options: pytest.fail("loaded"))
    with pytest.raises(UserError, match="Unknown dataset 'mnits'. Did you mean mnist"):
        list(ood.run(make_context(ood_datasets=("mnist", "mnits"))))


def test_a_set_named_twice_is_refused(make_context):
    with pytest.raises(UserError, match="twice"):
        list(ood.run(make_context(ood_datasets=("noise", "noise"))))


def test_other_shapes_are_converted_and_told(make_context, monkeypatch, capsys):
    x = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
    split = data.Split(x, None)
    info = data.Info("Other", (16, 16, 3), "[0, 1]", "none", "test")
    loaded = data.Dataset("other", split, split, split, (16, 16, 3), info)
    asked = {}
    monkeypatch.setattr(data, "check_name", lambda name: None)
    monkeypatch.setattr(data, "load", lambda name, **options: asked.update(options, name=name) or loaded)
    results = dict(ood.run(make_context(ood_datasets=("other",), data_dir="somewhere", download=False)))
    assert asked["ood"] and asked["data_dir"] == "somewhere" and not asked["download"]
    assert results["ood/other/converted"].startswith("converted from 16x16x3 to 8x8x1")
    assert "converted from 16x16x3 to 8x8x1" in capsys.readouterr().err
    assert results["ood/other/prevalence"] == pytest.approx(20 / 90)


def test_conversions():
    grey = np.full((3, 10, 12, 1), 100, np.uint8)
    rgb, told = ood.convert("a", grey, (5, 6, 3))
    assert rgb.shape == (3, 5, 6, 3) and rgb.dtype == np.uint8 and (rgb == 100).all()
    assert "RGB" in told and "resized" in told
    colour = np.zeros((3, 4, 4, 3), np.float32)
    colour[..., 1] = 1.0
    back, _ = ood.convert("a", colour, (4, 4, 1))
    np.testing.assert_allclose(back, 0.587, atol=1e-6)
    same, told = ood.convert("a", grey, (10, 12, 1))
    assert same is grey and told == ""


@pytest.mark.parametrize("shapes", [((5,), (4,)), ((8, 8, 1), (64,)), ((64,), (8, 8, 1)), ((8, 8, 4), (8, 8, 1))])
def test_shapes_that_cannot_be_converted_are_refused(shapes):
    with pytest.raises(UserError, match="the model takes"):
        ood.convert("other", np.zeros((2, *shapes[0]), np.float32), shapes[1])
