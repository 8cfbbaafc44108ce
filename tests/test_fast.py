"""The lists of tests: fast.txt has one of every room and of every task, long.txt what only the full tier runs."""

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

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


def test_long_tests_are_there():
    """The tests of long.txt exist, in the order of their names, and none is a fast one."""
    listed = (TESTS / "long.txt").read_text().splitlines()
    assert listed == sorted(set(listed)) and not set(listed) & set((TESTS / "fast.txt").read_text().split())
    for file, names in itertools.groupby(listed, lambda line: line.split("::")[0]):
        defined = set(re.findall(r"^def (test_\w+)", (TESTS.parent / file).read_text(), re.MULTILINE))
        missing = {name.split("::")[1].split("[")[0] for name in names} - defined
        assert not missing, f"{file} has no {missing}"


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_a_room_of_the_list():
    def make(*words):
        # Not as a part of the make that runs these tests, which would say which folders it enters and leaves.
        alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        return subprocess.run(["make", "-n", "test-fast", *words], cwd=TESTS.parent, capture_output=True, text=True,
                              env=alone)

    last = make("ROOM=flows").stdout.splitlines()[-1]
    chosen = [word.strip("'") for word in last.split() if "tests/" in word]
    assert chosen == [line for line in (TESTS / "fast.txt").read_text().split() if line.startswith("tests/flows/")]
    assert chosen and make().stdout.splitlines()[-1].endswith("'@tests/fast.txt'")
    assert "no fast tests of ROOM=nowhere" in make("ROOM=nowhere").stderr
