"""Peak memory of a process, from the marks that the Linux kernel keeps."""

import ctypes
import resource
from pathlib import Path

_STATUS, _MARKS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Memory:
    """Counts the most memory that this process holds, above what it held when this object was made.

    Memory freed before then is given back first, so that it does not hide what is taken next. Without /proc the mark
    is that of the whole life of the process, so what was freed before hides as much.
    """

    def __init__(self):
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except AttributeError:  # a C library other than glibc
            pass
        if _MARKS.exists():
            _MARKS.write_text("5")  # the highest mark falls to what is held now
        self._before = _highest()

    def peak(self) -> float:
        """Returns the most held since, beyond the start, in MiB."""
        return _highest() - self._before


def _highest() -> float:
    if _STATUS.exists():
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
