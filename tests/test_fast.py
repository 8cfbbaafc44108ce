"""The list of the fast tests, tests/fast.txt, has one of every room and of every task."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
# Of trained models, of files beside the code, and of what is installed.
LEFT_OUT = {"tests/test_quality.py", "tests/test_configs.py", "tests/test_docs.py", "tests/test_docs_code.py",
            "tests/test_package.py", "tests/test_moved.py", "tests/test_fast.py"}  # fmt: skip


def test_every_room_is_in_the_list():
    listed = (TESTS / "fast.txt").read_text().split()
    assert len(listed) == len(set(listed))
    files = {line.split("::")[0] for line in listed}
    assert not [file for file in files if not (TESTS.parent / file).is_file()]
    there = {path.relative_to(TESTS.parent) for path in TESTS.rglob("test_*.py")}
    rooms = {path.parent.as_posix() for path in there if len(path.parts) > 2}
    assert rooms == {Path(file).parent.as_posix() for file in files} - {"tests"}
    own = {path.as_posix() for path in there if path.parent.name in ("tests", "tasks")}
    assert own - LEFT_OUT <= files
