"""Every Python block of the documentation runs; what stands below it as output is what it prints.

Blocks of a page share their names. A block after `<!-- not run: why -->` is only compiled. Numbers may differ as
processors, XLA and versions make them: they are compared to a quarter. By default the pages of a few models and a few
examples run, with all guides; the others are code of the same kind, and run with -m full.
"""

import contextlib
import io
import re
from pathlib import Path

import keras
import pytest
from tiers import some

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(
    r"(<!-- not run: [^\n]* -->\n+)?^```python\n(.*?)^```\n(?:\n*```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))


def blocks(path):
    """Yields (line, runs, code, output or "") of the Python blocks of a page."""
    text = path.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text[: found.start(2)].count("\n")
        yield line, not found[1], found[2], found[3] or ""


WITH_CODE = [path for path in PAGES if any(True for _ in blocks(path))]
MODELS = ROOT / "docs" / "models"
BY_DEFAULT = [path for path in WITH_CODE if path.parent != MODELS or path.stem in ("vae", "pae", "lae", "gp_circle")]
EXAMPLES_BY_DEFAULT = [path for path in EXAMPLES if path.stem in ("own_images", "denoise", "serve")]


def same(printed, expected):
    """Whether two texts are equal, but for white space and for a quarter of each number."""
    if "".join(NUMBER.sub("#", printed).split()) != "".join(NUMBER.sub("#", expected).split()):
        return False
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(expected), strict=True)
    return all(float(a) == pytest.approx(float(b), rel=0.25, abs=0.05) for a, b in pairs)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder to write into, and models that are compiled without XLA, whose compilation takes longer than the run."""
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)  # the order in which `fit` takes data
    owner = next(cls for cls in keras.Model.__mro__ if "compile" in vars(cls))
    compile_model = owner.compile
    monkeypatch.setattr(
        owner, "compile", lambda self, *args, **how: compile_model(self, *args, **{**how, "jit_compile": False}))
    return tmp_path


def run(code, scope):
    """Runs code and returns what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        exec(code, scope)
    return printed.getvalue()


def test_few_blocks_are_not_run():
    assert sum(not runs for path in WITH_CODE for _, runs, _, _ in blocks(path)) <= 4


@pytest.mark.parametrize("path", some(WITH_CODE, BY_DEFAULT), ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_run_and_print_what_the_page_says(path, elsewhere):
    scope = {"__name__": "page"}
    for line, runs, code, expected in blocks(path):
        # Lines are those of the page, for whoever reads the traceback.
        compiled = compile("\n" * line + code, str(path), "exec")
        if runs:
            printed = run(compiled, scope)
            assert not expected or same(printed, expected), f"line {line} prints:\n{printed}\nthe page:\n{expected}"


@pytest.mark.parametrize("path", some(EXAMPLES, EXAMPLES_BY_DEFAULT), ids=lambda path: path.stem)
def test_examples_run_and_print_what_they_say(path, elsewhere):
    code = path.read_text(encoding="utf-8")
    expected = re.search(r"Prints:\n\n(.*?)\n\"\"\"", code, re.DOTALL)[1]
    printed = run(compile(code, str(path), "exec"), {"__name__": "__main__"})
    assert same(printed, expected), f"{path.name} prints:\n{printed}\nits head:\n{expected}"
