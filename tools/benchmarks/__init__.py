"""One module per benchmark, found by its name; a leading underscore marks what they share.

A benchmark has a docstring for the help, `add_arguments(parser)` and `run(args) -> {case: {metric: value}}`.
It imports TensorFlow only inside functions, so that the help is quick.
"""

import importlib
import json
import os
import pkgutil
from types import ModuleType


def find() -> dict[str, ModuleType]:
    """Returns the benchmarks by name."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


def write_json(path: str, cases: dict[str, dict[str, float]]) -> None:
    """Writes {case: {metric: value}}; the file appears whole or not at all."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.writing-{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(cases, file, indent=1)
        file.write("\n")
    os.replace(temporary, path)
