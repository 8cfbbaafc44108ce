"""Preprocessing chains: from pixels in [0, 1] to what networks see, with the change of density."""

import math
from typing import Any, Iterator, Optional, Sequence

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError, unknown
from pae_zoo.data.preprocessing_reals import Log1p, MinMax, Quantile, Reals, Robust
from pae_zoo.data.preprocessing_steps import (
    ADAPT_SEED,
    Binarise,
    Centre,
    Dequantise,
    Logit,
    Preprocessor,
    Range,
    Scale,
    Standardise,
    StandardiseChannels,
    StandardiseReal,
    unit_chunks,
)

__all__ = [
    "Binarise", "Centre", "Chain", "Dequantise", "Logit", "NAMES", "Preprocessor", "Scale", "Standardise",
    "bits_per_dim", "build_chain",
]  # fmt: skip


@keras.saving.register_keras_serializable("pae_zoo")
class Chain(Preprocessor):
    """Steps applied in order, y = f_n(... f_1(x)); log_det is the sum of theirs. `Chain([])` is the identity."""

    def __init__(self, steps: Sequence[Preprocessor] = (), **kwargs):
        super().__init__(**kwargs)
        self.steps = list(steps)

    def build(self, input_shape: Sequence[Any]) -> None:
        if self.built:
            return
        for step in self.steps:
            step.build(input_shape)
        super().build(input_shape)

    def _seeds(self, seed) -> list:
        return [None if seed is None else seeds.fold_in(seed, index) for index in range(len(self.steps))]

    def forward(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tf.Tensor:
        for step, step_seed in zip(self.steps, self._seeds(seed)):
            x = step.forward(x, step_seed)
        return tf.identity(x)

    def forward_and_log_det(self, x: tf.Tensor, seed: Optional[seeds.Seed] = None) -> tuple[tf.Tensor, tf.Tensor]:
        total = self._zeros(x)
        for step, step_seed in zip(self.steps, self._seeds(seed)):
            x, log_det = step.forward_and_log_det(x, step_seed)
            total += log_det
        return x, total

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        for step in reversed(self.steps):
            y = step.inverse(y)
        return tf.identity(y)

    @property
    def is_stochastic(self) -> bool:
        return any(step.is_stochastic for step in self.steps)

    @property
    def has_statistics(self) -> bool:
        return any(step.has_statistics for step in self.steps)

    @property
    def reals(self) -> bool:
        return any(step.reals for step in self.steps)

    def value_range(self, x_range: Range = (0.0, 1.0)) -> Range:
        for step in self.steps:
            x_range = step.value_range(x_range)
        return x_range

    def adapt(self, x: np.ndarray) -> None:
        """Sets the statistics of every step in order, each on the output of the steps before it.

        Noise of earlier steps is drawn with a fixed seed. The data, (n, *event), uint8 or float, is read in
        chunks, once for each step that has statistics.
        """
        if not self.built:
            self.build((None, *x.shape[1:]))
        for position, step in enumerate(self.steps):
            if step.has_statistics:
                step.adapt_chunks(lambda position=position: self._chunks(x, position))

    def _chunks(self, x: np.ndarray, stop: int) -> Iterator[np.ndarray]:
        for number, chunk in enumerate(unit_chunks(x)):
            chunk = tf.constant(chunk)
            for step, seed in zip(self.steps[:stop], self._seeds((ADAPT_SEED, number))):
                chunk = step.forward(chunk, seed)
            yield chunk.numpy()

    def get_config(self) -> dict[str, Any]:
        steps = [keras.saving.serialize_keras_object(step) for step in self.steps]
        return {**super().get_config(), "steps": steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Chain":
        steps = [keras.saving.deserialize_keras_object(step) for step in config.pop("steps")]
        return cls(steps, **config)


# name of the flag -> (class, fixed arguments, {option: argument})
_STEPS = {
    "scale": (Scale, {}, {"low": "low", "high": "high"}),
    "centre": (Centre, {}, {}),
    "standardise": (Standardise, {}, {"std_floor": "floor"}),
    "standardise_channels": (StandardiseChannels, {}, {"std_floor": "floor"}),
    "standardise_real": (StandardiseReal, {}, {"std_floor": "floor", "which": "which"}),
    "dequantise": (Dequantise, {}, {}),
    "logit": (Logit, {}, {"margin": "margin"}),
    "binarise_dynamic": (Binarise, {"mode": "dynamic"}, {}),
    "binarise_static": (
        Binarise,
        {"mode": "threshold"},
        {},
    ),  # `load(static_binarise=True)` has drawn the images
    "robust": (Robust, {}, {}),
    "quantile": (Quantile, {}, {}),
    "log1p": (Log1p, {}, {}),
    "minmax": (MinMax, {}, {}),
    "reals": (Reals, {}, {}),
}
#: the word for no step, where no word means a default
NONE = "none"
NAMES = tuple(_STEPS)
_NEED_UNIT = (Dequantise, Logit, Binarise)
MOST_STEPS = 16


def needing_pixels(names: Sequence[str]) -> list[str]:
    """Returns those of the named steps that take pixels, values in [0, 1], and would make nonsense of others."""
    return [name for name in dict.fromkeys(names) if name in _STEPS and _STEPS[name][0] in _NEED_UNIT]


def takes_reals(names: Sequence[str]) -> bool:
    """Whether one of the named steps says that the data are any reals, images too."""
    return any(_STEPS[name][0].for_reals for name in names if name in _STEPS)


def build_chain(names: Sequence[str], **options: Any) -> Chain:
    """Returns the chain of the named steps (`NAMES`), in order; the one word none stands for no step.

    Options: `low`, `high` (scale), `margin` (logit), `std_floor` (standardise), `which` (standardise_real: True for the
    columns that it takes). Raises UserError for an unknown
    name or option, and for a step that needs values in [0, 1] after one that leaves them.

    Examples:
      >>> chain = build_chain(["scale"], low=-1.0, high=1.0)
      >>> y, log_det = chain.forward_and_log_det(tf.constant([[0.0, 0.5, 1.0]]))
      >>> y.numpy().tolist(), round(float(log_det[0]), 3)  # 3 log 2
      ([[-1.0, 0.0, 1.0]], 2.079)
    """
    names = () if tuple(names) == (NONE,) else names
    known = {option for _, _, arguments in _STEPS.values() for option in arguments}
    for option in options:
        if option not in known:
            raise unknown("preprocessing option", option, sorted(known))
    if len(names) > MOST_STEPS:
        raise UserError(f"preprocessing of {len(names)} steps; at most {MOST_STEPS} are taken: leave some out.")
    steps, value_range = [], (0.0, 1.0)
    for name in names:
        if name not in _STEPS:
            raise unknown("preprocessing", name, NAMES)
        kind, fixed, arguments = _STEPS[name]
        chosen = {arguments[option]: value for option, value in options.items() if option in arguments}
        try:
            step = kind(**fixed, **chosen)
        except ValueError as error:
            raise UserError(f"preprocessing {name}: {error}") from error
        if kind in _NEED_UNIT and (value_range is None or value_range[0] < 0 or value_range[1] > 1):
            raise UserError(
                f"preprocessing {','.join(names)}: {name} takes values in [0, 1], but the steps before it "
                f"leave {value_range or 'unbounded values'}; put {name} first."
            )
        steps.append(step)
        value_range = step.value_range(value_range)
    return Chain(steps)


def bits_per_dim(log_prob_u: Any, num_dims: int) -> Any:
    """Returns -(log p - D log 256) / (D log 2): bits per dimension of 8-bit data from log p of u in nats.

    u lies in [0, 1]^D. The uniform density, log p = 0, gives 8. Takes arrays or tensors of any shape.

    Examples:
      >>> bits_per_dim(0.0, num_dims=784)
      8.0
    """
    return 8.0 - log_prob_u / (num_dims * math.log(2.0))
