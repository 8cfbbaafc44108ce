"""Labels: whole numbers from 0, one for all data or one for each."""

from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo.core.errors import UserError

#: what --condition takes
NONE, LABEL = "none", "label"


def checked(labels: Any, num_labels: int) -> np.ndarray:
    """Returns labels as whole numbers of any shape; raises UserError where one is none of 0 .. num_labels - 1."""
    found = np.asarray(labels)
    if found.dtype.kind not in "iub" and not (found.dtype.kind == "f" and np.array_equal(found, np.round(found))):
        raise UserError(f"Labels are whole numbers, 0 to {num_labels - 1}; received {found.dtype} "
                        f"{found.reshape(-1)[:3].tolist()}.")
    if found.size and not 0 <= found.min() <= found.max() < num_labels:
        raise UserError(f"Labels are 0 to {num_labels - 1}; received {int(found.min())} to {int(found.max())}.")
    return found.astype(np.int32)


def given(label: Any, num_labels: int) -> tf.Tensor:
    """Returns a label () or one for each datum (batch,) as int32; raises UserError for others, where they are known."""
    if not num_labels:
        raise UserError("There are no labels here to choose from: build or train it with num_labels, or "
                        "--condition=label.")
    if not tf.is_symbolic_tensor(label):
        label = checked(label, num_labels)
    label = tf.cast(tf.convert_to_tensor(label), tf.int32)
    if label.shape.rank not in (0, 1):
        raise UserError(f"A label is a number, or one for each datum, (batch,); received shape {label.shape}.")
    return label


def beside(label: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
    """Returns labels () or (batch,) repeated along the leading axes of u (..., batch, D): (..., batch).

    Raises UserError for labels of another number of data, where that is known.
    """
    if label.shape.rank == 1 and not label.shape.is_compatible_with(u.shape[-2:-1]):
        raise UserError(f"There are {label.shape[0]} labels and {u.shape[-2] if u.shape.rank > 1 else 1} data; "
                        "give one label for all, or one for each.")
    return tf.broadcast_to(label, tf.shape(u)[:-1])
