"""Pictures are built from arrays without touching pyplot's global state."""

import numpy as np
import pytest

from pae_zoo.plotting import figures as plotting

RNG = np.random.default_rng(0)


def pixels(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_mosaic_places_every_image():
    images = RNG.uniform(size=(2, 3, 4, 5, 1)).astype(np.float32)
    sheet = plotting.mosaic(images, pad=1)
    assert sheet.shape == (2 * 5 + 1, 3 * 6 + 1, 3)
    np.testing.assert_array_equal(sheet[6:10, 7:12, 0], images[1, 1, :, :, 0])
    assert (sheet[0] == np.float32(plotting.GREY)).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_to_rgb_clips_and_averages(channels):
    images = RNG.uniform(-1, 2, size=(2, 4, 4, channels))
    rgb = plotting.to_rgb(images)
    assert rgb.shape == (2, 4, 4, 3) and rgb.min() >= 0 and rgb.max() <= 1


def test_signed_rgb_is_white_at_zero_and_red_above():
    rgb = plotting.signed_rgb(np.array([-1.0, 0.0, 1.0]).reshape(1, 3, 1), 1.0)[0]
    assert rgb[1].min() > 0.95
    assert rgb[2, 0] > rgb[2, 2] and rgb[0, 2] > rgb[0, 0]


@pytest.mark.parametrize("num, shape", [(1, (1, 1)), (5, (2, 2)), (64, (8, 8)), (90, (10, 9))])
def test_square(num, shape):
    assert plotting.square(np.zeros((num, 4, 4, 1))).shape[:2] == shape


def test_every_figure_draws():
    images = RNG.uniform(size=(3, 4, 8, 8, 1))
    scores = {"a": RNG.normal(size=200), "b": RNG.normal(size=200)}
    far = {"a": 1e4 * RNG.normal(size=100), "b": np.zeros(100)}
    curve = (np.linspace(0, 1, 5), np.linspace(0, 1, 5))
    figures = [
        plotting.image_table(images, "t", ("a", "b", "c"), ("1", "2", "3", "4"), note="n"),
        plotting.heatmap(np.zeros((4, 4)), "t", "l"),
        plotting.points({"a": RNG.normal(size=(9, 2)), "b": RNG.normal(size=(9, 2))}, "t", ("x", "y")),
        plotting.latent_map(RNG.normal(size=(60, 2)), np.arange(60) % 10, "t", ("x", "y")),
        plotting.latent_map(RNG.normal(size=(60, 2)), np.arange(60), "t", ("x", "y")),
        plotting.latent_map(RNG.normal(size=(60, 2)), None, "t", ("x", "y")),
        plotting.histogram({"a": np.ones(5)}, "t", "x", {"m": 1.0}),
        plotting.score_histograms(scores, far, ("in", "out"), "t", {"a": "A", "b": "B"}),
        plotting.roc_and_precision_recall({"a": curve}, {"a": curve}, "t", 0.5),
    ]
    for figure in figures:
        assert pixels(figure).std() > 0
    from matplotlib._pylab_helpers import Gcf

    assert not Gcf.figs


def test_matrices_share_the_colours_of_their_group():
    small, large = np.full((2, 3, 3), 0.5), np.full((2, 3, 3), -1.0)
    figure = plotting.matrices(
        RNG.uniform(size=(2, 4, 4, 1)), {"a": small, "b": large, "c": small}, {"first": "ab", "second": "c"}, "title"
    )
    limits = [axes.images[0].get_clim() for axes in figure.axes if axes.images]
    assert limits[2::4] == [(-1.0, 1.0)] * 2 and limits[1::4] == [(-1.0, 1.0)] * 2 and limits[3::4] == [(-0.5, 0.5)] * 2
    assert pixels(figure).std() > 0
    assert pixels(plotting.matrices(None, {"a": small}, {"first": "a"}, "title")).std() > 0


def test_per_latent_is_logarithmic_over_wide_ranges_only():
    wide, narrow, signed = np.array([1e-5, 0.3, 1.0]), np.array([0.8, 1.0, 1.2]), np.array([-1.0, 0.0, 100.0])
    panels = {"wide": (wide, 0.01), "narrow": (narrow, 1.0), "signed": (signed, 0.0)}
    figure = plotting.per_latent(panels, ["2", "0", "1"], "title", "latent")
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "linear"]
    assert pixels(figure).std() > 0


def test_curves_are_a_panel_each():
    middle = np.array([1.0, 2.0, 2.5])
    figure = plotting.curves({"a": (middle, middle - 1, middle + 1), "b": (middle,) * 3}, "title", "t", ("y", "z"))
    assert [axes.get_ylabel() for axes in figure.axes] == ["y", "z"]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), middle)
    assert pixels(figure).std() > 0
