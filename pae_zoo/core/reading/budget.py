"""What may be read into memory: sizes that a header claims, before a byte of them is read."""

import os
from pathlib import Path
from typing import Iterator, Optional

from pae_zoo.core.errors import UserError

#: Packed data that grow beyond `FREE_BYTES` and more than `MOST_GROWTH` times are taken for a bomb.
FREE_BYTES, MOST_GROWTH = 256 << 20, 100


def in_words(num_bytes: int) -> str:
    """Returns a number of bytes as people write it: '1.5 GiB'."""
    size, units = float(num_bytes), ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    step = 0
    while size >= 1024 and step < len(units) - 1:
        size, step = size / 1024, step + 1
    return f"{size:.1f} {units[step]}" if step else f"{num_bytes} bytes"


def available_memory() -> int:
    """Returns the bytes that this process may still take, by the machine, its control group and its own limit."""
    return max(0, min(found for found in _limits() if found is not None))


def check_memory(num_bytes: int, where: str, budget: Optional[int] = None, remedy: str = "") -> None:
    """Raises UserError unless `num_bytes` fit in `budget`, by default `available_memory()`.

    Args:
      num_bytes: what is about to be allocated.
      where: what the message begins with: a file, or a file and what of it.
      remedy: what to do, without a full stop.
    """
    limit = available_memory() if budget is None else budget
    if num_bytes > limit:
        raise UserError(f"{where} needs {in_words(num_bytes)} of memory, but {in_words(limit)} are left; "
                        f"{remedy or 'take fewer data, or a larger machine'}.")


def check_claim(claimed: int, stored: int, where: str, budget: Optional[int] = None,
                remedy: str = "store it without compression if it is meant so") -> None:
    """Raises UserError where packed data would grow beyond all reason, or beyond the memory.

    Args:
      claimed: bytes after unpacking, by the header.
      stored: bytes that the file holds of them.
      where, remedy: as for `check_memory`, the remedy for a bomb.
      budget: bytes of memory that may be taken; by default `available_memory()`.
    """
    if claimed > FREE_BYTES and claimed > MOST_GROWTH * stored:
        raise UserError(f"{where} would grow from {in_words(stored)} to {in_words(claimed)}, more than {MOST_GROWTH} "
                        f"times, which data hardly do; {remedy}.")
    check_memory(claimed, where, budget)


def _limits() -> Iterator[Optional[int]]:
    yield _machine()
    group = Path("/sys/fs/cgroup")
    yield _group(group / "memory.max", group / "memory.current", group / "memory.stat")
    older = group / "memory"
    yield _group(older / "memory.limit_in_bytes", older / "memory.usage_in_bytes", older / "memory.stat")
    yield _own_limit()


def _machine() -> int:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group(limit: Path, used: Path, stat: Path) -> Optional[int]:
    """What a control group leaves; pages of files that it would drop at need count as free."""
    most, now = _lines(limit), _lines(used)
    if not most or not now or not most[0].isdigit():  # no such group, or "max"
        return None
    pages = [int(line.split()[1]) for line in _lines(stat) if line.startswith("inactive_file ")]
    return int(most[0]) - int(now[0]) + sum(pages)


def _own_limit() -> Optional[int]:
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = _lines(Path("/proc/self/statm"))
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return limit - int(pages[0].split()[0]) * resource.getpagesize()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not this system's
        return []
