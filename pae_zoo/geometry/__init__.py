"""Latent spaces as Riemannian manifolds: metrics of decoders, curves, energies, geodesics. Knows no model."""

from pae_zoo.geometry.curves import CubicSpline, Curves, Polyline, fit, straight
from pae_zoo.geometry.distances import Distances, medoid, pairwise_distances
from pae_zoo.geometry.energies import energy
from pae_zoo.geometry.frechet import FrechetMean, frechet_mean
from pae_zoo.geometry.gaussian_process import GaussianProcess
from pae_zoo.geometry.graphs import GridGraph, KNNGraph
from pae_zoo.geometry.lengths import Lengths, lengths, published_length
from pae_zoo.geometry.manifold import (
    Deterministic,
    Embedded,
    Ensemble,
    Manifold,
    MeanAlone,
    MeanAndStd,
    Segments,
    as_manifold,
)
from pae_zoo.geometry.maps import ExponentialMap, connect, expmap, logmap, squared_distance
from pae_zoo.geometry.metric_fields import MetricField, conformal, local_variance
from pae_zoo.geometry.metrics import Fields, indicatrices, log_volume
from pae_zoo.geometry.solver import Geodesics, Settings, Solver, solve_geodesics

__all__ = [
    "CubicSpline",
    "Curves",
    "Deterministic",
    "Distances",
    "Embedded",
    "Ensemble",
    "ExponentialMap",
    "Fields",
    "FrechetMean",
    "GaussianProcess",
    "Geodesics",
    "GridGraph",
    "KNNGraph",
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
    "connect",
    "energy",
    "expmap",
    "fit",
    "frechet_mean",
    "indicatrices",
    "lengths",
    "local_variance",
    "log_volume",
    "logmap",
    "medoid",
    "pairwise_distances",
    "published_length",
    "solve_geodesics",
    "squared_distance",
    "straight",
]
