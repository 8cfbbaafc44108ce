"""Kronecker-factored curvature: for each layer a second moment of its inputs times one of its output derivatives.

For W with outputs = [inputs, 1] W at positions t (one for a dense layer), the layer's block of the Gauss-Newton matrix,
sum_n sum_tu (a_nt a_nu^T) (x) (d_nt d_nu^T) over data n, is taken to be A (x) B / C with

    A = sum_n sum_t a_nt a_nt^T,   B = sum_n sum_t sum_r d_rnt d_rnt^T,   C = number of (n, t),

r over rows of a root of H. All three are sums over the data, so batches add up. Uses of one layer count as further
positions. Exact for a dense layer of one datum and where B is the same for all data.
Martens & Grosse, arXiv 1503.05671; Grosse & Martens, arXiv 1602.01407.
"""

import math
from typing import NamedTuple, Optional, Sequence, Union

import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.curvature.matrices import record, sweeps
from pae_zoo.curvature.matrices.hessians import OutputHessian
from pae_zoo.curvature.network import matrix_form, pieces
from pae_zoo.curvature.network.graph import Block, Graph, Step


class Kron(NamedTuple):
    """The curvature A (x) B / count of one layer, whose weights are W (n_in, n_out), see `matrix_form`.

    Args:
      input_factor: A (n_in, n_in), the last row and column that of the bias.
      output_factor: B (n_out, n_out).
      count: number of data times positions, a scalar.
    """

    input_factor: tf.Tensor
    output_factor: tf.Tensor
    count: tf.Tensor  # pyright: ignore[reportIncompatibleMethodOverride]


class KronDiagonal(NamedTuple):
    """The diagonal (P_l,) of the curvature of a layer whose weights are no matrix."""

    diagonal: tf.Tensor


def compute(
    graph: Graph,
    x: tf.Tensor,
    hessian: OutputHessian,
    blocks: Sequence[Block],
    method: str = "exact",
    seed: Optional[seeds.Seed] = None,
    num_probes: int = 1,
    memory: float = 2048,
    fallback: bool = False,
) -> list[Union[Kron, KronDiagonal]]:
    """Returns the curvature of each block, summed over the batch x; arguments as those of `ggn`.

    "mc" takes `num_probes` random rows of covariance H in place of all of a root of H.
    """
    run = record.forward(graph, x, fallback)
    hessian.check(run.output)
    forms = {graph.step_of(block): matrix_form.form_of(graph.step_of(block).layer) for block in blocks}
    collector = _output_factors(run, forms)
    numbers = sum(math.prod(shape) for step in forms for shape in collector.shapes(step))
    numbers += sum(_rows(block, forms[graph.step_of(block)]) ** 2 for block in blocks)
    budget = sweeps.check_memory(
        run, 2 * x.dtype.size * numbers, memory, f"structure='kron' of {len(blocks)} layers",
        "Take a smaller batch (results add up), fewer layers, or structure='diag'.")
    if method == "exact":
        sums = sweeps.all_rows(run, hessian, blocks, collector, budget)
    else:
        sums = sweeps.sampled(run, hessian, blocks, collector, seed, num_probes, budget)
    return [_factors(run, step, forms[step], found) for step, found in zip(forms, sums)]


def _factors(run: record.Record, step: Step, form: str, found: list[tf.Tensor]) -> Union[Kron, KronDiagonal]:
    if form == matrix_form.NONE:
        return KronDiagonal(tf.concat([tf.reshape(one, (-1,)) for one in found], axis=0))
    moments, counts = zip(*(second_moment(use, run.inputs[use], run.outputs[use]) for use in run.graph.uses(step)))
    return Kron(tf.add_n(moments), found[0], tf.add_n(counts))


def second_moment(step: Step, a: tf.Tensor, output: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns A (n_in, n_in) and the number of data times positions, of a layer's input a and its output."""
    layer = step.layer
    shapes = [variable.shape for variable in step.variables]
    size = matrix_form.matrix_shape(matrix_form.form_of(layer), shapes)[0]
    places = math.prod(output.shape[1:-1])

    # Pieces are padded with zeros, which the 1 of the bias would count as data: hence the weights.
    def some(a, weights):
        seen = tf.reshape(matrix_form.inputs(layer, a) * weights[0][:, None, None], (-1, size))
        return [tf.matmul(seen, seen, transpose_a=True)]

    ones = tf.ones((1, pieces.size(a, 0)), a.dtype)
    (moment,) = pieces.over_batch(some, a, ones, [(size, size)], 2 * a.dtype.size * places * size)
    return moment, tf.cast(pieces.size(a, 0) * places, a.dtype)


def _output_factors(run: record.Record, forms: dict[Step, str]) -> sweeps.Collector:
    """Sums of outer products of derivatives over positions; squared gradients where weights are no matrix."""
    squares = sweeps.diagonals(run)

    def shapes(step: Step) -> list[tuple[int, ...]]:
        if forms[step] == matrix_form.NONE:
            return squares.shapes(step)
        return [(run.outputs[step].shape[-1],) * 2]

    def add(step: Step, a: tf.Tensor, delta: tf.Tensor) -> list[tf.Tensor]:
        if forms[step] == matrix_form.NONE:
            return squares.add(step, a, delta)
        rows = tf.reshape(delta, (-1, delta.shape[-1]))
        return [tf.matmul(rows, rows, transpose_a=True)]

    def add_uses(uses: Sequence[sweeps.Use]) -> list[tf.Tensor]:
        if forms[uses[0][0]] == matrix_form.NONE:
            return squares.add_uses(uses)
        return [tf.add_n([add(*use)[0] for use in uses])]

    forms = {use: form for step, form in forms.items() for use in run.graph.uses(step)}
    return sweeps.Collector(shapes, add, add_uses)


def _rows(block: Block, form: str) -> int:
    if form == matrix_form.NONE:
        return 0
    return matrix_form.matrix_shape(form, [variable.shape for variable in block.variables])[0]
