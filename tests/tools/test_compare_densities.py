"""The table of densities of arrays."""

import compare_densities
import numpy as np
import pytest


def test_a_table_of_a_known_gaussian(tmp_path, capsys):
    """A Gaussian of two columns, one more that is constant, and rows with another label: entropy of the Gaussian."""
    generator = np.random.default_rng(0)
    x = np.c_[generator.normal(size=(900, 2)), np.ones(900)]
    labels = np.r_[np.zeros(800), np.ones(100)]
    x[800:] += 50.0
    np.savez(tmp_path / "table.npz", X=x, y=labels)
    compare_densities.main([str(tmp_path / "table.npz"), "--densities=gaussian", "--seeds=0"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[2].split()[0] for row in rows] == ["gaussian", "scikit-learn", "scikit-learn"]
    nll = float(rows[0][3].split("±")[0])
    assert rows[0][1].strip() == "374x2" and abs(nll - 2.84) < 0.2  # standardised: 1 + log(2 pi) nats
    assert 0.4 < float(rows[0][4].split("±")[0]) < 0.6


@pytest.mark.parametrize("name", compare_densities.TOYS)
def test_toys_are_those_of_their_seed(name):
    parts = compare_densities.load(name, 0)
    assert sum(map(len, parts)) == compare_densities.TOY_ROWS and parts[0].shape[1] == 2
    np.testing.assert_allclose(parts[0].std(axis=0), 1.0, atol=1e-5)
    assert not np.array_equal(parts[0], compare_densities.load(name, 1)[0])


def test_a_flow_with_the_settings_of_another_package(monkeypatch):
    from pae_zoo import densities

    asked = {}
    made = densities.make("gaussian", 2)
    monkeypatch.setattr(densities, "fit", lambda *args, **options: asked.update(options) or made)
    compare_densities.fit_ours("flow:zuko")(np.zeros((9, 2)), np.zeros((9, 2)), 0)
    assert asked["layers"] == "nsf_ar" and asked["depth"] == 3
    asked.clear()
    compare_densities.fit_ours("student_mixture:16")(np.zeros((9, 2)), np.zeros((9, 2)), 0)
    assert asked == {"seed": 0, "factors": 16, "settings": {}}
    asked.clear()
    compare_densities.fit_ours("flow:dropout=0.1:epochs=50")(np.zeros((9, 2)), np.zeros((9, 2)), 0)
    assert asked == {"seed": 0, "dropout": 0.1, "settings": {"epochs": 50}}
