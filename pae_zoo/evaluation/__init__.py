"""Evaluation of a trained model: a task is a module of `tasks/` that has a `run(context)`; no list names them.

A task yields (key, value) pairs for metrics.json and saves its figures through the context. What a model
cannot do is reported as "unsupported", together with the sentence that the model gives for it. A module that also
has `over_runs(runs, options)` compares many runs after the task was done for each, and yields lines to print.
"""

import difflib
import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, Optional, Union

from pae_zoo.core.errors import UserError
from pae_zoo.data import Dataset
from pae_zoo.evaluation import tasks
from pae_zoo.evaluation.context import UNSUPPORTED, Context, sentence
from pae_zoo.evaluation.features.extractor import check_file
from pae_zoo.evaluation.support.imputing import parse as check_masks
from pae_zoo.evaluation.tasks.downstream import check_counts
from pae_zoo.evaluation.tasks.ood import check_names
from pae_zoo.evaluation.tasks.restoration import check_mask

__all__ = [
    "UNSUPPORTED", "Context", "all_tasks", "check", "check_data", "check_tasks", "describe", "evaluate", "over_runs",
]  # fmt: skip

Value = Union[float, str]


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{tasks.__name__}.{name}")


def all_tasks() -> dict[str, Callable]:
    """Returns {task: its `run` function}, in alphabetical order."""
    found = {}
    for info in pkgutil.iter_modules(tasks.__path__):
        module = _module(info.name)
        if callable(getattr(module, "run", None)):
            found[info.name] = module.run
    return dict(sorted(found.items()))


def describe() -> dict[str, str]:
    """Returns {task: the first line of its docstring}, for help texts."""
    return {name: run.__doc__.strip().splitlines()[0] for name, run in all_tasks().items()}


def check(flags) -> None:
    """Raises UserError for a mistake in the flags of the tasks (`hparams.EvaluationFlags`), before anything is done."""
    check_tasks(flags.tasks)
    check_names(flags.ood_datasets)
    check_mask(flags.mask)
    check_file(flags.fid_weights)
    check_masks(flags.imputation_masks)
    check_counts(flags.labels_per_class)


def check_tasks(names: Sequence[str]) -> None:
    """Raises UserError, with the nearest names, when one of `names` is not a task."""
    known = list(all_tasks())
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UserError(f"Unknown task {name!r}.{hint} Tasks are: {', '.join(known)}.")


def check_data(flags, names: Sequence[str], dataset: Optional[Dataset] = None) -> None:
    """Raises UserError unless what the tasks `names` take and write is there and, where known, fits the data.

    For before a training, whose work a task must not lose by what it could have been told at once.
    """
    checks = [getattr(_module(name), "check_data", None) for name in names]
    for check_one in dict.fromkeys(filter(None, checks)):
        check_one(flags, dataset)


def over_runs(names: Sequence[str], runs: Sequence, options) -> Iterator[str]:
    """Yields what the tasks `names` find by comparing `runs`, each of which they were done for, as lines to print.

    runs: work directories, with `.workdir`. options: the flags. Raises UserError for runs that do not compare.
    """
    for name in dict.fromkeys(names):
        compare = getattr(_module(name), "over_runs", None)
        if compare is not None:
            yield from compare(runs, options)


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
                own[key] = value if isinstance(value, str) else float(value)
        except NotImplementedError as error:
            context.say(f"{name}: unsupported. {sentence(error)}")
            own[name] = UNSUPPORTED
        keep(own)
        results |= own
    for key, value in results.items():
        if not isinstance(value, str) and not math.isfinite(value):
            context.say(f"{key} is {value}: the model gave numbers that are not finite.")
    context.board.scalars(results)
    context.board.config()
    context.board.close()
    return results
