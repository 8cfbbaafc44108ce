"""`benchmark.py flow`: its contenders have the same architecture and train; the table says what it should."""

import argparse

import benchmark
import numpy as np
import pytest
from benchmarks import _flows, _mixtures, _rounds, flow

COUPLINGS = ("spline", "affine")


def parameters_by_hand(coupling):
    half = _flows.DIMS // 2
    outputs = half * {"spline": 3 * _flows.BINS - 1, "affine": 2}[coupling]
    sizes = [half, *_flows.UNITS, outputs]
    return _flows.BLOCKS * sum(i * o + o for i, o in zip(sizes, sizes[1:])), _flows.BLOCKS * _flows.DIMS**2


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.full
def test_our_flow_has_the_architecture(coupling):
    conditioners, mixing = parameters_by_hand(coupling)
    assert sum(int(np.prod(w.shape)) for w in _flows.build(coupling).trainable_weights) == conditioners + mixing


@pytest.mark.filterwarnings("ignore::UserWarning")  # the peers use what PyTorch calls old
@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("peer", _flows.PEERS)
@pytest.mark.full
def test_peers_have_the_architecture_and_take_turns(peer, coupling, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip(peer)
    conditioners, mixing = parameters_by_hand(coupling)
    found = sum(p.numel() for p in _flows.PEERS[peer](coupling).parameters())
    # nflows' LU layers have a shift beside the matrix.
    assert found - conditioners in (mixing, mixing + _flows.BLOCKS * _flows.DIMS)
    monkeypatch.setattr(_flows, "NUM_DRAWS", 10)
    taken = turns(lambda baton: _flows.train_peer(baton, peer, coupling, batch_size=16, steps=2))
    taken += turns(lambda baton: _flows.sample_peer(baton, peer, coupling))
    assert [turn["ms"] > 0 for turn in taken] == [True] * 4


def turns(run):
    requests, found = iter([True, True, False]), []
    with pytest.raises(_rounds.Finished):
        run(_rounds.Baton(lambda: next(requests), found.append))
    return found


@pytest.mark.full
def test_ours_takes_turns(monkeypatch):
    monkeypatch.setattr(_flows, "BLOCKS", 1)
    monkeypatch.setattr(_flows, "NUM_DRAWS", 10)
    taken = turns(lambda baton: _flows.train(baton, "affine", batch_size=16, steps=2))
    taken += turns(lambda baton: _flows.fit(baton, "affine", batch_size=16, steps=2))
    taken += turns(lambda baton: _flows.sample(baton, "affine"))
    assert [turn["ms"] > 0 for turn in taken] == [True] * 6


def test_what_the_table_says(monkeypatch):
    times = {flow.OURS: 2.0, flow.FIT: 3.0, "nflows": 5.0, "zuko": 2.5}

    def alternate(contenders, rounds, say):
        return {c.name: [dict(ms=times[c.name], cpu_ms=1.0)] for c in contenders}

    monkeypatch.setattr(flow, "alternate", alternate)
    found = {}
    rows = flow._race("work", flow._training("spline", 128, 2, ["nflows", "zuko"]), 1, found)
    gains = {row[1]: row[4:] for row in rows}
    assert gains[flow.OURS] == ("", "", "") and gains[flow.FIT] == ("1.50", "1.00", "")
    assert gains["nflows"] == ("2.50", "1.00", "") and gains["zuko"] == ("1.25", "1.00", ">= 1.5: MISSED")
    assert found["work/nflows"]["ours_is_faster_by"] == 2.5
    alone = flow._race("work", flow._sampling("spline", []), 1, {})
    assert [row[1] for row in alone] == [flow.OURS]


@pytest.mark.parametrize("argv", [["flow", "--rounds=0"], ["flow", "--cases=spline,x"], ["flow", "--batch_sizes=0"]])
def test_bad_flags_are_told_in_one_line(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(argv)
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_passes_of_em_are_those_of_scikit_learn():
    """Both start from the same Gaussians and end at the same likelihood."""
    options = dict(num_rows=400, components=3, passes=2)
    ours = turns(lambda baton: _mixtures.ours(baton, **options))
    theirs = turns(lambda baton: _mixtures.scikit_learn(baton, **options))
    assert ours[0]["log_likelihood"] == pytest.approx(theirs[0]["log_likelihood"], abs=1e-6)
    assert all(turn["ms"] > 0 for turn in ours + theirs)


def mixture_args(argv=()):
    parser = argparse.ArgumentParser()
    flow.add_arguments(parser)
    return parser.parse_args(argv)


def test_what_the_table_of_mixtures_says(monkeypatch):
    ends = {_mixtures.OURS: -10.0, _mixtures.PEER: -10.001}
    times = {_mixtures.OURS: 1000.0, _mixtures.PEER: 6500.0}

    def alternate(contenders, rounds, say):
        return {c.name: [dict(ms=2 * times[c.name], cpu_ms=times[c.name], log_likelihood=ends[c.name])]
                for c in contenders}

    monkeypatch.setattr(flow, "alternate", alternate)
    found = {}
    ours, theirs = flow._mixture(mixture_args(), found)
    assert ours[2:] == ("2.00", "1.00", "-10.0000", "", "")
    assert theirs[2:] == ("13.00", "6.50", "-10.0010", "6.50", ">= 6: reached")
    assert len(found) == 2
    ends[_mixtures.PEER] = -10.5
    with pytest.raises(RuntimeError, match="nothing to compare"):
        flow._mixture(mixture_args(), {})


def test_what_the_table_of_fits_says(monkeypatch):
    asked = []

    def once(contender):
        asked.append(contender.options)
        return dict(ms=4000.0, cpu_ms=3000.0, components=7.0, log_likelihood=-9.5)

    monkeypatch.setattr(flow, "once", once)
    rows = flow._fitted(1000, {})
    assert [row[0] for row in rows] == [f"{what}, 1,000 x 32" for what, _, _ in flow.FITS]
    assert rows[0][1:] == ("7", "4.0", "3.0", "-9.500")
    assert [(one["density"], one["components"]) for one in asked] == [fit[1:] for fit in flow.FITS]
