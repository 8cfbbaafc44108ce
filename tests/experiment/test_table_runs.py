"""A table from the command line: trained, resumed, evaluated, applied to other tables of its columns."""

import csv
import json

import numpy as np
import pytest
from tiers import some

from pae_zoo import apply, data, evaluate, export, main
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


def test_the_columns_of_a_table_have_the_likelihood_of_their_kinds(run, tmp_path):
    _, path, _ = run
    flags = [f"--dataset={path}", f"--workdir={tmp_path}/run", "--label_column=kind", "--index_column=name", *TINY]
    flags += ["--likelihood=mixed", "--encoder=tabular", "--decoder=tabular", "--tabular_width=4", "--tabular_blocks=1"]
    assert launch.run(main.main, ["--model=ae", *flags, "--smoke"]) == 0
    found = Run(tmp_path / "run")
    model, hparams = found.load_model(), found.read_hparams()
    assert hparams.preprocess == ("standardise_real",) and hparams.likelihood == "mixed"
    assert model.likelihood.kinds == ("real", "category:2") and model.encoder.layers[0].kinds == ("real", "category:2")
    x = data.load(path, schema=found.read_table()).test.x
    mean = model(x).numpy()
    np.testing.assert_allclose(mean[:, 1:].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.preprocess(x)[0][:, 1:], x[:, 1:])
    assert launch.run(main.main, ["--model=ae", "--dataset=digits", "--likelihood=mixed", *TINY]) == 2


@pytest.mark.parametrize("kind", some(["tcn", "conv1d", "mlp"], ["tcn"]))
def test_windows_of_a_series_are_trained_on_evaluated_applied_and_exported(kind, tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("a,b\n" + "".join(f"{np.sin(i / 3):.5f},{i % 7}\n" for i in range(150)))
    series = ["--window=5", "--stride=2", f"--encoder={kind}", f"--decoder={kind}", "--num_filters=3", "--filters=3",
              "--dilations=2"]
    flags = [f"--dataset={path}", f"--workdir={tmp_path}/run", *series, *TINY]
    assert launch.run(main.main, ["--model=vae", *flags]) == 0
    assert "reconstructions" in {one.stem for one in (tmp_path / "run" / "figures").iterdir()}
    model = Run(tmp_path / "run").load_model()
    assert model.event_shape == (5, 2)
    out = tmp_path / "o.csv"
    command = [f"--workdir={tmp_path}/run", f"--input={path}", f"--out={out}", "--outputs=codes"]
    assert launch.run(apply.main, command) == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == 73
    x = np.loadtxt(path, delimiter=",", skiprows=1, max_rows=5, dtype=np.float32)[None]
    np.savez(tmp_path / "x.npz", x=x)
    command = [f"--workdir={tmp_path}/run", f"--input=npz:{tmp_path}/x.npz", f"--out={tmp_path}/o.npz"]
    assert launch.run(apply.main, [*command, "--outputs=codes"]) == 0
    codes = np.load(tmp_path / "o.npz")["codes"]
    np.testing.assert_allclose(codes, model.encode(x).mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([float(rows[0][f"code_{k}"]) for k in range(2)], codes[0], rtol=1e-4, atol=1e-5)
    if kind != "tcn":  # takes long
        assert launch.run(export.main, [f"--workdir={tmp_path}/run", f"--export_dir={tmp_path}/served",
                                         "--signatures=encode"]) == 0  # fmt: skip


def test_a_run_on_flattened_windows_goes_on_so(tmp_path):
    """Before, windows were flattened, and data.json did not say so."""
    path = tmp_path / "s.csv"
    path.write_text("a,b\n" + "".join(f"{i % 5},{i % 7}\n" for i in range(60)))
    loaded = data.load(path, window=3)
    schema = loaded.table.to_json()
    del schema["flat"]
    run = Run(tmp_path)
    run.write_json("data.json", {"label_names": [], "table": schema})
    before = run.as_trained(loaded)
    assert before.event_shape == before.table.event_shape == (6,)
    np.testing.assert_array_equal(before.test.x, loaded.test.x.reshape(-1, 6))
    again = data.load(path, schema=before.table)
    np.testing.assert_array_equal(again.test.x, before.test.x)
    run.write_table(loaded)
    assert run.as_trained(loaded).event_shape == (3, 2)


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
