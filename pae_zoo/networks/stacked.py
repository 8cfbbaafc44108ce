"""Several networks of one architecture as one: their weights stacked, their dense layers one matrix product each."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional

import keras
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.networks.layers import Affine, Dropout

Values = list[tf.Tensor]
Rule = Callable[[keras.Layer, Values, tf.Tensor], tf.Tensor]


def _dense(layer: Any, weights: Values, h: tf.Tensor) -> tf.Tensor:
    """h (S, n, ..., I) and kernels (S, I, O): one batched matrix product, 2 to 4 times faster than S single ones."""
    members, flat = h.shape[0], h if h.shape.rank == 3 else tf.reshape(h, (h.shape[0], -1, h.shape[-1]))
    out = tf.matmul(flat, weights[0])
    if layer.use_bias:
        out += weights[1][:, None]
    if h.shape.rank > 3:
        out = tf.reshape(out, (members, -1, *h.shape[2:-1], out.shape[-1]))
    return layer.activation(out)


def _affine(layer: Affine, weights: Values, h: tf.Tensor) -> tf.Tensor:
    shape = (h.shape[0], *[1] * (h.shape.rank - 2), h.shape[-1])
    gamma, beta = (tf.reshape(weight, shape) for weight in weights)
    return h * (gamma / (1 + 1e-5) ** 0.5) + beta


@keras.saving.register_keras_serializable("pae_zoo")
class FixedMask(keras.layers.Layer):
    """Multiplies every datum (batch, ...) by one constant, a non-trainable weight: dropout with a mask that stays."""

    def build(self, input_shape: Sequence[Optional[int]]) -> None:
        if self.built:
            return
        self.mask = self.add_weight(shape=tuple(input_shape[1:]), initializer="ones", trainable=False, name="mask")
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs * self.mask.value

    def compute_output_shape(self, input_shape: Sequence[Optional[int]]) -> tuple:
        return tuple(input_shape)


def _fixed_mask(layer: FixedMask, weights: Values, h: tf.Tensor) -> tf.Tensor:
    return h * weights[0][:, None]


# Convolutions have no rule, and so take turns. As one grouped convolution they were 1.5 to 2 times slower forward on a
# CPU, had no gradient in TensorFlow's kernels there and one that took 20 to 35 times longer under XLA (5 members, 3x3,
# 16 to 64 channels, one thread); transposed ones have no groups at all. Not measured on a GPU.
_RULES: dict[type, Rule] = {keras.layers.Dense: _dense, Affine: _affine, FixedMask: _fixed_mask}


class _Step(NamedTuple):
    """Layers that the members go through together ("batched", "folded") or one after the other ("single")."""

    kind: str
    layers: list[keras.Layer]


class _Plan:
    """One network as a template: its layers, but not its weights. Keras does not look into it for variables."""

    def __init__(self, network: keras.Sequential):
        self.network = network
        self.variables: dict[str, list[keras.Variable]] = {}  # stacked, by the layer's name, trainable ones first
        self.steps: list[_Step] = []
        for layer in network.layers:
            kind = "batched" if type(layer) in _RULES else "folded" if not layer.weights else "single"
            if isinstance(layer, Dropout):
                kind = "folded"
            last = self.steps[-1] if self.steps else None
            if last and last.kind == "single" and kind != "batched":
                last.layers.append(layer)  # a stretch of layers in one turn: nothing is stacked in between
            else:
                self.steps.append(_Step(kind, [layer]))


@keras.saving.register_keras_serializable("pae_zoo")
class StackedDecoder(keras.Model):
    """S networks R^K -> y of one architecture, with weights of their own, stacked along a first axis.

    `each(z)` with z (S, n, K) gives member s its own latents z[s]; `members(z)` with z (n, K) all members the same;
    calling the model gives the mean of all outputs, (n, *event). Dense layers are one batched matrix product of
    (S, n, in) and (S, in, out); layers without weights see all members as one batch; any other layer, such as a
    convolution, is applied member after member. Layers compute in their own precision, as in the single network.

    Args:
      network: a built `keras.Sequential` over latents (batch, K). It is the template: the weights start as S copies of
        its own. `StackedDecoder.stack` takes S networks with their weights.
      num_members: S.

    Raises UserError for another kind of network, a number below 1, or layers with hidden state (Keras' own dropout).
    """

    def __init__(self, network: Any, num_members: int = 1, **kwargs: Any):
        network = as_sequential(network)
        if not isinstance(network, keras.Sequential):
            raise UserError("Several decoders are stacked layer by layer, so that each must be a chain; received "
                            f"{type(network).__name__} {network.name!r}, whose layers are not one. Build it as a "
                            "keras.Sequential.")
        if not network.built:
            raise UserError(f"The decoder {network.name!r} is not built. Give it a keras.Input.")
        shape: Any = network.input_shape
        if num_members < 1 or len(shape) != 2:
            raise UserError("A stack has at least one member and takes latents (batch, K); received "
                            f"num_members={num_members} and a network over {network.input_shape}.")
        hidden = [layer.name for layer in network.layers if len(layer.variables) > len(layer.weights)]
        if hidden:
            raise UserError(f"The layer {hidden[0]} draws from a state that is no weight, which a stack would neither "
                            "keep for each member nor save. Take pae_zoo.networks.Dropout for dropout.")
        kwargs.setdefault("name", network.name)
        # Layers cast by themselves, so that a last layer in full precision stays so under a mixed policy.
        kwargs["dtype"] = network.dtype_policy.variable_dtype
        super().__init__(**kwargs)
        self.num_members = int(num_members)
        self._plan: Any = _Plan(network)
        for layer in network.layers:
            self._plan.variables[layer.name] = [
                self.add_weight(
                    name=f"{layer.name}_{variable.name}", shape=(self.num_members, *variable.shape),
                    dtype=variable.dtype, trainable=variable.trainable, initializer=_copies(variable),
                )
                for variable in (*layer.trainable_variables, *layer.non_trainable_variables)
            ]  # fmt: skip
        self.built = True

    @classmethod
    def stack(cls, networks: Sequence[keras.Sequential], **kwargs: Any) -> "StackedDecoder":
        """Returns the stack of built networks of one architecture; raises UserError where their layers differ."""
        networks = [as_sequential(network) for network in networks]
        if not networks:
            raise UserError("A stack has at least one member; received an empty list.")
        stacked = cls(networks[0], len(networks), **kwargs)
        first = _architecture(networks[0])
        for number, network in enumerate(networks):
            found = _architecture(network) if isinstance(network, keras.Sequential) else []
            if found != first:
                raise UserError(f"Members have the same layers; network {number} ({network.name}) has others than the "
                                f"first: {found} in the place of {first}.")
        for layers in zip(*(network.layers for network in networks)):
            values = [[tf.convert_to_tensor(v) for v in (*one.trainable_variables, *one.non_trainable_variables)]
                      for one in layers]  # fmt: skip
            stacked.assign_layer(layers[0].name, [tf.stack(value) for value in zip(*values)])
        return stacked

    @classmethod
    def masked(cls, network: Any, dropout_seeds: Sequence[seeds.Seed], **kwargs: Any) -> "StackedDecoder":
        """Returns a network with dropout as a stack: member s has the masks that dropout_seeds[s] draws, for good.

        A mask is one for all data, the one that `dropout_noise(dropout_seeds[s], always=True)` draws for a single
        datum. Raises NotImplementedError for dropout inside of other layers.
        """
        network = as_sequential(network)
        layers = [FixedMask(name=layer.name) if isinstance(layer, Dropout) else
                  type(layer).from_config(layer.get_config()) for layer in network.layers]  # fmt: skip
        nested = [part for layer in network.layers if not isinstance(layer, Dropout)
                  for part in layer._flatten_layers() if isinstance(part, Dropout)]  # fmt: skip
        if nested:
            raise NotImplementedError(f"The dropout {nested[0].name} lies inside another layer, where its mask cannot "
                                      "be held. Take a decoder of plain layers, such as mlp or conv.")
        template = keras.Sequential([keras.Input(network.input_shape[1:]), *layers], name=network.name)
        for new, old in zip(template.layers, network.layers):
            if not isinstance(old, Dropout):
                new.set_weights(old.get_weights())
        found = cls(template, len(dropout_seeds), **kwargs)
        for new, old in zip(template.layers, network.layers):
            if isinstance(old, Dropout):
                masks = [old.mask((1, *new.mask.shape), seed)[0] for seed in dropout_seeds]
                found.assign_layer(new.name, [tf.cast(tf.stack(masks), new.mask.dtype)])
        return found

    def assign_layer(self, name: str, values: Sequence[tf.Tensor]) -> None:
        """Sets the weights (S, *shape) of the template's layer `name`, trainable ones first."""
        for variable, value in zip(self._plan.variables[name], values, strict=True):
            variable.assign(value)

    # ---- decoding ----------------------------------------------------------------------------------

    @property
    def latent_dim(self) -> int:
        """K."""
        return self._plan.network.input_shape[-1]

    @property
    def input_shape(self) -> tuple:
        """(None, K)."""
        return (None, self.latent_dim)

    @property
    def output_shape(self) -> tuple:
        """(None, *event), that of one member."""
        return tuple(self._plan.network.output_shape)

    @property
    def takes_turns(self) -> bool:
        """Whether some layer is applied member after member."""
        return any(step.kind == "single" for step in self._plan.steps)

    @property
    def drops_out(self) -> bool:
        """Whether a member has dropout."""
        return any(isinstance(layer, Dropout) and layer.rate > 0 for layer in self._plan.network.layers)

    def members(self, z: TensorLike, training: bool = False) -> tf.Tensor:
        """Returns the outputs of all members at latents z (n, K), shape (S, n, *event)."""
        latents: tf.Tensor = tf.convert_to_tensor(z)
        return self.each(tf.tile(latents[None], (self.num_members, 1, 1)), training)

    def each(self, z: TensorLike, training: bool = False) -> tf.Tensor:
        """Returns the outputs of member s at its own latents z[s], for z (S, n, K): (S, n, *event)."""
        return self._apply(self._values(), z, training)

    def member(self, z: TensorLike, number: int, training: bool = False) -> tf.Tensor:
        """Returns the outputs (n, *event) of one member at z (n, K); `number` may be a scalar tensor."""
        values = {name: [value[number][None] for value in values] for name, values in self._values().items()}
        return self._apply(values, tf.convert_to_tensor(z)[None], training, [number])[0]

    def call(self, z: TensorLike, training: bool = False) -> tf.Tensor:
        """Returns the mean of the members' outputs at z (n, K), shape (n, *event)."""
        return tf.reduce_mean(self.members(z, training), axis=0)

    def first(self, num: int) -> "StackedDecoder":
        """Returns a stack of the first `num` members with copies of their weights; all of them where num is larger."""
        num = min(int(num), self.num_members)
        found = StackedDecoder(self._plan.network, num, name=self.name)
        for name, variables in self._plan.variables.items():
            found.assign_layer(name, [tf.convert_to_tensor(variable)[:num] for variable in variables])
        return found

    def _values(self) -> dict[str, Values]:
        return {name: [tf.convert_to_tensor(v) for v in variables] for name, variables in self._plan.variables.items()}

    def _apply(self, values: dict[str, Values], z, training: bool, members: Optional[list] = None) -> tf.Tensor:
        """Returns the outputs of `members` (None: all), whose weights are given, each at its own z (s, n, K)."""
        h = tf.convert_to_tensor(z)
        for kind, layers in self._plan.steps:
            if kind == "batched":
                layer = layers[0]
                weights = [tf.cast(value, layer.compute_dtype) for value in values[layer.name]]
                h = _RULES[type(layer)](layer, weights, tf.cast(h, layer.compute_dtype))
            elif kind == "folded":
                h = self._folded(layers[0], values, h, training)
            else:
                h = self._single(layers, values, h, training, members)
        return h

    def _folded(self, layer: keras.Layer, values: dict[str, Values], h: tf.Tensor, training: bool) -> tf.Tensor:
        """Applies a layer that treats data alike to all members' data at once."""
        members, flat = h.shape[0], tf.reshape(h, (-1, *h.shape[2:]))
        out, state = _stateless(layer, [value[0] for value in values[layer.name]], flat, training)
        for variable, value in zip(self._plan.variables[layer.name] if training else (), state):
            variable.assign(tf.broadcast_to(value, variable.shape))  # a dropout's count of calls
        return tf.reshape(out, (members, -1, *out.shape[1:]))

    def _single(
        self, layers: list[keras.Layer], values: dict[str, Values], h: tf.Tensor, training: bool,
        members: Optional[list],
    ) -> tf.Tensor:  # fmt: skip
        outputs, states = [], {layer.name: [] for layer in layers}
        for number, value in enumerate(tf.unstack(h)):
            for layer in layers:
                weights = [weight[number] for weight in values[layer.name]]
                value, state = _stateless(layer, weights, value, training)
                states[layer.name].append(state)
            outputs.append(value)
        if training:
            for layer in layers:  # moving averages; nothing where there is no such state
                kept = self._plan.variables[layer.name][len(layer.trainable_variables) :]
                for variable, value in zip(kept, zip(*states[layer.name])):
                    own = tf.stack(value)
                    if members is not None:
                        own = tf.tensor_scatter_nd_update(
                            tf.convert_to_tensor(variable), tf.reshape(members, (-1, 1)), own)  # fmt: skip
                    variable.assign(own)
        return tf.stack(outputs)

    # ---- saving ------------------------------------------------------------------------------------

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (input_shape[0], *self.output_shape[1:])

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def get_build_config(self) -> dict[str, Any]:
        return {"input_shape": self.input_shape}

    def build_from_config(self, config: dict[str, Any]) -> None:
        self.built = True

    def get_config(self) -> dict[str, Any]:
        network = keras.saving.serialize_keras_object(self._plan.network)
        return {"network": network, "num_members": self.num_members, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Optional[dict[str, Any]] = None) -> "StackedDecoder":
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects)
        return cls(**{**config, "network": network})


def as_sequential(network: keras.Model) -> keras.Model:
    """Returns a functional network that is a chain as a `keras.Sequential` of the same layers, any other as it is."""
    by_depth = {} if isinstance(network, keras.Sequential) else getattr(network, "_nodes_by_depth", {})
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    layers = [node.operation for node in nodes[1:]]
    one_path = len(by_depth) == len(nodes) and all(len(node.input_tensors) == 1 for node in nodes[1:])
    if not layers or not one_path or len(set(map(id, layers))) < len(layers):
        return network
    if not all(isinstance(layer, keras.Layer) for layer in layers):
        return network
    return keras.Sequential([keras.Input(network.inputs[0].shape[1:]), *layers], name=network.name)


def _stateless(layer: keras.Layer, weights: Values, value: tf.Tensor, training: bool) -> tuple[tf.Tensor, Values]:
    """Returns what the layer gives with `weights`, trainable ones first, and its other weights after the call."""
    options = {"training": training} if layer._call_has_training_arg else {}
    if not layer.weights:
        return layer(value, **options), []
    num = len(layer.trainable_variables)
    out, others = layer.stateless_call(weights[:num], weights[num:], value, **options)[:2]
    return out, others


def _copies(variable: keras.Variable) -> Callable:
    value = tf.convert_to_tensor(variable)
    return lambda shape, dtype: tf.cast(tf.broadcast_to(value[None], shape), dtype)


def _architecture(network: keras.Sequential) -> list[tuple]:
    """What must be equal between members: the sorts of layers, what they do and the shapes of their weights."""
    return [(type(layer).__name__, _doing(layer), [tuple(weight.shape) for weight in layer.weights])
            for layer in network.layers]  # fmt: skip


def _doing(layer: keras.Layer) -> Optional[tuple]:
    names = ("strides", "padding", "dilation_rate", "use_bias", "rate", "size", "cropping", "target_shape", "scale")
    config = layer.get_config()
    found = [(name, str(config[name])) for name in names if name in config]
    activation = config.get("activation")
    return (*found, ("activation", str(activation)))
