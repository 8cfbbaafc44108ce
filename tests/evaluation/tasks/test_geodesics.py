"""The task geodesics on small decoders whose geometry is known."""

import csv
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import evaluation
from pae_zoo.evaluation.support import latent_geometry, latent_planes
from pae_zoo.evaluation.tasks import geodesics
from pae_zoo.plotting import figures


def rows(context, name="geodesics.csv"):
    with open(context.run.workdir / name, newline="") as file:
        return list(csv.DictReader(file))


def column(table, name):
    return np.array([float(row[name]) for row in table])


class Members:
    """Three decoders around the model's own that differ more the farther from the origin."""

    def __init__(self, model, count, bent):
        self.model, self.count, self.bent = model, count, bent

    def mean_and_members(self, z):
        base = z @ tf.transpose(self.model.weight) + self.model.offset
        away = tf.reduce_sum(tf.square(z), axis=1, keepdims=True) if self.bent else tf.zeros_like(z[:, :1])
        shifts = 0.1 * (np.arange(self.count, dtype=np.float32) - (self.count - 1) / 2)
        members = base + shifts[:, None, None] * away
        return tf.reduce_mean(members, axis=0), members


class MeanAndStd(Members):
    mean_and_members = property()  # not there

    def mean_and_std(self, z):
        base = z @ tf.transpose(self.model.weight) + self.model.offset
        return base, 0.1 + 0.2 * tf.reduce_sum(tf.square(z), axis=1, keepdims=True) * tf.ones_like(base)


@pytest.fixture
def geometric(make_context, linear_gaussian):
    """Returns make(kind, bent=True, latent_dim=2, **flags) -> context of a model with a geometry."""

    class Geometric(linear_gaussian):
        kind, bent = "members", True

        def geometry_decoder(self, num_members, seed=None):
            if self.kind == "members":
                return Members(self, num_members, self.bent)
            if self.kind == "std":
                return type("MeanAndStd", (), {"mean_and_std": MeanAndStd(self, 0, True).mean_and_std})()
            if self.kind == "broken":
                return lambda z: self.geometry(z) * float("nan")
            return self.geometry

        def geometry(self, z):
            return z @ tf.transpose(self.weight) + self.offset

        def to_data(self, y):
            return self.preprocessing.inverse(y)

    def make(kind="members", bent=True, latent_dim=2, event_shape=(8, 8, 1), num=70, **flags):
        values = dict(geodesic_pairs=4, geodesic_members=3, geodesic_points=24, geodesic_init="line")
        context = make_context(Geometric, event_shape, num, dict(latent_dim=latent_dim), **{**values, **flags})
        context.model.kind, context.model.bent = kind, bent
        return context

    return make


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(figures, "DPI", 30)


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves the pictures out, which take longer than the rest."""
    monkeypatch.setattr(geodesics, "_pictures", lambda *args: None)


# ---- pairs ---------------------------------------------------------------------------------------------


LABELS = np.random.default_rng(0).integers(0, 4, 200)


def test_no_datum_is_in_two_pairs_and_half_of_them_have_two_labels():
    found = latent_geometry.pairs(LABELS, 200, 40, 67)
    assert found.shape == (40, 2) and len(np.unique(found)) == 80
    assert (LABELS[found[1::2, 0]] != LABELS[found[1::2, 1]]).all()
    assert (LABELS[found[::2, 0]] == LABELS[found[::2, 1]]).any()


def test_few_pairs_are_the_first_of_many():
    few, many, other = (latent_geometry.pairs(LABELS, 200, num, seed) for num, seed in ((5, 67), (30, 67), (5, 68)))
    np.testing.assert_array_equal(few, many[:5])
    assert (few != other).any()


@pytest.mark.parametrize("labels", [None, np.zeros(20, int), np.repeat([0, 1], [19, 1])], ids=["none", "one", "rare"])
def test_pairs_where_labels_run_out(labels):
    assert len(np.unique(latent_geometry.pairs(labels, 20, 10, 1))) == 20


def test_too_few_data_for_the_pairs():
    with pytest.raises(NotImplementedError, match="11 pairs of different test data need 22 .* at most 10 pairs"):
        latent_geometry.pairs(LABELS[:20], 20, 11, 1)


def test_pairs_do_not_depend_on_the_seed(geometric):
    contexts = [dataclasses.replace(geometric(), seed=seed) for seed in (0, 1)]
    first, second = (latent_geometry.test_pairs(context, 10) for context in contexts)
    np.testing.assert_array_equal(first, second)


# ---- the task ------------------------------------------------------------------------------------------


def test_geodesics_of_a_linear_decoder_are_straight(geometric):
    context = geometric("certain")
    found = evaluation.evaluate(context, ["geodesics"])
    table = rows(context)
    codes = context.test_codes[0]
    a, b = (column(table, f"index_{end}").astype(int) for end in "ab")
    truth = np.linalg.norm((codes[b] - codes[a]) @ context.model.weight.numpy().T, axis=1)
    np.testing.assert_allclose(column(table, "rms"), truth, rtol=1e-3)
    np.testing.assert_allclose(column(table, "straight_mean"), truth, rtol=1e-3)
    np.testing.assert_allclose(column(table, "energy"), truth**2, rtol=1e-3)
    np.testing.assert_allclose(column(table, "latent"), np.linalg.norm(codes[b] - codes[a], axis=1), rtol=1e-5)
    x = context.dataset.test.x.reshape(70, -1) / 255
    np.testing.assert_allclose(column(table, "pixel"), np.linalg.norm(x[a] - x[b], axis=1), rtol=1e-5)
    assert [row["label_a"] for row in table] == [str(context.dataset.test.y[i]) for i in a]
    assert found["geodesics/length_ratio"] == pytest.approx(1.0, abs=1e-3)
    assert found["geodesics/energy_over_square_min"] == pytest.approx(1.0, abs=1e-3)
    assert found["geodesics/num_pairs"] == 4 and found["geodesics/converged"] == found["geodesics/finite"] == 1.0
    assert not {key for key in found if "uncertainty" in key} and "geodesics/length/expected" not in found


def test_geodesics_avoid_uncertainty(geometric):
    context = geometric(geodesic_init="both")
    found = evaluation.evaluate(context, ["geodesics"])
    assert found["geodesics/energy"] < found["geodesics/straight_energy"]
    assert found["geodesics/uncertainty"] < found["geodesics/straight_uncertainty"]
    assert found["geodesics/length/mean"] <= found["geodesics/length/expected"] <= found["geodesics/length/rms"]
    assert found["geodesics/energy_over_square_min"] >= 1.0 - 1e-6
    assert 0 < found["geodesics/data_distance"] and found["geodesics/finite"] == 1.0
    table = rows(context)
    assert np.mean(column(table, "rms")) == pytest.approx(found["geodesics/length/rms"], rel=1e-6)
    assert {path.stem for path in context.figures} == {
        "geodesics", "geodesics_decoded", "geodesics_pairs", "geodesics_search", "magnification",
        "magnification_members"}  # fmt: skip


def test_a_mean_with_a_std_is_coupled(geometric, undrawn):
    context = geometric("std")
    assert latent_geometry.energy(context) == "coupled"
    found = evaluation.evaluate(context, ["geodesics"])
    assert found["geodesics/length/rms"] > found["geodesics/length/mean"] > 0
    assert found["geodesics/uncertainty"] > 0.1


@pytest.mark.parametrize("kind, members, asked, energy", [
    ("members", 3, "auto", "decorrelated"), ("members", 3, "coupled", "coupled"), ("members", 1, "auto", "mean"),
    ("certain", 3, "auto", "mean"), ("std", 3, "mean", "mean"),
])  # fmt: skip
def test_energy_follows_the_decoder(geometric, kind, members, asked, energy):
    assert latent_geometry.energy(geometric(kind, geodesic_members=members, geodesic_energy=asked)) == energy


def test_distances_are_shortest_under_the_expected_metric(geometric):
    found = [latent_geometry.energy(geometric(kind), distances=True) for kind in ("members", "std", "certain")]
    assert found == ["coupled", "coupled", "mean"]
    assert latent_geometry.energy(geometric(geodesic_energy="decorrelated"), distances=True) == "decorrelated"


def test_many_latents_are_projected(geometric):
    context = geometric(latent_dim=5, geodesic_init="both", geodesic_pairs=3, geodesic_steps=20)
    found = evaluation.evaluate(context, ["geodesics"])
    assert found["geodesics/finite"] == 1.0
    assert {path.stem for path in context.figures} == {
        "geodesics", "geodesics_decoded", "geodesics_pairs", "geodesics_search"}  # fmt: skip


def test_one_latent_has_no_map(geometric, capsys):
    context = geometric("certain", latent_dim=1, geodesic_pairs=2)
    found = evaluation.evaluate(context, ["geodesics"])
    assert found["geodesics/length_ratio"] == pytest.approx(1.0, abs=1e-2)
    assert "no map of latents, which takes at least two of them" in capsys.readouterr().err
    assert {path.stem for path in context.figures} == {"geodesics_decoded", "geodesics_search"}


def test_vectors_have_no_strips(geometric):
    context = geometric("certain", event_shape=(5,), geodesic_pairs=2)
    evaluation.evaluate(context, ["geodesics"])
    assert {path.stem for path in context.figures} == {
        "geodesics", "geodesics_pairs", "geodesics_search", "magnification"}  # fmt: skip
    assert rows(context)[0]["label_a"] == ""


def test_a_decoder_that_is_no_number_is_flagged(geometric, capsys):
    context = geometric("broken", geodesic_init="both", geodesic_pairs=2)
    found = evaluation.evaluate(context, ["geodesics"])
    assert found["geodesics/finite"] == found["geodesics/converged"] == 0.0
    assert np.isnan(found["geodesics/length/rms"])
    assert all(row["finite"] == row["converged"] == "0" for row in rows(context))
    errors = capsys.readouterr().err
    assert "start from straight lines, for no graph can be laid" in errors and "no picture" in errors


def test_what_cannot_be_done_is_said_in_a_line(make_context, geometric, capsys):
    assert evaluation.evaluate(make_context(), ["geodesics"]) == {"geodesics": "unsupported"}
    assert "no decoder whose geometry is known" in capsys.readouterr().err
    assert evaluation.evaluate(geometric(geodesic_pairs=50), ["geodesics"]) == {"geodesics": "unsupported"}
    assert "need 100 of them; there are 70" in capsys.readouterr().err


def test_the_same_numbers_again(geometric, undrawn):
    first, second = (evaluation.evaluate(geometric("certain", geodesic_pairs=2), ["geodesics"]) for _ in range(2))
    assert first == second


# ---- parts ---------------------------------------------------------------------------------------------


def test_energy_over_square_by_hand():
    steps = np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    found = geodesics.energy_over_square(steps)
    np.testing.assert_allclose(found[:2], [1.0, 3 * 14 / 36])
    assert np.isnan(found[2])


def test_window_holds_codes_and_curves():
    codes = np.random.default_rng(0).normal(size=(500, 2))
    left, right, bottom, top = geodesics.window(codes, np.array([[[6.0, 0.0], [0.0, -7.0]]]))
    assert -5 < left < -2.8 and right > 6 and bottom < -7 and 2.8 < top < 4.5
    assert right - left == pytest.approx(top - bottom)
    left, right, bottom, top = geodesics.window(codes * [1.0, 0.1], codes[None] * [1.0, 0.1])
    assert right - left > 5 * (top - bottom)


def test_data_distances_by_hand():
    codes = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])  # nearest neighbours at 1, 1 and 2
    found = latent_geometry.data_distances(codes, np.array([[[0.0, 0.0], [1.0, 2.0]]]))
    np.testing.assert_allclose(found, [1.0 / (4 / 3)])
    assert np.isnan(latent_geometry.data_distances(np.zeros((3, 2)), np.ones((1, 4, 2)))).all()


def test_indicatrices_stay_in_their_cells(geometric):
    context = geometric("certain")
    outlines = geodesics.ellipses(context, (-2.0, 2.0, -1.0, 1.0))
    assert outlines.shape[0] == latent_planes.ELLIPSES**2
    reach = np.abs(outlines - outlines.mean(axis=1, keepdims=True)).max(axis=(0, 1))
    assert (reach <= np.array([4.0, 2.0]) / latent_planes.ELLIPSES / 2 + 1e-3).all()


def test_metrics_of_members_have_the_metric_for_their_mean(geometric):
    context = geometric()
    z = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    found = latent_planes.member_metrics(context, z)
    assert found.shape == (6, 3, 2, 2)
    np.testing.assert_allclose(found.mean(axis=1), latent_geometry.metric(context, z), rtol=1e-4)
    with pytest.raises(NotImplementedError, match="no members"):
        latent_planes.member_metrics(geometric("certain"), z)


def test_backgrounds(geometric, monkeypatch):
    monkeypatch.setattr(latent_planes, "SIDE", 5)
    context, extent = geometric(), (-1.0, 1.0, -2.0, 2.0)
    assert latent_planes.background(context, extent, "none") is None
    mean, most = (latent_planes.background(context, extent, kind).plane.values for kind in ("mean", "max"))
    assert (most >= mean).all() and mean.shape == (5, 5)
    first = latent_planes.background(context, extent, "member").plane.values.ravel()
    metrics = latent_planes.member_metrics(context, latent_planes.grid(extent, 5))[:, 0]
    np.testing.assert_allclose(10**first, np.sqrt(np.linalg.det(metrics)), rtol=1e-3)
    panels = latent_planes.by_member(context, extent)
    assert list(panels) == ["member 1", "member 2", "member 3", "mean factor of all 3", "E[G] of all 3"]
    with pytest.raises(NotImplementedError, match="certain"):
        latent_planes.background(geometric("certain"), extent, "mean")


@pytest.mark.full
def test_every_energy_and_another_format_on_demand(geometric):
    context = geometric(geodesic_compare=True, geodesic_background="magnification", figure_format="pdf",
                        geodesic_pairs=2)  # fmt: skip
    evaluation.evaluate(context, ["geodesics"])
    names = {path.name for path in context.figures}
    assert {"geodesics.pdf", "geodesics_pairs.pdf", "magnification_members.pdf"} <= names
    assert all((context.run.figures / name).read_bytes().startswith(b"%PDF") for name in names)
