"""The rooms of the package: which may import which, and their picture in docs/architecture.md.

    python tools/rooms.py          prints the picture
    python tools/rooms.py --write  writes it into docs/architecture.md

A room is a folder or a module of pae_zoo; a module belongs to the longest name that it starts with.
"""

import ast
import functools
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, PAGE = ROOT / "pae_zoo", ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: by python tools/rooms.py --write -->", "<!-- end of rooms -->"

#: room -> rooms that it may import
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "core.fit_data": {"core"},
    "core.reading": {"core"},
    "core.sizes": {"core", "core.reading"},
    "core.trainable": {"core", "core.fit_data"},
    "moved": set(),
    "plotting": {"core"},
    "data": {"core", "core.reading"},
    "networks": {"core", "core.reading"},
    "likelihoods": {"core"},
    "flows": {"core", "core.fit_data", "core.trainable"},
    "densities": {"core", "core.trainable", "flows"},
    "inference": {"core"},
    "anomaly": {"core", "densities"},
    "sklearn": {"core", "networks", "densities", "models", "anomaly"},
    "laplace": {"core", "networks", "inference"},
    "geometry": {"core"},
    "curvature.network": {"core", "networks"},
    "curvature.rules": {"core", "networks", "curvature.network"},
    "curvature.matrices": {"core", "likelihoods", "curvature.network", "curvature.rules"},
    "curvature.posteriors": {"core", "core.reading", "curvature.network", "curvature.matrices"},
    "curvature.predictive": {"core", "curvature.network", "curvature.rules", "curvature.matrices",
                             "curvature.posteriors"},
    "curvature.callback": {"core", "curvature.network", "curvature.matrices", "curvature.posteriors"},
    "curvature": {"curvature.network", "curvature.rules", "curvature.matrices", "curvature.posteriors",
                  "curvature.predictive", "curvature.callback"},
    "models.capabilities": set(),
    "models.parts": {"core", "core.fit_data", "core.trainable", "data", "networks", "likelihoods", "flows", "densities",
                     "laplace", "curvature", "curvature.matrices", "curvature.posteriors", "models.capabilities"},
    "models.base": {"core", "core.fit_data", "core.trainable", "data", "networks", "likelihoods", "models.parts",
                    "models.capabilities"},
    "models": {"core", "core.fit_data", "core.trainable", "data", "networks", "likelihoods", "flows", "inference",
               "densities", "laplace", "geometry", "curvature", "curvature.matrices", "curvature.posteriors",
               "models.parts", "models.base", "models.capabilities"},
    "serving": {"core", "inference", "geometry", "models.capabilities"},
    "evaluation.metrics": {"core", "anomaly", "densities"},
    "evaluation.tensorboard": {"plotting"},
    "evaluation.context": {"core", "plotting", "evaluation.tensorboard"},
    "evaluation.features": {"core", "core.reading"},
    "evaluation.support": {"core", "core.reading", "data", "plotting", "inference", "geometry", "evaluation.context",
                           "evaluation.features", "evaluation.metrics"},
    "evaluation.tasks": {"core", "data", "plotting", "geometry", "curvature", "evaluation.context",
                         "evaluation.features", "evaluation.metrics", "evaluation.support"},
    "evaluation": {"core", "data", "models.capabilities", "evaluation.context", "evaluation.features",
                   "evaluation.support", "evaluation.tasks"},
    "registry": {"core", "networks", "likelihoods", "models", "evaluation"},
    "experiment": {"core", "core.reading", "core.sizes", "core.trainable", "data", "networks", "likelihoods",
                   "models", "models.base", "evaluation"},
    "applying": {"core", "core.reading", "data", "plotting", "anomaly", "models.capabilities", "evaluation.context",
                 "evaluation.metrics", "evaluation.support"},
    "reporting": {"core", "core.reading", "models", "evaluation", "evaluation.support", "experiment"},
    "main": {"core", "data", "networks", "models", "models.capabilities", "evaluation", "experiment", "reporting"},
    "evaluate": {"core", "models", "evaluation", "experiment", "reporting"},
    "leaderboard": {"core", "experiment", "reporting"},
    "report": {"core", "evaluation", "experiment", "reporting"},
    "apply": {"core", "evaluation", "evaluation.support", "experiment", "applying"},
    "export": {"core", "evaluation", "experiment", "serving", "applying"},
    "sweep": {"core", "experiment", "plotting"},
    "flow": {"core", "core.reading", "data", "densities", "plotting", "experiment"},
    "preset": {"core", "evaluate", "experiment"},
    "cli": {"core", "experiment"},
    "__main__": {"cli"},
}  # fmt: skip


def room_of(module: str) -> str:
    """Returns the room of a module, named without the package; '' for one that has none."""
    found = [room for room in ALLOWED if module == room or module.startswith(f"{room}.")]
    return max(found, key=len, default="")


@functools.cache
def modules() -> dict[str, Path]:
    """Returns {module, named without the package: its file}; the package's own __init__ is left out."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts:
            found[".".join(parts)] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Yields the modules of the package that a file imports, within functions too, without the package's name."""
    known = modules()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pae_zoo":
            base = (node.module or "").partition(".")[2]
            for alias in node.names:
                full = f"{base}.{alias.name}" if base else alias.name
                yield full if full in known else base
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("pae_zoo."))


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Returns {room: rooms that it does import}."""
    found: dict[str, set[str]] = {room: set() for room in ALLOWED}
    for module, path in modules().items():
        room = room_of(module)
        if room:
            found[room] |= {other for other in map(room_of, imports(path)) if other and other != room}
    return found


def floors() -> list[list[str]]:
    """Returns the rooms from the ground up; a room stands above all that it imports. Raises ValueError for a circle."""
    todo, built = dict(arrows()), []
    while todo:
        below = {room for floor in built for room in floor}
        floor = sorted(room for room, others in todo.items() if others <= below)
        if not floor:
            raise ValueError(f"a circle of imports is among {', '.join(sorted(todo))}")
        built.append(floor)
        for room in floor:
            del todo[room]
    return built


def picture() -> str:
    """Returns the floors as text, the top one first; arrows to core, on which nearly all stand, are left out."""
    found, lines = arrows(), []
    levels = floors()
    for number, floor in reversed(list(enumerate(levels, start=1))):
        for room in floor:
            seen = " ".join(sorted(found[room] - {"core"}))
            lines += textwrap.wrap(seen, 118, initial_indent=f"{number:2}  {room:23}", subsequent_indent=" " * 27) or [
                f"{number:2}  {room}"]
        lines.append("")
    num = sum(map(len, found.values()))
    counts = f"{len(ALLOWED)} rooms on {len(levels)} floors, {num} arrows, all of them down; those to core are left out"
    return f"{counts}\n\n    {'room':23}imports\n" + "\n".join(lines).rstrip()


def page() -> str:
    """Returns docs/architecture.md with the picture as it is now."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n```text\n{picture()}\n```\n\n{END}{after}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    elif sys.argv[1:]:
        sys.exit(f"unexpected words {' '.join(sys.argv[1:])}; allowed: --write")
    else:
        print(picture())
