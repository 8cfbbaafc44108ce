"""Batches for the compiled training loop: their order depends on (seed, epoch) alone.

One element is a block of up to K batches, so that one call of the compiled step takes K optimizer steps.
A set that fits in memory stays on the device, in its own dtype, and a block holds row numbers; a larger
set stays on the host and a block holds the data. Both give the same batches in the same order.
"""

import math
from typing import Callable, Iterator, Optional

import numpy as np
import tensorflow as tf

from pae_zoo import seeds

# A streamed block is copied to the device at once; this bounds the copy.
STREAMED_BLOCK_BYTES = 64 << 20


class Feed:
    """What the compiled step reads its batches from.

    Args:
      train, valid: arrays (n, *event), uint8 or float32.
      batch_size: data per step; whole batches only in training, a padded last one in validation.
      seed: with the epoch it fixes the order.
      steps_per_call: K, the most steps of one call.
      resident_bytes: largest size kept on the device.
      augment: maps (x, seed) to x for training batches, or None.

    Raises ValueError when there is no whole batch.
    """

    def __init__(
        self,
        train: np.ndarray,
        valid: np.ndarray,
        batch_size: int,
        seed: int = 0,
        steps_per_call: int = 64,
        resident_bytes: int = 2 << 30,
        augment: Optional[Callable] = None,
    ):
        if len(train) < batch_size:
            raise ValueError(f"batch_size={batch_size} is larger than the {len(train)} training data.")
        self.train, self.valid = train, valid
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.resident = train.nbytes + valid.nbytes <= resident_bytes
        self.steps_per_epoch = len(train) // batch_size
        if not self.resident:
            batch_bytes = batch_size * math.prod(train.shape[1:]) * train.itemsize
            steps_per_call = min(steps_per_call, max(1, STREAMED_BLOCK_BYTES // batch_bytes))
        # Blocks of equal length: 429 steps at K = 64 become 7 blocks of 62, not 6 of 64 and one of 45.
        self.steps_per_call = math.ceil(
            self.steps_per_epoch / math.ceil(self.steps_per_epoch / steps_per_call)
        )
        if self.resident:
            self._train, self._valid = tf.constant(train), tf.constant(valid)

    def order(self, epoch: int) -> np.ndarray:
        """Returns the row numbers of the epoch's whole batches, shape (steps_per_epoch, batch_size)."""
        with tf.device("CPU"):
            rows = seeds.permutation(len(self.train), (self.seed, epoch)).numpy()
        return rows[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size)

    def num_blocks(self, steps: int) -> int:
        """Returns how many blocks hold so many steps."""
        return math.ceil(steps / self.steps_per_call)

    def training(self, epoch: int, first_step: int, steps: int, epochs: int = 1) -> tf.data.Dataset:
        """Returns the blocks of steps [first_step, first_step + steps) of `epochs` epochs from `epoch` on."""

        def blocks() -> Iterator[dict]:
            for number in range(epoch, epoch + epochs):
                rows = self.order(number)[first_step : first_step + steps]
                for start in range(0, steps, self.steps_per_call):
                    yield self._block(rows[start : start + self.steps_per_call], self.train)

        number_of_blocks = epochs * self.num_blocks(steps)
        return self._dataset(blocks, number_of_blocks, self.train, self.steps_per_call, weighted=False)

    def validation(self) -> tf.data.Dataset:
        """Returns blocks over all validation data in order; padding has weight 0."""
        num = len(self.valid)
        batches = math.ceil(num / self.batch_size)
        length = min(self.steps_per_call, batches)
        rows = np.arange(batches * self.batch_size)
        weight = (rows < num).astype(np.float32).reshape(batches, self.batch_size)
        rows = np.minimum(rows, num - 1).reshape(batches, self.batch_size)

        def blocks() -> Iterator[dict]:
            for start in range(0, batches, length):
                block = self._block(rows[start : start + length], self.valid, length)
                padded = np.zeros((length, self.batch_size), np.float32)
                padded[: block["count"]] = weight[start : start + length]
                yield {**block, "weight": padded}

        return self._dataset(blocks, math.ceil(batches / length), self.valid, length, weighted=True)

    def batch(self, block: dict, i) -> tf.Tensor:
        """Returns batch i of a block, (batch_size, *event), in the dtype of the data."""
        if "x" in block:
            return block["x"][i]
        return tf.gather(self._valid if "weight" in block else self._train, block["rows"][i])

    def _block(self, rows: np.ndarray, x: np.ndarray, length: int = 0) -> dict:
        """Returns rows (steps, batch_size) as one block, padded to its full length."""
        count = len(rows)
        padded = np.zeros((length or self.steps_per_call, self.batch_size), np.int64)
        padded[:count] = rows
        if self.resident:
            return {"rows": padded, "count": np.int32(count)}
        return {"x": x[padded], "count": np.int32(count)}

    def _dataset(self, blocks, number: int, x: np.ndarray, length: int, weighted: bool) -> tf.data.Dataset:
        shape = (length, self.batch_size)
        signature = {"count": tf.TensorSpec((), tf.int32)}
        if self.resident:
            signature["rows"] = tf.TensorSpec(shape, tf.int64)
        else:
            signature["x"] = tf.TensorSpec((*shape, *x.shape[1:]), tf.as_dtype(x.dtype))
        if weighted:
            signature["weight"] = tf.TensorSpec(shape, tf.float32)
        found = tf.data.Dataset.from_generator(blocks, output_signature=signature)
        # A known length keeps Keras from asking when the data will end.
        return found.apply(tf.data.experimental.assert_cardinality(number)).prefetch(2)
