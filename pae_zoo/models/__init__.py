"""Models, found by the name of their module: one file per model.

A module of this package that defines MODEL and HParams is a model; nothing else has to be edited. Those that imitate
published code have a table of their own, `PUBLISHED`.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import Any, Optional

from pae_zoo.core.errors import UserError, unknown
from pae_zoo.models.parts.former import Former
from pae_zoo.models.published import PUBLISHED


def _modules() -> dict[str, ModuleType]:
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if hasattr(module, "MODEL"):
            found[info.name] = module
    return found


MODULES = _modules()


_OWN = frozenset({**MODULES, **PUBLISHED})


def every() -> dict[str, ModuleType]:
    """Returns {name: module} of all models, those of `PUBLISHED` too."""
    return {**MODULES, **PUBLISHED}


def check(name: str, module: ModuleType) -> None:
    """Raises UserError for a name of the package's, and for what lacks `MODEL`, `HParams` or a docstring."""
    lacking = [part for part in ("MODEL", "HParams", "__doc__") if not getattr(module, part, None)]
    if lacking:
        raise UserError(f"The model {name!r} needs MODEL, HParams and a docstring; {', '.join(lacking)} is missing.")
    if name in _OWN and every()[name] is not module:
        raise UserError(f"There is a model {name!r} already; take another name.")


def register(name: str, module: ModuleType) -> None:
    """Makes a model known: a module, or another object, with `MODEL`, `HParams` and a docstring; see `check`."""
    check(name, module)
    MODULES[name] = module


def find(name: str) -> ModuleType:
    """Returns the module of the model `name`; raises UserError with the known names."""
    known = every()
    if name not in known:
        raise unknown("--model", name, known)
    return known[name]


def as_now(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the flags of a run, where settings of before made its model imitate with the model that does so now."""
    former = _former(find(config["model"]))
    imitates, rest = former.split(config) if former else (False, config)
    return {**rest, "model": former.model} if former and imitates else rest


def advice(flag: str) -> str:
    """Returns what to do about a flag with which a model imitated before, '' for any other."""
    found = [former for former in map(_former, MODULES.values()) if former and flag in former.settings]
    return "; ".join(former.advice(flag) for former in found)


def _former(module: ModuleType) -> Optional[Former]:
    return getattr(module.MODEL, "former", None)


def line(name: str) -> str:
    """Returns one line on the model `name`; raises UserError with the known names."""
    return (find(name).__doc__ or name).strip().splitlines()[0].removeprefix(f"{name}: ")


def describe() -> dict[str, str]:
    """Returns {name: one line} of the models that stand for themselves; `PUBLISHED` has the others."""
    return {name: line(name) for name in MODULES}
