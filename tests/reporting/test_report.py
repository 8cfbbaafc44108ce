"""The report of a run: what it says, that it is whole, when it is written anew, what is refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_runs import VAE, make
from test_leaderboard import Reader

from pae_zoo import report
from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.support import map_points
from pae_zoo.experiment import launch
from pae_zoo.experiment.workdir import Run
from pae_zoo.reporting import curves, html, run_page

BEFORE = Path(__file__).resolve().parents[1] / "fixtures" / "before"


def call(*argv):
    return launch.run(report.main, list(argv))


@pytest.mark.parametrize("kind", ["images", "rows", "windows"])
def test_a_report_says_what_a_run_is(kind, tmp_path, capsys):
    run = make(tmp_path / "run", "vae", 5, VAE[0], ("reconstructions", "ood_noise_scores"), kind, latent_dim=2,
               data_dir="/secret")
    (run.figures / "likelihood.pdf").write_bytes(b"%PDF")
    assert call(f"--workdir={run.workdir}", f"--output={tmp_path / 'page.html'}") == 0
    assert "page.html" in capsys.readouterr().out
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Reader(text)
    assert not page.open and "http" not in text.replace("http-equiv", "")
    for words in ("vae on digits", "--seed=5 --latent_dim=2", "0.001", "Not shown, for they are PDF: likelihood.pdf",
                  "loses to simple methods: noise: AUROC 0.9 of elbo, knn_codes 0.95",
                  "loss by epoch: train from 9 to 3, valid from 10 to 3.333"):  # fmt: skip
        assert words in text, words
    assert "/secret" not in text and str(tmp_path) not in text
    [points] = json.loads(page.scripts["application/json"])["maps"]
    assert len(points["x"]) == len(points["error"]) == 60
    assert {"images": "sheet", "rows": "names", "windows": "series"}[kind] in points


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(path.name for path in BEFORE.iterdir()))
def test_a_run_of_before_gets_a_map_and_a_report(name, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(BEFORE / name / "run", run)
    shutil.copy(BEFORE / name / "saved.keras", run / "model.keras")
    if not Run(run).is_finished:
        Run(run).merge_metrics({"train/steps_asked": 8})
    assert call(f"--workdir={run}") == 0
    points = map_points.read(run)
    assert np.isfinite(points.places).all() and len(np.unique(points.places)) > 2
    assert points.original.shape == points.decoded.shape and "data-map" in (run / "report.html").read_text()


def test_a_report_is_written_anew_only_where_metrics_are_newer(tmp_path):
    run = make(tmp_path / "run", "vae", 0, VAE[0])
    path = run_page.refresh(run)
    before = path.stat().st_mtime_ns
    assert run_page.refresh(run) == path and path.stat().st_mtime_ns == before
    run.merge_metrics({"test/mse": 0.123456})
    os.utime(run.workdir / "metrics.json", ns=(before + 10**9, before + 10**9))
    run_page.refresh(run)
    assert "0.12346" in path.read_text()


def test_a_sheet_holds_every_image():
    images = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3, 1)
    found = html.sheet(images)
    assert (found["width"], found["height"], found["columns"]) == (3, 2, 3)
    assert found["uri"].startswith("data:image/png;base64,")


def test_maps_that_are_no_maps_are_refused(tmp_path):
    run = make(tmp_path / "run", "vae", 0, VAE[0], points="images")
    arrays = dict(np.load(run.workdir / map_points.FILE))
    assert map_points.read(run.workdir).label_names[0] == "zero"
    np.savez(run.workdir / map_points.FILE, **{**arrays, "labels": arrays["labels"][:3]})
    with pytest.raises(UserError, match="row for each point"):
        map_points.read(run.workdir)


def test_bad_input_is_one_line(tmp_path, capsys):
    make(tmp_path / "late", "vae", 0, VAE[0], finished=False)
    make(tmp_path / "whole", "vae", 0, VAE[0], points="rows")
    for argv, words in [([], "--workdir is needed"), ([f"--workdir={tmp_path}"], "not the work directory"),
                        ([f"--workdir={tmp_path / 'late'}"], "is not finished"),
                        ([f"--workdir={tmp_path / 'whole'}", f"--output={tmp_path / 'late'}"], "late"),
                        ([f"--workdir={tmp_path / 'whole'}", "--workdirs=a"], "unknown flag --workdirs")]:  # fmt: skip
        assert call(*argv) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1


def test_ticks_are_round_and_inside():
    for low, high in [(0, 1), (-3.3, 7.1), (0.0295, 0.0301), (1, 1)]:
        found = curves.ticks(low, high)
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found) and len(found) <= 8
