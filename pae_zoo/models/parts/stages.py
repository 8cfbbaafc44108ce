"""Stages of training that follow the first: a part of a model on data of its own."""

from typing import Any, Callable, NamedTuple, Optional, Union

import keras
import numpy as np

from pae_zoo.core import fit_data, trainable


def _by_steps(part: trainable.Trainable, inputs: np.ndarray, held_out: Optional[np.ndarray],
              weights: Optional[np.ndarray], settings: dict[str, Any], jit_compile: Union[bool, str],
              verbose: Union[str, int, None]) -> dict[str, list[float]]:
    """Trains a part by Adam at a constant rate, and returns Keras' history."""
    with part.scope():
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
      join: maps what `inputs` gave and the labels of the data, (n,), to the rows that the part is trained on, None
        where it has no use for labels.
    """

    name: str
    part: trainable.Trainable
    inputs: Callable[[np.ndarray], np.ndarray]
    settings: dict[str, Any]
    train: Callable[..., dict[str, list[float]]] = _by_steps
    least: int = 0
    join: Optional[Callable[[np.ndarray, Any], np.ndarray]] = None

    def rows(self, x: np.ndarray, labels: Optional[np.ndarray] = None) -> np.ndarray:
        """Returns the stage's own data, of data x (n, *event) and, where it has a use for them, labels (n,)."""
        found = self.inputs(x)
        return found if self.join is None else self.join(found, labels)

    def read(self, source: fit_data.Source, steps: Optional[int] = None) -> Optional[tuple]:
        """Returns the stage's own data of a source and their weights or None; None where there are no data."""
        found = [(self.rows(x, y), w) for x, y, w in fit_data.standing(source, steps) if len(x)]
        if not found:
            return None
        weights = None if found[0][1] is None else np.concatenate([w for _, w in found if w is not None])
        return np.concatenate([one for one, _ in found]), weights
