"""What flags ask for, estimated before it is built: weights that no memory holds are refused with their flags."""

import contextlib
import dataclasses
import math
from typing import Any, Iterator

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core import hparams as hp
from pae_zoo.core import reading
from pae_zoo.core.errors import UserError

#: floats for each weight while a model trains: the weight, its gradient, two slots of Adam
COPIES = 4
#: parts of a model, of which each takes a moment to make
MOST_WEIGHTS = 5000


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that something did not fit into memory."""
    return isinstance(error, (MemoryError, tf.errors.ResourceExhaustedError))


def large_flags(options: Any) -> str:
    """Returns the sizes among a record's flags that are above their defaults, the largest first: --name=value."""
    found = {}
    for field in dataclasses.fields(options):
        value, default = _largest(getattr(options, field.name)), _largest(field.default)
        is_size = field.metadata["high"] not in (None, hp.MOST) or field.name.endswith("batch_size")
        if is_size and value > default:
            shown = getattr(options, field.name)
            words = ",".join(map(str, shown)) if isinstance(shown, tuple) else shown
            found[f"--{field.name}={reading.shown(words)}"] = value / max(default, 1)
    return ", ".join(sorted(found, key=found.__getitem__, reverse=True)[:4])


def _largest(value: Any) -> int:
    """Returns the largest whole number of a flag's value, 0 for one of another kind."""
    items = value if isinstance(value, tuple) else (value,)
    return max((item for item in items if type(item) is int), default=0)


@contextlib.contextmanager
def affordable(options: Any) -> Iterator[None]:
    """Within the block, weights for which there is no memory, or more than anybody waits for, are refused unmade.

    Raises UserError with the estimate and the flags of the record `options` behind it.
    """
    layers: Any = keras.layers.Layer
    make, left = layers.add_weight, reading.available_memory()
    count = numbers = 0

    def add_weight(layer: Any, shape: Any = None, *args: Any, **kwargs: Any) -> Any:
        nonlocal count, numbers
        count += 1
        numbers += math.prod(shape or ())
        needed = COPIES * numbers * np.dtype(np.float32).itemsize
        if needed > left or count > MOST_WEIGHTS:
            raise UserError(
                f"The model would have more than {numbers:,} weights in {count:,} arrays: training takes "
                f"{reading.in_words(needed)}, and {reading.in_words(left)} of memory are left. Lower "
                f"{large_flags(options) or 'its sizes'}.")  # fmt: skip
        return make(layer, shape, *args, **kwargs)

    # Keras makes every weight by this method, those of networks, flows and models alike, and has no other place to
    # look at a weight before it is made.
    layers.add_weight = add_weight
    try:
        yield
    finally:
        layers.add_weight = make
