"""A Keras network read as a chain of single layers, with two forms of skip connection."""

import copy
import dataclasses
import math
from typing import Any, Callable, Iterator, Optional, Sequence, Union

import keras
import tensorflow as tf

from pae_zoo.core.errors import UserError, unknown
from pae_zoo.core.inputs import TensorLike
from pae_zoo.networks import layers as zoo_layers

# Layers whose activation is a part of them, and becomes a step of its own.
_WITH_ACTIVATION = (
    keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D,
)  # fmt: skip
# The class that keras.Model makes of inputs and outputs, which has no public name.
_INPUT = keras.Input((1,))
_FUNCTIONAL = type(keras.Model(_INPUT, _INPUT))
MERGES = (keras.layers.Add, keras.layers.Concatenate)
ALL, ENCODER, DECODER, LAST = "all", "encoder", "decoder", "last"


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


@dataclasses.dataclass(frozen=True, eq=False)
class Parallel:
    """Chains that take the same input, joined by the layer `merge`, an Add or a Concatenate; a chain may be empty."""

    merge: keras.Layer
    branches: tuple["Chain", ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """Steps one after another."""

    steps: tuple[Union[Step, Parallel], ...]

    def flat(self) -> Iterator[Step]:
        """Yields every single step, those of branches too, from the input to the output."""
        for step in self.steps:
            if isinstance(step, Step):
                yield step
            else:
                for branch in step.branches:
                    yield from branch.flat()

    @property
    def is_line(self) -> bool:
        """Whether no step has branches."""
        return all(isinstance(step, Step) for step in self.steps)


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """The trainable variables of one layer and their place in the flat vector of all weights."""

    name: str
    variables: tuple[keras.Variable, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many numbers the variables hold."""
        return self.stop - self.start


class Graph:
    """A network as the curvature sees it: a chain of steps, and its weights in the order of `trainable_weights`.

    Args:
      models: built Keras models, applied one after another; each is one line of layers, but for skip connections.

    Raises UserError for a graph that is neither, a layer used twice and weights that belong to no layer.
    """

    def __init__(self, models: Sequence[keras.Model]):
        self.models = tuple(models)
        self.chain = Chain(tuple(step for model in self.models for step in _steps(model)))
        owner: dict[int, Step] = {}
        for step in self.chain.flat():
            for variable in step.variables:
                if id(variable) in owner:
                    raise UserError(f"Layer {step.layer.name!r} is used twice: the curvature of shared weights is not "
                                    "supported. Give each use a layer of its own, or leave it out of the Bayesian "
                                    "layers by trainable=False.")
                owner[id(variable)] = step
        self.variables = [variable for model in self.models for variable in model.trainable_variables]
        self.blocks: list[Block] = []
        self._owner, start = [], 0
        for variable in self.variables:
            step = owner.get(id(variable))
            if step is None:
                raise UserError(f"The weight {variable.path!r} belongs to no layer between the input and the output of "
                                f"{self.models[-1].name!r}; the curvature is of layers only.")
            size = math.prod(variable.shape)
            if self._owner and self._owner[-1] is step:
                last = self.blocks[-1]
                self.blocks[-1] = Block(last.name, (*last.variables, variable), last.start, last.stop + size)
            else:
                self.blocks.append(Block(step.layer.name, (variable,), start, start + size))
                self._owner.append(step)
            start += size
        self.size = start

    def step_of(self, block: Block) -> Step:
        """Returns the step whose weights are `block`."""
        return self._owner[self.blocks.index(block)]

    def select(self, layers: Union[str, Sequence[str]] = ALL) -> list[Block]:
        """Returns the blocks that `layers` names, in the order of the weights; raises UserError.

        "all"; "encoder" and "decoder", the first and the later ones of a sequence of models; "last", the last layer
        with weights; or names of layers, as a sequence or separated by commas.
        """
        if not self.blocks:
            names = ", ".join(repr(model.name) for model in self.models)
            raise UserError(f"{names} holds no weight that trains, so there is no curvature by its weights. Take "
                            "layers with weights, and set trainable=True where they are frozen.")
        given: list[str] = [layers] if isinstance(layers, str) else list(layers)
        words = [word.strip() for part in given for word in part.split(",") if word.strip()]
        if words == [ALL]:
            return list(self.blocks)
        if words == [LAST]:
            return self.blocks[-1:]
        if len(words) == 1 and words[0] in (ENCODER, DECODER):
            number = len(self.models)
            if number < 2:
                raise UserError(f"layers={words[0]!r} needs a sequence of models, such as (encoder, decoder); received "
                                f"the single model {self.models[0].name!r}.")
            first = {id(variable) for variable in self.models[0].trainable_variables}
            inside = words == [ENCODER]
            return [block for block in self.blocks if (id(block.variables[0]) in first) == inside]
        names = [block.name for block in self.blocks]
        for word in words:
            if word not in names:
                raise unknown("layers", word, (ALL, ENCODER, DECODER, LAST, *names))
        return [block for block in self.blocks if block.name in words]

    def ends_in(self, activation: Callable) -> bool:
        """Whether the last step is this activation, such as `keras.activations.softmax`."""
        last = self.chain.steps[-1] if self.chain.steps else None
        if not isinstance(last, Step):
            return False
        softmax = activation is keras.activations.softmax and type(last.layer) is keras.layers.Softmax
        return last.activation is activation or (softmax and last.activation is None)

    def without_last(self) -> "Graph":
        """Returns the graph of the same weights without the last step: of logits, where that turns them to chances."""
        shorter = copy.copy(self)
        shorter.chain = Chain(self.chain.steps[:-1])
        return shorter

    def cast(self, x: TensorLike) -> tf.Tensor:
        """Returns x in the precision of the weights, full precision at least."""
        dtype = tf.as_dtype(self.variables[0].dtype) if self.variables else tf.float32
        return tf.cast(x, dtype if dtype.size >= 4 else tf.float32)

    def values(self) -> list[tf.Tensor]:
        """Returns the weights as they are now, in order; inside a `keras.StatelessScope` those of the scope."""
        return [tf.convert_to_tensor(variable) for variable in self.variables]

    def unflatten(self, flat: tf.Tensor, blocks: Optional[Sequence[Block]] = None) -> list[tf.Tensor]:
        """Returns `flat` (..., P) as one tensor (..., *shape) for each variable of `blocks` (default: all)."""
        variables = self.variables if blocks is None else [v for block in blocks for v in block.variables]
        parts = tf.split(flat, [math.prod(variable.shape) for variable in variables], axis=-1)
        leading = flat.shape[:-1].as_list() if flat.shape[:-1].is_fully_defined() else tf.unstack(tf.shape(flat)[:-1])
        return [tf.reshape(part, (*leading, *variable.shape)) for part, variable in zip(parts, variables)]


def flatten(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the values of tensors, one after another, as one vector (P,)."""
    return tf.concat([tf.reshape(tensor, (-1,)) for tensor in tensors], axis=0)


def as_list(models: Any) -> list[Any]:
    """Returns one model, or several that are applied in turn, as a list."""
    return list(models) if isinstance(models, (list, tuple)) else [models]


def read(model: Union[keras.Model, Sequence[keras.Model]]) -> Graph:
    """Returns a built model, or a sequence of models applied in turn, as a `Graph`; raises UserError."""
    models = as_list(model)
    for one in models:
        if not isinstance(one, keras.Layer):
            raise UserError(f"The curvature is that of a Keras model; received {type(one).__name__}.")
        if not one.built:
            raise UserError(f"The model {one.name!r} was never built, so it has no weights: let it begin with a "
                            "keras.Input, or call it on data first.")
    return Graph(models)


def _steps(layer: Any) -> list[Union[Step, Parallel]]:
    """Returns the steps of a layer or model, nested ones unrolled."""
    if isinstance(layer, keras.layers.InputLayer):
        return []
    # What a subclass with a call of its own computes is not what its layers do one after another.
    if isinstance(layer, keras.Sequential) and type(layer).call is keras.Sequential.call:
        return [step for inner in layer.layers for step in _steps(inner)]
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


def _functional(model: keras.Model) -> list[Union[Step, Parallel]]:
    """Returns the steps of a functional model, whose layers form a line but for Add and Concatenate skips."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(f"{model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; the "
                        "curvature needs one of each.")
    return [step for _, steps in _path(model.outputs[0], model.name, {}) for step in steps]


def _path(tensor: Any, name: str, known: dict[tuple, list]) -> list[tuple[tuple, list]]:
    """Returns [(tensor's key, steps that lead to it from the one before)] from the model's input to `tensor`.

    `known` keeps the paths found so far: without it a stack of skips would take time exponential in its height.
    """
    history = tensor._keras_history
    key = (id(history.operation), *history[1:])
    if key not in known:
        known[key] = _find_path(tensor, key, name, known)
    return known[key]


def _find_path(tensor, key: tuple, name: str, known: dict[tuple, list]) -> list[tuple[tuple, list]]:
    operation, node_index, _ = tensor._keras_history
    if isinstance(operation, keras.layers.InputLayer):
        return [(key, [])]
    inputs = operation._inbound_nodes[node_index].input_tensors
    if len(inputs) == 1:
        if not isinstance(operation, keras.Layer):
            raise UserError(f"{name!r} applies the operation {operation.name!r}, which is no layer; the curvature "
                            "knows layers only. Put it into a layer, with a rule by curvature.register_rule.")
        return [*_path(inputs[0], name, known), (key, _steps(operation))]
    if not isinstance(operation, MERGES):
        raise UserError(f"{name!r} branches at {operation.name!r} ({type(operation).__name__}), which joins "
                        f"{len(inputs)} tensors; the curvature knows lines of layers with skips joined by the layers "
                        "keras.layers.Add and keras.layers.Concatenate.")
    paths = [_path(one, name, known) for one in inputs]
    shared = set.intersection(*({key for key, _ in path} for path in paths))
    fork = max(index for index, (one, _) in enumerate(paths[0]) if one in shared)
    branches = []
    for path in paths:
        start = [one for one, _ in path].index(paths[0][fork][0])
        branches.append(Chain(tuple(step for _, steps in path[start + 1 :] for step in steps)))
    return [*paths[0][: fork + 1], (key, [Parallel(operation, tuple(branches))])]
