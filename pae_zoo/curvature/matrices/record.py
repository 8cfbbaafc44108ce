"""A forward pass that keeps what backward passes need, and backward passes of many rows at once."""

import dataclasses
from typing import Any, Callable, Iterable, Optional, Sequence

import keras
import tensorflow as tf

from pae_zoo.curvature.network import pieces
from pae_zoo.curvature.network import steps as network_steps
from pae_zoo.curvature.network.graph import Block, Chain, Graph, Parallel, Part, Step, Web
from pae_zoo.curvature.rules import registry

Visit = Callable[[Step, tf.Tensor], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """What the steps of a network were given and gave, for one batch.

    Args:
      graph: the network.
      inputs: for each step its input (B, *in).
      outputs: for each step, Parallel and Web, its output (B, *out); of a layer, before its activation.
      inside: for each Web its input, and the outputs of its nodes.
      output: the network's output (B, *event).
      fallback: whether layers without a rule are differentiated automatically.
    """

    graph: Graph
    inputs: dict[Part, tf.Tensor]
    outputs: dict[Part, tf.Tensor]
    inside: dict[Web, list[tf.Tensor]]
    output: tf.Tensor
    fallback: bool = False

    def rule(self, step: Step) -> registry.Rule:
        """Returns the step's rule."""
        return registry.of_step(step, self.fallback)

    def vjp(self, step: Step, delta: tf.Tensor) -> tf.Tensor:
        """Returns rows (R, B, *in) by the input of a step from rows by its output."""
        return self.rule(step).vjp(step.layer, self.inputs[step], delta)

    def cotangents(self, rows: tf.Tensor, blocks: Optional[Sequence[Block]] = None) -> dict[Step, tf.Tensor]:
        """Returns the rows (R, B, *out) by the output of every use of the weights of `blocks` (default: all).

        `rows` (R, B, *event) are by the network's output. One pass for all rows; it stops at the first chosen step.
        """
        blocks = self.graph.blocks if blocks is None else blocks
        found: dict[Step, tf.Tensor] = {}
        self.backward(rows, self.uses(self.graph.step_of(block) for block in blocks), found.__setitem__)
        return {step: found[step] for step in self.graph.chain.flat() if step in found}

    def uses(self, steps: Iterable[Step]) -> list[Step]:
        """Returns the steps and all others that have their weights."""
        return [use for step in steps for use in self.graph.uses(step)]

    def backward(self, rows: tf.Tensor, chosen: Iterable[Step], visit: Visit) -> None:
        """Calls visit(step, delta (R, B, *out)) for each chosen step, from the output on, and stops after the last."""
        self.descend(self.graph.chain.steps, rows, set(chosen), visit)

    def until(self, rows: tf.Tensor, step: Part) -> tf.Tensor:
        """Returns rows (R, B, *out) by the output of `step`, a step of the main line, from rows by the network's."""
        steps = self.graph.chain.steps
        return self.descend(steps[steps.index(step) + 1 :], rows, set(), None, to_input=True)

    def descend(
        self,
        steps: Sequence[Part],
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
            below = below or any(one in chosen for one in step.flat())
        for step, further in reversed(list(zip(steps, needed))):
            if not isinstance(step, Step):
                if isinstance(step, Parallel):
                    rows = self._through(step, rows, chosen, visit, further)
                else:
                    rows = self._through_web(step, rows, chosen, visit, further)
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
        parts = split(parallel.merge, rows, self.ends(parallel))
        found = [
            self.descend(branch.steps, part, chosen, visit, to_input=further)
            for branch, part in zip(parallel.branches, parts)
        ]
        return tf.add_n(found) if further else rows

    def _through_web(self, web: Web, rows, chosen, visit, further: bool) -> tf.Tensor:
        values, wanted = self.inside[web], [further]
        for node in web.nodes:
            wanted.append(node.item in chosen or any(wanted[place] for place in node.inputs))
        # Rows by each value, as far as those who use it are done.
        found: list[Optional[tf.Tensor]] = [*[None] * len(web.nodes), rows]
        for place in reversed(range(1, len(values))):
            node, delta = web.nodes[place - 1], found[place]
            if delta is None:
                continue
            if isinstance(node.item, Step):
                if visit is not None and node.item in chosen:
                    visit(node.item, delta)
                parts = [self.vjp(node.item, delta)] if wanted[node.inputs[0]] else [None]
            else:
                parts = split(node.item, delta, [values[one] for one in node.inputs])
            for one, part in zip(node.inputs, parts):
                if part is not None and wanted[one]:
                    before = found[one]
                    found[one] = part if before is None else before + part
        first = found[0]
        return rows if first is None else first

    def ends(self, parallel: Parallel) -> list[tf.Tensor]:
        """Returns the outputs (B, *out) of the branches, which are joined."""
        return [self.outputs[branch.steps[-1]] if branch.steps else self.inputs[parallel]
                for branch in parallel.branches]


def forward(graph: Graph, x: tf.Tensor, fallback: bool = False) -> Record:
    """Runs the network at inference on x (B, *event), in the precision of x, and keeps every step's input and output.

    Raises UserError for a layer without a rule, unless `fallback`.
    """
    inputs: dict = {}
    outputs: dict = {}
    inside: dict = {}

    def run(chain: Chain, value: tf.Tensor) -> tf.Tensor:
        for step in chain.steps:
            inputs[step] = value
            if isinstance(step, Parallel):
                value = network_steps.merge(step.merge, [run(branch, value) for branch in step.branches])
            elif isinstance(step, Web):
                inside[step] = [value]
                for node in step.nodes:
                    inside[step].append(of_node(node, [inside[step][place] for place in node.inputs]))
                value = inside[step][-1]
            else:
                value = registry.of_step(step, fallback).forward(step.layer, value)
            outputs[step] = value
        return value

    def of_node(node, given: list[tf.Tensor]) -> tf.Tensor:
        if isinstance(node.item, Step):
            return run(Chain((node.item,)), given[0])
        return network_steps.merge(node.item, given)

    return Record(graph, inputs, outputs, inside, run(graph.chain, x), fallback)


def split(merge: Any, rows: tf.Tensor, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the rows (R, B, *out) by each of the values (B, *out) that `merge` joins, from rows by what it gives."""
    if network_steps.adds(merge, values):
        return [rows] * len(values)
    if network_steps.kind(merge) is keras.layers.Concatenate:
        axis = network_steps.axis_of(merge, values[0].shape.rank)
        return tf.split(rows, [value.shape[axis] for value in values], axis=axis + 1)
    num_rows = pieces.size(rows, 0)
    points = [registry.tile(value, num_rows) for value in values]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(points)
        joined = network_steps.merge(merge, points)
    found = tape.gradient(joined, points, output_gradients=registry.fold(rows))
    return [registry.unfold(one, num_rows) for one in found]
