"""Arrows between rooms point down; every module has a room with a rule; the picture of it is the one in the docs."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import rooms  # noqa: E402


def test_every_module_has_a_room_with_a_rule():
    without = [name for name in rooms.modules() if not rooms.room_of(name)]
    assert not without, f"add a rule for {without} to tools/rooms.py, or put it where one holds"
    empty = [room for room in rooms.ALLOWED if not any(rooms.room_of(name) == room for name in rooms.modules())]
    assert not empty, f"{empty} hold nothing"


def test_a_room_imports_only_what_it_may():
    for room, found in rooms.arrows().items():
        assert found <= rooms.ALLOWED[room], f"{room} imports {sorted(found - rooms.ALLOWED[room])}"


def test_there_is_no_circle():
    assert sum(map(len, rooms.floors())) == len(rooms.ALLOWED)


def test_a_circle_is_told(monkeypatch):
    monkeypatch.setattr(rooms, "arrows", lambda: {"data": {"models"}, "models": {"data"}, "core": set()})
    with pytest.raises(ValueError, match="data, models"):
        rooms.floors()


def test_no_files_import_each_other_in_a_circle():
    """Between files too: a file stands above all that it imports."""
    names = rooms.modules()
    todo = {name: {other for other in rooms.imports(path) if other not in ("", name)} for name, path in names.items()}
    while todo:
        ready = [name for name, others in todo.items() if not others & set(todo)]
        assert ready, f"a circle of imports is among {sorted(todo)}"
        for name in ready:
            del todo[name]


def test_the_picture_in_the_docs_is_that_of_the_code():
    assert rooms.page() == rooms.PAGE.read_text(encoding="utf-8"), "run python tools/rooms.py --write"


def test_launchers_are_short():
    for name in ("main", "evaluate", "apply", "export"):
        assert len((rooms.PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 100


def test_no_source_file_is_longer_than_500_lines():
    long = [p.name for p in rooms.PACKAGE.rglob("*.py") if len(p.read_text(encoding="utf-8").splitlines()) > 500]
    assert not long


def test_forward_mode_stands_in_one_place():
    found = [p.name for p in rooms.PACKAGE.rglob("*.py") if "ForwardAccumulator" in p.read_text(encoding="utf-8")]
    assert found == ["forward_mode.py"]


def unannotated(tree: ast.Module) -> list[str]:
    """Returns the public functions and methods that lack the type of an argument or of what they return."""
    found = []

    def look(node, method: bool) -> None:
        for one in node.body:
            if isinstance(one, ast.ClassDef):
                look(one, True)
            elif isinstance(one, (ast.If, ast.Try, ast.With)):
                look(one, method)
            elif isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)) and not one.name.startswith("_"):
                static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in one.decorator_list)
                plain = [*one.args.posonlyargs, *one.args.args][1 if method and not static else 0 :]
                stars = [star for star in (one.args.vararg, one.args.kwarg) if star]
                arguments = [*plain, *one.args.kwonlyargs, *stars]
                if one.returns is None or any(argument.annotation is None for argument in arguments):
                    found.append(one.name)

    look(tree, False)
    return found


@pytest.mark.parametrize("line, told", [
    ("def f(x: int) -> int: ...", []),
    ("def f(x) -> int: ...", ["f"]),
    ("def f(x: int): ...", ["f"]),
    ("def f(*x) -> int: ...", ["f"]),
    ("def f(*, x) -> int: ...", ["f"]),
    ("def _f(x): ...", []),
    ("class A:\n    def f(self) -> int: ...", []),
    ("class A:\n    @staticmethod\n    def f(x) -> int: ...", ["f"]),
])
def test_what_is_not_annotated_is_found(line, told):
    assert unannotated(ast.parse(line)) == told


def test_public_functions_have_types():
    for path in sorted(rooms.PACKAGE.rglob("*.py")):
        name = path.relative_to(rooms.PACKAGE).as_posix()
        found = unannotated(ast.parse(path.read_text(encoding="utf-8")))
        assert not found, f"annotate the arguments and returns of {found} in {name}"


def test_files_of_tests_have_names_of_their_own():
    """pytest imports them by their names alone, and a second of a name is an error of the whole run."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})
