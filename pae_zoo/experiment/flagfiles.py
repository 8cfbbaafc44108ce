"""Flagfiles: the words of a command in a file, one a line; a file may include others.

A line that starts with # or // is a comment, and so is what follows one of them between spaces. `--name value` stands
for `--name=value`. A line that ends in a comma goes on in the next one, unless that is a flag of its own. A file that
another one includes is looked for beside that one first, then from the current folder. Names that start with `configs/`
are those of the files that the package brings along where the current folder has none.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pae_zoo.core import hparams as hp
from pae_zoo.core import reading
from pae_zoo.core.errors import UserError

#: most bytes of a file, and most files of one command
MOST_BYTES, MOST_FILES = 1 << 20, 64
#: where the package keeps its configs: a link to the folder of the checkout, or the files that were installed
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_COMMENT = re.compile(r"\s(?:#|//)(?:\s.*)?$")
_SPACED = re.compile(r"^(--?\w+)\s+(?=\S)")
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
        inside, read = _words_of(value, (), count)
        found += inside
        count += read
    return found


def _words_of(name: str, within: tuple[str, ...], count: int) -> tuple[list[str], int]:
    """Returns (the words of a file, the number of files read for them); `within` are the files that include it."""
    if not name.strip():
        raise UserError(f"--flagfile= names no file; {GIVE}, or leave it out.")
    place = _place(hp.expand(name.strip(), "flagfile"), within)
    if place in within:
        raise UserError(f"--flagfile={name} includes itself. Take the line out that does.")
    if count >= MOST_FILES:
        raise UserError(f"--flagfile={name} is one of more than {MOST_FILES} files. Include fewer.")
    try:
        text = reading.text(Path(place), GIVE, MOST_BYTES)
    except ValueError as error:
        raise UserError(f"--flagfile: {error}") from error
    found, read = [], 1
    for line in lines(text):
        if line.startswith(("--flagfile=", "-flagfile=")):
            words, more = _words_of(line.partition("=")[2], (*within, place), count + read)
            found += words
            read += more
        else:
            found.append(line)
    return found, read


def _place(name: str, within: tuple[str, ...]) -> str:
    """Returns the path of a file that the innermost of `within`, or a command where there is none, names."""
    if "\0" in name:
        return name
    places = [os.path.join(os.path.dirname(within[-1]), name)] if within else []
    places.append(name)
    head, _, rest = os.path.normpath(name).partition(os.sep)
    if head == CONFIGS.name:
        places.append(str(CONFIGS / rest))
    return os.path.realpath(next(filter(os.path.lexists, places), name))


def lines(text: str) -> Iterator[str]:
    """Yields the flags of a file's text: no comments, and in one piece what commas spread over lines."""
    kept = ""
    for line in text.removeprefix("\ufeff").splitlines():
        line = _SPACED.sub(r"\1=", _COMMENT.sub("", line).strip())
        if not line or line.startswith(("#", "//")):
            continue
        if kept.endswith(",") and not line.startswith("-"):
            kept += line
            continue
        if kept:
            yield kept
        kept = line
    if kept:
        yield kept
