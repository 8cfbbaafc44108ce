"""Parts of a batch: the rows that one of several replicas takes, whose noise and means are those of the whole."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Optional, Union

import tensorflow as tf

from pae_zoo.core.errors import UserError

#: of a draw that does not say which of its axes is the batch
UNTOLD = "untold"
_here = threading.local()  # replicas of one process are threads


class Part(NamedTuple):
    """Rows [offset, offset + size) of a batch of `total`; integers or scalar tensors.

    `whole` and `weight` are the data (total, *event) and the weights (total,) of the whole batch, or None.
    """

    offset: Any
    size: Any
    total: Any
    whole: Optional[tf.Tensor] = None
    weight: Optional[tf.Tensor] = None

    def rows(self, values: Optional[tf.Tensor]) -> Any:
        """Returns this part of values of the whole batch (total, ...); None of None."""
        if values is None:
            return None
        found = values[self.offset : self.offset + self.size]
        return tf.ensure_shape(found, (self.size if isinstance(self.size, int) else None, *values.shape[1:]))


def divided(number: int, count: int, total: Any) -> tuple[Any, Any]:
    """Returns (offset, size) of part `number` of `count` of `total` rows: equal sizes, or such that differ by one."""
    start, end = (number * total) // count, ((number + 1) * total) // count
    return start, end - start


@contextlib.contextmanager
def taken(part: Part) -> Iterator[Part]:
    """Inside, what is computed in this thread is computed of that part of a batch."""
    before = current()
    _here.part = part
    try:
        yield part
    finally:
        _here.part = before


def current() -> Optional[Part]:
    """Returns the part that is under way in this thread, None for a whole batch."""
    return getattr(_here, "part", None)


def drawn(draw: Callable[[Any], tf.Tensor], shape: Union[Sequence[Any], tf.Tensor],
          batch: Union[int, None, str]) -> tf.Tensor:
    """Returns draw(shape), in a part of a batch its rows of what the whole batch would be given.

    Args:
      batch: the axis of the data in `shape`, or of several times as many rows, one batch after the other; None: what is
        drawn does not depend on the data.

    Raises UserError in a part of a batch where `batch` is UNTOLD.
    """
    part = current()
    if part is None or batch is None:
        return draw(shape)
    if not isinstance(batch, int):
        raise UserError("This model, or a part of it, draws noise of which it is not known to what datum it belongs: "
                        "replicas would draw other noise than one device does. Train it on one device "
                        "(--strategy=one).")
    given: Any = shape
    sizes = [given[i] for i in range(given.shape[0] if tf.is_tensor(given) else len(given))]
    before, own, behind = sizes[:batch], sizes[batch], sizes[batch + 1 :]
    known = isinstance(own, int) and isinstance(part.size, int)
    times = own // max(part.size, 1) if known else own // tf.maximum(part.size, 1)
    found = draw(tf.stack([*before, times * part.total, *behind]))
    found = tf.reshape(found, tf.stack([*before, times, part.total, *behind]))
    rows = tf.range(part.offset, part.offset + part.size)
    return tf.reshape(tf.gather(found, rows, axis=batch + 1), shape)


def mean(values: tf.Tensor, weight: Optional[tf.Tensor]) -> tf.Tensor:
    """Returns the mean of values (batch,), weighted where there are weights, a scalar.

    In a part of a batch it is this part's share of the mean over the whole, which is the sum of all shares.
    """
    part = current()
    if weight is None:
        return tf.reduce_mean(values) if part is None else tf.reduce_sum(values) / tf.cast(part.total, values.dtype)
    weight = tf.cast(weight, values.dtype)
    whole = weight if part is None or part.weight is None else tf.cast(part.weight, values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(values * weight), tf.reduce_sum(whole))
