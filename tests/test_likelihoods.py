"""Observation models: normalisation against TFP and the published constants, gradients, state, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats
from tiers import some

from pae_zoo import likelihoods
from pae_zoo.core import distributions as core_distributions

tfd = tfp.distributions
SHAPE = (6, 5, 2)
names = pytest.mark.parametrize("name", likelihoods.NAMES)
COUNTS = (likelihoods.Poisson, likelihoods.NegativeBinomial)
gaussians = pytest.mark.parametrize("name", ["gaussian", "gaussian_learned", "gaussian_pixel"])


def make(name, shape=SHAPE):
    """A likelihood whose weights are not the initial ones."""
    likelihood = likelihoods.build(name, shape, scale=0.3)
    rng = np.random.default_rng(1)
    if name == "gaussian_learned":
        likelihood.log_variance.assign(-1.7)
    if name == "gaussian_pixel":
        likelihood.assign_scale(rng.uniform(0.05, 2.0, shape))
    if "binomial" in name:
        likelihood.log_theta.assign(rng.uniform(0.0, 3.0, shape))
    return likelihood


def arrays(likelihood, *leading):
    rng = np.random.default_rng(2)
    shape = (*SHAPE[:-1], SHAPE[-1] * likelihood.channels_factor)
    output = rng.normal(size=(*leading, 4, *shape)).astype(np.float32)
    y = rng.random((4, *SHAPE), np.float32)
    if isinstance(likelihood, COUNTS):
        return output, rng.poisson(2.0 * y).astype(np.float32)
    return output, np.round(y) if likelihood.is_discrete else y


def reference(likelihood, output):
    """The same distribution, written down anew in float64."""
    output = np.asarray(output, np.float64)
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
    np.testing.assert_allclose(likelihood.log_prob(output, y), expected.log_prob(y), rtol=1e-5)
    distribution = likelihood(output)
    assert isinstance(distribution, tfd.Independent)
    assert distribution.event_shape == SHAPE and distribution.batch_shape == (4,)
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


@names
def test_draws_have_the_moments_and_repeat(name):
    likelihood = make(name)
    output, y = arrays(likelihood)
    distribution = likelihood(output)
    draws = distribution.sample(4000, seed=(0, 1)).numpy()
    assert draws.shape == (4000, *y.shape)
    spread = np.sqrt(likelihood.variance(output))
    assert np.max(np.abs(draws.mean(0) - likelihood.mean(output)) / spread) < 5 / np.sqrt(4000)
    # Heavy tails make the std of draws uncertain.
    heavy = isinstance(likelihood, (likelihoods.StudentT, *COUNTS))
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


@names
def test_score_and_fisher_are_those_of_log_prob(name):
    """The score is the gradient, the Fisher information the mean of its squares over draws."""
    likelihood = make(name)
    output, y = arrays(likelihood)
    output = tf.constant(output)
    with tf.GradientTape() as tape:
        tape.watch(output)
        value = likelihood.log_prob(output, y)
    score, fisher = likelihood.score_and_fisher(output, y)
    np.testing.assert_allclose(score, tape.gradient(value, output), rtol=1e-3, atol=1e-4)
    draws = likelihood(output).sample(3000, seed=(3, 4))
    squares = tf.map_fn(lambda draw: likelihood.score_and_fisher(output, draw)[0] ** 2, draws)
    mean, error = np.mean(squares, axis=0), np.std(squares, axis=0) / np.sqrt(3000)
    assert np.mean(np.abs(mean - fisher) < 4 * error + 0.02 * fisher) > 0.98
    np.testing.assert_allclose(np.sum(mean), np.sum(fisher), rtol=0.05)


def test_counts_are_drawn_as_they_are_distributed():
    for rate in (0.05, 3.0, 400.0):
        draws = core_distributions.poisson(20_000, tf.constant(rate, tf.float64), (1, 2)).numpy()
        values = np.arange(stats.poisson(rate).ppf(0.01), stats.poisson(rate).ppf(0.99) + 1)
        found = np.array([np.mean(draws <= value) for value in values])
        np.testing.assert_allclose(found, stats.poisson(rate).cdf(values), atol=4 * 0.5 / np.sqrt(20_000))
    gammas = core_distributions.gamma((20_000,), 0.3, (3, 4)).numpy()
    assert stats.kstest(gammas, stats.gamma(0.3).cdf).pvalue > 1e-3


def test_what_are_no_counts_is_told():
    for y in ([[0.5]], [[-1.0]], [[np.nan]]):
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
    assert factors == [1, 1, 1, 2, 1, 1, 1, 1, 1, 2]
    assert likelihoods.channels_factor(make("gaussian_decoder")) == 2
    assert [likelihoods.build(n, SHAPE).is_discrete for n in likelihoods.NAMES] == [False] * 4 + [True] + [False] * 5
    for call in (likelihoods.channels_factor, lambda name: likelihoods.build(name, SHAPE)):
        with pytest.raises(ValueError, match="allowed: gaussian, gaussian_learned"):
            call("poison")


@gaussians
@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), "wide"])
def test_bad_scales_are_told(name, scale):
    with pytest.raises(ValueError, match="finite number above 0"):
        likelihoods.build(name, SHAPE, scale=scale)
