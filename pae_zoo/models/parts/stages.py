"""Stages of training that follow the first: a part of a model on data of its own."""

from typing import Any, Callable, NamedTuple, Optional, Union

import keras
import numpy as np

from pae_zoo.core import trainable


def _by_steps(part: trainable.Trainable, inputs: np.ndarray, held_out: Optional[np.ndarray],
              weights: Optional[np.ndarray], settings: dict[str, Any], jit_compile: Union[bool, str],
              verbose: Union[str, int, None]) -> dict[str, list[float]]:
    """Trains a part by Adam at a constant rate, and returns Keras' history."""
    optimizer = keras.optimizers.Adam(settings["learning_rate"], global_clipnorm=settings.get("clip_norm") or None)
    part.compile(optimizer, jit_compile=jit_compile)
    return part.fit(inputs, epochs=settings["epochs"], verbose=verbose, sample_weight=weights,
                    batch_size=min(settings["batch_size"], len(inputs))).history


class Stage(NamedTuple):
    """A stage of training that follows the first: a part of the model on its own data.

    Args:
      name: a word, of which the stage's files are named.
      part: what is trained.
      inputs: maps data x (n, *event) to the stage's own training data.
      settings: the training flags that differ in this stage, such as {"epochs": 10}.
      train: how plain `fit` trains the part: (part, inputs, validation inputs or None, weights or None, settings,
        jit_compile, verbose) to the values of every epoch by name.
      least: training data below which a stage takes no steps, what is fitted before them being all that they carry.
    """

    name: str
    part: trainable.Trainable
    inputs: Callable[[np.ndarray], np.ndarray]
    settings: dict[str, Any]
    train: Callable[..., dict[str, list[float]]] = _by_steps
    least: int = 0
