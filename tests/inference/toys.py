"""A toy decoder of two latents, linear or not, whose posterior is found by one compiled program for all tests."""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from pae_zoo import inference

SIZE, VALUES, CASES = 2, 12, 240
SIGMA, NOISE = 0.4, 0.3


def log_prior(u):
    """log N(u; 0, I)."""
    return -0.5 * tf.reduce_sum(u**2, axis=-1) - 0.5 * u.shape[-1] * math.log(2 * math.pi)


class Toy:
    """y = W u + Q tanh(V u) + noise, with half of the values of every case hidden; Q = 0 is linear-Gaussian."""

    def __init__(self, curvature, seed=0):
        generator = np.random.default_rng(seed)
        self.weight = generator.normal(size=(VALUES, SIZE)) * 0.5
        self.inner = generator.normal(size=(SIZE, SIZE)) * 1.5
        self.outer = curvature * generator.normal(size=(VALUES, SIZE))
        self.truth = generator.normal(size=(CASES, SIZE))
        mean = self.truth @ self.weight.T + np.tanh(self.truth @ self.inner.T) @ self.outer.T
        self.y = mean + math.hypot(SIGMA, NOISE) * generator.normal(size=mean.shape)
        self.seen = generator.random((CASES, VALUES)).argsort(axis=1) < VALUES // 2

    @property
    def arrays(self):
        return [tf.constant(a, tf.float64) for a in (self.y, self.weight, self.inner, self.outer)] + [self.seen]

    def problem(self):
        return make_problem(*self.arrays)

    def exact(self, case):
        """Returns (mean, precision, log evidence) of a linear case, in closed form."""
        seen, variance = self.seen[case], SIGMA**2 + NOISE**2
        weight, y = self.weight[seen], self.y[case, seen]
        precision = np.eye(SIZE) + weight.T @ weight / variance
        marginal = weight @ weight.T + variance * np.eye(len(y))
        square = y @ np.linalg.solve(marginal, y)
        evidence = -0.5 * (square + np.linalg.slogdet(marginal)[1] + len(y) * math.log(2 * math.pi))
        return np.linalg.solve(precision, weight.T @ y / variance), precision, evidence


class Found(NamedTuple):
    """What the program returns, as numpy arrays."""

    runs: inference.Runs
    hessian: np.ndarray
    gauss_newton: np.ndarray
    mixture: inference.Mixture
    evidence: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    draws: np.ndarray
    chains: inference.Chains


def make_problem(y, weight, inner, outer, seen):
    def decode(u):
        return tf.matmul(u, weight, transpose_b=True) + tf.matmul(
            tf.tanh(tf.matmul(u, inner, transpose_b=True)), outer, transpose_b=True)

    observation = inference.Gaussian(tf.identity, lambda g: tf.fill(tf.shape(g), tf.constant(SIGMA**2, g.dtype)), NOISE)
    return inference.Problem(log_prior, decode, observation, y, seen)


def solve(y, weight, inner, outer, seen, starts):
    problem = make_problem(y, weight, inner, outer, seen)
    runs = inference.find_modes(problem, starts)
    hessian = problem.hessian(runs.u)
    mixture = inference.mixture(inference.laplace(runs.u, runs.log_joint, hessian))
    mean, covariance = mixture.moments()
    best, factor, settings = mixture.modes.mean[0], mixture.modes.factor[0], inference.Sampler(draws=200, burn_in=100)
    chains = inference.sample(problem, mixture.sample(4, (3, 1)), best, factor, (3, 2), settings)
    return Found(runs, hessian, problem.gauss_newton(runs.u), mixture, mixture.evidence, mean, covariance,
                 mixture.sample(1000, (3, 3)), chains)
