"""Low-rank curvature: a Nystroem sketch Y = G Omega by products with G, and the eigenpairs that it tells of.

Tropp, Yurtsever, Udell & Cevher, arXiv 1706.05736, algorithm 3; Frangella, Tropp & Udell, arXiv 2110.02820.
"""

from collections.abc import Callable
from typing import NamedTuple, Optional, Sequence

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.core.forward_mode import jvp
from pae_zoo.curvature.matrices import record
from pae_zoo.curvature.matrices.hessians import OutputHessian
from pae_zoo.curvature.network import pieces
from pae_zoo.curvature.network.graph import Block, Graph, flatten


class Sketch(NamedTuple):
    """A curvature G of P_c weights seen through r random vectors; images of the same seed add up over batches.

    Args:
      image: G Omega, (P_c, r), Omega (P_c, r) being the standard normal numbers that the seed gives.
      seed: (2,).
      diagonal: of G, (P_c,), or an estimate of it, which tells of what the image has missed; None: not known.
    """

    image: tf.Tensor
    seed: tf.Tensor
    diagonal: Optional[tf.Tensor] = None


def compute(
    graph: Graph,
    x: tf.Tensor,
    hessian: OutputHessian,
    blocks: Sequence[Block],
    rank: int,
    seed: seeds.Seed,
    memory: float = 2048,
    fallback: bool = False,
) -> Sketch:
    """Returns the sketch of the batch x with min(rank, P_c) vectors, one forward and one backward product each.

    It has no diagonal.
    """
    size = sum(block.size for block in blocks)
    rank = min(rank, size)
    needed = 2 * x.dtype.size * rank * size / 2**20
    if needed > memory:
        raise UserError(f"structure='low_rank' of rank {rank} and {size:,} weights takes {needed:,.0f} MiB; memory="
                        f"{memory:g} MiB are allowed. Take a smaller rank, fewer layers, or structure='diag'.")
    product = products(graph, x, hessian, blocks, fallback)
    columns = pieces.one_by_one(
        lambda index: product(_column(seed, index, size, x.dtype)), tf.range(rank), tf.TensorSpec((size,), x.dtype))
    return Sketch(tf.transpose(columns), seeds.as_seed(seed))


def products(graph: Graph, x: tf.Tensor, hessian: OutputHessian, blocks: Sequence[Block],
             fallback: bool = False) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function v (P_c,) -> G v = sum_n J_n^T H_n J_n v, by one forward and one backward derivative."""
    variables = [variable for block in blocks for variable in block.variables]
    values = [tf.convert_to_tensor(variable) for variable in variables]
    # An inner scope hides the outer one's values, so all are handed on.
    others = [v for model in graph.models for v in model.variables if not any(v is one for one in variables)]
    mapping = [(variable, tf.convert_to_tensor(variable)) for variable in others]

    def outputs(weights):
        with keras.StatelessScope(state_mapping=[*mapping, *zip(variables, weights)]):
            return record.forward(graph, x, fallback).output

    def apply(v: tf.Tensor) -> tf.Tensor:
        tangents = [tf.cast(one, value.dtype) for one, value in zip(graph.unflatten(v, blocks), values)]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            output, slope = jvp(outputs, values, tangents)
        hessian.check(output)
        rows = hessian.apply(tf.stop_gradient(output), slope[None])[0]
        found = tape.gradient(output, values, rows, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return tf.cast(flatten(found), x.dtype)

    return apply


def eigenpairs(sketch: Sketch) -> tuple[np.ndarray, np.ndarray]:
    """Returns orthonormal vectors (P_c, r) and values (r,), largest first, of the Nystroem approximation, in float64.

    U diag(s) U^T = Y (Omega^T Y)^+ Y^T, which is G itself where r is at least the rank of G. A shift of the size of
    the image's rounding is added to G before, and taken from the eigenvalues after; those below it become 0.
    """
    image = np.asarray(sketch.image)
    if not np.isfinite(image).all():
        raise UserError("The sketch of the curvature holds values that are not finite; look at the weights and the "
                        "data it was computed with.")
    size, rank = image.shape
    dtype = tf.as_dtype(image.dtype)
    omega = np.stack([_column(sketch.seed, tf.constant(index), size, dtype).numpy() for index in range(rank)], axis=1)
    omega, rounding = omega.astype(np.float64), np.finfo(image.dtype).eps
    image = image.astype(np.float64)
    shift = rounding * np.linalg.norm(image) / np.sqrt(size)
    if shift == 0:
        return np.eye(size, rank), np.zeros(rank)
    image += shift * omega
    core = omega.T @ image
    values, vectors = np.linalg.eigh(0.5 * (core + core.T))
    kept = values > rank * np.finfo(np.float64).eps * values[-1]
    root = np.where(kept, 1 / np.sqrt(np.where(kept, values, 1.0)), 0.0)
    left, singular, _ = np.linalg.svd(image @ (vectors * root), full_matrices=False)
    return left, np.maximum(singular**2 - shift, 0.0)


def _column(seed: seeds.Seed, index: tf.Tensor, size: int, dtype: tf.DType) -> tf.Tensor:
    return seeds.normal((size,), seeds.fold_in(seed, index), dtype)
