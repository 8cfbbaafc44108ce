"""Local Gaussian approximations of p(z|y) from a linearised decoder: the machinery of the Laplace autoencoder.

Takes any Keras decoder and an observation model of `pae_zoo.likelihoods`; knows no model of the zoo.
"""

from pae_zoo.laplace.general import FunctionSystem, WithPrior
from pae_zoo.laplace.jacobians import BACKENDS, check_differentiable, choose, linearise
from pae_zoo.laplace.search import SCHEDULES, SOLVERS, Found, Search, run
from pae_zoo.laplace.systems import ExplicitSystem, GramSystem, LastLayer, Local, QuadraticLikelihood, System

__all__ = [
    "BACKENDS", "ExplicitSystem", "Found", "FunctionSystem", "GramSystem", "LastLayer", "Local", "QuadraticLikelihood",
    "SCHEDULES", "SOLVERS", "Search", "System", "WithPrior", "check_differentiable", "choose", "linearise", "run",
]  # fmt: skip
