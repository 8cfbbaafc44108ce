"""Folders and zip archives as splits and labels: every usual spelling, links, and words for what is left out."""

import os
import stat
import zipfile

import numpy as np
import pytest
from data_files import png_bytes, write_png

from pae_zoo import data
from pae_zoo.core.errors import UserError
from pae_zoo.data.splits import split_of

SHADES = {"train": 10, "valid": 20, "test": 30}


def picture(value):
    return np.full((4, 4), value, np.uint8)


def write(path, names, zipped=False):
    """Writes {name: value} as pictures of one shade, in a folder or an archive, and returns the data set's name."""
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            for name, value in names.items():
                archive.writestr(name, png_bytes(picture(value)))
    else:
        for name, value in names.items():
            write_png(path / name, picture(value))
    return f"folder:{path}"


def shades(split):
    return sorted(split.x[:, 0, 0, 0].tolist())


def in_splits(train, test=None, valid=None, pattern="{split}/{label}/{n}.png"):
    """Names of four pictures of a and b in each split; the shade says which split and label it is."""
    named = {"train": train, "test": test, "valid": valid}
    return {
        pattern.format(split=folder, label=label, n=n): SHADES[split] + number
        for split, folder in named.items() if folder
        for number, label in enumerate("ab") for n in (range(4) if split == "train" else range(2))
    }  # fmt: skip


def check(loaded, parts):
    """Every split holds its own shades with labels a, b; missing ones are carved from the training images."""
    assert loaded.label_names == ("a", "b")
    for split in SHADES:
        rows = getattr(loaded, split)
        origin = SHADES[split if split in parts else "train"]
        np.testing.assert_array_equal(rows.x[:, 0, 0, 0] - origin, rows.y)
        assert len(rows) == (4 if split in parts - {"train"} else len(rows)) and len(rows)
    total = sum(len(getattr(loaded, split)) for split in SHADES)
    assert total == 8 + 4 * len(parts - {"train"})


def test_splits_by_any_usual_spelling_with_the_class_folders_as_labels(tmp_path):
    spellings = (
        ("train", "test", "val"), ("Train", "Test", "Val"), ("TRAIN", "TEST", "VALID"), ("training", "testing", "dev"),
        ("training_set", "test_set", "validation_set"), ("Training", "test", "Validation"),
        ("train-images", "test.images", "development"),
    )  # fmt: skip
    number = 0
    for train, test, valid in spellings:
        for some, parts in (((train, test, valid), {"train", "test", "valid"}), ((train, test), {"train", "test"}),
                            ((train, None, valid), {"train", "valid"})):  # fmt: skip
            for pattern in ("{split}/{label}/{n}.png", "root/{split}/{label}/{n}.png", "{label}/{split}/{n}.png"):
                number += 1
                names = in_splits(*some, pattern=pattern)
                loaded = data.load(write(tmp_path / str(number), names, zipped=number % 2))
                check(loaded, parts)
                assert not loaded.info.notes


def test_splits_without_classes_and_one_split_alone(tmp_path):
    loaded = data.load(write(tmp_path / "flat", in_splits("Train", "Test", pattern="{split}/{label}{n}.png")))
    assert loaded.train.y is None and shades(loaded.test) == [30, 30, 31, 31]
    alone = data.load(write(tmp_path / "alone", in_splits("train", pattern="{split}/{label}{n}.png")))
    assert alone.train.y is None and len(alone.train) + len(alone.valid) + len(alone.test) == 8
    one = data.load(write(tmp_path / "one", in_splits("train")))
    assert one.label_names == ("a", "b")


def test_classes_that_are_called_as_splits_are(tmp_path):
    """Without its counterpart a split's name is a class like any other: a train is a vehicle."""
    names = {f"{label}/{n}.png": n for label in ("car", "plane", "train") for n in range(4)}
    assert data.load(write(tmp_path / "a", names)).label_names == ("car", "plane", "train")
    for name in ("trained", "contest", "value", "device", "tester", "latest", "0", ""):
        assert split_of(name) is None


def test_ambiguous_or_missing_training_folders_are_refused(tmp_path):
    for number, (parts, words) in enumerate((
        (("Train", "train"), "Train/ and train/, which are all train"),
        (("training", "train", "test"), "train/ and training/, which are all train"),
        (("train", "test", "Testing"), "Testing/ and test/, which are all test"),
        (("train", "val", "dev"), "dev/ and val/, which are all valid"),
        (("test", "val"), "test/ and val/ but no train/"),
    )):  # fmt: skip
        names = {f"{part}/a/{n}.png": n for part in parts for n in range(3)}
        with pytest.raises(UserError, match=words):
            data.load(write(tmp_path / str(number), names, zipped=number % 2))


def test_classes_of_an_official_validation_split(tmp_path):
    more = {f"{part}/c/{n}.png": 40 for part in ("train", "test") for n in range(3)}
    place = write(tmp_path, {**in_splits("train", "test", "val"), **more})
    chosen = data.load(place, classes=(1,))
    assert set(chosen.valid.y) == set(chosen.train.y) == {1} and len(chosen.valid) == 2
    with pytest.raises(UserError, match="validation split .* has none of them"):
        data.load(place, classes=(2,))


def test_what_is_left_out_is_said(tmp_path):
    names = in_splits("train", "test")
    write(tmp_path, {**names, "extra/c/1.png": 1, "loose.png": 2, "readme/.hidden.png": 3})
    (tmp_path / "labels.csv").write_text("x")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    loaded = data.load(f"folder:{tmp_path}")
    check(loaded, {"train", "test"})
    notes = " | ".join(loaded.info.notes)
    for words in ("2 images in none of the splits, such as extra/c/1.png",
                  "1 files that are no images by their names, such as labels.csv",
                  "1 links to nowhere or in an archive, such as lost"):  # fmt: skip
        assert words in notes
    mixed = data.load(write(tmp_path / "mixed", {"a/1.png": 1, "a/2.png": 2, "b/1.png": 3, "4.png": 4}))
    assert mixed.train.y is None and "no labels: 1 images lie in no class folder, such as 4.png" in mixed.info.notes[0]
    names = {**in_splits("train", "test"), "test/A/9.png": 1}
    assert "1 classes have no training images: A" in data.load(write(tmp_path / "case", names)).info.notes[0]


def test_nested_class_folders(tmp_path):
    """The class is the topmost folder that holds images itself."""
    names = {f"{place}/{n}.png": n for place in ("a", "a/more", "b/only/deep", "b/only/deep/er") for n in range(3)}
    assert data.load(write(tmp_path / "a", names)).label_names == ("a", "b/only/deep")
    split = {f"{part}/{name}": value for part in ("train", "test") for name, value in names.items()}
    assert data.load(write(tmp_path / "b", split)).label_names == ("a", "b/only/deep")


def test_links_are_followed_and_loops_end(tmp_path):
    home, far = tmp_path / "home", tmp_path / "far"
    write(home, {f"a/{n}.PNG": 10 for n in range(6)})
    write(far, {f"pictures/{n}.JPG.png": 11 for n in range(6)})
    (home / "b").symlink_to(far / "pictures")  # a class folder that lies elsewhere
    (home / "a" / "again.png").symlink_to(far / "pictures" / "0.JPG.png")
    (far / "pictures" / "up").symlink_to(home)  # home/b/up is home again
    (home / "a" / "self").symlink_to(".")
    (tmp_path / "way").symlink_to(home)
    loaded = data.load(f"folder:{tmp_path / 'way'}")
    assert loaded.label_names == ("a", "b")
    rows = np.concatenate([split.x for split in (loaded.train, loaded.valid, loaded.test)])
    assert sorted(rows[:, 0, 0, 0].tolist()) == [10] * 6 + [11] * 7
    assert any("2 links back to a folder they lie in, such as a/self" in note for note in loaded.info.notes)
    ways = tmp_path / "ways"
    for level in range(20):  # 2 ** 20 ways to the last folder
        (ways / str(level)).mkdir(parents=True)
        for way in "lr" if level else "":
            (ways / str(level - 1) / way).symlink_to(ways / str(level))
    with pytest.raises(UserError, match="remove such links"):
        data.load(f"folder:{ways}")


def test_links_pipes_and_devices_that_are_called_pictures(tmp_path):
    for name, make in {
        "fifo": os.mkfifo, "nowhere": lambda path: path.symlink_to(tmp_path / "gone"),
        "itself": lambda path: path.symlink_to(path), "device": lambda path: path.symlink_to("/dev/zero"),
    }.items():  # fmt: skip
        write(tmp_path / name, {f"{n}.png": n for n in range(5)})
        make(tmp_path / name / "zz.png")
        with pytest.raises(UserError, match="zz.png"):
            data.load(f"folder:{tmp_path / name}")
        make(tmp_path / f"{name}.pictures")
        with pytest.raises(UserError, match=f"{name}.pictures"):
            data.load(f"folder:{tmp_path / name}.pictures")


def test_archives_with_links_and_windows_names(tmp_path):
    names = in_splits("Train", "Test", pattern="set\\{split}\\{label}\\{n}.png")
    path = tmp_path / "a.zip"
    name = write(path, names, zipped=True)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("set/Train/c")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "a")
    loaded = data.load(name)
    check(loaded, {"train", "test"})
    assert "1 links to nowhere or in an archive, such as set/Train/c" in loaded.info.notes[0]
