"""tensorflow-datasets, the last source: a prepared copy, then, if allowed and reachable, a download."""

import math
import os
import pathlib
import re
import socket
import threading
import time
import urllib.parse
import urllib.request
from typing import Any, Callable, Iterable, Optional, Sequence

import numpy as np

from pae_zoo.core import reading
from pae_zoo.core.errors import UserError
from pae_zoo.data.framing import Geometry
from pae_zoo.data.rows import Raw, check_room
from pae_zoo.data.splits import split_of

DESCRIPTION = "a copy prepared by tensorflow-datasets (a folder with dataset_info.json)"
PROBE_SECONDS = 4.0
_BATCH = 256
_PLACE_BYTES = 16  # that `take` needs for each row of a split
_NAME = re.compile(r"[A-Za-z]\w*(/[\w.+-]+)?(:[\d.*]+)?")


def _tfds():
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"tensorflow-datasets cannot be imported ({error}); "
            "pip install tensorflow-datasets importlib_resources, or give the files in --data_dir."
        ) from error
    return tfds


class TfdsRows:
    """The images of one split, streamed in the fixed order of the prepared files."""

    def __init__(self, builder, split: str):
        self.builder, self.split = builder, split
        self.count = builder.info.splits[split].num_examples
        shape = builder.info.features["image"].shape
        self.shape = tuple(shape) if None not in shape else None
        place = pathlib.Path(str(builder.data_path))
        stored = sum(reading.regular(path).st_size for path in place.iterdir() if not path.is_dir())
        row = _PLACE_BYTES + math.prod(self.shape or ())
        reading.check_claim(self.count * row, stored, f"{builder.info.full_name} in {place}", remedy="prepare it again")

    def __len__(self) -> int:
        return self.count

    def labels(self) -> Optional[np.ndarray]:
        tfds = _tfds()
        if "label" not in self.builder.info.features:
            return None
        with _told(self.builder):
            data = self.builder.as_dataset(split=self.split, decoders={"image": tfds.decode.SkipDecoding()})
            labels = data.map(lambda row: row["label"]).batch(4096)
            return np.concatenate([np.asarray(batch, np.int64) for batch in labels.as_numpy_iterator()])

    def take(self, parts: Sequence[np.ndarray], geometry: Geometry) -> list[np.ndarray]:
        """Returns the parts after `geometry`; one pass over the split. Raises UserError for a broken copy."""
        with _told(self.builder):
            return self._take(parts, geometry)

    def _take(self, parts: Sequence[np.ndarray], geometry: Geometry) -> list[np.ndarray]:
        where = np.full((self.count, 2), -1, np.int64)
        for number, part in enumerate(parts):
            where[part, 0], where[part, 1] = number, np.arange(len(part))
        data = self.builder.as_dataset(split=self.split).map(lambda row: row["image"])
        data = data.batch(_BATCH if self.shape else 1).prefetch(2)
        outs, row, name = None, 0, self.builder.info.full_name
        for batch in data.as_numpy_iterator():
            places = where[row : row + len(batch)]
            row += len(batch)
            wanted = places[:, 0] >= 0
            if not wanted.any():
                continue
            check_room(int(wanted.sum()), geometry.shape(batch.shape[1:]), batch.dtype)
            images = geometry.apply(batch[wanted], name)
            if outs is None:
                check_room(sum(len(part) for part in parts), images.shape[1:], images.dtype)
                outs = [np.empty((len(part), *images.shape[1:]), images.dtype) for part in parts]
            if images.shape[1:] != outs[0].shape[1:]:
                raise UserError(
                    f"{name} has images of {outs[0].shape[1:3]} and {images.shape[1:3]} pixels; give "
                    "image_size=N."
                )
            for image, (number, place) in zip(images, places[wanted]):
                outs[number][place] = image
        if row != self.count or outs is None:
            raise ValueError(f"it holds {row} rows of {self.split}, and states {self.count}")
        return outs


def _told(builder):
    return reading.told(builder.data_path, "copy of tensorflow-datasets", "prepare it again")


def find(folder: pathlib.Path) -> Optional[Callable[[], Raw]]:
    """Returns a reader if `folder` is <tfds data_dir>/<name> with a prepared version in it, else None."""
    prepared = sorted([*folder.glob("*/dataset_info.json"), *folder.glob("*/*/dataset_info.json")])
    if not prepared:
        return None
    for path in prepared[-1].parent.iterdir():
        if not path.is_dir():
            reading.regular(path, "prepare the copy again")
    return lambda: _prepared(prepared[-1].parent)


def _prepared(folder: pathlib.Path) -> Raw:
    with reading.told(folder, "copy of tensorflow-datasets", "prepare it again"):
        return _raw(_tfds().builder_from_directory(str(folder)))


def read(name: str, data_dir: Optional[pathlib.Path], download: bool, hint: str = "") -> Raw:
    """Returns the set `name` of tensorflow-datasets.

    A prepared copy is looked for in `data_dir` and in the library's own folder; then, with `download`, the
    network is probed for a few seconds before the library may try, since it would retry for minutes. Raises
    UserError if the set is unknown, holds no images, or can neither be found nor fetched; `hint` says what to do
    then.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"tensorflow-datasets has no set {reading.shown(name)!r}; its names are NAME, NAME/CONFIG or "
                        "NAME:VERSION, see its catalogue.")
    tfds = _tfds()
    hint = (
        hint
        or f"prepare it on a machine with a network (tfds build {name}) and copy the result to --data_dir"
    )
    builder: Any = None
    try:
        for place in [str(data_dir), None] if data_dir else [None]:
            builder = tfds.builder(name, data_dir=place, try_gcs=False)
            if os.path.exists(os.path.join(str(builder.data_path), "dataset_info.json")):
                return _raw(builder)
    except (ValueError, AttributeError, ImportError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"tensorflow-datasets cannot make {name!r} ({_first_line(error)}); see its catalogue for "
            "the names."
        ) from error
    if not download:
        raise UserError(f"{name} is not on this machine and --download=false forbids fetching it; {hint}.")
    hosts = _hosts(builder)
    if not reachable(hosts):
        raise UserError(
            f"{name} is not on this machine and {hosts[0]} cannot be reached within {PROBE_SECONDS:.0f} s "
            f"(no network?); {hint}."
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever the library or the servers do wrong, the user gets one line
        raise UserError(
            f"tensorflow-datasets could not fetch {name} ({_first_line(error)}); {hint}."
        ) from error
    return _raw(builder)


def _raw(builder) -> Raw:
    info = builder.info
    if not hasattr(info.features, "keys") or "image" not in info.features:
        raise UserError(
            f"{info.full_name} has no feature called image; use a set of images, or write it as .npz."
        )
    found: dict[str, str] = {}
    for name in info.splits:
        if split := split_of(name):
            found.setdefault(split, name)
    if "train" not in found:
        raise UserError(f"{info.full_name} has the splits {', '.join(info.splits)}; a train split is needed.")
    rows = {split: TfdsRows(builder, name) for split, name in found.items()}
    y = {split: part.labels() for split, part in rows.items()}
    others = [name for name in info.splits if name not in found.values()]
    notes = (f"left out: the splits {reading.shown(', '.join(others))}",) if others else ()
    return Raw(rows["train"], y["train"], rows.get("test"), y.get("test"), rows.get("valid"), y.get("valid"),
               source=f"tensorflow-datasets {info.full_name}", notes=notes)


def _hosts(builder) -> list[str]:
    proxy = urllib.request.getproxies().get("https") or urllib.request.getproxies().get("http")
    urls = [proxy] if proxy else list(getattr(builder, "url_infos", None) or [])
    hosts = [urllib.parse.urlsplit(url).netloc.rpartition("@")[2] for url in urls]
    return list(dict.fromkeys(host for host in hosts if host))[:2] or ["storage.googleapis.com"]


def reachable(hosts: Iterable[str], seconds: float = PROBE_SECONDS) -> bool:
    """Returns whether a connection to one of `hosts` (name or name:port) opens within `seconds`, look-up included."""
    done = threading.Event()

    def probe(host: str) -> None:
        name, _, port = host.partition(":")
        for number in [int(port)] if port.isdigit() else [443, 80]:
            try:
                socket.create_connection((name, number), timeout=seconds).close()
            except OSError:
                continue
            done.set()
            return

    # Name look-up has no time limit of its own, so it runs in threads that may be left behind.
    threads = [threading.Thread(target=probe, args=(host,), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    stop = time.monotonic() + seconds
    while time.monotonic() < stop and any(thread.is_alive() for thread in threads):
        if done.wait(0.05):
            break
    return done.is_set()


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:160]}"
