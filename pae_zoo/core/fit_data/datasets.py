"""Data sets of tf.data in one form: each element is told by its spec, and its values are looked at as they come."""

from collections.abc import Mapping
from typing import Optional

import numpy as np
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.core.fit_data.batch import REMEDY, Form, parts, refused_targets, standard


def of_element(element: tuple) -> tuple:
    """Returns (x, y, w) of what `Batch.for_keras` gave; what stands in for y are the weights, no whole numbers."""
    x, y, w = (*element, None, None)[:3]
    if y is not None and w is not None and len(y.shape) == 1 and y.dtype != (tf.int32 if tf.is_tensor(y) else np.int32):
        y = None
    return x, y, w


def mapped(form: Form, dataset: tf.data.Dataset, class_weight: Optional[Mapping], checked: bool) -> tf.data.Dataset:
    """Returns the data set with elements in one form, whose values are looked at as they come."""
    for spec in tf.nest.flatten(parts(dataset.element_spec)[0]):
        if not isinstance(spec, tf.TensorSpec) or not (spec.dtype.is_floating or spec.dtype.is_integer
                                                       or spec.dtype.is_bool):
            raise UserError(f"The data set yields x as {spec}; allowed are dense tensors of numbers.")

    @tf.autograph.experimental.do_not_convert
    def one(number, element):
        x, y, w = parts(element)
        batch = standard(form, x, y, w)
        targets = None if batch.y is None or form.num_labels else _cast(form, batch.y)
        batch = batch._replace(x=_cast(form, batch.x), y=batch.y if form.num_labels else targets)
        checks = _value_checks(form, batch.x, number) if checked else []
        if form.num_labels:
            inside = tf.reduce_all((batch.y >= 0) & (batch.y < form.num_labels))
            checks.append(tf.debugging.Assert(inside, [
                tf.strings.format(f"pae_zoo: labels are 0 to {form.num_labels - 1}; batch {{}} holds another.",
                                  number)]))  # fmt: skip
        elif batch.y is not None and form.no_targets:
            same = tf.reduce_all(tf.equal(batch.x, batch.y))
            checks.append(tf.debugging.Assert(same, [f"pae_zoo: {refused_targets(form)}"]))
            batch = batch._replace(y=None)
        elif batch.y is not None and checked:
            checks += _value_checks(form, batch.y, number, "y")
        if class_weight:
            batch = batch._replace(w=_class_weights(y if batch.y is None or form.num_labels else None, w, class_weight))
        elif w is not None:
            batch = batch._replace(w=tf.cast(batch.w, tf.float32))
        if batch.w is not None and checked:
            checks.append(tf.debugging.Assert(tf.reduce_all(batch.w >= 0.0), [
                tf.strings.format("pae_zoo: sample_weight of batch {} is negative or no number; weights are 0 or more.",
                                  number)]))  # fmt: skip
        with tf.control_dependencies(checks):
            return tuple(tf.identity(part) for part in batch.for_keras())

    return dataset.enumerate().map(lambda number, element: one(number, element))


def _cast(form: Form, x: tf.Tensor) -> tf.Tensor:
    return x if form.bytes_are_pixels and x.dtype == tf.uint8 else tf.cast(x, form.dtype)


def _value_checks(form: Form, x: tf.Tensor, number: tf.Tensor, what: str = "x") -> list:
    """Returns assertions on batch `number`: every value is finite and, of images, lies in [0, 1]."""
    if not x.dtype.is_floating:
        return []
    flat = tf.reshape(x, (tf.shape(x)[0], -1))
    seen = tf.math.is_finite(flat) | (tf.math.is_nan(flat) if form.missing else False)
    broken = ~tf.reduce_all(seen, axis=1)
    name = "infinity" if form.missing else "NaN or infinity"
    found = [tf.debugging.Assert(~tf.reduce_any(broken), [tf.strings.format(
        f"pae_zoo: {what} holds {name}, first in row {{}} of batch {{}}; remove or repair such rows.",
        (tf.argmax(broken), number))])]  # fmt: skip
    if form.unit:
        here = tf.where(tf.math.is_nan(x), tf.constant(0.5, x.dtype), x)  # of what is missing nothing is asked
        low, high = tf.reduce_min(here), tf.reduce_max(here)
        found.append(tf.debugging.Assert((low >= 0.0) & (high <= 1.0) | tf.reduce_any(broken), [tf.strings.format(
            f"pae_zoo: {what} holds values from {{}} to {{}} in batch {{}}; float images must lie in [0, 1]: "
            f"{REMEDY}.",
            (low, high, number))]))  # fmt: skip
    return found


def _class_weights(labels, w, class_weight: Mapping) -> tf.Tensor:
    if w is not None:
        raise UserError("class_weight and sample_weight exclude each other; give one of them.")
    if labels is None:
        raise UserError("class_weight needs labels: let the data set yield (x, labels).")
    many = labels.shape.rank is not None and labels.shape.rank > 1 and labels.shape[-1] != 1
    labels = tf.argmax(labels, axis=-1) if many else tf.cast(tf.reshape(labels, (-1,)), tf.int64)
    found = tf.ones_like(labels, tf.float32)
    for label, weight in class_weight.items():
        found = tf.where(labels == int(label), tf.cast(weight, tf.float32), found)
    return found


def comes_once(dataset: tf.data.Dataset) -> bool:
    """Whether a Python generator is behind a data set, which may have no second pass."""
    waiting = [dataset]
    while waiting:
        one = waiting.pop()
        function = getattr(getattr(one, "_map_func", None), "function", None)
        if function is not None and any(op.type == "GeneratorDataset" for op in function.graph.get_operations()):
            return True
        waiting += one._inputs()
    return False
