"""`benchmark.py geodesics`: its contenders take turns on one ensemble; the table says what was found."""

import benchmark
import numpy as np
import pytest
import surfaces
import tensorflow as tf
from benchmarks import _geodesics_published, _geodesics_zoo, _rounds, geodesics

from pae_zoo import geometry


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
    seconds, energies = {geodesics.OURS: 1.0, geodesics.LOOP: 9.0, geodesics.PUBLISHED: 21.0}, {}

    def alternate(contenders, rounds, say):
        def row(name):
            took = 1e3 * seconds.get(name, 2.0)
            return {"ms": took, "cpu_ms": took, "energy": energies.get(name, 5.0), "converged": 1.0, "searched": 10.0,
                    "memory_mib": 1.0, "setup_s": 0.0}  # fmt: skip

        return {contender.name: [row(contender.name)] * rounds for contender in contenders}

    monkeypatch.setattr(geodesics, "alternate", alternate)
    monkeypatch.setattr(_geodesics_zoo, "train", lambda *args: None)
    assert benchmark.main(["geodesics", "--latent_dims=2", "--rounds=2"]) == 0
    told = capsys.readouterr().out
    assert ">= 10: MISSED" in told and ">= 20: MISSED" in told  # 21 over the 2 of ours
    seconds[geodesics.REACH] = 1.0
    assert benchmark.main(["geodesics", "--latent_dims=2", "--rounds=2"]) == 0
    assert ">= 20: reached" in capsys.readouterr().out
    energies[geodesics.REACH], energies[geodesics.RELEASED] = 5.1, 6.0
    assert benchmark.main(["geodesics", "--latent_dims=2", "--rounds=2"]) == 0
    told = capsys.readouterr().out
    assert ">= 20: MISSED" in told and "at the released rate its energy is 1.2000 times that at a rate of 0.1" in told


def test_the_published_spline_spans_ours():
    times = np.linspace(0, 1, 301)
    published, ours = _geodesics_published.basis(times), geometry.CubicSpline(10).basis(times)
    assert published.shape == ours.shape == (301, 11)
    found, *_ = np.linalg.lstsq(published, ours, rcond=None)
    np.testing.assert_allclose(published @ found, ours, atol=1e-8)


def test_the_published_search_lowers_what_it_is_judged_by():
    manifold = geometry.as_manifold(surfaces.random_network((2, 8, 5)), 2)
    start, end = (tf.constant(point, tf.float32) for point in ([-1.5, 0.2], [1.5, 0.4]))
    weights, steps = _geodesics_published.search(manifold, 300)(start, end, tf.constant((1, 2), tf.int32))
    times = np.linspace(0, 1, 257)

    def energy(weights):
        curve = start + times[:, None].astype(np.float32) * (end - start) + _geodesics_published.basis(times) @ weights
        return float(geometry.energy(manifold.segments(tf.cast(curve, tf.float32)[None]), "decorrelated")[0])

    assert 100 < int(steps) <= 300 and energy(weights.numpy()) < energy(np.zeros_like(weights))
    # A slower rate stays nearer to the straight line.
    slow, _ = _geodesics_published.search(manifold, 50, rate=1e-3)(start, end, tf.constant((1, 2), tf.int32))
    assert np.linalg.norm(slow) < 0.2 * np.linalg.norm(weights)
