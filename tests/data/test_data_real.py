"""Every real set in PAE_ZOO_DATA loads by its name, whole and unchanged."""

import hashlib

import numpy as np
import pytest

from pae_zoo import data
from pae_zoo.data import idx
from pae_zoo.data.preprocessing import build_chain

pytestmark = pytest.mark.data


def total(*splits):
    return sum(int(split.x.sum(dtype=np.int64)) for split in splits)


@pytest.mark.parametrize("name, train_sum", [("fashion_mnist", 3431114169), ("mnist", 1567298545)])
def test_idx_sets(name, train_sum, data_dir):
    loaded = data.load(name, data_dir=data_dir)
    assert (len(loaded.train), len(loaded.valid), len(loaded.test)) == (55000, 5000, 10000)
    assert loaded.event_shape == (28, 28, 1) and loaded.train.x.dtype == np.uint8
    assert np.bincount(loaded.test.y).sum() == 10000 and set(loaded.train.y) == set(range(10))
    assert total(loaded.train, loaded.valid) == train_sum


def test_mnist_checksums(data_dir):
    images = idx.read(f"{data_dir}/mnist/train-images-idx3-ubyte.gz", 3)
    labels = idx.read(f"{data_dir}/mnist/train-labels-idx1-ubyte.gz", 1)
    head = bytes.fromhex("00000803 0000ea60 0000001c 0000001c"), bytes.fromhex("00000801 0000ea60")
    assert hashlib.md5(head[0] + images.tobytes()).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    assert hashlib.md5(head[1] + labels.tobytes()).hexdigest() == "a25bea736e30d166cdddb491f175f624"


def test_cifar10(data_dir):
    loaded = data.load("cifar10", data_dir=data_dir)
    assert len(loaded.train) + len(loaded.valid) == 10000 and len(loaded.test) == 1000
    assert loaded.event_shape == (32, 32, 3) and loaded.train.unit(slice(500)).mean() == pytest.approx(
        0.47, abs=0.02
    )
    grey = data.load("cifar10", data_dir=data_dir, grey=True, image_size=28, num_train=100, num_test=10)
    assert grey.train.x.shape == (100, 28, 28, 1) and grey.test.x.shape == (10, 28, 28, 1)


def test_omniglot(data_dir):
    loaded = data.load("omniglot", data_dir=data_dir)
    assert len(loaded.train) + len(loaded.valid) == 2176 and len(loaded.test) == 544
    assert loaded.event_shape == (28, 28, 1) and len(loaded.label_names) == 136
    assert set(loaded.train.y) == set(loaded.test.y) == set(range(136))
    assert loaded.train.unit().mean() == pytest.approx(0.0763, abs=1e-3)  # white strokes on black


def test_classes_and_sizes(data_dir):
    some = data.load("mnist", data_dir=data_dir, classes=(0, 5, 7), num_train=5000)
    assert set(some.train.y) == set(some.test.y) == {0, 5, 7} and len(some.train) == 5000
    assert data.load("omniglot", data_dir=data_dir, ood=True, num_test=20).test.x.shape == (20, 28, 28, 1)


def test_acceptance_15_of_vlae(data_dir):
    loaded = data.load("fashion_mnist", data_dir=data_dir)
    splits = [{row.tobytes() for row in split.x} for split in (loaded.train, loaded.valid, loaded.test)]
    # Fashion-MNIST itself repeats a few images; rows are disjoint, which the sums above check.
    assert len(splits[0] & splits[1]) + len(splits[0] & splits[2]) < 10
    raw = build_chain(["centre"])
    raw.adapt(loaded.train.x)
    y = raw.forward(loaded.train.unit()).numpy()
    assert np.abs(y.mean(axis=0, dtype=np.float64)).max() < 1e-3
    log_variance = np.log(np.mean(y**2, dtype=np.float64))  # s_0: mean over examples and pixels
    assert np.mean(np.sum(y.astype(np.float64) ** 2, axis=(1, 2, 3))) * np.exp(
        -log_variance
    ) == pytest.approx(784, rel=0.01)
    logit = build_chain(["dequantise", "logit", "centre"])
    logit.adapt(loaded.train.x)
    y = logit.forward(loaded.train.unit(slice(20000)), (1, 2)).numpy()
    assert abs(y.mean()) < 1e-2 and np.abs(y).max() < 2 * 2.9445
