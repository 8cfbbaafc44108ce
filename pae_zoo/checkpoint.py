"""Checkpoints from which a run continues as if it had never stopped, bit for bit on a CPU.

Keras' own files lose the states of random generators, the metrics of a half-finished epoch and the data
position; here every variable of model and optimizer is kept, with the position as a note.
"""

import dataclasses
from typing import Optional

import keras
import numpy as np

from pae_zoo.errors import UserError
from pae_zoo.run import Run


@dataclasses.dataclass
class Position:
    """Where a training stands: what a checkpoint holds beside the variables."""

    epoch: int = 0  # epochs finished
    step_in_epoch: int = 0  # steps taken of the epoch under way
    steps: int = 0  # steps taken in all
    seconds: float = 0.0  # training time so far
    best_value: Optional[float] = None  # lowest validation loss
    best_epoch: int = 0
    wait: int = 0  # epochs since then
    stopped_early: bool = False

    @property
    def fresh(self) -> bool:
        return self.epoch == 0 and self.step_in_epoch == 0


def state(model: keras.Model) -> list:
    """Returns every variable of the model: weights, random states, and its metrics, which Keras leaves out."""
    variables = list(model.variables)
    known = {id(v) for v in variables}
    return variables + [v for m in model.metrics for v in m.variables if id(v) not in known]


def arrays_of(variables) -> list[np.ndarray]:
    """Returns the values of variables, copied."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def assign(variables, arrays: list[np.ndarray], what: str) -> None:
    """Assigns arrays to variables in order; raises UserError if they do not match."""
    shapes = [tuple(v.shape) for v in variables]
    if shapes != [a.shape for a in arrays]:
        raise UserError(f"{what} holds {len(arrays)} arrays that do not fit this model's {len(shapes)} variables: "
                        "it was written by another version or model. Delete the work directory to start anew.")
    for variable, array in zip(variables, arrays):
        variable.assign(array)


def save(run: Run, model: keras.Model, position: Position) -> None:
    """Writes checkpoints/last.npz: model, optimizer, position."""
    if not model.optimizer.built:
        model.optimizer.build(model.trained_variables)
    arrays = arrays_of([*state(model), *model.optimizer.variables])
    run.save_arrays("last", arrays, dataclasses.asdict(position))


def restore(run: Run, model: keras.Model) -> Position:
    """Restores the last checkpoint into model and optimizer; returns a fresh position if there is none."""
    found = run.load_arrays("last")
    if found is None:
        return Position()
    arrays, note = found
    model.optimizer.build(model.trained_variables)
    assign([*state(model), *model.optimizer.variables], arrays, run.arrays_path("last"))
    return Position(**note)
