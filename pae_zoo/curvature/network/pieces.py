"""Sums that are taken piece by piece, so that no temporary tensor is larger than it may be."""

import contextlib
import threading
from typing import Any, Callable, Iterator, Sequence, Union

import tensorflow as tf

# Largest temporary tensor of a rule that can work through a batch piece by piece, in bytes.
WORK_BYTES = 64 * 2**20
_work = threading.local()


@contextlib.contextmanager
def work_bytes(limit: int) -> Iterator[None]:
    """Inside, while functions are traced too, rules keep their temporary tensors below `limit` bytes if they can."""
    former = work_limit()
    _work.limit = limit
    try:
        yield
    finally:
        _work.limit = former


def work_limit() -> int:
    """Returns the limit that `work_bytes` has set."""
    return getattr(_work, "limit", WORK_BYTES)


def size(tensor: tf.Tensor, axis: int) -> Union[int, tf.Tensor]:
    """Returns a size of a tensor, as an int where it is known."""
    known = tensor.shape[axis]
    return tf.shape(tensor)[axis] if known is None else int(known)


def total(
    function: Callable[[tf.Tensor], Sequence[tf.Tensor]],
    num_pieces: Union[int, tf.Tensor],
    shapes: Sequence[Sequence[int]],
    dtype: tf.DType,
) -> list[tf.Tensor]:
    """Returns the sums over i < num_pieces of the tensors function(i), which have the given shapes."""
    if isinstance(num_pieces, int) and num_pieces == 1:
        return list(function(tf.constant(0)))

    def add(index, sums):
        return index + 1, [one + more for one, more in zip(sums, function(index))]

    zeros = [tf.zeros(shape, dtype) for shape in shapes]
    state = (tf.constant(0), zeros)
    return list(tf.while_loop(lambda index, _: index < num_pieces, add, state, parallel_iterations=1)[1])


def one_by_one(function: Callable, elements: Any, signature: Any) -> Any:
    """Returns function(row) for the rows of `elements`, tensors (n, ...), stacked: (n, ...).

    One row after another, so that memory is that of one. signature: dtype or `tf.TensorSpec` of one result.
    """
    # Outside of functions TensorFlow would rewrite all that is called, which takes longer than running it.
    plain = tf.autograph.experimental.do_not_convert(function)
    return tf.map_fn(plain, elements, fn_output_signature=signature, parallel_iterations=1)


def over_batch(
    function: Callable[[tf.Tensor, tf.Tensor], Sequence[tf.Tensor]],
    a: tf.Tensor,
    delta: tf.Tensor,
    shapes: Sequence[Sequence[int]],
    datum_bytes: int,
) -> list[tf.Tensor]:
    """Returns function(a, delta), a list of sums over data and rows, for a (B, ...) and delta (R, B, ...) in pieces.

    `datum_bytes` are what the function takes for one datum and all R rows. A datum that takes more than the limit is
    worked through a few rows at a time.
    """
    num_data, num_rows = size(a, 0), size(delta, 0)
    piece = work_limit() // max(datum_bytes, 1)
    if isinstance(num_data, int) and piece >= num_data:
        return list(function(a, delta))
    if piece == 0 and isinstance(num_rows, int) and num_rows > 1:
        rows = max(1, num_rows * work_limit() // datum_bytes)
        padded = pad(delta, 0, rows)

        def some_rows(index):
            part = cut(padded, 0, index, rows)
            return over_batch(function, a, part, shapes, max(1, datum_bytes * rows // num_rows))

        return total(some_rows, -(-num_rows // rows), shapes, a.dtype)
    piece = max(piece, 1)
    padded_a, padded_delta = pad(a, 0, piece), pad(delta, 1, piece)
    return total(
        lambda index: function(cut(padded_a, 0, index, piece), cut(padded_delta, 1, index, piece)),
        -(-num_data // piece),
        shapes,
        a.dtype,
    )


def pad(tensor: tf.Tensor, axis: int, piece: int) -> tf.Tensor:
    """Returns a tensor with zeros appended along an axis until pieces of the given size divide it."""
    missing = -size(tensor, axis) % piece
    if isinstance(missing, int) and missing == 0:
        return tensor
    return tf.pad(tensor, [[0, missing if index == axis else 0] for index in range(tensor.shape.rank)])


def cut(tensor: tf.Tensor, axis: int, index: tf.Tensor, piece: int) -> tf.Tensor:
    """Returns piece number `index` of a tensor along an axis."""
    begin = [index * piece if i == axis else 0 for i in range(tensor.shape.rank)]
    sizes = [piece if i == axis else size(tensor, i) for i in range(tensor.shape.rank)]
    return tf.slice(tensor, begin, sizes)
