"""What the tables of cases share: a case, requests to launchers, and makers of bad files (stdlib, NumPy, PIL)."""

import dataclasses
import gzip
import io
import os
import shutil
import struct
import threading
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Callable, Union

import numpy as np

warnings.filterwarnings("ignore", "Duplicate name", UserWarning)  # of zip members, meant so here
CASES = []

# A run of about a second.
TINY = (
    "--num_train=64",
    "--epochs=1",
    "--batch_size=32",
    "--hidden_units=8",
    "--latent_dim=2",
    "--tasks=reconstruction",
    "--nojit_compile",
    "--device=cpu",
    "--download=false",
)


@dataclasses.dataclass
class Case:
    """One case. `make(d)` prepares files in the folder d and returns a request.

    expect: refuse (status 2, at most 3 lines, nothing written), accept (status 0), either (one of the two, both clean),
    told (a status that is not 0, no traceback, few lines; something may have been written), clean (told, or status 0).
    check_many: judges the results of a request of many variants.
    says: words of which one must be in the message. absent: words that must not be in the output.
    """

    family: str
    name: str
    make: Callable
    expect: str = "refuse"
    says: tuple = ()
    absent: tuple = ()
    seconds: float = 20
    memory: int = 1536
    check_many: Callable = None
    lines: int = 3

    @property
    def key(self):
        return f"{self.family}/{self.name}"


def add(family, name, make, **how):
    how.setdefault("says", ())
    if isinstance(how["says"], str):
        how["says"] = (how["says"],)
    CASES.append(Case(family, name, make, **how))


# ---- requests ------------------------------------------------------------------------------------------------


def _launch(module, argv, d=None, **more):
    argv = [str(word) for word in argv]
    if d is not None and any("\0" in word for word in argv):  # no command line can hold this, but a flag file can
        Path(d, "nul.cfg").write_text("\n".join(word for word in argv if "\0" in word))
        argv = [word for word in argv if "\0" not in word] + [f"--flagfile={d}/nul.cfg"]
    return dict(kind="launch", module=module, argv=argv, **more)


def main(d, *argv, workdir=True, **more):
    """The launcher `main` with a work directory d/run unless one is named."""
    own = any(str(word).startswith("--workdir") for word in argv)
    return _launch("pae_zoo.main", [*argv, *([f"--workdir={d}/run"] if workdir and not own else [])], d, **more)


def tiny(d, *argv, model="ae", **more):
    """A tiny run of `main`; what is in argv comes last and wins."""
    return main(d, f"--model={model}", "--dataset=digits", *TINY, *argv, **more)


def evaluate(d, *argv, **more):
    return _launch("pae_zoo.evaluate", argv, d, **more)


def apply(d, *argv, **more):
    return _launch("pae_zoo.apply", argv, d, **more)


def export(d, *argv, **more):
    return _launch("pae_zoo.export", argv, d, **more)


def sweep(d, *argv, **more):
    return _launch("pae_zoo.sweep", argv, d, **more)


def command(d, *argv, **more):
    """The command `pae-zoo`."""
    return _launch("pae_zoo.cli", argv, d, **more)


def call(code, **more):
    return dict(kind="call", code=code, **more)


def many(module, variants):
    return dict(kind="many", module=module, variants=[[str(word) for word in one] for one in variants])


# ---- npy and npz ---------------------------------------------------------------------------------------------


def npy_header(descr="|u1", shape=(4, 8, 8), fortran=False, version=(1, 0), text=None, length=None) -> bytes:
    """The header of a .npy file; `text` replaces the dictionary, `length` the claimed length of the header."""
    if text is None:
        text = f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape}, }}"
    body = text.encode("latin1") if isinstance(text, str) else text
    body += b" " * (-(len(body) + 11) % 64) + b"\n"
    size = len(body) if length is None else length
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", size) + body


def npy(array) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def zipped(path, members, method=zipfile.ZIP_STORED) -> Path:
    """A zip archive of raw members [(name, bytes)]."""
    path = Path(path)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, data)
    return path


def savez(path, **arrays) -> Path:
    with open(path, "wb") as file:
        np.savez(file, **arrays)
    return Path(path)


def images(n=24, side=8, channels=0, dtype=np.uint8, seed=0):
    shape = (n, side, side) + ((channels,) if channels else ())
    x = np.random.default_rng(seed).integers(0, 256, shape)
    return x.astype(np.uint8) if dtype == np.uint8 else (x / 255).astype(dtype)


def patched(path, local=None, central=None) -> Path:
    """Overwrites 16-bit fields {offset: value} in every local and central header of a zip archive."""
    path = Path(path)
    data = bytearray(path.read_bytes())
    for mark, fields in ((b"PK\x03\x04", local or {}), (b"PK\x01\x02", central or {})):
        start = data.find(mark)
        while start >= 0:
            for offset, value in fields.items():
                struct.pack_into("<H", data, start + offset, value)
            start = data.find(mark, start + 4)
    path.write_bytes(bytes(data))
    return path


def with_method(path, method):
    return patched(path, {8: method}, {10: method})


def with_flags(path, bits):
    return patched(path, {6: bits}, {8: bits})


class Canary:
    """Pickles to a call that makes the file CANARY; it must never run."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"echo ran > '{self.path}'",)


def object_npy(path) -> bytes:
    array = np.empty(1, object)
    array[0] = Canary(path)
    return npy(array)


# ---- bombs ---------------------------------------------------------------------------------------------------

_PIECE = 1 << 24


def deflated_zeros(head: bytes, zeros: int):
    """Returns (raw deflate stream of head and at least `zeros` zeros, crc32, number of bytes)."""
    pieces = -(-zeros // _PIECE)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = bytes(_PIECE)
    middle = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    last = packer.flush(zlib.Z_FINISH)
    crc = zlib.crc32(head)
    for _ in range(pieces):
        crc = zlib.crc32(block, crc)
    return first + middle * pieces + last, crc, len(head) + pieces * _PIECE


def zero_zip(path, name: str, head: bytes, zeros: int) -> Path:
    """A zip archive with one member: head and `zeros` zeros (below 4 GiB; a multiple of 16 MiB)."""
    stream, crc, size = deflated_zeros(head, zeros)
    label = name.encode()
    fields = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, len(stream), size, len(label), 0)
    local = b"PK\x03\x04" + fields + label
    central = b"PK\x01\x02" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, 0) + label
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local) + len(stream), 0)
    Path(path).write_bytes(local + stream + central + end)
    return Path(path)


def zero_gzip(path, head: bytes, zeros: int) -> Path:
    stream, crc, size = deflated_zeros(head, zeros)
    Path(path).write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\x02\xff" + stream + struct.pack("<II", crc, size & 0xFFFFFFFF))
    return Path(path)


# ---- IDX -----------------------------------------------------------------------------------------------------


def idx(array, magic=None, shape=None) -> bytes:
    shape = array.shape if shape is None else shape
    magic = bytes([0, 0, 8, array.ndim]) if magic is None else magic
    return magic + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_set(folder, packed=False) -> Path:
    """Four sound IDX files: 96 training and 24 test images of 28x28."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", 96), ("t10k", 24)):
        for kind, array in (
            ("images-idx3", rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)),
            ("labels-idx1", (np.arange(count) % 10).astype(np.uint8)),
        ):
            path = folder / f"{name}-{kind}-ubyte"
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))
    return folder


# ---- images --------------------------------------------------------------------------------------------------


def png(side=8, mode="L", seed=0) -> bytes:
    from PIL import Image

    channels = {"L": 1, "RGB": 3, "RGBA": 4, "LA": 2}[mode]
    data = np.random.default_rng(seed).integers(0, 256, (side, side, channels)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(data[..., 0] if channels == 1 else data, mode if mode != "L" else None).save(out, "PNG")
    return out.getvalue()


def encoded(kind, side=8, mode="RGB", seed=0, **how) -> bytes:
    from PIL import Image

    data = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(data).convert(mode).save(out, kind, **how)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width, height, depth=8, colour=0, data=None, extra=b"") -> bytes:
    """A PNG with these numbers in its header; `data` are the compressed pixels (default: those of 8x8 zeros)."""
    data = zlib.compress(bytes(9 * 8)) if data is None else data
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zero_png(width, height, colour=0) -> bytes:
    """A sound PNG of zeros."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    packer = zlib.compressobj(9)
    row, parts = bytes(1 + width * channels), []
    for _ in range(height):
        parts.append(packer.compress(row))
    return raw_png(width, height, 8, colour, b"".join(parts) + packer.flush())


def pictures(d):
    return picture_folder(d / "pics", 5)


def picture_folder(folder, count=24, side=8, mode="L") -> Path:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:03d}.png").write_bytes(png(side, mode, number))
    return folder


# ---- damage --------------------------------------------------------------------------------------------------


def truncated(path, keep: Union[int, float] = 0.5):
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])


def emptied(path):
    Path(path).write_bytes(b"")


def randomised(path, seed=0):
    size = max(Path(path).stat().st_size, 64)
    Path(path).write_bytes(np.random.default_rng(seed).bytes(size))


def flipped(path, seed=0, count=16):
    data = bytearray(Path(path).read_bytes())
    for place in np.random.default_rng(seed).integers(0, len(data), count):
        data[place] ^= 0xFF
    Path(path).write_bytes(bytes(data))


def copied(source, target) -> Path:
    shutil.copytree(source, target)
    return Path(target)


def write(path, content) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
    return path


def fifo(path) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return Path(path)


def link(path, target) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    os.symlink(target, path)
    return Path(path)


def folder(path) -> Path:
    Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


# ---- shared by the driver ------------------------------------------------------------------------------------

# Set by run.py: a temporary folder, what asks a server, and {model or /launcher: its flags}.
ROOT, ASK = None, None
FLAGS = {}


class Skip(Exception):
    """A case that this machine cannot run."""


def as_root():
    if os.getuid():
        raise Skip("needs root, to become another user")


_BASES = {}
_MAKING = threading.Lock()

BASE_FLAGS = {
    "vae": ("--model=vae", "--dataset=digits", *TINY, "--num_train=128", "--epochs=2", "--checkpoint_seconds=0"),
    "pae": ("--model=pae", "--dataset=digits", *TINY, "--flow_epochs=2", "--checkpoint_seconds=0"),
    "circle": ("--model=vae", "--dataset=circle", *TINY),
}


def base(name) -> Path:
    """A sound, finished run of the project, made once for all cases: vae, pae or circle."""
    with _MAKING:
        if name not in _BASES:
            place = ROOT / f"base-{name}"
            place.mkdir()
            request = _launch("pae_zoo.main", [*BASE_FLAGS[name], f"--workdir={place}/run"])
            out, error = place / "o", place / "e"
            place_of = dict(cwd=str(place), out=str(out), err=str(error), env={"TMPDIR": str(place)})
            if ASK(dict(request, **place_of, seconds=120))["status"] != 0:
                raise RuntimeError(f"no sound run of {name}: {error.read_text()[-400:]}")
            _BASES[name] = place / "run"
        return _BASES[name]


def run_of(name, d, to="run") -> Path:
    """A copy of a sound run."""
    return copied(base(name), Path(d) / to)


def resume(d, name="vae", *argv, epochs=3):
    """The command that goes on with a copy of a sound run, one epoch longer."""
    return _launch("pae_zoo.main", [*BASE_FLAGS[name], f"--epochs={epochs}", f"--workdir={d}/run", *argv])


def again(d, name="vae", *argv):
    """The very command of a sound run once more."""
    return _launch("pae_zoo.main", [*BASE_FLAGS[name], f"--workdir={d}/run", *argv])
