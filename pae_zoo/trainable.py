"""What trains step by step: one objective, seeded steps, compiled blocks of steps, Keras' entry points."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf

from pae_zoo import seeds
from pae_zoo.errors import UserError

# Stream numbers folded into a step's seed, so that no two uses of noise share their bits.
PREPROCESS, AUGMENT, VALIDATION = range(1, 4)


def to_float(x, dtype: Optional[tf.DType] = None) -> tf.Tensor:
    """Returns x as floats of `dtype` (None: 64 bits where x has them, else 32): uint8 is divided by 255, others cast.

    Raises UserError for what are no real numbers.
    """
    x = tf.convert_to_tensor(x)
    if not (x.dtype.is_floating or x.dtype.is_integer or x.dtype.is_bool):
        raise UserError(f"Data are real numbers; received values of type {x.dtype.name}. Convert them first.")
    if dtype is None:
        dtype = x.dtype if x.dtype == tf.float64 else tf.float32
    return tf.cast(x, dtype) / 255.0 if x.dtype == tf.uint8 else tf.cast(x, dtype)


class Trainable(keras.Model):
    """A `keras.Model` with its own objective, whose step t draws from the seed (seed, t) alone.

    A subclass defines `objective`, `tracked` and, where it takes statistics from data, `adapt`. Plain `fit` and
    the launcher's blocks of steps (`feeding`) take the same steps.

    Args:
      seed: base of every random number drawn in training.
    """

    #: per-datum terms that `objective` returns besides "loss", tracked as metrics
    tracked: tuple[str, ...] = ()
    #: {a key of metrics.jsonl: the name that the original code gave it in TensorBoard}, written beside our own
    upstream_tags: dict[str, str] = {"train/loss": "train_loss", "valid/loss": "val_loss"}

    def __init__(self, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.seed = int(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.step = self.add_weight(name="step", shape=(), dtype="int64", initializer="zeros", trainable=False)
        self.adapted = self.add_weight(name="adapted", shape=(), dtype="int32", initializer="zeros", trainable=False)
        self._trackers = {n: keras.metrics.Mean(name=n) for n in ("loss", *self.tracked)}
        self._feed = None

    def objective(self, x: tf.Tensor, seed: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        """Returns per-datum terms of shape (batch,), in nats: "loss" (minimised) and `self.tracked`."""
        raise NotImplementedError(f"{type(self).__name__} defines no objective.")

    def adapt(self, x: np.ndarray) -> None:
        """Sets what is taken from training data x before the first step."""
        self.adapted.assign(1)
        self.count_data(len(x))

    @property
    def trained_variables(self) -> list:
        """The variables that a training step changes: all trainable ones, unless a part has a stage of its own."""
        return self.trainable_variables

    @property
    def schedule_steps(self) -> int:
        """Steps after which the objective no longer changes; losses before it do not compare with later ones."""
        return 0

    @property
    def xla_pays(self) -> bool:
        """Whether XLA makes this model's compiled loops faster: not convolutions on a CPU.

        XLA's CPU compiler brings convolutions into the form of its fast kernels at the top of a program alone, not
        in the body of a loop, where they are many times slower than TensorFlow's.
        """
        convolutional = any(len(weight.shape) == 4 for weight in self.trained_variables)
        return not convolutional or bool(tf.config.list_logical_devices("GPU"))

    def next_seed(self, seed=None) -> tf.Tensor:
        """Returns `seed` as a tensor, or a fresh seed of this model's generator when it is None."""
        return seeds.as_seed(self.seed_generator.next() if seed is None else seed)

    @property
    def metrics(self):
        # Keras' own tracker of "loss" is replaced by ours: it would hide the value and log 0.0.
        return list(self._trackers.values())

    def compile(self, optimizer="adam", jit_compile=True, **kwargs) -> None:
        """Keras' compile; the objective is the model's own, so `loss` and `metrics` are refused."""
        for name in ("loss", "metrics", "weighted_metrics"):
            if kwargs.get(name):
                raise UserError(
                    f"{type(self).__name__} has its own objective and metrics {sorted(self._trackers)}; "
                    f"received {name}={kwargs[name]!r}. Leave it out, or override `objective`."
                )
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def fit(self, x=None, *args, **kwargs):
        """Keras' fit; arrays and data sets of x, targets are ignored. Calls `adapt` first if nobody did."""
        if not int(keras.ops.convert_to_numpy(self.adapted)):
            first = first_examples(x)
            self.adapt(first)
            if type(self).count_data is not Trainable.count_data:
                self.count_data(sum(map(len, epoch_of(x, kwargs.get("steps_per_epoch")))))
        if self.compiled and not self.optimizer.built:
            # Here, for a step that makes variables of its own is traced twice.
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trained_variables)
        return super().fit(x, *args, **kwargs)

    def count_data(self, num: int) -> None:
        """Sets the number of training data, for objectives that it matters to."""

    @contextlib.contextmanager
    def feeding(self, feed):
        """Inside, `fit` takes the blocks of batches that a `pae_zoo.data.pipelines.Feed` describes."""
        self._feed = feed
        self.train_function = self.test_function = None
        try:
            yield self
        finally:
            self._feed = None
            self.train_function = self.test_function = None

    def step_seed(self) -> tf.Tensor:
        """Returns the seed (base, t) of training step t, shape (2,), int32."""
        return tf.stack([tf.constant(self.seed & 0x7FFFFFFF, tf.int32), tf.cast(self.step, tf.int32)])

    def update(self, x: tf.Tensor, sample_weight=None) -> tf.Tensor:
        """Takes one optimizer step on the batch x and returns its loss, a scalar."""
        seed = self.step_seed()
        with tf.GradientTape() as tape:
            terms = self.objective(x, seed, training=True)
            loss = _weighted_mean(terms["loss"], sample_weight)
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            scaled = self.optimizer.scale_loss(loss / replicas)
        variables = self.trained_variables
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        self.step.assign_add(1)
        self._track(terms, sample_weight)
        return loss

    def train_step(self, data):
        if self._feed is None:
            x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            self.update(to_float(x), sample_weight)
            return {m.name: m.result() for m in self.metrics}

        def body(i, finite):
            x = to_float(self._feed.batch(data, i))
            if self._feed.augment is not None:
                x = self._feed.augment(x, seeds.fold_in(self.step_seed(), AUGMENT))
            return i + 1, tf.math.is_finite(self.update(x))

        # A loss that is not finite ends the loop, so that `step` tells which step it was.
        tf.while_loop(lambda i, finite: (i < data["count"]) & finite, body, (0, True))
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, data):
        seed = seeds.fold_in((self.seed & 0x7FFFFFFF, 0), VALIDATION)
        if self._feed is None:
            x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            self._track(self.objective(to_float(x), seed, training=False), sample_weight)
            return {m.name: m.result() for m in self.metrics}

        def body(i):
            x = to_float(self._feed.batch(data, i))
            self._track(self.objective(x, seed, training=False), data["weight"][i])
            return (i + 1,)

        tf.while_loop(lambda i: i < data["count"], body, (0,))
        return {m.name: m.result() for m in self.metrics}

    def _track(self, terms: dict[str, tf.Tensor], sample_weight) -> None:
        for name, tracker in self._trackers.items():
            tracker.update_state(terms[name], sample_weight=sample_weight)

    def get_compile_config(self) -> Optional[dict[str, Any]]:
        if not self.compiled:
            return None
        optimizer = keras.saving.serialize_keras_object(self.optimizer)
        return {"optimizer": optimizer, "jit_compile": self.jit_compile, "run_eagerly": self.run_eagerly}

    def compile_from_config(self, config) -> None:
        self.compile(**{**config, "optimizer": keras.saving.deserialize_keras_object(config["optimizer"])})
        self.optimizer.build(self.trained_variables)


def _weighted_mean(values: tf.Tensor, weight) -> tf.Tensor:
    if weight is None:
        return tf.reduce_mean(values)
    weight = tf.cast(weight, values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(values * weight), tf.reduce_sum(weight))


def batches_of(x) -> Iterator[np.ndarray]:
    """Yields what Keras' fit takes as x: an array whole, or the batches of a data set, without their targets."""
    if not isinstance(x, tf.data.Dataset) and hasattr(x, "shape"):
        yield np.asarray(x)
        return
    for batch in x:
        yield np.asarray(batch[0] if isinstance(batch, (tuple, list)) else batch)


def epoch_of(x, steps: Optional[int] = None) -> Iterator[np.ndarray]:
    """Returns the batches of one epoch of what Keras' fit takes as x; raises UserError for a data set without end."""
    if steps:
        return itertools.islice(batches_of(x), steps)
    if isinstance(x, tf.data.Dataset) and int(x.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise UserError("The data set has no end, and the model needs the number of its data. Give fit "
                        "steps_per_epoch, or call adapt with the training data first.")
    return batches_of(x)


def first_examples(x, num: int = 10_000) -> np.ndarray:
    """Returns an array whole, or the first `num` examples of a data set of batches, for `adapt`."""
    batches, count = [], 0
    for batch in batches_of(x):
        batches.append(batch)
        count += len(batch)
        if count >= num:
            break
    return np.concatenate(batches)
