"""Densities of each label: against SciPy's Gaussians of the same parameters, samples, fitting, saving, bad input."""

import keras
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from pae_zoo import densities
from pae_zoo.core.errors import UserError

CENTRES = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    labels = generator.choice(3, 400, p=[0.5, 0.3, 0.2])
    return (generator.normal(size=(400, 2)) * [1.0, 0.5] + CENTRES[labels]).astype(np.float32), labels


@pytest.fixture(scope="module")
def fitted(data):
    return densities.fit(*data[:1], "gaussian_mixture", components=2, labels=data[1])


def joint_of(density, x, labels):
    """Returns log p(x, c), (n, C), by SciPy, of what the mixture's parameters say."""
    found, shares = densities.parameters_of(density), np.bincount(labels, minlength=3) / len(labels)
    logs = np.stack([stats.multivariate_normal(m, s).logpdf(x) for m, s in zip(found.means, found.scales)], axis=1)
    logs += found.log_weights
    per = found.log_weights.reshape(3, -1)
    np.testing.assert_allclose(np.exp(per).sum(axis=1), shares, atol=1e-6)
    return logsumexp(logs.reshape(len(x), 3, -1), axis=2), np.log(shares)


def test_equals_gaussians_of_scipy(data, fitted):
    x, labels = data
    kept = np.random.default_rng(0).permutation(len(x))[:50]
    x, own = x[kept], labels[kept]
    # A tenth of the rows chose the passes; shares are those of the others.
    counted = np.asarray(fitted.base.label_counts)
    joint, log_shares = joint_of(fitted, x, np.repeat(np.arange(3), counted.astype(int)))
    np.testing.assert_allclose(fitted.log_prob(x), logsumexp(joint, axis=1), atol=2e-4)
    expected = joint - log_shares
    np.testing.assert_allclose(fitted.log_prob(x, label=own), expected[np.arange(50), own], atol=2e-4)
    np.testing.assert_allclose(fitted.log_prob(x, label=2), expected[:, 2], atol=2e-4)
    np.testing.assert_allclose(fitted.log_label_prob(x), joint - logsumexp(joint, axis=1, keepdims=True), atol=2e-4)
    # Draws before the batch have the labels of their datum.
    twice = fitted.log_prob(np.stack([x, x[::-1]]), label=own)
    np.testing.assert_allclose(twice[1], expected[::-1][np.arange(50), own], atol=2e-4)


def test_rows_with_labels_are_what_fit_and_predict_take(data, fitted):
    x, labels = data
    np.testing.assert_array_equal(fitted(fitted.join(x, labels)), fitted.log_prob(x, label=labels))


def test_samples_are_of_their_label(fitted):
    one = fitted.sample(400, (0, 1), label=1).numpy()
    assert np.abs(one.mean(axis=0) - CENTRES[1]).max() < 0.25
    each = fitted.sample(3, (0, 2), label=[0, 1, 2]).numpy()
    assert (np.linalg.norm(each[:, None] - CENTRES, axis=-1).argmin(axis=1) == [0, 1, 2]).all()
    base = fitted.base_distribution(label=1)
    np.testing.assert_allclose(base.sample(4000, seed=(0, 3)).numpy().mean(axis=0), base.mean(), atol=0.05)


def test_layers_are_trained_given_the_labels(data):
    x, labels = data
    flow = densities.fit(x, "flow", labels=labels, layers=("affine", "spline"), depth=1, hidden_units=(8,),
                         settings={"epochs": 2}, held_out=(x[:50], labels[:50]))
    assert np.isfinite(flow.log_prob(x, label=labels)).all()
    assert np.mean(flow.log_label_prob(x).numpy().argmax(axis=1) == labels) > 0.9


def test_saved_and_loaded(data, fitted, tmp_path):
    fitted.save(tmp_path / "density.keras")
    again = keras.saving.load_model(tmp_path / "density.keras")
    np.testing.assert_array_equal(again.log_prob(data[0], label=1), fitted.log_prob(data[0], label=1))
    np.testing.assert_array_equal(again.log_label_prob(data[0]), fitted.log_label_prob(data[0]))


def test_a_label_without_rows_has_those_of_all_and_no_share(data):
    found = densities.fit(data[0], "gaussian", labels=data[1], num_labels=4)
    assert np.exp(found.log_label_prob(data[0]).numpy()[:, 3]).max() < 1e-5
    assert np.isfinite(found.log_prob(data[0], label=3)).all()


def test_bad_input_is_told(data, fitted):
    x, labels = data
    with pytest.raises(UserError, match="0 to 2; received 3"):
        fitted.log_prob(x[:1], label=3)
    with pytest.raises(UserError, match="2 labels and 5 data"):
        fitted.log_prob(x[:5], label=[0, 1])
    with pytest.raises(UserError, match="one whole number for each of 400 rows"):
        densities.fit(x, "gaussian", labels=labels[:3])
    with pytest.raises(UserError, match="whole numbers"):
        densities.fit(x, "gaussian", labels=labels + 0.5)
    with pytest.raises(UserError, match="flow_matching"):
        densities.fit(x, "flow_matching", labels=labels)
    with pytest.raises(UserError, match="no labels"):
        densities.make("gaussian", 2).log_label_prob(x)
    with pytest.raises(UserError, match="as many components"):
        densities.Mixture(2, 4, num_labels=3)
