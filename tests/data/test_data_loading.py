"""`load`: splits by a fixed rule, classes, sizes, and memory."""

import contextlib
import subprocess
import sys

import numpy as np
import pytest

from pae_zoo import data
from pae_zoo.core.errors import UserError
from pae_zoo.data.rows import ArrayRows, permute_in_place


def keys(split):
    return {row.tobytes() for row in split.x}


def test_digits():
    loaded = data.load("digits")
    assert loaded.event_shape == (8, 8, 1) and loaded.train.x.dtype == np.float32
    assert (len(loaded.train), len(loaded.valid), len(loaded.test)) == (1372, 125, 300)
    whole = np.concatenate([loaded.train.x, loaded.valid.x, loaded.test.x])
    assert whole.sum() == 561718 / 16  # the sum of scikit-learn's table
    assert loaded.train.x.min() == 0 and loaded.train.x.max() == 1
    np.testing.assert_array_equal(loaded.train.x * 16, np.round(loaded.train.x * 16))
    assert set(loaded.test.y) == set(range(10))


def test_splits_are_disjoint_and_never_depend_on_options_of_training():
    plain = data.load("digits")
    assert not keys(plain.train) & keys(plain.valid) and not keys(plain.train) & keys(plain.test)
    assert not keys(plain.valid) & keys(plain.test)
    few = data.load("digits", num_train=100, num_test=10, seed=3)
    np.testing.assert_array_equal(few.train.x, plain.train.x[:100])
    np.testing.assert_array_equal(few.valid.x, plain.valid.x)
    np.testing.assert_array_equal(few.test.x, plain.test.x[:10])
    none = data.load("digits", validation_fraction=0.0)
    assert len(none.valid) == 0 and len(none.train) == 1497
    np.testing.assert_array_equal(none.test.x, plain.test.x)


def test_classes():
    plain, some = data.load("digits"), data.load("digits", classes=(0, 5, 7))
    assert set(some.train.y) == set(some.valid.y) == set(some.test.y) == {0, 5, 7}
    assert len(some.test) == np.isin(plain.test.y, (0, 5, 7)).sum()
    size = len(some.train) + len(some.valid)
    assert len(some.valid) == round(size / 12)
    with pytest.raises(UserError, match="no label 12; labels present: 0,1,2,3,4,5,6,7,8,9"):
        data.load("digits", classes=(12,))
    with pytest.raises(UserError, match="needs labels"):
        data.load("circle", classes=(1,))


def test_other_classes():
    some = data.load("digits", classes=(0, 5, 7))
    others = data.load("digits", classes=(0, 5, 7), others=True)
    assert set(others.test.y) == {1, 2, 3, 4, 6, 8, 9}
    kept = len(some.train) + len(some.valid) + len(some.test)
    assert len(others.test) == 1797 - kept  # no official test split: all that nothing was trained on
    assert not keys(others.test) & (keys(some.train) | keys(some.valid) | keys(some.test))
    with pytest.raises(UserError, match="digits: other classes are those that classes leaves out"):
        data.load("digits", others=True)
    with pytest.raises(UserError, match="digits has no other labels"):
        data.load("digits", classes=range(10), others=True)


def test_other_classes_of_an_official_test_split(tmp_path):
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    np.savez(tmp_path / "a.npz", x_train=x[:12], y_train=[0] * 6 + [1] * 6, x_test=x[12:], y_test=[0, 2] * 4)
    others = data.load(tmp_path / "a.npz", classes=(0,), others=True)
    np.testing.assert_array_equal(others.test.x, x[13::2])  # label 1 is of the training split alone
    np.savez(tmp_path / "b.npz", x_train=x[:12], y_train=[0] * 6 + [1] * 6, x_test=x[12:], y_test=[0] * 8)
    with pytest.raises(UserError, match="the test split of npz:.* has no other labels"):
        data.load(tmp_path / "b.npz", classes=(0,), others=True)


def test_image_size_grey_and_invert():
    loaded = data.load("digits", image_size=16, invert=True)
    assert loaded.event_shape == (16, 16, 1) and loaded.info.shape == (16, 16, 1)
    plain = data.load("digits")
    assert abs((1 - loaded.train.x).mean() - plain.train.x.mean()) < 0.01
    assert loaded.train.x.min() >= 0 and loaded.train.x.max() <= 1


@pytest.mark.parametrize(
    "options",
    [dict(image_size=8), dict(crop="2,2"), dict(grey=True), dict(invert=True), dict(static_binarise=True)],
)
def test_vectors_take_no_image_options(options):
    with pytest.raises(UserError, match="are for images"):
        data.load("banana", **options)


@pytest.mark.parametrize(
    "options", [dict(num_train=-1), dict(num_test=-2), dict(image_size=-3), dict(validation_fraction=1.0)]
)
def test_out_of_range(options):
    with pytest.raises(UserError, match=next(iter(options))):
        data.load("digits", **options)


def test_static_binarisation_is_drawn_once_per_image():
    one, two = (
        data.load("digits", static_binarise=True),
        data.load("digits", static_binarise=True, num_train=50),
    )
    assert one.train.x.dtype == np.uint8 and set(np.unique(one.train.x)) == {0, 255}
    np.testing.assert_array_equal(one.train.x[:50], two.train.x)
    np.testing.assert_array_equal(one.test.x, two.test.x)
    plain = data.load("digits")
    assert abs(one.train.unit().mean() - plain.train.x.mean()) < 0.005
    assert not one.train.x[plain.train.x == 0].any() and one.train.x[plain.train.x == 1].all()


def test_unit_divides_bytes_only():
    split = data.Split(np.array([[0], [51], [255]], np.uint8))
    np.testing.assert_array_equal(split.unit(), np.float32([[0], [0.2], [1]]))
    np.testing.assert_array_equal(split.unit([2, 0]), np.float32([[1], [0]]))
    assert data.Split(np.float32([[3.5]])).unit()[0, 0] == 3.5 and len(split) == 3


def test_rows_are_permuted_in_place_without_a_copy():
    array = np.random.default_rng(0).normal(size=(50, 3))
    order = np.random.default_rng(1).permutation(50)
    expected, address = array[order], array.ctypes.data
    parts = ArrayRows(array).take([order[:30], order[30:45], order[45:]], data.loading.Geometry())
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    assert parts[0].ctypes.data == address
    with pytest.raises(ValueError, match="permutation"):
        permute_in_place(array, np.zeros(50, int))


@pytest.mark.full  # test_launchers.py has the same of all the launcher imports
def test_import_is_light():
    heavy = {
        "tensorflow_datasets",
        "sklearn",
        "matplotlib",
        "scipy",
        "PIL",
        "tensorboard",
    }  # Keras may bring some itself
    code = (
        "import sys, keras, pae_zoo.core.seeds; before = set(sys.modules); import pae_zoo.data; "
        f"print(sorted({heavy} & (set(sys.modules) - before)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_steps_that_are_for_pixels_or_images_are_refused_on_other_data(tmp_path):
    rng = np.random.default_rng(0)
    for name, x, pixels, images in (
        ("reals", rng.normal(size=(20, 6)), False, False), ("unit", rng.random((20, 6)), False, False),
        ("bytes", rng.integers(0, 256, (20, 6)).astype(np.uint8), True, False),
        ("images", rng.random((20, 6, 6)), True, True),
    ):  # fmt: skip
        np.savez(tmp_path / f"{name}.npz", x=x)
        loaded = data.load(f"npz:{tmp_path / name}.npz")
        data.check_steps(loaded, ("standardise", "centre", "scale"))
        for steps in (("dequantise",), ("logit",), ("binarise_dynamic",), ("scale", "dequantise", "logit")):
            with contextlib.nullcontext() if pixels else pytest.raises(UserError, match=f"{steps[-1]} for pixels only"):
                data.check_steps(loaded, steps)
        for step in ("rotate", "flip", "crop", "brightness"):
            with contextlib.nullcontext() if images else pytest.raises(UserError, match="is for images"):
                data.check_steps(loaded, augment=(step,))
    with pytest.raises(UserError, match="dequantise"):
        data.check_steps(data.load("circle"), ("dequantise",))
    for build in (data.build_chain, data.build_augmentation):
        with pytest.raises(UserError, match="at most 16"):
            build(["flip" if build is data.build_augmentation else "scale"] * 17)


def test_data_that_no_memory_holds_are_refused_before_they_are_made(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((40, 8, 8), np.uint8))
    for size in (10**6, 2**31 - 1):
        with pytest.raises(UserError, match="of memory, but .* give a smaller image_size"):
            data.load(f"npz:{tmp_path / 'a.npz'}", image_size=size)
