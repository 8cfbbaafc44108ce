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
