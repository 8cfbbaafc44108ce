"""Models, found by the name of their module: one file per model.

A module of this package that defines MODEL and HParams is a model; nothing else has to be edited.
"""

import importlib
import pkgutil
from types import ModuleType

from pae_zoo.core.errors import UserError, suggestion


def _modules() -> dict[str, ModuleType]:
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if hasattr(module, "MODEL"):
            found[info.name] = module
    return found


MODULES = _modules()


def find(name: str) -> ModuleType:
    """Returns the module of the model `name`; raises UserError with the known names."""
    if name not in MODULES:
        raise UserError(f"--model={name!r} is unknown; allowed: {', '.join(MODULES)}{suggestion(name, MODULES)}.")
    return MODULES[name]


def describe() -> dict[str, str]:
    """Returns {name: one line} of every model."""
    lines = {}
    for name, module in MODULES.items():
        lines[name] = module.__doc__.strip().splitlines()[0].removeprefix(f"{name}: ")
    return lines
