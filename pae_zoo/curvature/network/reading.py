"""From Keras layers and models to steps."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.network.steps import MERGES, Chain, Node, Parallel, Part, Step, Web, kind
from pae_zoo.networks import layers as zoo_layers

# Layers whose activation is a part of them, and becomes a step of its own.
_WITH_ACTIVATION = (
    keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D,
)  # fmt: skip
# The class that keras.Model makes of inputs and outputs, which has no public name.
_INPUT = keras.Input((1,))
_FUNCTIONAL = type(keras.Model(_INPUT, _INPUT))
_Key = tuple


def steps_of(layer: Any) -> list[Part]:
    """Returns the steps of a layer or model, nested ones unrolled, new ones at each call; raises UserError."""
    if isinstance(layer, keras.layers.InputLayer):
        return []
    # What a subclass with a call of its own computes is not what its layers do one after another.
    if isinstance(layer, keras.Sequential) and type(layer).call is keras.Sequential.call:
        return [step for inner in layer.layers for step in steps_of(inner)]
    if isinstance(layer, keras.Model) and hasattr(layer, "operations") and type(layer).call is _FUNCTIONAL.call:
        return _functional(layer)
    if isinstance(layer, keras.layers.Activation):
        activation: Any = layer.activation
        return [] if activation is keras.activations.linear else [Step(layer, activation)]
    normed = isinstance(layer, (zoo_layers.SpectralNorm, keras.layers.SpectralNormalization))
    inner: Any = layer.layer if normed else layer
    if isinstance(inner, _WITH_ACTIVATION) and inner.activation is not keras.activations.linear:
        following: Any = inner.activation
        return [Step(layer), Step(layer, following)]
    return [Step(layer)]


def _functional(model: keras.Model) -> list[Part]:
    """Returns the steps of a functional model: the line of tensors that all data pass, and what is between them."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(f"{model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; the "
                        "curvature needs one of each.")
    end = _key(model.outputs[0])
    nodes = _nodes(model.outputs[0])
    # above: the nearest tensor that all ways to a tensor lead through; depth: how many such there are.
    above: dict[_Key, _Key] = {}
    depth: dict[_Key, int] = {}
    parts: dict[_Key, Callable[[], list[Part]]] = {}
    for key, (operation, inputs) in nodes.items():
        if not inputs:
            depth[key] = 0
            continue
        above[key] = _common(inputs, above, depth)
        depth[key] = depth[above[key]] + 1
        parts[key] = lambda key=key: _between(key, nodes, above, parts)
        _check(operation, inputs, model.name)
    return _line(end, None, above, parts)


def _line(key: _Key, top: Any, above: dict, parts: dict) -> list[Part]:
    """Returns the steps from the tensor `top` (None: the input) to the tensor `key`."""
    found: list[list[Part]] = []
    while key in above and key != top:
        found.append(parts[key]())
        key = above[key]
    return [step for steps in reversed(found) for step in steps]


def _between(key: _Key, nodes: dict, above: dict, parts: dict) -> list[Part]:
    """Returns the steps to a tensor from the nearest one that all ways to it lead through."""
    operation, inputs = nodes[key]
    if len(inputs) == 1:
        return steps_of(operation)
    fork = above[key]
    reached = [_reached(one, fork, nodes) for one in inputs]
    if sum(map(len, reached)) == len(set().union(*reached)):
        branches = (Chain(tuple(_line(one, fork, above, parts))) for one in inputs)
        return [Parallel(operation, tuple(branches))]
    places, found = {fork: 0}, []
    inside = set().union(*reached)
    for one in (*(other for other in nodes if other in inside), key):
        operation, inputs = nodes[one]
        where = tuple(places[other] for other in inputs)
        for item in [operation] if len(inputs) > 1 else steps_of(operation):
            if not isinstance(item, Step) and len(inputs) == 1:
                # A model inside that has branches itself.
                found.extend(_spread(item, where[0], len(found)))
            else:
                found.append(Node(item, where))
            where = (len(found),)
        places[one] = where[0]
    return [Web(tuple(found))]


def _spread(part: Any, start: int, count: int) -> list[Node]:
    """Returns the nodes of branches or a web that take their input from place `start`, after `count` other nodes."""
    found: list[Node] = []
    if isinstance(part, Step):
        return [Node(part, (start,))]
    if isinstance(part, Web):
        place = lambda number: start if number == 0 else count + number  # noqa: E731
        return [Node(node.item, tuple(map(place, node.inputs))) for node in part.nodes]
    ends = []
    for branch in part.branches:
        end = start
        for step in branch.steps:
            found.extend(_spread(step, end, count + len(found)))
            end = count + len(found)
        ends.append(end)
    return [*found, Node(part.merge, tuple(ends))]


def _reached(key: _Key, fork: _Key, nodes: dict) -> set[_Key]:
    """Returns the tensors that lie on the ways from `fork`, which is none of them, to a tensor."""
    found, open_ends = set(), [key]
    while open_ends:
        one = open_ends.pop()
        if one != fork and one not in found:
            found.add(one)
            open_ends.extend(nodes[one][1])
    return found


def _common(inputs: Sequence[_Key], above: dict, depth: dict) -> _Key:
    """Returns the nearest tensor that all ways to all of `inputs` lead through."""
    first, *others = inputs
    for other in others:
        while first != other:
            if depth[first] < depth[other]:
                first, other = other, first
            first = above[first]
    return first


def _check(operation: Any, inputs: Sequence[_Key], name: str) -> None:
    if len(inputs) == 1 and not isinstance(operation, keras.Layer):
        raise UserError(f"{name!r} applies the operation {operation.name!r}, which is no layer; the curvature "
                        "knows layers only. Put it into a layer, with a rule by curvature.register_rule.")
    if len(inputs) > 1 and kind(operation) is None:
        raise UserError(f"{name!r} branches at {operation.name!r} ({type(operation).__name__}), which joins "
                        f"{len(inputs)} tensors; the curvature knows branches joined by the layers of Keras "
                        f"{', '.join(layer.__name__ for layer in MERGES)}, and their operations.")


def _key(tensor: Any) -> _Key:
    operation, *numbers = tensor._keras_history
    return (id(operation), *numbers)


def _nodes(output: Any) -> dict[_Key, tuple[Any, list[_Key]]]:
    """Returns {tensor: (what makes it, the tensors that it is made of)}, from the input to `output`."""
    found: dict[_Key, tuple[Any, list[_Key]]] = {}
    open_ends = [output]
    # Not by recursion, which ends at a depth that networks reach.
    while open_ends:
        tensor = open_ends[-1]
        operation, number, _ = tensor._keras_history
        is_input = isinstance(operation, keras.layers.InputLayer)
        inputs = [] if is_input else operation._inbound_nodes[number].input_tensors
        missing = [one for one in inputs if _key(one) not in found]
        if missing and _key(tensor) not in found:
            open_ends.extend(missing)
            continue
        open_ends.pop()
        found.setdefault(_key(tensor), (operation, [_key(one) for one in inputs]))
    return found
