"""A trained model on a user's own files: what is read, in which order, what is written, what is refused."""

import argparse
import csv
import dataclasses
import functools
import os
import zipfile

import battery
import numpy as np
import pytest
from battery import EVENT_SHAPE, build, hparams, images
from PIL import Image

from pae_zoo import apply, evaluation
from pae_zoo.applying import inputs, outputs, results
from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.support import maxima
from pae_zoo.experiment import launch
from pae_zoo.experiment.workdir import Run


def finished(folder, name, event_shape=EVENT_SHAPE, model=None, **changes):
    """Writes the work directory of a finished run of the battery's model `name` and returns (model, its path)."""
    run, model = Run(folder), model or build(name, event_shape, **changes)
    run.write_config(hparams(name, **changes))
    run.save("model.keras", model.save)
    return model, folder


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A run on 6x6 pictures that were made from 8x8 by a crop, and the model."""
    return finished(tmp_path_factory.mktemp("runs") / "vae", "vae", preprocess=("dequantise", "logit"), crop="6,6",
                    dataset="folder:pictures")  # fmt: skip


@pytest.fixture(scope="module")
def ae(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("runs") / "ae", "ae")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """19 pictures of 8x8 pixels in a folder, with subfolders, and the same as arrays, sorted by path."""
    folder = tmp_path_factory.mktemp("pictures")
    x = (255 * images(19, seed=7, event_shape=(8, 8, 1))).astype(np.uint8)
    names = sorted([f"b/{i:02d}.png" for i in range(6)] + [f"a,{i}.bmp" for i in range(12)] + ["a,0.png"])
    for name, pixels in zip(names, x):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels[..., 0]).save(folder / name)
    return folder, names, x


def command(*flags):
    return launch.run(apply.main, list(flags))


def test_a_folder_with_links_and_other_files(pictures, tmp_path):
    """All pictures in the order of their paths, whatever folder says train; the line says what is left out."""
    folder, names, x = pictures
    for name in ("train", "Test"):
        (tmp_path / name).symlink_to(folder / "b" if name == "train" else folder)
    (tmp_path / "notes.txt").write_text("no picture")
    flags = argparse.Namespace(dataset="digits", crop="", image_size=0, grey=False, invert=False, limit=0)
    found = inputs.read(f"folder:{tmp_path}", (8, 8, 1), flags, flags, set())
    inner = [f"train/{name[2:]}" for name in names if name.startswith("b/")]
    assert found.names == [f"Test/{name}" for name in names] + inner
    np.testing.assert_array_equal(found.x[: len(x)], x)
    assert "left out: 1 files that are no images by their names, such as notes.txt" in found.note
    os.mkfifo(tmp_path / "zz.png")
    os.mkfifo(tmp_path / "zz.npz")
    for name, words in (("npz:{}/zz.npz", "zz.npz is a pipe"), ("folder:{}", "zz.png is a pipe"),
                        ("folder:{}/zz.npz", "zz.npz is a pipe")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            inputs.read(name.format(tmp_path), (8, 8, 1), flags, flags, set())


ALL = ("codes", "reconstruction", "elbo", "ood_scores", "log_likelihood")


def test_npz_and_folder_give_the_models_numbers_in_order(vae, pictures, tmp_path, capsys):
    model, workdir = vae
    folder, names, x = pictures
    np.savez(tmp_path / "mine.npz", x_train=x[:11], x_test=x[11:])
    flags = [f"--workdir={workdir}", f"--outputs={','.join(ALL)}", "--importance_samples=4", "--batch_size=8"]
    flags += ["--nojit_compile"]  # the table of another test is made with XLA
    assert command(*flags, f"--input=folder:{folder}", f"--out={tmp_path}/deep/a.npz") == 0
    assert command(*flags, f"--input=npz:{tmp_path}/mine.npz", f"--out={tmp_path}/b.npz") == 0
    text = capsys.readouterr().out
    assert "19 of 19 rows" in text and "prepared with crop=(6, 6)" in text and "x_train before those of x_test" in text
    with np.load(tmp_path / "deep" / "a.npz") as file:
        found = dict(file)
    assert found.pop("names").tolist() == names
    with np.load(tmp_path / "b.npz") as file:
        again = dict(file)
    assert set(found) == set(again) == {
        "codes", "code_std", "reconstruction", "elbo", "ood_elbo", "ood_reconstruction", "ood_kl", "ood_likelihood",
        "log_likelihood",
    }  # fmt: skip
    for name, values in found.items():
        assert len(values) == 19 and values.dtype == np.float32
        np.testing.assert_allclose(values, again[name], rtol=1e-5, atol=1e-5 * np.abs(values).max(), err_msg=name)
    inner = x[:, 1:7, 1:7]
    posterior = model.encode(inner)
    np.testing.assert_allclose(found["codes"], posterior.mean(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["code_std"], posterior.stddev(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["reconstruction"], model(inner), rtol=1e-5, atol=1e-5)
    # The estimates draw noise of their own: near the model's, equal for the same seed.
    np.testing.assert_allclose(found["elbo"], model.elbo(inner, (0, 1)), atol=25)
    np.testing.assert_array_less(found["elbo"], found["log_likelihood"] + 25)


def test_the_seed_and_the_limit(vae, pictures, tmp_path):
    _, workdir = vae
    flags = [f"--workdir={workdir}", f"--input=folder:{pictures[0]}", "--outputs=elbo", "--limit=5", "--nojit_compile"]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert command(*flags, f"--out={tmp_path}/{name}.npz", f"--seed={seed}") == 0
    a, b, c = (np.load(tmp_path / f"{name}.npz") for name in "abc")
    assert a["names"].tolist() == pictures[1][:5]
    np.testing.assert_array_equal(a["elbo"], b["elbo"])
    assert not np.allclose(a["elbo"], c["elbo"])


def test_table(ae, tmp_path):
    model, workdir = ae
    x = images(9)
    np.savez(tmp_path / "mine.npz", x=x)
    assert command(f"--workdir={workdir}", f"--input=npz:{tmp_path}/mine.npz", "--outputs=codes,ood_scores",
                   f"--out={tmp_path}/codes.csv") == 0  # fmt: skip
    with open(tmp_path / "codes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "code_0", "code_1", "code_2", "ood_reconstruction"]
    codes = np.array([[float(row[f"code_{k}"]) for k in range(3)] for row in rows])
    np.testing.assert_allclose(codes, model.codes(x), rtol=1e-5, atol=1e-5)
    assert [int(row["index"]) for row in rows] == list(range(9))


def test_folder_of_pictures(vae, pictures, tmp_path):
    model, workdir = vae
    folder, names, x = pictures
    out = tmp_path / "results"
    assert command(f"--workdir={workdir}", f"--input=folder:{folder}", "--outputs=reconstruction,codes",
                   f"--out={out}") == 0  # fmt: skip
    with open(out / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == names
    assert {row["picture"] for row in rows if row["name"].startswith("a,0")} == {
        "reconstruction/a,0.bmp.png", "reconstruction/a,0.png.png"}  # fmt: skip
    assert rows[-1]["picture"] == "reconstruction/b/05.png"
    expected = np.rint(255 * np.asarray(model(x[:, 1:7, 1:7]))).astype(int)
    for row, pixels in zip(rows, expected):
        shown = np.asarray(Image.open(out / row["picture"]), int)
        assert np.abs(shown - pixels[..., 0]).max() <= 1
    assert not [path for path in tmp_path.iterdir() if path.name != "results"]


def test_names_of_pictures_stay_inside_and_differ():
    arrays, said = {"a": np.zeros((2, 3, 4)), "b": np.zeros((2, 3, 4, 1))}, []
    assert list(results.in_form("csv", arrays, None, said.append)) == ["a"] and said[0].startswith("b: ")
    assert results.picture_names(["a/x.jpg", "b.c/y"], 2) == ["a/x.png", "b.c/y.png"]
    assert results.picture_names(["../x.png", "y.png"], 2) == ["000000.png", "000001.png"]
    assert results.picture_names(["a.jpg", "a.png", "a.jpg.bmp"], 3) == ["000000.png", "000001.png", "000002.png"]


def test_zip_archives_and_grey_pictures_for_a_colour_model(tmp_path):
    model, workdir = finished(tmp_path / "run", "ae", event_shape=(6, 6, 3))
    x = (255 * images(4)).astype(np.uint8)
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for i, pixels in enumerate(x):
            Image.fromarray(pixels[..., 0]).save(tmp_path / "one.png")
            archive.write(tmp_path / "one.png", f"{i}.png")
    assert command(f"--workdir={workdir}", f"--input=folder:{tmp_path}/mine.zip", f"--out={tmp_path}/a.npz") == 0
    codes = np.load(tmp_path / "a.npz")["codes"]
    np.testing.assert_allclose(codes, model.codes(np.repeat(x, 3, -1)), rtol=1e-5, atol=1e-5)


def test_flags_replace_what_the_run_did(vae, tmp_path):
    params = hparams("vae", crop="6,6", invert=True, dataset="omniglot")
    geometry = inputs.geometry_of(params, apply.Flags(), set(), (8, 8, 1))
    assert (geometry.crop, geometry.size, geometry.grey, geometry.invert) == ((6, 6), 0, False, True)
    native = inputs.geometry_of(params, apply.Flags(), set(), (105, 105, 1))
    assert (native.size, native.grey, native.invert) == (28, True, False)
    given = {"crop", "image_size", "invert"}
    changed = inputs.geometry_of(params, apply.Flags(image_size=6), given, (105, 105, 1))
    assert (changed.crop, changed.size, changed.grey, changed.invert) == ((), 6, True, False)
    model, workdir = vae
    np.savez(tmp_path / "cropped.npz", x=images(3))
    assert command(f"--workdir={workdir}", f"--input=npz:{tmp_path}/cropped.npz", "--crop=",
                   f"--out={tmp_path}/a.npz") == 0  # fmt: skip


@pytest.mark.full
def test_restoration_of_hidden_pixels(vae, pictures, tmp_path, capsys):
    """Pictures and numbers of a folder; the hidden pixels of the input do not matter."""
    model, workdir = finished(tmp_path / "run", "vae", likelihood="gaussian")
    x = (255 * images(4)).astype(np.uint8)
    mask = np.ones((6, 6), np.uint8)
    mask[:, 3:] = 0
    Image.fromarray(255 * mask).save(tmp_path / "mask.png")
    (tmp_path / "mine").mkdir()
    for i, pixels in enumerate(x):
        Image.fromarray(pixels[..., 0] * mask).save(tmp_path / "mine" / f"{i}.png")
    np.savez(tmp_path / "whole.npz", x=x)
    flags = [f"--workdir={workdir}", "--outputs=restoration,codes", f"--mask={tmp_path}/mask.png", "--noise=0.05",
             "--restoration_starts=1", "--restoration_draws=8", "--nojit_compile"]
    assert command(*flags, f"--input=folder:{tmp_path}/mine", f"--out={tmp_path}/a") == 0
    assert command(*flags, f"--input=npz:{tmp_path}/whole.npz", f"--out={tmp_path}/b.npz", "--batch_size=2") == 0
    with np.load(tmp_path / "b.npz") as file:
        found = dict(file)
    scores = {"log_joint", "evidence", "information_gain", "chi2", "modes", "acceptance", "chi2_dark", "chi2_bright",
              "evidence_gauss_newton"}  # fmt: skip
    shown = {"map", "mean", "std", "predictive_std", "q05", "q10", "q25", "q75", "q90", "q95"}
    assert set(found) == {"codes", "code_std", *(f"restoration_{n}" for n in (*shown, *scores, *maxima.RECORDED))}
    with np.load(tmp_path / "a" / "restoration.npz") as file:
        assert set(file) == set(maxima.RECORDED)
        np.testing.assert_allclose(file["z"], found["restoration_z"], atol=1e-2)
    assert (found["restoration_q05"] <= found["restoration_q95"]).all()
    assert (found["restoration_predictive_std"] > found["restoration_std"]).mean() > 0.9
    with open(tmp_path / "a" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"code_0", *(f"restoration_{name}" for name in scores)} < set(rows[0])
    for row, i in zip(rows, range(4), strict=True):
        assert float(row["restoration_log_joint"]) == pytest.approx(found["restoration_log_joint"][i], rel=1e-4)
        for kind, white in (("map", 1.0), ("mean", 1.0), ("std", 0.5), ("q90", 1.0)):
            assert row[f"restoration_{kind}"] == f"restoration_{kind}/{i}.png"
            shown = np.asarray(Image.open(tmp_path / "a" / row[f"restoration_{kind}"]), float) / 255
            expected = np.clip(found[f"restoration_{kind}"][i, ..., 0] / white, 0, 1)
            np.testing.assert_allclose(shown, expected, atol=0.02)


def test_of_an_image_that_is_downsampled_means_of_blocks_count(tmp_path):
    _, workdir = finished(tmp_path / "run", "vae", likelihood="gaussian")
    x = images(4)
    turned = x.reshape(4, 2, 3, 2, 3, 1)[:, :, ::-1, :, ::-1].reshape(4, 6, 6, 1)  # within each block of 3x3
    flags = [f"--workdir={workdir}", "--outputs=restoration", "--downsample=3", "--restoration_posterior=laplace",
             "--restoration_starts=1", "--restoration_draws=8", "--nojit_compile"]
    found = {}
    for name, rows in (("x", x), ("turned", turned), ("other", x[::-1])):
        np.savez(tmp_path / f"{name}.npz", x=rows)
        assert command(*flags, f"--input=npz:{tmp_path}/{name}.npz", f"--out={tmp_path}/{name}_out.npz") == 0
        found[name] = np.load(tmp_path / f"{name}_out.npz")["restoration_map"]
    assert np.abs(x - turned).max() > 0.1
    np.testing.assert_allclose(found["turned"], found["x"], atol=2e-3)
    assert np.abs(found["other"] - found["x"]).max() > 0.01


def test_an_interrupted_run_leaves_nothing(vae, pictures, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "write_rows", interrupted)
    _, workdir = vae
    assert command(f"--workdir={workdir}", f"--input=folder:{pictures[0]}", f"--out={tmp_path}/deep/results/") == 130
    assert list(tmp_path.iterdir()) == []


def test_what_was_computed_is_kept_where_it_cannot_be_written(vae, pictures, tmp_path, monkeypatch, capsys):
    flags = (f"--workdir={vae[1]}", f"--input=folder:{pictures[0]}")
    assert command(*flags, f"--out={tmp_path}/sound.npz") == 0
    kept = []
    for name, error in (("o.csv", OSError(28, "No space left on device")), ("o/", ValueError("no picture"))):
        def failing(*args, error=error):
            raise error

        monkeypatch.setattr(results, "write_rows", failing)
        assert command(*flags, f"--out={tmp_path}/{name}") == 2
        line = capsys.readouterr().err
        assert str(error) in line and not (tmp_path / name).exists()
        (found,) = set(tmp_path.glob("o-*.npz")) - set(kept)
        kept.append(found)
        assert str(found) in line
        with np.load(found) as one, np.load(tmp_path / "sound.npz") as other:
            np.testing.assert_array_equal(one["codes"], other["codes"])
            assert list(one["names"]) == list(other["names"])


def test_outputs_before_one_that_fails_are_kept(vae, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(outputs.WHOLE, "restoration", lambda *args: lambda: 1 / 0)
    flags = (f"--workdir={vae[1]}", f"--input=folder:{pictures[0]}", "--outputs=codes,restoration", "--mask=none")
    assert command(*flags, f"--out={tmp_path}/o.npz") == 1
    (kept,) = tmp_path.iterdir()
    assert f"What was computed is kept in {kept}." in capsys.readouterr().err
    with np.load(kept) as found:
        assert found["codes"].shape == (19, 3) and len(found["names"]) == 19


RESTORE = ["--workdir={vae}", "--input=npz:{six}", "--crop=", "--outputs=restoration"]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--input=npz:{good}", "--out={new}.npz"], "--workdir is needed"),
        (["--workdir={ae}", "--out={new}.npz"], "--input is needed"),
        (["--workdir={ae}", "--input=npz:{good}"], "--out is needed"),
        (["--workdir={ae}", "--input=mine.png", "--out={new}.npz"], "npz:FILE, npy:FILE, windows:FILE, csv:FILE"),
        (["--workdir={tmp}", "--input=npz:{good}", "--out={new}.npz"], "is not the work directory of a run"),
        (["--workdir={ae}", "--input=npz:{tmp}/none.npz", "--out={new}.npz"], "does not exist"),
        (["--workdir={ae}", "--input=folder:{tmp}/none", "--out={new}.npz"], "does not exist"),
        (["--workdir={ae}", "--input=folder:{tmp}/empty", "--out={new}.npz"], "holds no images"),
        (["--workdir={ae}", "--input=npz:{good}", "--out={new}.npz", "--outputs=code"], "did you mean codes"),
        (["--workdir={ae}", "--input=npz:{good}", "--out={new}.npz", "--outputs=codes,elbo"],
         "AE has no evidence lower bound. Leave elbo out"),
        (["--workdir={ae}", "--input=npz:{good}", "--out={good}"], "exists; give a new name"),
        (["--workdir={ae}", "--input=npz:{good}", "--out={new}.txt"], "ends in .txt"),
        (["--workdir={ae}", "--input=npz:{good}", "--out={new}.csv", "--outputs=reconstruction"], "holds no recons"),
        (["--workdir={ae}", "--input=npz:{flat}", "--out={new}.npz"], "36; the model takes 6x6x1: use x.reshape"),
        (["--workdir={ae}", "--input=npz:{large}", "--out={new}.npz"],
         "9x8x3; the model takes 6x6x1: give --image_size=6 --grey."),
        (["--workdir={vae}", "--input=npz:{small}", "--out={new}.npz"], "too small for the crop 6x6"),
        (["--workdir={ae}", "--input=npz:{nan}", "--out={new}.npz"], "NaN"),
        (["--workdir={ae}", "--input=npz:{good}", "--out={new}.npz", "--limit=-1"], "at least 0"),
        (["--workdir={ae}", "--input=npz:{good}", "--out={new}", "--outputs=restoration", "--mask=none"],
         "AE has no density over its latent space. Leave restoration out"),
        ([*RESTORE, "--out={new}"], "needs --mask"),
        ([*RESTORE, "--out={new}", "--mask=left"], "is not understood"),
        ([*RESTORE, "--out={new}", "--downsample=4"], "not images of whole blocks of 4x4"),
        ([*RESTORE, "--out={new}", "--downsample=3", "--mask=columns:0-2"], "leave one of the two out"),
        (["--workdir={ae}", "--input=npz:{good}", "--out={new}.npz", "--downsample=3"], "add it to --outputs"),
        ([*RESTORE, "--out={new}", "--mask=columns:0-5"], "hides everything"),
        ([*RESTORE, "--out={new}", "--mask={tmp}/none.npy"], "does not exist"),
        ([*RESTORE, "--out={new}", "--mask={small}"], "has the shape 3x5x8; needed: 6x6x1"),
        ([*RESTORE, "--out={new}", "--mask=none", "--noise=-0.1"], "out of range"),
        ([*RESTORE, "--out={new}", "--mask=none", "--noise=0.1"], "is not affine"),
        # Before data are read, which would be refused too.
        (["--workdir={vae}", "--input=npz:{nan}", "--out={new}", "--outputs=restoration", "--mask=none", "--noise=0.1"],
         "is not affine"),
        ([*RESTORE, "--out={new}.csv", "--mask=none"], "a table holds no restorations"),
        (["--workdir={ae}", "--input=npz:{good}", "--out={new}.npz", "--mask=none"], "are for --outputs=restoration"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(ae, vae, tmp_path, capsys, flags, words):
    arrays = {"good": images(3), "six": images(3), "flat": images(3).reshape(3, -1),
              "large": np.zeros((3, 9, 8, 3), np.uint8),
              "small": np.zeros((3, 5, 8), np.uint8), "nan": np.full((3, 6, 6), np.nan, np.float32)}  # fmt: skip
    for name, x in arrays.items():
        np.savez(tmp_path / f"{name}.npz", x=x)
    (tmp_path / "empty").mkdir()
    places = {"ae": ae[1], "vae": vae[1], "tmp": tmp_path, "new": tmp_path / "new",
              **{name: tmp_path / f"{name}.npz" for name in arrays}}  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    status = command(*[flag.format(**places) for flag in flags])
    error = capsys.readouterr().err
    assert status == 2 and words in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_that_cannot_restore_is_told_before_data_are_read(tmp_path, capsys):
    _, workdir = finished(tmp_path / "run", "ensemble_vae")
    flags = (f"--workdir={workdir}", "--input=npz:no_such.npz", f"--out={tmp_path}/a", "--outputs=restoration")
    assert command(*flags, "--mask=none") == 2
    assert "MemberMixture is a mixture" in capsys.readouterr().err


def test_vectors_and_their_reconstructions(tmp_path):
    model, workdir = finished(tmp_path / "run", "vae", event_shape=(5,))
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", x=x)
    flags = [f"--workdir={workdir}", f"--input=npz:{tmp_path}/mine.npz", "--outputs=reconstruction"]
    assert command(*flags, f"--out={tmp_path}/a.npz") == 0
    np.testing.assert_allclose(np.load(tmp_path / "a.npz")["reconstruction"], model(x), rtol=1e-5, atol=1e-5)
    assert command(*flags, f"--out={tmp_path}/folder") == 2
    with pytest.raises(UserError, match="are for images"):
        inputs.check_shape((5,), (5,), dataclasses.replace(inputs.Geometry(), grey=True), "npz:mine.npz")


def test_every_output_is_in_the_help(capsys):
    assert command("--help") == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in ALL) and "--importance_samples=100" in text
    assert "  restoration " in text and "--restoration_starts=8" in text
    assert evaluation.UNSUPPORTED not in text


@pytest.mark.parametrize("name", battery.ROWS)
def test_any_number_of_rows(name):
    """Without a data set, as `apply` works; rows do not depend on how they are cut where nothing is drawn."""
    model, size = battery.built(name), 16
    params = dataclasses.replace(hparams(name), batch_size=size, jit_compile=False)
    x = images(3 * size + 1)
    wanted = model(x)
    for rows in (1, size, size + 1, 3 * size + 1):
        context = evaluation.Context(model, None, params, None, seed=3)
        found = context.map_batches(functools.partial(outputs.reconstruction, context, None), x[:rows], "rows")
        np.testing.assert_allclose(found["reconstruction"], wanted[:rows], rtol=1e-4, atol=1e-5)
        assert context.rows_at_once(rows) >= size
