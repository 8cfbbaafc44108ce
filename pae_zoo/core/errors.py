"""The one exception that a launcher turns into a line on stderr and exit status 2."""

import difflib
from typing import Sequence


class UserError(ValueError):
    """Bad input: the message says what was received, what is allowed and what to do, in one line."""


def suggestion(word: str, known: Sequence[str]) -> str:
    """Returns '; did you mean X?' when a known word is close to `word`, else ''."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def one_line(text: str, most: int = 1200) -> str:
    """Returns `text` as one line of at most about `most` letters, its middle left out, all of them printable."""
    words = " ".join(text[: 50 * most].split())
    words = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    return words if len(words) <= most else f"{words[: most // 2]} [...] {words[-most // 4 :]}"
