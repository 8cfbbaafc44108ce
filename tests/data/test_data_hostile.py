"""Hostile and damaged files of every form that is read: one line each, and memory only for what is there."""

import io
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
from data_files import png_bytes, write_idx, write_png

from pae_zoo import data
from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.data import masks

PICTURE = png_bytes(np.arange(64, dtype=np.uint8).reshape(8, 8))


def refusal(name, **options):
    with pytest.raises(UserError) as caught:
        data.load(name, download=False, **options)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 1500
    return text


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, bits=8, colour=0, extra=b""):
    """A PNG with these numbers in its header and the pixels of 8x8."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(bytes(72))) + chunk(b"IEND", b"")


def encoded(kind, **options):
    from PIL import Image

    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def tiff(width, height):
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
               (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 64)]  # fmt: skip
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 72) + bytes(64) + struct.pack("<H", len(entries)) + body + bytes(4)


def tiled(side):
    """A TIFF of 8x8 pixels in one packed tile of side x side."""
    packed = zlib.compress(bytes(100))
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
               (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8), (325, 4, 1, len(packed))]  # fmt: skip
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(entries)) + body + bytes(4)


BMP = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 118, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(64)


def test_pictures(tmp_path):
    """Claims far beyond the file, cut files, other formats under a picture's name; in a folder and in an archive."""
    broken = {
        "claim.png": png(2**31 - 1, 2**31 - 1), "wide.png": png(30_000, 30_000), "warned.png": png(12_000, 12_000),
        "colour.png": png(9_400, 9_400, 8, 6), "none.png": png(0, 0), "deep.png": png(8, 8, 16), "claim.bmp": BMP,
        "claim.tif": tiff(60_000, 60_000), "loop.tif": b"II*\0\x08\0\0\0\x00\x00\x08\0\0\0",
        "text.png": png(8, 8, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(8 << 20)))),
        "sixteen.pgm": b"P5 8 8 65535\n" + bytes(30), "short.pgm": b"P5 8 8 255\n" + bytes(30),
        "program.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n", "empty.jpg": b"",
        "page.jpg": b"<html>404</html>", "half.png": encoded("PNG")[:4000], "half.jpg": encoded("JPEG")[:1000],
        "half.gif": encoded("GIF")[:1500], "half.bmp": encoded("BMP")[:5000], "half.tif": encoded("TIFF")[:5000],
        "half.webp": encoded("WEBP")[:500], "sketch.png": encoded("JPEG2000"),
        "tile.tif": tiled(30_000), "comment.pgm": b"P5 #" + b"c" * 30_000,
        "pieces.png": png(8, 8, extra=chunk(b"aaAa", b"") * 12_000),
        "frame.gif": b"GIF89a" + struct.pack("<HHBBB", 8, 8, 128, 0, 0) + bytes(6) + b"," + struct.pack(
            "<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x02\x02\x4c\x01\x00;",
        "check.png": PICTURE[:45] + b"zz" + PICTURE[47:],
    }  # fmt: skip
    for number, (name, content) in enumerate(broken.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            for one in range(5):
                (folder / f"{one}.png").write_bytes(PICTURE)
                archive.writestr(f"{one}.png", PICTURE)
            (folder / name).write_bytes(content)
            archive.writestr(name, content)
        for place in (folder, tmp_path / f"{number}.zip"):
            assert name in refusal(f"folder:{place}", image_size=8)


def test_frames_and_hidden_words_of_pictures_do_no_harm(tmp_path):
    """Of several frames the first is taken, and a comment of any size is passed over."""
    from PIL import Image

    frames = [Image.fromarray(np.full((8, 8), 40 * number, np.uint8)) for number in range(5)]
    for number in range(4):
        frames[1].save(tmp_path / f"{number}.gif", save_all=True, append_images=frames[2:])
    (tmp_path / "z.png").write_bytes(png(8, 8, extra=chunk(b"tEXt", b"note\0" + b"x" * 5000)))
    loaded = data.load(f"folder:{tmp_path}", grey=True)
    values = np.concatenate([split.x.reshape(len(split), -1) for split in (loaded.train, loaded.valid, loaded.test)])
    assert sorted(values[:, 0].tolist()) == [0, 40, 40, 40, 40]


def test_many_pictures_are_held_against_the_memory_first(tmp_path, monkeypatch):
    for number in range(6):
        write_png(tmp_path / f"{number}.png", np.zeros((40, 40), np.uint8))
    monkeypatch.setattr(reading.budget, "available_memory", lambda: 10_000)
    assert "of memory" in refusal(f"folder:{tmp_path}") and "image_size" in refusal(f"folder:{tmp_path}")
    assert data.load(f"folder:{tmp_path}", image_size=8).event_shape == (8, 8, 1)


def test_archives_of_pictures(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"

    def write(method=zipfile.ZIP_STORED, **more):
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in {**{f"{n}.png": PICTURE for n in range(5)}, **more}.items():
                archive.writestr(name, content)
        return bytearray(path.read_bytes())

    whole = write()
    for change in (whole[:200], whole[: len(whole) // 2], whole[:-1], b"", b"PK\x03\x04zzz"):
        path.write_bytes(bytes(change))
        assert "a.zip" in refusal(f"folder:{path}")
    for local, central, value in ((8, 10, 99), (8, 10, 12), (8, 10, 8), (6, 8, 1), (6, 8, 0x20)):
        changed = bytearray(whole)
        for mark, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
            struct.pack_into("<H", changed, changed.find(mark) + offset, value)
        path.write_bytes(bytes(changed))
        assert "a.zip" in refusal(f"folder:{path}")
    whole[whole.find(PICTURE) + 50] ^= 1
    path.write_bytes(bytes(whole))
    assert "0.png" in refusal(f"folder:{path}") and "CRC" in refusal(f"folder:{path}")
    write(zipfile.ZIP_BZIP2)
    assert "read are stored and deflate" in refusal(f"folder:{path}")
    monkeypatch.setattr(reading.budget, "FREE_BYTES", 1 << 16)
    write(zipfile.ZIP_DEFLATED, **{"bomb.png": PICTURE + bytes(1 << 20)})
    assert "bomb.png would grow" in refusal(f"folder:{path}")


def test_idx_claims(tmp_path, monkeypatch):
    monkeypatch.setattr(reading.budget, "FREE_BYTES", 1 << 12)
    zeros = bytes([0, 0, 8, 3]) + struct.pack(">3I", 24, 100, 100) + bytes(240_000)
    write_idx(tmp_path / "mnist", gz=True, train_images=zeros)
    assert "would grow" in refusal("mnist", data_dir=str(tmp_path))
    write_idx(tmp_path / "kmnist")
    for name, make in (("train-labels-idx1-ubyte", os.mkfifo), ("t10k-images-idx3-ubyte", os.mkdir),
                       ("train-images-idx3-ubyte", lambda path: os.symlink("/dev/zero", path))):  # fmt: skip
        (tmp_path / "kmnist" / name).unlink()
        make(tmp_path / "kmnist" / name)
        assert name in refusal("kmnist", data_dir=str(tmp_path))
        os.rmdir(tmp_path / "kmnist" / name) if name.startswith("t10k") else (tmp_path / "kmnist" / name).unlink()
        write_idx(tmp_path / "kmnist")


def test_cifar_batches(tmp_path):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    rows, labels = np.zeros((12, 3072), np.uint8), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    sound = {b"data": rows, b"labels": labels}
    for name in ("data_batch_1", "test_batch"):
        (folder / name).write_bytes(pickle.dumps(sound, 2))
    assert len(data.load("cifar10", data_dir=str(tmp_path)).test) == 12
    nested = [[1], [2, 3]]
    for _ in range(40):
        nested = [nested] * 10  # 10 ** 40 numbers, were it spread out
    for change in ({b"data": rows.astype(float)}, {b"data": "x" * 99}, {b"data": rows[:, :100]},
                   {b"data": nested}, {b"data": rows[:0], b"labels": []}, {b"labels": ["a"] * 12},
                   {b"labels": [1]}, {b"labels": [10] * 12},
                   {b"labels": nested}, {b"labels": [10**400] * 12}, {b"labels": None}, {b"data": None}):  # fmt: skip
        (folder / "data_batch_1").write_bytes(pickle.dumps({**sound, **change}, 2))
        assert "data_batch_1" in refusal("cifar10", data_dir=str(tmp_path))
    for content in (pickle.dumps([rows]), pickle.dumps(5), pickle.dumps(sound, 2)[:5000], b""):
        (folder / "data_batch_1").write_bytes(content)
        assert "data_batch_1" in refusal("cifar10", data_dir=str(tmp_path))
    (folder / "data_batch_1").unlink()
    os.mkfifo(folder / "data_batch_1")
    assert "data_batch_1 is a pipe" in refusal("cifar10", data_dir=str(tmp_path))


def mat(shape, kind=9, content=bytes(64), size=None, packed=False, name=b"X"):
    """A MATLAB 5 file with one matrix of a claimed shape; kind 9 is uint8, 1 a cell array."""
    dims = struct.pack("<II", 5, 4 * len(shape)) + struct.pack(f"<{len(shape)}i", *shape)
    body = struct.pack("<IIII", 6, 8, kind, 0) + dims + b"\0" * (-len(dims) % 8)
    body += struct.pack("<HH4s", 1, 1, name) + struct.pack("<II", 2, len(content) if size is None else size) + content
    element = struct.pack("<II", 14, len(body)) + body
    if packed:
        small = zlib.compress(element)
        element = struct.pack("<II", 15, len(small)) + small
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM") + element


def test_svhn_files(tmp_path, monkeypatch):
    folder = tmp_path / "svhn_cropped"
    folder.mkdir()
    monkeypatch.setattr(reading.budget, "FREE_BYTES", 1 << 16)
    zeros = mat((32, 32, 3, 1000), content=bytes(3_072_000), packed=True)
    for content, words in ((mat((32, 32, 3, 10**9)), "cannot hold"),
                           (mat((32, 32, 3, 1), content=bytes(3072), size=0xFFFFFFF0), "not a readable"),
                           (mat((10**9, 1), kind=1), "cannot hold"), (zeros, "would grow"),
                           (zeros[:300], "not a readable"), (b"hello", "not a readable"),
                           (bytes(1000), "not a readable"), (b"", "not a readable"),
                           (mat((32, 32, 3, 1), packed=True), "cannot hold")):  # fmt: skip
        for name in ("train_32x32.mat", "test_32x32.mat"):
            (folder / name).write_bytes(content)
        told = refusal("svhn_cropped", data_dir=str(tmp_path))
        assert words in told and "train_32x32.mat" in told, told
    (folder / "train_32x32.mat").unlink()
    os.mkfifo(folder / "train_32x32.mat")
    assert "is a pipe" in refusal("svhn_cropped", data_dir=str(tmp_path))


def test_celeba_and_folders_of_named_sets(tmp_path):
    folder = tmp_path / "celeb_a"
    write_png(folder / "img_align_celeba" / "1.png", np.zeros((8, 8, 3), np.uint8))
    table = folder / "list_eval_partition.txt"
    for content in (b"1.png 7\n", np.random.default_rng(0).bytes(500), b"", b"1.png 0\n"):
        table.write_bytes(content)
        assert "list_eval_partition" in refusal("celeb_a", data_dir=str(tmp_path))
    table.unlink()
    os.mkfifo(table)
    assert "is a pipe" in refusal("celeb_a", data_dir=str(tmp_path))
    (tmp_path / "mnist").mkdir()
    os.mkfifo(tmp_path / "mnist" / "a.npz")
    assert "a.npz is a pipe" in refusal("mnist", data_dir=str(tmp_path))
    os.mkfifo(tmp_path / "kmnist")
    assert "none of the forms" in refusal("kmnist", data_dir=str(tmp_path))
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "images_background.zip").write_bytes(b"PK\x03\x04zzz")
    assert "images_background.zip" in refusal("omniglot", data_dir=str(tmp_path))
    for place, words in (("n" * 5000, "too long"), ("a\0b", "NUL"), ("~no_such_user_7", "no such user"),
                         (str(tmp_path / "kmnist"), "is not a folder")):  # fmt: skip
        assert words in refusal("mnist", data_dir=place)
    for name in ("npz", "folder"):
        for place, words in (("n" * 5000, "too long"), ("a\0b", "NUL"), ("~no_such_user_7/x", "no such user")):
            assert words in refusal(f"{name}:{place}")


def test_broken_copies_of_tensorflow_datasets(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    info = folder / "dataset_info.json"
    for content in (b"", b"{}", b"[1]", b"\xff\xfe", b'{"name": "mnist", "version": "3.0.1", "splits": 5}'):
        info.write_bytes(content)
        assert "mnist" in refusal("mnist", data_dir=str(tmp_path))
    info.unlink()
    os.mkfifo(info)
    assert "is a pipe" in refusal("mnist", data_dir=str(tmp_path))
    for name in ("../../etc", "a b", "/etc/passwd", "huggingface:mnist", "x" * 3000 + "/"):
        assert "has no set" in refusal(f"tfds:{name}")


def test_files_of_masks(tmp_path):
    for name, content, words in (
        ("a.npy", b"text", "not a readable .npy"), ("a.npz", b"text", "not a readable .npz"),
        ("a.png", b"text", "not a readable"),
        ("b.png", png(30_000, 30_000), "not a readable"), ("c.npy", pickle.dumps(5), "not a readable .npy"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words):
            masks.make(masks.parse(f"{tmp_path}/{name}"), (8, 8, 1), 2)
    for ending in ("npy", "npz", "png"):
        os.mkfifo(tmp_path / f"fifo.{ending}")
        with pytest.raises(UserError, match="is a pipe"):
            masks.make(masks.parse(f"{tmp_path}/fifo.{ending}"), (8, 8, 1), 2)
