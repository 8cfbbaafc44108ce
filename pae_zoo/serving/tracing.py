"""Signatures as traced functions: stateless, their shapes checked, any batch size."""

from typing import Any, Callable, Collection, Sequence

import tensorflow as tf

from pae_zoo.core.errors import unknown
from pae_zoo.models.capabilities import lacking
from pae_zoo.serving.table import Signature, input_specs, signatures


def trace(model: Any, importance_samples: int = 100, more: Sequence[Signature] = (),
          only: Collection[str] = ()) -> tuple[dict[str, Callable], dict[str, str]]:
    """Traces every signature, and `more`; returns ({name: traced tf.function}, {name left out: the model's reason}).

    only: names of those that are wanted; () wants all. The functions are not compiled by XLA: a model server need not
    be able to run XLA programs. Raises RuntimeError for a function with state, which would answer the same request
    differently, and UserError for a name that is not known.
    """
    shared = input_specs(model)
    functions: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    table = [*signatures(model, importance_samples), *more]
    for name in only:
        if name not in {signature.name for signature in table}:
            raise unknown("signatures", name, sorted({signature.name for signature in table}))
    for signature in table:
        if signature.name in functions or only and signature.name not in only:
            continue
        if signature.needs and signature.needs not in model.offers:
            left_out.setdefault(signature.name, str(lacking(model, signature.needs)))
            continue
        inputs = [shared[spec] if isinstance(spec, str) else spec for spec in signature.inputs]
        try:
            made = signature.function() if signature.made else signature.function
            function = tf.function(_checked(made, inputs), input_signature=inputs, autograph=False)
            concrete = function.get_concrete_function()
        except NotImplementedError as error:
            left_out.setdefault(signature.name, " ".join(str(error).split()))
            continue
        state = stateful_operations(concrete)
        if state:
            raise RuntimeError(
                f"The signature {signature.name} of {type(model).__name__} has state: {', '.join(state)}. "
                "Served functions must draw from the seed that they are given and change no variable."
            )
        functions[signature.name] = function
    return functions, {name: reason for name, reason in left_out.items() if name not in functions}


def _checked(function: Callable, specs: list[tf.TensorSpec]) -> Callable:
    """Returns the function with shapes held against `specs` when it runs, where an error names the input.

    A model server hands on whatever shape it is given. What TensorFlow takes to be known it does not check, so each
    input passes first through an operation of unknown shape, which has the input's name.
    """

    def checked(*values):
        given = [tf.raw_ops.PlaceholderWithDefault(input=value, shape=None, name=f"input_{spec.name}")
                 for value, spec in zip(values, specs)]
        held = [tf.ensure_shape(value, spec.shape) for value, spec in zip(given, specs)]
        return {name: _after(value, held) for name, value in function(*held).items()}

    return checked


def _after(value: tf.Tensor, held: list[tf.Tensor]) -> tf.Tensor:
    """Returns an answer that needs the whole numbers among the inputs, the seed of a model without noise too.

    What no answer needs a server leaves out, its check as well.
    """
    for numbers in held:
        if numbers.dtype.is_integer:
            # 0, in a form that is not seen through.
            value += tf.cast(tf.reduce_sum(tf.bitwise.bitwise_and(numbers, tf.zeros_like(numbers))), value.dtype)
    return value


def stateful_operations(concrete: Any) -> list[str]:
    """Returns the types of operations in a traced function that write variables or draw hidden numbers."""
    graph = concrete.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    prefixes = ("Assign", "Rng", "Random", "StatefulRandom", "StatefulStandard", "StatefulUniform",
                "StatefulTruncated", "PyFunc", "EagerPyFunc")  # fmt: skip
    return sorted({node.op for node in nodes if node.op.startswith(prefixes)})
