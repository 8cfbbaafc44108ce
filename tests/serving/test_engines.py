"""The recipes for Spark and Beam: what both share, and each in its local mode where it is installed."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from battery import build, images

from pae_zoo import serving

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples" / "engines"
ROWS = 20


@pytest.fixture(scope="module")
def model():
    return build("ae")


@pytest.fixture(scope="module")
def place(model, tmp_path_factory):
    """A folder with an exported model, and a table of images."""
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("engines")
    serving.export(model, folder / "model", only=("encode", "ood_scores"))
    flat = list(images(ROWS).reshape(ROWS, -1))
    parquet.write_table(pyarrow.table({"row": np.arange(ROWS), "x": flat}), folder / "rows.parquet")
    return folder


def test_rows_are_answered_as_the_model_does(model, place, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    served = importlib.import_module("served")
    found = served.records(str(place / "model" / "1"), "encode", range(ROWS), images(ROWS).reshape(ROWS, -1).tolist())
    assert [one["row"] for one in found] == list(range(ROWS))
    np.testing.assert_allclose([one["mean"] for one in found], model.encode(images(ROWS)).mean(), rtol=1e-5, atol=1e-5)
    scores = served.records(str(place / "model" / "1"), "ood_scores", range(ROWS), images(ROWS))
    for name, expected in model.ood_scores(images(ROWS), (0, 0)).items():
        np.testing.assert_allclose([one[name] for one in scores], expected, rtol=1e-4, atol=1e-4)


def run(script, place, target, *options):
    command = [sys.executable, script, str(place / "model" / "1"), "encode", str(place / "rows.parquet"), str(target)]
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "PYSPARK_PYTHON": sys.executable,
                   "PYSPARK_DRIVER_PYTHON": sys.executable}  # fmt: skip
    done = subprocess.run([*command, *options], cwd=FOLDER, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.full
def test_spark(model, place):
    pytest.importorskip("pyspark")
    from pyarrow import parquet

    run("spark_scores.py", place, place / "scores.parquet")
    found = parquet.read_table(place / "scores.parquet").sort_by("row").to_pydict()
    assert found["row"] == list(range(ROWS))
    np.testing.assert_allclose(found["mean"], model.encode(images(ROWS)).mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.full
def test_beam(model, place):
    pytest.importorskip("apache_beam")
    run("beam_scores.py", place, place / "scores", "--runner=DirectRunner")
    lines = [json.loads(line) for file in sorted(place.glob("scores-*.jsonl")) for line in file.read_text().split("\n")
             if line]
    found = {one["row"]: one["mean"] for one in lines}
    assert sorted(found) == list(range(ROWS))
    np.testing.assert_allclose([found[row] for row in range(ROWS)], model.encode(images(ROWS)).mean(), rtol=1e-5,
                               atol=1e-5)
