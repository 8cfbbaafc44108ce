"""Hessians of -log p(y|g) by a network's output g, or their expectations, in the forms that the curvature needs."""

import math
from typing import Optional, Union

import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.network import pieces
from pae_zoo.likelihoods import Likelihood


class OutputHessian:
    """Base: a Hessian H (n, n) for each datum, whose values n are those of an output in row-major order.

    A subclass with a diagonal H defines `diagonal`; any other defines `probe`, `root_rows` and `apply`.
    """

    #: for messages
    name = ""
    #: whether H is one and the same multiple of the identity for all data
    is_shared = False
    #: whether H has no other values than those on its diagonal
    is_diagonal = True

    def check(self, output: tf.Tensor) -> None:
        """Raises UserError where an output (B, *event) cannot be one of this likelihood."""

    def diagonal(self, output: tf.Tensor) -> Optional[tf.Tensor]:
        """Returns the diagonal (B, *event) of H, or None where H has other values too."""
        raise NotImplementedError(f"{type(self).__name__} defines no Hessian.")

    def probe(self, output: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Returns root^T noise for noise (R, B, *event): of covariance H where that of the noise is the identity."""
        return noise * tf.sqrt(self._known_diagonal(output))[None]

    def root_rows(self, output: tf.Tensor, start: tf.Tensor, num: int) -> tf.Tensor:
        """Returns rows start, ..., start + num - 1 (num, B, *event) of a root R of H = R^T R; zeros beyond its last.

        R has as many rows as an output has values.
        """
        return self.probe(output, unit_rows(output, start, num))

    def apply(self, output: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        """Returns H v for v (R, B, *event)."""
        return v * self._known_diagonal(output)[None]

    def _known_diagonal(self, output: tf.Tensor) -> tf.Tensor:
        found = self.diagonal(output)
        if found is None:
            raise NotImplementedError(f"{type(self).__name__} has a Hessian that is not diagonal, and defines no root.")
        return found


class Gaussian(OutputHessian):
    """H = I: a Gaussian of unit variance."""

    name = "gaussian"
    is_shared = True

    def diagonal(self, output: tf.Tensor) -> Optional[tf.Tensor]:
        return tf.ones_like(output)

    def probe(self, output: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        return noise

    def root_rows(self, output: tf.Tensor, start: tf.Tensor, num: int) -> tf.Tensor:
        return tf.broadcast_to(
            unit_rows(output, start, num), (num, pieces.size(output, 0), *output.shape[1:]))

    def apply(self, output: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        return v


class Bernoulli(OutputHessian):
    """H = diag(p (1 - p)), p = sigmoid(g): independent binary values from logits."""

    name = "bernoulli"

    def diagonal(self, output: tf.Tensor) -> Optional[tf.Tensor]:
        return tf.sigmoid(output) * tf.sigmoid(-output)


class Categorical(OutputHessian):
    """H = diag(p) - p p^T, p = softmax(g) along the last axis: one class for each position from logits."""

    name = "categorical"
    is_diagonal = False

    def check(self, output: tf.Tensor) -> None:
        if output.shape[-1] < 2:
            raise UserError("likelihood='categorical' takes logits of two or more classes along the last axis; the "
                            f"network gives outputs of shape {tuple(output.shape[1:])}. Take 'bernoulli'.")

    def diagonal(self, output: tf.Tensor) -> Optional[tf.Tensor]:
        return None

    def probe(self, output: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        # root^T noise = sum_k noise_k sqrt(p_k) (e_k - p).
        p = tf.nn.softmax(output, axis=-1)
        weighted = noise * tf.sqrt(p)[None]
        return weighted - p[None] * tf.reduce_sum(weighted, axis=-1, keepdims=True)

    def apply(self, output: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        p = tf.nn.softmax(output, axis=-1)[None]
        return p * (v - tf.reduce_sum(p * v, axis=-1, keepdims=True))


class FromLikelihood(OutputHessian):
    """The Fisher information of an observation model of the zoo."""

    def __init__(self, likelihood: Likelihood):
        self.likelihood = likelihood
        self.name = type(likelihood).__name__
        self.is_diagonal = likelihood.has_diagonal_fisher
        self.is_shared = likelihood.has_shared_precision and likelihood.shared_precision().shape.rank == 0

    def check(self, output: tf.Tensor) -> None:
        event = (*self.likelihood.event_shape[:-1],
                 self.likelihood.event_shape[-1] * self.likelihood.channels_factor)
        if tuple(output.shape[1:]) != event:
            raise UserError(f"The likelihood {self.name} takes outputs of shape {event}; the network gives "
                            f"{tuple(output.shape[1:])}. Build it with the event_shape of one datum.")

    def diagonal(self, output: tf.Tensor) -> Optional[tf.Tensor]:
        if not self.is_diagonal:
            return None
        data = tf.zeros((pieces.size(output, 0), *self.likelihood.event_shape), output.dtype)
        return tf.cast(self.likelihood.score_and_fisher(output, data)[1], output.dtype)

    def probe(self, output: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        return super().probe(output, noise) if self.is_diagonal else self.likelihood.fisher_root(output, noise)

    def apply(self, output: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        return super().apply(output, v) if self.is_diagonal else self.likelihood.fisher_product(output, v)


_NAMED = {hessian.name: hessian for hessian in (Gaussian, Bernoulli, Categorical)}


def resolve(likelihood: Union[str, Likelihood, OutputHessian]) -> OutputHessian:
    """Returns the Hessian of a likelihood, by name or as a layer of `pae_zoo.likelihoods`; raises UserError.

    The name "gaussian" is that of unit variance, a layer brings its own.
    """
    if isinstance(likelihood, Likelihood):
        return FromLikelihood(likelihood)
    if isinstance(likelihood, str) and likelihood in _NAMED:
        return _NAMED[likelihood]()
    if isinstance(likelihood, OutputHessian):
        return likelihood
    raise UserError(f"likelihood={likelihood!r} has no Hessian here; allowed: {', '.join(_NAMED)}, a layer of "
                    "pae_zoo.likelihoods, or a curvature.OutputHessian.")


def unit_rows(output: tf.Tensor, start: tf.Tensor, num: int) -> tf.Tensor:
    """Returns unit vectors number start, ... of an event, (num, 1, *event); zeros beyond the last."""
    event = output.shape[1:].as_list()
    rows = tf.one_hot(start + tf.range(num), math.prod(event), dtype=output.dtype)
    return tf.reshape(rows, (num, 1, *event))
