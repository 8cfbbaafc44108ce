"""k-medoids and its scores by hand, and the task on a decoder that moves classes apart."""

import csv
import itertools

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import evaluation
from pae_zoo.evaluation.tasks import clustering
from pae_zoo.plotting import figures

RNG = np.random.default_rng(0)


def matrix(points):
    return np.linalg.norm(points[:, None] - points, axis=-1)


def test_medoids_of_two_groups_by_hand():
    points = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    found = clustering.k_medoids(matrix(points), 2)
    assert found.medoids.tolist() == [1, 4] and found.clusters.tolist() == [0, 0, 0, 1, 1, 1] and found.cost == 4.0


@pytest.mark.parametrize("k", [1, 2, 3])
def test_medoids_are_the_best_of_all(k):
    for seed in range(5):
        distances = matrix(np.random.default_rng(seed).normal(size=(14, 2)))
        best = min(distances[:, list(some)].min(axis=1).sum() for some in itertools.combinations(range(14), k))
        assert clustering.k_medoids(distances, k).cost == pytest.approx(best)


def test_medoids_of_every_point_and_of_copies():
    assert clustering.k_medoids(matrix(RNG.normal(size=(4, 2))), 4).cost == 0.0
    same = clustering.k_medoids(np.zeros((5, 5)), 2)
    assert same.cost == 0.0 and len(set(same.medoids.tolist())) == 2


def test_medoids_do_not_depend_on_the_draw():
    distances = matrix(RNG.normal(size=(40, 3)))
    first, second = (clustering.k_medoids(distances, 5, seed=seed) for seed in (1, 1))
    np.testing.assert_array_equal(first.medoids, second.medoids)


def test_scores_by_hand():
    labels, clusters = np.array([3, 3, 3, 5, 5, 7]), np.array([1, 1, 0, 0, 0, 2])
    found = clustering.scores(labels, clusters)
    assert found["accuracy"] == pytest.approx(5 / 6)
    perfect = clustering.scores(labels, np.array([2, 2, 2, 0, 0, 1]))
    assert perfect == pytest.approx(dict(accuracy=1.0, adjusted_rand=1.0, mutual_information=1.0))
    one = clustering.scores(labels, np.zeros(6, int))
    assert one == pytest.approx(dict(accuracy=0.5, adjusted_rand=0.0, mutual_information=0.0))


def test_places_keep_the_distances_of_a_plane():
    points = RNG.normal(size=(9, 2))
    np.testing.assert_allclose(matrix(clustering.places(matrix(points))), matrix(points), atol=1e-9)


def test_classes_are_chosen_alike():
    labels = np.repeat([0, 1, 2], [50, 50, 4])
    chosen = clustering.choose(labels, 30, 67, "Blobs")
    assert np.bincount(labels[chosen]).tolist() == [13, 13, 4] and len(np.unique(chosen)) == 30
    np.testing.assert_array_equal(chosen, clustering.choose(labels, 30, 67, "Blobs"))
    assert len(clustering.choose(labels, 1000, 67, "Blobs")) == 104


@pytest.mark.parametrize("labels, num, words", [
    (None, 10, "no labels"), (np.zeros(20, int), 10, "at least two labels"),
    (np.arange(20), 10, "more data than labels"),
])  # fmt: skip
def test_what_cannot_be_clustered(labels, num, words):
    with pytest.raises(NotImplementedError, match=words):
        clustering.choose(labels, num, 67, "Blobs")


# ---- the task ------------------------------------------------------------------------------------------


@pytest.fixture
def folded(make_context, linear_gaussian, monkeypatch):
    """A decoder that is the identity of the first latent alone: geodesic distances see that one only."""
    monkeypatch.setattr(figures, "DPI", 30)

    class Folded(linear_gaussian):
        scale = (1.0, 1e-3)

        def geometry_decoder(self, num_members, seed=None):
            return lambda z: z * tf.constant(self.scale)

    def make(broken=False, **flags):
        values = dict(cluster_points=12, geodesic_points=8, geodesic_init="line")
        context = make_context(Folded, (8, 8, 1), 60, **{**values, **flags})
        if broken:
            context.model.scale = (float("nan"), 1.0)
        return context

    return make


def test_clusters_of_geodesic_distances(folded):
    context = folded()
    found = evaluation.evaluate(context, ["clustering"])
    assert found["clustering/num_points"] == 12 and found["clustering/num_clusters"] == 3
    assert found["clustering/finite"] == found["clustering/converged"] == 1.0
    with open(context.run.workdir / "clustering_distances.csv", newline="") as file:
        table = list(csv.DictReader(file))
    codes = context.encode(context.dataset.test.x, "codes")[0]
    assert len(table) == 66
    for row in table[::7]:
        step = codes[int(row["index_b"])] - codes[int(row["index_a"])]
        assert float(row["geodesic"]) == pytest.approx(np.linalg.norm(step * [1.0, 1e-3]), rel=1e-3, abs=1e-6)
        assert float(row["euclidean"]) == pytest.approx(np.linalg.norm(step), rel=1e-4)
    with open(context.run.workdir / "clustering.csv", newline="") as file:
        clusters = list(csv.DictReader(file))
    assert sum(int(row["medoid_geodesic"]) for row in clusters) == 3
    labels, own = (np.array([int(row[key]) for row in clusters]) for key in ("label", "cluster_euclidean"))
    assert clustering.scores(labels, own)["accuracy"] == pytest.approx(found["clustering/euclidean/accuracy"])
    assert {path.stem for path in context.figures} == {"clustering"}


def test_distances_that_are_no_numbers_are_left_out(folded, capsys):
    found = evaluation.evaluate(folded(broken=True), ["clustering"])
    assert found["clustering/finite"] == 0.0 and "clustering/geodesic/accuracy" not in found
    assert found["clustering/euclidean/accuracy"] > 0
    assert "clustering/geodesic: left out" in capsys.readouterr().err


def test_vectors_without_labels_are_unsupported(make_context, folded, capsys):
    context = folded()
    context.dataset = make_context(event_shape=(5,)).dataset
    assert evaluation.evaluate(context, ["clustering"]) == {"clustering": "unsupported"}
    assert "no labels, by which clusters are scored" in capsys.readouterr().err
