"""`benchmark.py curvature`: its contenders take turns on the same net; tables and messages say what they should."""

import benchmark
import numpy as np
import pytest
from benchmarks import _curvature_zoo, _rounds, curvature

SMALL = _curvature_zoo.Net((12, 9, 5, 2), batch=4)


def turns(run):
    requests, found = iter([True, True, False]), []
    with pytest.raises(_rounds.Finished):
        run(_rounds.Baton(lambda: next(requests), found.append))
    return found


@pytest.mark.parametrize("name", ["exact", "mc, 1 probe"])
def test_ours_takes_turns(name):
    taken = turns(lambda baton: _curvature_zoo.ggn(baton, SMALL, 1, curvature.METHODS[name]))
    assert [turn["ms"] > 0 for turn in taken] == [True] * 2


@pytest.mark.parametrize("trains", [False, True])
def test_steps_take_turns(trains):
    assert len(turns(lambda baton: _curvature_zoo.step(baton, SMALL, 1, trains))) == 2


@pytest.mark.full
@pytest.mark.parametrize("name", curvature.ONLINE)
def test_training_steps_take_turns(name):
    assert len(turns(lambda baton: _curvature_zoo.train(baton, curvature.ONLINE[name], SMALL, 2, xla=True))) == 2


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # the peers use what PyTorch calls old
def test_the_peer_has_our_diagonal():
    torch = pytest.importorskip("torch")
    laplace = pytest.importorskip("laplace")
    from benchmarks import _curvature_torch

    from pae_zoo.curvature import ggn

    net, models, x = _curvature_torch.build(SMALL), _curvature_zoo.build(SMALL), _curvature_zoo.data(SMALL)
    theirs = [parameter.detach().numpy() for parameter in net.parameters()]
    ours = [variable for model in models for variable in model.trainable_variables]
    for variable, value in zip(ours, theirs):
        variable.assign(value.T)
    found = laplace.curvature.BackPackGGN(net, "regression").diag(torch.from_numpy(x), torch.from_numpy(x))[1]
    expected, start = [], 0
    for value in theirs:
        part = found.detach().numpy()[start : start + value.size].reshape(value.shape)
        expected.append(part.T.ravel())
        start += value.size
    np.testing.assert_allclose(ggn(models, x), np.concatenate(expected), rtol=1e-4, atol=1e-5)


def test_what_the_table_says(monkeypatch, capsys):
    times = {"exact": 20.0, "approx": 1.0, curvature.TRAIN: 3.0, curvature.STEP: 2.0}

    def alternate(contenders, rounds, say):
        return {c.name: [dict(ms=times[c.name], cpu_ms=times[c.name], memory_mib=600.0, setup_s=1.0)]
                for c in contenders}

    monkeypatch.setattr(curvature, "alternate", alternate)
    methods = {name: curvature.METHODS[name] for name in ("exact", "approx")}
    args = type("Args", (), dict(steps=1, rounds=1))
    found = curvature.curvatures("dense", SMALL, methods, args, False)
    assert found[f"dense/{SMALL.label}/exact"]["multiple"] == 10.0
    told = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.startswith("|")}
    assert "<= 12: reached; <= 500 MiB: MISSED" in told["exact"]
    assert "<= 0.7: reached" in told["approx"]


def test_growth_and_last_words():
    assert curvature._slope((16, 32), [3.0, 12.0]) == pytest.approx(1.0)
    assert np.isnan(curvature._slope((16,), [3.0]))
    assert curvature._last_words("Traceback\ntorch.NoMemoryError: no\n  warnings.warn(") == "torch.NoMemoryError: no"
    assert curvature._last_words("killed\nby 9") == "by 9"


@pytest.mark.parametrize("argv", [["--rounds=0"], ["--cases=x"], ["--pixels=10"], ["--methods=slow"]])
def test_bad_flags_are_told_in_one_line(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["curvature", *argv])
    assert stop.value.code == 2
