"""Hostile and broken files: every one costs a line, and none is read further than its header's word is worth."""

import io
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError

X = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def header(descr="'|u1'", shape="(3, 4, 4)", fortran="False", text=None, version=(1, 0), length=None):
    text = text or f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
    body = text.encode("latin1") + b" " * (-(len(text) + 11) % 64) + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(body) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + size + body


def archive(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def patched(path, local, central, value):
    """Overwrites a 16-bit field in all local and central headers of a zip archive."""
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        start = data.find(mark)
        while start >= 0:
            struct.pack_into("<H", data, start + offset, value)
            start = data.find(mark, start + 4)
    path.write_bytes(bytes(data))
    return path


def refusal(read, *arguments, **more):
    with pytest.raises(UserError) as caught:
        read(*arguments, **more)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 900
    return text


def test_sound_archives_are_read_as_numpy_reads_them(tmp_path):
    arrays = dict(x=X, scalar=np.array(3.5), empty=np.zeros((0, 3)), text=np.array("note é"), none=np.array([], "U"),
                  turned=np.asfortranarray(X), big=np.arange(5, dtype=">i4"), time=np.array(["2020-01-01"], "M8[D]"),
                  flags=X > 5, complex=np.ones(2, complex))  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = reading.npz(tmp_path / "a.npz")
        assert list(found) == list(arrays)
        for key, array in arrays.items():
            np.testing.assert_array_equal(found[key], array)
            assert found[key].dtype == array.dtype
    assert list(reading.npz(tmp_path / "a.npz", keys=("big", "x", "absent"))) == ["x", "big"]
    np.save(tmp_path / "a.npy", X)
    np.testing.assert_array_equal(reading.npy(tmp_path / "a.npy"), X)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_headers_that_lie_or_are_no_plain_arrays(tmp_path, method):
    deep = "(" * 4000 + ")" * 4000
    for content, words in (
        (header(shape="(16777216, 256, 256)"), "claims the shape"),
        (header(shape="(4294967296, 4294967296, 4294967296)"), "claims the shape"),
        (header(shape="(2, 4, 4)"), "holds 48"),  # rows more than the header says
        (header(shape="(-1, 4, 4)"), "not that of a plain array"),
        (header(shape="(3.0, 4, 4)"), "not that of a plain array"),
        (header(shape=f"({'1, ' * 65})"), "up to 32 sizes"),
        (header(descr="('|u1', (1000000000,))"), "not that of a plain array"),
        (header(descr="[('a', '|u1'), ('b', '|u1')]"), "not that of a plain array"),
        (header(descr="[('a', '|O')]"), "pickle"),
        (header(descr="'|O'"), "pickle"),
        (header(descr="'<U536870911'"), "claims the shape"),
        (header(descr="'<U0'", shape="(1099511627776,)"), "claims the shape"),
        (header(descr="'|V8'"), "allowed are plain numbers"),
        (header(descr="'zz'"), "allowed are plain numbers"),
        (header(descr="'u1,u1'"), "allowed are plain numbers"),
        (header(text=deep), "not that of a plain array"),
        (header(text="-" * 9000 + "1"), "not that of a plain array"),
        (header(text="{b'descr': '|u1', 'fortran_order': False, 'shape': (3, 4, 4)}"), "not that of a plain array"),
        (header(text="{'descr': '|u1', 'shape': (3, 4, 4)}"), "not that of a plain array"),
        (header(text="__import__('os').abort()"), "not that of a plain array"),
        (header(text="{" + " " * 9900 + "}"), "not that of a plain array"),
        (header(length=0xFFFF), "at most 10000"),
        (header(length=0xFFFFFFFF, version=(2, 0)), "at most 10000"),
        (header(version=(9, 0)), "not a readable .npy"),
        (b"", "not a readable .npy"),
        (b"text", "not a readable .npy"),
    ):
        raw = content + X.tobytes() if content.startswith(b"\x93") else content
        for members in ({"x.npy": raw}, {"x.npy": npy(X), "unread.npy": raw}):
            told = refusal(reading.npz, archive(tmp_path / "a.npz", members, method), keys=("x",))
            assert words in told and "a.npz" in told, told
        (tmp_path / "a.npy").write_bytes(raw)
        assert words in refusal(reading.npy, tmp_path / "a.npy")


def test_members_that_cannot_or_must_not_be_unpacked(tmp_path):
    path = tmp_path / "a.npz"
    for bits in (0x1, 0x20, 0x40):
        assert "a.npz" in refusal(reading.npz, patched(archive(path, {"x.npy": npy(X)}), 6, 8, bits))
    for method in (1, 8, 9, 12, 14, 99):
        assert "a.npz" in refusal(reading.npz, patched(archive(path, {"x.npy": npy(X)}), 8, 10, method))
    assert "read are stored and deflate" in refusal(
        reading.npz, archive(path, {"x.npy": npy(X)}, zipfile.ZIP_LZMA))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", npy(X))
        file.writestr("x.npy", npy(X))
    assert "twice" in refusal(reading.npz, path)
    assert "two arrays of one name" in refusal(reading.npz, archive(path, {"x.npy": npy(X), "x": npy(X)}))


def test_damage_anywhere_is_told(tmp_path):
    np.savez_compressed(tmp_path / "sound.npz", x=X, y=np.arange(3))
    whole = (tmp_path / "sound.npz").read_bytes()
    path = tmp_path / "a.npz"
    for keep in (0, 1, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        assert "a.npz" in refusal(reading.npz, path)
    stored = bytearray(archive(path, {"x.npy": npy(X)}).read_bytes())
    stored[stored.find(X.tobytes()) + 7] ^= 1  # one bit of one pixel
    path.write_bytes(bytes(stored))
    assert "CRC" in refusal(reading.npz, path)


def test_bombs_and_budgets(tmp_path, monkeypatch):
    monkeypatch.setattr(reading.budget, "FREE_BYTES", 1 << 16)
    zeros = {"x.npy": npy(np.zeros((1 << 20,), np.uint8))}
    path = archive(tmp_path / "a.npz", zeros, zipfile.ZIP_DEFLATED)
    assert "would grow" in refusal(reading.npz, path)
    assert reading.npz(archive(path, zeros))["x"].nbytes == 1 << 20  # the remedy holds
    assert "of memory" in refusal(reading.npz, path, budget=1000)
    many = {f"{number}.npy": npy(np.zeros((1 << 15,), np.uint8)) for number in range(32)}  # each alone is small
    assert "would grow" in refusal(reading.npz, archive(path, many, zipfile.ZIP_DEFLATED))
    monkeypatch.setattr(reading.budget, "available_memory", lambda: 1000)
    assert "of memory" in refusal(reading.npz, archive(path, zeros))


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.npz")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    (tmp_path / "lost.npz").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.npz").symlink_to(tmp_path / "loop.npz")
    for name, words in (("fifo.npz", "a pipe"), ("folder.npz", "a folder"), ("zero.npz", "a device"),
                        ("lost.npz", "link to nowhere"), ("loop.npz", "symbolic links"), ("absent.npz", "not exist"),
                        ("n" * 5000, "too long"), ("a\0b", "NUL")):  # fmt: skip
        for read in (reading.npz, reading.npy, reading.content, reading.text, reading.unpickled):
            assert words in refusal(read, tmp_path / name)
    assert "no such user" in refusal(reading.npz, "~no_such_user_7/x.npz")
    assert "no text in UTF-8" in refusal(reading.text, _written(tmp_path / "a", b"\xff\xfe"))
    assert "at most 3 bytes" in refusal(reading.text, _written(tmp_path / "a", b"12345"), limit=3)
    assert reading.text("/proc/self/stat").startswith(str(os.getpid()))  # such files state a size of 0


def _written(path, content):
    path.write_bytes(content)
    return path


class Evil:
    def __reduce__(self):
        return os._exit, (3,)


def by_name(module, name, *arguments):
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + pickle.dumps(arguments, 2)[2:-1] + b"R."


def test_pickles_of_plain_arrays_are_read_and_no_others(tmp_path):
    path = tmp_path / "batch"
    for protocol in range(6):
        for array in (X, np.asfortranarray(X / 7), np.arange(4, dtype=">i2")):
            found = reading.unpickled(_written(path, pickle.dumps({"data": array, "labels": [1, 300, -5]}, protocol)))
            np.testing.assert_array_equal(found["data"], array)
            assert found["data"].dtype == array.dtype and found["labels"] == [1, 300, -5]
    claim = pickle.dumps(np.arange(16, dtype=np.uint8), 2).replace(b"K\x10\x85", pickle.dumps((1 << 40,), 2)[2:-3])
    for content in (
        pickle.dumps(Evil()), pickle.dumps({"data": X, "more": Evil()}), claim, b"", b"text", b"\x80\x63N.",
        pickle.dumps({"data": X}, 2)[:60], pickle.dumps(np.array([None])), pickle.dumps(np.dtype("u1")),
        by_name("os", "abort"), by_name("builtins", "eval", "1"), by_name("numpy", "ndarray", (1 << 40,)),
        by_name("_codecs", "encode", "abc", "zip"), by_name("numpy", "dtype", "O"), by_name("numpy", "dtype", "U500"),
        b"\x80\x02\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"abc.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc.",
        b"\x80\x02]r\xff\xff\xff\x0f.", b"\x80\x02U\x03abcQ.", b"\x80\x02\x82\x05.", b"\x80\x020.",
        b"\x80\x02cnumpy\nndarray\n}U\x01xK\x01sb.",
        b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__class__.x\x93.",
    ):  # fmt: skip
        told = refusal(reading.unpickled, _written(path, content))
        assert "is not a readable pickle" in told, content
    assert reading.unpickled(_written(path, pickle.dumps({"data": X}, 2)))["data"].shape == X.shape


def test_gzip_is_read_to_its_check_sum(tmp_path):
    path, plain = tmp_path / "a.gz", bytes(range(256)) * 4

    def read():
        with reading.gunzipped(path) as file:
            return file.read(len(plain)), file.read(1)

    packer = zlib.compressobj(wbits=31)
    sound = packer.compress(plain) + packer.flush()
    path.write_bytes(sound)
    assert read() == (plain, b"")
    for content in (b"hello", sound[:-20], sound[:-8] + b"abcd" + sound[-4:]):
        path.write_bytes(content)
        assert "a.gz" in refusal(read)


def test_the_memory_that_is_left_is_the_least_of_what_bounds_it(tmp_path, monkeypatch):
    used, stat = _written(tmp_path / "used", b"400\n"), _written(tmp_path / "stat", b"anon 3\ninactive_file 50\n")
    for limit, expected in ((b"1000\n", 650), (b"max\n", None)):
        assert reading.budget._group(_written(tmp_path / "limit", limit), used, stat) == expected
    assert reading.budget._group(tmp_path / "none", used, stat) is None
    assert 0 < reading.available_memory() <= reading.budget._machine()
    monkeypatch.setattr(reading.budget, "_limits", lambda: iter([None, 7 << 20, 9 << 20]))
    assert reading.available_memory() == 7 << 20
    assert "needs 8.0 MiB of memory, but 7.0 MiB are left; sell it." in refusal(
        reading.check_memory, 8 << 20, "x", remedy="sell it")
