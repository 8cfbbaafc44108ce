"""Normalizing flows: invertible Keras layers, and `Flow`, a density over rows that trains like any Keras model."""

from pae_zoo.flows.autoregressive import InverseAutoregressive, MaskedAutoregressive, MaskedSpline
from pae_zoo.flows.base import FlowLayer
from pae_zoo.flows.bijector import FlowBijector
from pae_zoo.flows.builder import LAYERS, PRESETS, SETTINGS, build, layer_types
from pae_zoo.flows.conditioners import MADE, Conditioner
from pae_zoo.flows.coupling import AdditiveCoupling, AffineCoupling, Coupling, SplineCoupling
from pae_zoo.flows.elementwise import rational_quadratic
from pae_zoo.flows.flow import Flow
from pae_zoo.flows.linear import LU, ActNorm, Householder, Permutation, Reverse, Swap, Whitening, householder

__all__ = [
    "LAYERS",
    "LU",
    "MADE",
    "PRESETS",
    "SETTINGS",
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "Conditioner",
    "Coupling",
    "Flow",
    "FlowBijector",
    "FlowLayer",
    "Householder",
    "InverseAutoregressive",
    "MaskedAutoregressive",
    "MaskedSpline",
    "Permutation",
    "Reverse",
    "SplineCoupling",
    "Swap",
    "Whitening",
    "build",
    "householder",
    "layer_types",
    "rational_quadratic",
]
