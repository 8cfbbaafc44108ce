"""The command on surfaces with known geodesics prints its tables and draws both pictures."""

import known_surfaces
import pytest


@pytest.mark.full
def test_tables_and_pictures(tmp_path, capsys):
    assert known_surfaces.main([f"--out={tmp_path}", "--pairs=4", "--steps=20"]) == 0
    told = capsys.readouterr().out
    assert "Gauss-Newton" in told and "as published, 257 points" in told
    assert {path.name for path in tmp_path.iterdir()} == {"sphere.png", "ring.png"}
