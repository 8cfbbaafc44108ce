"""What a network is made of, as the curvature sees it: steps in a line, branches that part and join, and webs."""

import dataclasses
from typing import Any, Callable, Iterator, Optional, Sequence, Union

import keras
import tensorflow as tf

from pae_zoo.core.errors import UserError

# Layers that join tensors value by value, and the one that lays them side by side.
BY_VALUE = (keras.layers.Add, keras.layers.Subtract, keras.layers.Average, keras.layers.Multiply, keras.layers.Maximum,
            keras.layers.Minimum)  # fmt: skip
MERGES = (*BY_VALUE, keras.layers.Concatenate)


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One layer at inference, or the activation that belongs to one.

    Args:
      layer: the Keras layer.
      activation: None, or the function of single values that this step is; the layer is then the one it comes from.
    """

    layer: keras.Layer
    activation: Optional[Callable[[tf.Tensor], tf.Tensor]] = None

    @property
    def name(self) -> str:
        """The layer's name, for messages."""
        return self.layer.name if self.activation is None else f"{self.layer.name} (its activation)"

    @property
    def variables(self) -> list[keras.Variable]:
        """The trainable variables of the step, in Keras' order; an activation has none."""
        return [] if self.activation is not None else list(self.layer.trainable_variables)

    def flat(self) -> Iterator["Step"]:
        """Yields the step itself."""
        yield self


@dataclasses.dataclass(frozen=True, eq=False)
class Parallel:
    """Chains that take the same input, joined by `merge`, one of `MERGES` or its operation; a chain may be empty."""

    merge: Any
    branches: tuple["Chain", ...]

    def flat(self) -> Iterator[Step]:
        """Yields every single step of the branches, one branch after another."""
        for branch in self.branches:
            yield from branch.flat()


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One node of a web.

    Args:
      item: a step, or what joins tensors, one of `MERGES` or its operation.
      inputs: where it takes them from: 0 is the web's input, n the output of its node number n - 1.
    """

    item: Any
    inputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Web:
    """Steps between one input and one output whose branches cross, in an order that they can be computed in."""

    nodes: tuple[Node, ...]

    def flat(self) -> Iterator[Step]:
        """Yields every single step."""
        for node in self.nodes:
            if isinstance(node.item, Step):
                yield node.item


Part = Union[Step, Parallel, Web]


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """Steps one after another."""

    steps: tuple[Part, ...]

    def flat(self) -> Iterator[Step]:
        """Yields every single step, those of branches too, from the input to the output."""
        for step in self.steps:
            yield from step.flat()


def kind(merge: Any) -> Optional[type]:
    """Returns which of `MERGES` a layer is, or does the same as an operation such as a + b; None: none of them."""
    if type(merge) in MERGES:
        return type(merge)
    is_operation = isinstance(merge, keras.Operation) and not isinstance(merge, keras.Layer)
    if is_operation and type(merge).__module__.startswith("keras."):
        return next((layer for layer in MERGES if layer.__name__ == type(merge).__name__), None)
    return None


def merge(how: Any, values: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns tensors (B, ...) joined as `how` of `MERGES` does it; raises UserError for data joined with data."""
    if kind(how) is keras.layers.Concatenate:
        return tf.concat(list(values), axis=axis_of(how, values[0].shape.rank))
    return how.call(list(values)) if isinstance(how, keras.Layer) else how.call(*values)


def axis_of(how: Any, rank: int) -> int:
    """Returns the axis of a concatenation of tensors of so many axes."""
    axis = how.axis % rank
    if axis == 0:
        raise UserError(f"{how.name!r} joins tensors along the axis of the data; the curvature is a sum over data. "
                        "Take another axis.")
    return axis


def adds(how: Any, values: Sequence[tf.Tensor]) -> bool:
    """Whether `how` is the sum of tensors of one shape, whose derivatives are the identity."""
    return kind(how) is keras.layers.Add and len({tuple(value.shape[1:]) for value in values}) == 1


def slopes(how: Any, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the derivative by each tensor of what is joined value by value, shaped as they are.

    Raises UserError for tensors of different shapes, whose values are used several times.
    """
    if adds(how, values):
        return [tf.ones_like(value) for value in values]
    if len({tuple(value.shape[1:]) for value in values}) > 1:
        raise UserError(f"{how.name!r} joins tensors of shapes {[tuple(value.shape[1:]) for value in values]}, through "
                        "which no diagonals are carried; take method='exact' or 'mc' for curvatures, output='exact' or "
                        "samples for variances.")
    values = list(values)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        value = merge(how, values)
    return tape.gradient(value, values)
