"""--missing=mask from a table to --outputs=imputed."""

import csv

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import apply, export, main
from pae_zoo.applying import results
from pae_zoo.data.tables import Column, Schema
from pae_zoo.experiment import launch


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gaps")
    rows = [f"{i % 7}.5,{'' if i % 3 == 0 else i % 5},{('red', 'blue', '')[i % 3]}" for i in range(60)]
    (folder / "t.csv").write_text("\n".join(["a,b,colour", *rows, ""]), encoding="utf-8")
    flags = [f"--dataset={folder / 't.csv'}", "--missing=mask", "--model=vae", "--encoder=mlp", "--decoder=mlp",
             "--hidden_units=4", "--latent_dim=1", "--epochs=1", "--nojit_compile",
             f"--workdir={folder / 'run'}", "--verbosity=-1"]
    assert launch.run(main.main, flags) == 0
    return folder


def command(*flags):
    return launch.run(apply.main, list(flags))


def test_a_table_comes_back_filled_in(run):
    flags = (f"--workdir={run / 'run'}", f"--input={run / 't.csv'}", "--outputs=imputed")
    assert command(*flags, f"--out={run / 'f.csv'}") == 0
    assert command(*flags, f"--out={run / 'f.npz'}", "--imputed_draws=3") == 0
    with open(run / "f.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert set(table[0]) == {"index", "imputed_a", "imputed_std_a", "imputed_b", "imputed_std_b", "imputed_colour"}
    assert [float(row["imputed_a"]) for row in table[:3]] == [0.5, 1.5, 2.5]
    assert float(table[1]["imputed_b"]) == 1 and float(table[0]["imputed_std_b"]) > 0
    assert [row["imputed_colour"] for row in table[:2]] == ["red", "blue"]
    assert {row["imputed_colour"] for row in table[2::3]} <= {"red", "blue"}
    found = np.load(run / "f.npz")
    assert found["imputed_draws"].shape == (60, 3, 4) and np.isfinite(found["imputed_draws"]).all()
    np.testing.assert_allclose(found["imputed"][:, 0], [float(row["imputed_a"]) for row in table], rtol=1e-6)


def test_residuals_have_the_names_of_their_columns():
    schema = Schema((Column("a"), Column("colour", ("blue", "red"))))
    found = results.in_columns({"anomaly_residual": np.arange(6.0).reshape(2, 3)}, schema)
    assert {name: values.tolist() for name, values in found.items()} == {
        "anomaly_residual_a": [0, 3], "anomaly_residual_colour=blue": [1, 4], "anomaly_residual_colour=red": [2, 5]}


def test_a_server_fills_in(run):
    assert launch.run(export.main, [f"--workdir={run / 'run'}", f"--export_dir={run / 'served'}",
                                   "--signatures=impute"]) == 0  # fmt: skip
    served = tf.saved_model.load(str(run / "served" / "1")).signatures["impute"]
    x = np.array([[0.5, np.nan, 0.0, 1.0], [np.nan, 2.0, np.nan, np.nan]], np.float32)
    found = served(x=tf.constant(x), seed=tf.constant([0, 1]))
    np.testing.assert_array_equal(np.where(np.isnan(x), 0, found["mean"]), np.nan_to_num(x))
    assert np.isfinite(found["mean"]).all() and (np.array(found["std"])[np.isnan(x)] > 0).all()


def test_what_cannot_be_is_told(run, tmp_path, capsys):
    flags = [f"--dataset={run / 't.csv'}", "--missing=mask", f"--workdir={tmp_path}"]
    for more, words in (
        (["--model=lae"], "LAE takes no data with missing values"),
        (["--model=vae", "--tasks=generation"], "--tasks=generation takes no data with missing values"),
        (["--model=vae", "--tasks=ood", "--baselines"], "detectors of whole data"),
    ):
        assert launch.run(main.main, [*flags, *more]) == 2
        assert words in capsys.readouterr().err
