"""Pictures of latent geometry, from arrays."""

import numpy as np
import pytest

from pae_zoo.plotting import geometry
from pae_zoo.plotting.figures import pixels
from pae_zoo.plotting.geometry import Background, Clustering, Curve, Histogram, Plane

RNG = np.random.default_rng(0)
CODES, LABELS = RNG.normal(size=(60, 2)), RNG.integers(0, 3, 60)
AXES = ("z[0]", "z[1]")


def texts(figure):
    """Returns all words of a figure."""
    import matplotlib.text

    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def background(values=None):
    values = RNG.uniform(size=(6, 5)) if values is None else values
    return Background(Plane((-3.0, 3.0, -2.0, 2.0), values), "uncertainty (y)")


def curves(good=True):
    t = np.linspace(0, 1, 9)[:, None]
    line = CODES[0] + t * (CODES[1] - CODES[0])
    return [Curve(line + t * (1 - t), line, good)]


def colours(picture, colour):
    """Returns how many pixels have a colour, '#rrggbb'."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture.astype(int) - wanted).max(axis=-1) <= 6).sum())


@pytest.mark.parametrize("labels", [LABELS, None, np.arange(60)], ids=["classes", "none", "many"])
@pytest.mark.parametrize("ground", [True, False])
def test_map_shows_the_curves(labels, ground):
    behind = background() if ground else None
    figure = geometry.latent_geodesics(CODES, labels, curves(), behind, "Blobs", AXES)
    assert colours(pixels(figure), geometry.GEODESIC) > 50
    words = texts(figure)
    assert "geodesic" in words and "straight line" in words and "Blobs" in words and "not converged" not in words
    assert ("uncertainty (y)" in words) == ground
    if ground:
        assert figure.axes[0].get_xlim() == (-3.0, 3.0) and figure.axes[0].get_ylim() == (-2.0, 2.0)


def test_curves_that_did_not_converge_are_marked():
    figure = geometry.latent_geodesics(CODES, LABELS, curves(good=False), None, "Blobs", AXES)
    assert "not converged" in texts(figure)


@pytest.mark.parametrize("values", [np.full((6, 5), 0.25), np.where(np.eye(6, 5), np.nan, 1.0 + np.eye(6, 5, 1))])
def test_constant_and_broken_backgrounds(values):
    pixels(geometry.latent_geodesics(CODES, LABELS, curves(), background(values), "Blobs", AXES))


def test_magnification_has_outlines():
    t = np.linspace(0, 2 * np.pi, 30)
    outlines = CODES[:4, None] + 0.2 * np.stack([np.cos(t), np.sin(t)], axis=-1)
    figure = geometry.magnification(background(), CODES, LABELS, outlines, "Blobs", AXES)
    assert len([p for p in figure.axes[0].patches if len(p.get_xy()) > 10]) == 4
    pixels(figure)


def test_strips_have_all_rows():
    row = RNG.uniform(size=(7, 6, 5, 3)).astype(np.float32)
    groups = {"0 to 1": {"geodesic": row, "straight line": row}, "2 to 2": {"geodesic": row, "std": row}}
    figure = geometry.strips(groups, "Blobs", "a note")
    words = texts(figure)
    assert all(name in words for name in ("0 to 1", "2 to 2", "straight line", "std", "a note"))
    pixels(figure)


def test_traces_are_relative_to_the_start():
    energies = np.array([[4.0, 8.0], [2.0, 4.0]])
    figure = geometry.traces(energies, np.array([4.0, 8.0]), np.ones((5, 2)), np.full((5, 2), 3.0),
                                      np.array([True, False]), "Blobs", "coupled")  # fmt: skip
    first = figure.axes[0].lines[0]
    np.testing.assert_allclose(first.get_ydata(), [1.0, 0.5])
    np.testing.assert_allclose(figure.axes[1].lines[1].get_ydata(), 1.0)
    assert "coupled energy" in texts(figure) and "not converged" in texts(figure)
    pixels(figure)


def test_traces_of_identical_ends():
    still = np.zeros((3, 1))
    pixels(geometry.traces(still, np.zeros(1), still, still, np.array([True]), "Blobs", "mean"))


def test_variations_keep_the_published_axis():
    places = np.linspace(0, 0.6, 50)
    columns = {
        "narrow": Histogram(np.array([0.05, 0.06, 0.07]), np.exp(-places)),
        "wide": Histogram(np.array([0.3, 0.5, 2.0]), None),
        "constant": Histogram(np.zeros(3), None),
    }
    figure = geometry.variations(columns, places, "Blobs")
    words = texts(figure)
    assert "mean 0.060" in words and "1 of 3 beyond the axis" in words and "mean 0.000" in words
    assert all(axes.get_xlim() == (0.0, 0.6) for axes in figure.axes)
    pixels(figure)


def test_discrimination_leaves_out_what_is_not_a_number():
    figures = {
        "geodesic": dict(cv=0.1, cv_stderr=0.02, spread=0.5, cv_over_spread=0.2, icc=0.9, spearman=1.0),
        "constant": dict(cv=0.0, cv_stderr=float("nan"), spread=0.0, cv_over_spread=float("nan"), icc=float("nan")),
    }
    figure = geometry.discrimination(figures, "Blobs")
    words = texts(figure)
    assert "0.20" in words and "nan" not in words and "constant" in words
    pixels(figure)


def test_clusters_ring_the_medoids():
    panel = Clustering(CODES[:8], np.arange(8) % 2, np.array([3, 4]), "accuracy 0.50")
    figure = geometry.clusters({"rms": panel, "Euclidean": panel}, ["a"] * 8, "Blobs", AXES)
    assert len(figure.axes) == 2 and all(len(axes.collections) == 2 for axes in figure.axes)
    assert "accuracy 0.50" in texts(figure)
    pixels(figure)
