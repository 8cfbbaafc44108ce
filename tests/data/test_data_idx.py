"""IDX files: what is read, and one clear line for each way they can be broken."""

import gzip

import numpy as np
import pytest
from data_files import idx_bytes, write_idx

from pae_zoo import data
from pae_zoo.core.errors import UserError
from pae_zoo.data import idx


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("place", ["mnist", "mnist/raw"])
def test_all_rows_arrive_once_with_their_labels(tmp_path, gz, place):
    arrays = write_idx(tmp_path / place, gz=gz)
    loaded = data.load("mnist", data_dir=str(tmp_path))
    assert loaded.event_shape == (5, 4, 1) and loaded.train.x.dtype == np.uint8
    assert (len(loaded.train), len(loaded.valid), len(loaded.test)) == (22, 2, 6)
    order = np.random.default_rng(42).permutation(24)
    np.testing.assert_array_equal(loaded.train.x[..., 0], arrays["train_images"][order[:22]])
    np.testing.assert_array_equal(loaded.valid.x[..., 0], arrays["train_images"][order[22:]])
    np.testing.assert_array_equal(loaded.valid.y, arrays["train_labels"][order[22:]])
    np.testing.assert_array_equal(loaded.test.x[..., 0], arrays["test_images"])
    assert loaded.test.y.dtype == np.int64


GOOD = idx_bytes(np.ones((24, 5, 4)))


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize(
    "key, content, message",
    [
        ("train_images", GOOD[:-7], "truncated"),
        ("train_images", GOOD[:9], "truncated"),
        ("train_images", b"", "truncated"),
        ("train_images", GOOD + b"x", "bytes left"),
        ("train_images", b"\x89PNG" + GOOD[4:], "89504e47"),
        ("train_images", idx_bytes(np.ones(24)), "3 axes"),
        ("train_images", b"\0\0\x0d\x03" + GOOD[4:], "unsigned bytes"),
        ("train_images", GOOD[:4] + b"\xff" * 12 + GOOD[16:], "cannot hold"),
        ("train_labels", idx_bytes(np.ones(23)), "24 images but 23 labels"),
        ("test_images", idx_bytes(np.ones((6, 5, 5))), "both must be alike"),
    ],
)
def test_broken_files_are_told_in_one_line(tmp_path, gz, key, content, message):
    write_idx(tmp_path / "mnist", gz=gz, **{key: content})
    with pytest.raises(UserError, match=message) as caught:
        data.load("mnist", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_broken_gzip(tmp_path):
    write_idx(tmp_path / "mnist", gz=True)
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(UserError, match="truncated"):
        data.load("mnist", data_dir=str(tmp_path))
    path.write_bytes(b"no gzip at all")
    with pytest.raises(UserError, match="not a readable gzip"):
        data.load("mnist", data_dir=str(tmp_path))
    corrupt = bytearray(whole)
    corrupt[40] ^= 0xFF
    path.write_bytes(bytes(corrupt))
    with pytest.raises(UserError, match="fetch it again"):
        data.load("mnist", data_dir=str(tmp_path))


def test_a_missing_file_is_named(tmp_path):
    write_idx(tmp_path / "kmnist")
    (tmp_path / "kmnist" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte"):
        data.load("kmnist", data_dir=str(tmp_path))


def test_plain_file_wins_over_gzip_and_dots_are_read(tmp_path):
    write_idx(tmp_path / "mnist")
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"stale")
    old = tmp_path / "mnist" / "t10k-labels-idx1-ubyte"
    old.rename(old.with_name("t10k-labels.idx1-ubyte"))
    assert len(data.load("mnist", data_dir=str(tmp_path)).test) == 6


def test_reader_returns_writable_rows(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.arange(12).reshape(3, 2, 2))))
    array = idx.read(path, 3)
    assert array.flags.writeable and array.sum() == 66
