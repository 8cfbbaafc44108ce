"""Presets that lie elsewhere: what fsspec can open (s3://, gs://, https://, ...), and repositories of Hugging Face."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from pae_zoo.core import remote
from pae_zoo.core.errors import UserError

HUB = "hf://"
# Files of a preset are small; a download of more than this is something else.
MOST_BYTES = 1 << 30


@contextlib.contextmanager
def fetched(place: str, names: Sequence[str]) -> Iterator[Path]:
    """Yields a local folder with those files of a URL that are in `names`; what is not there is left out.

    hf://owner/name[@revision][/folder] is a repository of Hugging Face, kept in its cache; all else is read by fsspec
    and is gone afterwards. Raises UserError for a place that cannot be read, and for a package that is needed.
    """
    if place.startswith(HUB):
        yield from_hub(place, names)
        return
    with tempfile.TemporaryDirectory() as folder:
        system, root = remote.file_system(place)
        with remote.told(place):
            for name in names:
                source = f"{root}/{name}"
                if not system.exists(source):
                    continue
                if (system.size(source) or 0) > MOST_BYTES:
                    raise UserError(f"{place}/{name} has {system.size(source):,} bytes; a preset has at most "
                                    f"{MOST_BYTES:,}.")
                system.get_file(source, str(Path(folder) / name))
        yield Path(folder)


def put(folder: Path, place: str, last: str) -> None:
    """Copies the files of a folder to a URL that fsspec can write, `last` after all others.

    Raises UserError where there is something with that name already, for a place that cannot be written, and for a
    repository of Hugging Face.
    """
    if place.startswith(HUB):
        raise UserError(f"A repository is written by its own command: save to a folder first, then hf upload "
                        f"{place.removeprefix(HUB)} FOLDER.")
    system, root = remote.file_system(place)
    with remote.told(place):
        if system.exists(f"{root}/{last}"):
            raise UserError(f"{place} exists; give a new name, or remove it.")
        system.makedirs(root, exist_ok=True)
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == last, path.name)):
            system.put_file(str(path), f"{root}/{path.name}")


def from_hub(place: str, names: Sequence[str], endpoint: Optional[str] = None) -> Path:
    """Returns the folder in the cache of Hugging Face that has those files of hf://owner/name[@revision][/folder].

    Raises UserError for another form, a repository that cannot be had, and without the package huggingface_hub.
    """
    owner, _, rest = place.removeprefix(HUB).partition("/")
    name, _, folder = rest.partition("/")
    name, _, revision = name.partition("@")
    if not owner or not name:
        raise UserError(f"A repository is given as hf://owner/name, with @revision and /folder where needed; received "
                        f"{place}.")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{place} needs the package huggingface_hub: pip install 'pae_zoo[hub]'.") from None
    folder = folder.strip("/")
    with remote.told(place):
        found = huggingface_hub.snapshot_download(
            f"{owner}/{name}", revision=revision or None, endpoint=endpoint,
            allow_patterns=[f"{folder}/{one}" if folder else one for one in names])  # fmt: skip
    return Path(found) / folder
