"""A Keras network read once: steps from its input to its output, and its weights in one flat vector."""

import copy
import dataclasses
import math
from typing import Any, Callable, Optional, Sequence, Union

import keras
import tensorflow as tf

from pae_zoo.core.errors import UserError, unknown
from pae_zoo.core.inputs import TensorLike
from pae_zoo.curvature.network import reading
from pae_zoo.curvature.network.steps import Chain, Node, Parallel, Part, Step, Web

__all__ = ["ALL", "Block", "Chain", "Graph", "Node", "Parallel", "Part", "Step", "Web", "as_list", "flatten", "read"]

ALL, ENCODER, DECODER, LAST = "all", "encoder", "decoder", "last"
#: what turns the logits of a likelihood, by name, to chances
LOGITS: dict[str, Callable] = {"bernoulli": keras.activations.sigmoid, "categorical": keras.activations.softmax}


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
      models: built Keras models of one input and one output, applied one after another.

    Raises UserError for branches that are joined in a way that is not known, and weights that belong to no layer, or to
    two of them; a layer may be used several times.
    """

    def __init__(self, models: Sequence[keras.Model]):
        self.models = tuple(models)
        self.chain = Chain(tuple(step for model in self.models for step in reading.steps_of(model)))
        owner: dict[int, Step] = {}
        self._uses: dict[Step, tuple[Step, ...]] = {}
        for step in self.chain.flat():
            for variable in step.variables:
                first = owner.setdefault(id(variable), step)
                if first.layer is not step.layer:
                    raise UserError(f"The weight {variable.path!r} belongs to two layers, {first.layer.name!r} and "
                                    f"{step.layer.name!r}; the curvature knows weights that are shared by uses of one "
                                    "layer. Leave it out of the Bayesian layers by trainable=False.")
            if step.variables:
                first = owner[id(step.variables[0])]
                self._uses[first] = (*self._uses.get(first, ()), step)
        found = {id(variable): variable for model in self.models for variable in model.trainable_variables}
        self.variables = list(found.values())
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
        """Returns the step whose weights are `block`, the first one of a layer that is used several times."""
        return self._owner[self.blocks.index(block)]

    def uses(self, step: Step) -> tuple[Step, ...]:
        """Returns all steps that have the weights of the first of them, from the input on."""
        return self._uses.get(step, (step,))

    def is_shared(self, block: Block) -> bool:
        """Whether the layer of `block` is used several times."""
        return len(self.uses(self.step_of(block))) > 1

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

    def of_logits(self, likelihood: Any = None) -> "Graph":
        """Returns the graph of what the sigmoid or softmax at its end is given; itself where it ends in neither.

        Of a likelihood, by name, that of bernoulli (sigmoid) or categorical (softmax) alone, which are of logits.
        """
        names = LOGITS if likelihood is None else [likelihood]
        known = (LOGITS[name] for name in names if isinstance(name, str) and name in LOGITS)
        return self.without_last() if any(map(self.ends_in, known)) else self

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
