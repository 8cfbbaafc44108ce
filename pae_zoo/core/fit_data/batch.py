"""One batch of what Keras is given, in one form: (x, y, w), told by static shapes alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pae_zoo.core import inputs, labels
from pae_zoo.core.errors import UserError

#: what data, targets or labels, and weights are called in a dict
X_KEYS = ("x", "image", "images", "input", "inputs", "data", "features", "pixels")
Y_KEYS = ("y", "target", "targets", "clean", "label", "labels")
#: what to do with images of another range
REMEDY = "divide 0..255 by 255, map [-1, 1] by (x + 1) / 2, or give uint8"
WEIGHT_KEYS = ("sample_weight", "weight", "weights")


@dataclasses.dataclass(frozen=True)
class Form:
    """What a model takes.

    Args:
      event_shape: of one datum.
      name: the model's class, for messages.
      dtype: the float type that data are cast to.
      bytes_are_pixels: whether uint8 is left as it is, for the model to divide by 255.
      unit: whether floats must lie in [0, 1], as those of images must.
      no_targets: why the model takes no targets other than x, and what to do; empty where it takes them.
      missing: whether NaN in x stands for a value that nobody has seen.
      num_labels: of a model that is trained with labels, which y then are; 0 of others.
    """

    event_shape: tuple[int, ...]
    name: str
    dtype: str = "float32"
    bytes_are_pixels: bool = True
    unit: bool = False
    no_targets: str = ""
    missing: bool = False
    num_labels: int = 0


class Batch(NamedTuple):
    """Data (b, *event), targets of the same shape, int32 labels (b,) or None, weights (b,) or None."""

    x: Any
    y: Any = None
    w: Any = None

    def for_keras(self) -> tuple:
        """Returns a tuple that Keras takes; it drops weights that come without y, so that labels stand in for it."""
        if self.w is None:
            return (self.x,) if self.y is None else (self.x, self.y)
        return (self.x, self.w if self.y is None else self.y, self.w)


def parts(given: Any) -> tuple[Any, Any, Any]:
    """Returns (x, y, weights) of an element: data alone, a tuple of up to three, or a dict by its usual keys."""
    y = weight = None
    if isinstance(given, (tuple, list)):
        if not 1 <= len(given) <= 3:
            raise UserError(f"A batch is x, (x, y) or (x, y, sample_weight); received {len(given)} parts.")
        given, y, weight = (*given, None, None)[:3]
    if isinstance(given, Mapping):
        named = {str(key): value for key, value in given.items()}
        found = [key for key in X_KEYS if key in named] or (list(named) if len(named) == 1 else [])
        if len(found) != 1:
            raise UserError(f"The data are a dict with the keys {', '.join(named) or 'none'}; exactly one of "
                            f"{', '.join(X_KEYS)} is needed. Map the data set to x alone, or rename the key.")
        given = named[found[0]]
        y = next((named[key] for key in Y_KEYS if key in named), None) if y is None else y
        weight = next((named[key] for key in WEIGHT_KEYS if key in named), None) if weight is None else weight
    if isinstance(given, (tuple, list, Mapping)):
        raise UserError("A model of the zoo takes one x; received several inside one another. Give x alone, or (x, y).")
    return given, y, weight


def standard(form: Form, x: Any, y: Any = None, w: Any = None) -> Batch:
    """Returns a batch of arrays or tensors in one form, told by static shapes alone; raises UserError."""
    x = inputs.shaped(x, form.event_shape)
    return Batch(x, labels_of(form, y) if form.num_labels else target_of(form, y), weights_of(w))


def labels_of(form: Form, y: Any) -> Any:
    """Returns y as int32 labels (b,), of a model that is trained with them; raises UserError where there are none.

    y is (b,), (b, 1), or (b, classes) of ones and zeros; the values of tensors are not looked at.
    """
    shape = getattr(y, "shape", None)
    if shape is None or tuple(shape)[1:] not in ((), (1,), (form.num_labels,)):
        received = "none" if y is None else type(y).__name__ if shape is None else f"shape {_text(shape)}"
        raise UserError(f"This {form.name} is trained with labels, 0 to {form.num_labels - 1}: give them as y, "
                        f"(batch,); received {received}.")
    many = len(y.shape) == 2 and y.shape[1] > 1
    if isinstance(y, np.ndarray):
        return labels.checked(y.argmax(axis=1) if many else y.reshape(-1), form.num_labels)
    return tf.cast(tf.argmax(y, axis=1) if many else tf.reshape(y, (-1,)), tf.int32)


def target_of(form: Form, y: Any) -> Any:
    """Returns y where it is a target, of the shape of x; None where it is labels, (b,) or (b, classes)."""
    if y is None or isinstance(y, (Mapping, tuple, list)):
        return None
    shape, event = y.shape, form.event_shape
    if getattr(shape, "rank", 0) is None:
        raise UserError("y has no known shape, so it cannot be told whether it holds labels or targets. Set its shape, "
                        "or leave it out.")
    shape = tuple(shape)
    if len(shape) == len(event) + 1 or (event[-1] == 1 and len(shape) == len(event) > 2):
        if all(None in (a, b) or a == b for a, b in zip(shape[1:], event)):
            return inputs.shaped(y, event, "y")
    if len(shape) > 2:
        raise UserError(f"y has shape {_text(shape)}; targets have the shape of x, (batch, "
                        f"{', '.join(map(str, event))}), and labels, which are ignored, (batch,) or (batch, classes).")
    return None


def weights_of(w: Any) -> Any:
    """Returns weights of shape (b,), from (b,) or (b, 1); raises UserError for any other shape."""
    if w is None:
        return None
    if not hasattr(w, "shape"):
        w = np.asarray(w)
    shape = tuple(w.shape) if getattr(w.shape, "rank", 0) is not None else (None,)
    if len(shape) == 2 and shape[1] == 1:
        return w[:, 0]
    if len(shape) != 1:
        raise UserError(f"sample_weight has shape {_text(shape)}; give one weight for each datum, (batch,).")
    return w


def _text(shape) -> str:
    words = ["batch" if size is None else str(size) for size in shape]
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"


def refused_targets(form: Form) -> str:
    """Returns why targets other than x are refused, and what to do."""
    return f"y differs from x, and {form.name} takes no such targets: {form.no_targets}, or leave y out."
