"""`benchmark.py geodesics`: its contenders take turns on one ensemble; the table says what was found."""

import benchmark
import pytest
from benchmarks import _geodesics_zoo, _rounds, geodesics


@pytest.mark.full
def test_all_of_it_runs(capsys):
    assert benchmark.main(["geodesics", "--quick"]) == 0
    told = capsys.readouterr().out
    assert "ours, a loop over pairs" in told and "cut at 3 steps" in told and "1024 x 1024" in told


def test_products_take_turns():
    requests, found = iter([True, False]), []
    with pytest.raises(_rounds.Finished):
        _geodesics_zoo.products(_rounds.Baton(lambda: next(requests), found.append), 16, 2)
    assert found[0]["ms"] > 0


def test_what_the_table_says(monkeypatch, capsys):
    seconds = {geodesics.OURS: 1.0, geodesics.LOOP: 9.0, geodesics.PUBLISHED: 21.0}

    def alternate(contenders, rounds, say):
        return {
            c.name: [{"ms": 1e3 * seconds.get(c.name, 2.0), "cpu_ms": 1e3 * seconds.get(c.name, 2.0), "energy": 5.0,
                      "converged": 1.0, "searched": 10.0, "memory_mib": 1.0, "setup_s": 0.0}] * rounds
            for c in contenders
        }  # fmt: skip

    monkeypatch.setattr(geodesics, "alternate", alternate)
    monkeypatch.setattr(_geodesics_zoo, "train", lambda *args: None)
    assert benchmark.main(["geodesics", "--latent_dims=2", "--rounds=2"]) == 0
    told = capsys.readouterr().out
    assert ">= 20: reached" in told and ">= 10: MISSED" in told
