"""Observation models: normalisation against TFP and the published constants, gradients, state, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special, stats
from tiers import some

from pae_zoo import likelihoods
from pae_zoo.core import distributions as core_distributions

tfd = tfp.distributions
SHAPE = (6, 5, 2)
names = pytest.mark.parametrize("name", likelihoods.NAMES)
COUNTS = (likelihoods.Poisson, likelihoods.NegativeBinomial)
LIBRARY = (likelihoods.LibraryPoisson, likelihoods.LibraryNegativeBinomial,
           likelihoods.LibraryZeroInflatedNegativeBinomial)
KINDS = ("real", "count", "category:3", "binary", "category:2", "real")
gaussians = pytest.mark.parametrize("name", ["gaussian", "gaussian_learned", "gaussian_pixel"])


def shape_of(name):
    return (9,) if name == "mixed" else SHAPE


def make(name, shape=None):
    """A likelihood whose weights are not the initial ones."""
    shape = shape_of(name) if shape is None else shape
    if name == "mixed":
        likelihood = likelihoods.build(likelihoods.of_columns(name, KINDS), shape)
        real, count = likelihood.parts[:2]
        real.log_variance.assign([-1.0, 0.5])
        count.log_theta.assign([1.5])
        return likelihood
    likelihood = likelihoods.build(name, shape, scale=0.3)
    rng = np.random.default_rng(1)
    if name == "gaussian_learned":
        likelihood.log_variance.assign(-1.7)
    if name == "gaussian_pixel":
        likelihood.assign_scale(rng.uniform(0.05, 2.0, shape))
    if isinstance(likelihood, LIBRARY):
        likelihood.log_library.assign(4.0)
    if "binomial" in name:
        likelihood.log_theta.assign(rng.uniform(0.0, 3.0, shape))
    return likelihood


def arrays(likelihood, *leading):
    rng = np.random.default_rng(2)
    event = likelihood.event_shape
    shape = (*event[:-1], event[-1] * likelihood.channels_factor)
    output = rng.normal(size=(*leading, 4, *shape)).astype(np.float32)
    y = rng.random((4, *event), np.float32)
    if isinstance(likelihood, likelihoods.DiscretisedLogistic):
        output = np.float32(0.15) * output + np.repeat([0.5, -2.0], event[-1]).astype(np.float32)
        y = np.where(y < 0.2, 0, np.where(y > 0.8, 255, np.round(y * 255))).astype(np.float32) / np.float32(255)
        return output, y
    if isinstance(likelihood, likelihoods.Categorical):
        return output, np.eye(event[-1], dtype=np.float32)[rng.integers(event[-1], size=(4, *event[:-1]))]
    if isinstance(likelihood, likelihoods.Mixed):
        category = [np.eye(size, dtype=np.float32)[rng.integers(size, size=4)] for size in (3, 2)]
        return output, np.concatenate([y[:, :1], rng.poisson(3.0, (4, 1)), category[0], np.round(y[:, 5:6]),
                                       category[1], y[:, 8:]], axis=1).astype(np.float32)  # fmt: skip
    if isinstance(likelihood, COUNTS):
        return output, rng.poisson(2.0 * y).astype(np.float32)
    return output, np.round(y) if likelihood.is_discrete else y


def reference(likelihood, output):
    """The same distribution, written down anew in float64."""
    output = np.asarray(output, np.float64)
    if isinstance(likelihood, LIBRARY):
        output = library_means(likelihood, output)
    if isinstance(likelihood, likelihoods.Mixed):
        return mixed_reference(likelihood, output)
    if isinstance(likelihood, likelihoods.Categorical):
        return Discrete(output)
    if isinstance(likelihood, likelihoods.DiscretisedLogistic):
        return Levels(*np.split(output, 2, axis=-1))
    if isinstance(likelihood, likelihoods.Bernoulli):
        distribution = tfd.Bernoulli(logits=output, dtype=tf.float64)
    elif isinstance(likelihood, likelihoods.StudentT):
        distribution = tfd.StudentT(np.float64(4.0), output, np.float64(likelihood.scale()))
    elif isinstance(likelihood, likelihoods.Laplace):
        distribution = tfd.Laplace(output, np.float64(likelihood.scale()))
    elif isinstance(likelihood, likelihoods.Poisson):
        distribution = tfd.Poisson(log_rate=output)
    elif isinstance(likelihood, likelihoods.NegativeBinomial):
        theta = np.exp(np.asarray(likelihood.log_theta, np.float64))
        inflated = isinstance(likelihood, likelihoods.ZeroInflatedNegativeBinomial)
        log_mean, logit = np.split(output, 2, axis=-1) if inflated else (output, None)
        distribution = tfd.NegativeBinomial(theta + 0.0 * log_mean, logits=log_mean - np.log(theta))
        if inflated:
            distribution = tfd.Mixture(tfd.Categorical(logits=np.stack([logit, 0 * logit], axis=-1)),
                                       [tfd.Deterministic(0.0 * log_mean), distribution])
    elif isinstance(likelihood, likelihoods.GaussianDecoder):
        mean, raw = np.split(output, 2, axis=-1)
        softplus = np.vectorize(lambda value: np.logaddexp(0, value))
        log_variance = -6 + softplus(12 - softplus(12 - raw) + 6)
        distribution = tfd.Normal(mean, np.exp(log_variance / 2))
    else:
        distribution = tfd.Normal(output, np.asarray(likelihood.scale, np.float64))
    return tfd.Independent(distribution, reinterpreted_batch_ndims=len(SHAPE))


def library_means(likelihood, output, log_size=4.0):
    """The decoder's output of the same counts without a library size."""
    log_mean, *rest = np.split(output, likelihood.channels_factor, axis=-1)
    axes = tuple(range(-len(SHAPE), 0))
    log_mean = log_size + log_mean - special.logsumexp(log_mean, axis=axes, keepdims=True)
    return np.concatenate([log_mean, *rest], axis=-1)


class Discrete:
    """One category of the last axis, by SciPy and NumPy."""

    def __init__(self, logits):
        self.p = special.softmax(logits, axis=-1)

    def log_prob(self, y):
        return np.sum(np.log(self.p[np.arange(len(y))[:, None, None], np.arange(6)[:, None], np.arange(5),
                                    np.argmax(y, axis=-1)]), axis=(1, 2))  # fmt: skip

    def mean(self):
        return self.p

    def variance(self):
        return self.p * (1 - self.p)


class Levels:
    """A logistic distribution cut at the middles between 256 levels, by SciPy."""

    def __init__(self, mean, raw):
        scale = np.exp(-8.0 + np.logaddexp(0.0, raw + 8.0))
        edges = (np.arange(255) + 0.5) / 255
        below = stats.logistic(mean[..., None], scale[..., None]).cdf(edges)
        ends = np.zeros((*mean.shape, 1))
        self.masses, self.levels = np.diff(np.concatenate([ends, below, ends + 1], axis=-1)), np.arange(256) / 255

    def log_prob(self, y):
        place = np.round(np.asarray(y, np.float64) * 255).astype(int)
        found = np.take_along_axis(self.masses, place[..., None], axis=-1)
        return np.sum(np.log(found), axis=tuple(range(1, found.ndim)))

    def mean(self):
        return self.masses @ self.levels

    def variance(self):
        return self.masses @ self.levels**2 - self.mean() ** 2


class mixed_reference:
    """The columns of KINDS one by one, by SciPy."""

    def __init__(self, likelihood, g):
        sigma, theta = np.exp([-0.5, 0.25]), np.exp(1.5)
        mu = np.exp(g[:, 1])
        self.columns = [stats.norm(g[:, 0], sigma[0]), stats.nbinom(theta, theta / (theta + mu)),
                        special.softmax(g[:, 2:5], axis=1), stats.bernoulli(special.expit(g[:, 5])),
                        special.softmax(g[:, 6:8], axis=1), stats.norm(g[:, 8], sigma[1])]  # fmt: skip

    def log_prob(self, y):
        a, count, first, bit, second, b = self.columns
        y = np.asarray(y, np.float64)
        return (a.logpdf(y[:, 0]) + count.logpmf(y[:, 1]) + np.log(np.sum(first * y[:, 2:5], axis=1))
                + bit.logpmf(y[:, 5]) + np.log(np.sum(second * y[:, 6:8], axis=1)) + b.logpdf(y[:, 8]))  # fmt: skip

    def _moments(self, of_column, of_classes):
        return np.concatenate([of_classes(one) if isinstance(one, np.ndarray) else of_column(one)[:, None]
                               for one in self.columns], axis=1)  # fmt: skip

    def mean(self):
        return self._moments(lambda one: one.mean(), lambda p: p)

    def variance(self):
        return self._moments(lambda one: one.var(), lambda p: p * (1 - p))


@pytest.mark.parametrize("scale, expected", [(0.1, 1084.779), (0.01, 2890.006), (10.0, -2525.675)])
@gaussians
def test_published_constants(name, scale, expected):
    likelihood = likelihoods.build(name, (28, 28, 1), scale=scale)
    zero = np.zeros((2, 28, 28, 1), np.float32)
    np.testing.assert_allclose(likelihood.log_prob(zero, zero), [expected] * 2, atol=2e-3)
    np.testing.assert_allclose(likelihood(zero).log_prob(zero), [expected] * 2, atol=1e-2)


@names
def test_log_prob_and_moments_equal_tfp(name):
    likelihood = make(name)
    output, y = arrays(likelihood)
    expected = reference(likelihood, output)
    if not isinstance(likelihood, LIBRARY):  # those take the size of y
        np.testing.assert_allclose(likelihood.log_prob(output, y), expected.log_prob(y), rtol=1e-5)
    distribution = likelihood(output)
    assert isinstance(distribution, tfd.Independent)
    assert distribution.event_shape == shape_of(name) and distribution.batch_shape == (4,)
    np.testing.assert_allclose(distribution.log_prob(y), expected.log_prob(y), rtol=1e-5)
    np.testing.assert_allclose(likelihood.mean(output), expected.mean(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(likelihood.variance(output), expected.variance(), rtol=1e-5, atol=1e-7)
    assert likelihood.variance(output).shape == likelihood.mean(output).shape == y.shape


@names
def test_extra_axes_of_the_output_broadcast(name):
    likelihood = make(name)
    output, y = arrays(likelihood, 3, 2)
    value = likelihood.log_prob(output, y)
    assert value.shape == (3, 2, 4)
    assert likelihood.variance(output).shape == likelihood.mean(output).shape == (3, 2, *y.shape)
    np.testing.assert_allclose(value[1, 0], likelihood.log_prob(output[1, 0], y), rtol=1e-5)


@pytest.mark.parametrize("name", some(likelihoods.NAMES, ["gaussian_learned"]))
def test_xla_equals_eager(name):
    likelihood = make(name)
    output, y = arrays(likelihood, 3)

    def everything(output, y, seed):
        distribution = likelihood(output)
        sample = distribution.sample(2, seed=seed)
        values = likelihood.log_prob(output, y), likelihood.mean(output), likelihood.variance(output)
        return *values, distribution.log_prob(y), sample

    arguments = [tf.constant(value) for value in (output, y, (1, 2))]
    for eager, xla in zip(everything(*arguments), tf.function(everything, jit_compile=True)(*arguments)):
        np.testing.assert_allclose(eager, xla, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", some(likelihoods.NAMES, [
    "gaussian_learned", "bernoulli", "poisson", "student_t", "categorical", "mixed"]))  # fmt: skip
def test_draws_have_the_moments_and_repeat(name):
    likelihood = make(name)
    output, y = arrays(likelihood)
    distribution = likelihood(output)
    draws = distribution.sample(4000, seed=(0, 1)).numpy()
    assert draws.shape == (4000, *y.shape)
    spread = np.sqrt(likelihood.variance(output))
    assert np.max(np.abs(draws.mean(0) - likelihood.mean(output)) / spread) < 5 / np.sqrt(4000)
    # Heavy tails make the std of draws uncertain.
    heavy = isinstance(likelihood, (likelihoods.StudentT, likelihoods.Mixed, likelihoods.Categorical, *COUNTS))
    np.testing.assert_allclose(draws.std(0), spread, rtol=0.5 if heavy else 0.12)
    np.testing.assert_allclose(np.mean(draws.std(0)), np.mean(spread), rtol=0.03)
    np.testing.assert_array_equal(distribution.sample(3, seed=(5, 6)), distribution.sample(3, seed=(5, 6)))
    assert np.any(distribution.sample(seed=(5, 6)) != distribution.sample(seed=(6, 5)))
    for seed in (None, 3.5):
        with pytest.raises(ValueError, match="pair of integers"):
            distribution.sample(seed=seed)


@gaussians
def test_scale_can_be_overridden(name):
    likelihood = make(name)
    output, y = arrays(likelihood, 2)
    for scale in (0.7, np.random.default_rng(3).uniform(0.5, 2, SHAPE).astype(np.float32)):
        expected = tfd.Independent(tfd.Normal(output, scale), len(SHAPE)).log_prob(y)
        np.testing.assert_allclose(likelihood.log_prob(output, y, scale=scale), expected, rtol=1e-5)
    assert np.any(likelihood.log_prob(output, y) != likelihood.log_prob(output, y, scale=0.7))


@pytest.mark.parametrize("name", ["gaussian_decoder", "bernoulli", "poisson", "laplace"])
def test_scale_cannot_be_overridden_where_there_is_none(name):
    likelihood = make(name)
    with pytest.raises(ValueError, match="no standard deviation to override"):
        likelihood.log_prob(*arrays(likelihood), scale=0.1)


def test_bernoulli_takes_any_value_in_the_unit_interval():
    likelihood = likelihoods.build("bernoulli", (3,))
    logits, y = tf.constant([[-1.0, 0.5, 2.0]]), np.array([[0.25, 0.5, 1.0]])
    p = tf.sigmoid(logits).numpy()
    expected = np.sum(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert float(likelihood.log_prob(logits, y)[0]) == pytest.approx(expected, rel=1e-5)
    assert float(likelihood(logits).log_prob(y.astype(np.float32))[0]) == pytest.approx(expected, rel=1e-5)


def test_bernoulli_is_finite_for_any_logit():
    likelihood = likelihoods.build("bernoulli", (4,))
    logits = tf.constant([[1e4, 1e4, -1e4, -1e4]])
    y = np.array([[1.0, 0.0, 1.0, 0.0]], np.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = likelihood.log_prob(logits, y)
    assert float(value[0]) == pytest.approx(-2e4)
    np.testing.assert_allclose(tape.gradient(value, logits), [[0, -1, 1, 0]])


def test_decoder_variance_is_clipped_softly():
    likelihood = likelihoods.build("gaussian_decoder", (1,))
    raw = tf.constant([[-1e4], [-20.0], [3.0], [30.0], [1e4]])
    with tf.GradientTape() as tape:
        tape.watch(raw)
        s = likelihood.log_variance(tf.concat([tf.zeros_like(raw), raw], axis=-1))
    np.testing.assert_allclose(s[:, 0], [-6, -6, 3, 12, 12], atol=1e-3)
    assert np.all(np.isfinite(tape.gradient(s, raw)))
    with tf.GradientTape() as tape:
        near = tf.constant([[-8.0], [14.0]])
        tape.watch(near)
        s = likelihood.log_variance(tf.concat([tf.zeros_like(near), near], axis=-1))
    assert np.all(tape.gradient(s, near) > 0.1)
    with pytest.raises(ValueError, match="must lie below"):
        likelihoods.build("gaussian_decoder", (1,), min_log_variance=1.0, max_log_variance=0.0)


def test_learned_variance_starts_from_the_data():
    likelihood = likelihoods.build("gaussian_learned", (4,))
    y = np.random.default_rng(0).normal([0, 5, 1000, 3], [1, 2, 3, 0], (9000, 4))
    likelihood.adapt(y)
    assert float(likelihood.log_variance) == pytest.approx(np.log(np.mean(y.var(0))), rel=1e-5)
    # Predicting the mean, the quadratic terms of all data sum to D on average.
    quadratic = np.mean(np.sum((y - y.mean(0)) ** 2, axis=1)) / float(likelihood.scale) ** 2
    assert quadratic == pytest.approx(4, rel=1e-4)
    likelihood.adapt(np.ones((5, 4), np.float32))
    assert float(likelihood.log_variance) == pytest.approx(-12)


def test_learned_variance_has_a_floor_that_lets_it_rise_again():
    likelihood = likelihoods.build("gaussian_learned", (4,))
    zero = np.zeros((2, 4), np.float32)
    likelihood.log_variance.assign(-11.99)
    optimizer = keras.optimizers.SGD(0.1)

    def step(residual):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(likelihood.log_prob(zero, zero + residual))
        weights = likelihood.trainable_weights
        optimizer.apply(tape.gradient(loss, [w.value for w in weights]), weights)
        return float(likelihood.log_variance)

    assert [step(0.0) for _ in range(3)] == [-12.0] * 3
    assert step(0.01) > -12.0
    likelihood.log_variance.assign(-30.0)
    assert float(likelihood.scale) == pytest.approx(np.exp(-6))


def test_pixel_scale_is_measured_and_floored():
    likelihood = likelihoods.build("gaussian_pixel", (3,), scale=0.2, min_scale=0.05)
    np.testing.assert_allclose(likelihood.scale, [0.2] * 3)
    residuals = np.random.default_rng(0).normal([1.0, 0, 0], [2.0, 0.5, 0], (5000, 3))
    likelihood.measure(residuals)
    expected = np.sqrt(np.mean(residuals**2, axis=0))
    np.testing.assert_allclose(likelihood.scale, np.maximum(expected, 0.05), rtol=1e-5)
    tf.function(likelihood.assign_scale, jit_compile=True)(tf.constant([0.01, 0.1, 1.0]))
    np.testing.assert_allclose(likelihood.scale, [0.05, 0.1, 1.0])
    assert likelihood.trainable_weights == []
    np.testing.assert_allclose(likelihoods.build("gaussian_pixel", (2,), scale=0.001).scale, [0.001] * 2)
    for bad in ([1.0, -1.0, 1.0], [1.0, np.nan, 1.0]):
        with pytest.raises(ValueError, match="finite and not negative"):
            likelihood.assign_scale(bad)


@pytest.mark.parametrize("bad", [np.zeros((5, 4)), np.zeros((0, 3)), np.full((5, 3), np.nan)])
def test_bad_data_are_told(bad):
    with pytest.raises(ValueError, match="received"):
        likelihoods.build("gaussian_pixel", (3,)).measure(bad)
    with pytest.raises(ValueError, match="received"):
        likelihoods.build("gaussian_learned", (3,)).adapt(bad)


@keras.saving.register_keras_serializable("test_likelihoods")
class Holder(keras.Model):
    """The least model that has a likelihood."""

    def __init__(self, likelihood, **kwargs):
        super().__init__(**kwargs)
        self.likelihood = likelihood
        self.built = True

    def call(self, output):
        return self.likelihood.mean(output)

    def get_config(self):
        return {"likelihood": keras.saving.serialize_keras_object(self.likelihood)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["likelihood"]))


@names
def test_saved_whole(name, tmp_path):
    likelihood = make(name)
    output, y = arrays(likelihood)
    Holder(likelihood).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").likelihood
    assert type(loaded) is type(likelihood)
    assert loaded.get_config() == likelihood.get_config()
    np.testing.assert_array_equal(loaded.log_prob(output, y), likelihood.log_prob(output, y))


@names
def test_half_precision_outputs_are_summed_in_full(name):
    likelihood = make(name)
    output, y = arrays(likelihood)
    output = tf.cast(output, tf.float16)
    assert likelihood(output).dtype == likelihood.log_prob(output, y).dtype == tf.float32
    wide = make(name)
    assert wide.log_prob(tf.cast(output, tf.float64), y).dtype == tf.float64


@pytest.mark.parametrize("name", some(likelihoods.NAMES, [
    "gaussian_decoder", "bernoulli", "laplace", "discretised_logistic", "library_poisson", "mixed"]))  # fmt: skip
def test_score_and_fisher_are_those_of_log_prob(name, monkeypatch):
    """The score is the gradient, the Fisher information the mean of its squares over draws."""
    likelihood = make(name)
    output, y = arrays(likelihood)
    if name == "discretised_logistic":
        likelihood, y = likelihoods.DiscretisedLogistic(SHAPE, levels=6), np.round(5 * y) / np.float32(5)
    output = tf.constant(output)
    with tf.GradientTape() as tape:
        tape.watch(output)
        value = likelihood.log_prob(output, y)
    score, fisher = likelihood.score_and_fisher(output, y)
    np.testing.assert_allclose(score, tape.gradient(value, output), rtol=1e-3, atol=1e-4)
    if isinstance(likelihood, LIBRARY):  # its information is that of counts of one size, whatever their sum
        monkeypatch.setattr(likelihood, "log_library_of", lambda y, dtype: tf.constant(4.0, dtype))
        fisher = likelihood.score_and_fisher(output, y)[1]
    draws = likelihood(output).sample(3000, seed=(3, 4))
    rows = tf.tile(output, (3000, *[1] * (output.shape.rank - 1)))
    squares = likelihood.score_and_fisher(rows, tf.reshape(draws, (-1, *draws.shape[2:])))[0] ** 2
    squares = tf.reshape(squares, (3000, *output.shape))
    mean, error = np.mean(squares, axis=0), np.std(squares, axis=0) / np.sqrt(3000)
    assert np.mean(np.abs(mean - fisher) < 4 * error + 0.02 * fisher + 1e-3 * np.mean(fisher)) > 0.98
    np.testing.assert_allclose(np.sum(mean), np.sum(fisher), rtol=0.05)


@pytest.mark.parametrize("name", [n for n in likelihoods.NAMES if not make(n).has_diagonal_fisher])
def test_the_whole_fisher_information(name):
    """Its products, roots and diagonal are those of one matrix, which for a softmax is diag(p) - p p^T."""
    likelihood = make(name)
    output, _ = arrays(likelihood)
    output = tf.constant(output[:1].astype(np.float64))
    size = int(np.prod(output.shape[1:]))
    unit = tf.reshape(tf.eye(size, dtype=tf.float64), (size, *output.shape))
    matrix = tf.reshape(likelihood.fisher_product(output, unit), (size, size)).numpy()
    root = tf.reshape(likelihood.fisher_root(output, unit), (size, size)).numpy()
    np.testing.assert_allclose(root.T @ root, matrix, rtol=1e-6, atol=1e-9)
    y = np.full((1, *likelihood.event_shape), np.exp(4.0) / likelihood.num_values)
    fisher = likelihood.score_and_fisher(output, y)[1]
    np.testing.assert_allclose(np.diag(matrix), np.ravel(fisher), rtol=1e-6, atol=1e-9)
    if name == "library_poisson":
        p = special.softmax(np.ravel(output))
        np.testing.assert_allclose(matrix, np.exp(4.0) * (np.diag(p) - np.outer(p, p)), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["categorical", "mixed", "discretised_logistic"])
def test_terms_of_values_that_are_missing_are_left_out(name):
    """Those of the seen values are what is left; a category that is missing is missing whole."""
    likelihood = make(name)
    output, y = arrays(likelihood)
    np.testing.assert_allclose(tf.reduce_sum(likelihood.log_probs(output, y), axis=list(range(1, y.ndim))),
                               likelihood.log_prob(output, y), rtol=1e-4)  # fmt: skip
    hidden = y.copy()
    hidden[..., 2:5] = np.nan
    partial = likelihoods.Partial(likelihood)
    terms = likelihood.log_probs(output, np.nan_to_num(hidden)).numpy()
    expected = np.where(np.isnan(hidden), 0, terms).sum(axis=tuple(range(1, y.ndim)))
    np.testing.assert_allclose(partial.log_prob(output, hidden), expected, rtol=1e-4)
    if name == "mixed":
        likelihood.adapt(np.concatenate([y, hidden]))


@pytest.mark.parametrize("name", [n for n in likelihoods.NAMES if n.startswith("library")])
def test_counts_with_a_library_size(name):
    """log p(y|z) is that of the counts whose means share out the sum of y; scaled data have scaled means."""
    likelihood = make(name)
    output, y = arrays(likelihood)
    plain = likelihoods.build(name.removeprefix("library_"), SHAPE)
    if "binomial" in name:
        plain.log_theta.assign(likelihood.log_theta)
    sizes = np.log(y.sum(axis=(1, 2, 3), keepdims=True, dtype=np.float64))
    shared = library_means(likelihood, output.astype(np.float64), sizes)
    np.testing.assert_allclose(likelihood.log_prob(output, y), plain.log_prob(shared, y), rtol=1e-4)
    likelihood.adapt(np.stack([np.full(SHAPE, 2.0), np.full(SHAPE, 8.0)]))
    np.testing.assert_allclose(likelihood.log_library, np.log(4.0 * 60), rtol=1e-5)
    if name != "library_zero_inflated_negative_binomial":
        np.testing.assert_allclose(np.sum(likelihood.mean(output), axis=(1, 2, 3)), 240.0, rtol=1e-4)


def test_blocks_of_categories():
    likelihood = likelihoods.build("categorical:category:2,category:3", (5,))
    g = np.array([[0.0, np.log(3.0), 0.0, 0.0, np.log(2.0)]], np.float32)
    np.testing.assert_allclose(likelihood.mean(g), [[0.25, 0.75, 0.25, 0.25, 0.5]], rtol=1e-6)
    y = np.array([[0, 1, 0, 0, 1], [0, 0, 0, 0, 1]], np.float32)  # a category that training lacks counts nothing
    np.testing.assert_allclose(likelihood.log_prob(g, y), np.log([0.75 * 0.5, 0.5]), rtol=1e-5)
    draws = likelihood(g).sample(2000, seed=(0, 1)).numpy()[:, 0]
    assert (draws[:, :2].sum(axis=1) == 1).all() and (draws[:, 2:].sum(axis=1) == 1).all()
    likelihood.adapt(y)
    for bad in (np.array([[1, 1, 0, 0, 1.0]]), np.array([[0.5, 0, 0, 0, 1]])):
        with pytest.raises(ValueError, match="mixed for columns of several kinds"):
            likelihood.adapt(bad)
    with pytest.raises(ValueError, match="must sum to 5"):
        likelihoods.build("categorical:category:2", (5,))
    with pytest.raises(ValueError, match="categories alone"):
        likelihoods.of_columns("categorical", ("real", "category:2"))


def test_levels_of_a_pixel_are_bytes():
    """The probabilities of all levels sum to 1, a uniform density has 8 bits, and what lies between is refused."""
    likelihood = likelihoods.build("discretised_logistic", (1,))
    levels = np.arange(256, dtype=np.float32)[:, None] / 255
    for mean, raw in ((0.5, -3.0), (0.0, -6.0), (1.2, 1.0), (0.3, -30.0)):
        g = tf.constant([[mean, raw]])
        with tf.GradientTape() as tape:
            tape.watch(g)
            log_prob = likelihood.log_prob(g, levels)
        assert np.sum(np.exp(np.asarray(log_prob, np.float64))) == pytest.approx(1.0, rel=1e-3)
        assert np.isfinite(log_prob).all() and np.isfinite(tape.gradient(log_prob, g)).all()
    likelihood.adapt(levels)
    for bad in (levels + 0.001, levels * 2):
        with pytest.raises(ValueError, match="256 levels"):
            likelihood.adapt(bad)


def test_kinds_of_columns_must_fill_a_datum():
    for name, words in (("mixed:real", "names 1 values"), ("mixed:reel,count", "'reel' is unknown"),
                        ("mixed", "column_kinds")):
        with pytest.raises(ValueError, match=words):
            likelihoods.build(name, (2,))
    heavy = likelihoods.Mixed((2,), ("real", "count"), real="student_t", count="poisson")
    g, y = np.array([[0.3, 0.5]], np.float32), np.array([[2.0, 3.0]], np.float32)
    heavy.adapt(np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 4.0]]))
    expected = stats.t(4.0, 0.3, 2 / 3).logpdf(2.0) + stats.poisson(np.exp(0.5)).logpmf(3)
    np.testing.assert_allclose(heavy.log_prob(g, y), [expected], rtol=1e-5)


def test_counts_are_drawn_as_they_are_distributed():
    for rate in (0.05, 3.0, 400.0):
        draws = core_distributions.poisson(20_000, tf.constant(rate, tf.float64), (1, 2)).numpy()
        values = np.arange(stats.poisson(rate).ppf(0.01), stats.poisson(rate).ppf(0.99) + 1)
        found = np.array([np.mean(draws <= value) for value in values])
        np.testing.assert_allclose(found, stats.poisson(rate).cdf(values), atol=4 * 0.5 / np.sqrt(20_000))
    gammas = core_distributions.gamma((20_000,), 0.3, (3, 4)).numpy()
    assert stats.kstest(gammas, stats.gamma(0.3).cdf).pvalue > 1e-3


def test_what_are_no_counts_is_told():
    for y in ([[0.5]], [[-1.0]], [[np.inf]]):
        with pytest.raises(ValueError, match="whole numbers"):
            likelihoods.build("poisson", (1,)).adapt(np.array(y))
    with pytest.raises(ValueError, match="above 2"):
        likelihoods.build("student_t", (1,), dof=2.0)
    with pytest.raises(ValueError, match="above 0"):
        likelihoods.build("negative_binomial", (1,), dispersion=0.0)


def test_a_learned_scale_starts_from_the_data():
    for name in ("student_t", "laplace"):
        likelihood = likelihoods.build(name, (2,))
        likelihood.adapt(np.array([[0.0, 10.0], [1.0, 12.0], [2.0, 14.0]]))
        np.testing.assert_allclose(likelihood.scale(), 1.0, rtol=1e-6)
        likelihood.adapt(np.zeros((3, 2)))
        np.testing.assert_allclose(likelihood.scale(), np.exp(-6.0), rtol=1e-6)


def test_names():
    assert set(likelihoods.describe()) == set(likelihoods.NAMES)
    factors = [likelihoods.channels_factor(name) for name in likelihoods.NAMES]
    assert factors == [1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 2, 1, 1, 2]
    assert likelihoods.channels_factor(make("gaussian_decoder")) == 2
    assert [make(n).is_discrete for n in likelihoods.NAMES] == [False] * 4 + [True] + [False] * 11
    for call in (likelihoods.channels_factor, lambda name: likelihoods.build(name, SHAPE)):
        with pytest.raises(ValueError, match="allowed: gaussian, gaussian_learned"):
            call("poison")


@gaussians
@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), "wide"])
def test_bad_scales_are_told(name, scale):
    with pytest.raises(ValueError, match="finite number above 0"):
        likelihoods.build(name, SHAPE, scale=scale)
