"""Normalizing flows: invertible Keras layers, and `Flow`, a density over rows that trains like any Keras model."""

from pae_zoo.flows.autoregressive import IAF, MAF
from pae_zoo.flows.base import FlowLayer
from pae_zoo.flows.bijector import FlowBijector
from pae_zoo.flows.builder import LAYERS, PRESETS, build, layer_types
from pae_zoo.flows.conditioners import MADE, Conditioner
from pae_zoo.flows.coupling import Additive, Affine, Coupling, Spline
from pae_zoo.flows.elementwise import rational_quadratic
from pae_zoo.flows.flow import Flow
from pae_zoo.flows.linear import LU, ActNorm, Householder, Permutation, Reverse, Swap, Whitening, householder

__all__ = [
    "IAF", "LAYERS", "LU", "MADE", "MAF", "PRESETS", "ActNorm", "Additive", "Affine", "Conditioner", "Coupling", "Flow",
    "FlowBijector", "FlowLayer", "Householder", "Permutation", "Reverse", "Spline", "Swap", "Whitening", "build",
    "householder", "layer_types", "rational_quadratic",
]
