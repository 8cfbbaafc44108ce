"""Feature networks: what is kept in the package, the hash, the batches, which one fits which data."""

import shutil

import numpy as np
import pytest

from pae_zoo import data
from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.features import choice
from pae_zoo.evaluation.features import extractor as features

KEPT = sorted(choice.FOLDER.glob("*.npz"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_kept_networks_are_small_and_say_where_they_come_from(path):
    extractor, note = features.load(path)
    with np.load(path) as file:
        weights = [file[name] for name in sorted(file.files) if name != features.NOTE]
    assert path.stat().st_size < 1_000_000
    assert extractor.digest == note["sha256"] == features.digest_of(weights)
    assert extractor.label == f"{path.stem}-cnn {note['sha256'][:12]}"
    assert note["num_weights"] == sum(array.size for array in weights)
    assert note["test_accuracy"] >= {"fashion_mnist": 0.90, "mnist": 0.99, "digits": 0.96}[path.stem]


def test_all_three_are_kept():
    assert [path.stem for path in KEPT] == ["digits", "fashion_mnist", "mnist"]


@pytest.mark.data
@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_accuracy_is_what_the_note_says(path, data_dir):
    model, note = features.read(path)
    test = data.load(note["dataset"], data_dir=data_dir).test
    found = model.predict(test.unit(), batch_size=500, verbose=0).argmax(axis=1) == test.y
    assert len(test) == note["num_test"]
    assert found.mean() == pytest.approx(note["test_accuracy"], abs=2.5 / len(test))


def test_features_do_not_depend_on_the_batches(monkeypatch):
    extractor, _ = features.load(choice.FOLDER / "fashion_mnist.npz")
    x = np.random.default_rng(0).uniform(size=(70, 28, 28, 1)).astype(np.float32)
    kept, whole = x.copy(), extractor.features(x)
    assert whole.shape == (70, 64) and whole.dtype == np.float64
    alone = np.concatenate([extractor.features(x[i : i + 1]) for i in range(len(x))])
    monkeypatch.setattr(features, "BATCH", 13)
    for other in (extractor.features(x), alone):
        np.testing.assert_allclose(other, whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(x, kept)


def test_saving_and_loading(feature_file):
    path = feature_file((6, 5, 3))
    extractor, note = features.load(path)
    model, _ = features.read(path)
    x = np.random.default_rng(0).uniform(size=(3, 6, 5, 3)).astype(np.float32)
    hidden = extractor.features(x)
    kernel, bias = model.get_weights()[-2:]
    np.testing.assert_allclose(hidden @ kernel + bias, model.predict(x, verbose=0), atol=1e-5)


def test_another_seed_is_another_network(feature_file):
    first, second = (features.load(feature_file((8, 8, 1), seed=seed))[0] for seed in (0, 1))
    assert first.digest != second.digest


def test_broken_and_changed_files_are_refused(tmp_path, feature_file):
    path = tmp_path / "words.npz"
    path.write_text("no arrays")
    with pytest.raises(UserError, match="is not a readable feature network of tools/train_features.py"):
        features.load(path)
    np.savez(path, x=np.zeros(3))
    with pytest.raises(UserError, match="is not a readable feature network"):
        features.load(path)
    with np.load(feature_file((8, 8, 1))) as file:
        arrays = dict(file)
    arrays["weight_00"] = arrays["weight_00"] + 1
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="the file was changed"):
        features.load(path)
    with pytest.raises(UserError, match="does not exist"):
        features.load(tmp_path / "none.npz")


def test_which_network_fits(make_context, monkeypatch, tmp_path, feature_file):
    with pytest.raises(NotImplementedError, match="kept for blobs. Train one with .* or give --fid_weights"):
        choice.find(make_context())
    with pytest.raises(NotImplementedError, match="Features are of images"):
        choice.find(make_context(event_shape=(4,)))
    monkeypatch.setattr(choice, "FOLDER", tmp_path)
    shutil.copy(feature_file((8, 8, 1)), tmp_path / "blobs.npz")
    assert choice.find(make_context()).name == "toy-cnn"
    with pytest.raises(NotImplementedError, match="--invert changes the images"):
        choice.find(make_context(invert=True))
    with pytest.raises(NotImplementedError, match=r"these have shape \(9, 8, 1\)"):
        choice.find(make_context(event_shape=(9, 8, 1)))
    given = feature_file((9, 8, 1), seed=5)
    found = choice.find(make_context(event_shape=(9, 8, 1), fid_weights=str(given), invert=True))
    assert found.digest == features.load(given)[0].digest
