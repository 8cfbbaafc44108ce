"""Gauss-Newton diagonals from what is carried through the layers: diagonals, or full matrices where they are small.

M = J^T H J by the output of a layer starts as H and goes down: J_layer^T M J_layer. "approx" keeps its diagonal alone,
which loses what values have in common; "mix" keeps all of it where a layer has few values. Laplacian autoencoders:
arXiv 2206.15078, section 3.
"""

import warnings
from typing import Any, Callable, Iterable, NamedTuple, Optional, Sequence

import keras
import tensorflow as tf

from pae_zoo.core.errors import UserError, unknown
from pae_zoo.curvature.matrices import record
from pae_zoo.curvature.matrices.dense_exact import is_shared
from pae_zoo.curvature.matrices.hessians import Categorical, OutputHessian
from pae_zoo.curvature.matrices.sweeps import root_of
from pae_zoo.curvature.network import pieces
from pae_zoo.curvature.network import steps as network_steps
from pae_zoo.curvature.network.graph import Block, Chain, Graph, Parallel, Part, Step
from pae_zoo.curvature.rules import propagation, registry

DENSE = "dense"
# Full matrices of one location take about so many times their own bytes while they are carried.
COPIES = 6


class State(NamedTuple):
    """M by some output: its diagonal m (batch, *event), batch 1 if equal for all; or M itself (batch, n, n)."""

    m: Optional[tf.Tensor] = None
    full: Optional[tf.Tensor] = None

    @property
    def diagonal(self) -> tf.Tensor:
        """The diagonal, of a state that is not carried in full."""
        assert self.m is not None
        return self.m


def diagonal(
    graph: Graph,
    x: tf.Tensor,
    hessian: OutputHessian,
    blocks: Sequence[Block],
    full_width: int = 0,
    *,
    pattern: Optional[str] = None,
    memory: float = 2048,
    fallback: bool = False,
) -> list[tf.Tensor]:
    """Returns approximations of diag(sum_n J_n^T H_n J_n) for the weights of `blocks`, a tensor for each variable.

    All are non-negative. They are exact where M is diagonal wherever it is carried as such and goes on through a layer
    that mixes values: for the last layer with weights, for the last two if dense with single values between them, and
    for all if `full_width` is at least the width of every layer. A sum of two branches counts what they have in common
    where that is known without carrying rows: for an identity and a branch of up to two dense layers; elsewhere it is
    left out.

    Args:
      graph: the network.
      x: (batch, *event).
      hessian: H by the output.
      blocks: the chosen weights, in order.
      full_width: M is carried in full between layers of up to so many values; 0: nowhere, the method "approx".
      pattern: "dense" carries M in full from the input of the last dense layer that a Reshape follows down to the
        nearest dense layer that follows a Flatten, as the paper's code does, instead of by `full_width`. Warns where
        there is no such layer, so that nothing is carried in full.
      memory: MiB that full matrices may take; raises UserError where those of one datum take more.
      fallback: whether layers without a rule are differentiated automatically.
    """
    chosen = {graph.step_of(block) for block in blocks}
    if pattern not in (None, DENSE):
        raise unknown("pattern", pattern, (None, DENSE))
    full = None if pattern is None else _between_dense(graph)

    def some(x: tf.Tensor, mask: Optional[tf.Tensor]) -> list[tf.Tensor]:
        run = record.forward(graph, x, fallback)
        hessian.check(run.output)
        found = _Pass(run, chosen, full_width, full).run(hessian, mask)
        return [one for block in blocks for one in found[graph.step_of(block)]]

    num, per_datum = pieces.size(x, 0), 0
    if full_width or full:
        per_datum = _full_bytes(record.forward(graph, x[:1], fallback), full_width, full)
    if per_datum > memory * 2**20:
        raise UserError(f"Carrying matrices in full takes {per_datum / 2**20:.3g} MiB for each datum, "
                        f"memory={memory:g} allows less. Lower mix_width={full_width}, or raise memory.")
    piece = int(memory * 2**20) // max(per_datum, 1)
    if not per_datum or (isinstance(num, int) and num <= piece):
        return some(x, None)
    mask, padded = pieces.pad(tf.ones((num,), x.dtype), 0, piece), pieces.pad(x, 0, piece)
    shapes = [tuple(variable.shape) for block in blocks for variable in block.variables]
    return pieces.total(
        lambda index: some(pieces.cut(padded, 0, index, piece), pieces.cut(mask, 0, index, piece)),
        -(-num // piece), shapes, x.dtype)


class _Pass:
    """One way from the output of a network to its first chosen weights.

    Args:
      run: the recorded forward pass.
      chosen: steps whose diagonals are wanted.
      full_width: M is full by outputs of up to so many values.
      full: where given, M is full by the inputs of these steps, and by no others.
    """

    def __init__(
        self, run: record.Record, chosen: set[Step], full_width: int, full: Optional[set[Part]]
    ):
        self.record, self.chosen, self.full_width, self.full = run, chosen, full_width, full
        self.found: dict[Step, list[tf.Tensor]] = {}

    def run(self, hessian: OutputHessian, mask: Optional[tf.Tensor]) -> dict[Step, list[tf.Tensor]]:
        """Returns the diagonals by step; data whose `mask` is 0 do not count."""
        output = self.record.output
        if self.full is None and _size(output) <= self.full_width:
            state = State(full=_full_hessian(hessian, output))
        else:
            state = State(m=_diagonal_hessian(hessian, output))
        if mask is not None:
            state = State(*(None if one is None else one * tf.reshape(mask, (-1, *[1] * (one.shape.rank - 1)))
                            for one in state))
        self._descend(self.record.graph.chain, state, False)
        return self.found

    def _descend(self, chain: Chain, state: State, to_input: bool) -> State:
        """Takes M through a chain; returns it where it ended, by the chain's input if that is asked for."""
        needed, below = [], to_input
        for step in chain.steps:
            needed.append(below)
            below = below or any(one in self.chosen for one in step.flat())
        for step, further in reversed(list(zip(chain.steps, needed))):
            if isinstance(step, Parallel):
                state = self._parallel(step, state, further)
            elif not isinstance(step, Step):
                raise UserError("Diagonals are carried through branches that part and join; those of "
                                f"{self.record.graph.models[-1].name!r} cross. Take method='exact', 'mc' or 'hybrid'.")
            else:
                if step in self.chosen:
                    self.found[step] = self._weights(step, state)
                state = self._input(step, state) if further else state
            if not further:
                break
        return state

    def _weights(self, step: Step, state: State) -> list[tf.Tensor]:
        rule, a = self.record.rule(step), self.record.inputs[step]
        if state.full is not None:
            if rule.full_weights is not None:
                return rule.full_weights(step.layer, a, state.full)
            rows = _rows(state.full, self.record.outputs[step])
            return rule.squares(step.layer, a, rows)
        if rule.diag_weights is not None:
            return rule.diag_weights(step.layer, a, state.diagonal)
        shapes = [tuple(variable.shape) for variable in step.variables]
        return self._by_unit_rows(
            state.diagonal, self.record.outputs[step], a, lambda rows: rule.squares(step.layer, a, rows), shapes)

    def _input(self, step: Step, state: State) -> State:
        """Returns M by the input of a step from M by its output."""
        rule, a, y = self.record.rule(step), self.record.inputs[step], self.record.outputs[step]
        to_full = self._is_full(step)
        if rule.slope is not None:
            return self._scaled(state, rule.slope(step.layer, a), to_full)
        if state.full is None and not to_full:
            known = _softmax_rule(step) if step.activation is not None else rule.diag_input
            if known is not None:
                return State(m=known(step.layer, a, y, state.m))
        if state.full is not None and to_full and rule.full_input is not None:
            return State(full=rule.full_input(step.layer, a, y, state.full))
        return self._by_rows([step], state, a, y, to_full)

    def _scaled(self, state: State, slope: tf.Tensor, to_full: bool) -> State:
        """Returns M by the input of a function of single values."""
        flat = _flat(slope)
        if state.full is not None:
            full = state.full * flat[:, :, None] * flat[:, None, :]
            return State(full=full) if to_full else State(m=tf.reshape(tf.linalg.diag_part(full), tf.shape(slope)))
        m = state.diagonal * slope**2
        return State(full=tf.linalg.diag(_flat(m))) if to_full else State(m=m)

    def _by_rows(self, steps: list, state: State, a: tf.Tensor, y: tf.Tensor, to_full: bool) -> State:
        """Returns M by the input a of steps from rows of its root by their output y."""

        def down(rows: tf.Tensor) -> list[tf.Tensor]:
            rows = self.record.descend(steps, rows, set(), None, to_input=True)
            if not to_full:
                return [tf.reduce_sum(rows**2, 0)]
            rows = tf.reshape(rows, (pieces.size(rows, 0), -1, _size(a)))
            return [tf.einsum("rbi,rbj->bij", rows, rows)]

        if state.full is not None:
            (found,) = down(_rows(state.full, y))
        else:
            shape = (pieces.size(a, 0), _size(a), _size(a)) if to_full else (pieces.size(a, 0), *a.shape[1:])
            (found,) = self._by_unit_rows(state.diagonal, y, a, down, [shape])
        return State(full=found) if to_full else State(m=found)

    def _by_unit_rows(
        self, m: tf.Tensor, y: tf.Tensor, a: tf.Tensor, function: Callable, shapes: Sequence
    ) -> list[tf.Tensor]:
        """Returns the sums of function(rows) over all rows of the root of Diag(m), a few at a time."""
        num, size = pieces.size(y, 0), _size(y)
        root_m = tf.sqrt(_flat(tf.broadcast_to(m, tf.shape(y))))
        bytes_of_row = 4 * y.dtype.size * max(size, _size(a)) * (num if isinstance(num, int) else 128)
        piece = max(1, min(size, pieces.work_limit() // bytes_of_row))

        def some(index: tf.Tensor) -> list[tf.Tensor]:
            unit = tf.one_hot(index * piece + tf.range(piece), size, dtype=y.dtype)
            return function(tf.reshape(unit[:, None] * root_m, (piece, num, *y.shape[1:])))

        return pieces.total(some, -(-size // piece), shapes, y.dtype)

    def _parallel(self, parallel: Parallel, state: State, further: bool) -> State:
        run = self.record
        a, y = run.inputs[parallel], run.outputs[parallel]
        ends = run.ends(parallel)
        to_full = further and self._is_full(parallel)
        # Rows carry what branches have in common, diagonals do not.
        by_rows = further and (state.full is not None or to_full)
        found = [
            self._descend(branch, part, further and not by_rows)
            for branch, part in zip(parallel.branches, self._split(parallel, state, ends))
        ]
        if not further:
            return state
        if by_rows:
            return self._by_rows([parallel], state, a, y, to_full)
        m = tf.add_n([tf.broadcast_to(one.diagonal, tf.shape(a)) for one in found])
        if network_steps.kind(parallel.merge) is keras.layers.Add:
            m = tf.nn.relu(m + 2 * state.diagonal * self._common(parallel, a))
        return State(m=m)

    def _split(self, parallel: Parallel, state: State, ends: Sequence[tf.Tensor]) -> list[State]:
        """Returns M by the end of each branch."""
        if network_steps.kind(parallel.merge) is not keras.layers.Concatenate:
            return [state if network_steps.adds(parallel.merge, ends) else self._scaled(state, slope, state.m is None)
                    for slope in network_steps.slopes(parallel.merge, ends)]
        if state.m is not None:
            parts = record.split(parallel.merge, state.m[None], ends)
            return [State(m=part[0]) for part in parts]
        y = self.record.outputs[parallel]
        numbers = tf.reshape(tf.range(_size(y)), (1, 1, *y.shape[1:]))
        parts = [tf.reshape(part, (-1,)) for part in record.split(parallel.merge, numbers, ends)]
        return [State(full=tf.gather(tf.gather(state.full, part, axis=1), part, axis=2)) for part in parts]

    def _common(self, parallel: Parallel, a: tf.Tensor) -> tf.Tensor:
        """Returns the sum over pairs of an identity and another branch F of diag(J_F), where it is known."""
        identities = sum(not branch.steps for branch in parallel.branches)
        total = tf.zeros_like(a) + identities * (identities - 1) / 2
        for branch in parallel.branches:
            known = self._own_slopes(branch) if branch.steps and identities else None
            if known is not None:
                total += identities * known
        return total

    def _own_slopes(self, branch: Chain) -> Optional[tf.Tensor]:
        """Returns diag(J) of a branch of functions of single values and up to two dense layers, else None."""
        slopes: list[Any] = [1.0]
        kernels: list[tf.Tensor] = []
        for step in branch.steps:
            if not isinstance(step, Step):
                return None
            rule = self.record.rule(step)
            if rule.slope is not None:
                slopes[-1] = slopes[-1] * rule.slope(step.layer, self.record.inputs[step])
            elif step.activation is None and type(step.layer) is keras.layers.Dense and len(kernels) < 2:
                kernels.append(registry.weight(step.layer.kernel, self.record.output.dtype))
                slopes.append(1.0)
            else:
                return None
        if len(kernels) == 2:
            first, second = kernels
            a = self.record.inputs[branch.steps[0]]
            middle = slopes[1] * tf.ones((*a.shape[:-1], first.shape[1]), a.dtype)
            return slopes[0] * slopes[2] * tf.tensordot(middle, tf.transpose(first) * second, 1)
        return slopes[0] * (tf.linalg.diag_part(kernels[0]) * slopes[1] if kernels else 1.0)

    def _is_full(self, step: Part) -> bool:
        """Whether M by the input of a step is carried in full."""
        if self.full is not None:
            return step in self.full
        return _size(self.record.inputs[step]) <= self.full_width


def _softmax_rule(step: Step) -> Optional[Callable]:
    return propagation.softmax_input if step.activation is keras.activations.softmax else None


def _between_dense(graph: Graph) -> set[Part]:
    """Returns the steps whose inputs have a full M by the pattern of the paper's code; warns if there are none."""
    steps, top = graph.chain.steps, None
    for index in reversed(range(len(steps) - 1)):
        # A Reshape that only gives the output its shape is none of theirs: dense networks there give vectors.
        closing = all(isinstance(step, Step) and not step.layer.weights for step in steps[index + 2 :])
        follows = _is(steps[index], keras.layers.Dense) and _is(steps[index + 1], keras.layers.Reshape)
        if top is None and follows and not closing:
            top = index
    if top is None:
        warnings.warn(
            "pattern='dense' finds no Dense layer that a Reshape to other layers follows directly, so that nothing "
            "is carried in full: the result is that of method='approx'. Take mix_width instead.", UserWarning,
            stacklevel=4)
        return set()
    found: set[Part] = set()
    for index in range(top, 0, -1):
        if _is(steps[index], keras.layers.Dense) and _is(steps[index - 1], keras.layers.Flatten):
            break
        found.add(steps[index])
        if isinstance(steps[index], Parallel):
            found.update(_all(steps[index]))
    else:
        found.add(steps[0])
    return found


def _is(step: Part, layer_class: type) -> bool:
    return isinstance(step, Step) and step.activation is None and type(step.layer) is layer_class


def _all(step: Part) -> Iterable[Part]:
    """Yields a step and those inside it."""
    yield step
    if isinstance(step, Parallel):
        for branch in step.branches:
            for one in branch.steps:
                yield from _all(one)


def _full_bytes(run: record.Record, full_width: int, full: Optional[set]) -> int:
    """Returns about how much the full matrices of one datum take at once."""
    widths = [0]
    for step, a in run.inputs.items():
        if step in full if full is not None else _size(a) <= full_width:
            widths.append(_size(a))
    if full is None and _size(run.output) <= full_width:
        widths.append(_size(run.output))
    return COPIES * run.output.dtype.size * max(widths) ** 2


def _diagonal_hessian(hessian: OutputHessian, output: tf.Tensor) -> tf.Tensor:
    """Returns the diagonal of H, for one datum if it is the same for all."""
    if isinstance(hessian, Categorical):
        p = tf.nn.softmax(output, axis=-1)
        return p * (1 - p)
    found = hessian.diagonal(output)
    if found is None:
        return tf.reduce_sum(hessian.root_rows(output, tf.constant(0), _size(output)) ** 2, 0)
    return found[:1] if is_shared(hessian) else found


def _full_hessian(hessian: OutputHessian, output: tf.Tensor) -> tf.Tensor:
    found = hessian.diagonal(output)
    if found is not None:
        return tf.linalg.diag(_flat(found))
    rows = hessian.root_rows(output, tf.constant(0), _size(output))
    rows = tf.reshape(rows, (_size(output), -1, _size(output)))
    return tf.einsum("rbi,rbj->bij", rows, rows)


def _rows(full: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Returns rows R (n, batch, *event) of M = R^T R by an output y."""
    # A Cholesky factor would not do: M of classes is singular, and its rounding may be larger than any safe jitter.
    return tf.reshape(tf.transpose(root_of(full), (1, 0, 2)), (_size(y), pieces.size(y, 0), *y.shape[1:]))


def _size(value: tf.Tensor) -> int:
    return value.shape[1:].num_elements()


def _flat(value: tf.Tensor) -> tf.Tensor:
    return tf.reshape(value, (pieces.size(value, 0), _size(value)))
