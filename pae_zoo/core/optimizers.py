"""Optimizers and schedules of the learning rate by name."""

import dataclasses
from typing import Any, Union

import keras
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core.errors import UserError

#: schedules that follow from the number of the step alone
SCHEDULES = ("constant", "cosine", "late_cosine", "step", "exponential", "restarts", "piecewise")
#: the one that follows from validation losses, which the training itself must look at
PLATEAU = "plateau"
#: schedules that do not depend on how long a training is
ENDLESS = ("constant", PLATEAU)
#: part of a training after which "late_cosine" and "step" fall
LATE = 0.8
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
_CLASSES = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop"}
#: share by which a validation loss must be lower to count as better for "plateau", as in PyTorch
BETTER = 1e-4

Rate = Union[float, keras.optimizers.schedules.LearningRateSchedule]


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is set of schedules.

    Args:
      warmup: first steps over which the rate rises linearly; the schedule has the others.
      factor: what "piecewise" multiplies the rate by at each drop.
      drops: where "piecewise" drops, in percent of the steps, rising.
      period: steps of the first period of "restarts"; 0: a third of all.
      stretch: how much longer than the one before each further period is.
      floor: where cosines end, as a share of the rate.
    """

    warmup: int = 0
    factor: float = 0.5
    drops: tuple[int, ...] = (20, 40, 60)
    period: int = 0
    stretch: float = 2.0
    floor: float = 0.0


def schedule(name: str, rate: float, steps: int, shape: Shape = Shape()) -> Rate:
    """Returns the learning rate over a training of `steps` steps, a number or a Keras schedule."""
    found = _after_warmup(name, rate, max(1, steps - shape.warmup), shape)
    return WarmUp(found, shape.warmup) if shape.warmup else found


def _after_warmup(name: str, rate: float, steps: int, shape: Shape) -> Rate:
    schedules = keras.optimizers.schedules
    if name == "cosine":
        return schedules.CosineDecay(rate, steps, alpha=shape.floor)
    late = max(1, int(LATE * steps))
    if name == "late_cosine":
        # A warm-up that begins at its target is a constant.
        return schedules.CosineDecay(rate, max(1, steps - late), alpha=shape.floor, warmup_target=rate,
                                     warmup_steps=late)
    if name == "step":
        return schedules.PiecewiseConstantDecay([late], [rate, rate / 10])
    if name == "exponential":
        return schedules.ExponentialDecay(rate, steps, 0.01)
    if name == "restarts":
        period = shape.period or -(-steps // 3)
        return schedules.CosineDecayRestarts(rate, period, t_mul=shape.stretch, alpha=shape.floor)
    if name == "piecewise":
        values = [rate * shape.factor**number for number in range(len(shape.drops) + 1)]
        return schedules.PiecewiseConstantDecay([steps * drop // 100 for drop in shape.drops], values)
    return rate


@register_keras_serializable("pae_zoo")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises linearly over the first `steps` steps, to where a schedule, or a number, then begins."""

    def __init__(self, after: Rate, steps: int):
        self.after, self.steps = after, int(steps)

    def __call__(self, step: Any) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        share = tf.minimum((step + 1.0) / (self.steps + 1.0), 1.0)
        later = tf.maximum(step - self.steps, 0.0)
        return share * (self.after(later) if callable(self.after) else self.after)

    def get_config(self) -> dict[str, Any]:
        after = self.after
        return {"after": keras.saving.serialize_keras_object(after) if callable(after) else after, "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WarmUp":
        after = config["after"]
        return cls(keras.saving.deserialize_keras_object(after) if isinstance(after, dict) else after, config["steps"])


def check(flags: Any) -> None:
    """Raises UserError for training flags that do not go together."""
    if flags.clip_norm and flags.clip_value:
        raise UserError(f"--clip_norm={flags.clip_norm} and --clip_value={flags.clip_value} exclude each other; set "
                        "one of them to 0.")
    if flags.lr_schedule == PLATEAU and flags.lr_warmup:
        raise UserError(f"--lr_schedule=plateau goes by validation losses and has no --lr_warmup={flags.lr_warmup}; "
                        "leave it out.")
    drops = flags.lr_drops
    if any(not 0 < drop < 100 for drop in drops) or list(drops) != sorted(set(drops)):
        raise UserError(f"--lr_drops={','.join(map(str, drops))} are percents of the steps: whole numbers that rise, "
                        "above 0 and below 100, such as 20,40,60.")


def of_flags(flags: Any, steps: int) -> keras.optimizers.Optimizer:
    """Returns the optimizer that training flags describe, for a training of `steps` steps."""
    shape = Shape(flags.lr_warmup, flags.lr_factor, flags.lr_drops, flags.lr_period, flags.lr_stretch, flags.lr_floor)
    rate = schedule(flags.lr_schedule, flags.learning_rate, steps, shape)
    return make(flags.optimizer, rate, flags.clip_norm, flags.weight_decay, flags.adam_epsilon,
                (flags.adam_beta1, flags.adam_beta2), flags.clip_value)  # fmt: skip


def make(name: str, rate: Rate, clip_norm: float = 0.0, weight_decay: float = 0.0, epsilon: float = 1e-7,
         betas: tuple[float, float] = (0.9, 0.999), clip_value: float = 0.0) -> keras.optimizers.Optimizer:
    """Returns a Keras optimizer; clip_norm and clip_value 0 clip nothing, epsilon and betas are of adam and adamw."""
    options: dict[str, Any] = dict(learning_rate=rate, global_clipnorm=clip_norm or None, clipvalue=clip_value or None,
                                   weight_decay=weight_decay or None)  # fmt: skip
    if name in ("adam", "adamw"):
        options.update(epsilon=epsilon, beta_1=betas[0], beta_2=betas[1])
    if name == "adamw":
        options["weight_decay"] = weight_decay
    return getattr(keras.optimizers, _CLASSES[name])(**options)
