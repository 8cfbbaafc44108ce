"""Arrays that callers give, in the one shape that a model computes with: nothing is left to broadcasting."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import numpy as np
import tensorflow as tf

from pae_zoo.core.errors import UserError

Shape = tuple[Optional[int], ...]
#: what is taken where numbers are given
TensorLike = Union[tf.Tensor, np.ndarray, Sequence[Any], float]


def shaped(x: TensorLike, event_shape: Sequence[int], what: str = "x") -> Any:
    """Returns x as (batch, *event_shape): a tensor for a tensor, else an array.

    Also taken are x without its only channel, (batch, *event_shape[:-1]), and a single datum without the batch axis, of
    either form. Sizes that are unknown while a graph is traced count as a batch, and are checked when it runs. Raises
    UserError for any other shape; `what` is the name in the message.
    """
    event = tuple(int(size) for size in event_shape)
    values: Any = x if tf.is_tensor(x) else np.asarray(x)
    if getattr(values.shape, "rank", 0) is None:
        return tf.ensure_shape(values, (None, *event))
    received, forms = tuple(values.shape), _forms(event)
    form = next((form for form in forms if _fits(received, form)), None)
    if form is None:
        allowed = ", ".join(map(_text, forms[:-1])) + f" or {_text(forms[-1])}"
        raise UserError(f"{what} has shape {_text(received)}; one datum is {_text(event)}. Give {what} as {allowed}.")
    if None in received[1:]:
        values = tf.ensure_shape(values, form)
    if form == forms[0]:
        return values
    sizes = (-1 if form[0] is None else 1, *event)
    return tf.reshape(values, sizes) if tf.is_tensor(values) else values.reshape(sizes)


def ending(values: tf.Tensor, shape: Sequence[int], what: str) -> tf.Tensor:
    """Returns the tensor `values` (..., *shape) as it is; raises UserError where its last axes are not `shape`."""
    shape, rank = tuple(shape), values.shape.rank
    if rank is not None and rank >= len(shape):
        last = tuple(values.shape[rank - len(shape):])
        if last == shape:
            return values
        if None in last and _fits(last, shape):
            return tf.ensure_shape(values, (*values.shape[: rank - len(shape)], *shape))
    received = "an unknown shape" if rank is None else f"shape {_text(tuple(values.shape))}"
    raise UserError(f"{what} has {received}; its last axes must be {_text(shape)}. Give {what} as "
                    f"(..., {', '.join(map(str, shape))}).")


def only_finite(values: tf.Tensor, given: tf.Tensor, axes: int = 1, given_axes: int = 1) -> tf.Tensor:
    """Returns values (..., batch, *a) as they are, but NaN in the rows where `given` (batch, *b) is not all finite.

    `axes` and `given_axes` are how many axes one row has, *a and *b. A network may answer NaN with ordinary numbers:
    where TensorFlow's graph rewriter fuses a dense layer and its relu, the fused operation makes 0 of NaN.
    """
    whole = tf.reduce_all(tf.math.is_finite(given), axis=list(range(-given_axes, 0)))
    return tf.where(whole[(..., *[None] * axes)], values, tf.constant(float("nan"), values.dtype))


def _forms(event: Shape) -> list[Shape]:
    """Returns the shapes that are taken: with the batch axis, then without."""
    events = [event, event[:-1]] if event[-1] == 1 else [event]
    return [*((None, *one) for one in events), *(one for one in events if one)]


def _fits(received: Shape, form: Shape) -> bool:
    return len(received) == len(form) and all(None in (r, f) or r == f for r, f in zip(received, form))


def _text(shape: Shape) -> str:
    words = ["batch" if size is None and not place else "?" if size is None else str(size)
             for place, size in enumerate(shape)]
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"
