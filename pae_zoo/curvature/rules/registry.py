"""What the curvature must know of one Keras layer, and where it is written down."""

import dataclasses
from typing import Any, Callable, Optional, Union

import keras
import tensorflow as tf

from pae_zoo import networks
from pae_zoo.core.errors import UserError
from pae_zoo.curvature.network.graph import Step
from pae_zoo.curvature.network.pieces import size
from pae_zoo.networks.activations import is_elementwise


@dataclasses.dataclass(frozen=True)
class Rule:
    """Functions of one layer class, at inference and in the precision of their arguments; None: not known.

    a (B, *in) is the layer's input, delta (R, B, *out) are R rows r^T J of derivatives by its output, before a fused
    activation. Functions take the layer first, read its weights when called and keep none.

    Args:
      forward: (layer, a) -> y (B, *out), without a fused activation.
      vjp: (layer, a, delta) -> (R, B, *in), the rows by the layer's input.
      slope: (layer, a) -> (B, *in), the derivative, of a layer that acts on each value by itself.
      squares: (layer, a, delta) -> a tensor for each trainable variable: sum over R and B of its squared gradient.
      rows: (layer, a, delta) -> (R, B, P_l), the gradients themselves, flat, in the order of the variables.
      is_linear: whether vjp is the same for all inputs.
      diag_input: (layer, a, y, m) -> (B, *in), diag(J^T Diag(m) J) for m (B, *out).
      full_input: (layer, a, y, M) -> (B, n_in, n_in), J^T M J for M (B, n_out, n_out), values in row-major order.
      diag_weights: (layer, a, m) -> a tensor for each variable: diag(J_w^T Diag(m) J_w), summed over the batch.
      full_weights: (layer, a, M) -> a tensor for each variable: diag(J_w^T M J_w), summed over the batch.
    """

    forward: Callable[[keras.Layer, tf.Tensor], tf.Tensor]
    vjp: Callable[[keras.Layer, tf.Tensor, tf.Tensor], tf.Tensor]
    squares: Callable[[keras.Layer, tf.Tensor, tf.Tensor], list[tf.Tensor]]
    rows: Callable[[keras.Layer, tf.Tensor, tf.Tensor], tf.Tensor]
    slope: Optional[Callable[[keras.Layer, tf.Tensor], tf.Tensor]] = None
    is_linear: bool = False
    diag_input: Optional[Callable[..., tf.Tensor]] = None
    full_input: Optional[Callable[..., tf.Tensor]] = None
    diag_weights: Optional[Callable[..., list[tf.Tensor]]] = None
    full_weights: Optional[Callable[..., list[tf.Tensor]]] = None


_RULES: dict[type, Rule] = {}
_changes = 0


def version() -> int:
    """Returns how often rules were registered: what was compiled with former ones is no longer right."""
    return _changes


def register_rule(layer_class: type, **functions: Any) -> None:
    """Makes a layer class known to the curvature, or replaces some functions of a known one.

    `functions` are fields of `Rule`. A new class needs none: what is left out of forward, vjp, squares and rows is made
    by automatic differentiation of the layer's call. Raises UserError for a field that a Rule has not.
    """
    fields = [field.name for field in dataclasses.fields(Rule)]
    for name in functions:
        if name not in fields:
            raise UserError(f"A rule has no function {name!r}; allowed: {', '.join(fields)}.")
    global _changes
    _changes += 1
    known = _RULES.get(layer_class)
    _RULES[layer_class] = dataclasses.replace(known, **functions) if known else complete(**functions)


def rule_of(layer: keras.Layer, fallback: bool = False) -> Rule:
    """Returns the rule of exactly the layer's class; raises UserError where there is none.

    `fallback` makes one by automatic differentiation, since a subclass may compute anything.
    """
    rule = _RULES.get(type(layer))
    if rule is not None:
        return rule
    if fallback:
        return complete()
    raise UserError(f"The curvature knows no layers of class {type(layer).__name__}, such as {layer.name!r}. Register "
                    "the class by pae_zoo.curvature.register_rule, or take fallback=True, which differentiates what it "
                    "does not know, slowly.")


def of_step(step: Step, fallback: bool = False) -> Rule:
    """Returns the rule of a step: that of its layer, or of the activation that it is."""
    return rule_of(step.layer, fallback) if step.activation is None else _activation(step.activation)


def slope(step: Step, x: tf.Tensor) -> tf.Tensor:
    """Returns f'(x) of a step that acts on each value by itself; raises UserError for any other."""
    rule = of_step(step)
    if rule.slope is None:
        raise UserError(f"{step.name} mixes values, so it has no slope.")
    return rule.slope(step.layer, x)


def complete(**functions: Any) -> Rule:
    """Returns a rule whose missing functions are made by automatic differentiation."""
    is_linear = functions.get("is_linear", False)
    forward = functions.setdefault("forward", call)
    own_slope = functions.get("slope")
    if own_slope is not None:
        default = lambda layer, a, delta: delta * own_slope(layer, a)[None]  # noqa: E731
    else:
        default = lambda layer, a, delta: vjp_by_tape(lambda x: forward(layer, x), a, delta, is_linear)  # noqa: E731
    functions.setdefault("vjp", default)
    rows = functions.setdefault("rows", rows_by_tape)
    functions.setdefault("squares", lambda layer, a, delta: squares_of_rows(layer, rows(layer, a, delta)))
    return Rule(**functions)


def call(layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
    """Returns the layer's output at inference."""
    with networks.unrolled(layer):
        return layer(x, training=False) if layer._call_has_training_arg else layer(x)


def rows_by_tape(layer: keras.Layer, a: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
    """Returns the gradients (R, B, P_l) of delta^T y by the trainable variables, one datum and row at a time."""
    forward = rule_of(layer, fallback=True).forward
    weights = [weight(variable, a.dtype) for variable in layer.trainable_variables]
    # A scope hides the one around it, whose values the other variables must keep.
    others = [(variable, tf.convert_to_tensor(variable)) for variable in layer.non_trainable_variables]

    def one(pair):
        x, row = pair
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            with keras.StatelessScope(state_mapping=[*others, *zip(layer.trainable_variables, weights)]):
                value = forward(layer, x[None])
        gradients = tape.gradient(value, weights, output_gradients=row[None], unconnected_gradients="zero")
        return tf.concat([tf.reshape(gradient, (-1,)) for gradient in gradients], axis=0)

    flat = tf.vectorized_map(one, (tile(a, size(delta, 0)), fold(delta)))
    return unfold(flat, size(delta, 0))


def vjp_by_tape(function: Callable, a: tf.Tensor, delta: tf.Tensor, is_linear: bool = False) -> tf.Tensor:
    """Returns delta^T dfunction/da for delta (R, B, *out), shape (R, B, *in), by one tape for all rows."""
    num_rows = size(delta, 0)
    if is_linear:
        # The point does not matter, and at zeros no copies of the input are kept.
        point = tf.zeros((num_rows * size(a, 0), *a.shape[1:]), a.dtype)
    else:
        point = tile(a, num_rows)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(point)
        value = function(point)
    gradient = tape.gradient(value, point, output_gradients=fold(delta))
    if gradient is None:
        raise UserError("A layer of the network has no derivative by its input, which the curvature needs.")
    return unfold(gradient, num_rows)


def slope_by_tape(function: Callable, x: tf.Tensor) -> tf.Tensor:
    """Returns the derivative of a function of single values at x."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = function(x)
    gradient = tape.gradient(value, x)
    return tf.zeros_like(x) if gradient is None else gradient


def _activation(function: Callable) -> Rule:
    """Returns the rule of an activation; one that is not known to act on single values has no slope."""
    forward = lambda layer, a: function(a)  # noqa: E731
    if is_elementwise(function):
        return complete(forward=forward, slope=lambda layer, a: slope_by_tape(function, a))
    return complete(forward=forward)


def fold(delta: tf.Tensor) -> tf.Tensor:
    """(R, B, ...) -> (R B, ...)."""
    return tf.reshape(delta, (size(delta, 0) * size(delta, 1), *delta.shape[2:]))


def tile(a: tf.Tensor, num_rows: Union[int, tf.Tensor]) -> tf.Tensor:
    """Repeats a (B, ...) as (R B, ...), in the order of `fold`."""
    known_as_one = isinstance(num_rows, int) and num_rows == 1
    return a if known_as_one else tf.tile(a, (num_rows, *[1] * (a.shape.rank - 1)))


def unfold(flat: tf.Tensor, num_rows: Union[int, tf.Tensor]) -> tf.Tensor:
    """(R B, ...) -> (R, B, ...)."""
    return tf.reshape(flat, (num_rows, size(flat, 0) // num_rows, *flat.shape[1:]))


def weight(variable: Any, dtype: tf.DType) -> tf.Tensor:
    """Returns the value that a variable has now, in a StatelessScope the scope's, as `dtype`."""
    return tf.cast(tf.convert_to_tensor(variable), dtype)


def in_order(layer: keras.Layer, found: dict[int, tf.Tensor]) -> list[tf.Tensor]:
    """Returns tensors kept by the id of their variable in the order of the layer's trainable variables."""
    return [found[id(variable)] for variable in layer.trainable_variables]


def flat_rows(layer: keras.Layer, found: dict[int, tf.Tensor]) -> tf.Tensor:
    """Returns gradients (R, B, *shape), kept by the id of their variable, as (R, B, P_l)."""
    parts = in_order(layer, found)
    return tf.concat([tf.reshape(part, (size(part, 0), size(part, 1), -1)) for part in parts], axis=-1)


def squares_of_rows(layer: keras.Layer, rows: tf.Tensor) -> list[tf.Tensor]:
    """Returns sums of squares of rows (R, B, P_l) as a tensor for each variable."""
    shapes = [tuple(variable.shape) for variable in layer.trainable_variables]
    parts = tf.split(tf.reduce_sum(rows**2, (0, 1)), [tf.TensorShape(shape).num_elements() for shape in shapes])
    return [tf.reshape(part, shape) for part, shape in zip(parts, shapes)]
