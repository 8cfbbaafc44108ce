"""Files that lie elsewhere: at URLs that fsspec can open (s3://, gs://, abfs://, memory://, ...)."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

from pae_zoo.core import files
from pae_zoo.core.errors import UserError

#: environment variable: the folder that copies are kept in
CACHE = "PAE_ZOO_CACHE"
# Beside the copies of a place: {relative path: what the file system says of the version that was copied}.
KEYS = "versions.json"
_MARK = "://"


def is_elsewhere(place: Union[str, os.PathLike]) -> bool:
    """Returns whether a place is a URL, in place of a path or a name."""
    return _MARK in str(place)


def file_system(place: str) -> tuple[Any, str]:
    """Returns the fsspec file system of a URL and the path in it, without a slash at its end.

    Raises UserError where no file system is known for the URL, or its package is missing.
    """
    import fsspec  # here, since it takes a while and is seldom needed

    try:
        system, root = fsspec.url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise UserError(f"{place} cannot be opened: {error}") from None
    system.invalidate_cache()  # others write there too
    return system, root.rstrip("/")


@contextlib.contextmanager
def told(place: str) -> Iterator[None]:
    """Turns whatever a file system raises into a UserError that names the place."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each file system has errors of its own
        text = " ".join(str(error).split())
        raise UserError(f"{place} cannot be reached, read or written: {type(error).__name__}: {text[:300]}") from error


def listing(system: Any, root: str) -> dict[str, dict[str, Any]]:
    """Returns {path relative to `root`: what the file system says} of all files below a folder; {} for none."""
    if not system.isdir(root):
        return {}
    found = system.find(root, detail=True)
    return {path[len(root):].lstrip("/"): info for path, info in found.items()
            if info.get("type") == "file" and not path.endswith("/")}


def local_copy(place: str, part: str = "") -> Path:
    """Returns the path of a copy of a file or folder in the cache; what has not changed is not read again.

    Args:
      place: URL.
      part: of a folder, take the folder of this name in it alone; where there is none, the files that lie directly
        in it.

    Raises UserError where there is nothing, what there is cannot be read, or the disk has no room for it. The cache
    is the folder of the variable PAE_ZOO_CACHE, or ~/.cache/pae_zoo.
    """
    system, root = file_system(place)
    with told(place):
        if system.isfile(root):
            wanted, is_folder = {root.rpartition("/")[2]: system.info(root)}, False
            root = root.rpartition("/")[0]
        else:
            wanted, is_folder = listing(system, root), True
        if part:
            inside = {name: info for name, info in wanted.items() if name.startswith(f"{part}/")}
            wanted = inside or {name: info for name, info in wanted.items() if "/" not in name}
        if not wanted and not system.isdir(root):
            raise UserError(f"{place} does not exist, or holds nothing.")
        folder = _cache() / hashlib.sha256(place.rstrip("/").encode()).hexdigest()[:16]
        target = folder / (root.rpartition("/")[2] if is_folder else "")
        _update(system, root, place, wanted, target, folder / KEYS)
    return target if is_folder else target / next(iter(wanted))


def _update(system: Any, root: str, place: str, wanted: dict[str, dict], target: Path, keys: Path) -> None:
    """Copies what is wanted and not there, and removes nothing: other processes may read what was wanted before."""
    before = json.loads(keys.read_text(encoding="utf-8")) if keys.exists() else {}
    versions = {name: _version(info) for name, info in wanted.items()}
    missing = [name for name, version in versions.items()
               if before.get(name) != version or not (target / name).is_file()]  # fmt: skip
    target.mkdir(parents=True, exist_ok=True)
    size, room = sum(wanted[name].get("size") or 0 for name in missing), shutil.disk_usage(target).free
    if size > room:
        raise UserError(f"{place} has {size:,} bytes to copy, and {target} has room for {room:,}. Free some, or set "
                        f"{CACHE} to a folder on another disk.")
    for name in missing:
        with files.file(target / name) as path:
            system.get_file(f"{root}/{name}", str(path))
    if missing:
        with files.file(keys) as path:
            path.write_text(json.dumps({**before, **versions}), encoding="utf-8")


def _version(info: dict[str, Any]) -> str:
    """Returns what tells one version of a file from another, by what its file system says."""
    return " ".join(str(info[key]) for key in sorted(info) if key in
                    {"size", "ETag", "etag", "mtime", "LastModified", "last_modified", "created", "md5Hash",
                     "generation", "ino"})  # fmt: skip


def _cache() -> Path:
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "pae_zoo").expanduser()
