"""Curvature of a network's likelihood in its weights: Gauss-Newton matrices, their approximations, and posteriors."""

from pae_zoo.curvature.callback import LaplaceCallback
from pae_zoo.curvature.matrices.gauss_newton import METHODS, STRUCTURES, ggn, ggn_fn
from pae_zoo.curvature.matrices.hessians import OutputHessian
from pae_zoo.curvature.network.graph import Graph, flatten, read
from pae_zoo.curvature.posteriors.build import (
    BlockPosterior,
    DiagPosterior,
    KronPosterior,
    LastLayerPosterior,
    LowRankPosterior,
    WeightPosterior,
    build,
)
from pae_zoo.curvature.predictive.density import joint as joint_density
from pae_zoo.curvature.predictive.linearised import predict
from pae_zoo.curvature.predictive.linearised import variance as output_variance
from pae_zoo.curvature.predictive.link import Predictive
from pae_zoo.curvature.predictive.monte_carlo import sample_outputs
from pae_zoo.curvature.rules import (
    columns,  # noqa: F401
    elementwise,  # noqa: F401
    linear,  # noqa: F401
    shape,  # noqa: F401
)
from pae_zoo.curvature.rules.registry import Rule, register_rule

__all__ = [
    "METHODS", "STRUCTURES", "BlockPosterior", "DiagPosterior", "Graph", "KronPosterior", "LaplaceCallback",
    "LastLayerPosterior", "LowRankPosterior", "OutputHessian", "Predictive", "Rule", "WeightPosterior", "build",
    "flatten", "ggn", "ggn_fn", "joint_density", "output_variance", "predict", "read", "register_rule",
    "sample_outputs",
]  # fmt: skip
