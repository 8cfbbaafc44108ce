"""Folders and zip archives of image files, decoded on demand; archives are read in place, never unpacked."""

import collections
import concurrent.futures
import contextlib
import io
import os
import pathlib
import struct
import zipfile
import zlib
from typing import Callable, Iterator, Optional, Sequence

import numpy as np

from pae_zoo.data.geometry import Geometry
from pae_zoo.data.rows import Raw
from pae_zoo.errors import UserError

DESCRIPTION = "*.zip or folders of images"
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
_GREY, _COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    RuntimeError,
)
_CHUNK = 1024


class Place:
    """A folder or a zip archive that holds image files."""

    def __init__(self, path: pathlib.Path):
        self.path = pathlib.Path(path)
        self.is_archive = self.path.is_file()

    def names(self) -> list[str]:
        """Returns the sorted relative paths of all images; raises UserError if an archive is broken."""
        if self.is_archive:
            try:
                with zipfile.ZipFile(self.path) as archive:
                    names = [name for name in archive.namelist() if not name.endswith("/")]
            except (zipfile.BadZipFile, OSError) as error:
                raise UserError(
                    f"{self.path} is not a readable zip archive ({error}); fetch it again."
                ) from error
        else:
            names = [
                os.path.relpath(os.path.join(folder, name), self.path).replace(os.sep, "/")
                for folder, _, files in os.walk(self.path)
                for name in files
            ]
        return sorted(name for name in names if _is_image(name))

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[str], bytes]]:
        """Yields a function from a name of `names()` to the bytes of that file."""
        if self.is_archive:
            with zipfile.ZipFile(self.path) as archive:
                yield archive.read
        else:
            yield lambda name: (self.path / name).read_bytes()

    def label(self, name: str) -> str:
        return f"{self.path}/{name}"


def _is_image(name: str) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and name.lower().endswith(EXTENSIONS)


class ImageRows:
    """Image files as rows; colour (RGB) if any of them has colour, else grey. Alpha is dropped.

    With `shape` given the files are taken to have it; otherwise every header is read first.
    """

    def __init__(self, files: Sequence[tuple[Place, str]], shape: Optional[tuple] = None):
        self.files = list(files)
        if shape is not None:
            self._sizes, self.channels = {shape[:2]: self.files[0]}, shape[2]
        else:
            self._sizes, self.channels = self._headers()
        self.shape = (*next(iter(self._sizes)), self.channels) if len(self._sizes) == 1 else None

    def __len__(self) -> int:
        return len(self.files)

    def _headers(self) -> tuple[dict, int]:
        sizes, channels = collections.OrderedDict(), 1
        for index, image in self._opened(range(len(self.files)), lambda image: (image.size, image.mode)):
            (width, height), mode = image
            if mode not in _GREY + _COLOUR:
                raise UserError(
                    f"{self._name(index)} has Pillow's mode {mode}; allowed are images of 8 bits a channel."
                )
            channels = 3 if mode in _COLOUR else channels
            sizes.setdefault((height, width), self.files[index])
        return sizes, channels

    def _opened(self, indices, function) -> Iterator:
        """Yields (index, function(opened image)) in order; a file that Pillow cannot read is a UserError."""
        from PIL import Image

        with contextlib.ExitStack() as stack:
            readers = {
                place: stack.enter_context(place.reader()) for place in {place for place, _ in self.files}
            }

            def work(index):
                place, name = self.files[index]
                try:
                    with Image.open(io.BytesIO(readers[place](name))) as image:
                        return index, function(image)
                except UserError:
                    raise
                except (*_BROKEN, Image.DecompressionBombError) as error:
                    reason = (
                        "its data are no image" if isinstance(error, Image.UnidentifiedImageError) else error
                    )
                    raise UserError(
                        f"{self._name(index)} cannot be read as an image ({reason}); repair or remove it."
                    ) from error

            indices = list(indices)
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                for start in range(0, len(indices), _CHUNK):  # a chunk at a time bounds what waits in memory
                    yield from pool.map(work, indices[start : start + _CHUNK])

    def _name(self, index: int) -> str:
        place, name = self.files[index]
        return place.label(name)

    def take(self, parts: Sequence[np.ndarray], geometry: Geometry) -> list[np.ndarray]:
        """Returns the decoded parts, uint8; raises UserError if sizes differ after `geometry`."""
        shapes = {geometry.shape((*size, self.channels)): file for size, file in self._sizes.items()}
        if len(shapes) > 1:
            named = [
                f"{h}x{w} ({place.label(name)})" for (h, w), (place, name) in list(self._sizes.items())[:2]
            ]
            raise UserError(
                f"The images have {len(self._sizes)} sizes, such as {' and '.join(named)}; all must be "
                "alike: give image_size=N or crop=HEIGHT,WIDTH."
            )
        shape = next(iter(shapes))
        mode = "RGB" if self.channels == 3 else "L"
        results = []
        for part in parts:
            out = np.empty((len(part), *shape), np.uint8)

            def decode(image):
                pixels = np.asarray(image.convert(mode)).reshape(1, image.height, image.width, self.channels)
                return geometry.apply(pixels, "an image")[0]

            for row, (index, pixels) in enumerate(self._opened(part, decode)):
                if pixels.shape != shape:
                    raise UserError(
                        f"{self._name(index)} has the shape {pixels.shape}, others have {shape}; "
                        "all must be alike."
                    )
                out[row] = pixels
            results.append(out)
        return results


def labels_of(names: Sequence[str]) -> tuple[Optional[list], tuple]:
    """Returns a label per name and the label names; (None, ()) unless every image lies in a subfolder.

    Labels count the sorted folder names, or are the names themselves where all are integers.
    """
    folders = [name.rpartition("/")[0] for name in names]
    if not all(folders):
        return None, ()
    present = sorted(set(folders))
    if all(folder.isascii() and folder.isdigit() for folder in present):
        return [int(folder) for folder in folders], tuple(sorted(present, key=int))
    numbers = {folder: number for number, folder in enumerate(present)}
    return [numbers[folder] for folder in folders], tuple(present)


def _without_root(names: list[str]) -> list[str]:
    """Drops first components that all names share, as long as a folder per image remains below."""
    while (
        names
        and min(name.count("/") for name in names) >= 2
        and len({name.split("/")[0] for name in names}) == 1
    ):
        names = [name.partition("/")[2] for name in names]
    return names


def arrange(files: list[tuple[Place, str]], names: list[str], source: str, pairs=(("train", "test"),)) -> Raw:
    """Sorts image files into splits and labels.

    Where the first folders hold both members of one of `pairs`, those are the splits and other folders are
    left out. Labels are the folders of the images, common to both splits.
    """
    if not files:
        raise UserError(f"{source} holds no images ({', '.join(EXTENSIONS)}); check the path.")
    names = _without_root(names)
    for pair in pairs:
        member = [pair.index(name.split("/")[0]) if name.split("/")[0] in pair else -1 for name in names]
        if {0, 1} <= set(member):
            break
    else:
        pair, member = None, [0] * len(names)
    kept = [index for index, split in enumerate(member) if split >= 0]
    inner = [names[index].partition("/")[2] if pair else names[index] for index in kept]
    labels, label_names = labels_of(inner)
    rows = {0: [], 1: []}
    for position, index in enumerate(kept):
        rows[member[index]].append((files[index], labels[position] if labels else None))
    splits = []
    for split in (0, 1):
        splits.append(ImageRows([file for file, _ in rows[split]]) if rows[split] else None)
        splits.append(
            np.asarray([label for _, label in rows[split]], np.int64) if labels and rows[split] else None
        )
    if splits[2] is not None and splits[0].channels != splits[2].channels:
        splits[0].channels = splits[2].channels = 3
        for split in (splits[0], splits[2]):
            split.shape = split.shape and (*split.shape[:2], 3)
    return Raw(*splits, source=source, label_names=label_names)


def read(path: pathlib.Path) -> Raw:
    """Returns the images of a folder or one zip archive; raises UserError if it is missing or has none."""
    path = pathlib.Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder of images, for example folder:pictures.")
    place = Place(path)
    names = place.names()
    return arrange([(place, name) for name in names], names, str(path))


def gather(archives: Sequence[pathlib.Path], folders: Sequence[pathlib.Path]) -> tuple[list, list]:
    """Returns files and names of several places together; names start with the archive's or folder's own."""
    files, names = [], []
    for path in sorted([*archives, *folders]):
        place, stem = Place(path), path.stem if path.is_file() else path.name
        for name in place.names():
            files.append((place, name))
            names.append(name if name.startswith(f"{stem}/") else f"{stem}/{name}")
    return files, names


def find(folder: pathlib.Path) -> Optional[Callable[[], Raw]]:
    """Returns a reader if `folder` holds zip archives or, at any depth, images; else None."""
    archives = sorted(folder.glob("*.zip"))
    if len(archives) == 1:
        return lambda: read(archives[0])
    if archives:
        return lambda: arrange(*gather(archives, []), source=str(folder))
    return (lambda: read(folder)) if Place(folder).names() else None
