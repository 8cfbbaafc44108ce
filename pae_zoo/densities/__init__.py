"""Densities of rows of numbers by one name: mixtures by EM, flows, both, or flow matching.

    density = densities.fit(codes, "mixture_flow")
    density.log_prob(codes), density.sample(100), density.save("density.keras")
"""

from pae_zoo.densities.builder import NAMES, WITH_LAYERS, WITH_MIXTURE, make, parameters_of
from pae_zoo.densities.ensemble import Ensemble
from pae_zoo.densities.factor_em import FactorParameters
from pae_zoo.densities.factor_mixture import FactorMixture
from pae_zoo.densities.flow_matching import FlowMatching, Velocity
from pae_zoo.densities.mixture import Mixture, MixtureDistribution
from pae_zoo.densities.parameters import Parameters
from pae_zoo.densities.training import LAYERS_FROM, Settings, fit, least_rows, train

__all__ = [
    "LAYERS_FROM",
    "NAMES",
    "WITH_LAYERS",
    "WITH_MIXTURE",
    "Ensemble",
    "FactorMixture",
    "FactorParameters",
    "FlowMatching",
    "Mixture",
    "MixtureDistribution",
    "Parameters",
    "Settings",
    "Velocity",
    "fit",
    "least_rows",
    "make",
    "parameters_of",
    "train",
]
