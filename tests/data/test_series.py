"""Windows of a series: what they hold, and that no two splits share a row."""

import numpy as np
import pytest

from pae_zoo import data
from pae_zoo.core.errors import UserError


def write(path, count=120, shuffled=True):
    rows = np.arange(count)
    days = np.datetime64("2024-01-01") + rows
    order = np.random.default_rng(0).permutation(count) if shuffled else rows
    path.write_text("day,a,b\n" + "".join(f"{days[i]},{i},{1000 - 2 * i + i % 2}\n" for i in order))
    return path


@pytest.mark.parametrize("stride", [0, 1, 3])
def test_windows_follow_time_and_splits_share_no_row(tmp_path, stride):
    """Column a counts the days, so that windows tell which rows they hold; every split is later than the one before."""
    loaded = data.load(write(tmp_path / "s.csv"), index_column="day", window=5, stride=stride)
    assert loaded.event_shape == (5, 2) and loaded.flattened().event_shape == (10,)
    days = {}
    for name in ("train", "valid", "test"):
        windows = getattr(loaded, name).x
        np.testing.assert_array_equal(windows[..., 1], 1000 - 2 * windows[..., 0] + windows[..., 0] % 2)
        np.testing.assert_array_equal(np.diff(windows[..., 0], axis=1), 1)
        days[name] = windows[..., 0]
        starts = np.sort(windows[:, 0, 0])
        assert set(np.diff(starts)) <= {stride or 5}
    assert days["train"].max() < days["valid"].min() and days["valid"].max() < days["test"].min()
    assert days["test"].min() == 100 and days["valid"].min() == 92
    whole = (92 - 5) // (stride or 5) + 1
    assert len(days["train"]) == whole and "windows of 5 rows" in loaded.info.notes[-1]


def test_order_of_the_file_without_an_index(tmp_path):
    path = write(tmp_path / "s.csv", shuffled=False)
    loaded = data.load(path, columns=("-day",), window=4)
    assert loaded.train.x.max() == 1000 and "order of the file" in " ".join(loaded.info.notes)
    named = data.load(path, index_column="day", window=4)
    np.testing.assert_array_equal(loaded.train.x, named.train.x)


def test_labels_of_a_window_are_those_of_its_last_row(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("a,y\n" + "".join(f"{i},{i // 10}\n" for i in range(100)))
    loaded = data.load(path, label_column="y", window=2, stride=1)
    np.testing.assert_array_equal(loaded.test.y, loaded.test.x[:, 1, 0] // 10)


def test_times_without_order_are_refused(tmp_path):
    for times, words in ((["x", *range(40)], "holds 'x' in row 0"), ([1, *range(40)], "a time twice"),
                         (["2024-01-01", *range(40)], "numbers and dates"),
                         (["2024-01-01", *[f"2024-02-01T0{i}:00+01:00" for i in range(9)]], "with and without")):
        path = tmp_path / "s.csv"
        path.write_text("t,a\n" + "".join(f"{time},{row}\n" for row, time in enumerate(times)))
        with pytest.raises(UserError, match=words):
            data.load(path, index_column="t", window=2)
