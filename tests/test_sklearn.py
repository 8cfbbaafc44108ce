"""The interface of scikit-learn: its own checks, and what the estimators say."""

import pickle

import numpy as np
import pytest
import tensorflow as tf
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from pae_zoo.core.errors import UserError
from pae_zoo.sklearn import AnomalyDetector, DensityEstimator, Imputer, LatentTransformer, _HeldOut

ESTIMATORS = [
    AnomalyDetector(random_state=0),
    AnomalyDetector("ae", epochs=2, hidden_units=(4,), random_state=0),
    DensityEstimator("gaussian_mixture", components=1, random_state=0),
    LatentTransformer("ae", latent_dim=1, epochs=2, hidden_units=(4,), random_state=0),
    Imputer(latent_dim=1, steps=4, hidden_units=(4,), num_proposals=5, random_state=0),
]


@pytest.mark.full
@parametrize_with_checks(ESTIMATORS)
def test_all_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("check", [
    estimator_checks.check_no_attributes_set_in_init, estimator_checks.check_estimators_nan_inf,
    estimator_checks.check_outliers_fit_predict, estimator_checks.check_n_features_in_after_fitting])  # fmt: skip
def test_checks_of_scikit_learn(check):
    check("AnomalyDetector", AnomalyDetector(random_state=0))


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(120, 3)) * [1.0, 10.0, 0.1] + 3.0


@pytest.fixture(scope="module")
def far(rows):
    return rows.mean(axis=0) + [[0.0, 0.0, 0.0], [0.0, 200.0, 0.0]]


def test_unusual_rows_are_called_so_and_explained(rows, far):
    detector = AnomalyDetector(random_state=0, contamination=0.05).fit(rows)
    assert detector.predict(far).tolist() == [1, -1]
    assert detector.pvalues(far)[1] == 1 / 121 < 0.2 < detector.pvalues(far)[0]
    assert np.argmax(detector.explain(far[1:])[0]) == 1
    assert detector.labels_.sum() == 6 and (detector.decision_scores_ > detector.threshold_).sum() == 6
    np.testing.assert_allclose(detector.decision_function(far), detector.threshold_ + detector.score_samples(far))
    # Fitted rows keep the scores of fits that have not seen them.
    np.testing.assert_array_equal(detector.score_samples(rows), -detector.decision_scores_)


def test_estimators_are_pickled_and_stand_in_pipelines(rows, far):
    pipeline = make_pipeline(StandardScaler(), AnomalyDetector(random_state=1)).fit(rows)
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.score_samples(far), pipeline.score_samples(far))
    density = DensityEstimator("student_mixture", components=1, random_state=0).fit(rows)
    again = pickle.loads(pickle.dumps(density))
    np.testing.assert_array_equal(again.score_samples(far), density.score_samples(far))
    np.testing.assert_allclose(density.score(rows), density.score_samples(rows).sum())
    assert density.sample(4, random_state=3).shape == (4, 3)


def test_densities_are_chosen_by_a_grid(rows):
    search = GridSearchCV(DensityEstimator("gaussian_mixture", random_state=0), {"components": [1, 20]}, cv=3)
    assert search.fit(rows).best_params_ == {"components": 1}


def test_models_of_the_zoo_score_and_encode_rows(rows, far):
    detector = AnomalyDetector("pae", epochs=3, hidden_units=(8,), random_state=0).fit(rows)
    order = np.random.default_rng(1).permutation(len(rows))
    np.testing.assert_array_equal(detector.score_samples(rows[order]), -detector.decision_scores_[order])
    assert detector.score_samples(far).argmin() == 1 and detector.pvalues(far)[1] == 1 / 25
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_allclose(again.score_samples(far), detector.score_samples(far), rtol=1e-5)
    with pytest.raises(NotImplementedError, match="auto"):
        detector.explain(far)
    latents = LatentTransformer("ae", latent_dim=2, epochs=3, hidden_units=(8,), random_state=0).fit(rows)
    assert latents.transform(far).shape == (2, 2)
    assert latents.inverse_transform(latents.transform(far)).shape == far.shape


def test_what_is_not_known_is_refused(rows):
    for detector, words in ((AnomalyDetector("pea"), "pae"), (AnomalyDetector(contamination=0.6), "received 0.6")):
        with pytest.raises(UserError, match=words):
            detector.fit(rows)


class Guess:
    """Stands for a model that fills in 0, with noise of a variance that is too small and no spread of latents."""

    def __init__(self, log_variance):
        self.component = self
        self.log_variance = tf.Variable([log_variance])

    def impute_mean(self, x, seed, num_proposals):
        return tf.zeros_like(x), tf.exp(0.5 * self.log_variance) * tf.ones_like(x)


def test_noise_is_widened_to_the_errors_of_values_that_were_held_out():
    """Of a guess of 0 the variance of the noise becomes the mean square of these values; a wider one stays."""
    rows = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    rows[:, 1] = np.nan
    rows[7, 1] = 5.0
    model = Guess(-3.0)
    held_out = _HeldOut(model, rows, 0)
    hidden = np.isnan(held_out.rows_without) & ~np.isnan(rows)
    assert 0.05 < hidden[:, [0, 2]].mean() < 0.15 and not hidden[:, 1].any() and held_out.count == hidden.sum()
    logs = {}
    held_out.on_epoch_end(0, logs)
    square = np.mean(rows[hidden] ** 2)
    np.testing.assert_allclose(logs[_HeldOut.NAME], np.sqrt(square), rtol=1e-6)
    held_out.widen()
    np.testing.assert_allclose(np.exp(model.log_variance.numpy()), square, rtol=1e-5)
    model.log_variance.assign([3.0])
    held_out.widen()
    assert model.log_variance.numpy() == 3.0
    few = _HeldOut(model, rows[:9], 0)
    assert few.count == 0 and np.array_equal(few.rows_without, rows[:9], equal_nan=True)


@pytest.mark.full
def test_what_is_missing_is_filled_in():
    """Two columns that are one another's double: a hole is filled by the other one, within the std that is stated."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 1)) * [1.0, 20.0] + 0.02 * rng.normal(size=(300, 2)) * [1.0, 20.0] + [0.0, 100.0]
    gaps = rows.copy()
    gaps[:100, 1], gaps[100:150, 0], gaps[150] = np.nan, np.nan, np.nan
    imputer = Imputer(latent_dim=1, steps=1500, hidden_units=(32,), random_state=0).fit(gaps)
    filled, std = imputer.transform_with_std(gaps)
    seen = ~np.isnan(gaps)
    np.testing.assert_array_equal(filled[seen], gaps[seen])
    assert (std[seen] == 0).all() and (std[~seen] > 0).all()
    assert np.sqrt(np.mean((filled - rows)[:100, 1] ** 2)) < 0.35 * rows[:, 1].std()
    assert std[150, 1] > 1.3 * np.median(std[:100, 1])  # of a row that tells nothing the least is known
    draws = imputer.draw(gaps[:3], 400)
    np.testing.assert_allclose(draws.mean(axis=0), filled[:3], atol=0.3 * rows[:, 1].std())
    again = pickle.loads(pickle.dumps(imputer))
    np.testing.assert_allclose(again.transform(gaps), filled, rtol=1e-5)
    assert np.isfinite(Imputer(sample=True, latent_dim=1, steps=5, random_state=0).fit_transform(gaps)).all()
    with pytest.raises(UserError, match="model='ae' is unknown"):
        Imputer("ae").fit(gaps)
