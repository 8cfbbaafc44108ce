"""Batches for the compiled training loop: their order depends on (seed, epoch) alone.

One element is a block of up to K batches, so that one call of the compiled step takes K optimizer steps.
A set that fits in memory stays on the device, in its own dtype, and a block holds row numbers; a larger
set stays on the host and a block holds the data. Both give the same batches in the same order.
"""

import math
from typing import Callable, Optional, Union

import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds

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
      labels: those of `train` and `valid`, int64 (n,) each, for what is trained with them; None: without.

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
        labels: Optional[tuple[np.ndarray, np.ndarray]] = None,
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
        self._labels = None if labels is None else tuple(tf.constant(one, tf.int32) for one in labels)

    def order(self, epoch: int) -> np.ndarray:
        """Returns the row numbers of the epoch's whole batches, shape (steps_per_epoch, batch_size)."""
        with tf.device("CPU"):
            return self._order(epoch).numpy()

    def _order(self, epoch) -> tf.Tensor:
        rows = seeds.permutation(len(self.train), tf.stack([self.seed, tf.cast(epoch, tf.int32)]))
        return tf.reshape(rows[: self.steps_per_epoch * self.batch_size], (-1, self.batch_size))

    def num_blocks(self, steps: int) -> int:
        """Returns how many blocks hold so many steps."""
        return math.ceil(steps / self.steps_per_call)

    def training(self, epoch: int, first_step: int, steps: int, epochs: int = 1) -> tf.data.Dataset:
        """Returns the blocks of steps [first_step, first_step + steps) of `epochs` epochs from `epoch` on."""
        # TensorFlow's own operations, not `from_generator`: under Python 3.11 and later that one lowers malloc's
        # limit for mmap in the whole process, and each step maps and unmaps its scratch memory anew.
        @tf.autograph.experimental.do_not_convert  # nothing to convert, and looking for it takes long
        def blocks_of(number: tf.Tensor) -> tf.data.Dataset:
            rows = self._order(number)[first_step : first_step + steps]
            return self._blocks(rows, steps, self.steps_per_call)

        blocks = tf.data.Dataset.range(epoch, epoch + epochs).flat_map(blocks_of)
        return self._with_data(blocks, self.train, epochs * self.num_blocks(steps))

    def validation(self) -> tf.data.Dataset:
        """Returns blocks over all validation data in order; padding has weight 0."""
        num = len(self.valid)
        batches = math.ceil(num / self.batch_size)
        length = min(self.steps_per_call, batches)
        rows = np.arange(batches * self.batch_size)
        weight = (rows < num).astype(np.float32).reshape(batches, self.batch_size)
        rows = np.minimum(rows, num - 1).reshape(batches, self.batch_size)
        blocks = self._blocks(rows, batches, length, {"weight": weight})
        return self._with_data(blocks, self.valid, math.ceil(batches / length))

    def batch(self, block: dict, i: Union[int, tf.Tensor]) -> tf.Tensor:
        """Returns batch i of a block, (batch_size, *event), in the dtype of the data."""
        if "x" in block:
            return block["x"][i]
        return tf.gather(self._valid if "weight" in block else self._train, block["rows"][i])

    def label(self, block: dict, i: Union[int, tf.Tensor]) -> Optional[tf.Tensor]:
        """Returns the labels of batch i of a block, int32 (batch_size,), None without labels."""
        if self._labels is None:
            return None
        return tf.gather(self._labels["weight" in block], block["rows"][i])

    def _blocks(self, rows, steps: int, length: int, more: Optional[dict] = None) -> tf.data.Dataset:
        """Cuts rows (steps, batch_size), and arrays of its length in `more`, into blocks padded to `length` steps."""
        number = math.ceil(steps / length)
        counts = np.full(number, length, np.int32)
        counts[-1] = steps - (number - 1) * length

        def cut(array) -> tf.Tensor:
            padded = tf.pad(array, ((0, number * length - steps), (0, 0)))
            return tf.reshape(padded, (number, length, self.batch_size))

        columns = {"rows": cut(rows), "count": counts, **{name: cut(array) for name, array in (more or {}).items()}}
        return tf.data.Dataset.from_tensor_slices(columns)

    def _with_data(self, blocks: tf.data.Dataset, x: np.ndarray, number: int) -> tf.data.Dataset:
        """Replaces row numbers by data where these do not stay on the device."""

        def fetch(block: dict) -> dict:
            rows = block["rows"] if self._labels is not None else block.pop("rows")
            data = tf.numpy_function(lambda numbers: x[numbers], [rows], tf.as_dtype(x.dtype), stateful=False)
            return {**block, "x": tf.ensure_shape(data, (*rows.shape, *x.shape[1:]))}

        found = blocks if self.resident else blocks.map(fetch)
        # A known length keeps Keras from asking when the data will end.
        return found.apply(tf.data.experimental.assert_cardinality(number)).prefetch(2)
