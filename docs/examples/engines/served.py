"""What both recipes share: a SavedModel, loaded once in a process, and its answers to rows of numbers.

It needs TensorFlow and NumPy alone, and must be where the workers find it (Spark: --py-files; Beam: a package).
"""

import functools

import numpy as np
import tensorflow as tf


@functools.lru_cache(maxsize=1)
def loaded(folder):
    """Returns the SavedModel of a folder, which stays in the process."""
    return tf.saved_model.load(folder)


def answers(folder, signature, rows, seed=(0, 0)):
    """Returns {name: array (n, ...)} of a signature for rows of the data, each flat.

    A seed, where the signature takes one, gives the same answers whenever rows come in the same batches.
    """
    function = loaded(folder).signatures[signature]
    inputs = function.structured_input_signature[1]
    x = np.asarray(rows, np.float32).reshape(-1, *inputs["x"].shape[1:])
    given = {"x": tf.constant(x)}
    if "seed" in inputs:
        given["seed"] = tf.constant(seed, tf.int32)
    return {name: value.numpy() for name, value in function(**given).items()}


def records(folder, signature, names, rows):
    """Returns one {name: number or list} for each row, with its name under `row`."""
    found = answers(folder, signature, rows)
    return [{"row": name, **{key: value[place].ravel().tolist() if value.ndim > 1 else float(value[place])
                             for key, value in found.items()}} for place, name in enumerate(names)]  # fmt: skip
