"""The one exception that a launcher turns into a line on stderr and exit status 2."""


class UserError(ValueError):
    """Bad input: the message says what was received, what is allowed and what to do, in one line."""
