"""What trains step by step: one objective, seeded steps, compiled blocks of steps, Keras' entry points."""

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional, Union

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core import fit_data, parts, replicas, seeds
from pae_zoo.core.averaging import Averages
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.core.norms import Norms
from pae_zoo.core.stepping import AUTO, Stepping, direct, joined

# Streams of a step's seed; each model has others, under names that begin with its own.
PREPROCESS, AUGMENT, VALIDATION = "preprocess", "augment", "validation"
# Training data that `adapt` is given.
ADAPT_DATA = 10_000
# Validation data that `prepare` is given.
MOST_PREPARED = 10_000_000
# Steps of dense networks from which XLA saves, on a CPU, what it takes to compile them: 2.7 ms a step, and 5.5 s.
XLA_STEPS = 2000


def to_float(x: TensorLike, dtype: Optional[tf.DType] = None) -> tf.Tensor:
    """Returns x as floats of `dtype` (None: 64 bits where x has them, else 32): uint8 is divided by 255, others cast.

    Raises UserError for what are no real numbers.
    """
    values: tf.Tensor = tf.convert_to_tensor(x)
    if not (values.dtype.is_floating or values.dtype.is_integer or values.dtype.is_bool):
        raise UserError(f"Data are real numbers; received values of type {values.dtype.name}. Convert them first.")
    if dtype is None:
        dtype = values.dtype if values.dtype == tf.float64 else tf.float32
    return tf.cast(values, dtype) / 255.0 if values.dtype == tf.uint8 else tf.cast(values, dtype)


class Trainable(replicas.Replicated):
    """A `keras.Model` with its own objective, whose step t draws from the seed (seed, t) alone.

    A subclass defines `objective`, `tracked`, `event_shape` and, where it takes statistics from data, `adapt`. Plain
    `fit` and the launcher's blocks of steps (`feeding`) take the same steps. The loss is the mean of the objective over
    the batch, weighted where there are weights, plus `losses`: Keras' regularisers and what layers `add_loss`.

    Args:
      seed: base of every random number drawn in training.
    """

    #: per-datum terms that `objective` returns besides "loss", tracked as metrics
    tracked: tuple[str, ...] = ()
    #: those of them that are better the higher they are, for callbacks that monitor them with mode "auto"
    higher_is_better: tuple[str, ...] = ("elbo", "log_prior")
    #: {a key of metrics.jsonl: the name, or names, that original codes gave it in TensorBoard}, written beside our own
    upstream_tags: dict[str, Union[str, tuple[str, ...]]] = {"train/loss": "train_loss", "valid/loss": "val_loss"}
    #: further arguments that `objective` takes: "target", what x is to be reconstructed as, (batch, *event), where it
    #: is not x itself; "weight", the weights of the batch, (batch,), for what is more than a mean over it
    objective_takes: tuple[str, ...] = ()
    #: whether `prepare` fits something to all training data before the first step
    prepares = False
    #: whether stages that follow the first read the training data again
    reads_again = False
    #: whether NaN in data stands for values that are missing
    takes_gaps = False
    #: the labels that training data come with, 0 .. num_labels - 1; 0: without labels
    num_labels = 0
    #: of one datum
    event_shape: tuple[int, ...] = ()

    def __init__(self, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.seed = int(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.step = self.add_weight(name="step", shape=(), dtype="int64", initializer="zeros", trainable=False)
        self.adapted = self.add_weight(name="adapted", shape=(), dtype="int32", initializer="zeros", trainable=False)
        self._trackers: dict[str, keras.metrics.Metric] = {
            n: replicas.Mean(name=n) for n in ("loss", *self.tracked)}
        self._feed: Any = None
        self.averages, self.norms, self.stepping = Averages(), Norms(), Stepping()
        # Batches since `reset_metrics`; a plain variable, which is no part of the model.
        self._batches = tf.Variable(0, trainable=False, dtype=tf.int64,
                                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

    def objective(self, x: tf.Tensor, seed: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        """Returns per-datum terms of shape (batch,), in nats: "loss" (minimised) and `self.tracked`."""
        raise NotImplementedError(f"{type(self).__name__} defines no objective.")

    def adapt(self, x: np.ndarray) -> None:
        """Sets what is taken from training data x before the first step."""
        self.adapted.assign(1)
        self.count_data(len(x))

    def prepare(self, x: np.ndarray, held_out: Optional[np.ndarray] = None, weights: Optional[np.ndarray] = None,
                verbose: bool = False) -> dict[str, float]:
        """Fits to training data x what steps do not find, after `adapt`; returns what it found, here nothing.

        `held_out` are validation data, `weights` (n,) say how often each datum counts.
        """
        return {}

    def prepared(self) -> dict[str, int]:
        """Returns the sizes that `prepare` has chosen, which `restructure` makes again."""
        return {}

    def restructure(self, sizes: dict[str, int]) -> None:
        """Makes the variables of the sizes that `prepared` told of."""

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
        # Kernels along time have three axes, and so have those of several dense networks side by side.
        convolutional = any(len(weight.shape) == 4 or (len(weight.shape) == 3 and "conv" in weight.path)
                            for weight in self.trained_variables)  # fmt: skip
        return not convolutional or bool(tf.config.list_logical_devices("GPU"))

    def xla_saves(self, steps: int, numbers: int) -> bool:
        """Returns whether XLA saves, on a CPU, more time in so many steps on batches of `numbers` than it takes."""
        return steps >= XLA_STEPS

    def next_seed(self, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        """Returns `seed` as a tensor, or a fresh seed of this model's generator when it is None."""
        return seeds.as_seed(self.seed_generator.next() if seed is None else seed)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        # Keras' own tracker of "loss" is replaced by ours: it would hide the value and log 0.0.
        return [*self._trackers.values(), *self.norms.metrics]

    def reset_metrics(self) -> None:
        super().reset_metrics()
        self._batches.assign(0)

    # ---- Keras' entry points -----------------------------------------------------------------------

    def compile(self, optimizer: Union[str, keras.optimizers.Optimizer] = "adam", jit_compile: Union[bool, str] = AUTO,
                ema: float = 0.0, norms: bool = False, **kwargs: Any) -> None:
        """Keras' compile; the objective is the model's own, so `loss` and `metrics` are refused.

        `jit_compile`: whether XLA compiles steps; "auto": where they are so many that it saves time (`xla_pays`).
        `ema`: decay of averages of the weights (`averages`), by which validation goes and which `fit` leaves; 0: none.
        `norms`: whether the norms of gradients and updates are logged.
        """
        if not 0.0 <= ema < 1.0:
            raise UserError(f"ema is the decay of an average, from 0 to below 1; received {ema}.")
        for name in ("loss", "metrics", "weighted_metrics"):
            if kwargs.get(name):
                raise UserError(
                    f"{type(self).__name__} has its own objective and metrics {sorted(self._trackers)}; "
                    f"received {name}={kwargs[name]!r}. Leave it out, or override `objective`."
                )
        self.stepping = Stepping(jit_compile)
        xla = self.stepping.first_choice(self, bool(kwargs.get("run_eagerly")))
        with self.scope():
            super().compile(optimizer=optimizer, jit_compile=xla and self.strategy is None, **kwargs)
            self.averages, self.norms = Averages(ema), Norms(norms)
        self.check_replicas()

    def build_training(self) -> None:
        """Makes the variables of the optimizer and the averages, once those that are trained exist."""
        with self.scope():
            if not self.optimizer.built:
                self.optimizer.build(self.trained_variables)
            self.averages.build(self.trained_variables)

    def form(self) -> fit_data.Form:
        """Returns what `fit`, `evaluate` and `predict` take as data."""
        double = self.compute_dtype == "float64"
        return fit_data.Form(
            self.event_shape, type(self).__name__, "float64" if double else "float32",
            unit=self.takes_pixels, no_targets=self.no_targets, missing=self.takes_gaps,
            num_labels=self.num_labels,
        )  # fmt: skip

    @property
    def takes_pixels(self) -> bool:
        """Whether data are images in [0, 1]: of that shape, and no step of the preprocessing says that they are reals.
        """
        return len(self.event_shape) == 3 and not getattr(getattr(self, "preprocessing", None), "reals", False)

    @property
    def no_targets(self) -> str:
        """Why `fit` takes no targets other than x, and what to do; empty where it takes them."""
        if self._takes("target"):
            return ""
        return "its objective is that of x alone. Take an autoencoder that can be trained to denoise, as AE or VAE"

    def _takes(self, name: str) -> bool:
        # A subclass with an objective of its own may not have the arguments of the one that it replaces.
        return name in self.objective_takes and name in inspect.signature(self.objective).parameters

    def as_input(self, x: tf.Tensor) -> tf.Tensor:
        """Returns a batch of data as floats, as `objective` takes it."""
        return to_float(x)

    def fit(self, x: Any = None, y: Any = None, batch_size: Optional[int] = None, epochs: int = 1,
            verbose: Union[str, int, None] = "auto", callbacks: Any = None, validation_split: float = 0.0,
            validation_data: Any = None, shuffle: bool = True, class_weight: Optional[Mapping] = None,
            sample_weight: Any = None, **options: Any) -> keras.callbacks.History:
        """Keras' fit, after a look at the training data, which Keras' validation is no part of.

        Takes what Keras takes, and dicts with a usual key. y of the shape of x are targets that x is to be
        reconstructed as (of models that can), other y are labels, for `class_weight` and models with num_labels, which
        need them. Weights are of shape (n,); data of weight 0 count for nothing. `adapt` is called once, on up to
        10,000 data; what depends on their number is set in every fit. Images must lie in [0, 1], or be uint8, and all
        values be finite: UserError names the first row that is not. Metrics of any name can be monitored with mode
        "auto".
        """
        given = dict(epochs=epochs, verbose=verbose, callbacks=callbacks, **options)
        if self._feed is not None:
            self.build_training()
            return super().fit(x, y, batch_size=batch_size, validation_data=validation_data, shuffle=shuffle, **given)
        train = fit_data.read(self.form(), x, y, sample_weight, class_weight, keep=self.reads_again)
        held_out = None if validation_data is None else fit_data.read_pair(self.form(), validation_data)
        if held_out is None and validation_split:
            train, held_out = train.split(validation_split)
        steps = options.get("steps_per_epoch")
        with fit_data.telling(train, held_out):
            self._look_at(train, held_out, steps, bool(verbose))
        if self.compiled:
            # Here, for a step that makes variables of its own is traced twice.
            self.build_training()
        direct(callbacks, type(self).__name__, list(self._trackers), self.higher_is_better)
        given["callbacks"] = joined(callbacks, self.own_callbacks())
        data = dict(zip(("x", "y", "sample_weight"), train.keras()))
        fitting = self.stepping.fitting(self, train, batch_size, steps, given)
        with fit_data.telling(train, held_out, steps=steps), fitting:
            history = super().fit(
                **data, batch_size=batch_size, validation_data=None if held_out is None else held_out.keras(),
                shuffle=shuffle and train.can_shuffle, **given)  # fmt: skip
        if epochs > options.get("initial_epoch", 0) and not history.history:
            raise UserError("The data hold no batch, so that nothing was trained. Give data, in batches of at most as "
                            "many.")
        self.averages.take()
        with fit_data.telling(train, held_out):
            self.after_fit(history, train, held_out, steps, verbose)
        return history

    def after_fit(self, history: keras.callbacks.History, train: fit_data.Source, held_out: Optional[fit_data.Source],
                  steps: Optional[int], verbose: Union[str, int, None]) -> None:
        """Does what follows plain `fit`, on its sources of data (`fit_data`); adds losses of stages to the history."""

    def make_train_function(self, force: bool = False) -> Any:
        if self.train_function is None or force:
            shared = self.strategy is not None
            self.train_function = replicas.train_function(self) if shared else self.stepping.train_function(self)
        return super().make_train_function(force and self.train_function is None)

    def make_test_function(self, force: bool = False) -> Any:
        if self.strategy is not None and (self.test_function is None or force):
            self.test_function = replicas.test_function(self)
        return super().make_test_function(force and self.strategy is None)

    def tracing_small(self) -> contextlib.AbstractContextManager:
        """Returns a context in which `objective` may make a graph that is made soon, where XLA does not compile it."""
        return contextlib.nullcontext()

    def own_callbacks(self) -> list[keras.callbacks.Callback]:
        """Returns the callbacks that the model itself needs in a plain `fit`; here none."""
        return []

    def _look_at(self, train, held_out, steps: Optional[int], verbose: bool) -> None:
        """Takes from training data what the first step needs: statistics once, their number in every fit."""
        if not self._is_adapted():
            first = fit_data.examples(train, ADAPT_DATA)
            if len(first):
                self.adapt(first)
                if self.form().num_labels:
                    self.count_labels(*fit_data.labels_and_weights(train, steps))
                self._prepare(train, held_out, steps, verbose)
        if self._counts_data():
            number = fit_data.count(train, steps)
            if number:
                self.count_data(number)

    def _prepare(self, train, held_out, steps: Optional[int], verbose: bool) -> None:
        if not self.prepares:
            return
        found = list(fit_data.weighted(train, steps))
        weights = None if found[0][1] is None else np.concatenate([w for _, w in found if w is not None])
        judge = None if held_out is None else fit_data.examples(held_out, MOST_PREPARED)
        with self.scope():  # it may make variables
            self.prepare(np.concatenate([x for x, _ in found]), judge, weights, verbose)

    def _is_adapted(self) -> bool:
        return bool(replicas.value(self.adapted))

    def _counts_data(self) -> bool:
        return type(self).count_data is not Trainable.count_data

    def evaluate(self, x: Any = None, y: Any = None, batch_size: Optional[int] = None,
                 verbose: Union[str, int, None] = "auto", sample_weight: Any = None, steps: Optional[int] = None,
                 callbacks: Any = None, return_dict: bool = False, **kwargs: Any) -> Any:
        """Keras' evaluate, of what `fit` takes; NaN in x is NaN in the result. Batch n has noise of its own."""
        given = dict(batch_size=batch_size, verbose=verbose, steps=steps, callbacks=callbacks, return_dict=return_dict)
        if self._feed is not None or kwargs:  # `fit` has looked at the data
            with self.averages.inside():
                return super().evaluate(x, y, sample_weight=sample_weight, **given, **kwargs)
        source = fit_data.read(self.form(), x, y, sample_weight, checked=False)
        with fit_data.telling(source, steps=steps), self.stepping.judging(self, source, batch_size, steps):
            return super().evaluate(**dict(zip(("x", "y", "sample_weight"), source.keras())), **given)

    def predict(self, x: Any, batch_size: Optional[int] = None, verbose: Union[str, int, None] = "auto",
                steps: Optional[int] = None, callbacks: Any = None) -> Any:
        """Keras' predict, of what `fit` takes."""
        source = fit_data.read(dataclasses.replace(self.form(), num_labels=0), x, checked=False)
        with fit_data.telling(source, steps=steps):
            return super().predict(source.keras()[0], batch_size=batch_size, verbose=verbose, steps=steps,
                                   callbacks=callbacks)

    def train_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Optional[Mapping] = None,
                       return_dict: bool = False) -> Any:
        """Keras' train_on_batch; a model that needs the number of its training data must be adapted before."""
        if self._counts_data() and not self._is_adapted():
            raise UserError(f"{type(self).__name__} needs the number of its training data. Call adapt with them, or "
                            "count_data with their number, before train_on_batch.")
        source = fit_data.read(self.form(), x, y, sample_weight, class_weight)
        return super().train_on_batch(*source.keras(), return_dict=return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """Keras' test_on_batch, of what `fit` takes."""
        source = fit_data.read(self.form(), x, y, sample_weight, checked=False)
        return super().test_on_batch(*source.keras(), return_dict=return_dict)

    def export(self, filepath: Union[str, Path], format: str = "tf_saved_model", verbose: Union[str, int, None] = None,
               input_signature: Any = None, **kwargs: Any) -> None:
        """Keras' export of the call of the model; `pae_zoo.export` serves all methods. The input is named "x"."""
        if input_signature is None:
            spec = tf.TensorSpec((None, *self.event_shape), self.compute_dtype, name="x")
            input_signature = [spec]
        return super().export(filepath, format=format, verbose=verbose, input_signature=input_signature, **kwargs)

    def count_labels(self, labels: np.ndarray, weights: Optional[np.ndarray] = None) -> None:
        """Takes the shares of labels from those of the training data, (n,), for models that have some."""

    def count_data(self, num: float) -> None:
        """Sets the number of training data, or the sum of their weights, for objectives that it matters to."""

    # ---- steps -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def feeding(self, feed: Any) -> Iterator["Trainable"]:
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

    def update(self, x: tf.Tensor, sample_weight: Optional[tf.Tensor] = None, target: Optional[tf.Tensor] = None,
               label: Optional[tf.Tensor] = None) -> tf.Tensor:
        """Takes one optimizer step on the batch x and returns its loss, a scalar.

        `sample_weight` (batch,): a batch of weights 0 leaves everything as it is. `target` (batch, *event) is what x is
        to be reconstructed as, None x itself; `label` (batch,) are labels, of a model that has some.
        """
        if sample_weight is None or parts.current() is not None:  # replicas must not meet inside of a condition
            return self._step(x, sample_weight, target, label)
        weight = tf.cast(sample_weight, tf.float32)
        return tf.cond(tf.reduce_sum(weight) > 0, lambda: self._step(x, weight, target, label),
                       lambda: tf.constant(0.0))

    def _step(self, x: tf.Tensor, weight: Optional[tf.Tensor], target: Optional[tf.Tensor],
              label: Optional[tf.Tensor] = None) -> tf.Tensor:
        seed = self.step_seed()
        self._clear_losses()
        with tf.GradientTape() as tape:
            terms = self._terms(x, seed, True, weight, target, label)
            loss = parts.mean(terms["loss"], weight)
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trained_variables
        gradients = replicas.sum_of_all(tape.gradient(scaled, variables))
        before, found = self.norms.before(variables), self._means(terms, weight)
        # Data that end, or fail, take no step, nor do replicas of which one has gone.
        with tf.control_dependencies([x] if parts.current() is None else tf.nest.flatten([x, gradients, found[0]])):
            self.optimizer.apply(gradients, variables)
            self.norms.update(gradients, self.optimizer.scale_loss(tf.ones(())), before, variables)
            self.step.assign_add(1)
            self.averages.update(self.step)
            self._track(*found)
        return tf.cast(loss, tf.float32) if weight is not None else loss

    def given(self, label: Any) -> Any:
        """Returns the model of p(x|c) for a label c, or one for each datum of the batch; here there are no labels."""
        raise UserError(f"{type(self).__name__} has no labels; received label={label!r}.")

    def _terms(self, x, seed, training: bool, weight=None, target=None, label=None) -> dict[str, tf.Tensor]:
        """Returns the terms of `objective`, with `losses` added to "loss"."""
        more = {"weight": weight, "target": target}
        taken = {name: value for name, value in more.items() if value is not None and self._takes(name)}
        terms = (self if label is None else self.given(label)).objective(x, seed, training=training, **taken)
        extra = self._extra_loss()
        return terms if extra is None else {**terms, "loss": terms["loss"] + tf.cast(extra, terms["loss"].dtype)}

    def _extra_loss(self) -> Optional[tf.Tensor]:
        """Returns the sum of Keras' `losses`, None where there are none; raises UserError for those out of reach."""
        losses = [loss for loss in self.losses if loss is not None]
        here = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        if any(here is not None and getattr(loss, "graph", here) is not here for loss in losses):
            raise UserError(
                f"A layer adds a loss of its activations inside of a loop of {type(self).__name__}, where it is out of "
                "reach. Use regularisers of weights, or another model.")
        return tf.add_n([tf.reduce_sum(loss) for loss in losses]) if losses else None

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        if self._feed is None:
            self.update(*self.whole(data, 0, True))
            return {m.name: m.result() for m in self.metrics}

        def body(i, finite):
            x, _, _, label = self.whole(data, i, True)
            return i + 1, tf.math.is_finite(self.update(x, label=label))

        # A loss that is not finite ends the loop, so that `step` tells which step it was.
        tf.while_loop(lambda i, finite: (i < data["count"]) & finite, body, (0, True))
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        first, count = tf.identity(self._batches), 1 if self._feed is None else data["count"]

        def body(i):
            self.test_part(first + tf.cast(i, tf.int64), *self.whole(data, i, False))
            return (i + 1,)

        if self._feed is None:
            body(0)
        else:
            tf.while_loop(lambda i: i < count, body, (0,))
        self._batches.assign(first + tf.cast(count, tf.int64))
        return {m.name: m.result() for m in self._trackers.values()}

    def test_part(self, number: tf.Tensor, x: tf.Tensor, weight: Any, target: Any, label: Any) -> None:
        # The noise of a batch is its own, and the same in every epoch: epochs compare, and batches average it out.
        seed = seeds.fold_in(seeds.stream((self.seed & 0x7FFFFFFF, 0), VALIDATION), number)
        self._clear_losses()
        given = (weight, target) if self._feed is None else (None, None)  # what pads a block counts for nothing
        self._track(*self._means(self._terms(x, seed, False, *given, label), weight))

    def batches_in(self, data: Any) -> int:
        return 1 if self._feed is None else int(data["count"])

    def whole(self, data: Any, i: Any, training: bool) -> tuple[Any, Any, Any, Any]:
        """Returns (x, weights or None, target or None, labels or None) of batch i of a block, or of Keras' batch."""
        if self._feed is None:
            x, target, weight, label = self._batch(data)
            return x, weight, target, label
        x = self.as_input(self._feed.batch(data, i))
        if training and self._feed.augment is not None:
            x = self._feed.augment(x, seeds.stream(self.step_seed(), AUGMENT))
        return x, None if training else data["weight"][i], None, self._feed.label(data, i)

    def _batch(self, data) -> tuple:
        """Returns (x, target or None, weights or None, labels or None) of what Keras gives a step."""
        form = self.form()
        batch = fit_data.standard(form, *keras.utils.unpack_x_y_sample_weight(data))
        target, label = (None, batch.y) if form.num_labels else (None if self.no_targets else batch.y, None)
        return self.as_input(batch.x), None if target is None else self.as_input(target), batch.w, label

    def _means(self, terms: dict[str, tf.Tensor], weight: Optional[tf.Tensor]) -> tuple[list, Any]:
        return replicas.means_of_all([terms[name] for name in self._trackers], weight)

    def _track(self, values: list, weight: Any) -> None:
        for tracker, value in zip(self._trackers.values(), values):
            tracker.update_state(value, sample_weight=weight)

    def get_compile_config(self) -> Optional[dict[str, Any]]:
        if not self.compiled:
            return None
        optimizer = keras.saving.serialize_keras_object(self.optimizer)
        found = {"optimizer": optimizer, "jit_compile": self.stepping.asked, "run_eagerly": self.run_eagerly}
        more = {"ema": self.averages.decay} if self.averages.decay else {}
        return {**found, **more, **({"norms": True} if self.norms.metrics else {})}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**{**config, "optimizer": keras.saving.deserialize_keras_object(config["optimizer"])})
        self.optimizer.build(self.trained_variables)
