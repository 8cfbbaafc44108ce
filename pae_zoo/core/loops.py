"""What is done in some steps of a loop alone."""

from collections.abc import Callable, Sequence
from typing import Any, Union

import tensorflow as tf


def if_due(due: Union[bool, tf.Tensor], function: Callable[[tf.Tensor], Any],
           old: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the tensors of `function(zero)` where `due` is true, else those of `old`, of the same shapes and types.

    It is a loop of one turn or none: XLA keeps what stays in its place, where a choice of two branches would copy it in
    every step. No gradient goes through it. `zero` is a number, int32, that XLA does not know: what does not depend on
    it is done in every step, since compilers move out of loops what does not change in them. Add it to what the work
    begins with.
    """
    old = [tf.stop_gradient(tf.convert_to_tensor(one)) for one in old]

    def turn(turns, *before):
        found = tf.nest.flatten(function(turns))
        return (tf.constant(1), *(tf.ensure_shape(new, one.shape) for new, one in zip(found, before, strict=True)))

    last = tf.cast(due, tf.int32)
    _, *found = tf.while_loop(lambda turns, *_: turns < last, turn, (tf.constant(0), *old), parallel_iterations=1)
    return [tf.stop_gradient(one) for one in found]
