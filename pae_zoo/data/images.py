"""Image files as rows, decoded on demand, each within a budget of pixels that its header is held against."""

import collections
import concurrent.futures
import contextlib
import io
import math
import os
import threading
import warnings
from typing import IO, TYPE_CHECKING, Any, Iterator, Optional, Sequence, cast

import numpy as np

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.data.framing import Geometry
from pae_zoo.data.places import Place
from pae_zoo.data.rows import check_room

if TYPE_CHECKING:
    from PIL import Image

# Decoders that may run, whatever a file is called; Pillow has others, some of which start programs.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_GREY, _COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")  # grey of 16 bits, which PGM files give as I
_ORIENTATION = 0x0112  # tag of EXIF; from 5 on height and width change places
_LARGE = 16 << 20  # pixels: such images are decoded one at a time
_CHUNK = 1024
_MOST_READS = 20_000  # of a header
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF


@contextlib.contextmanager
def opened(file: io.BufferedIOBase, name: str) -> Iterator["Image.Image"]:
    """Opens an image of which only the header was read; raises UserError, in the block too, for what is none.

    Refused are more pixels than Pillow takes for safe, in the image or in a tile of it, packed data that grow beyond
    reason, headers of endless pieces, and more than 8 bits a channel. Of several frames only the first is seen.
    """
    from PIL import Image

    with reading.told(name, "image", "repair or remove it"):
        size = _size(file)
        counted = _Counted(file)
        try:
            image = Image.open(cast(IO[bytes], counted), formats=_FORMATS)
            counted.left = math.inf  # decoders may read byte by byte
        except Image.UnidentifiedImageError:
            raise ValueError(f"its data are none of {', '.join(_FORMATS)}")
        with image:
            if image.mode not in _GREY + _COLOUR and not _is_deep(image):
                raise UserError(f"{name} has Pillow's mode {image.mode}; allowed are images of 8 bits a channel, and "
                                "grey ones of 16.")
            pixels = image.width * image.height
            tile = _tile(image)
            if Image.MAX_IMAGE_PIXELS is not None and tile > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"it has tiles of {tile} pixels")
            reading.check_claim(max(pixels, tile) * len(image.getbands()), size, name, remedy="remove it")
            with _ONE_LARGE if pixels > _LARGE else contextlib.nullcontext():
                yield image


_ONE_LARGE = threading.Lock()


def _is_deep(image: "Image.Image") -> bool:
    return image.mode in _DEEP or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _orientation(image: "Image.Image") -> int:
    """Returns how a camera was held, 1 for upright; of JPEG files alone, since others would be decoded for it."""
    if image.format != "JPEG" or "exif" not in image.info:
        return 1
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken note about a picture is no broken picture
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _size_of(image: "Image.Image") -> tuple[int, int]:
    """Returns (height, width) of an image as it is looked at."""
    width, height = image.size
    return (width, height) if _orientation(image) >= 5 else (height, width)


def _pixels(image: "Image.Image", channels: int) -> np.ndarray:
    """Returns an image upright and opaque, uint8, (1, H, W, channels); of 16 bits the upper half, rounded."""
    from PIL import ImageOps

    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if _is_deep(image):
        deep = np.asarray(image).astype(np.int64)
        grey = np.clip((deep + 128) // 257, 0, 255).astype(np.uint8)[None, :, :, None]
        return np.repeat(grey, channels, axis=-1)
    image = _on_white(image)
    mode = "RGB" if channels == 3 else "L"
    converted = image if image.mode == mode else image.convert(mode)  # which would copy
    return np.asarray(converted).reshape(1, image.height, image.width, channels)


def _on_white(image: "Image.Image") -> "Image.Image":
    """Returns an image that is transparent somewhere laid on white, as viewers show it, and any other as it is."""
    from PIL import Image

    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    # What lies below a transparent pixel is whatever a program left there, and often black.
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def _fitted(pixels: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Returns an image (1, H, W, C) in the size of `target`, resized until it covers it, its middle cropped."""
    from PIL import Image, ImageOps

    if pixels.shape[1:3] == target:
        return pixels
    image = Image.fromarray(pixels[0, ..., 0] if pixels.shape[-1] == 1 else pixels[0])
    found = ImageOps.fit(image, (target[1], target[0]), Image.Resampling.BILINEAR)
    return np.asarray(found).reshape(1, *target, pixels.shape[-1])


class _Counted:
    """A file that is read so many times, `left`, and then no more: a header of endless pieces would take hours."""

    def __init__(self, file: io.BufferedIOBase):
        self._file = file
        self.left: float = _MOST_READS

    def read(self, *size: int) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise ValueError("its header has too many pieces")
        return self._file.read(*size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _tile(image: Any) -> int:
    """Returns the pixels of a tile that a TIFF is made of, 0 elsewhere; it may be larger than the image."""
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))


def _size(file: io.BufferedIOBase) -> int:
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    return size


def strict() -> None:
    """Makes Pillow's word about bombs an error and keeps its others to itself; they would not be of this program."""
    from PIL import Image

    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class ImageRows:
    """Image files as rows; colour (RGB) if any of them has colour, else grey. Alpha is dropped.

    With `shape` given the files are taken to have it; otherwise every header is read first. `target` is the (height,
    width) of images that differ in size, None for none, and `told` says what was done to them.
    """

    def __init__(self, files: Sequence[tuple[Place, str]], shape: Optional[tuple] = None):
        self.files = list(files)
        self.counts: collections.Counter = collections.Counter()
        self.target: Optional[tuple[int, int]] = None
        self.told: list[str] = []
        if shape is not None:
            self._sizes, self.channels = {shape[:2]: self.files[0]}, shape[2]
        else:
            self._sizes, self.channels = self._headers()
        self.shape = (*next(iter(self._sizes)), self.channels) if len(self._sizes) == 1 else None

    def __len__(self) -> int:
        return len(self.files)

    def to_colour(self) -> None:
        """Makes the rows RGB, three equal channels where they are grey."""
        self.channels, self.shape = 3, self.shape and (*self.shape[:2], 3)

    def _headers(self) -> tuple[dict, int]:
        sizes, channels = collections.OrderedDict(), 1
        for index, (size, mode) in self._opened(range(len(self)), lambda image: (_size_of(image), image.mode)):
            channels = 3 if mode in _COLOUR else channels
            sizes.setdefault(size, self.files[index])
            self.counts[size] += 1
        return sizes, channels

    def _opened(self, indices, function) -> Iterator:
        """Yields (index, function(opened image)) in order; a file that Pillow cannot read is a UserError."""
        strict()
        with contextlib.ExitStack() as stack:
            readers = {
                place: stack.enter_context(place.reader()) for place in {place for place, _ in self.files}
            }

            def work(index):
                place, name = self.files[index]
                with readers[place](name) as file, opened(file, place.label(name)) as image:
                    return index, function(image)

            indices = list(indices)
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                for start in range(0, len(indices), _CHUNK):  # a chunk at a time bounds what waits in memory
                    yield from pool.map(work, indices[start : start + _CHUNK])

    def _name(self, index: int) -> str:
        place, name = self.files[index]
        return place.label(name)

    def take(self, parts: Sequence[np.ndarray], geometry: Geometry) -> list[np.ndarray]:
        """Returns the decoded parts, uint8; raises UserError if sizes differ after `geometry`, or fill the memory.

        Where sizes differ and `target` is set, all are resized and cropped to that, which is told.
        """
        shapes = {geometry.shape((*size, self.channels)): file for size, file in self._sizes.items()}
        target = self.target if set(shapes) - {(*(self.target or ()), self.channels)} and not (
            geometry.crop or geometry.size) else None  # fmt: skip
        if target is not None:
            shapes = {geometry.shape((*target, self.channels)): None}
            low, high = (f"{size[0]}x{size[1]}" for size in (min(self._sizes), max(self._sizes)))
            self.told = [f"sizes from {low} to {high}: images are resized and cropped to {target[0]}x{target[1]}; "
                         "--image_size chooses another size"]
        if len(shapes) > 1:
            named = [f"{h}x{w} ({place.label(name)})" for (h, w), (place, name) in list(self._sizes.items())[:2]]
            raise UserError(f"The images have {len(self._sizes)} sizes, such as {' and '.join(named)}; all must be "
                            "alike: give image_size=N or crop=HEIGHT,WIDTH.")
        shape = next(iter(shapes))
        check_room(sum(len(part) for part in parts), shape, np.dtype(np.uint8))

        def decode(image):
            pixels = _pixels(image, self.channels)
            return geometry.apply(pixels if target is None else _fitted(pixels, target), "an image")[0]

        results = []
        for part in parts:
            out = np.empty((len(part), *shape), np.uint8)
            for row, (index, pixels) in enumerate(self._opened(part, decode)):
                if pixels.shape != shape:
                    raise UserError(f"{self._name(index)} has the shape {pixels.shape}, others have {shape}; all must "
                                    "be alike.")
                out[row] = pixels
            results.append(out)
        return results


def median_size(parts: Sequence[ImageRows]) -> tuple[int, int]:
    """Returns the median height and the median width of all images."""
    counts = sum((part.counts for part in parts), collections.Counter())
    sizes = np.repeat(np.array(list(counts)), list(counts.values()), axis=0)
    height, width = np.quantile(sizes, 0.5, axis=0, method="nearest")
    return int(height), int(width)


def readable(files: Sequence[tuple[Place, str]], most: int) -> tuple[list[int], list[str]]:
    """Returns the numbers of the files that can be read to their end, and notes of the others.

    Raises the UserError of the first that cannot be read where there are more than `most`.
    """
    strict()
    bad: list[UserError] = []
    good = []
    for index, (place, name) in enumerate(files):
        try:
            with place.reader() as read, read(name) as file, opened(file, place.label(name)) as image:
                image.load()
            good.append(index)
        except UserError as error:
            bad.append(error)
            if len(bad) > most:
                raise
    return good, [f"left out: {reading.shown(error)}" for error in bad]
