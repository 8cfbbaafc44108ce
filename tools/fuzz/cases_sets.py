"""Cases: CIFAR batches, SVHN, CelebA, Omniglot."""

import pickle
import struct

import numpy as np
from kit import Canary, add, fifo, folder, images, picture_folder, savez, tiny, write, zipped


def table():
    cifar_cases()
    named_set_cases()


class Call:
    """Pickles to a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def by_name(module, name, *arguments) -> bytes:
    """A pickle, protocol 0 and 2, that calls module.name(*arguments)."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + pickle.dumps(tuple(arguments), 2)[2:-1] + b"R."


def cifar_cases():
    data = np.zeros((12, 3072), np.uint8)
    sound = {b"data": data, b"labels": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]}

    def case(name, content, file="data_batch_1", **how):
        how.setdefault("says", ("batch", "cifar"))

        def make(d):
            place = d / "data" / "cifar10"
            for one in ("data_batch_1", "test_batch"):
                write(place / one, pickle.dumps(sound, 2))
            made = content(d) if callable(content) else content
            if made is not None:
                write(place / file, made)
            return tiny(d, "--dataset=cifar10", f"--data_dir={d}/data")

        add("cifar", name, make, **how)

    case("sound", None, expect="accept", seconds=60)
    case("calls-os.system", lambda d: by_name("os", "system", f"touch {d}/CANARY"))
    case("calls-posix.system", lambda d: by_name("posix", "system", f"touch {d}/CANARY"))
    case("calls-eval", lambda d: by_name("builtins", "eval", f"open({str(d / 'CANARY')!r}, 'w')"))
    case("calls-__builtin__.eval", lambda d: by_name("__builtin__", "eval", f"open({str(d / 'CANARY')!r}, 'w')"))
    case("object-under-the-data", lambda d: pickle.dumps({**sound, b"more": Canary(d / "CANARY")}, 2))
    case("test-calls-os.system", lambda d: by_name("os", "system", f"touch {d}/CANARY"), "test_batch")
    case("encode-dotted-name", b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__class__.x\x93.")
    case("codec-of-nothing", by_name("_codecs", "encode"))
    case("codec-rot13", by_name("_codecs", "encode", "abc", "rot13"))
    case("codec-zlib-bomb", by_name("_codecs", "encode", "abc", "zip"))
    case("ndarray-claims-1-TiB", by_name("numpy", "ndarray", (1 << 40,)))
    case(
        "reconstruct-claims-1-TiB",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        + pickle.dumps(((1 << 40,), b"b"), 2)[2:-1].replace(b"\x86", b"")
        + b"\x87R.",
    )
    case("bytearray-claims-1-TiB", b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc.")
    case("long-of-2-GiB", b"\x80\x02\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"abc.")
    case("nested-1e5-lists", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    case("list-of-itself", b"\x80\x02]q\x00h\x00a.")
    case("pops-from-nothing", b"\x80\x020.")
    case("protocol-99", b"\x80\x63N.")
    case("persistent-id", b"\x80\x02U\x03abcQ.")
    case("extension-code", b"\x80\x02\x82\x05.")
    case("dtype-of-objects", by_name("numpy", "dtype", "O"))
    case("dtype-of-nonsense", by_name("numpy", "dtype", "no such type"))
    case("dtype-U-5e8", by_name("numpy", "dtype", "U500000000"))
    case("a-number", pickle.dumps(5, 2))
    case("without-labels", pickle.dumps({b"data": data}, 2))
    case("labels-of-text", pickle.dumps({**sound, b"labels": ["a"] * 12}, 2))
    case("labels-shorter", pickle.dumps({**sound, b"labels": [1, 2]}, 2))
    case("label-10", pickle.dumps({**sound, b"labels": [10] * 12}, 2))
    case("no-rows", pickle.dumps({b"data": data[:0], b"labels": []}, 2))
    case("data-floats", pickle.dumps({**sound, b"data": data.astype(float)}, 2))
    case("data-text", pickle.dumps({**sound, b"data": "x" * 100}, 2))
    case("data-narrow", pickle.dumps({**sound, b"data": data[:, :100]}, 2))
    case("data-nested-lists", pickle.dumps({**sound, b"data": [[1], [2, 3]]}, 2))
    case("0-bytes", b"")
    case("text", "hello\n")
    case("truncated", pickle.dumps(sound, 2)[:5000])
    case("random", np.random.default_rng(0).bytes(20000))
    for seed in range(4):
        case(f"flipped-{seed}", flipped_bytes(pickle.dumps(sound, 2), seed), expect="either", seconds=60)
    case("test-missing", lambda d: (d / "data/cifar10/test_batch").unlink())
    case("fifo", lambda d: ((d / "data/cifar10/test_batch").unlink(), fifo(d / "data/cifar10/test_batch"))[2:] or None)


def pickle_of_claim(shape) -> bytes:
    """A pickled array whose state claims `shape` and brings 16 bytes."""
    text = pickle.dumps(np.arange(16, dtype=np.uint8), 2)
    return text.replace(b"K\x10\x85", pickle.dumps(tuple(shape), 2)[2:-1].split(b"q")[0])


def flipped_bytes(data, seed):
    content = bytearray(data)
    for place in np.random.default_rng(seed).integers(0, min(400, len(content)), 6):
        content[place] ^= 0xFF
    return bytes(content)


def named_set_cases():
    def case(name, dataset, make, **how):
        def prepare(d):
            make(d / "data" / dataset)
            return tiny(d, f"--dataset={dataset}", f"--data_dir={d}/data")

        how.setdefault("says", (dataset, "data"))
        add("named", name, prepare, **how)

    for name, content in (
        ("text", b"hello"),
        ("empty", b""),
        ("zeros", bytes(1000)),
        ("claims", mat_claim()),
        ("random", np.random.default_rng(1).bytes(3000)),
    ):
        case(
            f"svhn-{name}",
            "svhn_cropped",
            lambda place, content=content: (
                write(place / "train_32x32.mat", content),
                write(place / "test_32x32.mat", content),
            ),
        )
    case("svhn-one-missing", "svhn_cropped", lambda place: write(place / "train_32x32.mat", mat_claim()))
    case("svhn-fifo", "svhn_cropped", lambda place: fifo(place / "train_32x32.mat"))
    case("omniglot-broken-zip", "omniglot", lambda place: write(place / "images_background.zip", b"PK\x03\x04zzz"))
    case("omniglot-empty-zip", "omniglot", lambda place: zipped(folder(place) / "images_background.zip", {}))
    case("celeba-without-partition", "celeb_a", lambda place: picture_folder(place / "img_align_celeba", 3))
    case(
        "celeba-bad-partition",
        "celeb_a",
        lambda place: (
            picture_folder(place / "img_align_celeba", 3),
            write(place / "list_eval_partition.txt", "000.png 7\n"),
        ),
    )
    case(
        "celeba-binary-partition",
        "celeb_a",
        lambda place: (
            picture_folder(place / "img_align_celeba", 3),
            write(place / "list_eval_partition.txt", np.random.default_rng(0).bytes(500)),
        ),
    )
    case(
        "celeba-fifo-partition",
        "celeb_a",
        lambda place: (picture_folder(place / "img_align_celeba", 3), fifo(place / "list_eval_partition.txt")),
    )
    case(
        "two-npz",
        "cifar10",
        lambda place: (savez(folder(place) / "a.npz", x=images()), savez(place / "b.npz", x=images())),
    )
    case("npz-of-wrong-shape", "kmnist", lambda place: savez(folder(place) / "a.npz", x=np.zeros((5, 2, 2, 2, 2))))
    for name in (
        "tfds:",
        "tfds:no_such_set_7",
        "tfds:../../etc",
        "digits:",
        ":",
        "npz",
        "folder",
        "DIGITS",
        "digit",
        " ",
        "npz:npz:x",
        "folder:/dev",
        "x" * 3000,
    ):
        add(
            "named",
            f"dataset-{name[:20].replace('/', '_')}",
            lambda d, name=name: tiny(d, f"--dataset={name}"),
            seconds=40,
        )


def mat_claim() -> bytes:
    """A MATLAB 5 file whose matrix claims 32x32x3x1e9 bytes."""
    flags = struct.pack("<IIII", 6, 8, 9, 0)
    dims = struct.pack("<IIiiii", 5, 16, 32, 32, 3, 10**9)
    name = struct.pack("<HH4s", 1, 1, b"X\0\0\0")
    data = struct.pack("<II", 2, 0xFFFFFFF0) + bytes(64)
    body = flags + dims + name + data
    return (
        b"MATLAB 5.0 MAT-file".ljust(124)
        + struct.pack("<H2s", 0x0100, b"IM")
        + struct.pack("<II", 14, len(body))
        + body
    )
