"""Cases: npz files."""

import bz2
import gzip
import os
import pickle
import zipfile

import numpy as np
from kit import (
    Canary,
    add,
    apply,
    as_root,
    fifo,
    flipped,
    images,
    link,
    npy,
    npy_header,
    object_npy,
    run_of,
    savez,
    tiny,
    truncated,
    with_flags,
    with_method,
    write,
    zero_zip,
    zipped,
)


def table():
    npz_cases()


def npz_cases():
    def case(name, make, *flags, **how):
        how.setdefault("says", "x.npz")
        add("npz", name, lambda d: (make(d / "x.npz"), tiny(d, f"--dataset=npz:{d}/x.npz", *flags))[1], **how)

    def arrays(name, make, **how):
        case(name, lambda path: savez(path, **make()), **how)

    def raw(name, members, **how):
        case(name, lambda path: zipped(path, members(path) if callable(members) else members), **how)

    def header(name, **parts):
        how = {key: parts.pop(key) for key in ("expect", "says", "seconds") if key in parts}
        raw(name, {"x.npy": npy_header(**parts) + bytes(24 * 64)}, **how)

    sound = dict(x=images())
    body = bytes(24 * 64)
    arrays("sound", lambda: dict(x=images(48), y=np.arange(48) % 3), expect="accept", seconds=60)
    # claims
    header("claims-1-TiB", shape=(1 << 24, 256, 256))
    header("claims-16-EiB", shape=(1 << 32, 1 << 16, 1 << 16))
    header("claims-6-GiB-of-floats", descr="<f4", shape=(24 << 20, 8, 8))
    raw("x_test-claims-1-TiB", {"x_train.npy": npy(images()), "x_test.npy": npy_header("|u1", (1 << 34, 8, 8)) + body})
    raw(
        "unread-member-claims-1-TiB",
        {"x.npy": npy(images(48)), "zz.npy": npy_header("|u1", (1 << 40,)) + body},
        expect="either",
        seconds=60,
    )
    header("negative-shape", shape=(-1, 8, 8))
    header("fractional-shape", shape="(24.0, 8, 8)")
    header("33-axes", shape=(1,) * 65)
    header("fewer-than-there-is", shape=(4, 8, 8), expect="refuse")
    # headers
    header("nested-4000-deep", text="(" * 4000 + ")" * 4000)
    header("nested-90000-deep", text="(" * 45000 + ")" * 45000, version=(2, 0))
    header("minus-signs-9000", text="-" * 9000 + "1")
    header(
        "header-of-60000-letters", text="{'descr': '|u1', 'fortran_order': False, 'shape': (24, 8, 8), }" + " " * 60000
    )
    header("header-claims-4-GiB", length=0xFFFFFFFF, version=(2, 0))
    header("header-claims-65535", length=0xFFFF)
    header(
        "version-3-latin1", version=(3, 0), text=b"{'descr': '\xff\xfe', 'fortran_order': False, 'shape': (24, 8, 8), }"
    )
    header("header-is-code", text="__import__('os').system('touch CANARY')")
    header("header-lacks-a-key", text="{'descr': '|u1', 'shape': (24, 8, 8)}")
    header("header-key-is-bytes", text="{b'descr': '|u1', 'fortran_order': False, 'shape': (24, 8, 8)}")
    header("header-empty", text="")
    header("fortran-order", fortran=True, expect="either", seconds=60)
    raw("member-of-0-bytes", {"x.npy": b""})
    # dtypes
    for descr in ("M8[s]", "m8[s]", "<c8", "<U5", "S5", "|V8", "<i8", "<u2", "<i4", "|i1"):
        header(f"dtype-{descr}", descr=descr, shape=(2, 2, 2))
    header("dtype-f16-long-double", descr="<f16", shape=(12, 8, 2), expect="either", seconds=60)
    header("dtype-big-endian", descr=">f4", shape=(24, 8, 2), expect="either", seconds=60)
    header(
        "dtype-structured",
        text="{'descr': [('a', '|u1'), ('b', '|u1')], 'fortran_order': False, 'shape': (12, 8, 8), }",
    )
    header(
        "dtype-subarray", text="{'descr': ('|u1', (8,)), 'fortran_order': False, 'shape': (24, 8), }", expect="either"
    )
    header("dtype-nested-1e9", text="{'descr': ('|u1', (1000000000,)), 'fortran_order': False, 'shape': (24, 8), }")
    header("dtype-unknown", descr="zz")
    header("dtype-is-a-number", text="{'descr': 5, 'fortran_order': False, 'shape': (24, 8, 8), }")
    header("dtype-U2e9", descr="<U536870911", shape=(24, 8, 8))
    # pickles
    raw("y-is-pickled", lambda path: {"x.npy": npy(images()), "y.npy": object_npy(path.parent / "CANARY")})
    raw("unread-member-is-pickled", lambda path: {"x.npy": npy(images()), "zz.npy": object_npy(path.parent / "CANARY")})
    raw(
        "object-of-a-structure",
        {"x.npy": npy_header(text="{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (3,), }") + body},
    )
    raw("member-without-npy-ending", {"x": npy(images()), "y": b"text"})
    raw(
        "member-x-pickle-without-npy",
        lambda path: {"x": pickle.dumps(Canary(path.parent / "CANARY")), "x_train.npy": npy(images())},
    )
    # archives
    case("method-99", lambda path: with_method(savez(path, **sound), 99))
    case("encrypted-flag", lambda path: with_flags(savez(path, **sound), 1))
    case("patch-flag", lambda path: with_flags(savez(path, **sound), 0x20))
    case("method-8-on-stored-bytes", lambda path: with_method(savez(path, **sound), 8))
    case("method-12-on-stored-bytes", lambda path: with_method(savez(path, **sound), 12))
    case("lzma", lambda path: zipped(path, {"x.npy": npy(images(48))}, zipfile.ZIP_LZMA), expect="either", seconds=60)
    case("truncated-by-1", lambda path: truncated(savez(path, **sound), savez(path, **sound).stat().st_size - 1))
    case("0-bytes", lambda path: write(path, b""))
    for seed in range(6):
        case(f"16-bytes-flipped-{seed}", lambda path, seed=seed: flipped(savez(path, **sound), seed))
    case("text", lambda path: write(path, "x = 5\n"))
    case("gzip", lambda path: write(path, gzip.compress(npy(images()))))
    case("bzip2", lambda path: write(path, bz2.compress(npy(images()))))
    raw("two-members-x", [("x.npy", npy(images(48))), ("x.npy", npy(images(48, 9)))], expect="either", seconds=60)
    raw("names-lead-out", {"../x.npy": npy(images())})
    case(
        "bomb-3.5-GiB-of-floats",
        lambda path: zero_zip(path, "x.npy", npy_header("<f4", (14336 * 1024, 8, 8)), 3584 << 20),
        seconds=60,
    )
    case("bomb-in-an-unread-member", lambda path: two_members(path), expect="either", seconds=60)
    case(
        "bomb-of-text-for-a-header",
        lambda path: zero_zip(path, "x.npy", b"\x93NUMPY\x02\0\xff\xff\xff\xdf", 3584 << 20),
        seconds=60,
    )
    case("a-folder", lambda path: path.mkdir(), says=("x.npz",))
    case("missing", lambda path: None)
    case("fifo", fifo)
    case("links-to-itself", lambda path: link(path, path))
    add("npz", "no-name", lambda d: tiny(d, "--dataset=npz:"))
    add("npz", "name-of-5000-letters", lambda d: tiny(d, f"--dataset=npz:{'n' * 5000}"), lines=3)
    add("npz", "name-not-utf-8", lambda d: tiny(d, f"--dataset=npz:{d}/\udcff\udcfe.npz"))
    add("npz", "name-with-nul", lambda d: tiny(d, f"--dataset=npz:{d}/a\0b.npz"))
    add("npz", "home-of-nobody", lambda d: tiny(d, "--dataset=npz:~no_such_user_7/x.npz"))
    add("npz", "not-allowed-to-read", unreadable)
    # values and shapes
    floats = np.random.default_rng(0).random((24, 8, 8)).astype(np.float32)

    def broken(value, dtype=np.float32):
        x = floats.astype(dtype)
        x[3, 2, 1] = value
        return x

    arrays("nan", lambda: dict(x=broken(np.nan)))
    arrays("inf", lambda: dict(x=broken(np.inf)))
    arrays("minus-inf-in-x_test", lambda: dict(x_train=floats, x_test=broken(-np.inf)))
    arrays("above-1", lambda: dict(x=broken(1.5)))
    arrays("vector-nan", lambda: dict(x=broken(np.nan).reshape(24, 64)))
    arrays("constant-vectors", lambda: dict(x=np.full((48, 4), 1e30)), expect="told", says=())
    arrays("int64-images", lambda: dict(x=images().astype(np.int64)))
    arrays("uint16-images", lambda: dict(x=images().astype(np.uint16)))
    for shape in ((0, 8, 8), (24, 0, 8), (24, 8, 0), (24,), (), (24, 8, 8, 1, 1), (24, 3, 8, 8), (1, 8, 8), (2, 8, 8)):
        arrays(f"shape-{'x'.join(map(str, shape)) or 'scalar'}", lambda shape=shape: dict(x=np.zeros(shape, np.uint8)))
    arrays("shape-3x8x8", lambda: dict(x=images(3)), expect="either", seconds=60)
    arrays("2-channels", lambda: dict(x=images(24, 8, 2)), expect="either", seconds=60)
    arrays("300-channels", lambda: dict(x=images(24, 8, 300)), expect="either", seconds=60)
    arrays("no-x", lambda: dict(data=images()))
    arrays("y-and-y_train", lambda: dict(x=images(), y=np.zeros(24, int), y_train=np.zeros(24, int)))
    arrays("labels-longer", lambda: dict(x=images(), y=np.zeros(25, int)))
    arrays("labels-shorter", lambda: dict(x=images(), y=np.zeros(3, int)))
    arrays("labels-fractions", lambda: dict(x=images(), y=np.full(24, 0.5)))
    arrays("labels-nan", lambda: dict(x=images(), y=np.full(24, np.nan)))
    arrays("labels-1e300", lambda: dict(x=images(), y=np.full(24, 1e300)))
    arrays("labels-text", lambda: dict(x=images(), y=np.full(24, "cat")))
    arrays("labels-complex", lambda: dict(x=images(), y=np.full(24, 1j)))
    arrays("labels-2-columns", lambda: dict(x=images(), y=np.zeros((24, 2), int)))
    arrays("labels-uint64-max", lambda: dict(x=images(), y=np.full(24, 2**64 - 1, np.uint64)))
    arrays("y_test-without-x_test", lambda: dict(x=images(), y=np.zeros(24, int), y_test=np.zeros(24, int)))
    arrays("x_test-of-another-shape", lambda: dict(x_train=images(), x_test=images(24, 9)))
    arrays("x_test-of-another-type", lambda: dict(x_train=images(), x_test=floats))

    # the same reader for windows of a series
    def windows(name, make, ending="npz", **how):
        how.setdefault("says", f"x.{ending}")
        add("npz", f"windows-{name}",
            lambda d: (make(d / f"x.{ending}"), tiny(d, f"--dataset=windows:{d}/x.{ending}"))[1], **how)  # fmt: skip

    series = 99 * np.random.default_rng(1).normal(size=(48, 8, 2))
    windows("sound", lambda path: savez(path, x=series, y=np.arange(48) % 3), expect="accept", seconds=60)
    windows("of-one-value", lambda path: savez(path, x=series[..., 0]), expect="accept", seconds=60)
    windows("of-one-step", lambda path: savez(path, x=series[:, :1]), expect="accept", seconds=60)
    windows("npy", lambda path: write(path, npy(series)), ending="npy", expect="accept", seconds=60)
    windows("claims-1-TiB", lambda path: zipped(path, {"x.npy": npy_header("<f4", (1 << 34, 8, 8)) + body}))
    windows("nan", lambda path: savez(path, x=broken(np.nan)))
    windows("huge-numbers", lambda path: savez(path, x=np.full((48, 8, 2), 1e300)))
    windows("text", lambda path: savez(path, x=np.full((48, 8, 2), "1.5")))
    windows("images-of-3-channels", lambda path: savez(path, x=images(48, 8, 3)))
    windows("one-row", lambda path: savez(path, x=series[:1]))
    windows("two-rows", lambda path: savez(path, x=series[:2]))
    windows("table", lambda path: write(path, b"a,b\n" + b"1,2\n" * 99), ending="csv", says="--window")

    # the same reader in apply
    def use(name, make, *flags, **how):
        how.setdefault("says", "x.npz")
        add(
            "npz",
            f"apply-{name}",
            lambda d: (
                make(d / "x.npz"),
                run_of("vae", d),
                apply(d, f"--workdir={d}/run", f"--input=npz:{d}/x.npz", f"--out={d}/out.npz", *flags),
            )[2],
            **how,
        )

    use("sound", lambda path: savez(path, x=images()), expect="accept", seconds=60)
    use("claims-1-TiB", lambda path: zipped(path, {"x.npy": npy_header("|u1", (1 << 34, 8, 8)) + body}))
    use("method-99", lambda path: with_method(savez(path, **sound), 99))
    use("encrypted-flag", lambda path: with_flags(savez(path, **sound), 1))
    use("other-shape", lambda path: savez(path, x=images(24, 9)))
    use("no-rows", lambda path: savez(path, x=images(0)))
    use("one-row", lambda path: savez(path, x=images(1)), expect="accept", seconds=60)
    use("nan", lambda path: savez(path, x=broken(np.nan)))
    use("vectors", lambda path: savez(path, x=floats.reshape(24, 64)))


def unreadable(d):
    as_root()
    path = savez(d / "x.npz", x=images())
    os.chmod(path, 0)
    os.chmod(d, 0o777)
    return tiny(d, f"--dataset=npz:{path}", nobody=True)


def two_members(path):
    """A sound x and, beside it, 3.5 GiB of zeros that nobody asks for."""
    zero_zip(path, "zz.npy", npy_header("|u1", (57344 * 1024, 8, 8)), 3584 << 20)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x.npy", npy(images(48)))
