"""`from_arrays`: arrays of any event shape, data frames in any manner, tf.data, and that nothing given is changed."""

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import data
from pae_zoo.core.errors import UserError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
HELD_OUT = np.sort(np.random.default_rng(42).permutation(60)[-10:])


class Column:
    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return self.values


class Frame:
    """A data frame in the manner of pandas and polars, neither of which need be installed."""

    def __init__(self, **columns):
        self.columns, self._values = list(columns), columns

    def __getitem__(self, name):
        return Column(np.asarray(self._values[name]))

    def to_numpy(self):
        return np.stack(list(self._values.values()), axis=1)


@pytest.mark.parametrize(
    "x, kind, shape",
    [
        (X, "auto", (6,)), (X.tolist(), "auto", (6,)), (X.astype(np.float64), "auto", (6,)),
        (X.reshape(60, 3, 2), "auto", (3, 2)), (X.reshape(60, 3, 2), "series", (3, 2)),
        (X, "series", (6,)), (X.reshape(60, 3, 2, 1), "series", (6,)),
        (np.abs(X.reshape(60, 3, 2)) / 9, "auto", (3, 2, 1)), (X.reshape(60, 3, 2), "images", (3, 2, 1)),
        (X.reshape(60, 3, 2, 1), "auto", (3, 2, 1)), (X.reshape(60, 3, 2, 1), "vectors", (6,)),
        (np.arange(360).reshape(60, 6), "auto", (6,)), (np.arange(360).reshape(60, 6) % 2 == 0, "auto", (6,)),
    ],
)  # fmt: skip
def test_arrays_of_any_shape(x, kind, shape):
    before = np.array(x)
    loaded = data.from_arrays(x, np.arange(60) % 3, kind=kind)
    assert loaded.event_shape == shape and loaded.name == "arrays"
    test = np.arange(50, 60) if kind == "series" else HELD_OUT
    np.testing.assert_allclose(loaded.test.unit(), before[test].reshape(10, *shape), rtol=1e-6)
    np.testing.assert_array_equal(loaded.test.y, test % 3)
    np.testing.assert_array_equal(np.array(x), before)
    if kind == "series":  # one stretch after the other
        assert len(loaded.valid) == 4
        np.testing.assert_array_equal(loaded.valid.unit(), before[46:50].reshape(4, *shape))


def test_a_data_frame_is_a_table(tmp_path):
    columns = dict(a=X[:, 0], colour=RNG.choice(["red", "blue"], 60), kind=RNG.choice(["yes", "no"], 60))
    found = data.from_arrays(Frame(**columns), label_column="kind")
    path = tmp_path / "t.csv"
    path.write_text("a,colour,kind\n" + "".join(f"{a:.9g},{c},{k}\n" for a, c, k in zip(*columns.values())))
    read = data.load(path, label_column="kind")
    assert found.table == read.table and found.label_names == read.label_names
    np.testing.assert_array_equal(found.test.x, read.test.x)
    again = data.from_arrays(Frame(more=X[:, 1], **columns), schema=found.table)
    np.testing.assert_array_equal(again.test.x, found.test.x)
    missing = Frame(a=np.where(X[:, 0] > 1, np.nan, X[:, 0]), colour=columns["colour"])
    days = Frame(a=X[:, 0], day=np.datetime64("2024-01-01") + np.arange(60))
    for frame, words in ((missing, "column 'a' is empty"), (days, "dates or times"),
                         (Frame(a=np.array([1, "x"] * 30, object)), "numbers and texts, such as 'x'")):
        with pytest.raises(UserError, match=words):
            data.from_arrays(frame)
    windows = data.from_arrays(days, index_column="day", window=4)
    np.testing.assert_array_equal(windows.test.x, X[50:58, 0].reshape(2, 4, 1))


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("batch", [0, 7])
def test_tf_data_is_gathered(labels, batch):
    texts = np.array(["b", "a"] * 30)
    dataset = tf.data.Dataset.from_tensor_slices((X, texts) if labels else X)
    found = data.from_arrays(dataset.batch(batch) if batch else dataset)
    np.testing.assert_array_equal(found.test.x, X[HELD_OUT])
    if labels:
        assert found.label_names == ("a", "b")
        np.testing.assert_array_equal(found.test.y, np.equal(texts, "b")[HELD_OUT])


def test_what_is_no_data_is_refused():
    endless = tf.data.Dataset.from_tensor_slices(X).repeat()
    cases = (
        (dict(x=X[0]), "x has shape"), (dict(x=[[1, 2], [3]]), "do not make one array"),
        (dict(x=[["a"]] * 9), "type <U1"), (dict(x=X, y=[1, 2]), "same length"),
        (dict(x=X, y=["a"]), "give equally many"), (dict(x=X, window=3), "data frames"),
        (dict(x=X, kind="image"), "is unknown"), (dict(x=X * np.nan), "NaN or infinity"),
        (dict(x=endless), "has no end"), (dict(x=Frame(a=X[:, 0]), y=X[:, 0]), "label_column"),
        (dict(x=X, validation_fraction=2), "outside"),
        (dict(x=X, kind="images"), "no image"), (dict(x=X[:2]), "at least 3"),
    )  # fmt: skip
    for arguments, words in cases:
        with pytest.raises(UserError, match=words):
            data.from_arrays(**arguments)
