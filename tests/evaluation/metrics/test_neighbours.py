"""Precision, recall, density and coverage against their definitions, written as loops."""

import numpy as np
import pytest

from pae_zoo.evaluation.metrics import neighbours


def distances(a, b):
    return np.array([[np.linalg.norm(p - q) for q in b] for p in a])


def brute_force(real, fake, k):
    def radii(points):
        return [sorted(np.delete(row, i))[k - 1] for i, row in enumerate(distances(points, points))]

    d, around_real, around_fake = distances(real, fake), radii(real), radii(fake)
    n, m = d.shape
    inside = [[d[i, j] < around_real[i] for j in range(m)] for i in range(n)]
    return {
        "precision": np.mean([any(inside[i][j] for i in range(n)) for j in range(m)]),
        "recall": np.mean([any(d[i, j] < around_fake[j] for j in range(m)) for i in range(n)]),
        "density": np.sum(inside) / (k * m),
        "coverage": np.mean([any(inside[i]) for i in range(n)]),
    }


@pytest.mark.parametrize(
    "k, shift, sizes", [(5, 0.0, (40, 30)), (3, 1.0, (25, 60)), (1, 0.5, (20, 20)), (5, 9.0, (12, 15))]
)
def test_the_definitions(k, shift, sizes):
    generator = np.random.default_rng(k)
    real, fake = generator.normal(size=(sizes[0], 4)), shift + 0.8 * generator.normal(size=(sizes[1], 4))
    found = neighbours.compare(neighbours.neighbourhoods(real, k), neighbours.neighbourhoods(fake, k))
    assert found == pytest.approx(brute_force(real, fake, k), abs=1e-12)


def test_blocks_of_rows_give_the_same(monkeypatch):
    generator = np.random.default_rng(0)
    real, fake = (neighbours.neighbourhoods(generator.normal(size=(n, 3))) for n in (37, 23))
    whole = neighbours.compare(real, fake)
    monkeypatch.setattr(neighbours, "_ROWS", 5)
    assert neighbours.compare(real, fake) == whole


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_set_covers_itself(offset):
    x = neighbours.neighbourhoods(offset + np.random.default_rng(0).normal(size=(700, 8)))
    found = neighbours.compare(x, x)
    assert found == pytest.approx({"precision": 1.0, "recall": 1.0, "density": 1.0, "coverage": 1.0}, abs=1e-3)


def test_copies_of_one_point_cover_themselves():
    """More copies than neighbours: balls of radius 0, which hold what lies on their centre."""
    x = np.repeat(np.random.default_rng(0).normal(size=(4, 6)), 9, axis=0)
    balls = neighbours.neighbourhoods(x)
    assert (balls.radii == 0.0).all()
    found = neighbours.compare(balls, balls)
    assert found["precision"] == found["recall"] == found["coverage"] == 1.0


def test_mode_dropping_costs_recall_and_coverage_not_precision():
    generator = np.random.default_rng(2)
    real = np.concatenate([generator.normal(size=(300, 2)), 50.0 + generator.normal(size=(300, 2))])
    fake = neighbours.neighbourhoods(generator.normal(size=(600, 2)))
    found = neighbours.compare(neighbours.neighbourhoods(real), fake)
    assert found["precision"] > 0.9 and found["recall"] < 0.55 and found["coverage"] < 0.55


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="5 points have no 5 neighbours"):
        neighbours.neighbourhoods(np.zeros((5, 2)))


def test_nearest():
    generator = np.random.default_rng(0)
    points, pool = generator.normal(size=(20, 3)), generator.normal(size=(50, 3))
    found, indices = neighbours.nearest(points, pool, 4)
    expected = np.sort(distances(points, pool), axis=1)[:, :4]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(points[:, None] - pool[indices], axis=-1), expected, atol=1e-6)
