"""Steps that several replicas share: each takes a part of the batch, and together they do what one device would."""

import contextlib
import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core import parts
from pae_zoo.core.errors import UserError

ONE_DEVICE = "Train it on one device: without a strategy's scope, or by --strategy=one"


class Mean(keras.metrics.Mean):
    """Keras' mean, of values that are the same on all replicas: none is read from more than one."""

    def add_variable(self, shape: Any, initializer: Any, dtype: Any = None, aggregation: str = "none",
                     name: Optional[str] = None) -> keras.Variable:
        """Returns a variable that each replica keeps for itself, where Keras' own would be the sum over all."""
        with keras.name_scope(self.name.replace("/", ">"), caller=self):
            variable = keras.Variable(initializer=keras.initializers.get(initializer), shape=shape, dtype=dtype,
                                      trainable=False, aggregation="none", name=name)
        self._tracker.add_to_store("variables", variable)
        return variable


class WholeBatches:
    """A strategy as Keras' loops see it: data are not handed out, for every replica takes its own rows of a batch."""

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy

    def experimental_distribute_dataset(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Returns the data set: all of every batch."""
        return dataset

    def run(self, function: Callable, args: tuple = ()) -> Any:
        """Calls a function here: what only reads the weights needs no replicas."""
        return function(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)


class Replicated(keras.Model):
    """What of a model knows of replicas: made in a strategy's scope it trains by `tf.distribute`, as on one device.

    Every process reads every batch; replica r of R takes rows [r n / R, (r + 1) n / R). Noise is drawn as for the whole
    batch, the loss is the mean over it and gradients are summed before they are clipped, so that only rounding depends
    on R.
    """

    #: whether a part of a batch has the same share of loss, noise and state as it has in the whole batch
    divides = False

    @property
    def strategy(self) -> Optional[tf.distribute.Strategy]:
        """The strategy in whose scope the model was made, None without one."""
        return self._distribute_strategy

    @property
    def distribute_strategy(self) -> Any:
        """What Keras' loops take for the strategy: it leaves batches whole."""
        found = self._distribute_strategy
        return tf.distribute.get_strategy() if found is None else WholeBatches(found)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Keras would read a batch here, after which a data set that is shuffled anew each time has another order."""
        if self.strategy is None:
            super()._maybe_symbolic_build(iterator, data_batch)

    def scope(self) -> contextlib.AbstractContextManager:
        """Returns the scope of the model's strategy, in which its variables are made."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    @property
    def not_divided(self) -> str:
        """Why replicas cannot share a batch of this model; empty where they can."""
        return "" if self.divides else "its step has not been made for a part of a batch"

    def check_replicas(self) -> None:
        """Raises UserError for a model in a strategy's scope that cannot train there, or parts made outside."""
        if self.strategy is None:
            return
        reason = self.not_divided or _coupled(self)
        if reason:
            raise UserError(f"{type(self).__name__} cannot be trained by replicas that share its batches: {reason}. "
                            f"{ONE_DEVICE}.")
        outside = [one.path for one in self.variables if not isinstance(one.value, tf.distribute.DistributedValues)]
        if outside and not isinstance(self.strategy, tf.distribute.OneDeviceStrategy):
            raise UserError(f"{len(outside)} weights of {type(self).__name__} were made outside of the strategy's "
                            f"scope, such as {outside[0]}. Build its networks inside of `with strategy.scope():` too.")
        optimizer = getattr(self, "optimizer", None)
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise UserError("Replicas cannot share the batches where the loss is scaled, as it is in mixed_float16. "
                            "Take mixed_bfloat16 or float32.")
        if optimizer is not None and getattr(optimizer, "_distribution_strategy", None) is not self.strategy:
            raise UserError(f"The optimizer of {type(self).__name__} was made outside of the strategy's scope. Make "
                            "it inside of `with strategy.scope():`, or give compile its name.")

    def phase(self) -> Any:
        """Returns what kind of step comes next, where there are several: each has a graph of its own."""
        return None

    def in_phase(self, phase: Any) -> contextlib.AbstractContextManager:
        """Returns a context in which a step of that kind is traced."""
        return contextlib.nullcontext()

    def batches_in(self, data: Any) -> int:
        """Returns how many batches there are in what an iterator gives."""
        return 1

    def whole(self, data: Any, i: Any, training: bool) -> tuple[Any, Any, Any, Any]:
        """Returns (x, weights, target, labels) of batch i of a block, or of a batch, as a step takes them."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its batches are.")

    def update(self, x: tf.Tensor, sample_weight: Any = None, target: Any = None, label: Any = None) -> Any:
        """Takes a training step on a batch, or a replica's share of one."""
        raise NotImplementedError(f"{type(self).__name__} takes no steps.")

    def test_part(self, number: tf.Tensor, x: tf.Tensor, weight: Any, target: Any, label: Any) -> None:
        """Takes a replica's share of batch `number` of a validation."""
        raise NotImplementedError(f"{type(self).__name__} has no validation.")


def _coupled(model: keras.Model) -> str:
    """Returns which layer couples the data of a batch, or draws noise of its own; empty without one."""
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.BatchNormalization):
            return f"layer {layer.name} normalises by the batch, of which a replica sees a part"
        if isinstance(layer, keras.layers.Layer) and not isinstance(layer, Replicated) and any(
                isinstance(one, keras.random.SeedGenerator) for one in vars(layer).values()):
            return f"layer {layer.name} draws noise from a state of its own; take pae_zoo.networks.Dropout"
    return ""


def value(variable: Any) -> np.ndarray:
    """Returns the value of a variable, of any replica that has it."""
    return np.array(tf.convert_to_tensor(variable))


def sum_of_all(values: Any) -> Any:
    """Returns the sums over replicas of a nest of tensors, None where there is none; without replicas what is given."""
    if parts.current() is None:
        return values
    flat = tf.nest.flatten(values)
    there = [tf.convert_to_tensor(one) for one in flat if one is not None]
    context = tf.distribute.get_replica_context()
    summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, there) if there else [])
    return tf.nest.pack_sequence_as(values, [None if one is None else next(summed) for one in flat])


def means_of_all(values: list, weight: Optional[tf.Tensor]) -> tuple[list, Any]:
    """Returns (values, weights) for metrics of values (batch,): of replicas the means, and the weight of the whole.

    So what a metric holds is the same on all replicas, and one can read it, for a checkpoint, without the others.
    """
    part = parts.current()
    if part is None:
        return values, weight
    ones = tf.ones((part.size,)) if weight is None else tf.cast(weight, tf.float32)
    total = tf.cast(part.total, tf.float32) if part.weight is None else tf.reduce_sum(tf.cast(part.weight, tf.float32))
    sums = sum_of_all(tf.stack([tf.reduce_sum(tf.cast(one, tf.float32) * ones) for one in values]))
    return tf.unstack(tf.math.divide_no_nan(sums, total)), total


@contextlib.contextmanager
def _summed(optimizer: Any) -> Iterator[None]:
    """Inside, an optimizer takes gradients that are summed over replicas already: Keras clips before it sums."""
    optimizer._all_reduce_sum_gradients = lambda grads_and_vars: list(grads_and_vars)
    try:
        yield
    finally:
        del optimizer._all_reduce_sum_gradients


@contextlib.contextmanager
def _part_of(strategy: tf.distribute.Strategy, x: tf.Tensor, weight: Optional[tf.Tensor]) -> Iterator[parts.Part]:
    """Inside, the replica at hand computes its part of the batch x."""
    number = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
    total = x.shape[0] if x.shape[0] is not None else tf.shape(x)[0]
    offset, size = parts.divided(int(number), strategy.num_replicas_in_sync, total)
    with parts.taken(parts.Part(offset, size, total, x, weight)) as part:
        yield part


def train_function(model: Replicated) -> Callable[[Any], dict[str, Any]]:
    """Returns a train function as Keras takes one: every batch of what an iterator gives next, by all replicas."""
    strategy, steps = model.strategy, {}
    assert strategy is not None

    def compiled(phase: Any) -> Callable:
        def step(data: Any, i: tf.Tensor) -> dict[str, tf.Tensor]:
            def replica(data: Any, i: tf.Tensor) -> None:
                x, weight, target, label = model.whole(data, i, True)
                with _part_of(strategy, x, weight) as part:
                    model.update(*(part.rows(one) for one in (x, weight, target, label)))

            with model.in_phase(phase), _summed(model.optimizer):
                strategy.run(replica, args=(data, i))
            return _results(model)

        return step if model.run_eagerly else tf.function(step, reduce_retracing=True, autograph=False)

    def take(data: Any) -> dict[str, Any]:
        logs: Any = None
        for i in range(model.batches_in(data)):
            phase = model.phase()
            if phase not in steps:
                steps[phase] = compiled(phase)
            logs = steps[phase](data, tf.constant(i))
            if not np.isfinite(float(logs["loss"])):  # the step that it happened in is told
                break
        return logs

    seen: list[bool] = []

    def function(iterator: Any) -> dict[str, Any]:
        logs: Any = None
        for data in itertools.islice(iter(iterator), model.steps_per_execution):
            if not seen:
                _check_same_data(strategy, data)
                seen.append(True)
            logs = _results(model) if _weighs_nothing(data) else take(data)
        if logs is None:
            raise StopIteration
        return logs

    return function


def _results(model: Replicated) -> dict[str, Any]:
    return {metric.name: metric.result() for metric in model.metrics}


def _weighs_nothing(data: Any) -> bool:
    """Whether a batch has weights, all of them 0: it takes no step."""
    weight = data[2] if isinstance(data, tuple) and len(data) > 2 else None
    return weight is not None and not np.any(keras.ops.convert_to_numpy(weight))


def gathered(strategy: tf.distribute.Strategy, numbers: Sequence[int]) -> list[list[int]]:
    """Returns 31-bit numbers of every process that shares a strategy, in order."""
    @tf.function(autograph=False)
    def gather() -> Any:
        def replica() -> tf.Tensor:
            context: Any = tf.distribute.get_replica_context()
            return context.all_gather(tf.constant([numbers], tf.int32), axis=0)

        return strategy.run(replica)

    rows = strategy.experimental_local_results(gather())[0].numpy()
    return rows[:: len(strategy.extended.worker_devices)].tolist()


def processes(strategy: tf.distribute.Strategy) -> int:
    """Returns how many processes share a strategy."""
    return strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)


def _check_same_data(strategy: tf.distribute.Strategy, data: Any) -> None:
    """Raises UserError, in all processes, where their first batches differ."""
    if processes(strategy) == 1:
        return
    bits = b"".join(value(one).tobytes() for one in tf.nest.flatten(data) if one is not None)
    found = gathered(strategy, [zlib.crc32(bits) & 0x7FFFFFFF])
    if any(one != found[0] for one in found):
        raise UserError("The processes that share this training read different data, or in another order. Give all of "
                        "them the same: arrays with shuffle=False, or a tf.data.Dataset that is shuffled with a seed.")


def test_function(model: Replicated) -> Callable[[Any], dict[str, Any]]:
    """Returns a test function as Keras takes one, which replicas share as they share training."""
    strategy = model.strategy
    assert strategy is not None

    def step(data: Any, i: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
        def replica(data: Any, i: tf.Tensor, number: tf.Tensor) -> None:
            x, weight, target, label = model.whole(data, i, False)
            with _part_of(strategy, x, weight) as part:
                model.test_part(number, *(part.rows(one) for one in (x, weight, target, label)))

        strategy.run(replica, args=(data, i, number))
        return {metric.name: metric.result() for metric in model._trackers.values()}

    step = step if model.run_eagerly else tf.function(step, reduce_retracing=True, autograph=False)

    def function(iterator: Any) -> dict[str, Any]:
        logs: Any = None
        for data in itertools.islice(iter(iterator), model.steps_per_execution):
            for i in range(model.batches_in(data)):
                number = value(model._batches)
                logs = step(data, tf.constant(i), tf.constant(number))
                model._batches.assign(number + 1)
        if logs is None:
            raise StopIteration
        return logs

    return function
