"""The one exception that a launcher turns into a line on stderr and exit status 2."""

import difflib
from collections.abc import Collection, Iterable


class UserError(ValueError):
    """Bad input: the message says what was received, what is allowed and what to do, in one line."""


def suggestion(word: object, known: Iterable[object]) -> str:
    """Returns '; did you mean X?' when a known word is close to `word`, else ''."""
    close = difflib.get_close_matches(str(word).lower().replace("-", "_"), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def unknown(name: str, value: object, allowed: Iterable[object]) -> UserError:
    """Returns the error of a word, given as `name`, that is none of those allowed; it names the nearest."""
    words = [str(word) for word in allowed]
    nearest = suggestion(str(value), words) or "."
    return UserError(f"{name}={value!r} is unknown; allowed: {', '.join(words)}{nearest}")


def check_choice(value: object, allowed: Collection[object], name: str) -> None:
    """Raises UserError for a value that is not one of those allowed."""
    if value not in allowed:
        raise unknown(name, value, allowed)


def one_line(text: str, most: int = 1200) -> str:
    """Returns `text` as one line of at most about `most` letters, its middle left out, all of them printable."""
    words = " ".join(text[: 50 * most].split())
    words = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    return words if len(words) <= most else f"{words[: most // 2]} [...] {words[-most // 4 :]}"
