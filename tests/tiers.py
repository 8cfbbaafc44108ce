"""Which parameters of a test run by default, and which only with -m full."""

import pytest


def some(values, chosen):
    """Returns the parameters `values` of a test; those not in `chosen` run only when -m asks for `full`.

    A tuple among them stands for several parameters.
    """
    missing = [value for value in chosen if value not in values]
    assert not missing, f"{missing} are not among the values"
    found = []
    for value in values:
        marks = () if value in chosen else pytest.mark.full
        found.append(pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=marks))
    return found
