"""The comparison with laplace-torch: what it says where that is missing, and the table, without it."""

import os
import shutil
from pathlib import Path

import compare_laplace
import numpy as np
import pytest


@pytest.mark.parametrize("python", ["/nowhere/python", shutil.which("false")])
def test_without_laplace_torch_one_line_says_so(python, capsys):
    compare_laplace.main([f"--torch_python={python}"])
    assert capsys.readouterr().out.startswith(f"Not compared: {python} has no laplace-torch")


def test_values_that_differ_are_a_failure(monkeypatch, capsys):
    found = {"variance": np.ones((2, 1)), "seconds": np.array(1.0), "again": np.array(0.5)}

    def run(command, **options):
        np.savez(Path(command[-1]) / "found.npz", **{**found, "variance": found["variance"] + 1e-3})
        return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(compare_laplace, "CASES", [("regressor", "diag")])
    monkeypatch.setattr(compare_laplace, "ours", lambda *_: found)
    monkeypatch.setattr(compare_laplace, "without_laplace", lambda *_: "")
    monkeypatch.setattr(compare_laplace.subprocess, "run", run)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(SystemExit, match="differ by up to 1.0e-03"):
        compare_laplace.main([])
    assert "| regressor | diag | variance | 1 | 1.0e-03 | 1.00 / 0.50 | 1.00 / 0.50 |" in capsys.readouterr().out
