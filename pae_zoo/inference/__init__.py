"""Posterior of a base variable u given a partly seen, noisy datum: maxima, Hessians, Laplace, mixture, NUTS.

Takes callables and imports no model: `Problem` says what is known (`Incomplete` makes one of an autoencoder that it is
given), `find_modes` climbs, `laplace` and `mixture` approximate, `move` corrects their draws, `nuts.sample` draws.
"""

from pae_zoo.inference.incomplete import Incomplete, best
from pae_zoo.inference.laplace import Laplace, Mixture, information_gain, laplace, mixture, resample
from pae_zoo.inference.moves import Moved, Moves, move
from pae_zoo.inference.nuts import Chains, Sampler, sample
from pae_zoo.inference.observation import Averaged, Bernoulli, Gaussian, observed
from pae_zoo.inference.problem import Problem
from pae_zoo.inference.search import Runs, Schedule, find_modes

__all__ = [
    "Averaged", "Bernoulli", "Chains", "Gaussian", "Incomplete", "Laplace", "Mixture", "Moved", "Moves", "Problem",
    "Runs", "Sampler", "Schedule", "best", "find_modes", "information_gain", "laplace", "mixture", "move", "observed",
    "resample", "sample",
]  # fmt: skip
