"""Augmentations: the warp against scipy, eager = XLA, seeds, and options."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.data import augmentation as aug
from pae_zoo.data import build_augmentation

X = tf.constant(np.random.default_rng(0).random((6, 13, 10, 3)), tf.float32)
SEED = tf.constant([5, 6])


@pytest.mark.parametrize("degrees", [0.0, 5.0, -37.0, 90.0, 180.0])
def test_rotation_equals_scipy(degrees):
    from scipy import ndimage

    ours = aug.rotate(X, tf.fill([6], degrees * np.pi / 180)).numpy()
    theirs = ndimage.rotate(X.numpy(), degrees, axes=(2, 1), reshape=False, order=1, mode="grid-constant")
    if degrees == 0:
        np.testing.assert_array_equal(ours, X)
    np.testing.assert_allclose(ours, theirs if degrees else X, atol=2e-5)


@pytest.mark.parametrize("name", aug.NAMES)
def test_eager_equals_xla_and_seeds_repeat(name):
    layer = build_augmentation([name])
    eager = layer(X, SEED)
    compiled = tf.function(lambda x, s: layer(x, s), jit_compile=True)(X, SEED)
    np.testing.assert_allclose(compiled, eager, atol=1e-5)
    np.testing.assert_array_equal(layer(X, SEED), eager)
    assert not np.array_equal(layer(X, seed=(6, 5)), eager) and not np.array_equal(eager, X)
    assert (
        eager.shape == X.shape
        and float(tf.reduce_min(eager)) >= 0
        and float(tf.reduce_max(eager)) <= 1 + 1e-6
    )
    np.testing.assert_array_equal(layer(X), X)  # no seed, no change


@pytest.mark.parametrize("name", aug.NAMES)
def test_first_rows_do_not_depend_on_the_batch(name):
    layer = build_augmentation([name])
    if name != "rotate":
        np.testing.assert_allclose(layer(X[:2], SEED), layer(X, SEED)[:2], atol=1e-6)
    assert (
        tf.function(layer, input_signature=[tf.TensorSpec([None, 13, 10, 3]), tf.TensorSpec([2], tf.int32)])(
            X, SEED
        ).shape
        == X.shape
    )


def test_angles_are_per_image_or_per_batch():
    same = tf.tile(X[:1], [4, 1, 1, 1])
    each = aug.Rotate(20.0)(same, SEED).numpy()
    batch = aug.Rotate(20.0, per_batch=True)(same, SEED).numpy()
    assert not np.allclose(each[0], each[1]) and np.array_equal(batch[0], batch[3])
    np.testing.assert_array_equal(aug.Rotate(0.0)(X, SEED), X)


def test_flip_mirrors_about_half():
    many = tf.tile(X[:1], [400, 1, 1, 1])
    y = aug.Flip()(many, SEED).numpy()
    mirrored = (y == X[0].numpy()[:, ::-1]).all(axis=(1, 2, 3))
    assert ((y == X[0].numpy()).all(axis=(1, 2, 3)) ^ mirrored).all() and 150 < mirrored.sum() < 250


def test_crop_of_nothing_is_the_identity_and_windows_move():
    np.testing.assert_allclose(aug.Crop(0)(X, SEED), X, atol=1e-6)
    ramp = tf.tile(tf.range(28.0)[None, :, None, None] / 28, [300, 1, 28, 1])
    y = aug.Crop(6)(ramp, SEED).numpy() * 28
    assert set(np.round(y[:, 0, 0, 0]).astype(int)) == set(range(7))  # the first row starts at 0 to 6
    np.testing.assert_allclose(y[:, -1, 0, 0] - y[:, 0, 0, 0], 21, atol=1e-4)
    small = tf.zeros([2, 8, 8, 1])
    assert aug.Crop(6)(small, SEED).shape == small.shape


def test_brightness_shifts_each_image():
    grey = tf.fill([500, 2, 2, 1], 0.5)
    shift = aug.Brightness(0.2)(grey, SEED).numpy() - 0.5
    assert np.ptp(shift, axis=(1, 2, 3)).max() == 0 and np.abs(shift).max() <= 0.2 and shift.std() > 0.1


def test_chain_saves_and_loads():
    layer = build_augmentation(["rotate", "flip", "crop", "brightness"], rotate_degrees=15.0, rotate_per_batch=True,
                               crop_margin=3, brightness_delta=0.1)  # fmt: skip
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    np.testing.assert_array_equal(copy(X, SEED), layer(X, SEED))
    assert copy.steps[0].degrees == 15.0 and copy.steps[2].margin == 3


def test_names_and_options():
    assert build_augmentation([]) is None and build_augmentation((), rotate_degrees=3.0) is None
    for names, options, message in (
        (["rotat"], {}, "did you mean rotate"),
        (["rotate"], {"angle": 3}, "augmentation option=.* is unknown"),
        (["rotate"], {"rotate_degrees": -1.0}, "negative"),
        (["brightness"], {"brightness_delta": 2.0}, r"\[0, 1\]"),
    ):
        with pytest.raises(UserError, match=message):
            build_augmentation(names, **options)
