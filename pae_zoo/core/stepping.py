"""How plain `fit` takes its steps: by XLA where that pays, and then many in one call, else by a graph soon made."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Optional, Union

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core.errors import UserError

AUTO = "auto"
# One call should keep neither a signal nor the progress bar waiting, nor hold many data: the most steps of a call, the
# operations on numbers that it may take (some tenths of a second of a core), and the bytes of its batches.
MOST_STEPS, MOST_OPERATIONS, MOST_BYTES = 64, 3e10, 1 << 24
# So many batches of another size than the first are taken operation by operation, before a graph is made for them.
EAGER_BATCHES = 1
KERAS, GRAPH, BLOCKS = "Keras' own", "a graph", "blocks"


class Plan(NamedTuple):
    """How steps are taken: `kind`, by XLA or not, and so many in a call."""

    kind: str
    jit_compile: bool
    steps: int = 1


class Stepping:
    """Chooses how the steps of a model's plain `fit` are taken, for one `compile` of it.

    Args:
      asked: whether XLA compiles them, or "auto".
    """

    def __init__(self, asked: Union[bool, str] = AUTO):
        self.asked = asked
        self._met, self._plan = 0, Plan(KERAS, False)
        self._made: Optional[Plan] = None  # what the model's train function is made for

    def first_choice(self, model: Any, run_eagerly: bool) -> bool:
        """Returns whether XLA compiles steps whose number nobody knows."""
        return bool(self.asked) if self.asked != AUTO else model.xla_pays and not run_eagerly

    def _settle(self, model: Any, steps: Optional[int], source: Any, batch_size: Optional[int]) -> bool:
        """Sets whether XLA compiles what is made next, where that is "auto"; returns whether steps are too few."""
        few = _few(model, steps, source, batch_size)
        if self.asked == AUTO:
            model.jit_compile = not model.run_eagerly and model.xla_pays and not few
        return few

    @contextlib.contextmanager
    def fitting(self, model: Any, source: Any, batch_size: Optional[int], steps: Optional[int],
                given: dict[str, Any]) -> Iterator[None]:
        """Inside, Keras' fit takes its steps as is best for its arguments: `given`, and `steps` of an epoch."""
        if not model.compiled:  # as Keras says
            yield
            return
        batches = steps or source.num_batches(batch_size)
        self._met += (batches or 0) * (given["epochs"] - given.get("initial_epoch", 0))
        few = self._settle(model, batches and self._met, source, batch_size)
        self._plan = plan = _plan(model, source, batch_size, batches, given["callbacks"], bool(steps))
        if model.strategy is not None:
            # Replicas have steps of their own (`pae_zoo.core.replicas`), after as many looks at data, which may come in
            # another order after each.
            model.jit_compile, self._plan = False, Plan(KERAS, False)
            yield
            return
        if plan != self._made:
            model.train_function, self._made = None, plan
        if plan.kind == BLOCKS:
            given["callbacks"] = _with_progress(given["callbacks"], given["verbose"])
            model.steps_per_execution = plan.steps
        try:
            with _unoptimised(few and plan == Plan(GRAPH, False)):
                yield
        finally:
            self._plan = Plan(KERAS, False)
            if plan.kind == BLOCKS:
                model.steps_per_execution = 1

    @contextlib.contextmanager
    def judging(self, model: Any, source: Any, batch_size: Optional[int], steps: Optional[int]) -> Iterator[None]:
        """Inside, Keras' evaluate goes by XLA or not, as is best for so many batches."""
        if not model.compiled:
            yield
            return
        batches, before = steps or source.num_batches(batch_size), model.jit_compile
        few = self._settle(model, batches, source, batch_size)
        if model.strategy is not None:
            model.jit_compile = False
            yield
            return
        if model.test_function is not None:
            model.jit_compile = before
        with _unoptimised(few and not model.jit_compile):
            yield

    def train_function(self, model: Any) -> Optional[Callable]:
        """Returns what takes the place of Keras' train function in this `fit`; None where its own does."""
        if self._plan.kind == BLOCKS:
            model.steps_per_execution = 1  # the epoch's iterator is made; validation goes batch by batch
            return _by_blocks(model, self._plan.steps)
        return _by_steps(model, self._plan.jit_compile) if self._plan.kind == GRAPH else None


def _few(model: Any, steps: Optional[int], source: Any, batch_size: Optional[int]) -> bool:
    """Whether to compile takes longer than it saves in so many steps (None: unknown), of dense networks on a CPU."""
    if steps is None or on_gpu() or not model.xla_pays:
        return False
    return not model.xla_saves(steps, (source.size_of_batch(batch_size) or 0) * math.prod(model.event_shape))


def on_gpu() -> bool:
    """Whether TensorFlow computes on a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


def _plan(model: Any, source: Any, batch_size: Optional[int], batches: Optional[int], callbacks: Any,
          exact: bool) -> Plan:
    """Returns how steps are taken; `exact`: an epoch may end before the data, so that calls are equally long."""
    xla = bool(model.jit_compile)
    if on_gpu() or model.run_eagerly or model.steps_per_execution != 1 or not source.is_dataset:
        return Plan(KERAS, xla)
    size = source.size_of_batch(batch_size)
    if not (xla and batches and size) or _watched(callbacks):
        return Plan(GRAPH, xla)
    numbers = sum(int(np.prod(weight.shape)) for weight in model.trained_variables)
    most = int(min(MOST_STEPS, batches, MOST_OPERATIONS / (6 * size * numbers),
                   MOST_BYTES / (4 * size * math.prod(model.event_shape))))  # fmt: skip
    if most > 1 and exact:
        most = max(number for number in range(1, most + 1) if batches % number == 0)
    if most < 2:
        return Plan(GRAPH, xla)
    return Plan(BLOCKS, xla, math.ceil(batches / math.ceil(batches / most)))


def _watched(callbacks: Any) -> bool:
    """Whether a callback is called at single steps of the training."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return True
    hooks = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
    for one in keras.tree.flatten(callbacks or []):
        by_epoch = "epoch" in (getattr(one, "save_freq", None), getattr(one, "update_freq", None))
        if by_epoch or isinstance(one, keras.callbacks.ProgbarLogger):
            continue
        if any(getattr(getattr(one, name), "__func__", None) is not getattr(keras.callbacks.Callback, name)
               for name in hooks):  # fmt: skip
            return True
    return False


def joined(callbacks: Any, more: list[keras.callbacks.Callback]) -> Any:
    """Returns the callbacks of a caller, in any form that Keras takes, with more."""
    if not more:
        return callbacks
    if isinstance(callbacks, keras.callbacks.CallbackList):
        for callback in more:
            callback.set_model(callbacks.model)
            callback.set_params(callbacks.params)
            callbacks.callbacks.append(callback)
        return callbacks
    return [*keras.tree.flatten(callbacks or []), *more]


def direct(callbacks: Any, model: str, metrics: Sequence[str], higher_is_better: Sequence[str]) -> None:
    """Tells callbacks with mode "auto" which way the metrics of a model that they monitor are better.

    Raises UserError for an EarlyStopping that monitors none of them.
    """
    for callback in keras.tree.flatten(getattr(callbacks, "callbacks", callbacks) or []):
        if getattr(callback, "mode", None) != "auto":
            continue
        name = str(getattr(callback, "monitor", "")).removeprefix("val_")
        if name in metrics:
            callback.mode = "max" if name in higher_is_better else "min"
        elif isinstance(callback, keras.callbacks.EarlyStopping):
            raise UserError(f"monitor={callback.monitor!r} is no metric of {model}; there are {', '.join(metrics)}, "
                            "and val_ before them. Or set the mode, min or max.")


class _Progress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar, whose last call may be shorter than the others."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(batch if self.target is None else min(batch, self.target - 1), logs)


def _with_progress(callbacks: Any, verbose: Any) -> list[keras.callbacks.Callback]:
    """Returns callbacks with a progress bar that counts steps, not calls, where Keras would add its own."""
    found = keras.tree.flatten(callbacks or [])
    known = not verbose or any(isinstance(one, keras.callbacks.ProgbarLogger) for one in found)
    return found if known else [*found, _Progress()]


@contextlib.contextmanager
def _unoptimised(wanted: bool) -> Iterator[None]:
    """Inside, graphs run as they are built: TensorFlow's rewriting takes longer than it saves in few steps."""
    if not wanted:
        yield
        return
    before = tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": before})


# ---- train functions -----------------------------------------------------------------------------------


def _small(model: Any) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Returns a model's step as it is traced for a graph without XLA."""
    def step(data: Any) -> dict[str, tf.Tensor]:
        with model.tracing_small(), _fused(model.optimizer):
            return model.train_step(data)

    return step


def _by_steps(model: Any, xla: bool) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Returns a train function that takes one batch: of the first size by a graph for just that, others without XLA.

    Where sizes are known a graph has half the operations.
    """
    step = tf.function(model.train_step if xla else _small(model), jit_compile=xla, autograph=False)
    other, sizes = _others(model), []

    def function(iterator: Any) -> dict[str, tf.Tensor]:
        data = next(iter(iterator))
        size = tf.nest.flatten(data)[0].shape[0]
        sizes[:] = sizes or [size]
        return (step if size == sizes[0] else other)(data)

    return function


def _others(model: Any) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Returns what takes a step on a batch of any size: the first few operation by operation, then by a graph."""
    step = _small(model)
    graph = tf.function(step, reduce_retracing=True, autograph=False)
    eager = iter(range(EAGER_BATCHES))
    return lambda data: graph(data) if next(eager, None) is None else step(data)


def _by_blocks(model: Any, steps: int) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Returns a train function that takes `steps` batches, or those that are left, in one call.

    Batches of the first size are steps of one XLA program, others are taken without XLA, which would compile anew.
    """
    @tf.function(jit_compile=True, reduce_retracing=True, autograph=False)
    def block(data: Any, count: tf.Tensor) -> dict[str, tf.Tensor]:
        def body(i: tf.Tensor) -> tuple:
            model.train_step(tf.nest.map_structure(lambda part: part[i], data))
            return (i + 1,)

        tf.while_loop(lambda i: i < count, body, (0,))
        return {metric.name: metric.result() for metric in model.metrics}

    other, sizes = _others(model), []

    def function(iterator: Any) -> dict[str, tf.Tensor]:
        if not isinstance(iterator, tf.data.Iterator):  # a batch by itself
            return other(next(iter(iterator)))
        rows, lengths = _gather(iterator, steps)
        logs, start = None, 0
        for size, group in itertools.groupby(lengths.numpy()):
            count = len(list(group))
            sizes[:] = sizes or [size]
            if size == sizes[0]:
                part = _cut(rows, start, start + count * size)
                logs = block(_blocks(part, size, steps, count), tf.constant(count))
            else:
                for first in range(start, start + count * size, size):
                    logs = other(_cut(rows, first, first + size))
            start += count * size
        if logs is None:
            raise StopIteration
        return logs

    return function


def _cut(data: Any, start: int, stop: int) -> Any:
    return tf.nest.map_structure(lambda rows: rows[start:stop], data)


def _blocks(data: Any, size: int, steps: int, count: int) -> Any:
    """Returns rows (count * size, ...) as (steps, size, ...), padded with zeros."""
    def cut(rows: tf.Tensor) -> tf.Tensor:
        found = tf.reshape(rows, (count, size, *rows.shape[1:]))
        return found if count == steps else tf.pad(found, [[0, steps - count], *[[0, 0]] * (len(found.shape) - 1)])

    return tf.nest.map_structure(cut, data)


@tf.function(reduce_retracing=True, autograph=False)
def _gather(iterator: Any, most: int) -> tuple:
    """Returns up to `most` batches of an iterator, one after the other, and the length of each."""
    specs = tf.nest.flatten(iterator.element_spec)
    arrays = [tf.TensorArray(spec.dtype, 0, dynamic_size=True, element_shape=spec.shape, infer_shape=False)
              for spec in specs]

    def body(i: tf.Tensor, given: Any, lengths: tf.TensorArray, arrays: list) -> tuple:
        parts = tf.nest.flatten(given.get_value())
        following = tf.cond(i + 1 < most, iterator.get_next_as_optional, lambda: given)
        return (i + 1, following, lengths.write(i, tf.shape(parts[0])[0]),
                [array.write(i, part) for array, part in zip(arrays, parts)])

    lengths = tf.TensorArray(tf.int32, 0, dynamic_size=True, element_shape=())
    _, _, lengths, arrays = tf.while_loop(lambda i, given, *_: (i < most) & given.has_value(), body,
                                          (0, iterator.get_next_as_optional(), lengths, arrays))
    rows = [array.concat() for array in arrays]
    return tf.nest.pack_sequence_as(iterator.element_spec, rows), lengths.stack()


# ---- Adam ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _fused(optimizer: Any) -> Iterator[None]:
    """Inside, Keras' Adam takes one operation for a variable, in place of two dozen that compute the same."""
    plain = type(optimizer) in (keras.optimizers.Adam, keras.optimizers.AdamW) and not optimizer.amsgrad
    if not plain:
        yield
        return
    known: dict[Any, list[tf.Tensor]] = {}

    def update_step(gradient: tf.Tensor, variable: Any, rate: Any) -> None:
        dtype = variable.dtype
        kind = (dtype, tf.compat.v1.get_default_graph())  # each branch of a choice has its own
        if kind not in known:
            step = tf.cast(optimizer.iterations.value + 1, dtype)
            known[kind] = [tf.pow(tf.cast(beta, dtype), step) for beta in (optimizer.beta_1, optimizer.beta_2)]
            known[kind].append(tf.cast(rate, dtype))
        first, second, rate = known[kind]
        index = optimizer._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=optimizer._momentums[index].value.handle,
            v=optimizer._velocities[index].value.handle, beta1_power=first, beta2_power=second, lr=rate,
            beta1=tf.cast(optimizer.beta_1, dtype), beta2=tf.cast(optimizer.beta_2, dtype),
            epsilon=tf.cast(optimizer.epsilon, dtype), grad=tf.convert_to_tensor(tf.cast(gradient, dtype)))

    optimizer.update_step = update_step
    try:
        yield
    finally:
        del optimizer.update_step
