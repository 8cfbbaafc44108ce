"""Which numbers data may hold, and that the first bad row is named."""

import numpy as np
import pytest

from pae_zoo.core import values
from pae_zoo.core.errors import UserError


def test_the_first_bad_row_is_named_with_its_range_or_nan():
    sound = np.linspace(0, 1, 3000 * 4, dtype=np.float32).reshape(3000, 2, 2)
    values.check(sound, "x", unit=True)
    values.check(sound * 255, "x", unit=False)
    values.check((sound * 255).astype(np.uint8), "x", unit=True)
    values.check(sound[:0], "x", unit=True)
    for value, words in ((np.nan, "NaN or infinity, first in row 2107"),
                         (-np.inf, "NaN or infinity, first in row 2107"),
                         (1.01, r"from .* to 1\.01, first outside of \[0, 1\] in row 2107"),
                         (-0.5, r"from -0\.5 to .* in row 2107.*use sigmoid")):  # fmt: skip
        x = sound.copy()
        x[2100, 1, 0] = value
        with pytest.raises(UserError, match=words):
            values.check(x, "x", unit=True, start=7, remedy="use sigmoid")
        if np.isfinite(value):
            values.check(x, "x", unit=False)
