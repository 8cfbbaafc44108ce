"""Which weights a posterior is over: the layers of a network in words and numbers, without the network."""

import dataclasses
import hashlib
import json
import math
from typing import Any, Iterable, Optional, Sequence, Union

import keras
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.network import graph as graphs
from pae_zoo.curvature.network import matrix_form

# Settings that change neither the shapes nor what a layer computes at inference; a layer inside another is looked at
# itself.
_IGNORED = ("name", "dtype", "trainable", "seed", "rate", "momentum", "batch_shape", "layer", "activation",
            "lora_rank", "lora_alpha", "quantization_config")
Source = Union["Layout", graphs.Graph, keras.Model, Sequence]


@dataclasses.dataclass(frozen=True)
class Part:
    """The weights of one layer.

    Args:
      name: of the layer, for messages.
      shapes: of its variables.
      form: how they make a matrix, see `matrix_form`.
      chosen: whether the posterior is over them; other weights stay at the mean.
      prefix: hash of the architecture up to this layer; empty: not known.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    form: str = matrix_form.NONE
    chosen: bool = True
    prefix: str = ""

    @property
    def size(self) -> int:
        """How many numbers the variables hold."""
        return sum(math.prod(shape) for shape in self.shapes)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layers with weights, in the order of the flat vector of all weights.

    Args:
      parts: of each layer.
      signature: hash of the architecture; empty: not known.
    """

    parts: tuple[Part, ...]
    signature: str = ""

    @classmethod
    def of(cls, source: Source, layers: Union[str, Sequence[str]] = graphs.ALL) -> "Layout":
        """Returns the layout of a Graph, a model, a sequence of models, of numbers of weights, or of itself.

        `layers` are those the posterior is over, see `Graph.select`.
        """
        if isinstance(source, Layout):
            return source
        if isinstance(source, dict):
            return cls(tuple(Part(**{**part, "shapes": tuple(map(tuple, part["shapes"]))}) for part in source["parts"]),
                       source["signature"])
        if isinstance(source, (list, tuple)) and source and all(isinstance(size, int) for size in source):
            return cls(tuple(Part(f"block {index}", ((size,),)) for index, size in enumerate(source)))
        graph = source if isinstance(source, graphs.Graph) else graphs.read(source)
        chosen, prefixes = graph.select(layers), _prefixes(graph)
        parts = tuple(
            Part(block.name, tuple(tuple(variable.shape) for variable in block.variables),
                 matrix_form.form_of(graph.step_of(block).layer), block in chosen, prefixes[graph.step_of(block)])
            for block in graph.blocks
        )
        return cls(parts, signature(graph))

    def config(self) -> dict[str, Any]:
        """Returns what `of` makes the layout of again, in terms of JSON."""
        return {"parts": [dataclasses.asdict(part) for part in self.parts], "signature": self.signature}

    @property
    def size(self) -> int:
        """The number P of all weights."""
        return sum(part.size for part in self.parts)

    @property
    def chosen(self) -> list[Part]:
        """The layers that the posterior is over."""
        return [part for part in self.parts if part.chosen]

    @property
    def sizes(self) -> list[int]:
        """How many weights each chosen layer has."""
        return [part.size for part in self.chosen]

    @property
    def num_chosen(self) -> int:
        """How many weights all chosen layers have."""
        return sum(self.sizes)

    def pick(self, flat: tf.Tensor) -> list[tf.Tensor]:
        """Returns of vectors of all weights (..., P) the pieces (..., P_l) of the chosen layers."""
        pieces = tf.split(flat, [part.size for part in self.parts], axis=-1)
        return [piece for piece, part in zip(pieces, self.parts) if part.chosen]

    def fill(self, pieces: Iterable[tf.Tensor], others: Optional[tf.Tensor] = None) -> tf.Tensor:
        """Returns vectors (n, P) of the pieces (n, P_l) of the chosen layers; elsewhere `others` (P,), or 0."""
        pieces = iter(pieces)
        parts, start, rows = [], 0, None
        for part in self.parts:
            if part.chosen:
                parts.append(next(pieces))
                rows = tf.shape(parts[-1])[0]
            else:
                parts.append(None if others is None else others[start : start + part.size])
            start += part.size
        like = next(part for part, which in zip(parts, self.parts) if which.chosen)
        for index, part in enumerate(self.parts):
            if not part.chosen:
                value = tf.zeros((part.size,), like.dtype) if parts[index] is None else parts[index]
                parts[index] = tf.broadcast_to(value, (rows, part.size))
        return tf.concat(parts, axis=-1)

    def unflatten(self, flat: tf.Tensor) -> list[tf.Tensor]:
        """Returns one vector of all weights (P,) as a tensor for each variable of the network, in order."""
        shapes = [shape for part in self.parts for shape in part.shapes]
        pieces = tf.split(flat, [math.prod(shape) for shape in shapes])
        return [tf.reshape(piece, shape) for piece, shape in zip(pieces, shapes)]

    def check(self, source: Source) -> None:
        """Raises UserError where a network is not of the architecture that the layout was read from.

        A sigmoid or softmax at its end makes no difference: the layout may be that of its logits.
        """
        if not isinstance(source, (Layout, dict)):
            source = source if isinstance(source, graphs.Graph) else graphs.read(source)
            if self.signature == signature(source.of_logits()):
                return
        other = Layout.of(source)
        if not self.signature or other.signature == self.signature:
            return
        shapes, found = ([shape for part in one.parts for shape in part.shapes] for one in (self, other))
        reason = "the classes, settings or activations of its layers differ"
        if shapes != found:
            reason = f"its weights are {_short(found)}, those of the posterior {_short(shapes)}"
        raise UserError(f"The posterior belongs to another architecture than this network: {reason}. Load it with the "
                        "network that it was made for.")


def signature(graph: graphs.Graph) -> str:
    """Returns a hash of the classes, settings, activations and weight shapes of the layers, in order.

    Names are left out, so that a renamed copy of a network has the same one.
    """
    return _hash(_words(graph.chain, _again(graph)))


def _hash(words: list) -> str:
    text = json.dumps(words, sort_keys=True, default=lambda one: type(one).__name__)
    return hashlib.sha256(text.encode()).hexdigest()


def _again(graph: graphs.Graph) -> dict[graphs.Step, Any]:
    """Returns what stands for a later use of weights: the number of the step of their first one."""
    steps = list(graph.chain.flat())
    return {use: ["again", number] for number, step in enumerate(steps) for use in graph.uses(step)[1:]}


def _prefixes(graph: graphs.Graph) -> dict[graphs.Step, str]:
    """Returns for each single step a hash of all up to it."""
    words: list = []
    found, again = {}, _again(graph)
    for step in graph.chain.flat():
        words.append(again.get(step) or _word(step))
        found[step] = _hash(words)[:16]
    return found


def _words(chain: graphs.Chain, again: dict[graphs.Step, Any]) -> list:
    words: list = []
    for step in chain.steps:
        if isinstance(step, graphs.Parallel):
            words.append([type(step.merge).__name__, *(_words(branch, again) for branch in step.branches)])
        elif isinstance(step, graphs.Web):
            words.append(["Web", *([_node(node.item, again), *node.inputs] for node in step.nodes)])
        else:
            words.append(again.get(step) or _word(step))
    return words


def _node(item: Any, again: dict[graphs.Step, Any]) -> Any:
    return again.get(item) or _word(item) if isinstance(item, graphs.Step) else type(item).__name__


def _word(step: graphs.Step) -> Any:
    if step.activation is not None:
        return getattr(step.activation, "__name__", type(step.activation).__name__)
    inner = getattr(step.layer, "layer", None)
    layers = [step.layer, *([inner] if isinstance(inner, keras.Layer) else [])]
    return [*([type(one).__name__, _settings(one)] for one in layers), *(list(v.shape) for v in step.variables)]


def _settings(layer: keras.Layer) -> dict[str, Any]:
    """Returns the settings of a layer that shape what it computes at inference."""
    try:
        config = layer.get_config()
    except NotImplementedError:  # a user's own layer that does not say
        return {}
    return {key: value for key, value in config.items()
            if key not in _IGNORED and not key.endswith(("_initializer", "_regularizer", "_constraint"))}


def _short(shapes: list) -> str:
    return ", ".join(str(shape) for shape in shapes[:4]) + (f" ... ({len(shapes)} in all)" if len(shapes) > 4 else "")
