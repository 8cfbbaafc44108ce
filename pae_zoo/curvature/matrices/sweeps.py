"""Rows r^T J of the output's derivatives by every layer's output: all of them in turn, or a few random ones.

With rows R for which R^T R = H, or whose expectation it is, sums of products of rows are the Gauss-Newton matrix.
"""

import functools
import math
from typing import Callable, NamedTuple, Optional, Sequence

import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.curvature.matrices.hessians import OutputHessian
from pae_zoo.curvature.matrices.record import Record
from pae_zoo.curvature.network import pieces
from pae_zoo.curvature.network.graph import Block, Step
from pae_zoo.curvature.rules import registry

# Rows in flight take so many times the largest input and output of a step, and never more bytes than this.
COPIES = 4
ROWS_BYTES = 256 * 2**20
# Floating-point operations of an eigendecomposition (n, n), in units of n^3, which are slower than those of products.
EIGH_COST = 200


# A use of weights: a step, its input a (B, *in) and rows delta (R, B, *out) by its output.
Use = tuple[Step, tf.Tensor, tf.Tensor]


class Collector(NamedTuple):
    """What is summed over rows and data at each layer.

    Args:
      shapes: step -> shapes of its tensors.
      add: (step, a, delta (R, B, *out)) -> the tensors, summed over the rows and data given.
      add_uses: uses of the same weights -> the tensors, of the sum of the uses' gradients.
    """

    shapes: Callable[[Step], list[tuple[int, ...]]]
    add: Callable[[Step, tf.Tensor, tf.Tensor], list[tf.Tensor]]
    add_uses: Callable[[Sequence[Use]], list[tf.Tensor]]


def diagonals(record: Record) -> Collector:
    """The sums of squared gradients, shaped as the variables."""

    def shapes(step: Step) -> list[tuple[int, ...]]:
        return [tuple(variable.shape) for variable in step.variables]

    def of_rows(step: Step, rows: tf.Tensor) -> list[tf.Tensor]:
        return registry.squares_of_rows(step.layer, rows)

    return Collector(
        shapes,
        lambda step, a, delta: record.rule(step).squares(step.layer, a, delta),
        lambda uses: _of_sum(record, uses, of_rows, shapes(uses[0][0])),
    )


def blocks_of_layers(record: Record) -> Collector:
    """The sums of outer products of gradients, one matrix (P_l, P_l) a layer."""

    def shapes(step: Step) -> list[tuple[int, ...]]:
        return [(_length(step),) * 2]

    def of_rows(step: Step, rows: tf.Tensor) -> list[tf.Tensor]:
        rows = tf.reshape(rows, (-1, _length(step)))
        return [tf.matmul(rows, rows, transpose_a=True)]

    def add(step: Step, a: tf.Tensor, delta: tf.Tensor) -> list[tf.Tensor]:
        def some(a, delta):
            return of_rows(step, record.rule(step).rows(step.layer, a, delta))

        datum_bytes = 2 * a.dtype.size * (delta.shape[0] or 1) * _length(step)
        return pieces.over_batch(some, a, delta, shapes(step), datum_bytes)

    return Collector(shapes, add, lambda uses: _of_sum(record, uses, of_rows, shapes(uses[0][0])))


def _length(step: Step) -> int:
    return sum(math.prod(variable.shape) for variable in step.variables)


def _of_sum(record: Record, uses: Sequence[Use], of_rows: Callable, shapes: Sequence) -> list[tf.Tensor]:
    """Returns of_rows(step, rows (R, B, P_l)) of the sum of the uses' gradients, added up over data and rows."""
    first, a, delta = uses[0]
    num_rows, num_data = pieces.size(delta, 0), pieces.size(a, 0)
    fitting = max(1, pieces.work_limit() // (2 * a.dtype.size * _length(first)))
    rows = min(num_rows, fitting) if isinstance(num_rows, int) else 1
    data = max(1, fitting // rows)
    data = min(data, num_data) if isinstance(num_data, int) else data
    padded = [(step, pieces.pad(a, 0, data), pieces.pad(pieces.pad(delta, 0, rows), 1, data))
              for step, a, delta in uses]
    across = -(-num_data // data)

    def some(index):
        row, datum = index // across, index % across
        return of_rows(first, tf.add_n([
            record.rule(step).rows(
                step.layer, pieces.cut(a, 0, datum, data), pieces.cut(pieces.cut(delta, 0, row, rows), 1, datum, data))
            for step, a, delta in padded
        ]))

    return pieces.total(some, -(-num_rows // rows) * across, shapes, a.dtype)


def sampled(
    record: Record,
    hessian: OutputHessian,
    blocks: Sequence[Block],
    collector: Collector,
    seed: Optional[seeds.Seed],
    num_probes: int,
    budget: int,
) -> list[list[tf.Tensor]]:
    """Returns the collector's tensors for each block, averaged over `num_probes` random rows of covariance H.

    Rows are a root of H times random signs, whose squares have a smaller variance than those of normal noise: with a
    diagonal H none at all in the last layer. Hutchinson, Commun. Stat. Simul. Comput. 19 (1990) 433.
    """
    chosen = [record.graph.step_of(block) for block in blocks]
    output, seed = record.output, seeds.as_seed(seed)
    shape = (num_probes, pieces.size(output, 0), *output.shape[1:])
    noise = tf.sign(seeds.uniform(shape, seed, output.dtype, batch=1) - 0.5)
    piece = min(num_probes, rows_at_once(record, budget))
    noise = pieces.pad(noise, 0, piece)

    def some(index):
        rows = hessian.probe(output, pieces.cut(noise, 0, index, piece))
        return _collect(record, record.graph.chain.steps, rows, chosen, collector)[0]

    shapes = [shape for step in chosen for shape in collector.shapes(step)]
    total = pieces.total(some, -(-num_probes // piece), shapes, output.dtype)
    return _nested([one / num_probes for one in total], chosen, collector)


def all_rows(
    record: Record, hessian: OutputHessian, blocks: Sequence[Block], collector: Collector, budget: int
) -> list[list[tf.Tensor]]:
    """Returns the collector's tensors for each block, summed over all rows of a root of H.

    Where a layer's input is much narrower than there are rows, they are replaced there by the rows of a root of
    M = sum_r r r^T (B, n, n), of which there are n: below a bottleneck few rows go on.
    """
    steps = record.graph.chain.steps
    chosen = [record.graph.step_of(block) for block in blocks]
    found: dict[Step, list[tf.Tensor]] = {}
    stop, num_rows = len(steps), _values(record.output)
    source = functools.partial(hessian.root_rows, record.output)
    for start in (*cuts(record, blocks, budget), 0):
        single = {one for step in steps[start:stop] for one in step.flat()}
        inside = [step for step in chosen if step in single]
        narrow = record.inputs[steps[start]] if start else None
        sums, gram = _segment(record, source, num_rows, (start, stop), inside, collector, narrow, budget)
        found.update(zip(inside, sums))
        if narrow is not None and gram is not None:
            root, stop, num_rows = root_of(gram), start, _values(narrow)
            source = functools.partial(_rows_of, root, narrow)
    return [found[step] for step in chosen]


def _segment(record, source, num_rows, span, chosen, collector, narrow, budget):
    """Returns the sums of each chosen step over all rows through some steps, and M at their input if it is `narrow`."""
    steps = record.graph.chain.steps[span[0] : span[1]]
    piece = min(num_rows, rows_at_once(record, budget))
    shapes = [shape for step in chosen for shape in collector.shapes(step)]
    if narrow is not None:
        shapes.append((pieces.size(narrow, 0), _values(narrow), _values(narrow)))

    def some(index):
        tensors, rows = _collect(record, steps, source(index * piece, piece), chosen, collector, narrow is not None)
        if narrow is not None:
            rows = tf.reshape(rows, (piece, pieces.size(narrow, 0), _values(narrow)))
            tensors.append(tf.einsum("rbi,rbj->bij", rows, rows))
        return tensors

    sums = pieces.total(some, -(-num_rows // piece), shapes, record.output.dtype)
    gram = sums.pop() if narrow is not None else None
    return _nested(sums, chosen, collector), gram


def root_of(gram: tf.Tensor) -> tf.Tensor:
    """Returns R (B, n, n) with R^T R = gram (B, n, n), also where gram is singular."""
    values, vectors = tf.linalg.eigh(gram)
    return tf.sqrt(tf.maximum(values, 0))[:, :, None] * tf.linalg.matrix_transpose(vectors)


def _rows_of(root: tf.Tensor, like: tf.Tensor, start: tf.Tensor, num: int) -> tf.Tensor:
    """Returns rows start, ... (num, B, *event) of a root (B, n, n) at the values of `like`; zeros beyond the last."""
    rows = pieces.pad(tf.transpose(root, (1, 0, 2)), 0, num)
    rows = tf.slice(rows, [start, 0, 0], [num, pieces.size(root, 0), root.shape[-1]])
    return tf.reshape(rows, (num, pieces.size(root, 0), *like.shape[1:]))


def cuts(record: Record, blocks: Sequence[Block], budget: int) -> list[int]:
    """Returns the numbers of the steps of the main line, from the output on, before which rows are replaced.

    Those that make the number of operations least, where replacing R rows by n costs R n^2 and about 200 n^3 of them;
    the matrices (B, n, n) and their roots take up to half of `budget` bytes. None lies between uses of the same
    weights, whose gradients are added row by row.
    """
    steps = record.graph.chain.steps
    places = {one: index for index, step in enumerate(steps) for one in step.flat()}
    used = [[places[use] for use in record.graph.uses(record.graph.step_of(block))] for block in blocks]
    first = min((index for uses in used for index in uses), default=len(steps))
    between = {cut for uses in used for cut in range(min(uses) + 1, max(uses) + 1)}
    widths = [_values(record.inputs[step]) for step in steps]
    costs = [_row_cost(record, step) for step in steps]

    matrices = COPIES * record.output.dtype.size * batch(record)

    @functools.cache
    def best(stop: int, rows: int) -> tuple[float, tuple[int, ...]]:
        options: list[tuple[float, tuple[int, ...]]] = [(rows * sum(costs[first:stop]), ())]
        for cut in range(first + 1, stop):
            if cut not in between and 2 * widths[cut] <= rows and 2 * matrices * widths[cut] ** 2 <= budget:
                below, further = best(cut, widths[cut])
                here = rows * (sum(costs[cut:stop]) + widths[cut] ** 2) + EIGH_COST * widths[cut] ** 3
                options.append((here + below, (cut, *further)))
        return min(options)

    return list(best(len(steps), _values(record.output))[1])


def rows_at_once(record: Record, budget: int) -> int:
    """Returns how many rows may travel through the network together in `budget` bytes; at least one."""
    return max(1, min(budget, ROWS_BYTES) // row_bytes(record))


def row_bytes(record: Record) -> int:
    """Returns the bytes that one row for every datum takes on its way."""
    widest = max(_values(record.inputs[step]) + _values(record.outputs[step]) for step in record.outputs)
    return COPIES * record.output.dtype.size * batch(record) * widest


def forward_bytes(record: Record) -> int:
    """Returns the bytes that the recorded outputs take."""
    return record.output.dtype.size * batch(record) * sum(_values(value) for value in record.outputs.values())


def batch(record: Record) -> int:
    """Returns the batch size; 128 where it is not known when the function is traced."""
    return record.output.shape[0] or 128


def check_memory(record: Record, result_bytes: int, memory: float, what: str, advice: str) -> int:
    """Returns the bytes left for rows in flight, of `memory` MiB; raises UserError where not even one row fits."""
    fixed = result_bytes + forward_bytes(record)
    allowed = memory * 2**20
    if fixed + row_bytes(record) > allowed:
        raise UserError(f"{what} of {record.graph.models[-1].name!r} needs {mib(fixed + row_bytes(record))} MiB for "
                        f"{batch(record)} data; memory={memory} MiB are allowed. {advice}")
    return int(allowed - fixed)


def mib(count: int) -> str:
    """Returns a number of bytes in MiB, rounded up, for messages."""
    return f"{-(-count // 2**20):,}"


def _row_cost(record: Record, step) -> float:
    """Returns about how many operations one row of one datum takes through a step and its weights."""
    total = 0.0
    for one in step.flat():
        a, y = record.inputs[one], record.outputs[one]
        # A kernel is applied at each position of the smaller of the two.
        positions = min(math.prod(a.shape[1:-1]), math.prod(y.shape[1:-1]))
        products = positions * sum(math.prod(v.shape) for v in one.variables if len(v.shape) > 1)
        total += products * (2 if positions > 1 else 1) + _values(a) + _values(y)
    return total


def _collect(record, steps, rows, chosen, collector, to_input=False) -> tuple[list[tf.Tensor], Optional[tf.Tensor]]:
    """Takes rows through some steps; returns the tensors of the chosen ones in a line, and the rows further down."""
    found: dict[Step, list[tf.Tensor]] = {}
    waiting: dict[Step, list[Use]] = {}
    first = {use: step for step in chosen for use in record.graph.uses(step)}

    def visit(use, delta):
        step, a = first[use], record.inputs[use]
        if len(record.graph.uses(step)) == 1:
            found[step] = collector.add(step, a, delta)
            return
        waiting.setdefault(step, []).append((use, a, delta))
        if len(waiting[step]) == len(record.graph.uses(step)):
            found[step] = collector.add_uses(waiting.pop(step))

    rows = record.descend(steps, rows, set(first), visit, to_input)
    return [one for step in chosen for one in found[step]], rows


def _nested(tensors: Sequence[tf.Tensor], chosen: Sequence[Step], collector: Collector) -> list[list[tf.Tensor]]:
    remaining = iter(tensors)
    return [[next(remaining) for _ in collector.shapes(step)] for step in chosen]


def _values(tensor: tf.Tensor) -> int:
    return math.prod(tensor.shape[1:])
