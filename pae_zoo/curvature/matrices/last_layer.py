"""The exact curvature of the last layer with weights, which is block-diagonal over outputs where H is diagonal."""

import math
from typing import NamedTuple, Optional, Sequence

import keras
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.curvature.matrices import record, sweeps
from pae_zoo.curvature.matrices.hessians import OutputHessian
from pae_zoo.curvature.network import matrix_form, pieces
from pae_zoo.curvature.network.graph import Block, Graph, Step
from pae_zoo.curvature.rules.shape import IDENTITIES

SHARED, OUTPUTS, FULL = "shared", "outputs", "full"
# Each output is one input, or 0, so that a diagonal M stays diagonal.
ORDERS = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Permute)
WINDOWS = (
    keras.layers.Cropping1D, keras.layers.Cropping2D, keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D)


class LastLayer(NamedTuple):
    """The curvature of the last layer with weights W (n_in, n_out), see `matrix_form`, summed over a batch.

    Args:
      matrices: (1, n_in, n_in), the same for the weights to every output; (n_out, n_in, n_in), one for each; or
        (1, P_l, P_l), of all weights in their flat order.
    """

    matrices: tf.Tensor


def compute(
    graph: Graph,
    x: tf.Tensor,
    hessian: OutputHessian,
    blocks: Sequence[Block],
    memory: float = 2048,
    fallback: bool = False,
    method: str = "exact",
    seed: Optional[seeds.Seed] = None,
    num_probes: int = 1,
) -> LastLayer:
    """Returns the curvature of the last of `blocks`, which must be the network's last; arguments as those of `ggn`.

    One matrix for all outputs where H is the same multiple of the identity for all data and nothing but a choice or
    order of values follows the layer; one for each output where H is diagonal and only functions of single values
    follow; else the matrix of all weights, for which "mc" takes `num_probes` random rows of covariance H in place of
    all of a root of it.
    """
    block = blocks[-1]
    if block != graph.blocks[-1]:
        raise UserError(f"structure='last_layer' is of the last layer with weights, {graph.blocks[-1].name!r}; "
                        f"received layers up to {block.name!r}. Take structure='block' for others.")
    step = graph.step_of(block)
    run = record.forward(graph, x, fallback)
    hessian.check(run.output)
    form, curvature = _diagonal(run, step, hessian)
    shapes = [variable.shape for variable in step.variables]
    rows, count = block.size, 1
    if form != FULL:
        rows, outputs = matrix_form.matrix_shape(matrix_form.form_of(step.layer), shapes)
        count = outputs if form == OUTPUTS else 1
    budget = sweeps.check_memory(
        run, 2 * x.dtype.size * count * rows**2, memory, f"structure='last_layer' of {block.name!r}",
        "Take structure='kron' or 'diag' with layers='last', or a larger memory.")
    if form == FULL or curvature is None:
        collector = sweeps.blocks_of_layers(run)
        if method == "exact":
            ((matrix,),) = sweeps.all_rows(run, hessian, [block], collector, budget)
        else:
            ((matrix,),) = sweeps.sampled(run, hessian, [block], collector, seed, num_probes, budget)
        return LastLayer(matrix[None])
    return LastLayer(_weighted_moments(step, run.inputs[step], curvature, count, rows))


def _weighted_moments(step: Step, a: tf.Tensor, curvature: tf.Tensor, count: int, rows: int) -> tf.Tensor:
    """Returns sum_nt m_nto a_nt a_nt^T for outputs o, (count, rows, rows), m (B, *out) being the layer's M."""

    def some(a, m):
        seen = tf.reshape(matrix_form.inputs(step.layer, a), (-1, rows))
        weights = tf.reshape(m[0], (-1, m.shape[-1]))
        if count == 1:
            return [tf.matmul(seen * weights[:, :1], seen, transpose_a=True)[None]]
        return [tf.map_fn(lambda one: tf.matmul(seen * one[:, None], seen, transpose_a=True), tf.transpose(weights))]

    places = math.prod(curvature.shape[1:-1])
    datum_bytes = 3 * a.dtype.size * places * rows
    return pieces.over_batch(some, a, curvature[None], [(count, rows, rows)], datum_bytes)[0]


def _diagonal(run: record.Record, last: Step, hessian: OutputHessian) -> tuple[str, Optional[tf.Tensor]]:
    """Returns the form, and M (B, *out) at the output of the last layer with weights where it is diagonal."""
    m = hessian.diagonal(run.output)
    steps = run.graph.chain.steps
    alone = last in steps and len(run.graph.uses(last)) == 1
    if m is None or not alone or matrix_form.form_of(last.layer) == matrix_form.NONE:
        return FULL, None
    m = tf.broadcast_to(m, tf.shape(run.output)) if m.shape != run.output.shape else m
    shared, kinds = hessian.is_shared, set()
    for step in reversed(steps[steps.index(last) + 1 :]):
        if not isinstance(step, Step):
            return FULL, None
        if step.activation is None and isinstance(step.layer, (*ORDERS, *WINDOWS)):
            m = run.vjp(step, m[None])[0]
            kinds.add(isinstance(step.layer, WINDOWS))
            continue
        slope = run.rule(step).slope
        if slope is None:
            return FULL, None
        m = m * slope(step.layer, run.inputs[step]) ** 2
        shared = shared and step.activation is None and isinstance(step.layer, IDENTITIES)
    # A window onto values in another order may leave out some outputs of a layer and not others.
    return SHARED if shared and len(kinds) < 2 else OUTPUTS, m
