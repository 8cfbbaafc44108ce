"""Optimizers and schedules of the learning rate by name."""

from typing import Union

import keras

SCHEDULES = ("constant", "cosine", "late_cosine", "step", "exponential")
#: part of a training after which "late_cosine" and "step" fall
LATE = 0.8
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
_CLASSES = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop"}

Rate = Union[float, keras.optimizers.schedules.LearningRateSchedule]


def schedule(name: str, rate: float, steps: int) -> Rate:
    """Returns the learning rate over a training of `steps` steps, a number or a Keras schedule."""
    schedules = keras.optimizers.schedules
    if name == "cosine":
        return schedules.CosineDecay(rate, max(1, steps))
    late = max(1, int(LATE * steps))
    if name == "late_cosine":
        # A warm-up that begins at its target is a constant.
        return schedules.CosineDecay(rate, max(1, steps - late), warmup_target=rate, warmup_steps=late)
    if name == "step":
        return schedules.PiecewiseConstantDecay([late], [rate, rate / 10])
    if name == "exponential":
        return schedules.ExponentialDecay(rate, max(1, steps), 0.01)
    return rate


def make(name: str, rate: Rate, clip_norm: float = 0.0, weight_decay: float = 0.0,
         epsilon: float = 1e-7) -> keras.optimizers.Optimizer:
    """Returns a Keras optimizer; clip_norm 0 clips nothing, epsilon is of adam and adamw."""
    options = dict(learning_rate=rate, global_clipnorm=clip_norm or None, weight_decay=weight_decay or None)
    if name in ("adam", "adamw"):
        options["epsilon"] = epsilon
    if name == "adamw":
        options["weight_decay"] = weight_decay
    return getattr(keras.optimizers, _CLASSES[name])(**options)
