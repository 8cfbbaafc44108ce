"""The tutorials: scripts run and print what their notebooks say, notebooks hold the cells of their scripts.

One of a few seconds runs by default, all of them with -m full.
"""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from test_docs_code import elsewhere, run, same  # noqa: F401
from tiers import some

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import nbformat  # noqa: E402
import notebooks  # noqa: E402

SCRIPTS = notebooks.scripts()
BY_DEFAULT = [script for script in SCRIPTS if script.stem == "likelihood"]


@pytest.fixture
def figures(monkeypatch):
    """Looks at each figure that is shown, closes it, and returns how many there were."""
    seen = []

    def show(*args, **how):
        for number in plt.get_fignums():
            figure = plt.figure(number)
            titles = [figure.get_suptitle(), *(axis.get_title() for axis in figure.axes)]
            assert any(titles), "a figure has no title"
            figure.canvas.draw()
            image = np.asarray(figure.canvas.buffer_rgba())
            assert image.std() > 1, "a figure is empty"
            seen.append(titles)
            plt.close(figure)

    monkeypatch.setattr(plt, "show", show)
    return seen


def test_every_tutorial_has_a_notebook_of_its_script():
    assert len(SCRIPTS) == 5
    assert not [told for script in SCRIPTS if (told := notebooks.fault(script))]
    assert {path.stem for path in notebooks.FOLDER.glob("*.ipynb")} == {script.stem for script in SCRIPTS}


def test_a_changed_script_is_told(tmp_path):
    script = tmp_path / "one.py"
    script.write_text("# %% [markdown]\n# # A title\n\n# %%\nprint(1 + 1)\n")
    assert notebooks.fault(script) == "one.ipynb is missing"
    notebook = notebooks.read(script)
    nbformat.write(notebook, notebooks.notebook_of(script))
    assert notebooks.fault(script) == "one.ipynb has no outputs"
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="2\n")]
    nbformat.write(notebook, notebooks.notebook_of(script))
    assert notebooks.fault(script) == ""
    script.write_text(script.read_text().replace("1 + 1", "1 + 2"))
    assert notebooks.fault(script) == "one.ipynb does not hold the cells of one.py"


def test_an_unknown_tutorial_is_told():
    done = subprocess.run([sys.executable, ROOT / "tools" / "notebooks.py", "imges"], capture_output=True, text=True)
    assert done.returncode == 2 and "there is no tutorial imges; there are images, " in done.stderr


def test_notebooks_hold_no_traces_of_a_machine():
    for script in SCRIPTS:
        notebook = json.loads(notebooks.notebook_of(script).read_text())
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
        assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
        assert all(output["name"] == "stdout" for output in outputs if output["output_type"] == "stream")
        assert all(cell["execution_count"] is None for cell in notebook["cells"] if cell["cell_type"] == "code")


@pytest.mark.parametrize("script", some(SCRIPTS, BY_DEFAULT), ids=lambda script: script.stem)
def test_tutorials_run_and_print_what_their_notebooks_say(script, elsewhere, figures):  # noqa: F811
    printed = run(compile(script.read_text(encoding="utf-8"), str(script), "exec"), {"__name__": "__main__"})
    notebook = nbformat.read(notebooks.notebook_of(script), as_version=4)
    expected = notebooks.printed(notebook)
    assert same(printed, expected), f"it prints:\n{printed}\nthe notebook:\n{expected}"
    drawn = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
             if output.output_type == "display_data"]
    assert len(figures) == len(drawn) > 0
