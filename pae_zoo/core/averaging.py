"""Averages of weights over training steps, and the keeping of what was best on validation data."""

import contextlib
from collections.abc import Iterator
from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf


class Averages:
    """Exponential averages a <- d a + (1 - d) w of weights w after step t, d = min(decay, (1 + t) / (10 + t)).

    The decay grows so that the start is soon forgotten (`tf.train.ExponentialMovingAverage`). They are plain variables,
    part of a checkpoint and of no model.

    Args:
      decay: in [0, 1); 0 keeps none.
    """

    def __init__(self, decay: float = 0.0):
        self.decay = float(decay)
        self.variables: list[tf.Variable] = []
        self._of: list[Any] = []

    def build(self, weights: list) -> None:
        """Makes an average of each of `weights`, which begins as the weight is; does nothing the second time."""
        if self.decay and not self.variables:
            with tf.init_scope():
                self._of = list(weights)
                self.variables = [tf.Variable(_value(one), trainable=False) for one in weights]

    def update(self, step: tf.Tensor) -> None:
        """Takes the weights after step number `step`, 1 for the first."""
        if not self.variables:
            return
        step = tf.cast(step, tf.float32)
        decay = tf.minimum(self.decay, (1.0 + step) / (10.0 + step))
        for average, weight in zip(self.variables, self._of):
            value = tf.cast(_value(weight), average.dtype)
            average.assign(value + tf.cast(decay, average.dtype) * (average - value))

    def take(self) -> None:
        """Gives the weights the values of their averages."""
        for average, weight in zip(self.variables, self._of):
            weight.assign(average)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Inside, the weights have the values of their averages."""
        before = [tf.identity(_value(weight)) for weight in self._of]
        self.take()
        try:
            yield
        finally:
            for weight, value in zip(self._of, before):
                weight.assign(value)


def _value(weight: Any) -> tf.Tensor:
    return tf.convert_to_tensor(weight)


class KeepBest(keras.callbacks.Callback):
    """Leaves a model with the weights, averaged where it averages them, of its lowest validation loss.

    Args:
      patience: epochs without a lower loss after which training ends; 0 never ends it.
      start: the validation loss before the first step, which is kept where no epoch is better; None for none.
      monitor: what is taken for the validation loss, the lower the better.
    """

    def __init__(self, patience: int = 0, start: Optional[float] = None, monitor: str = "val_loss"):
        super().__init__()
        self.monitor = monitor
        self.patience, self.best, self.waited = patience, np.inf if start is None else start, 0
        self.start = start
        self.values: Optional[list[np.ndarray]] = None

    def on_train_begin(self, logs: Any = None) -> None:
        if self.start is not None:
            self.values = [np.array(_value(one)) for one in self._trained.trained_variables]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        loss = float((logs or {}).get(self.monitor, np.nan))
        if loss < self.best:
            self.best, self.waited = loss, 0
            kept = self._trained.averages.variables or self._trained.trained_variables
            self.values = [np.array(_value(one)) for one in kept]
            return
        self.waited += 1
        if self.patience and self.waited >= self.patience:
            self._trained.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        if self.values is not None:
            for variables in (self._trained.trained_variables, self._trained.averages.variables):
                for variable, value in zip(variables, self.values):
                    variable.assign(value)

    @property
    def _trained(self) -> Any:
        return self.model
