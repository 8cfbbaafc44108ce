"""Flagfiles: which words they stand for, and which files are refused."""

import os

import pytest

from pae_zoo.core.errors import UserError
from pae_zoo.experiment import flagfiles


def test_a_file_stands_for_its_lines_and_those_of_files_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.cfg").write_text("\ufeff# comment\n\n--seed=1\r\n  --flagfile=~/b.cfg  \n// more\n--nogrey\n")
    (tmp_path / "b.cfg").write_text("--dataset=npz:a b.npz\n")
    lines = ["--seed=1", "--dataset=npz:a b.npz", "--nogrey"]
    assert flagfiles.expand(["--x=1", "--flagfile=~/a.cfg", "--y"]) == ["--x=1", *lines, "--y"]
    assert flagfiles.expand(["-flagfile", f"{tmp_path}/a.cfg"]) == lines
    assert flagfiles.expand([f"--flagfile={tmp_path}/b.cfg"] * 2) == [lines[1]] * 2
    assert flagfiles.expand(["--", "--flagfile=missing"]) == ["--", "--flagfile=missing"]


def test_a_file_is_found_beside_the_one_that_includes_it_and_then_from_here(tmp_path, monkeypatch):
    (tmp_path / "sub" / "base").mkdir(parents=True)
    (tmp_path / "sub" / "a.cfg").write_text("--flagfile=base/b.cfg\n--flagfile=sub/c.cfg\n--flagfile=same.cfg")
    (tmp_path / "sub" / "base" / "b.cfg").write_text("--flagfile=../d.cfg")
    for name, seed in {"sub/c.cfg": 1, "sub/d.cfg": 2, "sub/same.cfg": 3, "same.cfg": 4}.items():
        (tmp_path / name).write_text(f"--seed={seed}")
    for here, name in {tmp_path: "sub/a.cfg", tmp_path / "sub": "../sub/a.cfg"}.items():
        monkeypatch.chdir(here)
        if here != tmp_path:
            (tmp_path / "sub" / "sub").mkdir()
            (tmp_path / "sub" / "sub" / "c.cfg").write_text("--seed=1")
        assert flagfiles.expand([f"--flagfile={name}"]) == ["--seed=2", "--seed=1", "--seed=3"]


def test_spaces_and_comments_behind_flags(tmp_path):
    (tmp_path / "b.cfg").write_text("--seed=3 // why\n")
    lines = {
        "--latent_dim 2": "--latent_dim=2",
        "-epochs   3  # few": "-epochs=3",
        "--scale=0.5\t# note": "--scale=0.5",
        "--grey #": "--grey",
        "--flagfile b.cfg  # more": "--seed=3",
        "--dataset=npz:a #1 b.npz": "--dataset=npz:a #1 b.npz",
        "--data_dir=http://x": "--data_dir=http://x",
    }
    (tmp_path / "a.cfg").write_text("\n".join([*lines, "--flow=swap,  # first", "  lu  # then", " " * 5 + "# alone"]))
    assert flagfiles.expand([f"--flagfile={tmp_path}/a.cfg"]) == [*lines.values(), "--flow=swap,lu"]


def test_a_list_goes_on_in_the_next_line(tmp_path):
    (tmp_path / "a.cfg").write_text("--flow=swap,\n  # why\n\n  lu,affine,\n    swap\n--classes=0,\n--seed=1,")
    found = flagfiles.expand([f"--flagfile={tmp_path}/a.cfg"])
    assert found == ["--flow=swap,lu,affine,swap", "--classes=0,", "--seed=1,"]


def test_the_packages_own_configs_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = flagfiles.expand(["--flagfile=configs/vae/digits.cfg"])
    assert "--model=vae" in found
    assert flagfiles.expand(["--flagfile=./configs/vae/digits.cfg"]) == found
    (tmp_path / "configs" / "vae").mkdir(parents=True)
    (tmp_path / "configs" / "vae" / "digits.cfg").write_text("--seed=5")
    assert flagfiles.expand(["--flagfile=configs/vae/digits.cfg"]) == ["--seed=5"]
    for name in ("configs/none.cfg", "configs/../../pyproject.toml", "configs"):
        with pytest.raises(UserError, match="does not exist|is a folder"):
            flagfiles.expand([f"--flagfile={name}"])


def test_bad_files_are_told(tmp_path):
    def file(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    os.mkfifo(tmp_path / "fifo")
    for level in range(41):
        file(f"chain{level}", f"--flagfile={tmp_path}/chain{level + 1}\n".encode() * 2 if level < 40 else b"--seed=1")
    bad = {"": "names no file", tmp_path / "missing": "does not exist", tmp_path: "is a folder",
           tmp_path / "fifo": "is a pipe", "/dev/zero": "is a device", "a\0b": "NUL", "n" * 5000: "too long",
           "~no_such_user_7/x": "no home folder", file("utf16", "--seed=1".encode("utf-16")): "no text in UTF-8",
           file("big", b"--seed=1\n" * (1 << 20)): "at most 1.0 MiB",
           file("itself", f"--flagfile={tmp_path}/itself".encode()): "includes itself",
           file("empty", b"--flagfile="): "names no file", tmp_path / "chain0": "more than 64 files"}  # fmt: skip
    for name, words in bad.items():
        for spelling in ([f"--flagfile={name}"], ["--flagfile", str(name)]):
            with pytest.raises(UserError, match=words) as error:
                flagfiles.expand(spelling)
            assert str(error.value).startswith("--flagfile")
    with pytest.raises(UserError, match="names no file"):
        flagfiles.expand(["--flagfile"])
