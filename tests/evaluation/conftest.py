"""A linear-Gaussian model with closed-form answers, small data and a stand-in for the work directory."""

import math
import os
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo import data
from pae_zoo.core import seeds
from pae_zoo.data import preprocessing
from pae_zoo.evaluation import Context
from pae_zoo.evaluation.features import extractor
from pae_zoo.experiment import record

tfd = tfp.distributions

Estimate = namedtuple("Estimate", "log_likelihood elbo effective_sample_size pareto_k")


class LinearGaussian:
    """p(z) = N(0, I), p(y|z) = N(W z + b, sigma^2 I), y = preprocess(x), with its exact posterior.

    The proposal is the posterior mean plus `bias`, so that bias=0 makes ELBO = log p(x).
    """

    def __init__(self, event_shape, latent_dim=2, sigma=0.3, bias=0.0, preprocess=(), seed=0):
        generator = np.random.default_rng(seed)
        size = math.prod(event_shape)
        self.event_shape, self.latent_dim, self.sigma, self.bias = tuple(event_shape), latent_dim, sigma, bias
        self.weight = tf.constant(generator.normal(size=(size, latent_dim)) * 0.3, tf.float32)
        self.offset = tf.constant(np.full(size, 0.2), tf.float32)
        precision = np.eye(latent_dim) + self.weight.numpy().T @ self.weight.numpy() / sigma**2
        self.covariance = tf.constant(np.linalg.inv(precision), tf.float32)
        self.preprocessing = preprocessing.build_chain(preprocess)
        self.preprocessing.build((None, *event_shape))
        self.step = tf.Variable(7)

    def preprocess(self, x, seed=None):
        return self.preprocessing.forward_and_log_det(tf.cast(x, tf.float32), seed)

    def _flat(self, y):
        return tf.reshape(y, (-1, self.weight.shape[0]))

    def _posterior(self, y):
        residual = self._flat(y) - self.offset
        mean = residual @ self.weight @ self.covariance / self.sigma**2
        return tfd.MultivariateNormalTriL(mean + self.bias, tf.linalg.cholesky(self.covariance))

    def _log_p_given_z(self, y, z):
        mean = z @ tf.transpose(self.weight) + self.offset
        return tf.reduce_sum(tfd.Normal(mean, self.sigma).log_prob(self._flat(y)), axis=-1)

    def exact(self, x, seed=None):
        """Returns the exact log density of x, shape (n,)."""
        y, log_det = self.preprocess(x, seed)
        weight = self.weight.numpy().astype(np.float64)
        covariance = weight @ weight.T + self.sigma**2 * np.eye(len(weight))
        marginal = tfd.MultivariateNormalFullCovariance(self.offset.numpy().astype(np.float64), covariance)
        return marginal.log_prob(tf.cast(self._flat(y), tf.float64)).numpy() + log_det.numpy()

    def __call__(self, x):
        return self.decode_mean(self.encode(x).mean())

    def encode(self, x, seed=None):
        return self._posterior(self.preprocess(x)[0])

    def decode_mean(self, z):
        y = tf.reshape(z @ tf.transpose(self.weight) + self.offset, (-1, *self.event_shape))
        x = self.preprocessing.inverse(y)
        return tf.clip_by_value(x, 0.0, 1.0) if len(self.event_shape) == 3 else x

    def prior(self):
        return tfd.MultivariateNormalDiag(tf.zeros([self.latent_dim]), tf.ones([self.latent_dim]))

    def latent_from_base(self, u):
        return u

    def base_from_latent(self, z):
        return z

    def sample_latent(self, num, seed):
        return seeds.normal((num, self.latent_dim), seed)

    def sample(self, num, seed=None):
        return self.decode_mean(self.sample_latent(num, seed))

    def elbo(self, x, seed=None):
        return self.importance_estimate(x, 1, seed).elbo

    def importance_estimate(self, x, num_samples, seed=None):
        preprocess_seed, _, noise_seed = seeds.split(seed, 3)
        y, log_det = self.preprocess(x, preprocess_seed)
        posterior = self._posterior(y)
        noise = seeds.normal((num_samples, tf.shape(y)[0], self.latent_dim), noise_seed)
        z = posterior.loc + tf.einsum("sbk,jk->sbj", noise, posterior.scale_tril[0] if
                                      posterior.scale_tril.shape.rank == 3 else posterior.scale_tril)
        flat = tf.reshape(z, (-1, self.latent_dim))
        repeated = tf.tile(self._flat(y), (num_samples, 1))
        log_p = tf.reshape(self._log_p_given_z(repeated, flat), (num_samples, -1))
        prior = tf.reshape(self.prior().log_prob(flat), (num_samples, -1))
        log_w = log_p + prior - posterior.log_prob(z)
        first, second = tf.reduce_logsumexp(log_w, 0), tf.reduce_logsumexp(2 * log_w, 0)
        return Estimate(
            first - math.log(num_samples) + log_det, tf.reduce_mean(log_w, 0) + log_det,
            tf.exp(2 * first - second), tf.fill(tf.shape(first), float("nan")),
        )

    def predictive(self, x, num_samples, seed=None):
        raise NotImplementedError("The linear model draws nothing.")

    predictive_log_prob = draw_codes = draw_reconstructions = decode_grid = predictive

    def ood_scores(self, x, seed=None):
        error = tf.reduce_sum((self._flat(self.preprocess(x)[0]) - self._flat(self(x))) ** 2, axis=-1)
        code = tf.reduce_sum(self.encode(x).mean() ** 2, axis=-1)
        return {"reconstruction": error, "kl": code, "elbo": -self.elbo(x, seed)}


class PlainAutoencoder(LinearGaussian):
    """The same reconstruction, without prior, likelihood and scores."""

    def _refuse(self, *args, **kwargs):
        raise NotImplementedError("A plain autoencoder has no density.")

    prior = sample_latent = sample = elbo = importance_estimate = ood_scores = _refuse
    predictive = predictive_log_prob = draw_codes = draw_reconstructions = decode_grid = _refuse


class DrawnNetworks(LinearGaussian):
    """The same model with uncertain weights: a draw adds noise of std `spread` to its two matrices."""

    draws_are_shared = True

    def __init__(self, event_shape, spread=0.05, **options):
        super().__init__(event_shape, **options)
        self.spread = spread

    def to_data(self, y):
        x = self.preprocessing.inverse(y)
        return tf.clip_by_value(x, 0.0, 1.0) if len(self.event_shape) == 3 else x

    def _networks(self, num_samples, seed):
        shape = (num_samples, *self.weight.shape)
        encoder = self.weight @ self.covariance / self.sigma**2
        return [matrix + self.spread * seeds.normal(shape, s) for matrix, s in zip((encoder, self.weight),
                                                                                  seeds.split(seed, 2))]

    def _draw(self, x, num_samples, seed):
        encoders, decoders = self._networks(num_samples, seed)
        z = tf.einsum("bd,sdk->sbk", self._flat(self.preprocess(x)[0]) - self.offset, encoders)
        y = tf.einsum("sbk,sdk->sbd", z, decoders) + self.offset
        return z, tf.reshape(y, (num_samples, -1, *self.event_shape))

    def predictive(self, x, num_samples, seed=None):
        z, y = self._draw(x, num_samples, seed)
        mean, epistemic = tf.nn.moments(y, axes=[0])
        latent_mean, latent_variance = tf.nn.moments(z, axes=[0])
        return {"mean": mean, "aleatoric_variance": tf.fill(tf.shape(mean), self.sigma**2),
                "epistemic_variance": epistemic, "latent_mean": latent_mean, "latent_variance": latent_variance}

    def draw_codes(self, x, num_samples, seed=None):
        return self._draw(x, num_samples, seed)[0]

    def draw_reconstructions(self, x, num_samples, seed=None):
        return self.to_data(self._draw(x, num_samples, seed)[1])

    def predictive_log_prob(self, x, num_samples, seed=None):
        y, log_det = self.preprocess(x)
        means = tf.reshape(self._draw(x, num_samples, seed)[1], (num_samples, -1, self.weight.shape[0]))
        each = tf.reduce_sum(tfd.Normal(means, self.sigma).log_prob(self._flat(y)), axis=-1)
        return tf.reduce_logsumexp(each, axis=0) - math.log(num_samples) + log_det

    def decode_grid(self, z, num_samples, seed=None):
        y = tf.einsum("bk,sdk->sbd", z, self._networks(num_samples, seed)[1]) + self.offset
        mean, variance = tf.nn.moments(tf.reshape(y, (num_samples, -1, *self.event_shape)), axes=[0])
        return mean, tf.sqrt(variance)


class StandInRun:
    """The two paths and the atomic writer of `pae_zoo.experiment.workdir.Run`."""

    def __init__(self, workdir):
        self.workdir = Path(workdir)
        self.figures = self.workdir / "figures"

    def save(self, relative, writer):
        target = self.workdir / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".writing-{target.name}")
        writer(str(temporary))
        os.replace(temporary, target)


def small_images(num, shape, seed):
    """Draws num uint8 images of blobs in one of three corners, with the corner as label."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, num)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    centres = np.array([(1, 1), (1, shape[1] - 2), (shape[0] - 2, 1)])[labels]
    distance = (rows - centres[:, :1, None]) ** 2 + (columns - centres[:, 1:, None]) ** 2
    images = np.exp(-distance / 4.0) * generator.uniform(0.6, 1.0, (num, 1, 1))
    return np.repeat((255 * images).astype(np.uint8)[..., None], shape[-1], axis=-1), labels


@pytest.fixture
def make_context(tmp_path):
    """Returns make(model class or object, event_shape=, num=, **hparams) -> Context on small data."""

    def make(model=LinearGaussian, event_shape=(8, 8, 1), num=70, model_options=None, **hparams):
        if len(event_shape) == 3:
            x, y = small_images(num, event_shape, seed=1)
        else:
            x, y = np.random.default_rng(1).normal(0.5, 0.5, (num, *event_shape)).astype(np.float32), None
        split = data.Split(x, y)
        info = data.Info("Blobs", event_shape, "[0, 1]", "made here", "test")
        dataset = data.Dataset("blobs", split, split, split, event_shape, info)
        if isinstance(model, type):
            model = model(event_shape, **(model_options or {}))
        defaults = dict(batch_size=32, jit_compile=False, importance_samples=20)
        values = record.make(**{"model": "vae", **defaults, **hparams})
        return Context(model, dataset, values, StandInRun(tmp_path), seed=3)

    return make


@pytest.fixture
def plain_autoencoder():
    return PlainAutoencoder


@pytest.fixture
def drawn_networks():
    return DrawnNetworks


@pytest.fixture
def linear_gaussian():
    return LinearGaussian


@pytest.fixture
def blobs():
    """`small_images`, for tests that need more than one split."""
    return small_images


@pytest.fixture
def feature_file(tmp_path):
    """Returns make(shape, seed=0) -> path of a feature network with random weights for images of that shape."""

    def make(shape, seed=0):
        options = dict(input_shape=shape, num_classes=3, filters=(4, 6), strides=(1, 2), num_features=5)
        model = extractor.classifier(**options, seed=seed)
        path = tmp_path / f"features_{seed}.npz"
        extractor.save(path, model.get_weights(), dict(dataset="toy", **options))
        return path

    return make
