"""Windows of a series are drawn as lines."""

import numpy as np
import pytest

from pae_zoo.plotting import series


@pytest.mark.parametrize("shape", [(5, 30, 2), (20, 1, 9), (1, 2, 1)])
def test_a_panel_for_each_window_and_a_line_for_each_channel(shape):
    x = np.random.default_rng(0).normal(size=shape)
    figure = series.panels({"original": x, "reconstruction": x / 2}, "windows", [f"c{i}" for i in range(shape[2])])
    drawn = [axes for axes in figure.axes if axes.get_visible()]
    assert len(drawn) == min(shape[0], series.SHOWN)
    channels = min(shape[2], series.CHANNELS)
    lines = drawn[0].get_lines()
    assert len(lines) == 2 * channels
    np.testing.assert_allclose(lines[channels].get_ydata(), x[0, :, 0] / 2)
