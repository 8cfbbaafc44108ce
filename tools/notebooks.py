"""The notebooks of docs/tutorials: each is made of the script beside it, with its outputs.

    python tools/notebooks.py                 # fails where a notebook does not hold the cells of its script
    python tools/notebooks.py --write         # runs the scripts whose notebooks differ, and writes these
    python tools/notebooks.py --write images  # runs that one, whether it differs or not

Scripts are in jupytext's form: `# %%` begins a cell of code, `# %% [markdown]` one of text.
"""

import argparse
import os
import sys
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "tutorials"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# Notebooks are committed with their pictures: more than this, and the pictures are too many or too large.
MOST_BYTES, DOTS_PER_INCH = 400_000, 80
TIMEOUT_S = 1200


def scripts() -> list[Path]:
    """Returns the scripts of all tutorials, by name."""
    return sorted(FOLDER.glob("*.py"))


def notebook_of(script: Path) -> Path:
    """Returns where the notebook of a script is."""
    return script.with_suffix(".ipynb")


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Returns (kind, source) of each cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def read(script: Path) -> nbformat.NotebookNode:
    """Returns the notebook of a script, without outputs."""
    return jupytext.read(script, fmt="py:percent")


def printed(notebook: nbformat.NotebookNode) -> str:
    """Returns all that a notebook printed, its warnings left out."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def fault(script: Path) -> str:
    """Returns what is wrong with the notebook of a script, "" for nothing."""
    path = notebook_of(script)
    if not path.is_file():
        return f"{path.name} is missing"
    notebook = nbformat.read(path, as_version=4)
    if cells(notebook) != cells(read(script)):
        return f"{path.name} does not hold the cells of {script.name}"
    if not printed(notebook):
        return f"{path.name} has no outputs"
    if path.stat().st_size > MOST_BYTES:
        return f"{path.name} has {path.stat().st_size:,} bytes, more than {MOST_BYTES:,}: draw less, or smaller"
    return ""


def run(script: Path) -> nbformat.NotebookNode:
    """Returns the notebook of a script with the outputs of a run; the first cell that fails ends it with its error."""
    import nbclient  # with ipykernel, of the extra `notebooks`: comparing needs neither

    # A process of its own: the package of this checkout, and TensorFlow without a word about missing GPUs.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    notebook = read(script)
    notebook.metadata["kernelspec"] = KERNEL
    style = nbformat.v4.new_code_cell(
        "import os\nos.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what TensorFlow's C++ says is no output\n"
        "%matplotlib inline\nimport matplotlib\n"
        f"matplotlib.rcParams['figure.dpi'] = {DOTS_PER_INCH}\n"
        "%config InlineBackend.print_figure_kwargs = {'bbox_inches': None}")
    notebook.cells.insert(0, style)
    nbclient.NotebookClient(notebook, timeout=TIMEOUT_S, kernel_name=KERNEL["name"]).execute(cwd=str(FOLDER))
    del notebook.cells[0]
    return cleaned(notebook)


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Returns a notebook without what differs from run to run and says nothing: times, numbers, warnings."""
    for number, cell in enumerate(notebook.cells):
        cell.metadata, cell.id = {}, f"cell-{number}"
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in cell.outputs
                            if output.output_type != "stream" or output.name == "stdout"]
            for output in cell.outputs:
                output.get("data", {}).pop("text/plain", None)
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return notebook


def write(script: Path) -> None:
    """Runs a script and writes its notebook."""
    notebook = run(script)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    nbformat.write(notebook, notebook_of(script))


def main() -> int:
    """Writes or checks; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="tutorials, without .py; all by default")
    parser.add_argument("--write", action="store_true", help="run scripts and write their notebooks")
    options = parser.parse_args()
    known = {script.stem: script for script in scripts()}
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"there is no tutorial {', '.join(unknown)}; there are {', '.join(known)}")
    if options.write:
        chosen = [known[name] for name in options.names] or [one for one in known.values() if fault(one)]
        for script in chosen:
            print("running", script.relative_to(ROOT), flush=True)
            write(script)
    faults = [told for script in known.values() if (told := fault(script))]
    for told in faults:
        print(f"{told}; run: python tools/notebooks.py --write", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
