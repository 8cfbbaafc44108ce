"""The tasks imputation and downstream on a linear model with drawn networks."""

import csv
import dataclasses

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from pae_zoo import evaluation
from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.support import imputing
from pae_zoo.evaluation.tasks import downstream

MASKED = {"mse_hidden", "mse_hidden_stderr", "rmse_hidden", "std_hidden", "std_error_correlation", "coverage90_hidden"}
ERRORS = {"sse_mean", "mean_sse", "sse_mean_corrupted", "mean_sse_corrupted"}


def rows(context, name):
    with open(context.run.workdir / name, newline="") as file:
        return list(csv.DictReader(file))


def keys(found, slug):
    return {key.removeprefix(f"imputation/{slug}/") for key in found if key.startswith(f"imputation/{slug}/")}


# ---- masks ---------------------------------------------------------------------------------------------


def test_named_masks():
    def hidden(text, shape=(28, 28, 1)):
        return ~imputing.seen(text, shape, 3, 0)

    assert not hidden("full").any() and hidden("noise").all()
    assert hidden("half")[:, :14].all() and not hidden("half")[:, 14:].any()
    block = hidden("region")
    assert block[:, 9:19, 9:19].all() and block.sum() == 3 * 100
    assert hidden("region", (8, 8, 3)).sum() == 3 * 9 * 3
    assert hidden("half", (5,)).sum() == 3 * 2
    assert hidden("pixels:0.5", (10, 10, 1)).reshape(3, -1).sum(axis=1).tolist() == [50, 50, 50]
    with pytest.raises(NotImplementedError, match="block of an image"):
        imputing.seen("region", (5,), 3, 0)


def test_words_of_masks():
    found = imputing.parse(("half", "rectangle:1", "2", "3", "4", "rows:0-3", "pixels:0.5"))
    assert found == {"half": "half", "rectangle-1-2-3-4": "rectangle:1,2,3,4", "rows-0-3": "rows:0-3",
                     "pixels-0.5": "pixels:0.5"}  # fmt: skip
    for words in (("rectangle:1", "2"), ("3",), ("rows:9",  "-1")):
        with pytest.raises(UserError, match="is not understood"):
            imputing.parse(words)


def test_noise_fills_the_range_of_each_image():
    noise = imputing.noise(np.zeros((4, 6, 6, 1), np.float32), 0)
    np.testing.assert_allclose(noise.min(axis=(1, 2, 3)), 0.0)
    np.testing.assert_allclose(noise.max(axis=(1, 2, 3)), 1.0)
    np.testing.assert_array_equal(noise, imputing.noise(np.ones((4, 6, 6, 1), np.float32), 0))
    vectors = imputing.noise(np.array([[-2.0, 3.0], [0.0, 1.0]], np.float32), 0)
    assert vectors.min() == -2.0 and vectors.max() == 3.0


# ---- passes --------------------------------------------------------------------------------------------


def test_the_passes_by_hand(make_context, drawn_networks):
    """Two passes with one seed for all data, seen values put back before and after the second."""
    context = make_context(drawn_networks, num=40)
    imputer = imputing.Imputer(context, 3, 0)
    truth = context.dataset.test.x.astype(np.float32) / 255
    seen = imputing.seen("half", (8, 8, 1), 40, 0)
    given = np.where(seen, truth, imputing.noise(truth, 0))
    with context.progress(9, "") as bar:
        parts = [found for _, found in imputer.fill(truth, given, seen, bar)]
    imputed = np.concatenate([part.imputed for part in parts], axis=1)
    own = np.concatenate([part.reconstructed for part in parts], axis=1)
    first = context.model.draw_reconstructions(given, 3, imputer._seed(0, 0)).numpy()
    expected = [context.model.draw_reconstructions(np.where(seen, truth, image), 3, imputer._seed(0, 1)).numpy().mean(0)
                for image in first]  # fmt: skip
    np.testing.assert_allclose(own, expected, atol=1e-5)
    np.testing.assert_allclose(imputed, np.where(seen, truth, expected), atol=1e-5)
    assert imputed.shape == (3, 40, 8, 8, 1) and np.ptp(own, axis=0).max() > 1e-3


def test_nothing_hidden_leaves_the_reconstruction(make_context, drawn_networks):
    context = make_context(drawn_networks, num=20)
    truth = context.dataset.test.x.astype(np.float32) / 255
    with context.progress(9, "") as bar:
        _, found = next(imputing.Imputer(context, 2, 0).fill(truth, truth, np.ones(truth.shape, bool), bar))
    np.testing.assert_array_equal(found.imputed, found.reconstructed)
    assert np.abs(found.imputed - truth).max() > 0.01


def test_metrics_tables_and_figures(make_context, drawn_networks, feature_file):
    masks = ("full", "half", "columns:0-2")
    context = make_context(drawn_networks, fid_weights=str(feature_file((8, 8, 1))), imputation_masks=masks,
                           imputation_samples=3, imputation_rounds=1, imputation_images=50)  # fmt: skip
    found = evaluation.evaluate(context, ["imputation"])
    scored = {f"{part}{key}" for part in ("", "reconstructed/") for key in ("accuracy", "ece", "mce", "rmsce")}
    for slug in imputing.parse(masks):
        expected = ERRORS | scored | {"given/accuracy"} | (MASKED if slug != "full" else set())
        assert keys(found, slug) == expected
        assert f"imputation_{slug}" in {path.stem for path in context.figures}
        assert found[f"imputation/{slug}/mean_sse"] >= found[f"imputation/{slug}/sse_mean"]
    assert found["imputation/full/sse_mean"] == found["imputation/full/sse_mean_corrupted"]
    assert found["imputation/full/given/accuracy"] == found["imputation/original/accuracy"]
    table = [row for row in rows(context, "imputation.csv") if row["mask"] == "half"]
    assert len(table) == 50
    correct = np.mean([int(row["correct"]) for row in table])
    assert found["imputation/half/accuracy"] == pytest.approx(correct)
    error = np.mean([float(row["mse_hidden"]) for row in table])
    assert found["imputation/half/mse_hidden"] == pytest.approx(error, rel=1e-6)
    assert found["imputation/half/rmse_hidden"] == pytest.approx(np.sqrt(error), rel=1e-6)


def test_rounds_change_the_images(make_context, drawn_networks):
    flags = dict(imputation_masks=("noise",), imputation_samples=2, imputation_images=20)
    none = evaluation.evaluate(make_context(drawn_networks, **flags), ["imputation"])
    assert none == evaluation.evaluate(make_context(drawn_networks, **flags), ["imputation"])
    some = evaluation.evaluate(make_context(drawn_networks, imputation_rounds=3, **flags), ["imputation"])
    assert none["imputation/noise/sse_mean"] != some["imputation/noise/sse_mean"]
    assert none["imputation/noise/accuracy"] == "unsupported"  # the blobs have no classifier


def test_a_model_of_one_reconstruction_is_compared(make_context, plain_autoencoder, capsys):
    found = evaluation.evaluate(make_context(plain_autoencoder, imputation_images=30, imputation_masks=("half",)),
                                ["imputation"])
    assert found["imputation/num_samples"] == 1 and found["imputation/half/std_hidden"] == 0
    assert found["imputation/half/std_error_correlation"] == 0
    assert found["imputation/half/sse_mean"] == found["imputation/half/mean_sse"]
    assert "one image for each datum" in capsys.readouterr().err


def test_vectors_are_filled_in_too(make_context, drawn_networks):
    found = evaluation.evaluate(make_context(drawn_networks, event_shape=(6,), imputation_images=30,
                                             imputation_masks=("half", "region")), ["imputation"])
    assert found["imputation/region"] == "unsupported" and found["imputation/half/mse_hidden"] > 0


# ---- few labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 5, 10])
def test_votes_are_those_of_scikit_learn(k):
    generator = np.random.default_rng(0)
    points, labels = generator.normal(size=(12, 4, 2)), np.repeat([3, 5, 9], 4)
    queries = generator.normal(size=(40, 2))
    expected = KNeighborsClassifier(k).fit(points.reshape(-1, 2), np.repeat(labels, 4)).predict(queries)
    np.testing.assert_array_equal(downstream.predict(points, labels, queries, k), expected)


def test_the_number_of_neighbours_is_chosen_by_held_out_data():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    overlapping = generator.normal(size=(120, 1, 2)) + 1.2 * labels[:, None, None]
    assert downstream.choose_neighbours(overlapping, labels, [0]) > 2
    apart = 0.1 * generator.normal(size=(120, 1, 2)) + 5.0 * labels[:, None, None]
    assert downstream.choose_neighbours(apart, labels, [0]) == 1  # all are right: the least
    assert downstream.choose_neighbours(apart[[0, 60]], labels[[0, 60]], [0]) == 1


def test_all_points_of_a_datum_lie_in_one_fold(monkeypatch):
    """Else copies would vouch for each other, and one neighbour seem best."""
    folds = []

    def votes(points, labels, queries, most):
        folds.append((set(points.ravel()), set(queries.ravel())))
        return np.zeros((most, len(queries)))

    monkeypatch.setattr(downstream, "votes", votes)
    points = np.repeat(np.arange(9.0)[:, None, None], 5, axis=1)
    downstream.choose_neighbours(points, np.repeat([0, 1, 2], 3), [0])
    assert len(folds) == 2 and folds[0] == folds[1][::-1]
    assert not folds[0][0] & folds[0][1] and folds[0][0] | folds[0][1] == set(range(9))


def test_downstream_accuracies(make_context, drawn_networks, capsys):
    flags = dict(labels_per_class=(1, 4, 5000), embeddings=6, downstream_repeats=3, downstream_images=60, num=90)
    context = make_context(drawn_networks, **flags)
    found = evaluation.evaluate(context, ["downstream"])
    assert found["downstream/num_test"] == 60 and found["downstream/num_classes"] == 3
    for kind in ("codes", "draws"):
        assert found[f"downstream/{kind}/4/accuracy"] > 0.6  # three corners
    assert not [key for key in found if "5000" in key] and "5000 labels per class" in capsys.readouterr().err
    table = [float(row["accuracy"]) for row in rows(context, "downstream.csv") if row["kind"] == "draws"
             and row["labels_per_class"] == "4"]  # fmt: skip
    assert found["downstream/draws/4/accuracy"] == pytest.approx(np.mean(table))
    assert found["downstream/draws/4/accuracy_std"] == pytest.approx(np.std(table, ddof=1))
    assert [path.stem for path in context.figures] == ["downstream"]


def test_downstream_of_attributes(make_context, drawn_networks, capsys):
    flags = dict(labels_per_class=(4,), embeddings=3, downstream_repeats=2, downstream_images=60, num=90)
    context = make_context(drawn_networks, **flags)
    split = context.dataset.test
    corner = np.stack([split.y == 0, split.y == 1, np.ones(len(split.y), bool)], axis=1)
    one, other = type(split)(split.x, None, corner), type(split)(split.x, corner[:, 1].astype(int))
    known = dataclasses.replace(context.dataset, train=one, test=one, attribute_names=("a", "b", "c"))
    labelled = dataclasses.replace(context.dataset, train=other, test=other)
    found = evaluation.evaluate(dataclasses.replace(context, dataset=known), ["downstream"])
    own = evaluation.evaluate(dataclasses.replace(context, dataset=labelled), ["downstream"])
    for key in ("codes/4/accuracy", "draws/4/accuracy", "num_classes"):
        assert found[f"downstream/b/{key}"] == own[f"downstream/{key}"]
    mean = np.mean([found[f"downstream/{name}/codes/4/accuracy"] for name in "ab"])
    assert found["downstream/attributes/codes/4/accuracy"] == pytest.approx(mean)
    assert found["downstream/num_attributes"] == 2 and "downstream/c: left out" in capsys.readouterr().err


def test_downstream_of_other_models_and_data(make_context, plain_autoencoder, drawn_networks):
    flags = dict(labels_per_class=(2,), downstream_repeats=1)
    found = evaluation.evaluate(make_context(plain_autoencoder, **flags), ["downstream"])
    assert found["downstream/draws"] == "unsupported" and found["downstream/codes/2/accuracy"] > 0.5
    assert "downstream/codes/2/accuracy_std" not in found
    context = make_context(drawn_networks, event_shape=(5,), **flags)
    unlabelled = type(context.dataset.test)(context.dataset.test.x, None)
    object.__setattr__(context.dataset, "test", unlabelled)
    assert evaluation.evaluate(context, ["downstream"]) == {"downstream": "unsupported"}
