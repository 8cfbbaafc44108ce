"""Mixtures against SciPy, scikit-learn and closed forms; EM, conditionals, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import multivariate_t
from sklearn.mixture import GaussianMixture

import pae_zoo
from pae_zoo import densities
from pae_zoo.densities import choice, em

DIMS, COUNT = 3, 4
KINDS = pytest.mark.parametrize("student", (True, False))


def parameters(student, seed=0, num_dims=DIMS, count=COUNT):
    generator = np.random.default_rng(seed)
    roots = generator.normal(size=(count, num_dims, num_dims)) + 2.0 * np.eye(num_dims)
    weights = generator.dirichlet(np.full(count, 3.0))
    dof = generator.uniform(5.0, 20.0, count) if student else None
    return densities.Parameters(np.log(weights), 3.0 * generator.normal(size=(count, num_dims)),
                                roots @ roots.transpose(0, 2, 1), dof)


def mixture(student, seed=0, dtype="float64", **sizes):
    made = densities.Mixture(sizes.get("num_dims", DIMS), student=student, dtype=dtype)
    made.assign(parameters(student, seed, **sizes))
    return made


def points(num=200, num_dims=DIMS, seed=1):
    return 4.0 * np.random.default_rng(seed).normal(size=(num, num_dims))


def test_student_components_are_those_of_scipy():
    found, x = parameters(True), points()
    logs = [multivariate_t(m, s, v).logpdf(x) for m, s, v in zip(found.means, found.scales, found.dof)]
    expected = np.logaddexp.reduce(np.stack(logs, axis=1) + found.log_weights, axis=1)
    np.testing.assert_allclose(mixture(True).log_prob(x), expected, rtol=1e-10)
    np.testing.assert_allclose(found.log_prob(x), expected, rtol=1e-10)


def test_gaussian_mixtures_are_those_of_scikit_learn():
    x = points(300)
    theirs = GaussianMixture(COUNT, random_state=0).fit(x)
    ours = densities.Mixture(DIMS, student=False, dtype="float64")
    ours.assign(densities.Parameters(np.log(theirs.weights_), theirs.means_, theirs.covariances_, None))
    np.testing.assert_allclose(ours.log_prob(x), theirs.score_samples(x), rtol=1e-9)
    np.testing.assert_allclose(tf.exp(ours.log_responsibilities(x)), theirs.predict_proba(x), atol=1e-9)


@KINDS
def test_parameters_go_in_and_out(student):
    given, found = parameters(student), mixture(student).parameters()
    for name in ("log_weights", "means", "scales") + (("dof",) if student else ()):
        np.testing.assert_allclose(getattr(found, name), getattr(given, name), rtol=1e-9, atol=1e-12)


@KINDS
def test_one_pass_of_em_is_the_closed_form(student):
    """Moments of weighted rows, as loops over rows and components; the ridge is added."""
    x, before = points(200), parameters(student)
    after, value = em.step(before, em.Data(x))
    np.testing.assert_allclose(value, before.log_prob(x).mean(), rtol=1e-9)
    share = np.exp(before.log_components(x) - before.log_prob(x)[:, None])
    for m in range(COUNT):
        pull = np.ones(200)
        if student:
            away = x - before.means[m]
            delta = np.einsum("ni,ij,nj->n", away, np.linalg.inv(before.scales[m]), away)
            pull = (before.dof[m] + DIMS) / (before.dof[m] + delta)
        weight = share[:, m] * pull
        mean = weight @ x / weight.sum()
        scale = np.einsum("n,ni,nj->ij", weight, x - mean, x - mean) / share[:, m].sum()
        np.testing.assert_allclose(after.means[m], mean, rtol=1e-7)
        np.testing.assert_allclose(after.scales[m], scale + em.RIDGE * np.eye(DIMS), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.exp(after.log_weights), share.mean(axis=0), rtol=1e-8)


@KINDS
def test_em_never_lowers_the_likelihood(student):
    data, found, values = em.Data(points(400, seed=3)), parameters(student), []
    for _ in range(12):
        found, value = em.step(found, data)
        values.append(value)
    assert np.all(np.diff(values) > -1e-5)


def test_em_finds_the_degrees_of_freedom():
    x = multivariate_t(np.zeros(2), np.eye(2), 6.0).rvs(20_000, random_state=0)
    found, _ = choice.fit(x[:15_000], x[15_000:], None, 1, True, 0)
    truth = multivariate_t(np.zeros(2), np.eye(2), 6.0)
    # It ends where passes gain little.
    assert found.log_prob(x[15_000:]).mean() > truth.logpdf(x[15_000:]).mean() - 1e-2
    for _ in range(60):
        found, _ = em.step(found, em.Data(x))
    assert 5.4 < found.dof[0] < 6.6
    np.testing.assert_allclose(found.scales[0], np.eye(2), atol=0.04)


def test_single_precision_passes_are_those_of_double(monkeypatch):
    x, before = points(500), parameters(True)
    double, value = em.step(before, em.Data(x))
    monkeypatch.setattr(em, "SINGLE_ABOVE", 100)
    monkeypatch.setattr(em, "CHUNK_VALUES", 700)
    single, close = em.step(before, em.Data(x))
    np.testing.assert_allclose(close, value, rtol=1e-5)
    np.testing.assert_allclose(single.scales, double.scales, rtol=1e-3, atol=1e-3)


def test_a_row_of_weight_two_is_two_rows():
    x = points(50)
    weights = np.random.default_rng(0).integers(1, 4, 50).astype(float)
    repeated, _ = em.step(parameters(True), em.Data(np.repeat(x, weights.astype(int), axis=0)))
    weighted, _ = em.step(parameters(True), em.Data(x, weights))
    for one, other in zip(repeated, weighted):
        np.testing.assert_allclose(one, other, rtol=1e-8)


def test_the_number_of_components_is_found():
    """Four clusters far apart: neither two nor sixteen describe data held out as well."""
    generator = np.random.default_rng(0)
    centres = np.array([[6.0, 0], [-6, 0], [0, 6], [0, -6]])
    x = centres[generator.integers(4, size=2000)] + generator.normal(size=(2000, 2))
    found, report = choice.fit(x[:1600], x[1600:], None, 0, False, 0)
    assert report["components"] == len(found.log_weights) and 3 <= report["components"] <= 9
    truth = densities.Parameters(np.full(4, np.log(0.25)), centres, np.tile(np.eye(2), (4, 1, 1)), None)
    assert found.log_prob(x[1600:]).mean() > truth.log_prob(x[1600:]).mean() - 0.05


@KINDS
def test_precision_is_the_hessian_of_the_bound(student):
    """Of one component without tails it is S^-1; always positive definite, and at most (v + D) / v of S^-1."""
    one = mixture(student, count=1)
    inverse = np.linalg.inv(one.parameters().scales[0])
    found = one.precision(points(20)).numpy()
    if not student:
        np.testing.assert_allclose(found, np.tile(inverse, (20, 1, 1)), rtol=1e-8)
    many = mixture(student)
    assert np.linalg.eigvalsh(many.precision(points(20).reshape(4, 5, DIMS))).min() > 0
    x = tf.constant(one.parameters().means)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            value = one.log_prob(x)
        gradient = tape.gradient(value, x)
    hessian = -outer.batch_jacobian(gradient, x, experimental_use_pfor=False)[0]
    np.testing.assert_allclose(one.precision(x)[0], hessian, rtol=1e-6, atol=1e-9)  # equal at the mode


@KINDS
def test_samples_have_the_moments(student):
    made = mixture(student)
    draws = made.sample(200_000, (0, 1)).numpy()
    mean, covariance = made.mean_and_covariance()
    scale = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.02 * scale.max())
    np.testing.assert_allclose(np.cov(draws.T) / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=0.05)
    numpy_draws = made.parameters().sample(200_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.cov(numpy_draws.T) / np.outer(scale, scale), covariance / np.outer(scale, scale),
                               atol=0.05)
    compiled = tf.function(lambda: made.sample(50, (0, 1)), jit_compile=True)()
    np.testing.assert_allclose(compiled, made.sample(50, (0, 1)), atol=1e-6)


@KINDS
def test_conditionals_are_ratios_of_densities(student):
    """p(b | a) = p(a, b) / p(a), a any subset, in any order."""
    found, x = parameters(student, num_dims=4), points(30, num_dims=4)
    for seen in ([0], [3, 1], [2, 0, 1]):
        rest = np.setdiff1d(np.arange(4), seen)
        marginal = found.marginal(np.array(seen))
        for row in x[:5]:
            given = found.conditional(np.array(seen), row[seen])
            expected = found.log_prob(row[None]) - marginal.log_prob(row[seen][None])
            np.testing.assert_allclose(given.log_prob(row[rest][None]), expected, rtol=1e-8)
    assert found.conditional(np.array([], int), np.array([])) is found


def test_bad_conditions_are_told():
    found = parameters(True)
    for seen, values, what in (([0, 1, 2], [0, 0, 0], "nothing is left"), ([0, 0], [1, 1], "different dimensions"),
                               ([5], [1], "different dimensions"), ([0], [1, 2], "one number"),
                               ([0], [np.nan], "finite")):
        with pytest.raises(pae_zoo.UserError, match=what):
            found.conditional(np.array(seen), np.array(values, float))


@KINDS
def test_moving_and_padding_keep_the_density(student):
    found, x = parameters(student), points(20)
    matrix, shift = np.random.default_rng(2).normal(size=(DIMS, DIMS)), np.arange(DIMS)
    moved = found.moved(shift, matrix)
    expected = found.log_prob(x) - np.linalg.slogdet(matrix)[1]
    np.testing.assert_allclose(moved.log_prob(shift + x @ matrix.T), expected, rtol=1e-8)
    assert len(found.padded(7).log_weights) == 7
    np.testing.assert_allclose(found.padded(7).log_prob(x), found.log_prob(x), rtol=1e-10)


@KINDS
def test_rows_do_not_depend_on_each_other_nor_on_chunks(student, monkeypatch):
    made, x = mixture(student), points(40)
    whole = made.log_prob(x).numpy()
    np.testing.assert_allclose(made.log_prob(x.reshape(5, 8, DIMS)), whole.reshape(5, 8), rtol=1e-12)
    monkeypatch.setattr("pae_zoo.densities.mixture.MOST_VALUES", 84)
    np.testing.assert_allclose(made.log_prob(x), whole, rtol=1e-12)
    np.testing.assert_allclose(made.precision(x)[7], mixture(student).precision(x[7]), rtol=1e-10)
    compiled = tf.function(made.log_prob, jit_compile=True)
    np.testing.assert_allclose(compiled(tf.constant(x)), whole, rtol=1e-8)


def test_a_mixture_that_is_not_fitted_is_a_standard_normal():
    made = densities.Mixture(2)
    np.testing.assert_allclose(made.log_prob(np.zeros((1, 2), np.float32)), [-np.log(2 * np.pi)], rtol=1e-6)
    assert made.sample(5, (0, 0)).shape == (5, 2) and made.precision(tf.zeros((3, 2))).shape == (3, 2, 2)
    with pytest.raises(pae_zoo.UserError, match="not fitted"):
        made.parameters()


def test_saving_keeps_what_was_chosen(tmp_path):
    flow = pae_zoo.Flow(DIMS, layers=(), base=densities.Mixture(DIMS))
    x = points(300).astype(np.float32)
    densities.train(flow, x)
    flow.save(tmp_path / "density.keras")
    loaded = keras.models.load_model(tmp_path / "density.keras")
    assert loaded.base.num_components == flow.base.fitted_components > 0
    np.testing.assert_array_equal(loaded.log_prob(x), flow.log_prob(x))
    np.testing.assert_array_equal(loaded.sample(4, (1, 2)), flow.sample(4, (1, 2)))


@pytest.mark.parametrize("options, what", [
    (dict(num_dims=0), "1 or more"), (dict(num_dims=2, num_components=-1), "num_components=-1"),
])  # fmt: skip
def test_bad_sizes_are_told(options, what):
    with pytest.raises(pae_zoo.UserError, match=what):
        densities.Mixture(**options)


def test_more_components_than_rows_are_told():
    with pytest.raises(pae_zoo.UserError, match="needs as many rows; received 10"):
        densities.fit(points(10).astype(np.float32), "student_mixture", components=50)


def test_rows_that_repeat_are_fitted():
    """Fewer distinct rows than components."""
    x = np.repeat(points(5), 30, axis=0).astype(np.float32)
    density = densities.fit(x, "student_mixture", components=20)
    assert np.isfinite(density.log_prob(x)).all() and np.isfinite(density.sample(50, seed=(0, 0))).all()
    assert density.base.fitted_components == 20
