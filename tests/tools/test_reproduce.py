"""tools/reproduce.py: items name what there is, nothing is done twice, numbers are read where they are."""

import json
import subprocess
from pathlib import Path

import pytest
import reproduce
from reproductions import ITEMS, _page, _runs
from reproductions._items import CPU, PUBLISHED

ROOT = Path(__file__).resolve().parents[2]


def make_run(folder, **numbers):
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(numbers))


@pytest.mark.parametrize("kind", [PUBLISHED, CPU])
def test_items_name_settings_and_runs_that_there_are(kind):
    for item in ITEMS.values():
        names = [run.name for run in item.runs]
        assert len(set(names)) == len(names) and any(run.config(kind) for run in item.runs), item.name
        for run in item.runs:
            config = ROOT / "configs" / f"{run.config(kind)}.cfg"
            assert not run.config(kind) or config.exists(), config
        assert {row.run for row in item.rows} <= {*names, ""}
        assert {picture.partition(": ")[0] for picture in item.pictures} <= set(names)
        assert item.differs.endswith(".") and item.rows
        if any(not row.run for row in item.rows):
            assert item.compare


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch, capsys):
    item, called = ITEMS["pae-table2"], []

    def run(command, cwd):
        called.append(command[1:])
        folder = next(Path(word.partition("=")[2]) for word in command if word.startswith("--workdir="))
        if not folder.exists():
            make_run(folder, **{row.key: 0.25 for row in item.rows})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(_runs.subprocess, "run", run)
    record = _runs.reproduce(item, CPU, tmp_path, 2, "data")
    assert [command[1] for command in called] == 2 * ["pae_zoo.main", "pae_zoo.evaluate", "pae_zoo.evaluate"]
    assert "--ood_datasets=mnist,omniglot,hflip,vflip" in called[2] and "--data_dir=data" in called[2]
    assert record["rows"][0] == {"what": "latent_density, AUROC against MNIST", "published": "0.997",
                                 "ours": "0.250 ± 0.000"}
    assert record["seeds"] == 2
    # Elsewhere the data may lie in another folder: that repeats nothing.
    assert _runs.reproduce(item, CPU, tmp_path, 2, "elsewhere")["rows"] == record["rows"] and len(called) == 6


def test_a_command_that_fails_ends_the_item_and_is_not_stamped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_runs.subprocess, "run", lambda command, cwd: subprocess.CompletedProcess(command, 3))
    assert reproduce.main(["pae-fig6", "--cpu", f"--workdir={tmp_path}"]) == 1
    assert "pae-fig6: the command above ended with status 3" in capsys.readouterr().err
    assert not list(tmp_path.rglob(_runs.STAMP))


def test_numbers_of_several_runs_and_of_tables(tmp_path):
    assert _runs.told([], 2) == "not measured" and _runs.told([1.234], 2) == "1.23"
    assert _runs.told([1.0, 3.0], 1) == "2.0 ± 1.4"
    (tmp_path / "tests.csv").write_text("first,second,t\na: x,b,-4.5\na: x,c,2\n")
    assert _runs.over_runs(tmp_path, "tests.csv: first=a: x, second=b: t") == [-4.5]
    assert _runs.over_runs(tmp_path, "tests.csv: first=a: x, second=d: t") == []
    assert _runs.over_runs(tmp_path / "missing", "tests.csv: first=a, second=b: t") == []


def test_retrainings_are_compared_in_one_call(tmp_path):
    steps = list(_runs.steps(ITEMS["ensembles-table1"], CPU, tmp_path, 1, ""))
    assert len(steps) == 21 and len({step.folder for step in steps}) == 21
    assert steps[-1].arguments[1].count(",") == 19 and f"--stability_dir={steps[-1].folder}" in steps[-1].arguments
    assert len(list(_runs.steps(ITEMS["ensembles-table1"], PUBLISHED, tmp_path, 1, ""))) == 61


def test_the_page_is_that_of_the_figures():
    assert _page.PAGE.read_text(encoding="utf-8") == _page.page(_page.load()), "python tools/reproduce.py --write"


def test_commands_are_listed_and_unknown_items_refused(capsys):
    assert reproduce.main([]) == 0
    assert "pae-table1" in capsys.readouterr().out
    assert reproduce.main(["lae-ood", "--dry_run", "--data_dir=/data"]) == 0
    out = capsys.readouterr().out
    assert "--ood_datasets=kmnist" in out and "--data_dir=/data" in out
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(["fig7"])
    assert stopped.value.code == 2 and "received fig7" in capsys.readouterr().err


@pytest.mark.full
def test_the_circle_is_reproduced(tmp_path):
    record = _runs.reproduce(ITEMS["ensembles-fig1"], CPU, tmp_path, 1, "")
    ours = {row["what"]: float(row["ours"]) for row in record["rows"]}
    assert ours["share of geodesics that converged"] == 1.0
    assert ours["std of the decoder along geodesics"] < 0.5 * ours["... along straight lines"]
    assert [Path(picture).name for picture in record["pictures"]] == ["geodesics.png"]
