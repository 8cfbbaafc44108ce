"""The detector of rows: what it says of rows of a known density, and what all detectors must."""

import keras
import numpy as np
import pytest
from scipy import stats

from pae_zoo import anomaly
from pae_zoo.core.errors import UserError


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    return generator.normal(size=(150, 3)) @ np.array([[1.0, 0.9, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 2.0]]) + 5.0


@pytest.fixture(scope="module")
def detector(rows):
    return anomaly.Detector(3).learn(rows)


def test_far_rows_and_broken_correlations_are_found(rows, detector):
    new = np.stack([rows.mean(axis=0), rows.mean(axis=0) + [1.5, -1.5, 0.0], rows.mean(axis=0) + [0.0, 0.0, 30.0]])
    found = detector.score(new)
    assert found.pvalues[0] > 0.2 and found.pvalues[1] < 0.03 and found.pvalues[2] == 1 / 151
    assert found.scores[2] > found.scores[1] > found.scores[0]
    explained = detector.explain(new)
    assert np.argmax(explained[2]) == 2 and explained[2, 2] > 0.5 * found.scores[2]
    assert explained[1, :2].min() > 10 * abs(explained[1, 2])


def test_pvalues_hold_what_they_say():
    generator = np.random.default_rng(1)
    shares = {level: [] for level in (0.01, 0.05, 0.10)}
    for seed in range(4):
        x = generator.standard_t(3, size=(1200, 2))
        p = anomaly.Detector(2, seed=seed).learn(x[:200]).pvalues(x[200:])
        for level, found in shares.items():
            found.append(np.mean(p <= level))
    for level, found in shares.items():
        # Given its calibration, a rejection rate is Beta(k, n + 1 - k).
        count = np.floor(level * 201)
        spread = stats.beta(count, 201 - count).std() + np.sqrt(level / 1000)
        assert abs(np.mean(found) - level) < 3 * spread / np.sqrt(len(found)) + 1 / 201


def test_units_of_columns_do_not_matter(rows, detector):
    scale = np.array([1e-3, 1.0, 1e4])
    other = anomaly.Detector(3).learn(rows * scale)
    np.testing.assert_allclose(other.score(rows * scale + scale).scores, detector.score(rows + 1.0).scores, rtol=2e-3)


def test_a_saved_detector_and_the_graph_say_the_same(rows, detector, tmp_path):
    new = rows[:9] + 0.5
    expected = detector.score(new)
    np.testing.assert_allclose(detector(new.astype(np.float32)), expected.scores, rtol=1e-3)
    detector.save(tmp_path / "detector.keras")
    loaded = keras.saving.load_model(tmp_path / "detector.keras")
    found = loaded.score(new)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.pvalues, expected.pvalues)
    assert sorted(loaded.learned_scores()) == sorted(detector.learned_scores())


def test_rows_stand_for_themselves(rows, detector):
    assert detector.learned_scores().shape == (150,)
    whole = detector.score(rows[:6])
    np.testing.assert_allclose(detector.score(rows[2:3]).scores, whole.scores[2:3], rtol=1e-5)
    again = anomaly.Detector(3).learn(rows).score(rows[:6])
    np.testing.assert_array_equal(again.scores, whole.scores)


@pytest.mark.parametrize("shape, parts", [((20, 40), 1), ((2, 1), 1), ((260, 201), 2), ((12, 3), 4)])
def test_any_shape_of_table(shape, parts):
    generator = np.random.default_rng(2)
    x = generator.normal(size=shape)
    x[:, -1] = 7.0  # a constant column, and rows that repeat
    x[1] = x[0]
    detector = anomaly.Detector(shape[1], seed=1).learn(x)
    assert len(detector.parts) == parts
    far = x[:1].copy()
    far[:, -1] += 100.0
    found = detector.score(np.concatenate([x[:2], far]))
    assert np.isfinite(found.scores).all() and found.scores[2] >= found.scores[0]
    assert found.pvalues[2] == 1 / (1 + len(x))


def test_what_cannot_be_learned_is_refused(detector):
    for x, words in (([[1.0, np.nan], [0.0, 1.0]], "1 of 2 rows hold NaN"), ([[1.0, 2.0]], "2 rows or more"),
                     ([1.0, 2.0], "rows of 2 numbers")):
        with pytest.raises(UserError, match=words):
            anomaly.Detector(2).learn(x)
    with pytest.raises(UserError, match="learned nothing"):
        anomaly.Detector(2).score([[1.0, 2.0]])
    with pytest.raises(UserError, match="learned already"):
        detector.learn(np.zeros((4, 3)))
    with pytest.raises(UserError, match="one column"):
        anomaly.Detector(0)
