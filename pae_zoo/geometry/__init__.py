"""Latent spaces as Riemannian manifolds: metrics of decoders, curves, energies, geodesics. Knows no model."""

from pae_zoo.geometry.curves import CubicSpline, Curves, Polyline, fit, straight
from pae_zoo.geometry.energies import energy
from pae_zoo.geometry.lengths import Lengths, lengths, published_length
from pae_zoo.geometry.manifold import (
    Deterministic,
    Embedded,
    Ensemble,
    Manifold,
    MeanAlone,
    MeanAndStd,
    MetricField,
    Segments,
    as_manifold,
    conformal,
    local_variance,
)
from pae_zoo.geometry.metrics import Fields, indicatrices, log_volume
from pae_zoo.geometry.solver import Geodesics, Settings, Solver, solve_geodesics

__all__ = [
    "CubicSpline",
    "Curves",
    "Deterministic",
    "Embedded",
    "Ensemble",
    "Fields",
    "Geodesics",
    "Lengths",
    "Manifold",
    "MeanAlone",
    "MeanAndStd",
    "MetricField",
    "Polyline",
    "Segments",
    "Settings",
    "Solver",
    "as_manifold",
    "conformal",
    "energy",
    "fit",
    "indicatrices",
    "lengths",
    "local_variance",
    "log_volume",
    "published_length",
    "solve_geodesics",
    "straight",
]
