"""Models, found by the name of their module: one file per model.

A module of this package that defines MODEL and HParams is a model; nothing else has to be edited.
"""

import importlib
import pkgutil
from types import ModuleType

from pae_zoo.core.errors import UserError, unknown


def _modules() -> dict[str, ModuleType]:
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if hasattr(module, "MODEL"):
            found[info.name] = module
    return found


MODULES = _modules()


_OWN = frozenset(MODULES)


def check(name: str, module: ModuleType) -> None:
    """Raises UserError for a name of the package's, and for what lacks `MODEL`, `HParams` or a docstring."""
    lacking = [part for part in ("MODEL", "HParams", "__doc__") if not getattr(module, part, None)]
    if lacking:
        raise UserError(f"The model {name!r} needs MODEL, HParams and a docstring; {', '.join(lacking)} is missing.")
    if name in _OWN and MODULES[name] is not module:
        raise UserError(f"There is a model {name!r} already; take another name.")


def register(name: str, module: ModuleType) -> None:
    """Makes a model known: a module, or another object, with `MODEL`, `HParams` and a docstring; see `check`."""
    check(name, module)
    MODULES[name] = module


def find(name: str) -> ModuleType:
    """Returns the module of the model `name`; raises UserError with the known names."""
    if name not in MODULES:
        raise unknown("--model", name, MODULES)
    return MODULES[name]


def describe() -> dict[str, str]:
    """Returns {name: one line} of every model."""
    lines = {}
    for name, module in MODULES.items():
        lines[name] = (module.__doc__ or name).strip().splitlines()[0].removeprefix(f"{name}: ")
    return lines
