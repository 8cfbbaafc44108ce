"""Flagfiles: the words of a command in a file, one a line; a file may include others."""

import os
from collections.abc import Sequence

from pae_zoo.core import hparams as hp
from pae_zoo.core import reading
from pae_zoo.core.errors import UserError

#: most bytes of a file, and most files of one command
MOST_BYTES, MOST_FILES = 1 << 20, 64
GIVE = "give the path of a text file with one flag per line"


def expand(argv: Sequence[str]) -> list[str]:
    """Returns argv with every --flagfile replaced by the lines of its file, and so on for those in the file.

    Raises UserError for a file that cannot be read or includes itself, and for more files than anybody writes.
    """
    words, count = iter(argv), 0
    found: list[str] = []
    for word in words:
        if word == "--":
            return [*found, word, *words]
        name, equals, value = word.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            found.append(word)
            continue
        if not equals:
            value = next(words, "")
        lines, read = _words_of(value, (), count)
        found += lines
        count += read
    return found


def _words_of(name: str, within: tuple[str, ...], count: int) -> tuple[list[str], int]:
    """Returns (the words of a file, the number of files read for them); `within` are the files that include it."""
    if not name.strip():
        raise UserError(f"--flagfile= names no file; {GIVE}, or leave it out.")
    place = hp.expand(name.strip(), "flagfile")
    place = place if "\0" in place else os.path.realpath(place)
    if place in within:
        raise UserError(f"--flagfile={name} includes itself. Take the line out that does.")
    if count >= MOST_FILES:
        raise UserError(f"--flagfile={name} is one of more than {MOST_FILES} files. Include fewer.")
    try:
        text = reading.text(place, GIVE, MOST_BYTES)
    except ValueError as error:
        raise UserError(f"--flagfile: {error}") from error
    found, read = [], 1
    for line in map(str.strip, text.removeprefix("\ufeff").splitlines()):
        if line.startswith(("--flagfile=", "-flagfile=")):
            words, more = _words_of(line.partition("=")[2], (*within, place), count + read)
            found += words
            read += more
        elif line and not line.startswith(("#", "//")):
            found.append(line)
    return found, read
