"""Stateless random numbers: the same pair of integers gives the same draw, eagerly and under XLA.

A seed is a pair of integers; one integer n stands for (n, 0). TensorFlow's own float draws differ between eager and
XLA even with `alg="philox"`; the raw Philox bits do not, so every draw here is made from bits.
"""

import zlib
from typing import Any, Optional, Sequence, Union

import numpy as np
import tensorflow as tf

from pae_zoo.core import parts
from pae_zoo.core.errors import UserError

Seed = Union[int, tf.Tensor, Sequence[int]]

_ALG = "philox"


def as_seed(seed: Any) -> tf.Tensor:
    """Returns `seed` as an int32 tensor of shape (2,): one integer n is the pair (n, 0).

    Integers are Python's, NumPy's or tensors of integers, taken modulo 2^32. Raises UserError for anything else.
    """
    if not tf.is_tensor(seed):
        words = np.array(seed, object)
        whole = all(isinstance(word, (int, np.integer)) and not isinstance(word, bool) for word in words.ravel())
        if words.shape not in ((), (2,)) or not whole:
            raise UserError(f"A seed is one integer or a pair of integers, such as (0, 1); received {seed!r}.")
        words = [int(word) & 0xFFFFFFFF for word in (*words.ravel(), 0)][:2]
        return tf.constant([word - (1 << 32) if word >= 1 << 31 else word for word in words], tf.int32)
    if not seed.dtype.is_integer or not any(seed.shape.is_compatible_with(shape) for shape in ((), (2,))):
        raise UserError("A seed is one integer or a pair of integers, shape () or (2,); received a tensor of type "
                        f"{seed.dtype.name} and shape {seed.shape}.")
    seed = tf.stack([seed, tf.zeros_like(seed)]) if seed.shape.rank == 0 else tf.ensure_shape(seed, (2,))
    if seed.dtype == tf.int32:
        return seed
    if seed.dtype == tf.uint32:
        return tf.bitcast(seed, tf.int32)
    return tf.cast(tf.bitwise.bitwise_and(tf.cast(seed, tf.int64), 0x7FFFFFFF), tf.int32)


def integer(*words: int) -> int:
    """Returns a 31-bit integer made from non-negative integers, for Keras' initialisers."""
    return int(np.random.SeedSequence(words).generate_state(1)[0] & 0x7FFFFFFF)


def split(seed: Seed, num: int) -> list[tf.Tensor]:
    """Returns `num` independent seeds, each of shape (2,)."""
    return tf.unstack(tf.random.split(as_seed(seed), num, alg=_ALG), num=num)


def fold_in(seed: Seed, data: Union[int, tf.Tensor]) -> tf.Tensor:
    """Returns a seed of shape (2,) that depends on `seed` and the integer `data`."""
    seed, data = as_seed(seed), tf.cast(data, tf.int32)
    return _traced_fold_in(seed, data) if tf.executing_eagerly() else _fold_in(seed, data)


def stream(seed: Seed, name: str) -> tf.Tensor:
    """Returns the seed (2,) of one named use of noise, such as "lae/probes": others share no bits with it.

    Examples:
      >>> noise = normal((2, 3), stream((0, 1), "my_model/noise"))
      >>> same = normal((2, 3), stream((0, 1), "my_model/noise"))
      >>> other = normal((2, 3), stream((0, 1), "my_model/other"))
      >>> bool(tf.reduce_all(noise == same)), bool(tf.reduce_any(noise == other))
      (True, False)
    """
    return fold_in(seed, number_of(name))


def number_of(name: str) -> int:
    """Returns the 31-bit number that stands for the name of a stream."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def _bits(shape, seed: Seed) -> tf.Tensor:
    if tf.executing_eagerly():
        return _traced_integers(tf.cast(shape, tf.int32), as_seed(seed))
    return _integers(shape, as_seed(seed))


def _fold_in(seed, data):
    return tf.random.fold_in(seed, data, alg=_ALG)


def _integers(shape, seed):
    return tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.int32, alg=_ALG)


# TensorFlow makes a key of a seed by two dozen operations, which one by one take longer than all else here.
_SEED = tf.TensorSpec((2,), tf.int32)
_traced_fold_in = tf.function(_fold_in, [_SEED, tf.TensorSpec((), tf.int32)], autograph=False)
_traced_integers = tf.function(_integers, [tf.TensorSpec([None], tf.int32), _SEED], autograph=False)


def uniform(shape: Union[Sequence[Any], tf.Tensor], seed: Seed, dtype: tf.DType = tf.float32,
            batch: Union[int, None, str] = parts.UNTOLD) -> tf.Tensor:
    """Draws from the open interval (0, 1), in steps of 2^-23, with the given shape.

    `batch`: which axis is that of the data, None where none is: what replicas need that share a batch, see
    `pae_zoo.core.parts.drawn`.
    """
    top = parts.drawn(lambda sizes: _bits(sizes, seed), shape, batch)
    top = tf.bitwise.right_shift(tf.bitcast(top, tf.uint32), tf.constant(9, tf.uint32))
    return (tf.cast(tf.cast(top, tf.int32), dtype) + 0.5) * tf.cast(2.0**-23, dtype)


def normal(shape: Union[Sequence[Any], tf.Tensor], seed: Seed, dtype: tf.DType = tf.float32,
           batch: Union[int, None, str] = parts.UNTOLD) -> tf.Tensor:
    """Draws from the standard normal by inversion, with the given shape (|value| < 5.3); `batch` as in `uniform`.

    The first rows do not depend on how many rows are drawn, so a padded batch sees the same noise.
    """
    return tf.math.ndtri(uniform(shape, seed, dtype, batch))


def permutation(num: int, seed: Seed, batch: Optional[str] = parts.UNTOLD) -> tf.Tensor:
    """Returns a random permutation of range(num), int64, shape (num,); `batch` None: `num` is not of a part's rows.

    Examples:
      >>> sorted(permutation(5, seed=7).numpy().tolist())
      [0, 1, 2, 3, 4]
    """
    return tf.argsort(tf.cast(parts.drawn(lambda sizes: _bits(sizes, seed), [num], batch), tf.int64), stable=True)
