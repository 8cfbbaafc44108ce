"""Work directories and outputs at URLs: a command works in a local copy, which is brought up to date as it goes.

Files of a run appear whole, by a rename, so that what is copied is whole too, and it is copied in the order in which
it was written. A command that is killed has lost what it wrote since the last copy; the same command goes on from
there.
"""

import glob
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, TextIO

from pae_zoo.core import files, remote
from pae_zoo.core.errors import UserError, one_line

#: flags that name a folder or file which a command writes, or a finished run which it reads
WRITTEN = ("workdir", "out", "output", "export_dir", "stability_dir")
READ = ("workdirs", "init_workdir", "background_workdir", "from_workdir")
# Seconds between two copies, and after how many of them without a sign the command of another machine is gone.
INTERVAL, PATIENCE = 30.0, 4
#: says which command works at a URL
LOCK = ".in-use"


class Mirror:
    """A URL and its local copy.

    Args:
      place: URL of a folder, or of a file that is to be written.
      local: where the copy goes; it must not exist.
      writes: whether what changes is copied back, and others are kept from writing there meanwhile.

    Raises UserError for a place that cannot be reached, and for one that another command works at.
    """

    def __init__(self, place: str, local: Path, writes: bool):
        self.place, self.local, self.writes = place.rstrip("/"), local, writes
        self._system, self._root = remote.file_system(place)
        if "/" not in self._root:
            raise UserError(f"{place} names no folder in it; give one, such as {place.rstrip('/')}/run.")
        self._known: dict[str, tuple[int, int]] = {}
        self._mark = f"{socket.gethostname()}:{os.getpid()}"
        with remote.told(place):
            if writes:
                self._take()
            for name in sorted(remote.listing(self._system, self._root)):
                with files.file(local / name) as path:
                    self._system.get_file(f"{self._root}/{name}", str(path))
            self._known = self._state()

    def update(self) -> int:
        """Copies what has changed, removes what is gone, and returns how many files that were."""
        if not self.writes:
            return 0
        now = self._state()
        changed = sorted((name for name, state in now.items() if self._known.get(name) != state),
                         key=lambda name: now[name][0])  # fmt: skip
        gone = [name for name in self._known if name not in now]
        with remote.told(self.place):
            self._sign()
            if self.local.is_file():
                self._system.makedirs(self._root.rpartition("/")[0], exist_ok=True)
            for name in changed:
                target = f"{self._root}/{name}" if name else self._root
                self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._system.put_file(str(self.local / name if name else self.local), target)
                self._known[name] = now[name]
            for name in gone:
                if self._system.exists(f"{self._root}/{name}"):
                    self._system.rm_file(f"{self._root}/{name}")
                del self._known[name]
        return len(changed) + len(gone)

    def leave(self) -> None:
        """Lets others work there."""
        if self.writes:
            with remote.told(self.place):
                if self._system.exists(self._lock):
                    self._system.rm_file(self._lock)

    @property
    def _lock(self) -> str:
        """Beside the place, since an output may be a file."""
        return f"{self._root}{LOCK}"

    def _take(self) -> None:
        if self._system.exists(self._lock):
            try:
                found = json.loads(self._system.cat_file(self._lock))
                owner, age = str(found["by"]), time.time() - float(found["at"])
            except (ValueError, KeyError, TypeError):
                owner, age = "a command whose sign cannot be read", 0.0
            if owner != self._mark and age < PATIENCE * INTERVAL:
                raise UserError(f"{self.place} is in use by {owner}, which gave a sign {age:.0f} s ago. Wait for its "
                                f"end, or remove {self.place}{LOCK} where it is gone.")
        self._sign()

    def _sign(self) -> None:
        parent = self._root.rpartition("/")[0]
        if parent:
            self._system.makedirs(parent, exist_ok=True)
        self._system.pipe_file(self._lock, json.dumps({"by": self._mark, "at": time.time()}).encode())

    def _state(self) -> dict[str, tuple[int, int]]:
        """Returns {relative path: (time, size)} of all whole files, "" for an output that is a file itself."""
        if self.local.is_file():
            there = {"": self.local}
        else:
            there = {str(path.relative_to(self.local)): path for path in self.local.rglob("*")
                     if path.is_file() and not any(part.startswith(files.PREFIX) for part in path.parts)}
        found = {}
        for name, path in there.items():
            try:
                status = path.stat()
            except FileNotFoundError:  # replaced or removed meanwhile
                continue
            found[name] = (status.st_mtime_ns, status.st_size)
        return found


class Mirrors:
    """The places elsewhere of one command."""

    def __init__(self) -> None:
        self._folder: Optional[Path] = None
        self._mirrors: list[Mirror] = []
        self._ended = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._streams: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)

    def replace(self, argv: Sequence[str], keep: Sequence[str] = ()) -> list[str]:
        """Returns argv with the URLs of `WRITTEN` and `READ` flags, but for those in `keep`, replaced by local copies.

        Raises UserError for a place that cannot be reached, or that another command works at.
        """
        flags = [flag for flag in (*WRITTEN, *READ) if flag not in keep]
        words, found = list(argv), []
        while words:
            word = words.pop(0)
            name, equals, value = word.partition("=")
            flag = name.lstrip("-")
            if flag not in flags or not name.startswith("-"):
                found.append(word)
                continue
            value = value if equals else (words[0] if words else "")
            if not remote.is_elsewhere(value):
                found.append(word)
                continue
            if not equals:
                words.pop(0)
            found.append(f"{name}={','.join(self._of_one(part, flag) for part in value.split(','))}")
        if self._mirrors and self._thread is None:
            self._begin()
        return found

    def _of_one(self, place: str, flag: str) -> str:
        if not remote.is_elsewhere(place):
            return place
        if flag != "workdirs":
            return str(self._add(place, flag in WRITTEN))
        system, root = remote.file_system(place)
        if not glob.has_magic(root):
            return str(self._add(place, True))
        with remote.told(place):
            names = sorted(name for name in system.glob(root) if system.isdir(name))
        if not names:
            raise UserError(f"--workdirs={place!r} matches no folder.")
        return ",".join(str(self._add(system.unstrip_protocol(name), True)) for name in names)

    def _add(self, place: str, writes: bool) -> Path:
        for mirror in self._mirrors:
            if mirror.place == place.rstrip("/"):
                return mirror.local
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="pae_zoo-"))
        local = self._folder / str(len(self._mirrors)) / place.rstrip("/").rpartition("/")[2]
        self._mirrors.append(Mirror(place, local, writes and not _is_worker()))
        return local

    def _begin(self) -> None:
        names = {str(mirror.local): mirror.place for mirror in self._mirrors}
        self._streams = (sys.stdout, sys.stderr)
        sys.stdout, sys.stderr = (_Renaming(stream, names) for stream in self._streams)  # type: ignore[assignment]
        self._ended.clear()
        self._thread = threading.Thread(target=self._keep_up, daemon=True)
        self._thread.start()

    def _keep_up(self) -> None:
        failed = False
        while not self._ended.wait(INTERVAL):
            try:
                for mirror in self._mirrors:
                    mirror.update()
                failed = False
            except UserError as error:  # it may pass: the next round, and the end of the command, try again
                if not failed:
                    print(f"pae_zoo: {one_line(str(error))} Trying again.", file=sys.stderr, flush=True)
                failed = True

    def finish(self) -> Optional[str]:
        """Copies what is left and forgets all places; returns what is to be told of an error, with the copy kept."""
        if self._folder is None:
            return None
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            sys.stdout, sys.stderr = self._streams
        problem = None
        for mirror in self._mirrors:
            try:
                count = mirror.update()
                mirror.leave()
                if mirror.writes and count:
                    print(f"{mirror.place}: {count} more file{'s' if count > 1 else ''} written", flush=True)
            except UserError as error:
                problem = f"{one_line(str(error))} What was found is kept in {mirror.local}."
        if problem is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder, self._thread, self._mirrors = None, None, []
        return problem


class _Renaming:
    """A stream that tells places by their URLs."""

    def __init__(self, stream: TextIO, names: dict[str, str]):
        self._stream, self._names = stream, names

    def write(self, text: str) -> int:
        for local, place in self._names.items():
            text = text.replace(local, place)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is_worker() -> bool:
    """Whether another process of a cluster is the chief, who alone writes."""
    from pae_zoo.experiment import cluster

    text = os.environ.get(cluster.VARIABLE, "")
    return bool(text) and not cluster.read_task(text).is_chief


#: of the command under way
here = Mirrors()
