"""Posterior of a base variable u given a partly seen, noisy datum: maxima, Hessians, Laplace, mixture, NUTS.

Takes callables and imports no model: `Problem` says what is known, `find_modes` climbs, `laplace` and `mixture`
approximate, `nuts.sample` draws.
"""

from pae_zoo.inference.laplace import Laplace, Mixture, information_gain, laplace, mixture, resample
from pae_zoo.inference.nuts import Chains, Sampler, sample
from pae_zoo.inference.observation import Bernoulli, Gaussian
from pae_zoo.inference.problem import Problem
from pae_zoo.inference.search import Runs, Schedule, find_modes

__all__ = [
    "Bernoulli", "Chains", "Gaussian", "Laplace", "Mixture", "Problem", "Runs", "Sampler", "Schedule", "find_modes",
    "information_gain", "laplace", "mixture", "resample", "sample",
]  # fmt: skip
