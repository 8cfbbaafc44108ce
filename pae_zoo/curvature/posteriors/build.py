"""Gaussian posteriors over the weights of a network: their structures by name, sums of their curvatures."""

from typing import Any, Sequence, Union

import tensorflow as tf

from pae_zoo.core.errors import UserError, unknown
from pae_zoo.curvature.matrices.last_layer import FULL, OUTPUTS, SHARED, LastLayer
from pae_zoo.curvature.matrices.low_rank import Sketch
from pae_zoo.curvature.network.graph import ALL
from pae_zoo.curvature.network.layout import Layout, Source
from pae_zoo.curvature.posteriors.base import WeightPosterior
from pae_zoo.curvature.posteriors.dense import BlockPosterior, DiagPosterior, LastLayerPosterior
from pae_zoo.curvature.posteriors.kron import KronPosterior
from pae_zoo.curvature.posteriors.low_rank import LowRankPosterior

__all__ = ["BlockPosterior", "DiagPosterior", "KronPosterior", "LastLayerPosterior", "LowRankPosterior",
           "STRUCTURES", "WeightPosterior", "add", "build", "load"]

STRUCTURES: dict[str, type[WeightPosterior]] = {
    cls.structure: cls for cls in (DiagPosterior, BlockPosterior, KronPosterior, LowRankPosterior, LastLayerPosterior)}

load = WeightPosterior.load


def build(structure: str, layout: Source, curvature: Any = None, layers: Union[str, Sequence[str]] = ALL,
          **options: Any) -> WeightPosterior:
    """Returns the posterior of a structure around the weights that a network has now.

    Args:
      structure: "diag", "block", "kron", "low_rank" or "last_layer".
      layout: the network, as for `WeightPosterior`.
      curvature: the result of `ggn` with that structure, summed over the data; None: 0, so that the prior is left.
      layers: which layers the posterior is over.
      options: dtype, and of the class.

    Raises UserError for another structure, and a curvature that does not fit.

    Examples:
      >>> import keras
      >>> network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
      >>> posterior = build("diag", network, tf.constant([10.0, 20.0, 2.0]))
      >>> posterior.assign_scales(prior_precision=1.0, noise_variance=1.0)
      >>> print(posterior.variance_diag().numpy().round(3))  # 1 / (G + 1)
      [0.091 0.048 0.333]
      >>> posterior.sample(5, seed=(0, 1)).shape
      TensorShape([5, 3])
    """
    if structure not in STRUCTURES:
        raise unknown("structure", structure, STRUCTURES)
    if isinstance(curvature, Sketch):
        options.setdefault("rank", curvature.image.shape[1])
    if isinstance(curvature, LastLayer):
        options.setdefault("form", _form(curvature, Layout.of(layout, "last")))
    if structure != LastLayerPosterior.structure:
        options["layers"] = layers
    posterior = STRUCTURES[structure](layout, **options)
    if curvature is not None:
        posterior.assign_curvature(curvature)
    return posterior


def add(one: Any, other: Any, weight: float = 1.0, other_weight: float = 1.0) -> Any:
    """Returns weight * one + other_weight * other for results of `ggn` of one structure, as over two batches.

    Raises UserError for sketches of different seeds.
    """
    if isinstance(one, Sketch):
        if tf.executing_eagerly() and not bool(tf.reduce_all(one.seed == other.seed)):
            raise UserError("Sketches add up if they have the same seed; received "
                            f"{one.seed.numpy().tolist()} and {other.seed.numpy().tolist()}.")
        diagonal = None
        if one.diagonal is not None and other.diagonal is not None:
            diagonal = weight * one.diagonal + other_weight * other.diagonal
        return Sketch(weight * one.image + other_weight * other.image, one.seed, diagonal)
    return tf.nest.map_structure(lambda a, b: weight * a + other_weight * b, one, other)


def _form(curvature: LastLayer, layout: Layout) -> str:
    count, size, _ = curvature.matrices.shape
    return FULL if size == layout.chosen[0].size else OUTPUTS if count > 1 else SHARED
