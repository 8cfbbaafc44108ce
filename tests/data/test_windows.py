"""`windows:FILE`: forms of the arrays, splits by time, and the way from the flags to a run's own data."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import data, main, models, networks
from pae_zoo.applying import inputs
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import session

RNG = np.random.default_rng(0)
X = RNG.normal(5, 9, (60, 7, 2)).astype(np.float32)
LABELS = np.arange(60) % 3


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"windows:{path}"


def save_one(path, x):
    np.save(path, x)
    return f"windows:{path}"


@pytest.mark.parametrize("x", [X, X[..., 0], X.astype(np.float64), (9 * X).astype(np.int32), X > 5,
                               np.abs(X).astype(np.uint8)])  # fmt: skip
def test_windows_are_numbers_in_order_of_time(tmp_path, x):
    loaded = data.load(save(tmp_path / "a.npz", x=x, y=LABELS))
    assert loaded.event_shape == (7, 2 if x.ndim == 3 else 1) and loaded.train.x.dtype == np.float32
    assert (len(loaded.train), len(loaded.valid), len(loaded.test)) == (46, 4, 10)
    whole = x.reshape(60, 7, -1)
    np.testing.assert_array_equal(loaded.test.x, whole[50:])
    np.testing.assert_array_equal(loaded.valid.x, whole[46:50])
    order = np.random.default_rng(42).permutation(46)
    np.testing.assert_array_equal(loaded.train.x, whole[:46][order])
    np.testing.assert_array_equal(loaded.train.y, LABELS[:46][order])
    np.testing.assert_array_equal(loaded.test.y, LABELS[50:])
    assert "by time" in loaded.info.splits and loaded.info.value_range == "reals" and "time" in loaded.info.notes[-1]
    one = data.load(save_one(tmp_path / "a.npy", x))
    np.testing.assert_array_equal(one.train.x, loaded.train.x)
    assert one.slug == "windows-a"
    same = data.from_arrays(x.reshape(60, 7, -1), LABELS, kind="series")
    np.testing.assert_array_equal(same.valid.x, loaded.valid.x)
    assert "by time" in same.info.splits


def test_splits_of_the_file_stay(tmp_path):
    loaded = data.load(save(tmp_path / "a.npz", x_train=X[:40], x_test=X[40:45]), validation_fraction=0.1)
    np.testing.assert_array_equal(loaded.valid.x, X[36:40])
    np.testing.assert_array_equal(loaded.test.x, X[40:45])
    assert loaded.info.splits.startswith("official") and not loaded.info.notes
    loaded = data.load(save(tmp_path / "a.npz", x=X[:48], x_val=X[48:]))
    np.testing.assert_array_equal(loaded.valid.x, X[48:])
    np.testing.assert_array_equal(loaded.test.x, X[40:48])


def test_what_is_no_window_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    nan = X.copy()
    nan[4, 2, 1] = np.nan
    cases = (
        (dict(x=X[..., None]), r"shape \(60, 7, 2, 1\); allowed are \(n, T, C\)"), (dict(x=X[0, 0]), "have shape"),
        (dict(x=X[:0]), "none of them empty"), (dict(x=X.astype(complex)), "type complex128"),
        (dict(x=X.astype(str)), "type <U"), (dict(x=nan), "NaN or infinity, first in row 4; .*missing=mask"),
        (dict(x=X[:1]), "holds 1 rows for training; at least 3 are needed, since valid and test"),
        (dict(x=X[:1], x_test=X), "at least 2 are needed, since valid"),
        (dict(x=X, x_test=X[:, :5]), "both must be alike"), (dict(x=X, y=LABELS[:5]), "same length"),
        (dict(z=X), "exactly one of x and x_train"),
    )  # fmt: skip
    for arrays, words in cases:
        with pytest.raises(UserError, match=words):
            data.load(save(tmp_path / "a.npz", **arrays))
    good = save(tmp_path / "a.npz", x=X)
    for name, options, words in ((good, dict(image_size=4), "are for images"), (good, dict(window=3), "tables alone"),
                                 (f"windows:{tmp_path}/t.csv", {}, "become windows by csv:FILE and --window=T"),
                                 (f"windows:{tmp_path}/none.npz", {}, "does not exist"),
                                 ("windows:", {}, "is unknown")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            data.load(name, **options)
    masked = data.load(save(tmp_path / "a.npz", x=nan), missing="mask")
    assert np.isnan(np.concatenate([masked.train.x, masked.valid.x, masked.test.x])).sum() == 1


def test_npz_of_the_same_array_stay_images(tmp_path):
    save(tmp_path / "a.npz", x=np.abs(X) / 99)
    assert data.load(f"npz:{tmp_path}/a.npz").event_shape == (7, 2, 1)


@pytest.mark.parametrize("name, steps", [("windows:a.npz", ("standardise",)), ("npz:a.npz", ()), ("waves", ()),
                                         ("wine", ("standardise",)), ("t.csv", ("standardise",))])  # fmt: skip
def test_what_lies_anywhere_is_standardised(name, steps):
    assert session.read_flags(models.find("vae"), ["--model=vae", f"--dataset={name}"])[0].preprocess == steps
    own = ["--model=vae", f"--dataset={name}", "--preprocess=robust"]
    assert session.read_flags(models.find("vae"), own)[0].preprocess == ("robust",)


@dataclasses.dataclass
class Options:
    limit: int = 0
    crop: str = ""
    image_size: int = 0
    grey: bool = False
    invert: bool = False


def test_a_model_of_windows_is_applied_to_files_of_the_same_form(tmp_path):
    hparams = session.read_flags(models.find("vae"), ["--model=vae", "--dataset=windows:a.npz"])[0]
    bytes_ = np.abs(X).astype(np.uint8)
    for name, x in (("a.npz", X), ("b.npy", X), ("c.npz", bytes_)):
        (np.save if name.endswith("npy") else lambda path, x: np.savez(path, x=x))(tmp_path / name, x)
        for kind in ("windows", name[-3:]):
            found = inputs.read(f"{kind}:{tmp_path}/{name}", (7, 2), hparams, Options(), set())
            np.testing.assert_array_equal(found.x, x)
    one = save(tmp_path / "d.npz", x=X[..., 0], x_test=X[:3, :, 1])
    found = inputs.read(one, (7, 1), hparams, Options(limit=61), set())
    np.testing.assert_array_equal(found.x[..., 0], [*X[..., 0], X[0, :, 1]])
    for shape, words in (((14,), "holds data of shape 7x1"), ((5, 2), "give data like"), ((8, 8, 1), "takes 8x8x1")):
        with pytest.raises(UserError, match=words):
            inputs.read(one, shape, hparams, Options(), set())


@pytest.mark.parametrize("kind, pays", [("conv1d", False), ("tcn", False), ("mlp", True)])
def test_convolutions_along_time_are_no_work_for_xla_on_a_processor(kind, pays):
    options = dict(hidden_units=(4,)) if kind == "mlp" else {}
    encoder = networks.build_encoder(kind, (7, 2), latent_dim=2, **options)
    model = models.find("vae").MODEL(encoder, networks.build_decoder(kind, (7, 2), latent_dim=2, **options))
    assert model.xla_pays == (pays or bool(tf.config.list_logical_devices("GPU")))


@pytest.mark.full
def test_a_run_on_windows(tmp_path):
    from pae_zoo import apply
    from pae_zoo.experiment import launch

    name = save(tmp_path / "a.npz", x=X)
    flags = [f"--dataset={name}", f"--workdir={tmp_path}/run", "--encoder=conv1d", "--decoder=conv1d", "--filters=3,3",
             "--latent_dim=2", "--epochs=1", "--batch_size=16", "--tasks=reconstruction"]  # fmt: skip
    assert launch.run(main.main, ["--model=vae", *flags]) == 0
    command = [f"--workdir={tmp_path}/run", f"--input={name}", f"--out={tmp_path}/o.npz", "--outputs=anomalies"]
    assert launch.run(apply.main, command) == 0
    assert np.load(tmp_path / "o.npz")["anomaly_residual"].shape == (60, 7, 2)
