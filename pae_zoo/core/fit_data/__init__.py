"""What Keras' `fit`, `evaluate` and `predict` are given: arrays, data sets and generators, in one form and checked.

A batch is (x, y, w): data (b, *event), targets of the same shape, labels (b,) or None,
weights (b,) or None. `read` makes a source
of whatever is given; `keras` of it is what Keras is handed, `batches` what fit itself may read, without using it up.
"""

from pae_zoo.core.fit_data.batch import Batch, Form, parts, standard
from pae_zoo.core.fit_data.reading import read, read_pair
from pae_zoo.core.fit_data.sources import (
    Arrays,
    Batches,
    Source,
    count,
    examples,
    labels_and_weights,
    standing,
    telling,
    weighted,
)

__all__ = ["Arrays", "Batch", "Batches", "Form", "Source", "count", "examples", "labels_and_weights", "parts", "read",
           "read_pair", "standard", "standing", "telling", "weighted"]  # fmt: skip
