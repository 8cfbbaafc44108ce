"""What a run will take: the steps that flags ask for, and the launcher's own path on random data."""

import dataclasses

import benchmark
import pytest
from benchmarks import estimate

from pae_zoo.models import vae


def test_training_rows_are_those_that_the_flags_leave():
    flags = vae.HParams()
    shape = estimate.Shape((28, 28, 1), 6000)
    tenth = {"validation_fraction": 0.1}
    cases = [(5500, {}), (5400, tenth), (1620, {**tenth, "classes": (0, 5, 7)}), (100, {"num_train": 100})]
    for rows, changes in cases:
        assert estimate.training_rows(dataclasses.replace(flags, **changes), shape) == rows
    assert estimate.training_rows(flags, shape._replace(held_out=True)) == 6000


def test_a_run_is_timed_by_its_own_path(tmp_path, capsys):
    (tmp_path / "a.cfg").write_text("--model=vae\n--dataset=mnist\n--classes=0,5,7\n--num_train=999\n--nojit_compile\n"
                                    "--hidden_units=4\n--latent_dim=2\n--batch_size=10\n--epochs=7\n--patience=1")
    assert benchmark.main(["estimate", str(tmp_path / "a.cfg"), "--steps=2"]) == 0
    assert "measured over 2 steps each" in capsys.readouterr().out
    found = estimate.estimate(str(tmp_path / "a.cfg"), 2)
    assert found["steps"] == 7 * 99 and found["cpu_ms_per_step"] > 0
    assert found["cpu_hours"] == pytest.approx(found["cpu_ms_per_step"] * 7 * 99 / 3.6e6)


def test_a_data_set_of_unknown_size_is_told(tmp_path, capsys):
    (tmp_path / "a.cfg").write_text("--model=vae\n--dataset=digits")
    assert benchmark.main(["estimate", str(tmp_path / "a.cfg")]) == 2
    assert "allowed are mnist, fashion_mnist" in capsys.readouterr().err
