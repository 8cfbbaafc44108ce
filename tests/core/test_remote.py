"""Files at URLs: copies are those of the files there, kept and brought up to date, and errors are told in one line."""

import fsspec
import numpy as np
import pytest

from pae_zoo import data
from pae_zoo.core import reading, remote
from pae_zoo.core.errors import UserError


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setenv(remote.CACHE, str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def put(system, path, content):
    system.makedirs(path.rpartition("/")[0], exist_ok=True)
    system.pipe_file(path, content)


def test_a_file_is_copied_once_and_again_when_it_changes(bucket, monkeypatch):
    put(bucket, "/b/rows.csv", b"a,b\n1,2\n")
    copied = []
    get = type(bucket).get_file
    monkeypatch.setattr(type(bucket), "get_file", lambda self, *names, **more: (copied.append(names[0]),
                                                                                get(self, *names, **more))[1])
    path = reading.locate("memory://b/rows.csv")
    assert path.name == "rows.csv" and path.read_bytes() == b"a,b\n1,2\n"
    assert reading.locate("memory://b/rows.csv") == path and copied == ["/b/rows.csv"]
    put(bucket, "/b/rows.csv", b"a,b\n1,3\n")
    assert reading.locate("memory://b/rows.csv").read_bytes() == b"a,b\n1,3\n"


def test_of_a_folder_one_part_is_copied_or_what_lies_in_it(bucket):
    for name in ("one/x", "one/deep/y", "two/z", "flat"):
        put(bucket, f"/data/{name}", name.encode())

    def found(place):
        return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())

    assert found(remote.local_copy("memory://data", "one")) == ["one/deep/y", "one/x"]
    assert found(remote.local_copy("memory://data/", "three")) == ["flat", "one/deep/y", "one/x"]  # none is removed
    assert found(remote.local_copy("memory://data/one")) == ["deep/y", "x"]


@pytest.mark.parametrize("place, words", [
    ("memory://nothing/here.csv", "does not exist, or holds nothing"),
    ("nowhere://a/b", "cannot be opened"),
])
def test_what_is_not_there_is_told(bucket, place, words):
    with pytest.raises(UserError, match=words):
        reading.locate(place)


def test_no_room_on_the_disk_is_told(bucket, monkeypatch):
    put(bucket, "/b/large.npz", bytes(1000))
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 999}))
    with pytest.raises(UserError, match="1,000 bytes to copy.*PAE_ZOO_CACHE"):
        reading.locate("memory://b/large.npz")


def test_data_sets_are_read_from_urls(bucket, tmp_path):
    x = np.linspace(0, 1, 60 * 3).reshape(60, 3).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=x)
    put(bucket, "/b/rows.npz", (tmp_path / "rows.npz").read_bytes())
    found = data.load("npz:memory://b/rows.npz")
    assert found.event_shape == (3,) and len(found.train.x) + len(found.valid.x) + len(found.test.x) == 60
    put(bucket, "/b/table.csv", b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(40)))
    assert data.load("memory://b/table.csv").event_shape == (2,)
