"""Lengths of curves: the mean's, a member's on average, and the one under the expected metric."""

from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.geometry.batching import RowMap
from pae_zoo.geometry.curves import Curves
from pae_zoo.geometry.manifold import Ensemble, Manifold

NUM_POINTS = 256
# Points of the published length, which grows in proportion to them.
PUBLISHED_LENGTH_POINTS = 4096


class Lengths:
    """Lengths of curves on one manifold, compiled once.

    Args:
      manifold: where the curves run.
      num_points: N, points per curve.
      memory_mib, jit_compile: as `batching.RowMap`.
    """

    def __init__(self, manifold: Manifold, num_points: int = NUM_POINTS, memory_mib: float = 256,
                 jit_compile: bool = True):  # fmt: skip
        if num_points < 2:
            raise UserError(f"A length takes at least 2 points; received {num_points}.")
        self.manifold, self.num_points = manifold, int(num_points)
        row = manifold.size * num_points * manifold.dtype.size
        self._lengths = RowMap(self.of_points, 3 * row, memory_mib, jit_compile)
        self._steps = RowMap(self._local, 3 * row, memory_mib, jit_compile)

    @property
    def names(self) -> tuple[str, ...]:
        """The lengths that this manifold has."""
        return ("mean", "expected", "rms") if isinstance(self.manifold, Ensemble) else ("mean", "rms")

    def __call__(self, curves: Curves) -> dict[str, np.ndarray]:
        """Returns lengths (B,) by name: mean <= expected <= rms.

        mean: sum_k |dmu_k|; expected: 1/S sum_s sum_k |df_sk|, for ensembles alone; rms: sum_k sqrt(E|df_k|^2), the
        length under E[G], which is the distance unless said otherwise (arXiv 2408.07507, eq. 9).
        """
        return self._lengths(self._points(curves))

    def local(self, curves: Curves) -> np.ndarray:
        """Returns the rms length of each of the N - 1 pieces, (B, N - 1)."""
        return self._steps(self._points(curves))

    def at_equal_lengths(self, curves: Curves, num: int) -> np.ndarray:
        """Returns the times (B, num), from 0 to 1, at which equal shares of the rms length have been travelled.

        Even times for a curve without length, and for one whose length is no number.
        """
        steps = self.local(curves).astype(np.float64)
        travelled = np.concatenate([np.zeros((len(steps), 1)), np.cumsum(steps, axis=1)], axis=1)
        times, asked = np.linspace(0.0, 1.0, self.num_points), np.linspace(0.0, 1.0, num)
        return np.stack([
            np.interp(asked, row / row[-1], times) if np.isfinite(row[-1]) and row[-1] > 0 else asked
            for row in travelled
        ])

    def _points(self, curves: Curves) -> np.ndarray:
        points = curves(np.linspace(0.0, 1.0, self.num_points))
        return points.astype(self.manifold.dtype.as_numpy_dtype)

    def of_points(self, z: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the lengths (B,) of the polylines through points z (B, N, d), by the names of `names`."""
        found = self.manifold.segments(z)
        lengths = {"mean": tf.reduce_sum(safe_sqrt(found.mean), axis=-1)}
        if isinstance(self.manifold, Ensemble):
            members = self.manifold.members(tf.reshape(z, (-1, z.shape[-1])))
            members = tf.reshape(members, (members.shape[0], -1, z.shape[-2], members.shape[-1]))
            steps = tf.reduce_sum(tf.square(members[:, :, 1:] - members[:, :, :-1]), axis=-1)
            lengths["expected"] = tf.reduce_mean(tf.reduce_sum(safe_sqrt(steps), axis=-1), axis=0)
        lengths["rms"] = tf.reduce_sum(safe_sqrt(found.expected), axis=-1)
        return lengths

    def _local(self, z: tf.Tensor) -> tf.Tensor:
        return safe_sqrt(self.manifold.segments(z).expected)


def lengths(manifold: Manifold, curves: Curves, num_points: int = NUM_POINTS, **options: Any) -> dict[str, np.ndarray]:
    """Returns the lengths (B,) of curves by name; see `Lengths`, which is for repeated calls."""
    return Lengths(manifold, num_points, **options)(curves)


def published_length(
    manifold: Manifold, curves: Curves, num_points: int = PUBLISHED_LENGTH_POINTS, seed: seeds.Seed = (0, 0),
    memory_mib: float = 256, jit_compile: bool = True,
) -> np.ndarray:  # fmt: skip
    """Returns the length as the code of arXiv 2408.07507 computes it, (B,): it has no limit for many points.

    Ensembles: sum_k |f_{s_{k+1}}(z_{k+1}) - f_{s_k}(z_k)| with a member drawn for every point, a single draw: about
    (N - 1) times the members' disagreement. Mean and std: sum_k |dmu_k| + sum_k |dsigma_k|, the sum of two lengths.
    """
    if isinstance(manifold, Ensemble):
        def fn(z, number):
            flat = tf.reshape(z, (-1, z.shape[-1]))
            members = manifold.members(flat)
            chosen = tf.map_fn(
                lambda n: tf.cast(seeds.uniform((z.shape[-2],), seeds.fold_in(seed, n)) * members.shape[0], tf.int32),
                number)
            picked = tf.gather(tf.transpose(members, (1, 0, 2)), tf.reshape(chosen, (-1,)), batch_dims=1)
            picked = tf.reshape(picked, (-1, z.shape[-2], members.shape[-1]))
            steps = tf.reduce_sum(tf.square(picked[:, 1:] - picked[:, :-1]), axis=-1)
            return tf.reduce_sum(safe_sqrt(steps), axis=-1)
    else:
        def fn(z, number):
            found = manifold.segments(z)
            both = safe_sqrt(found.mean) + safe_sqrt(found.expected - found.mean)
            return tf.reduce_sum(both, axis=-1)
    # Members are laid out anew point by point, which needs the memory of all of them once more.
    row = 3.0 * manifold.size * num_points * manifold.dtype.size
    points = curves(np.linspace(0.0, 1.0, num_points)).astype(manifold.dtype.as_numpy_dtype)
    return RowMap(fn, row, memory_mib, jit_compile)(points, np.arange(len(points), dtype=np.int32))


def safe_sqrt(squares: tf.Tensor) -> tf.Tensor:
    """Returns the root of squares that may be 0 or, by rounding, below; its gradient at 0 is 0. NaN stays NaN."""
    # Not the other way round: "not above 0" would let NaN pass for 0.
    zero = squares <= 0
    return tf.where(zero, tf.zeros_like(squares), tf.sqrt(tf.where(zero, tf.ones_like(squares), squares)))
