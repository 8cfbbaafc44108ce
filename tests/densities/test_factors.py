"""Mixtures of factor analysers against scikit-learn, whole matrices and closed forms."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.decomposition import FactorAnalysis

from pae_zoo import densities
from pae_zoo.core.errors import UserError
from pae_zoo.densities import em
from pae_zoo.densities.factor_em import FactorParameters, Factors

DIMS, COUNT, WIDTH = 5, 3, 2
KINDS = pytest.mark.parametrize("student", (True, False))


def parameters(student):
    generator = np.random.default_rng(0)
    return FactorParameters(
        np.log(generator.dirichlet(np.full(COUNT, 3.0))), 3.0 * generator.normal(size=(COUNT, DIMS)),
        generator.normal(size=(COUNT, DIMS, WIDTH)), generator.uniform(0.2, 1.5, (COUNT, DIMS)),
        generator.uniform(5.0, 20.0, COUNT) if student else None)


def mixture(student):
    made = densities.FactorMixture(DIMS, 0, WIDTH, student=student, dtype="float64")
    made.assign(parameters(student))
    return made


def points(num=200, num_dims=DIMS):
    return 3.0 * np.random.default_rng(1).normal(size=(num, num_dims))


def test_one_component_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(1000, 2)) @ generator.normal(size=(2, 8)) + 2.0
    x += generator.normal(size=x.shape) * generator.uniform(0.3, 1.0, 8)
    theirs, method, data = FactorAnalysis(2, tol=1e-10, max_iter=20_000).fit(x), Factors(2), em.Data(x)
    found = method.start(data, 1, False, 0)
    for _ in range(1500):
        found, _ = method.step(found, data)
    assert method.log_likelihood(found, data) == pytest.approx(theirs.score(x), abs=1e-6)
    np.testing.assert_allclose(found.dense().scales[0], theirs.get_covariance(), atol=2e-3)
    np.testing.assert_allclose(found.means[0], x.mean(axis=0), atol=1e-6)


@KINDS
def test_density_precision_and_moments_are_those_of_whole_matrices(student):
    made, whole, x = mixture(student), densities.Mixture(DIMS, student=student, dtype="float64"), points()
    whole.assign(parameters(student).dense())
    np.testing.assert_allclose(made.log_prob(x), whole.log_prob(x), rtol=1e-10)
    np.testing.assert_allclose(made.precision(x), whole.precision(x), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(made.parameters().log_prob(x), whole.log_prob(x), rtol=1e-10)
    for mine, theirs in zip(made.mean_and_covariance(), whole.mean_and_covariance()):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10)
    assert Factors(WIDTH).log_likelihood(parameters(student), em.Data(x)) == pytest.approx(
        np.mean(whole.log_prob(x)), rel=1e-10)
    padded = parameters(student).padded(COUNT + 2)
    np.testing.assert_allclose(padded.dense().log_prob(x), whole.log_prob(x), rtol=1e-10)


@KINDS
def test_samples_have_the_moments(student):
    made = mixture(student)
    draws = made.sample(100_000, (0, 1)).numpy()
    mean, covariance = made.mean_and_covariance()
    scale = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.02 * scale.max())
    np.testing.assert_allclose(np.cov(draws.T) / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=0.05)


@KINDS
def test_one_pass_of_em_is_the_closed_form(student):
    """Regression of the rows on the means of (x, 1) given them, as loops over components."""
    x, before = points(), parameters(student)
    after, value = Factors(WIDTH).step(before, em.Data(x))
    dense = before.dense()
    np.testing.assert_allclose(value, dense.log_prob(x).mean(), rtol=1e-9)
    share = np.exp(dense.log_components(x) - dense.log_prob(x)[:, None])
    for m in range(COUNT):
        away, inverse = x - before.means[m], np.linalg.inv(dense.scales[m])
        pull = np.ones(len(x))
        if student:
            pull = (before.dof[m] + DIMS) / (before.dof[m] + np.einsum("ni,ij,nj->n", away, inverse, away))
        beta = before.loadings[m].T @ inverse
        given = np.c_[away @ beta.T, np.ones(len(x))]
        weight = share[:, m] * pull
        second = np.einsum("n,ni,nj->ij", weight, given, given)
        second[:WIDTH, :WIDTH] += share[:, m].sum() * (np.eye(WIDTH) - beta @ before.loadings[m])
        cross = np.einsum("n,ni,nj->ij", weight, x, given)
        solved = cross @ np.linalg.inv(second)
        np.testing.assert_allclose(after.loadings[m], solved[:, :WIDTH], rtol=1e-7)
        np.testing.assert_allclose(after.means[m], solved[:, WIDTH], rtol=1e-7)
        noise = (np.einsum("n,ni->i", weight, x**2) - (solved * cross).sum(axis=1)) / share[:, m].sum()
        np.testing.assert_allclose(after.noise[m], noise, rtol=1e-6)
    np.testing.assert_allclose(np.exp(after.log_weights), share.mean(axis=0), rtol=1e-8)


def test_weights_count_rows_and_passes_climb():
    x, weights, method = points(60), np.random.default_rng(3).integers(0, 4, 60).astype(float), Factors(WIDTH)
    repeated, _ = method.step(parameters(True), em.Data(np.repeat(x, weights.astype(int), axis=0)))
    weighted, _ = method.step(parameters(True), em.Data(x[weights > 0], weights[weights > 0]))
    for mine, theirs in zip(weighted, repeated):
        np.testing.assert_allclose(mine, theirs, rtol=1e-7)
    found, values, data = method.start(em.Data(points()), 3, True, 0), [], em.Data(points())
    for _ in range(15):
        found, value = method.step(found, data)
        values.append(value)
    assert (np.diff(values) > -1e-9).all()


def test_factors_are_better_than_whole_matrices_on_few_rows():
    """200 rows of 30 columns with two factors: new rows get more than from whole matrices."""
    generator = np.random.default_rng(0)
    loadings = generator.normal(size=(2, 30))
    x = (generator.normal(size=(1200, 2)) @ loadings + 0.5 * generator.normal(size=(1200, 30))).astype(np.float32)
    few, new = x[:200], x[200:]
    values = [np.mean(densities.fit(few, "gaussian_mixture", factors=factors).log_prob(new)) for factors in (2, 0)]
    assert values[0] > values[1] + 0.05


def test_many_dimensions_get_factors_by_themselves(tmp_path):
    assert densities.make("student_mixture", 64).base.num_factors == 0
    assert densities.make("student_mixture", 65, factors=0).base.num_factors == 0
    made = densities.make("student_mixture", 65)
    assert made.base.num_factors == 16
    x = np.random.default_rng(0).normal(size=(300, 65)).astype(np.float32)
    densities.train(made, x)
    made.save(tmp_path / "density.keras")
    loaded = keras.models.load_model(tmp_path / "density.keras")
    assert isinstance(loaded.base, densities.FactorMixture)
    np.testing.assert_array_equal(loaded.log_prob(x[:5]), made.log_prob(x[:5]))


def test_gradients_reach_all_of_a_mixture_that_starts_untrained():
    made = densities.FactorMixture(DIMS, COUNT, WIDTH)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(made.log_prob(points(20).astype(np.float32)))
    assert all(np.abs(one.numpy()).max() > 0 for one in tape.gradient(value, made.trainable_variables))


def test_other_parameters_and_numbers_are_told():
    with pytest.raises(UserError, match="takes FactorParameters of 2 factors; received Parameters"):
        densities.FactorMixture(DIMS, 0, WIDTH, student=False).assign(parameters(False).dense())
    with pytest.raises(UserError, match="from 1 to 4 factors; received factors=5"):
        densities.FactorMixture(DIMS, 0, DIMS)
