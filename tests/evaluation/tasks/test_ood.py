"""AUROC and its kin against the rank statistic, OOD sets and their conversion."""

import csv

import numpy as np
import pytest

from pae_zoo import data
from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.metrics import outlier_baselines
from pae_zoo.evaluation.support.outliers import Outliers
from pae_zoo.evaluation.tasks import ood


def rank_statistic(inside, outside):
    larger = (outside[:, None] > inside[None]).mean()
    return larger + 0.5 * (outside[:, None] == inside[None]).mean()


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
    with pytest.raises(UserError, match="dataset='mnits' is unknown; .*did you mean mnist"):
        list(ood.run(make_context(ood_datasets=("mnist", "mnits"))))


def test_other_classes_are_what_the_run_leaves_out(make_context):
    context = make_context(dataset="digits", classes=(0, 1), ood_datasets=("other_classes",))
    results = dict(ood.run(context))
    assert results["ood/other_classes/num"] == len(data.load("digits", classes=(0, 1), others=True).test)
    assert 0 <= results["ood/other_classes/reconstruction/auroc"] <= 1
    for classes, words in (((), "the run has none"), (range(10), "digits has no other labels")):
        hparams = make_context(dataset="digits", classes=tuple(classes), ood_datasets=("other_classes",)).hparams
        with pytest.raises(UserError, match=words):
            ood.check_data(hparams, context.dataset)


def test_other_classes_of_a_table_have_the_columns_of_the_run(make_context, tmp_path):
    rows = [f"{i % 7},{'abc'[i % 3]},{i % 5},{'yes' if i % 10 == 0 else 'no'}" for i in range(60)]
    (tmp_path / "a.csv").write_text("size,kind,weight,broken\n" + "\n".join(rows))
    flags = dict(dataset=f"csv:{tmp_path}/a.csv", label_column="broken", classes=(0,))
    own = data.load(flags["dataset"], label_column="broken", classes=(0,))
    context = make_context(event_shape=own.event_shape, ood_datasets=("other_classes",), **flags)
    context.dataset = own
    ood.check_data(context.hparams, own)
    (x, _), = ood.load_sets(context).values()
    assert x.shape == (6, *own.event_shape)
    np.testing.assert_array_equal(sorted(x[:, 0]), sorted(i % 7 for i in range(0, 60, 10)))


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


def test_simple_detectors_stand_beside_the_scores(make_context, capsys):
    context = make_context(ood_datasets=("noise",), baselines=True)
    results = dict(ood.run(context))
    for name in (name for name, one in outlier_baselines.DETECTORS.items() if one.of != "rows"):
        assert 0 <= results[f"ood/noise/baseline_{name}/auroc"] <= 1
        assert results[f"ood/baselines/{name}/seconds"] >= 0
    # Noise lies off every plane and away from every image.
    assert results["ood/noise/baseline_pca_error/auroc"] == results["ood/noise/baseline_knn_pixels/auroc"] == 1.0
    assert "fitted to 70 of 70 training data" in capsys.readouterr().err
    with open(context.run.workdir / "ood_noise.csv") as file:
        assert "baseline_mahalanobis" in next(csv.reader(file))


def test_columns_of_vectors_are_in_units_of_their_own(make_context):
    outliers = Outliers(make_context(event_shape=(3,)))
    x = outliers.context.dataset.train.x
    assert set(outliers.scores) == set(outlier_baselines.DETECTORS)
    np.testing.assert_allclose(outliers.rows["rows"].std(axis=0), 1, rtol=1e-5)
    known = outliers.of(x, "test")
    stretched = make_context(event_shape=(3,))
    object.__setattr__(stretched.dataset.train, "x", x * np.float32([1, 1000, 1e-3]))
    again = Outliers(stretched)
    found = again.of(x * np.float32([1, 1000, 1e-3]), "test")
    for name in ("knn_pixels", "pca_error", "anomaly_detector"):
        np.testing.assert_allclose(found[f"baseline_{name}"], known[f"baseline_{name}"], rtol=2e-3, atol=1e-4)


def test_without_codes_the_pixels_are_left(make_context, linear_gaussian, capsys):
    class Codeless(linear_gaussian):
        def encode(self, x, seed=None):
            raise NotImplementedError("There are no codes.")

    outliers = Outliers(make_context(Codeless))
    assert set(outliers.of(outliers.context.dataset.test.x, "test")) == {
        "baseline_pca_error", "baseline_knn_pixels", "baseline_isolation_forest"}
    assert "no baselines of codes. There are no codes." in capsys.readouterr().err
