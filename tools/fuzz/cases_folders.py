"""Cases: folders and archives of images."""

import io
import os
import struct
import zlib

from kit import (
    add,
    apply,
    as_root,
    chunk,
    encoded,
    fifo,
    flipped,
    folder,
    images,
    link,
    picture_folder,
    png,
    raw_png,
    run_of,
    tiny,
    truncated,
    with_flags,
    with_method,
    write,
    zero_zip,
    zipped,
)


def table():
    folder_cases()


def folder_cases():
    def case(name, make, *flags, **how):
        how.setdefault("says", "pics")

        def prepare(d):
            make(d / "pics")
            return tiny(d, f"--dataset=folder:{d}/pics", *flags)

        add("folder", name, prepare, **how)

    def among(name, content, file="zz.png", *flags, **how):
        """24 sound pictures and one more file."""
        how.setdefault("says", file if file.isprintable() else "pics")
        case(
            name,
            lambda pics: (
                picture_folder(pics),
                content(pics / file) if callable(content) else write(pics / file, content),
            ),
            *flags,
            **how,
        )

    case("sound", lambda pics: picture_folder(pics, 48), expect="accept", seconds=60)
    case("none", folder)
    case("missing", lambda pics: None)
    case("one-picture", lambda pics: picture_folder(pics, 1))
    case("two-pictures", lambda pics: picture_folder(pics, 2))
    among("png-without-its-end", png()[:-12], expect="either", seconds=60)
    among("png-half", encoded("PNG", 64)[:4000], "zz.png", "--image_size=8")
    among("jpeg-half", encoded("JPEG", 64)[:1000], "zz.jpg", "--image_size=8")
    among("gif-half", encoded("GIF", 64, "P")[:1500], "zz.gif", "--image_size=8")
    among("bmp-half", encoded("BMP", 64)[:5000], "zz.bmp", "--image_size=8")
    among("tiff-half", encoded("TIFF", 64)[:5000], "zz.tif", "--image_size=8")
    among("webp-half", encoded("WEBP", 64)[:500], "zz.webp", "--image_size=8")
    among("pgm-half", b"P5 8 8 255\n" + bytes(30), "zz.pgm")
    among("0-bytes", b"")
    among("text", "no picture")
    among("html-named-jpg", "<html>404</html>", "zz.jpg")
    among("png-wrong-crc", png()[:40] + b"zz" + png()[42:])
    for seed in range(6):
        among(
            f"png-flipped-{seed}",
            lambda path, seed=seed: (write(path, encoded("PNG", 8, "L")), flipped(path, seed, 4)),
            expect="either",
            seconds=60,
        )
    among("png-of-0-pixels", raw_png(0, 0))
    among("png-claims-2e9-pixels-a-side", raw_png(2**31 - 1, 2**31 - 1), "zz.png", "--image_size=8")
    among("png-claims-30000-a-side", raw_png(30000, 30000), "zz.png", "--image_size=8")
    among(
        "png-text-bomb",
        lambda path: write(path, raw_png(8, 8, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(300 << 20))))),
        expect="either",
        seconds=60,
    )
    among("png-16-bit", raw_png(8, 8, 16, 0, zlib.compress(bytes(17 * 8))), expect="accept", seconds=60)
    among("png-palette-without-one", raw_png(8, 8, 8, 3), expect="either", seconds=60)
    among("pgm-of-16-bits", b"P5 8 8 65535\n" + bytes(128), "zz.pgm", expect="accept", seconds=60)
    among(
        "bmp-claims-2e9",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 118, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(64),
        "zz.bmp",
        "--image_size=8",
    )
    among("tiff-claims-60000-a-side", tiff(60000, 60000), "zz.tif", "--image_size=8")
    among("tiff-loops", b"II*\0\x08\0\0\0\x00\x00\x08\0\0\0", "zz.tif")
    among("gif-of-99-frames", lambda path: write(path, gif(99)), "zz.gif", expect="either", seconds=60)
    among("other-size", png(9), expect="accept", seconds=60)
    among("float-tiff", encoded("TIFF", 8, "F"), "zz.tif")
    among("fifo", fifo)
    among("fifo-named-jpg", fifo, "zz.jpg")
    among("device-zero", lambda path: link(path, "/dev/zero"))
    among("device-random", lambda path: link(path, "/dev/urandom"))
    among("dangling-link", lambda path: link(path, "/nowhere/at/all"))
    among("link-to-itself", lambda path: link(path, path))
    among("folder-named-png", lambda path: path.mkdir(), expect="either", seconds=60)
    among("name-not-utf-8", lambda path: write(path.with_name("\udcff\udcfe.png"), png()), expect="either", seconds=60)
    among("broken-with-a-name-not-utf-8", lambda path: write(path.with_name("\udcff\udcfe.png"), b"x"), says="pics")
    among("name-with-a-new-line", lambda path: write(path.with_name("a\nb.png"), b"x"), says="pics")
    case("900-folders-deep", deep_folder, expect="either", seconds=60)
    case("fifo-itself", fifo)
    case("device-itself", lambda pics: link(pics, "/dev/zero"))
    add("folder", "no-name", lambda d: tiny(d, "--dataset=folder:"))
    add("folder", "name-with-nul", lambda d: tiny(d, "--dataset=folder:a\0b"))
    add("folder", "home-of-nobody", lambda d: tiny(d, "--dataset=folder:~no_such_user_7/pics"))
    add("folder", "not-allowed-to-read", unreadable_folder, says="pics")
    # archives
    pictures = {f"{number:02d}.png": png(seed=number) for number in range(24)}

    def archive(name, make, *flags, **how):
        case(f"zip-{name}", make, *flags, **how)

    archive(
        "sound",
        lambda pics: zipped(pics, {**pictures, **{f"a{n}": d for n, d in pictures.items()}}),
        expect="accept",
        seconds=60,
    )
    archive("truncated", lambda pics: truncated(zipped(pics, pictures)))
    archive("method-99", lambda pics: with_method(zipped(pics, pictures), 99))
    archive("encrypted", lambda pics: with_flags(zipped(pics, pictures), 1))
    archive("deflate-on-stored", lambda pics: with_method(zipped(pics, pictures), 8))
    archive("lzma-on-stored", lambda pics: with_method(zipped(pics, pictures), 14))
    archive("bzip2-on-stored", lambda pics: with_method(zipped(pics, pictures), 12))
    for seed in range(4):
        archive(f"flipped-{seed}", lambda pics, seed=seed: flipped(zipped(pics, pictures), seed))
    archive("bomb-named-png", lambda pics: zero_zip(pics, "a.png", png(), 3584 << 20), seconds=60)
    archive(
        "names-lead-out",
        lambda pics: zipped(pics, {f"../../{n}": d for n, d in pictures.items()}),
        expect="either",
        seconds=60,
    )
    archive(
        "two-of-a-name", lambda pics: zipped(pics, [*pictures.items(), *pictures.items()]), expect="either", seconds=60
    )

    # the same reader in apply
    def use(name, make, **how):
        how.setdefault("says", "pics")
        add(
            "folder",
            f"apply-{name}",
            lambda d: (
                make(d / "pics"),
                run_of("vae", d),
                apply(d, f"--workdir={d}/run", f"--input=folder:{d}/pics", f"--out={d}/out.npz"),
            )[2],
            **how,
        )

    use("sound", lambda pics: picture_folder(pics, 5), expect="accept", seconds=60)
    use("fifo", lambda pics: (picture_folder(pics, 5), fifo(pics / "zz.png")))
    use("truncated", lambda pics: (picture_folder(pics, 5), write(pics / "zz.png", png()[:-30])))
    use("zip-method-99", lambda pics: with_method(zipped(pics, pictures), 99))
    use("zip-encrypted", lambda pics: with_flags(zipped(pics, pictures), 1))
    use("other-size", lambda pics: picture_folder(pics, 5, 9))
    add(
        "folder",
        "apply-a-folder-named-png",
        lambda d: (
            picture_folder(d / "my.png", 5),
            run_of("vae", d),
            apply(d, f"--workdir={d}/run", f"--input=folder:{d}/my.png", f"--out={d}/out.csv"),
        )[2],
        expect="accept",
        seconds=60,
    )


def tiff(width, height) -> bytes:
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, 64),
    ]
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 72) + bytes(64) + struct.pack("<H", len(entries)) + body + bytes(4)


def gif(frames) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    pictures = [Image.fromarray(images(1, seed=i)[0]) for i in range(frames)]
    pictures[0].save(out, "GIF", save_all=True, append_images=pictures[1:])
    return out.getvalue()


def unix_socket(path):
    import socket

    here = os.getcwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def deep_folder(pics):
    picture_folder(pics)
    here = os.getcwd()
    os.chdir(pics)
    try:
        for _ in range(900):
            os.mkdir("a")
            os.chdir("a")
    finally:
        os.chdir(here)


def unreadable_folder(d):
    as_root()
    picture_folder(d / "pics")
    os.chmod(d / "pics", 0)
    os.chmod(d, 0o777)
    return tiny(d, f"--dataset=folder:{d}/pics", nobody=True)
