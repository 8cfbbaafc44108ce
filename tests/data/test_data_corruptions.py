"""Out-of-distribution sets made from a split."""

import numpy as np
import pytest

from pae_zoo.core.errors import UserError
from pae_zoo.data import CORRUPTIONS, Split, corrupted

X = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3)).astype(np.uint8)
SPLIT = Split(X, np.arange(40))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("kind", list(CORRUPTIONS))
def test_shape_dtype_seed_and_the_split_itself_stays(kind, dtype):
    split = Split(X if dtype == np.uint8 else SPLIT.unit(), SPLIT.y)
    before = split.x.copy()
    one, two, other = corrupted(kind, split, 1), corrupted(kind, split, 1), corrupted(kind, split, 2)
    assert one.x.shape == split.x.shape and one.x.dtype == dtype
    np.testing.assert_array_equal(one.x, two.x)
    np.testing.assert_array_equal(split.x, before)
    assert np.array_equal(one.x, other.x) == (kind in ("hflip", "vflip"))
    unit = one.unit()
    assert unit.min() >= 0 and unit.max() <= 1


def test_what_each_kind_is():
    constant = corrupted("constant", SPLIT, 0).x
    assert (constant == constant[:, :1, :1, :1]).all() and len(np.unique(constant)) > 20
    assert abs(corrupted("noise", SPLIT, 0).unit().mean() - 0.5) < 0.02
    np.testing.assert_array_equal(corrupted("hflip", SPLIT, 0).x, np.flip(X, 2))
    np.testing.assert_array_equal(corrupted("vflip", SPLIT, 0).x, np.flip(X, 1))
    np.testing.assert_array_equal(corrupted("vflip", SPLIT, 0).y, SPLIT.y)
    assert corrupted("noise", SPLIT, 0).y is None


def test_bad_kinds_and_vectors():
    with pytest.raises(UserError, match="allowed: constant, noise, hflip, vflip"):
        corrupted("blur", SPLIT, 0)
    with pytest.raises(UserError, match="made from images"):
        corrupted("hflip", Split(np.ones((3, 2), np.float32)), 0)
