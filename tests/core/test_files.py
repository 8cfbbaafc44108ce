"""Files and folders that appear whole: who is writing, what a killed process leaves, places that cannot be written."""

import os

import pytest

from pae_zoo.core import files
from pae_zoo.core.errors import UserError


def test_what_is_alive_stays_and_what_is_dead_goes(tmp_path):
    child = os.fork()
    if not child:
        with files.file(tmp_path / "a.npz"), files.folder(tmp_path / "deep" / "b") as folder:
            (folder / "half").write_text("x")
            os._exit(0)
    os.waitpid(child, 0)
    dead = [path for path in tmp_path.rglob(".writing-*")]
    assert len(dead) == 2
    (tmp_path / "kept").mkdir()
    os.mkfifo(tmp_path / ".writing-pipe.npz")
    with files.file(tmp_path / "mine.npz") as mine, files.folder(tmp_path / "kept" / "folder") as folder:
        files.clear(tmp_path)
        assert mine.exists() and not (set(dead) & set(tmp_path.glob(".writing-*")))
        assert list((tmp_path / "deep").iterdir())  # not without `deep`
        files.clear(tmp_path, deep=True)
        assert mine.exists() and folder.exists() and not list((tmp_path / "deep").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writing-pipe.npz", "deep", "kept", "mine.npz"]
    files.clear(tmp_path / "nowhere", deep=True)


def test_folders_keep_the_rights_that_others_have(tmp_path):
    with files.folder(tmp_path / "a"), files.file(tmp_path / "b"):
        pass
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o777 & ~_umask()
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o644


def _umask():
    now = os.umask(0)
    os.umask(now)
    return now


def test_places_that_cannot_be_written_are_told_and_left_as_they_were(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("/nowhere/x")
    bad = {"/proc/x": "cannot be written", "/dev/null/x": "is no folder", tmp_path / "file" / "x": "is no folder",
           tmp_path / ("n" * 300): "too long", f"{tmp_path}{'/n' * 2500}": "missing folders", tmp_path / "loop": "link",
           tmp_path / "loop" / "x": "link", tmp_path / "dangling": "link that leads nowhere",
           tmp_path / "\udcff": "not UTF-8"}  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    for path, words in bad.items():
        with pytest.raises(UserError, match=words) as error:
            files.check_place(path, "out")
        assert str(error.value).startswith("--out=")
    with pytest.raises(UserError, match="is a file"):
        files.check_place(tmp_path / "file", "out")
    for path in (tmp_path, tmp_path / "new" / "deep" / "x.npz", tmp_path / ("n" * 250)):
        files.check_place(path, "out")
    files.check_place(tmp_path / "file", "out", is_file=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_is_found_before_anything_is_computed(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError, match="--workdir=.*too large"):
            files.check_place(tmp_path / "a" / "b", "workdir")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
