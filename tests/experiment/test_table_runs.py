"""A table from the command line: trained, resumed, evaluated, applied to other tables of its columns."""

import csv
import json

import numpy as np
import pytest

from pae_zoo import apply, data, evaluate, main
from pae_zoo.experiment import launch
from pae_zoo.experiment.workdir import Run

TINY = ("--epochs=1", "--hidden_units=8", "--latent_dim=2", "--tasks=reconstruction", "--nojit_compile", "--device=cpu",
        "--batch_size=32")  # fmt: skip


def table(path, columns=("name", "a", "colour", "kind"), count=90, seed=0):
    rng = np.random.default_rng(seed)
    values = {"name": [f"r{i}" for i in range(count)], "a": rng.normal(50, 9, count).round(4),
              "colour": rng.choice(["red", "blue"], count), "kind": rng.choice(["yes", "no"], count)}  # fmt: skip
    path.write_text("\n".join([",".join(columns), *map(",".join, zip(*(map(str, values[c]) for c in columns)))]))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a table, and the table."""
    folder = tmp_path_factory.mktemp("table")
    path = table(folder / "t.csv")
    flags = [f"--dataset={path}", f"--workdir={folder}/run", "--label_column=kind", "--index_column=name", *TINY]
    assert launch.run(main.main, ["--model=vae", *flags]) == 0
    return folder / "run", path, flags


def test_what_the_columns_are_is_kept_with_the_run(run, capsys):
    workdir, path, flags = run
    found = json.loads((workdir / "data.json").read_text())
    assert found["label_names"] == ["no", "yes"]
    loaded = data.load(path, label_column="kind", index_column="name")
    assert Run(workdir).read_table() == loaded.table
    hparams = Run(workdir).read_hparams()
    assert hparams.dataset == f"csv:{path}" and hparams.preprocess == ("standardise",)
    model = Run(workdir).load_model()
    y = model.preprocess(loaded.train.x)[0].numpy()
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=0), 1, atol=1e-4)
    assert launch.run(main.main, ["--model=vae", *flags]) == 0  # the same command, however the path is written
    assert "nothing to do" in capsys.readouterr().out


def test_another_table_is_taken_by_the_names_of_its_columns(run, tmp_path, capsys):
    workdir, path, _ = run
    other = table(tmp_path / "u.csv", ("colour", "name", "a"))
    other.write_text(other.read_text().replace("blue", "pink", 3))
    assert launch.run(apply.main, [f"--workdir={workdir}", f"--input={other}", f"--out={tmp_path}/o.csv"]) == 0
    assert "column 'colour': 3 values are in no training row" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == [f"r{i}" for i in range(90)]
    model, loaded = Run(workdir).load_model(), data.load(path, schema=Run(workdir).read_table())
    codes = model.encode(loaded.test.x).mean().numpy()
    held_out = np.sort(np.random.default_rng(42).permutation(90)[-15:])
    changed = [i for i, line in enumerate(other.read_text().splitlines()[1:]) if "pink" in line]
    for code, place in zip(codes, held_out):
        if place not in changed:
            np.testing.assert_allclose([float(rows[place][f"code_{k}"]) for k in range(2)], code, rtol=1e-4, atol=1e-5)
    lacking = table(tmp_path / "v.csv", ("name", "a"))
    assert launch.run(apply.main, [f"--workdir={workdir}", f"--input={lacking}", f"--out={tmp_path}/p.csv"]) == 2
    assert "lacks 1 of the 2 columns of the run: colour" in capsys.readouterr().err


def test_a_table_that_has_changed_is_refused(run, capsys):
    workdir, path, flags = run
    before = path.read_text()
    try:
        path.write_text(before.replace("red", "green"))
        for command, argv in ((main.main, ["--model=vae", *flags]), (evaluate.main, [f"--workdir={workdir}"])):
            assert launch.run(command, argv) == 2
            assert "has changed since" in capsys.readouterr().err
    finally:
        path.write_text(before)
