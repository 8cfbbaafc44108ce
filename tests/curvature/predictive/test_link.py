"""Chances and standard deviations of networks with uncertain weights, against the normal outputs they come from."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

from pae_zoo import curvature
from pae_zoo.core.errors import UserError
from pae_zoo.curvature.predictive import density, linearised, link

L = reference.L


@pytest.fixture(autouse=True)
def double_precision():
    with reference.double_precision():
        yield


def classifier(activation=None, classes=3):
    return reference.sequential(
        (4, 4, 1), L.Conv2D(2, 2), L.BatchNormalization(), L.ReLU(), L.Dropout(0.3), L.Flatten(),
        L.Dense(classes, activation=activation))


def posterior_of(model, likelihood, structure="kron", prior=0.5):
    x = reference.data(model, 20)
    posterior = curvature.build(structure, model, curvature.ggn(model, x, structure, likelihood=likelihood))
    posterior.assign_scales(prior_precision=prior, noise_variance=0.3 if likelihood == "gaussian" else 1.0)
    return posterior


def moments(posterior, model, x):
    """Mean and covariance of the outputs, by the Jacobian of the whole network."""
    jacobian, output = reference.jacobians(model, x)
    solved = posterior.solve(tf.constant(jacobian.reshape(-1, jacobian.shape[-1])))
    return output, np.einsum("bip,bjp->bij", jacobian, np.reshape(solved, jacobian.shape))


def test_a_regressor_says_how_sure_it_is_and_how_noisy_data_are():
    model = reference.NETWORKS["residual"]()
    model.compile("adam", "mse")
    posterior, x = posterior_of(model, "gaussian"), reference.data(model, 7)
    mean, covariance = moments(posterior, model, x)
    found = curvature.Predictive(posterior, model, batch_size=3)(x.astype(np.float32))
    spread = np.einsum("bii->bi", moments(posterior, model, x.astype(np.float32).astype(float))[1])
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["epistemic_std"], np.sqrt(spread), rtol=1e-8)
    np.testing.assert_allclose(found["aleatoric_std"], np.full(mean.shape, 0.3**0.5), rtol=1e-8)
    np.testing.assert_allclose(found["std"], np.sqrt(spread + 0.3), rtol=1e-8)
    assert found["std"].dtype == tf.float64
    carried = curvature.Predictive(
        posterior_of(model := classifier(), "gaussian"), model, "gaussian", output="diagonal")(reference.data(model, 2))
    assert carried["std"].shape == (2, 3) and np.all(carried["epistemic_std"] > 0)


@pytest.mark.parametrize("structure", ["diag", "kron", "last_layer", "low_rank"])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_chances_are_those_of_normal_logits(structure, activation):
    model, logits = classifier(activation), classifier()
    options = {"seed": (1, 2)} if structure == "low_rank" else {}
    x = reference.data(model, 5)
    found = curvature.ggn(model, reference.data(model, 20), structure, likelihood="categorical", **options)
    posterior = curvature.build(structure, logits, found)
    posterior.assign_scales(prior_precision=0.5)
    mean, covariance = moments_of(posterior, logits, x, structure)
    variance = np.einsum("bii->bi", covariance)
    expected = softmax(mean / np.sqrt(1 + np.pi / 8 * variance))
    # The loss tells the likelihood, and the softmax at the end is seen through.
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None))
    given = curvature.Predictive(posterior, model)(x)
    np.testing.assert_allclose(given["probabilities"], expected, rtol=1e-8)
    np.testing.assert_allclose(given["logits"], mean, rtol=1e-8)
    np.testing.assert_allclose(given["logits_variance"], variance, rtol=1e-8)
    drawn = curvature.Predictive(posterior, model, link="draws", num_samples=20_000)(x)["probabilities"].numpy()
    samples = np.random.default_rng(0).multivariate_normal(np.zeros(3), np.eye(3), size=20_000)
    roots = np.linalg.cholesky(covariance + 1e-12 * np.eye(3))
    wanted = softmax(mean + np.einsum("bij,sj->sbi", roots, samples)).mean(0)
    np.testing.assert_allclose(drawn, wanted, atol=4 * 0.5 * np.sqrt(2 / 20_000))
    np.testing.assert_allclose(drawn.sum(-1), 1, rtol=1e-8)


def moments_of(posterior, model, x, structure):
    if structure != "last_layer":
        return moments(posterior, model, x)
    jacobian, output = reference.jacobians(model, x)
    jacobian = jacobian[..., curvature.read(model).blocks[-1].start :]
    solved = posterior.solve(tf.constant(jacobian.reshape(-1, jacobian.shape[-1])))
    return output, np.einsum("bip,bjp->bij", jacobian, np.reshape(solved, jacobian.shape))


def softmax(values):
    found = np.exp(values - values.max(-1, keepdims=True))
    return found / found.sum(-1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_bridge_is_the_mean_of_a_dirichlet(classes):
    rng = np.random.default_rng(0)
    mean, root = rng.normal(size=(4, classes)), rng.normal(size=(4, classes, classes))
    covariance = root @ np.swapaxes(root, 1, 2)
    expected = []
    for m, s in zip(mean, covariance):
        one = np.ones(classes)
        m = m - s @ one * (one @ m) / (one @ s @ one)
        s = s - np.outer(s @ one, s @ one) / (one @ s @ one)
        alpha = (1 - 2 / classes + np.exp(m) * np.exp(-m).sum() / classes**2) / np.diag(s)
        expected.append(alpha / alpha.sum())
    np.testing.assert_allclose(link.bridge(tf.constant(mean), tf.constant(covariance)), expected, rtol=1e-9)
    # Logits that overflow an exponential have chances all the same.
    far = link.bridge(tf.constant(800.0 * mean), tf.constant(covariance)).numpy()
    np.testing.assert_allclose(far.sum(-1), 1, rtol=1e-9)


def test_classes_at_each_position_have_covariances_of_their_own():
    model = reference.sequential((3, 3, 1), L.Conv2D(2, 2, activation="tanh"), L.Conv2D(3, 1))
    posterior, x = posterior_of(model, "categorical"), reference.data(model, 2)
    mean, covariance = moments(posterior, model, x)
    found = curvature.Predictive(posterior, model, "categorical", link="bridge")(x)
    assert found["probabilities"].shape == (2, 2, 2, 3)
    block = covariance.reshape(2, 4, 3, 4, 3)[:, 1, :, 1]
    wanted = link.bridge(tf.constant(mean.reshape(2, 4, 3)[:, 1]), tf.constant(block))
    np.testing.assert_allclose(np.reshape(found["probabilities"], (2, 4, 3))[:, 1], wanted, rtol=1e-8)
    np.testing.assert_allclose(
        np.reshape(found["logits_variance"], (2, -1)), np.einsum("bii->bi", covariance), rtol=1e-8)


def test_two_classes_have_one_logit():
    model = classifier("sigmoid", 2)
    model.compile("adam", "binary_crossentropy")
    posterior, x = posterior_of(model, "bernoulli"), reference.data(model, 5)
    chances = {name: curvature.Predictive(posterior, model, link=name, num_samples=20_000)(x) for name in
               ("probit", "draws")}
    mean, variance = chances["probit"]["logits"], chances["probit"]["logits_variance"]
    np.testing.assert_allclose(tf.sigmoid(mean), model(x), rtol=1e-8)
    np.testing.assert_allclose(
        chances["probit"]["probabilities"], tf.sigmoid(mean / np.sqrt(1 + np.pi / 8 * variance)), rtol=1e-8)
    # MacKay's formula is within two hundredths of the integral.
    np.testing.assert_allclose(chances["draws"]["probabilities"], chances["probit"]["probabilities"], atol=0.03)
    graph = posterior.graph_of(model).of_logits()
    np.testing.assert_allclose(variance, linearised.variance(posterior, graph, tf.constant(x)), rtol=1e-8)
    with pytest.raises(UserError, match="link='bridge' leaves"):
        curvature.Predictive(posterior, model, link="bridge")


def test_it_follows_the_posterior_and_the_weights():
    model = classifier()
    posterior, x = posterior_of(model, "categorical"), reference.data(model, 2)
    predictive = curvature.Predictive(posterior, model, "categorical")
    before = predictive(x)
    posterior.assign_scales(prior_precision=50.0)
    after = predictive(x)
    assert np.all(after["logits_variance"] < before["logits_variance"])
    model.layers[-1].bias.assign_add([1.0, 0.0, 0.0])
    np.testing.assert_allclose(predictive(x)["logits"] - after["logits"], [[1, 0, 0]] * 2, atol=1e-9)


@pytest.mark.parametrize("options, words", [
    ({"link": "logit"}, "link='logit' is unknown"), ({"likelihood": "poisson"}, "likelihood='poisson' is unknown"),
    ({"output": "best"}, "output='best' is unknown"), ({"num_samples": 0}, "at least 1; received 0"),
    ({"output": "diagonal", "link": "draws"}, "no covariances of classes"), ({"likelihood": None}, "no likelihood"),
])
def test_options_are_refused(options, words):
    model = classifier()
    posterior = curvature.DiagPosterior(model)
    with pytest.raises(UserError, match=words):
        curvature.Predictive(posterior, model, **{"likelihood": "categorical", **options})


def test_models_and_data_that_do_not_fit_are_refused():
    model = classifier()
    with pytest.raises(UserError, match="not the first ones"):
        curvature.Predictive(curvature.DiagPosterior(classifier(classes=4)), model, "categorical")
    with pytest.raises(UserError, match="length 0"):
        curvature.Predictive(curvature.DiagPosterior(model), model, "categorical")(np.zeros((0, 4, 4, 1)))
    with pytest.raises(UserError, match="two or more classes"):
        single = classifier(classes=1)
        curvature.Predictive(curvature.DiagPosterior(single), single, "categorical")(np.zeros((1, 4, 4, 1)))


def decoder():
    return reference.sequential(
        (2,), L.Dense(5, activation="tanh"), L.Dense(12, activation="tanh"), L.Reshape((2, 3, 2)),
        L.Conv2DTranspose(1, 2, strides=2))


def log_normal(residual, covariance):
    sign, half = np.linalg.slogdet(2 * np.pi * covariance)
    return -0.5 * (half + residual @ np.linalg.solve(covariance, residual))


@pytest.mark.parametrize("structure", ["diag", "kron", "block"])
def test_densities_of_all_values_know_what_they_have_in_common(structure):
    model = decoder()
    posterior, x = posterior_of(model, "gaussian", structure, prior=0.2), reference.data(model, 5)
    y = model(x).numpy() + np.random.default_rng(0).normal(size=(5, 4, 6, 1))
    mean, covariance = moments(posterior, model, x)
    covariances = covariance + 0.3 * np.eye(24)
    residual = (y - mean).reshape(5, 24)
    found = curvature.Predictive(posterior, model, "gaussian", batch_size=2).density(x, y)
    np.testing.assert_allclose(
        found["log_prob"], [log_normal(*pair) for pair in zip(residual, covariances)], rtol=1e-7)
    gain = 0.5 * np.linalg.slogdet(np.eye(24) + covariance / 0.3)[1]
    np.testing.assert_allclose(found["mutual_information"], gain, rtol=1e-6)
    np.testing.assert_allclose(
        np.square(found["std"]).reshape(5, 24), np.einsum("bii->bi", covariances), rtol=1e-6)
    # All directions are all of it; of few the trace is known, and that it is even elsewhere is a guess.
    whole = curvature.Predictive(posterior, model, "gaussian", rank=24).density(x, y)
    for name in ("log_prob", "mutual_information", "std"):
        np.testing.assert_allclose(whole[name], found[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(whole["share"], 1.0, rtol=1e-6)
    some = curvature.Predictive(posterior, model, "gaussian", rank=6).density(x, y)
    assert np.all((0.3 < some["share"].numpy()) & (some["share"].numpy() <= 1))
    np.testing.assert_allclose(some["mutual_information"], found["mutual_information"], rtol=0.35)
    apart = curvature.Predictive(posterior, model, "gaussian", output="diagonal").density(x, y)
    assert np.all(apart["mutual_information"] > 0)


def test_a_factor_is_nystroems_approximation_of_the_covariance():
    model = decoder()
    posterior, x = posterior_of(model, "gaussian"), tf.constant(reference.data(model, 3))
    covariance = moments(posterior, model, x.numpy())[1]
    rows = np.random.default_rng(0).normal(size=(4, 4, 6, 1))
    first, basis, image = (
        np.reshape(one, (3, 4, 24)) for one in linearised.products(posterior, model, x, tf.constant(rows)))
    np.testing.assert_allclose(first, np.einsum("bij,rj->bri", covariance, rows.reshape(4, 24)), rtol=1e-8)
    np.testing.assert_allclose(basis @ np.swapaxes(basis, 1, 2), [np.eye(4)] * 3, atol=1e-9)
    np.testing.assert_allclose(image, basis @ covariance, rtol=1e-8, atol=1e-12)
    inside = first - np.einsum("brd,bsd,bse->bre", first, basis, basis)
    np.testing.assert_allclose(inside, 0.0, atol=1e-9 * np.abs(first).max())
    low = density.low_rank(posterior, posterior.graph_of(model), x, 5, (0, 1))
    vectors, values = low.vectors.numpy(), low.values.numpy()
    np.testing.assert_allclose(np.swapaxes(vectors, 1, 2) @ vectors, [np.eye(5)] * 3, atol=1e-8)
    known = np.einsum("bdr,br,ber->bde", vectors, values, vectors)
    rest = covariance - known
    assert np.linalg.eigvalsh(rest).min() > -1e-10
    # It is exact for directions in the image of the covariance.
    assert all(np.linalg.matrix_rank(one, tol=1e-9) <= 19 for one in rest)
    whole = known + np.einsum("b,bde->bde", low.rest, np.eye(24) - vectors @ np.swapaxes(vectors, 1, 2))
    np.testing.assert_allclose(low.variances(), np.einsum("bii->bi", whole), rtol=1e-9)
    np.testing.assert_allclose(np.einsum("bii->b", whole) * low.share, values.sum(-1), rtol=1e-9)
    np.testing.assert_allclose(np.einsum("bii->b", whole), np.einsum("bii->b", covariance), rtol=0.5)
    residual = np.random.default_rng(1).normal(size=(3, 24))
    for found, wanted in zip(density.of_low_rank(residual, low, 0.3), density.of_covariance(residual, whole, 0.3)):
        np.testing.assert_allclose(found, wanted, rtol=1e-8)


def test_forms_of_a_gaussian_density_agree():
    rng = np.random.default_rng(0)
    residual, variances, noise = rng.normal(size=(3, 7)), rng.random((3, 7)), tf.constant(0.4, tf.float32)
    apart = density.of_variances(residual, variances, noise)
    alone = density.of_covariance(residual, np.stack([np.diag(row) for row in variances]), noise)
    for found, wanted in zip(apart, alone):
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("name", ["draws", "probit"])
def test_classes_have_densities_too(name):
    model = classifier()
    posterior, x = posterior_of(model, "categorical"), reference.data(model, 4)
    predictive = curvature.Predictive(posterior, model, "categorical", link=name, num_samples=400)
    y = np.array([0, 2, 1, 1])
    found, chances = predictive.density(x, y), predictive(x)["probabilities"].numpy()
    np.testing.assert_allclose(found["log_prob"], np.log(chances[np.arange(4), y]), rtol=1e-8)
    np.testing.assert_allclose(predictive.density(x, np.eye(3)[y])["log_prob"], found["log_prob"], rtol=1e-8)
    mean, covariance = moments(posterior, model, x)
    rng = np.random.default_rng(0)
    draws = softmax(np.stack([rng.multivariate_normal(m, s, size=20_000) for m, s in zip(mean, covariance)], axis=1))
    entropy = lambda p: -(p * np.log(p)).sum(-1)  # noqa: E731
    gain = entropy(draws.mean(0)) - entropy(draws).mean(0)
    np.testing.assert_allclose(found["mutual_information"], gain, atol=0.05)
    two = classifier("sigmoid", 2)
    other = curvature.Predictive(posterior_of(two, "bernoulli"), two, "bernoulli", link=name)
    y = np.array([[0.0, 1.0]] * 4)
    found, chances = other.density(x, y), other(x)["probabilities"].numpy()
    np.testing.assert_allclose(found["log_prob"], np.log(1 - chances[:, 0]) + np.log(chances[:, 1]), rtol=1e-8)
    assert np.all(found["mutual_information"] > 0) and np.all(found["mutual_information"] < 2 * np.log(2))


def test_targets_that_do_not_fit_are_refused():
    model = classifier()
    predictive, x = curvature.Predictive(curvature.DiagPosterior(model), model, "categorical"), np.zeros((2, 4, 4, 1))
    with pytest.raises(UserError, match=r"y needs shape \(2, 3\) or \(2,\) beside x; received \(2, 4\)"):
        predictive.density(x, np.zeros((2, 4)))
    with pytest.raises(UserError, match="rank is an integer"):
        curvature.Predictive(curvature.DiagPosterior(model), model, "categorical", rank=3)
    with pytest.raises(UserError, match="which densities need"):
        curvature.Predictive(curvature.DiagPosterior(model), model, "categorical", output="diagonal").density(x, [0, 1])
