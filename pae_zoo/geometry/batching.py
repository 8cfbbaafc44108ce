"""Functions of many rows, compiled once and applied to batches of one size that fit the memory."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo.core.errors import UserError


def batch_size(num_rows: int, bytes_per_row: float, memory_mib: float) -> int:
    """Returns the rows of a batch: as many as the memory allows, in batches as equal as they can be."""
    most = max(1, int(memory_mib * 2**20 / max(bytes_per_row, 1.0)))
    batches = -(-num_rows // min(most, max(num_rows, 1)))
    return -(-num_rows // max(batches, 1))


class RowMap:
    """fn(*tensors of n rows, *shared) -> nest of tensors of n rows, over arrays of any number of rows.

    Args:
      fn: TensorFlow function; row i of its results depends on row i of its arguments alone.
      bytes_per_row: memory that a row needs in it.
      memory_mib: memory that a batch may need.
      jit_compile: whether XLA compiles it.
    """

    def __init__(self, fn: Callable, bytes_per_row: float, memory_mib: float = 256, jit_compile: bool = True):
        # TensorFlow tells functions apart by their code, partial objects by themselves: no warning of retracing.
        self.fn = tf.function(functools.partial(fn), jit_compile=jit_compile, autograph=False)
        self.bytes_per_row, self.memory_mib = bytes_per_row, memory_mib

    def __call__(self, *arrays: np.ndarray, shared: tuple = ()) -> Any:
        """Returns the results for all rows as numpy arrays; the last batch is padded with copies of the last row."""
        count = len(arrays[0])
        if not count:
            raise UserError("There is nothing to compute: give at least one point, curve or pair.")
        size = batch_size(count, self.bytes_per_row, self.memory_mib)
        parts = []
        for start in range(0, count, size):
            rows = [array[start : start + size] for array in arrays]
            kept = len(rows[0])
            if kept < size:
                rows = [np.concatenate([row, np.repeat(row[-1:], size - kept, axis=0)]) for row in rows]
            found = self.fn(*map(tf.constant, rows), *shared)
            parts.append(tf.nest.map_structure(lambda values: values.numpy()[:kept], found))  # noqa: B023
        return tf.nest.map_structure(lambda *values: np.concatenate(values), *parts)
