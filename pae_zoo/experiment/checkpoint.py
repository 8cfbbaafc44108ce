"""Checkpoints from which a run continues as if it had never stopped, bit for bit on a CPU.

Keras' own files lose the states of random generators, the metrics of a half-finished epoch and the data
position; here every variable of model and optimizer is kept, with the position as a note.
"""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional, Sequence

import keras
import numpy as np

from pae_zoo.core.errors import UserError
from pae_zoo.experiment.workdir import Run


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
    lr_best: Optional[float] = None  # lowest validation loss that --lr_schedule=plateau has seen
    lr_wait: int = 0  # epochs since then, or since the rate was last lowered

    @property
    def fresh(self) -> bool:
        return self.epoch == 0 and self.step_in_epoch == 0


def state(model: keras.Model) -> list:
    """Returns every variable of the model that training moves: weights, random states, metrics, averages."""
    last = {id(v) for v in getattr(model, "measured_last", [])}
    variables = [v for v in model.variables if id(v) not in last]
    known = {id(v) for v in variables}
    return variables + [v for m in model.metrics for v in m.variables if id(v) not in known] + model.averages.variables


def arrays_of(variables: Iterable[Any]) -> list[np.ndarray]:
    """Returns the values of variables, copied."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def check(variables: Sequence[Any], arrays: list[np.ndarray], what: object) -> None:
    """Raises UserError, naming the file `what`, unless arrays are values of variables, in order."""
    start_anew = "Restore the file, or delete the work directory to start anew."
    kind = keras.backend.standardize_dtype
    fit = len(arrays) == len(variables) and all(
        array.shape == tuple(variable.shape) and array.dtype == np.dtype(kind(variable.dtype))
        for variable, array in zip(variables, arrays))  # fmt: skip
    if not fit:
        raise UserError(f"{what} holds {len(arrays)} arrays that do not fit this model's {len(variables)} variables: "
                        f"it was written by another version or model. {start_anew}")
    if any(np.isnan(array).any() for array in arrays if array.dtype.kind == "f"):
        raise UserError(f"{what} holds values that are not finite: it is damaged. {start_anew}")


def assign(variables: Sequence[Any], arrays: list[np.ndarray], what: object) -> None:
    """Assigns arrays to variables in order; raises UserError if they do not match."""
    check(variables, arrays, what)
    for variable, array in zip(variables, arrays):
        variable.assign(array)


def save(run: Run, model: keras.Model, position: Position) -> None:
    """Writes checkpoints/last.npz: model, optimizer, position."""
    model.build_training()
    arrays = arrays_of([*state(model), *model.optimizer.variables])
    run.save_arrays("last", arrays, dataclasses.asdict(position))


def restore(run: Run, model: keras.Model, steps_per_epoch: int = 0) -> Position:
    """Restores the last checkpoint into model and optimizer; returns a fresh position if there is none.

    With `steps_per_epoch` the position must be one that a training with so many steps comes to. Raises UserError.
    """
    found = run.load_arrays("last")
    if found is None:
        return Position()
    arrays, note = found
    path = run.workdir / run.arrays_path("last")
    position = _position(note, steps_per_epoch, path)
    model.build_training()
    variables = [*state(model), *model.optimizer.variables]
    check(variables, arrays, path)
    place = next(place for place, variable in enumerate(variables) if variable is model.step)
    if steps_per_epoch and int(arrays[place]) != position.steps:
        raise UserError(f"{path} holds weights of step {int(arrays[place])} and notes {position.steps}: it is damaged. "
                        "Restore the file, or delete the work directory to start anew.")
    assign(variables, arrays, path)
    return position


def _position(note: dict[str, Any], steps_per_epoch: int, path: Path) -> Position:
    """Returns the position that a checkpoint notes; raises UserError for one that no training comes to."""
    fields = {field.name: field for field in dataclasses.fields(Position)}
    losses = ("best_value", "lr_best")
    note = {"lr_best": None, "lr_wait": 0, **note}  # which checkpoints of before lack
    wrong = sorted(set(note) ^ set(fields))
    for name, value in note.items():
        if name in losses and value is None or name in wrong:
            continue
        kind = (int, float) if name in ("seconds", *losses) else type(fields[name].default)
        right = isinstance(value, kind) and isinstance(value, bool) == (name == "stopped_early")
        in_range = math.isfinite(value) if name in losses and right else right and 0 <= value < 2**63
        if not in_range:
            wrong.append(f"{name}: {value!r}")
    position = Position() if wrong else Position(**note)
    if not wrong:
        whole = position.epoch * steps_per_epoch + position.step_in_epoch
        if position.best_epoch > position.epoch:
            wrong.append(f"best_epoch {position.best_epoch} after epoch {position.epoch}")
        # The last epoch of --max_steps may be a part of one.
        inside = position.step_in_epoch < steps_per_epoch and whole - steps_per_epoch < position.steps <= whole
        if steps_per_epoch and not inside:
            wrong.append(f"{position.steps} steps in {position.epoch} epochs of {steps_per_epoch} steps and "
                         f"{position.step_in_epoch}")  # fmt: skip
    if wrong:
        raise UserError(f"{path} notes no position of a training ({', '.join(wrong)}): it is damaged or of another "
                        "version. Restore the file, or delete the work directory to start anew.")
    return position
