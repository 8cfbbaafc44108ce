"""The Gaussian that a linearised decoder makes of p(z|y): its precision, its gradient, products with either.

With g(z) the decoder's output, J = dg/dz, s = d log p(y|g)/dg and R the Fisher information of g,

    Lambda = I + J^T R J,    gradient of log p(y, z) = J^T s - z

Lambda is the exact negative Hessian for a piecewise linear decoder and a likelihood whose natural parameter is g, and
the Gauss-Newton matrix otherwise; all its eigenvalues are 1 or more. Park et al., ICML 2019, eq. 10-13.
"""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from pae_zoo.core.forward_mode import jvp
from pae_zoo.laplace import algebra, jacobians
from pae_zoo.laplace import chain as chains


class Local(NamedTuple):
    """A system at points mu: `gram` = J^T R J (batch, K, K), `gradient` of log p(y, z) by z (batch, K)."""

    gram: tf.Tensor
    gradient: tf.Tensor


class System:
    """What the search for the mode of p(z|y) and its Gaussian need, for data y (batch, *event).

    Args:
      decoder: built Keras model (batch, K) -> (batch, *event), linearised at inference.
      likelihood: a `pae_zoo.likelihoods.Likelihood`.
      y: the data.
      scale: observation std that overrides the likelihood's, or None.
    """

    def __init__(self, decoder: keras.Model, likelihood: Any, y: tf.Tensor, scale=None):
        self.decoder, self.likelihood, self.y, self.scale = decoder, likelihood, y, scale

    def at(self, mu: tf.Tensor) -> Local:
        """Returns J^T R J and the gradient of log p(y, z) at mu (batch, K)."""
        raise NotImplementedError(f"{type(self).__name__} forms no precision.")

    def products(self, mu: tf.Tensor) -> tuple[algebra.Product, tf.Tensor]:
        """Returns v -> (I + J^T R J) v for v (..., batch, K) at mu, and the gradient of log p(y, z) there."""
        raise NotImplementedError(f"{type(self).__name__} has no products.")

    def log_joint(self, mu: tf.Tensor) -> tf.Tensor:
        """Returns log p(y|mu) - |mu|^2 / 2 in nats up to a constant, for mu (..., batch, K): shape (..., batch)."""
        flat = tf.reshape(mu, (-1, mu.shape[-1]))
        outputs = self.decoder(flat, training=False)
        outputs = outputs if outputs.dtype == tf.float64 else tf.cast(outputs, tf.float32)
        outputs = tf.reshape(outputs, (*chains.leading(mu), *outputs.shape[1:]))
        log_prob = self.likelihood.log_prob(outputs, self.y, scale=self.scale)
        return log_prob - 0.5 * tf.reduce_sum(tf.square(mu), axis=-1)

    def gain(self, mu: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
        """Returns log p(y, z) at points (n, batch, K) less that at mu (batch, K), nats, (n, batch)."""
        values = self.log_joint(tf.concat([mu[None], points], axis=0))
        return values[1:] - values[0]

    def _score_and_fisher(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns s and the diagonal of R for flattened outputs (batch, n), both (batch, n)."""
        *event, channels = self.likelihood.event_shape
        shaped = tf.reshape(outputs, (-1, *event, channels * self.likelihood.channels_factor))
        score, fisher = self.likelihood.score_and_fisher(shaped, self.y, scale=self.scale)
        return tf.reshape(score, tf.shape(outputs)), tf.reshape(fisher, tf.shape(outputs))


class ExplicitSystem(System):
    """The system from the whole Jacobian (batch, K, n) of any decoder.

    Args beyond `System`:
      backend: as in `linearise`.
      floor: added to the diagonal of R.
    """

    def __init__(self, decoder, likelihood, y, scale=None, backend: str = "auto", floor: float = 0.0):
        super().__init__(decoder, likelihood, y, scale)
        self.backend, self.floor = jacobians.choose(decoder, backend), floor

    def _score_and_fisher(self, outputs):
        score, fisher = super()._score_and_fisher(outputs)
        return score, fisher + self.floor

    def at(self, mu: tf.Tensor) -> Local:
        outputs, rows = jacobians.linearise(self.decoder, mu, self.backend)
        score, fisher = self._score_and_fisher(outputs)
        return Local(algebra.weighted_gram(rows, fisher), tf.linalg.matvec(rows, score) - mu)

    def products(self, mu: tf.Tensor) -> tuple[algebra.Product, tf.Tensor]:
        if self.backend == "layerwise":
            chain = chains.read(self.decoder)
            local = chain.at(mu)
            score, fisher = self._score_and_fisher(local.value)

            def product(v):
                return v + chain.backward(local, fisher * chain.forward(local, v))

            return product, chain.backward(local, score) - mu
        return self._products_by_tapes(mu)

    def _products_by_tapes(self, mu):
        def outputs(points):
            value = self.decoder(points, training=False)
            value = value if value.dtype == tf.float64 else tf.cast(value, tf.float32)
            return tf.reshape(value, (tf.shape(points)[0], -1))

        def backward(points, cotangents):
            with tf.GradientTape() as tape:
                tape.watch(points)
                value = tf.reduce_sum(outputs(points) * cotangents)
            return tape.gradient(value, points)

        score, fisher = self._score_and_fisher(outputs(mu))

        def product(v):
            copies = tf.size(v) // tf.size(mu)
            points, weights = (tf.tile(x, (copies, 1)) for x in (mu, fisher))
            flat = tf.reshape(v, (-1, v.shape[-1]))
            mapped = backward(points, weights * jvp(outputs, points, flat)[1])
            return v + tf.reshape(mapped, tf.shape(v))

        return product, backward(mu, score) - mu


def _split(decoder: keras.Model) -> tuple[chains.Chain, chains.Dense]:
    """Returns the decoder before its last layer, and that layer; raises ValueError where it is not dense."""
    hidden, last = chains.read(decoder).split_last()
    if last is None:
        raise ValueError(f"{decoder.name} does not end in a dense layer.")
    return hidden, last


class LastLayer:
    """The last dense layer of a decoder under a Gaussian whose variance all data share: y ~ N(W h + b, diag(p)^-1).

    h is the layer's input, `hidden` the decoder before it, p the precision of the data; `weighted` is W^T diag(p) and
    `metric` G = W^T diag(p) W.
    """

    def __init__(self, decoder: keras.Model, likelihood: Any, dtype: tf.DType, scale=None):
        self.hidden, last = _split(decoder)
        precision = likelihood.shared_precision(dtype, scale)
        self.kernel = tf.cast(last.kernel, dtype)
        self.bias = 0.0 if last.bias is None else tf.cast(last.bias, dtype)
        self.weighted = self.kernel * (precision if precision.shape.rank == 0 else tf.reshape(precision, (1, -1)))
        self.metric = tf.matmul(self.weighted, self.kernel, transpose_b=True)

    @staticmethod
    def fits(decoder: keras.Model, likelihood: Any) -> bool:
        """Whether the decoder is a chain that ends in a dense layer and the data share their variance."""
        if not likelihood.has_shared_precision or not chains.is_chain(decoder):
            return False
        return chains.read(decoder).split_last()[1] is not None

    @staticmethod
    def narrows(decoder: keras.Model) -> bool:
        """Whether the layer's input is narrower than its output, so that G is smaller than W."""
        kernel = _split(decoder)[1].kernel
        return kernel.shape[0] < kernel.shape[1]

    def pull(self, y: tf.Tensor, h: Any = None) -> tf.Tensor:
        """Returns W^T diag(p) (y - b - W h) for y (batch, *event) and h (batch, H), None for 0; shape (batch, H)."""
        residual = tf.reshape(y, (-1, self.kernel.shape[-1])) - self.bias
        if h is not None:
            residual -= tf.matmul(h, self.kernel)
        return tf.matmul(residual, self.weighted, transpose_b=True)


class QuadraticLikelihood:
    """log p(y|z) for many z of each datum without decoding: exact, where `LastLayer.fits`.

        log p(y|z) = log p(y|c) + (W^T diag(p) r) d - d^T G d / 2,    d = h(z) - h(c),    r = y - g(c)

    in which the centre c of the draws keeps the terms small, so that no digits are lost. Costs 2H^2 operations for a z
    after the hidden layers instead of 2HD, and nothing of the size of the data.
    """

    def __init__(self, decoder: keras.Model, likelihood: Any, y: tf.Tensor, centre: tf.Tensor):
        self.layer = LastLayer(decoder, likelihood, y.dtype)
        self.h = self.layer.hidden(centre)
        self.pull = self.layer.pull(y, self.h)
        outputs = tf.reshape(tf.matmul(self.h, self.layer.kernel) + self.layer.bias, tf.shape(y))
        self.log_prob = likelihood.log_prob(outputs, y)

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        """Returns log p(y|z) in nats for z (..., batch, K), shape (..., batch)."""
        rise = self.layer.hidden(z) - self.h
        metric = chains.Dense(self.layer.metric, None, self.layer.metric.dtype.name)
        return self.log_prob + tf.reduce_sum(rise * (self.pull - 0.5 * metric(rise)), axis=-1)


class GramSystem(System):
    """The system of a decoder that ends in a dense layer, under a Gaussian whose variance all data share.

    With J = W A, W the last layer's kernel, and precision b of the data, G = W^T diag(b) W is formed once for all
    data and updates:

        J^T R J = A^T G A,    J^T s = A^T (c - G a),    c = W^T diag(b) (y - bias),    a = the last hidden layer

    so that neither a tensor (batch, K, n) nor any decoded datum is ever made. Exact.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        layer = LastLayer(self.decoder, self.likelihood, self.y.dtype, self.scale)
        self.hidden, self.metric, self.pull = layer.hidden, layer.metric, layer.pull(self.y)

    def at(self, mu: tf.Tensor) -> Local:
        local = self.hidden.at(mu)
        rows = self.hidden.jacobian(local)
        slack = self.pull - tf.matmul(local.value, self.metric)
        return Local(algebra.shared_gram(rows, self.metric), tf.linalg.matvec(rows, slack) - mu)

    def gain(self, mu: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
        # In the layer before the last nothing of the size of a datum is made, and no large numbers are subtracted.
        start = self.hidden(mu)
        rise = self.hidden(points) - start
        metric = chains.Dense(self.metric, None, self.metric.dtype.name)
        slack = self.pull - metric(start)
        prior = 0.5 * tf.reduce_sum((points - mu) * (points + mu), axis=-1)
        return tf.reduce_sum(rise * (slack - 0.5 * metric(rise)), axis=-1) - prior

    def products(self, mu: tf.Tensor) -> tuple[algebra.Product, tf.Tensor]:
        local = self.hidden.at(mu)
        slack = self.pull - tf.matmul(local.value, self.metric)
        last = chains.Dense(self.metric, None, self.metric.dtype.name)

        def product(v):
            return v + self.hidden.backward(local, last.linear(self.hidden.forward(local, v)))

        return product, self.hidden.backward(local, slack) - mu
