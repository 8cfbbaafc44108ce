"""Energies of curves in closed form: what a geodesic minimises."""

from typing import NamedTuple, Optional

import tensorflow as tf

from pae_zoo.core.errors import UserError, unknown
from pae_zoo.geometry.manifold import Segments

# The number of points that the published energy is computed on, which is what it depends on.
PUBLISHED_POINTS = 256


class Weights(NamedTuple):
    """An energy as sum_k [mean * |dmu_k|^2 + spread * (E|df_k|^2 - |dmu_k|^2)] + sum_k point_k * tr Cov f(z_k)."""

    mean: float
    spread: float
    point: float


def weights(
    kind: str, num_points: int, reference_points: Optional[int] = PUBLISHED_POINTS, correlation: float = 0.0
) -> Weights:
    """Returns the weights of an energy on T = `num_points` points, n = T - 1.

    kind:
      "mean": n sum_k |dmu_k|^2, the pull-back of the mean decoder (of the decoder itself where it is certain).
      "coupled": n sum_k E|df_k|^2, the energy of the expected metric (Tosi et al., arXiv 1411.7432).
      "decorrelated": n sum_k |dmu_k|^2 + R^2/n sum_k (v_k + v_{k+1}), v = tr Cov f: neighbouring points are drawn apart
        (Syrota et al., arXiv 2408.07507, eq. 20). The published form has R = n and so depends on the number of
        points; R = `reference_points` fixes it, None gives the published form.
      "interpolated": between the last two: `correlation` 1 is coupled, 0 decorrelated.

    Raises UserError for another kind.
    """
    pieces = num_points - 1
    if kind == "mean":
        return Weights(pieces, 0.0, 0.0)
    if kind == "coupled":
        return Weights(pieces, pieces, 0.0)
    if kind not in ("decorrelated", "interpolated"):
        raise unknown("energy", kind, ("mean", "coupled", "decorrelated", "interpolated", "sampled (of a solver)"))
    if not 0.0 <= correlation <= 1.0:
        raise UserError(f"correlation={correlation} is out of range; allowed: 0 to 1.")
    kept = correlation if kind == "interpolated" else 0.0
    reference = pieces if reference_points is None else reference_points
    return Weights(pieces, kept * pieces, (1.0 - kept) * reference**2 / pieces)


def energy(
    segments: Segments, kind: str, reference_points: Optional[int] = PUBLISHED_POINTS, correlation: float = 0.0
) -> tf.Tensor:
    """Returns the energy of curves from their segments, shape (...); see `weights`.

    On T points, energy >= length^2 of the same points holds for "mean" and "coupled" (Cauchy and Schwarz).
    """
    return weighted(segments, weights(kind, int(segments.variance.shape[-1]), reference_points, correlation))


def weighted(segments: Segments, by: Weights, base: Optional[tf.Tensor] = None) -> tf.Tensor:
    """Returns the energy (...) of segments with the given weights, less that of a variance `base` (...) everywhere."""
    found = by.mean * tf.reduce_sum(segments.mean, axis=-1)
    if by.spread:
        found += by.spread * tf.reduce_sum(segments.expected - segments.mean, axis=-1)
    if by.point:
        variance = segments.variance if base is None else segments.variance - base[..., None]
        found += by.point * tf.reduce_sum(variance[..., 1:] + variance[..., :-1], axis=-1)
    return found


def movable(segments: Segments, by: Weights) -> tf.Tensor:
    """Returns what is left of the energy (...) without the least variance of the curve: what its shape decides.

    The decorrelated energy of a decoder with a large std that hardly varies is nearly all constant, and a fall of it
    says how far the search is only beside this part.
    """
    return weighted(segments, by, tf.reduce_min(segments.variance, axis=-1) if by.point else None)
