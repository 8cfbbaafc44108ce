"""Evaluation of a trained model: a task is a module of `tasks/` that has a `run(context)`; no list names them.

A task yields (key, value) pairs for metrics.json and saves its figures through the context. What a model
cannot do is reported as "unsupported", together with the sentence that the model gives for it. A module that also
has `over_runs(runs, options)` compares many runs after the task was done for each, and yields lines to print.
"""

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, Optional, Union

from pae_zoo.core import records, values
from pae_zoo.core.errors import UserError, unknown
from pae_zoo.data import Dataset
from pae_zoo.evaluation import tasks
from pae_zoo.evaluation.context import UNSUPPORTED, Context, sentence
from pae_zoo.evaluation.support import map_points
from pae_zoo.models import capabilities

__all__ = [
    "UNSUPPORTED", "Context", "all_tasks", "check", "check_data", "check_task", "check_tasks", "describe", "evaluate",
    "check_refine", "flag_records", "map_points", "over_runs", "refined", "register",
]  # fmt: skip

Value = Union[float, str]


_REGISTERED: dict[str, ModuleType] = {}


def check_task(name: str, task: Any) -> None:
    """Raises UserError for a task under a name of the package's, and for what has no `run` with a docstring."""
    if not callable(getattr(task, "run", None)) or not getattr(task.run, "__doc__", None):
        raise UserError(f"The task {name!r} needs a function run(context) with a docstring; received {task!r}.")
    if name not in _REGISTERED and all_tasks().get(name, task.run) is not task.run:
        raise UserError(f"There is a task {name!r} already; take another name.")


def register(name: str, task: Any) -> None:
    """Makes a task known: a module, or another object, with `run(context)` and, with flags, a record `Flags`."""
    check_task(name, task)
    _REGISTERED[name] = task


def _modules() -> dict[str, ModuleType]:
    names = [info.name for info in pkgutil.iter_modules(tasks.__path__)]
    found = {name: importlib.import_module(f"{tasks.__name__}.{name}") for name in names}
    found = {name: module for name, module in found.items() if callable(getattr(module, "run", None))}
    return dict(sorted({**found, **_REGISTERED}.items()))


def all_tasks() -> dict[str, Callable]:
    """Returns {task: its `run` function}, in alphabetical order."""
    return {name: module.run for name, module in _modules().items()}


def describe() -> dict[str, str]:
    """Returns {task: the first line of its docstring}, for help texts."""
    return {name: (run.__doc__ or name).strip().splitlines()[0] for name, run in all_tasks().items()}


def flag_records() -> dict[str, type]:
    """Returns {task: the record of its flags}, of the tasks that have some."""
    return {name: module.Flags for name, module in _modules().items() if hasattr(module, "Flags")}


def check(flags: Any) -> None:
    """Raises UserError for a mistake in the flags of the tasks, before anything is done.

    flags: a record that is composed of theirs; each of them checks its own in a method `check`.
    """
    check_tasks(getattr(flags, "tasks", ()))
    for record in type(flags).__mro__:
        if "check" in vars(record):
            record.check(flags)


def check_tasks(names: Sequence[str]) -> None:
    """Raises UserError, with the nearest names, when one of `names` is not a task."""
    known = all_tasks()
    for name in names:
        if name not in known:
            raise unknown("task", name, known)


def check_data(flags: Any, names: Sequence[str], dataset: Optional[Dataset] = None) -> None:
    """Raises UserError unless what the tasks `names` take and write is there and, where known, fits the data.

    For before a training, whose work a task must not lose by what it could have been told at once.
    """
    known = _modules()
    if getattr(flags, "missing", values.REFUSE) == values.MASK:
        for name in names:
            if not getattr(known[name], "TAKES_GAPS", False):
                allowed = ", ".join(one for one in known if getattr(known[one], "TAKES_GAPS", False))
                raise UserError(f"--tasks={name} takes no data with missing values (--missing=mask); allowed: "
                                f"{allowed}.")
    checks = [getattr(known[name], "check_data", None) for name in names]
    for check_one in dict.fromkeys(filter(None, checks)):
        check_one(flags, dataset)


def check_refine(flags: Any, model_class: type) -> None:
    """Raises UserError when --refine asks for what models of a class do not offer."""
    if flags.refine in records.REFINING and "refine" not in model_class.offers:
        raise UserError(f"--refine={flags.refine}: {capabilities.lacking(model_class, 'refine')} Leave --refine out, "
                        "or take a vae or one of its relatives.")


def refined(model: Any, flags: Any) -> Any:
    """Returns the model with codes that are refined as --refine says; raises UserError where it cannot."""
    if flags.refine not in records.REFINING:
        return model
    check_refine(flags, type(model))
    return model.refined(flags.refine, flags.refine_updates)


def over_runs(names: Sequence[str], runs: Sequence, options: Any) -> Iterator[str]:
    """Yields what the tasks `names` find by comparing `runs`, each of which they were done for, as lines to print.

    runs: work directories, with `.workdir`. options: the flags. Raises UserError for runs that do not compare.
    """
    for name in dict.fromkeys(names):
        compare = getattr(_modules()[name], "over_runs", None)
        if compare is not None:
            yield from compare(runs, options)


def _plain(task: str, key: str, value: Any) -> Value:
    try:
        return value if isinstance(value, str) else float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"the task {task} yields {type(value).__name__} under {key!r}, where a number or a short text "
                        "is needed") from error


def evaluate(
    context: Context, names: Sequence[str], keep: Callable[[dict[str, Value]], Any] = lambda found: None
) -> dict[str, Value]:
    """Runs the tasks `names` in order and returns their flat {key: value}; see docs/reference/metrics/README.md.

    `keep` is called with the values of each task when it ends, so that a later one that fails takes none along.
    Values are Python floats or short strings. The scalars, the pictures and the codes also go to TensorBoard
    under `tensorboard/evaluation`. Raises UserError for an unknown task or a bad OOD data set.
    """
    check_tasks(names)
    found = all_tasks()
    results: dict[str, Value] = {}
    for number, name in enumerate(dict.fromkeys(names), start=1):
        context.progress_prefix = f"[{number}/{len(set(names))}] {name}"
        own: dict[str, Value] = {}
        try:
            for key, value in found[name](context):
                own[f"{key}{context.suffix}"] = _plain(name, key, value)
        except NotImplementedError as error:
            context.say(f"{name}: unsupported. {sentence(error)}")
            own[f"{name}{context.suffix}"] = UNSUPPORTED
        keep(own)
        results |= own
    for key, value in results.items():
        if not isinstance(value, str) and not math.isfinite(value):
            context.say(f"{key} is {value}: the model gave numbers that are not finite.")
    context.board.scalars(results)
    context.board.config()
    context.board.close()
    return results
