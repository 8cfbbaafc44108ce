"""A forward pass that keeps what backward passes need, and backward passes of many rows at once."""

import dataclasses
from typing import Callable, Iterable, Optional, Sequence, Union

import keras
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.network.graph import Block, Chain, Graph, Parallel, Step
from pae_zoo.curvature.rules import registry

Visit = Callable[[Step, tf.Tensor], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """What the steps of a network were given and gave, for one batch.

    Args:
      graph: the network.
      inputs: for each step its input (B, *in).
      outputs: for each step, and each Parallel, its output (B, *out); of a layer, before its activation.
      output: the network's output (B, *event).
      fallback: whether layers without a rule are differentiated automatically.
    """

    graph: Graph
    inputs: dict[Union[Step, Parallel], tf.Tensor]
    outputs: dict[Union[Step, Parallel], tf.Tensor]
    output: tf.Tensor
    fallback: bool = False

    def rule(self, step: Step) -> registry.Rule:
        """Returns the step's rule."""
        return registry.of_step(step, self.fallback)

    def vjp(self, step: Step, delta: tf.Tensor) -> tf.Tensor:
        """Returns rows (R, B, *in) by the input of a step from rows by its output."""
        return self.rule(step).vjp(step.layer, self.inputs[step], delta)

    def cotangents(self, rows: tf.Tensor, blocks: Optional[Sequence[Block]] = None) -> dict[Step, tf.Tensor]:
        """Returns the rows (R, B, *out) by the output of every step with weights of `blocks` (default: all).

        `rows` (R, B, *event) are by the network's output. One pass for all rows; it stops at the first chosen step.
        """
        blocks = self.graph.blocks if blocks is None else blocks
        found: dict[Step, tf.Tensor] = {}
        self.backward(rows, [self.graph.step_of(block) for block in blocks], found.__setitem__)
        return {step: found[step] for step in self.graph.chain.flat() if step in found}

    def backward(self, rows: tf.Tensor, chosen: Iterable[Step], visit: Visit) -> None:
        """Calls visit(step, delta (R, B, *out)) for each chosen step, from the output on, and stops after the last."""
        self.descend(self.graph.chain.steps, rows, set(chosen), visit)

    def until(self, rows: tf.Tensor, step: Union[Step, Parallel]) -> tf.Tensor:
        """Returns rows (R, B, *out) by the output of `step`, a step of the main line, from rows by the network's."""
        steps = self.graph.chain.steps
        return self.descend(steps[steps.index(step) + 1 :], rows, set(), None, to_input=True)

    def descend(
        self,
        steps: Sequence[Union[Step, Parallel]],
        rows: tf.Tensor,
        chosen: set[Step],
        visit: Optional[Visit],
        to_input: bool = False,
    ) -> tf.Tensor:
        """Takes rows by the output of `steps`, some in a row, through them; returns them where they ended.

        That is the input if `to_input` asks for it, else the first step below which nothing is chosen.
        """
        # Steps above which a chosen one lies further down.
        needed, below = [], to_input
        for step in steps:
            needed.append(below)
            below = below or any(one in chosen for one in _single(step))
        for step, further in reversed(list(zip(steps, needed))):
            if isinstance(step, Parallel):
                rows = self._through(step, rows, chosen, visit, further)
                if not further:
                    return rows
                continue
            if visit is not None and step in chosen:
                visit(step, rows)
            if not further:
                return rows
            rows = self.vjp(step, rows)
        return rows

    def _through(self, parallel: Parallel, rows, chosen, visit, further: bool) -> tf.Tensor:
        parts = split(parallel, rows, [self._end(parallel, branch).shape for branch in parallel.branches])
        found = [
            self.descend(branch.steps, part, chosen, visit, to_input=further)
            for branch, part in zip(parallel.branches, parts)
        ]
        return tf.add_n(found) if further else rows

    def _end(self, parallel: Parallel, branch: Chain) -> tf.Tensor:
        return self.outputs[branch.steps[-1]] if branch.steps else self.inputs[parallel]


def forward(graph: Graph, x: tf.Tensor, fallback: bool = False) -> Record:
    """Runs the network at inference on x (B, *event), in the precision of x, and keeps every step's input and output.

    Raises UserError for a layer without a rule, unless `fallback`.
    """
    inputs: dict = {}
    outputs: dict = {}

    def run(chain: Chain, value: tf.Tensor) -> tf.Tensor:
        for step in chain.steps:
            inputs[step] = value
            if isinstance(step, Parallel):
                value = merge(step, [run(branch, value) for branch in step.branches])
            else:
                value = registry.of_step(step, fallback).forward(step.layer, value)
            outputs[step] = value
        return value

    return Record(graph, inputs, outputs, run(graph.chain, x), fallback)


def merge(parallel: Parallel, values: Sequence[tf.Tensor]) -> tf.Tensor:
    """Joins the outputs of branches; raises UserError for sums of tensors of different shapes."""
    if isinstance(parallel.merge, keras.layers.Concatenate):
        return tf.concat(list(values), axis=_axis(parallel, values[0].shape.rank))
    shapes = {tuple(value.shape[1:]) for value in values}
    if len(shapes) > 1:
        raise UserError(f"{parallel.merge.name!r} adds tensors of shapes {sorted(shapes)}; the curvature adds equal "
                        "shapes only.")
    return tf.add_n(list(values))


def split(parallel: Parallel, rows: tf.Tensor, shapes: Sequence[tf.TensorShape]) -> list[tf.Tensor]:
    """Returns the rows (R, B, *out) that each branch gets, for branches with outputs of `shapes` (B, *out)."""
    if not isinstance(parallel.merge, keras.layers.Concatenate):
        return [rows] * len(shapes)
    axis = _axis(parallel, shapes[0].rank)
    return tf.split(rows, [shape[axis] for shape in shapes], axis=axis + 1)


def _axis(parallel: Parallel, rank: int) -> int:
    axis = parallel.merge.axis
    return axis % rank


def _single(step: Union[Step, Parallel]) -> Iterable[Step]:
    return [step] if isinstance(step, Step) else [one for branch in step.branches for one in branch.flat()]
