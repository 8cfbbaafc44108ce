"""npz files: the keys, the dtypes, and what is refused."""

import pickle
import zipfile

import numpy as np
import pytest

from pae_zoo import data
from pae_zoo.core.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 6, 5, 3)).astype(np.uint8)
LABELS = np.arange(30) % 4


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_x_alone_gets_a_fixed_test_split(tmp_path):
    name = save(tmp_path / "a.npz", x=IMAGES, y=LABELS)
    one, two = data.load(name), data.load(name, seed=7)
    assert (len(one.train), len(one.valid), len(one.test)) == (23, 2, 5)
    np.testing.assert_array_equal(one.test.x, two.test.x)
    held_out = np.sort(np.random.default_rng(42).permutation(30)[-5:])
    np.testing.assert_array_equal(one.test.x, IMAGES[held_out])
    rows = np.concatenate([one.train.x, one.valid.x, one.test.x]).reshape(30, -1)
    assert len(np.unique(rows, axis=0)) == 30
    assert one.slug == "npz-a" and one.info.source.endswith("a.npz")


def test_labels_stay_with_their_rows(tmp_path):
    loaded = data.load(save(tmp_path / "a.npz", x=IMAGES, y=LABELS))
    for split in (loaded.train, loaded.valid, loaded.test):
        for row, label in zip(split.x, split.y):
            assert LABELS[np.flatnonzero((IMAGES == row).all(axis=(1, 2, 3)))[0]] == label


@pytest.mark.parametrize(
    "x, shape, dtype",
    [
        (IMAGES, (6, 5, 3), np.uint8),
        (IMAGES[..., 0], (6, 5, 1), np.uint8),
        (IMAGES / 255.0, (6, 5, 3), np.float32),
        ((IMAGES / 255.0).astype(np.float16), (6, 5, 3), np.float32),
        (IMAGES > 100, (6, 5, 3), np.uint8),
        (RNG.normal(size=(30, 7)) * 50, (7,), np.float32),
        (RNG.integers(-9, 9, (30, 7)), (7,), np.float32),
        (IMAGES.reshape(30, -1), (90,), np.uint8),
    ],
)
def test_dtypes(tmp_path, x, shape, dtype):
    loaded = data.load(save(tmp_path / "a.npz", x_train=x, x_test=x[:3]))
    assert loaded.event_shape == shape and loaded.train.x.dtype == dtype
    assert len(loaded.test) == 3 and loaded.test.y is None
    unit = loaded.test.unit()
    assert unit.dtype == np.float32
    expected = x[:3].reshape(unit.shape) * (1 / 255 if x.dtype == np.uint8 else 1.0)
    np.testing.assert_allclose(unit, expected, rtol=1e-3)


def test_splits_by_any_usual_spelling_and_what_is_left_out(tmp_path):
    x, y = IMAGES, LABELS
    for suffixes in (("train", "test", "valid"), ("TRAIN", "Testing", "val"), ("training", "test_set", "dev")):
        arrays = {f"x_{name}": x[first : first + 10] for name, first in zip(suffixes, (0, 10, 20))}
        arrays |= {f"Y_{name}": y[first : first + 10] for name, first in zip(suffixes, (0, 10, 20))}
        loaded = data.load(save(tmp_path / "a.npz", **arrays, names=np.arange(3)))
        np.testing.assert_array_equal(loaded.test.x, x[10:20])
        np.testing.assert_array_equal(loaded.valid.x, x[20:])
        np.testing.assert_array_equal(loaded.valid.y, y[20:])
        assert sorted(loaded.train.y) == sorted(y[:10]) and loaded.info.notes == ("left out: 1 arrays, such as names",)
    loaded = data.load(save(tmp_path / "a.npz", X=x, x_val=x[:3]))
    np.testing.assert_array_equal(loaded.valid.x, x[:3])
    assert len(loaded.train) + len(loaded.test) == 30
    for arrays, words in ((dict(x=x, X=x), "exactly one of x and X"), (dict(x=x, x_val=x, x_dev=x), "x_val and x_dev"),
                          (dict(x=x, y_val=y), "y_val without x_valid"),
                          (dict(x_val=x, x_test=x), "one of x and x_train"),
                          (dict(x=x, y=y, x_val=x), "one split only"), (dict(x=x, x_val=x[:, :4]), "must be alike"),
                          (dict(x=x, y=y, y_train=y), "exactly one of y and y_train")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            data.load(save(tmp_path / "a.npz", **arrays))


NAN, BIG = IMAGES / 255.0, IMAGES / 200.0
NAN[4, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    "arrays, message",
    [
        (dict(x=NAN), "NaN or infinity, first in row 4"),
        (dict(x=np.full((9, 2), 1e300)), "as float32, holds NaN or infinity|as float32, hold"),
        (dict(x=BIG), r"must lie in \[0, 1\]"),
        (dict(x=-(IMAGES / 255.0)), r"must lie in \[0, 1\]"),
        (dict(x=IMAGES.astype(np.int64)), "astype"),
        (dict(x=IMAGES.astype(complex)), "complex"),
        (dict(x=np.array(["a", "b"])), "have shape"),
        (dict(x=IMAGES[:0]), "none of them empty"),
        (dict(x=np.ones((4, 3, 20, 20), np.uint8)), "channels-first"),
        (dict(z=IMAGES), "exactly one of x and x_train"),
        (dict(x=IMAGES, x_train=IMAGES), "exactly one of x and x_train"),
        (dict(x=IMAGES, y=LABELS[:-1]), "30 images but 29 labels"),
        (dict(x=IMAGES, y=LABELS + 0.5), "not integers"),
        (dict(x=IMAGES, y=np.eye(30)), "labels of shape"),
        (dict(x_train=IMAGES, x_test=IMAGES[:, :4]), "both must be alike"),
        (dict(x_train=IMAGES, x_test=IMAGES, y_train=LABELS), "one split only"),
        (dict(x_train=IMAGES, y_test=LABELS), "y_test without x_test"),
        (dict(x=IMAGES[:2]), "at least 3"),
    ],
)
def test_what_is_refused(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message) as caught:
        data.load(save(tmp_path / "a.npz", **arrays))
    assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle ran')",)


@pytest.mark.parametrize("key", ["x", "unread"])
def test_pickles_inside_are_refused_and_never_run(tmp_path, key):
    np.savez(tmp_path / "a.npz", **{"x": IMAGES, key: np.array([Evil()], dtype=object)})
    with pytest.raises(UserError, match="pickle"):
        data.load(f"npz:{tmp_path}/a.npz")


def test_broken_containers(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(UserError, match="does not exist"):
        data.load(f"npz:{path}")
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="not a readable .npz"):
        data.load(f"npz:{path}")
    np.savez_compressed(path, x=IMAGES)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a readable .npz"):
        data.load(f"npz:{path}")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"no array")
    with pytest.raises(UserError, match="not a readable .npy"):
        data.load(f"npz:{path}")
    with open(path, "wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(UserError, match="not a readable .npz"):
        data.load(f"npz:{path}")


def test_named_sets_take_the_four_keys(tmp_path):
    (tmp_path / "cifar10").mkdir()
    path = tmp_path / "cifar10" / "any_name.npz"
    np.savez(path, x_train=IMAGES, y_train=LABELS[:, None], x_test=IMAGES[:4], y_test=LABELS[:4, None])
    loaded = data.load("cifar10", data_dir=str(tmp_path), ood=True)
    assert len(loaded.train) + len(loaded.valid) == 30 and loaded.test.y.tolist() == [0, 1, 2, 3]
    np.savez(tmp_path / "cifar10" / "second.npz", x=IMAGES)
    with pytest.raises(UserError, match="2 .npz files"):
        data.load("cifar10", data_dir=str(tmp_path))
