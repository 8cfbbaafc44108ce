"""Where image files lie: a folder, links in it followed, or a zip archive, which is read in place."""

import contextlib
import io
import os
import pathlib
import stat
import zipfile
from typing import Callable, Iterator

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
#: most bytes of one image file: more than any within the budget of pixels needs
MOST_BYTES = 512 << 20
_MOST_REPEATS = 1000  # folders that links lead to more than once
_REPAIR = "repair or remove it"


class Place:
    """A folder or a zip archive that holds image files.

    `names` are the sorted relative paths of all images, hidden ones (.name, __MACOSX) left out; `left_out` says in
    words what else was met that could have been meant. Raises UserError for a path that is neither a folder nor an
    archive, and for folders that may not be read.
    """

    def __init__(self, path: pathlib.Path):
        self.path = reading.locate(path)
        if not os.path.lexists(self.path):
            raise UserError(f"{self.path} does not exist; give a folder of images, for example folder:pictures.")
        self.is_archive = not self.path.is_dir()
        self._members = {}
        self._others, self._lost, self._loops = [], [], []
        found = self._in_archive() if self.is_archive else self._in_folder()
        self.names = sorted(name for name in found if not _is_hidden(name) and self._is_image(name))

    @property
    def left_out(self) -> list[str]:
        """Sentences without a full stop about files and links that are not read."""
        kinds = ((self._others, "files that are no images by their names"),
                 (self._lost, "links to nowhere or in an archive"),
                 (self._loops, "links back to a folder they lie in"))
        return [f"{len(names)} {kind}, such as {reading.shown(min(names))}" for names, kind in kinds if names]

    def _is_image(self, name: str) -> bool:
        if name.lower().endswith(EXTENSIONS):
            return True
        self._others.append(name)
        return False

    def _in_archive(self) -> Iterator[str]:
        with reading.zipped(self.path) as archive:
            for member in archive.infolist():
                name = member.filename.replace("\\", "/")  # as some writers on Windows have it
                if stat.S_ISLNK(member.external_attr >> 16):
                    self._lost.append(name)
                elif not name.endswith("/"):
                    self._members[name] = member.filename
                    yield name

    def _in_folder(self) -> Iterator[str]:
        waiting: list[tuple[str, tuple]] = [("", ())]
        seen, repeats = set(), 0
        while waiting:
            inside, above = waiting.pop()
            place = self.path / inside
            try:
                entries = sorted(os.scandir(place), key=lambda entry: entry.name)
                here = os.stat(place)
            except OSError as error:
                raise UserError(f"{reading.shown(place)} cannot be read: {error.strerror or error}; see its rights.")
            mark = (here.st_dev, here.st_ino)
            if mark in above:
                self._loops.append(inside)
                continue
            repeats += mark in seen
            if repeats > _MOST_REPEATS:
                raise UserError(f"{self.path} holds links that lead to the same folders over {_MOST_REPEATS} times, "
                                f"such as {reading.shown(inside)}; remove such links.")
            seen.add(mark)
            for entry in entries:
                name = f"{inside}/{entry.name}" if inside else entry.name
                if _is_hidden(entry.name):
                    continue
                if entry.is_symlink() and not os.path.exists(entry.path) and not name.lower().endswith(EXTENSIONS):
                    self._lost.append(name)
                elif _is_folder(entry):
                    waiting.append((name, (*above, mark)))
                else:
                    yield name

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[str], contextlib.AbstractContextManager[io.BufferedIOBase]]]:
        """Yields a function from a name of `names` to the opened file; raises UserError for what is none."""
        if not self.is_archive:
            yield lambda name: _opened(self.path / name)
            return
        with reading.zipped(self.path) as archive:
            yield lambda name: self._member(archive, name)

    def _member(self, archive: zipfile.ZipFile, name: str) -> io.BufferedIOBase:
        return io.BytesIO(reading.member_bytes(archive, self._members[name], self.label(name), MOST_BYTES, _REPAIR))

    def label(self, name: str) -> str:
        return reading.shown(f"{self.path}/{name}")


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[io.BufferedIOBase]:
    with reading.opened(path, _REPAIR) as file:
        if reading.stored_bytes(file) > MOST_BYTES:
            raise UserError(f"{reading.shown(path)} has {reading.in_words(reading.stored_bytes(file))}; images of at "
                            f"most {reading.in_words(MOST_BYTES)} are read: {_REPAIR}.")
        yield file


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: told when it is opened
        return False
