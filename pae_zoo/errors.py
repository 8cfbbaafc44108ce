"""The one exception that a launcher turns into a line on stderr and exit status 2."""

import difflib
from typing import Sequence


class UserError(ValueError):
    """Bad input: the message says what was received, what is allowed and what to do, in one line."""


def suggestion(word: str, known: Sequence[str]) -> str:
    """Returns '; did you mean X?' when a known word is close to `word`, else ''."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]}?" if close else ""
