"""Parts made by several processes: each piece is one process's, and together they are the whole."""

import json

import numpy as np
import pytest
from test_apply import command, finished

from pae_zoo.applying import shares
from pae_zoo.core.errors import UserError

ROWS = 23


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("runs") / "vae", "vae", (3,), preprocess=("reals",))[1]


@pytest.fixture
def given(run, tmp_path):
    x = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
    (tmp_path / "rows").mkdir()
    for number, part in enumerate(np.array_split(x, 3)):
        np.save(tmp_path / "rows" / f"x{number}.npy", part)
    return [f"--workdir={run}", f"--input=npy:{tmp_path / 'rows'}", "--outputs=codes,log_likelihood", "--part_rows=4",
            "--part_format=npz", "--importance_samples=3"]


def read(folder):
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            found[path.name] = {name: file[name] for name in file.files}
    return found


@pytest.mark.parametrize("files, size", [(5, 3), (2, 4), (1, 2)])
def test_every_piece_is_one_process_s(files, size):
    for file in range(files):
        for piece in range(6):
            takers = [number for number in range(size) if shares.Share(number, size).takes(file, piece, files)]
            assert len(takers) == 1 and shares.Share(takers[0], size).opens(file, files)


def test_shares_are_the_whole(given, tmp_path):
    assert command(*given, f"--out={tmp_path / 'whole'}") == 0
    for number in (1, 0):
        assert command(*given, f"--out={tmp_path / 'parts'}", f"--share={number}/2") == 0
    # The last command makes nothing more, and notes all parts.
    assert command(*given, f"--out={tmp_path / 'parts'}") == 0
    whole, found = read(tmp_path / "whole"), read(tmp_path / "parts")
    assert whole.keys() == found.keys() and len(whole) == 6
    for name, arrays in whole.items():
        for key, values in arrays.items():
            np.testing.assert_array_equal(found[name][key], values)
    records = [json.loads((tmp_path / name / "parts.json").read_text()) for name in ("whole", "parts")]
    assert records[0] == records[1] and records[0]["rows"] == ROWS


@pytest.mark.parametrize("flags, words", [
    (["--share=2/2"], "written I/N"), (["--share=a"], "written I/N"),
    (["--share=0/2", "--engine=ray"], "leave that out"),
])
def test_bad_shares_are_told(given, tmp_path, capsys, flags, words):
    assert command(*given, f"--out={tmp_path / 'parts'}", *flags) == 2
    assert words in capsys.readouterr().err


def test_results_at_once_are_not_shared(given, tmp_path, capsys):
    plain = [word for word in given if not word.startswith("--part")]
    assert command(*plain, f"--out={tmp_path / 'x.npz'}", "--share=0/2") == 2
    assert "add --part_rows=N" in capsys.readouterr().err


def test_flags_of_the_sharing_are_not_handed_on():
    words = ["--engine", "ray", "--workers=3", "--out=a", "--ray_address=auto", "--share=", "--part_rows", "4"]
    assert shares._without(words) == ["--out=a", "--part_rows", "4"]
    with pytest.raises(UserError):
        shares.parse("4")


@pytest.mark.full
def test_processes_of_ray_make_the_parts(given, tmp_path, capsys):
    ray = pytest.importorskip("ray")
    try:
        assert command(*given, f"--out={tmp_path / 'parts'}", "--engine=ray", "--workers=2") == 0
        assert "share 1/2: done" in capsys.readouterr().err
        assert command(*given, f"--out={tmp_path / 'whole'}") == 0
        for name, arrays in read(tmp_path / "whole").items():
            for key, values in arrays.items():
                np.testing.assert_allclose(read(tmp_path / "parts")[name][key], values, rtol=1e-5, atol=1e-5)
        (tmp_path / "rows" / "x1.npy").write_bytes(b"no array")
        assert command(*given, f"--out={tmp_path / 'more'}", "--engine=ray", "--workers=2") == 2
        told = capsys.readouterr().err
        assert "1 of 2 processes failed" in told, told
    finally:
        ray.shutdown()
