"""Exact diagonal of the Gauss-Newton matrix for lines of dense layers and functions of single values.

The matrix M = J^T H J by the output of a layer is never formed where the layer is wide. With H the same for all data, M
by the last hidden layer is one Gram matrix G for the whole batch. Below it, a layer's weights need the diagonal of M
alone: quadratic forms v^T G v, with v the derivatives of the last hidden layer by one unit, for which half of the
symmetric G is multiplied. For the layer right below these forms are products over pairs of values, see
`dense_exact_pairs`. Where a layer is narrow, M is formed there and the rows of its root go on down. Deep
decoders may be cheaper the other way round: rows of a triangular factor C of G = C^T C go down through all layers.
Which way, and where M is formed, is a matter of counting, see `dense_exact_plan`.

What remains is the product below G: batch (values of the last hidden layer)^2 (values of the layer before) operations.
A quadratic form with G is wanted for every datum and every unit, and as slopes differ between both, nothing can be
summed before it is taken. With an H of its own for each datum there is no G but the last kernel, and no half of it.
"""

from typing import NamedTuple, Optional, Sequence

import keras
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.matrices import dense_exact_pairs as pairs
from pae_zoo.curvature.matrices import dense_exact_plan as plans
from pae_zoo.curvature.matrices import record
from pae_zoo.curvature.matrices.hessians import FromLikelihood, OutputHessian
from pae_zoo.curvature.network import pieces
from pae_zoo.curvature.network.graph import Block, Step
from pae_zoo.curvature.rules import registry

# Rows in flight take about so many bytes: what a processor keeps near.
NEAR_BYTES = 8 * 2**20
# The batch that is counted with where the real one is not known.
BATCH = 128
# Up to so many values, products of small matrices are faster as sums.
SMALL = 8
# Layers that change the shape of an event and no value.
_SHAPES = (keras.layers.Flatten, keras.layers.Reshape)


class Level(NamedTuple):
    """The values between two dense layers, or at an end, and what happens to them.

    Args:
      steps: the dense layer that makes the values, if one does, then layers of single values.
      slope: (batch, width), derivative of the level's last values by its first.
      kernel: (width, width of the next level) of the dense layer above; None at the output.
    """

    steps: Sequence[Step]
    slope: tf.Tensor
    kernel: Optional[tf.Tensor]


def line(run: record.Record, hessian: OutputHessian) -> list[Step]:
    """Returns the steps at the network's end that `diagonal` can be used for; none where H is not diagonal.

    They are dense layers on vectors, layers of single values, and Flatten and Reshape, one after another.
    """
    found: list[Step] = []
    if hessian.is_diagonal:
        for step in reversed(run.graph.chain.steps):
            if not isinstance(step, Step) or not _is_known(run, step):
                break
            found.insert(0, step)
    return found if any(map(_is_dense, found)) else []


def _is_known(run: record.Record, step: Step) -> bool:
    on_vectors = run.inputs[step].shape.rank == 2
    if _is_dense(step):
        return on_vectors
    # The weights of other layers count for each value by itself, on vectors alone.
    has_slope = registry.of_step(step, fallback=True).slope is not None and (on_vectors or not step.variables)
    return has_slope or type(step.layer) in _SHAPES


def diagonal(
    run: record.Record, hessian: OutputHessian, blocks: Sequence[Block], memory: float = 2048
) -> list[list[tf.Tensor]]:
    """Returns diag(sum_n J_n^T H_n J_n) for the weights of `blocks`: for each of them a tensor for each variable.

    Args:
      run: the recorded forward pass.
      hessian: H by the output.
      blocks: the chosen weights, all of steps in `line`.
      memory: MiB that temporary values may take; raises UserError where one datum takes more.
    """
    chosen = {run.graph.step_of(block) for block in blocks}
    levels = _levels(run, line(run, hessian))
    needed = [index for index, level in enumerate(levels) if chosen & set(level.steps)]
    h = _flat(tf.nn.relu(hessian.diagonal(run.output)))
    shared = is_shared(hessian)
    h = h[:1] if shared else h
    same = shared and all(_is_linear(run, step) for step in levels[-1].steps)
    diagonals = level_diagonals(levels, h, needed, same, memory)
    found: dict[Step, list[tf.Tensor]] = {}
    for index in needed:
        _weights(run, levels[index].steps, diagonals[index], chosen, found)
    return [found[run.graph.step_of(block)] for block in blocks]


def level_diagonals(
    levels: Sequence[Level], h: tf.Tensor, needed: Sequence[int], is_shared: bool, memory: float = 2048
) -> dict[int, tf.Tensor]:
    """Returns the diagonal (batch, width) of M by the last values of each level in `needed`.

    Where it is the same for all data it may have batch 1.

    Args:
      levels: from the input to the output.
      h: (batch or 1, width of the output), the diagonal of H.
      needed: numbers of levels.
      is_shared: whether h times the squared slope of the output's level is the same for all data.
      memory: MiB for temporary values.
    """
    top = len(levels) - 2
    outer, kernel = h * levels[-1].slope ** 2, levels[top].kernel
    assert kernel is not None  # only the output has none
    if is_shared:
        outer = outer[:1]
    inner = tf.matmul(outer, kernel**2, transpose_b=True)
    found = {top + 1: h, top: inner}
    lower = [index for index in needed if index < top]
    if lower:
        found.update(_Descent(levels, outer, inner, lower, is_shared).run(memory))
    return found


class _Descent:
    """What is shared by the data on the way from the last dense layer to the lowest level."""

    def __init__(self, levels, outer, inner, needed, is_shared):
        self.levels, self.needed, self.top = levels, needed, len(levels) - 2
        self.outer, self.inner, self.is_shared = outer, inner, is_shared
        self.widths = [level.slope.shape[-1] for level in levels]
        self.batch = levels[0].slope.shape[0]
        self.plan = plans.choose(self.widths, needed, self.batch or BATCH, is_shared)
        self.jitter, self.kernel = 0.0, levels[self.top].kernel
        if is_shared and self.plan.start != plans.PLAIN:
            # The diagonal comes from a sum of its own, so that what the factor's jitter adds can be taken away.
            self.gram = tf.linalg.set_diag(_lower_gram(self.kernel, outer), inner[0])
        if self.plan.start == plans.TRIANGULAR:
            self.rows, self.jitter = root(self.gram)
        else:
            self.rows = tf.transpose(self.kernel * tf.sqrt(outer) if is_shared else self.kernel)

    def run(self, memory: float) -> dict[int, tf.Tensor]:
        """Returns the diagonals of all data, a few at a time but for products of pairs."""
        if not self.plan.is_paired:
            return self._in_pieces(memory)
        paired, slope = self.top - 1, self.levels[self.top].slope
        self.needed = [index for index in self.needed if index != paired]
        found = {paired: tf.nn.relu(pairs.forms(slope, self.levels[paired].kernel, self.gram))}
        return {**found, **self._in_pieces(memory)} if self.needed else found

    def _in_pieces(self, memory: float) -> dict[int, tf.Tensor]:
        item, values = self.outer.dtype.size, self._datum_values()
        if item * values > memory * 2**20:
            raise UserError(f"The exact curvature of this network takes {item * values / 2**20:.3g} MiB for each "
                            f"datum, memory={memory:g} allows less. Raise it, or take method='mc'.")
        piece = max(1, int(min(NEAR_BYTES, memory * 2**20 / 4)) // (item * values))
        inputs = {str(index): self.levels[index].slope for index in range(min(self.needed) + 1, self.top + 1)}
        if not self.is_shared:
            inputs["outer"] = self.outer
        if self.batch is not None and self.batch <= piece:
            return self._some(inputs)
        if self.batch is not None:
            piece = -(-self.batch // -(-self.batch // piece))
        parts = {
            key: tf.reshape(padded, (-1, piece, padded.shape[-1]))
            for key, padded in ((key, pieces.pad(one, 0, piece)) for key, one in inputs.items())
        }
        signature = {index: tf.TensorSpec((piece, self.widths[index]), self.outer.dtype) for index in self.needed}
        found = pieces.one_by_one(self._some, parts, signature)
        num = pieces.size(self.levels[0].slope, 0)
        return {index: tf.reshape(one, (-1, one.shape[-1]))[:num] for index, one in found.items()}

    def _some(self, inputs: dict[str, tf.Tensor]) -> dict[int, tf.Tensor]:
        """Returns the diagonals of some data from their slopes, by number of level, and their `outer`."""
        sums: dict[int, tf.Tensor] = {}
        stops, lowest = list(self.plan.stops), min(self.needed)
        level, matrix = (stops.pop(0) if stops else lowest), None
        if self.plan.start == plans.COLUMNS:
            for index in self.plan.levels:
                sums[index], matrix = self._squares(self._up(index, inputs), inputs, index == level > lowest)
        else:
            for strip in plans.strips(self.rows.shape[0]):
                more = self._down(self._first(strip, inputs), self.top - 1, level, inputs, sums)
                matrix = _plus(matrix, more)
        if self.plan.start == plans.TRIANGULAR and self.top - 1 in sums:
            squares = self.levels[self.top - 1].kernel ** 2
            excess = tf.matmul(inputs[str(self.top)] ** 2 * self.inner, squares, transpose_b=True)
            sums[self.top - 1] = tf.nn.relu(sums[self.top - 1] - self.jitter * excess)
        while matrix is not None and level > lowest:
            rows, end = root(matrix)[0], (stops.pop(0) if stops else lowest)
            matrix = self._down(rows, level, end, inputs, sums, is_counted=True)
            level = end
        return {index: sums[index] for index in self.needed}

    def _first(self, strip: tuple[int, int], inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns some of the rows (data, rows, width) by the level below the top one."""
        start, stop = strip
        left = start if self.plan.start == plans.TRIANGULAR else 0
        rows = self.rows[start:stop, left:] * inputs[str(self.top)][:, None, left:]
        if not self.is_shared:
            rows *= tf.sqrt(inputs["outer"])[:, start:stop, None]
        return _product(rows, self.levels[self.top - 1].kernel[:, left:])

    def _down(self, rows, level, end, inputs, sums, is_counted=False) -> Optional[tf.Tensor]:
        """Takes rows from `level` to `end`, adds their squares to `sums`, and returns M there if it goes on."""
        while True:
            if not is_counted and level in self.needed:
                sums[level] = _plus(sums.get(level), tf.reduce_sum(rows**2, 1))
            is_counted = False
            if level == end:
                return _outer_products(rows) if end > min(self.needed) else None
            rows = _product(rows * inputs[str(level)][:, None], self.levels[level - 1].kernel)
            level -= 1

    def _up(self, level: int, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns the derivatives of the top level's first values by those of a level, (data, width, top's width)."""
        columns = self.levels[level].kernel * inputs[str(level + 1)][:, None]
        for index in range(level + 1, self.top):
            columns = _product(columns, tf.transpose(self.levels[index].kernel)) * inputs[str(index + 1)][:, None]
        return columns

    def _squares(self, columns, inputs, with_matrix: bool) -> tuple[tf.Tensor, Optional[tf.Tensor]]:
        """Returns the diagonal of M (data, width) from derivatives by the level's values, and M if asked for."""
        if not self.is_shared:
            outer = _product(columns, self.rows) * tf.sqrt(inputs["outer"])[:, None]
            matrix = _outer_products(tf.transpose(outer, (0, 2, 1))) if with_matrix else None
            return tf.reduce_sum(outer**2, -1), matrix
        if with_matrix:
            whole = self.gram + tf.transpose(tf.linalg.set_diag(self.gram, tf.zeros_like(self.inner[0])))
            matrix = tf.matmul(_product(columns, whole), columns, transpose_b=True)
            return tf.nn.relu(tf.linalg.diag_part(matrix)), matrix
        total = None
        for start, stop in plans.strips(self.gram.shape[0]):
            # What is left of a strip's own square stands for its mirror image too.
            square = self.gram[start:stop, start:stop]
            square += tf.transpose(tf.linalg.set_diag(square, tf.zeros_like(self.inner[0, start:stop])))
            half = tf.concat([2 * self.gram[start:stop, :start], square], 1)
            products = _product(columns[..., :stop], half) * columns[..., start:stop]
            total = _plus(total, tf.reduce_sum(products, -1))
        return tf.nn.relu(total), None

    def _datum_values(self) -> int:
        """Returns how many values are kept for one datum at a time."""
        widths = self.widths[min(self.needed) : self.top + 1]
        if self.plan.start == plans.COLUMNS:
            last = 0 if self.is_shared else self.widths[-1]
            first = 2 * max(self.widths[level] for level in self.plan.levels) * max(*widths, last)
        else:
            first = 2 * max(stop - start for start, stop in plans.strips(self.rows.shape[0])) * max(widths)
        roots = [self.widths[stop] * (self.widths[stop] + 2 * max(widths)) for stop in self.plan.stops]
        return max(first, *roots, 1)


def root(matrix: tf.Tensor) -> tuple[tf.Tensor, float]:
    """Returns upper triangular R with R^T R = M + jitter diag(M), and jitter, for positive semidefinite M (..., n, n).

    The jitter is a few units of rounding, relative to each value's own diagonal: a value that nothing depends on keeps
    zeros. Only the lower half of M is read.
    """
    size = matrix.shape[-1]
    jitter = 8.0 * size**0.5 * (2.0**-52 if matrix.dtype == tf.float64 else 2.0**-23)
    scale = tf.sqrt(tf.nn.relu(tf.linalg.diag_part(matrix)))
    inverse = tf.math.divide_no_nan(tf.ones_like(scale), scale)
    unit = matrix * inverse[..., :, None] * inverse[..., None, :]
    unit = tf.linalg.set_diag(unit, tf.fill(tf.shape(scale), tf.constant(1.0 + jitter, matrix.dtype)))
    return tf.linalg.matrix_transpose(_cholesky(unit)) * scale[..., None, :], jitter


def _cholesky(matrix: tf.Tensor) -> tf.Tensor:
    """Returns lower Cholesky factors; those of small matrices written out, which XLA compiles and runs far faster."""
    size = matrix.shape[-1]
    if size > SMALL:
        return tf.linalg.cholesky(matrix)
    columns = []
    for index in range(size):
        below = tf.cast(tf.range(size) >= index, matrix.dtype)
        column = below * matrix[..., :, index] * tf.math.rsqrt(matrix[..., index, index, None])
        matrix -= column[..., :, None] * column[..., None, :]
        columns.append(column)
    return tf.stack(columns, -1)


def _lower_gram(kernel: tf.Tensor, weights: tf.Tensor, num: int = 4) -> tf.Tensor:
    """Returns the lower half of kernel diag(weights) kernel^T and zeros, by strips that end at the diagonal."""
    size, weighted = kernel.shape[0], kernel * weights
    edges = [size * index // num for index in range(num + 1)]
    strips = [
        tf.pad(tf.matmul(kernel[start:stop], weighted[:stop], transpose_b=True), [[0, 0], [0, size - stop]])
        for start, stop in zip(edges, edges[1:])
        if stop > start
    ]
    return tf.linalg.band_part(tf.concat(strips, 0), -1, 0)


def _product(rows: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns rows kernel^T for rows (data, rows, width): one large product."""
    flat = tf.matmul(tf.reshape(rows, (-1, rows.shape[-1])), kernel, transpose_b=True)
    return tf.reshape(flat, (-1, rows.shape[1], kernel.shape[0]))


def _outer_products(rows: tf.Tensor) -> tf.Tensor:
    """Returns the sums over rows (data, rows, width) of their outer products, (data, width, width)."""
    if rows.shape[-1] <= SMALL:
        return tf.reduce_sum(rows[..., :, None] * rows[..., None, :], 1)
    return tf.matmul(rows, rows, transpose_a=True)


def _plus(total: Optional[tf.Tensor], more: Optional[tf.Tensor]) -> Optional[tf.Tensor]:
    return more if total is None else total + more


def _levels(run: record.Record, steps: Sequence[Step]) -> list[Level]:
    """Returns the levels of a `line`."""
    parts: list[list[Step]] = [[]]
    for step in steps:
        if _is_dense(step):
            parts.append([step])
        else:
            parts[-1].append(step)
    levels = []
    for steps, following in zip(parts, [*parts[1:], [None]]):
        above = following[0]
        last = run.output if above is None else run.inputs[above]
        slope = tf.ones_like(_flat(last))
        for step in steps:
            one = _slope(run, step)
            slope = slope if one is None else slope * one
        kernel = None if above is None else registry.weight(above.layer.kernel, slope.dtype)
        levels.append(Level(steps, slope, kernel))
    return levels


def _weights(run: record.Record, steps: Sequence[Step], m: tf.Tensor, chosen: set[Step], found: dict) -> None:
    """Writes the diagonals of the chosen steps of a level into `found`, from the diagonal m by its last values."""
    for step in reversed(steps):
        if step in chosen:
            found[step] = _squares(run, step, m)
        slope = _slope(run, step)
        m = m if slope is None else m * slope**2


def _squares(run: record.Record, step: Step, m: tf.Tensor) -> list[tf.Tensor]:
    """Returns the diagonals of a step from the diagonal m (batch or 1, width) by its output."""
    a = run.inputs[step]
    if m.shape[0] == 1 and _is_dense(step):
        # All data share the factor m.
        found = {id(step.layer.kernel): tf.reduce_sum(a**2, 0)[:, None] * m}
        if step.layer.use_bias:
            found[id(step.layer.bias)] = tf.cast(pieces.size(a, 0), m.dtype) * m[0]
        return registry.in_order(step.layer, found)
    # A weight of such a layer touches one value of a datum, so only the diagonal of M matters.
    delta = tf.broadcast_to(tf.sqrt(m), (pieces.size(a, 0), m.shape[-1]))
    return run.rule(step).squares(step.layer, a, tf.reshape(delta, (1, -1, *run.outputs[step].shape[1:])))


def _slope(run: record.Record, step: Step) -> Optional[tf.Tensor]:
    """Returns the derivative of a step's output by its input (batch, values), or None for ones."""
    rule = run.rule(step)
    return None if _is_dense(step) or rule.slope is None else _flat(rule.slope(step.layer, run.inputs[step]))


def _flat(values: tf.Tensor) -> tf.Tensor:
    size = tf.TensorShape(values.shape[1:]).num_elements()
    return tf.reshape(values, (pieces.size(values, 0), size))


def _is_dense(step: Step) -> bool:
    return step.activation is None and type(step.layer) is keras.layers.Dense


def _is_linear(run: record.Record, step: Step) -> bool:
    return run.rule(step).is_linear


def is_shared(hessian: OutputHessian) -> bool:
    """Whether H is the same for all data."""
    return hessian.is_shared or (isinstance(hessian, FromLikelihood) and hessian.likelihood.has_shared_precision)
