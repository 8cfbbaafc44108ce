"""The table of named sets and the order in which a set is looked for."""

import dataclasses
import pathlib
import pickle
import threading
import time

import numpy as np
import pytest
from data_files import write_idx

from pae_zoo import data
from pae_zoo.core.errors import UserError
from pae_zoo.data import augmentation, preprocessing, sources, tfds_source


def write_npz(path, value, count=12):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.full((count, 4, 4), value, np.uint8)
    np.savez(path, x_train=x, y_train=np.zeros(count, int), x_test=x[:2], y_test=np.zeros(2, int))


def first_pixel(name, **options):
    return int(data.load(name, **options).train.x[0, 0, 0, 0])


def test_every_set_states_what_it_is():
    lines = data.describe()
    for name, named in sources.SETS.items():
        assert "\n" not in lines[name]
        info = named.info
        assert info.title and info.shape and info.value_range and info.licence and info.splits
    assert {"npz:FILE", "folder:DIR", "tfds:NAME"} <= set(lines)


def test_unknown_names_get_a_suggestion_and_the_list():
    for name, guess in (("fashion-mnst", "fashion_mnist"), ("Mnist", "mnist"), ("swisroll", "swissroll")):
        with pytest.raises(UserError, match=f"did you mean {guess}") as caught:
            data.load(name)
        assert "lognormal4" in str(caught.value) and "npz:FILE" in str(caught.value)
    for name in ("", "npz:", "what:ever"):
        with pytest.raises(UserError, match="dataset=.* is unknown"):
            data.check_name(name)
    data.check_name("npz:not/there.npz")


def test_missing_data_dir(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        data.load("mnist", data_dir=str(tmp_path / "none"))


def test_own_folder_then_data_dir_then_debian(tmp_path, monkeypatch):
    debian = tmp_path / "debian"
    write_npz(debian / "d.npz", 3)
    named = dataclasses.replace(sources.SETS["fashion_mnist"], debian=str(debian))
    monkeypatch.setitem(sources.SETS, "fashion_mnist", named)
    home = tmp_path / "home"
    home.mkdir()
    options = dict(data_dir=str(home))
    assert first_pixel("fashion_mnist", **options) == 3
    write_npz(home / "fashion-mnist.npz", 2)
    write_npz(home / "mnist.npz", 9)
    assert first_pixel("fashion_mnist", **options) == 2
    assert first_pixel("mnist", **options) == 9
    assert first_pixel("fashion_mnist", ood=True, **options) == 3  # never flat for OOD sets
    write_npz(home / "fashion_mnist" / "any.npz", 1)
    assert first_pixel("fashion_mnist", **options) == 1
    (home / "fashion_mnist" / "any.npz").write_bytes(b"broken")
    with pytest.raises(UserError, match="any.npz"):
        data.load("fashion_mnist", **options)


def test_flat_idx_only_for_the_data_set_itself(tmp_path):
    write_idx(tmp_path)
    assert len(data.load("kmnist", data_dir=str(tmp_path)).test) == 6
    with pytest.raises(UserError, match="not on this machine"):
        data.load("kmnist", data_dir=str(tmp_path), ood=True)


def test_offline_failure_says_within_seconds_what_to_do(tmp_path):
    start = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached") as caught:
        data.load("svhn_cropped", data_dir=str(tmp_path))
    assert str(tmp_path / "svhn_cropped") in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="--download=false"):
        data.load("svhn_cropped", data_dir=str(tmp_path), download=False)
    with pytest.raises(UserError, match="no_such_set"):
        data.load("tfds:no_such_set")
    assert time.monotonic() - start < 20  # most of it imports the library


def test_the_probe_gives_up_in_time(monkeypatch):
    monkeypatch.undo()
    hanging = threading.Event()  # a name look-up that does not come back

    def hang(*_, **__):
        hanging.wait(5)
        raise OSError

    monkeypatch.setattr(tfds_source.socket, "create_connection", hang)
    start = time.monotonic()
    assert not tfds_source.reachable(["example.org"], seconds=0.3)
    assert time.monotonic() - start < 2
    hanging.set()

    def refuse(*_, **__):
        raise ConnectionRefusedError

    monkeypatch.setattr(tfds_source.socket, "create_connection", refuse)
    assert not tfds_source.reachable(["example.org"], seconds=5)
    assert time.monotonic() - start < 3


def test_a_failing_download_is_one_line(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Builder:
        data_path, url_infos = tmp_path / "nowhere", {"https://example.org/a.gz": None}

        def download_and_prepare(self):
            raise RuntimeError("checksum differs\nand more lines")

    monkeypatch.setattr(tfds, "builder", lambda *_, **__: Builder())
    seen = []
    monkeypatch.setattr(tfds_source, "reachable", lambda hosts: seen.extend(hosts) or True)
    monkeypatch.setattr(tfds_source.urllib.request, "getproxies", dict)
    with pytest.raises(UserError, match="could not fetch kmnist .RuntimeError: checksum differs") as caught:
        data.load("kmnist")
    assert "\n" not in str(caught.value) and "<data_dir>/kmnist" in str(caught.value)
    assert seen == ["example.org"]
    monkeypatch.setattr(tfds_source.urllib.request, "getproxies", lambda: {"https": "http://me:pw@proxy:3128"})
    assert tfds_source._hosts(Builder()) == ["proxy:3128"]


def test_the_documentation_lists_every_set():
    folder = pathlib.Path(__file__).parents[2] / "docs" / "reference"
    page = "".join((folder / name).read_text(encoding="utf-8") for name in ("data_sets.md", "preprocessing.md"))
    for name in [*data.describe(), *data.CORRUPTIONS, *preprocessing.NAMES, *augmentation.NAMES]:
        assert f"`{name}`" in page, name


def test_prepared_copy_of_tensorflow_datasets(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Mnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.0.1")
        name = "mnist"

        def _info(self):
            image, label = tfds.features.Image(shape=(28, 28, 1)), tfds.features.ClassLabel(num_classes=10)
            features = {"image": image, "label": label}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"train": self._generate_examples(24), "test": self._generate_examples(6)}

        def _generate_examples(self, count):
            for row in range(count):
                yield row, {"image": np.full((28, 28, 1), row, np.uint8), "label": row % 10}

    Mnist(data_dir=str(tmp_path)).download_and_prepare()
    for name, folder in (("mnist", tmp_path), ("tfds:mnist", tmp_path)):
        loaded = data.load(name, data_dir=str(folder), download=False, classes=(1, 2, 3))
        assert loaded.event_shape == (28, 28, 1) and loaded.train.x.dtype == np.uint8
        assert sorted(loaded.test.y) == [1, 2, 3] and len(loaded.train) + len(loaded.valid) == 9
        np.testing.assert_array_equal(loaded.train.x[:, 0, 0, 0] % 10, loaded.train.y)
    assert data.load("tfds:mnist", data_dir=str(tmp_path)).slug == "tfds-mnist"

    class More(Mnist, skip_registration=True):
        name = "mnist"

        def _split_generators(self, manager):
            return {"train": self._generate_examples(24), "val": self._generate_examples(3),
                    "unsupervised": self._generate_examples(2)}  # fmt: skip

    More(data_dir=str(tmp_path / "more")).download_and_prepare()
    loaded = data.load("tfds:mnist", data_dir=str(tmp_path / "more"))
    assert sorted(loaded.valid.y) == [0, 1, 2] and len(loaded.train) + len(loaded.test) == 24
    assert loaded.info.notes == ("left out: the splits unsupervised",)


def cifar_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, 32, 32)).astype(np.uint8), rng.integers(0, 10, count)


def write_cifar(folder, python, batches=2):
    folder.mkdir(parents=True)
    for number in range(batches + 1):
        pixels, labels = cifar_rows(10, number)
        stem = f"data_batch_{number + 1}" if number < batches else "test_batch"
        if python:
            content = {b"data": pixels.reshape(10, -1), b"labels": labels.tolist()}
            (folder / stem).write_bytes(pickle.dumps(content, protocol=2))
        else:
            rows = np.concatenate([labels[:, None].astype(np.uint8), pixels.reshape(10, -1)], axis=1)
            (folder / f"{stem}.bin").write_bytes(rows.tobytes())


@pytest.mark.parametrize(
    "python, place", [(True, "cifar-10-batches-py"), (True, ""), (False, "cifar-10-batches-bin")]
)
def test_cifar_batches(tmp_path, python, place):
    write_cifar(tmp_path / "cifar10" / place if place else tmp_path / "cifar10", python)
    loaded = data.load("cifar10", data_dir=str(tmp_path))
    pixels, labels = cifar_rows(10, 2)
    np.testing.assert_array_equal(loaded.test.x, np.moveaxis(pixels, 1, -1))
    np.testing.assert_array_equal(loaded.test.y, labels)
    assert len(loaded.train) + len(loaded.valid) == 20


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle ran')",)


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), pickle.dumps({b"data": 3}), b"", b"garbage"])
def test_broken_or_evil_cifar_python_batches(tmp_path, content):
    write_cifar(tmp_path / "cifar10", python=True)
    (tmp_path / "cifar10" / "data_batch_2").write_bytes(content)
    with pytest.raises(UserError, match="data_batch_2 is not a readable CIFAR-10"):
        data.load("cifar10", data_dir=str(tmp_path))


def test_broken_cifar_binary_batches(tmp_path):
    write_cifar(tmp_path / "cifar10", python=False)
    path = tmp_path / "cifar10" / "data_batch_1.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match="truncated"):
        data.load("cifar10", data_dir=str(tmp_path))
    path.write_bytes(b"\x80" + whole[1:])
    with pytest.raises(UserError, match="0 to 9"):
        data.load("cifar10", data_dir=str(tmp_path))
    path.unlink()
    with pytest.raises(UserError, match="data_batch_1.bin"):
        data.load("cifar10", data_dir=str(tmp_path))


def test_svhn_matlab_files(tmp_path):
    from scipy import io as scipy_io

    (tmp_path / "svhn_cropped").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 12)).astype(np.uint8)
    labels = np.arange(1, 13)[:, None] % 11
    scipy_io.savemat(tmp_path / "svhn_cropped" / "train_32x32.mat", {"X": pixels, "y": labels})
    with pytest.raises(UserError, match="test_32x32.mat is missing"):
        data.load("svhn_cropped", data_dir=str(tmp_path))
    scipy_io.savemat(tmp_path / "svhn_cropped" / "test_32x32.mat", {"X": pixels, "y": labels})
    loaded = data.load("svhn_cropped", data_dir=str(tmp_path))
    np.testing.assert_array_equal(loaded.test.x[3], pixels[..., 3])
    assert loaded.test.y[9] == 0  # stored as 10
    packed = {"X": pixels, "y": labels, "more": np.array(["a", 5], object)}
    scipy_io.savemat(tmp_path / "svhn_cropped" / "train_32x32.mat", packed, do_compression=True)
    np.testing.assert_array_equal(data.load("svhn_cropped", data_dir=str(tmp_path)).train.x, loaded.train.x)
    (tmp_path / "svhn_cropped" / "test_32x32.mat").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a readable SVHN"):
        data.load("svhn_cropped", data_dir=str(tmp_path))


def test_slugs_are_folder_names():
    assert data.slug("fashion_mnist") == "fashion_mnist"
    assert data.slug("npz:/some/where/my data.npz") == "npz-my-data"
    assert data.slug("folder:pictures/cats/") == "folder-cats"
    assert data.slug("tfds:coil100/config:1.0") == "tfds-coil100-config-1.0"
