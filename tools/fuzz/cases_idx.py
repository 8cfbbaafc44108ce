"""Cases: IDX files, plain and packed by gzip."""

import struct

import numpy as np
from kit import add, fifo, flipped, folder, idx, idx_set, link, tiny, truncated, write, zero_gzip


def table():
    idx_cases()


def idx_cases():
    def case(name, change, packed=False, **how):
        how.setdefault("says", ("ubyte", "mnist", "split"))

        def make(d):
            place = idx_set(d / "data" / "mnist", packed)
            change(place)
            return tiny(d, "--dataset=mnist", f"--data_dir={d}/data")

        add("idx", name, make, **how)

    def field(name, offset, data, which="train-images-idx3-ubyte", **how):
        def change(place):
            path = place / which
            content = bytearray(path.read_bytes())
            content[offset : offset + len(data)] = data
            path.write_bytes(bytes(content))

        case(name, change, **how)

    u32 = lambda value: struct.pack(">I", value)  # noqa: E731
    case("sound", lambda place: None, expect="accept", seconds=60)
    case("sound-gzip", lambda place: None, packed=True, expect="accept", seconds=60)
    for offset in range(4):
        field(f"magic-byte-{offset}", offset, b"\x7f")
    field("type-float", 2, b"\x0d")
    field("rank-1", 3, b"\x01")
    for name, value in (("0", 0), ("one-less", 95), ("one-more", 97), ("2e9", 2**31), ("max", 2**32 - 1)):
        field(f"count-{name}", 4, u32(value))
        field(f"rows-{name}", 8, u32(value if value > 1000 else (0 if not value else value - 68)))
        field(f"labels-count-{name}", 4, u32(value), "train-labels-idx1-ubyte")
    field("columns-0", 12, u32(0))
    field("all-sizes-max", 4, b"\xff" * 12)
    field("test-count-0", 4, u32(0), "t10k-images-idx3-ubyte")
    for keep in (0, 3, 4, 10, 16, 17, 1000):
        case(f"truncated-to-{keep}", lambda place, keep=keep: truncated(place / "train-images-idx3-ubyte", keep))
    case("trailing-byte", lambda place: append(place / "train-images-idx3-ubyte", b"x"))
    case(
        "test-images-of-27",
        lambda place: write(place / "t10k-images-idx3-ubyte", idx(np.zeros((24, 27, 27), np.uint8))),
    )
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        case(f"without-{name}", lambda place, name=name: (place / name).unlink())
    case(
        "one-is-a-folder",
        lambda place: ((place / "train-labels-idx1-ubyte").unlink(), (place / "train-labels-idx1-ubyte").mkdir()),
    )
    case(
        "one-is-a-fifo",
        lambda place: ((place / "train-labels-idx1-ubyte").unlink(), fifo(place / "train-labels-idx1-ubyte")),
    )
    case(
        "one-is-a-device",
        lambda place: (
            (place / "train-labels-idx1-ubyte").unlink(),
            link(place / "train-labels-idx1-ubyte", "/dev/zero"),
        ),
    )
    gz = "train-images-idx3-ubyte.gz"
    case(
        "gzip-wrong-crc",
        lambda place: write(place / gz, (place / gz).read_bytes()[:-8] + b"abcd" + (place / gz).read_bytes()[-4:]),
        packed=True,
    )
    case("gzip-is-none", lambda place: write(place / gz, "hello"), packed=True)
    for seed in range(3):
        case(f"gzip-flipped-{seed}", lambda place, seed=seed: flipped(place / gz, seed), packed=True)
    case(
        "gzip-bomb-after-the-data",
        lambda place: zero_gzip(place / gz, idx(np.zeros((96, 28, 28), np.uint8)), 3584 << 20),
        packed=True,
    )
    case(
        "label-200",
        lambda place: write(place / "train-labels-idx1-ubyte", idx(np.full(96, 200, np.uint8))),
        expect="either",
        seconds=60,
    )
    add(
        "idx",
        "data_dir-is-a-file",
        lambda d: (write(d / "data", "x"), tiny(d, "--dataset=mnist", f"--data_dir={d}/data"))[1],
    )
    add("idx", "data_dir-of-5000-letters", lambda d: tiny(d, "--dataset=mnist", f"--data_dir=/{'n' * 5000}"))
    add(
        "idx",
        "data_dir-without-the-set",
        lambda d: tiny(d, "--dataset=mnist", f"--data_dir={folder(d / 'data')}"),
        seconds=40,
    )


def append(path, data):
    with open(path, "ab") as file:
        file.write(data)
