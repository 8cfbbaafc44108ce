"""What the original codes load: their names of sets, CIFAR-100, Imagenette, chardata.mat, CelebA's attributes."""

import pickle

import numpy as np
import pytest
import tensorflow as tf
from data_files import write_idx, write_png
from scipy import io as scipy_io
from test_data_images import PARTITION, write_celeba

from pae_zoo import data
from pae_zoo.core.errors import UserError
from pae_zoo.data import augmentation, preprocessing

LABELS = list(range(100)) + [99]


def refusal(name, **options):
    with pytest.raises(UserError) as caught:
        data.load(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- names -------------------------------------------------------------------------------------------------


def test_names_of_other_codes(tmp_path):
    write_idx(tmp_path / "fashion_mnist")
    loaded = data.load("fmnist", data_dir=str(tmp_path))
    assert loaded.name == "fashion_mnist" and loaded.label_names[:2] == ("T-shirt", "trouser")
    data.check_name("celeba")
    names = [type(step).__name__ for step in data.build_augmentation(("rot", "bright")).steps]
    assert names == ["Rotate", "Brightness"]


def test_labels_beyond_the_names_have_none(tmp_path):
    x = np.zeros((12, 28, 28), np.uint8)
    (tmp_path / "fashion_mnist").mkdir()
    np.savez(tmp_path / "fashion_mnist" / "a.npz", x_train=x, y_train=np.arange(12), x_test=x, y_test=np.arange(12))
    assert data.load("fmnist", data_dir=str(tmp_path)).label_names == ()


def test_so_many_of_each_label(tmp_path):
    write_idx(tmp_path / "mnist")
    options = dict(data_dir=str(tmp_path))
    whole, few = data.load("mnist", **options).train, data.load("mnist", num_train_per_class=3, **options).train
    assert np.bincount(few.y).tolist() == [3, 3, 3]
    firsts = np.sort(np.concatenate([np.flatnonzero(whole.y == label)[:3] for label in range(3)]))
    np.testing.assert_array_equal(few.x, whole.x[firsts])
    np.savez(tmp_path / "plain.npz", x=np.zeros((9, 4, 4), np.uint8))
    assert "needs labels" in refusal(f"npz:{tmp_path}/plain.npz", num_train_per_class=1)
    assert "negative" in refusal("digits", num_train_per_class=-1)


# ---- CIFAR-100 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False])
def test_cifar100(tmp_path, binary):
    pixels = np.random.default_rng(0).integers(0, 256, (101, 3072), np.uint8)
    folder = tmp_path / "cifar100" / ("cifar-100-binary" if binary else "cifar-100-python")
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        if binary:
            rows = np.concatenate([np.zeros((101, 1), np.uint8), np.array(LABELS, np.uint8)[:, None], pixels], axis=1)
            (folder / f"{split}.bin").write_bytes(rows.tobytes())
        else:
            found = {b"data": pixels, b"fine_labels": LABELS, b"coarse_labels": [0] * 101}
            (folder / split).write_bytes(pickle.dumps(found, 2))
    loaded = data.load("cifar100", data_dir=str(tmp_path))
    assert loaded.test.y.tolist() == LABELS and loaded.event_shape == (32, 32, 3)
    np.testing.assert_array_equal(loaded.test.x, pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    name = "train.bin" if binary else "train"
    (folder / name).write_bytes((folder / name).read_bytes()[:5000])
    assert name in refusal("cifar100", data_dir=str(tmp_path))
    (folder / name).unlink()
    assert f"not {name}" in refusal("cifar100", data_dir=str(tmp_path))


# ---- Imagenette --------------------------------------------------------------------------------------------


def test_imagenette_is_cut_to_its_middle(tmp_path):
    synsets = [f"n{number:08}" for number in range(10)]
    for split, count in (("train", 3), ("val", 1)):
        for label, synset in enumerate(synsets):
            for number in range(count):
                pixels = np.zeros((160, 200 + 20 * number, 3), np.uint8)
                pixels[:, 20 + 10 * number : 180 + 10 * number] = 10 * label + 9  # the middle 160 columns
                write_png(tmp_path / "imagenette" / split / synset / f"{number}.png", pixels)
    loaded = data.load("imagenette", data_dir=str(tmp_path))
    assert loaded.event_shape == (64, 64, 3) and loaded.label_names[9] == "parachute"
    assert (len(loaded.train), len(loaded.valid), len(loaded.test)) == (25, 10, 5)
    for split in (loaded.train, loaded.valid, loaded.test):
        expected = np.broadcast_to((10 * split.y + 9)[:, None, None, None], split.x.shape)
        np.testing.assert_array_equal(split.x, expected)
    assert data.load("imagenette", data_dir=str(tmp_path), image_size=32).event_shape == (32, 32, 3)


# ---- chardata.mat ------------------------------------------------------------------------------------------


def write_chardata(path, **changes):
    rng = np.random.default_rng(2)
    found = {}
    for prefix, count in (("", 30), ("test", 6)):
        target = np.zeros((50, count))
        target[np.arange(count) % 5, np.arange(count)] = 1
        found |= {f"{prefix}data": rng.random((784, count)), f"{prefix}target": target}
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(path, {**found, **changes}, do_compression=True)
    return found


def test_chardata(tmp_path):
    path = tmp_path / "omniglot" / "chardata.mat"
    found = write_chardata(path)
    loaded = data.load("omniglot", data_dir=str(tmp_path))
    assert loaded.event_shape == (28, 28, 1) and loaded.test.y.tolist() == [0, 1, 2, 3, 4, 0]
    # Columns of a drawing follow one another, and nothing is inverted.
    expected = np.stack([column.reshape(28, 28, order="F") for column in found["testdata"].T])
    np.testing.assert_allclose(loaded.test.x[..., 0], expected, rtol=1e-6)
    for change in ({"data": np.zeros((10, 30))}, {"data": np.full((784, 30), 2.0)}, {"target": np.zeros((50, 3))},
                   {"testdata": np.full((784, 6), np.nan)}, {"testdata": np.zeros((784, 0))}):  # fmt: skip
        write_chardata(path, **change)
        assert "chardata.mat" in refusal("omniglot", data_dir=str(tmp_path))
    path.write_bytes(path.read_bytes()[:3000])
    assert "chardata.mat" in refusal("omniglot", data_dir=str(tmp_path))


# ---- CelebA's attributes -----------------------------------------------------------------------------------


def write_attributes(folder, rows=range(1, 13), names="Bald Smiling Young"):
    lines = [f"{n:06}.png {1 if n % 2 else -1} {1 if n > 6 else -1} 1" for n in rows]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(len(lines)), names, *lines]) + "\n")


def test_attributes_of_celeba_go_with_their_images(tmp_path):
    folder = tmp_path / "celeb_a"
    write_celeba(folder, PARTITION)
    assert data.load("celeba", data_dir=str(tmp_path), image_size=4).train.attributes is None
    write_attributes(folder)
    loaded = data.load("celeba", data_dir=str(tmp_path), image_size=4)
    assert loaded.attribute_names == ("Bald", "Smiling", "Young")
    for split in (loaded.train, loaded.valid, loaded.test):
        number = split.x[:, 0, 0, 0] // 10
        expected = np.stack([number % 2 == 1, number > 6, number > 0], axis=1)
        np.testing.assert_array_equal(split.attributes, expected)
    write_attributes(folder, rows=range(1, 12))
    assert "no attributes of 000012.png" in refusal("celeb_a", data_dir=str(tmp_path))
    write_attributes(folder, names="Bald Smiling")
    assert "for each of 2" in refusal("celeb_a", data_dir=str(tmp_path))
    (folder / "list_attr_celeba.txt").write_text("")
    assert "is empty" in refusal("celeb_a", data_dir=str(tmp_path))


# ---- channels, pad and crop --------------------------------------------------------------------------------


def test_channels_are_standardised_over_all_pixels():
    x = np.random.default_rng(0).normal([0.2, 0.5, 0.7], [0.1, 0.2, 0.05], (40, 5, 6, 3)).astype(np.float32)
    chain = preprocessing.build_chain(("standardise_channels",))
    chain.adapt(x)
    y = np.array(chain.forward(x))
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(y, (x - x.mean(axis=(0, 1, 2))) / x.std(axis=(0, 1, 2)), atol=1e-3)
    log_det = chain.forward_and_log_det(tf.constant(x[:1]))[1]
    np.testing.assert_allclose(log_det[0], -30 * np.log(x.std(axis=(0, 1, 2))).sum(), rtol=1e-4)
    np.testing.assert_allclose(chain.inverse(y), x, atol=1e-5)


def test_pad_and_crop_shifts_images():
    x = np.random.default_rng(0).random((64, 16, 16, 2)).astype(np.float32)
    found = np.array(augmentation.PadCrop(3)(x, seed=(1, 2)))
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    places = []
    for image, wide in zip(found, padded):
        fits = [(r, c) for r in range(7) for c in range(7)
                if np.allclose(wide[r : r + 16, c : c + 16], image, atol=1e-6)]  # fmt: skip
        assert len(fits) == 1
        places += fits
    assert {r for r, _ in places} == {c for _, c in places} == set(range(7))
    np.testing.assert_array_equal(augmentation.PadCrop(3)(x), x)
