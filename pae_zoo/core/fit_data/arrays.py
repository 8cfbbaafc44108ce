"""Arrays that Keras is given, in one form, their values looked at."""

from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from pae_zoo.core import values
from pae_zoo.core.errors import UserError
from pae_zoo.core.fit_data.batch import REMEDY, Batch, Form, refused_targets, standard

_NUMBERS = "biuf"


def arrays(form: Form, x: Any, y: Any, w: Any, class_weight: Optional[Mapping], checked: bool,
           where: str = "x") -> Batch:
    """Returns arrays in one form, their values looked at; raises UserError."""
    if isinstance(x, (list, tuple)) and len(x) == 1 and hasattr(x[0], "shape") and (
            len(x[0].shape) == len(form.event_shape) + 1):
        x = x[0]  # a list of one input
    same = y is x
    x = _array(x, where)
    y = x if same else None if y is None else _array(y, "y", words=True)
    if not len(x):
        raise UserError(f"{where} holds no data.")
    targets = y if y is not None and not form.num_labels and y.ndim > 1 and y.dtype.kind in _NUMBERS else None
    w = None if w is None else _array(w, "sample_weight")
    batch = standard(form, _floats(form, x), y if targets is None else _floats(form, targets), w)
    labels = y if batch.y is None or form.num_labels else None
    for part, name in ((batch.y, "y"), (batch.w, "sample_weight"), (labels, "y")):
        if part is not None and len(part) != len(batch.x):
            raise UserError(f"{where} holds {len(batch.x)} data and {name} {len(part)}; give equally many.")
    if checked:
        values.check(batch.x, where, form.unit, remedy=REMEDY, missing=form.missing)
    if form.num_labels:
        return batch._replace(w=_checked_weights(batch.w, labels, class_weight))
    if batch.y is not None and form.no_targets:
        if not same and not _equal(batch.x, batch.y):
            raise UserError(refused_targets(form))
        batch = batch._replace(y=None)
    elif same:
        batch = batch._replace(y=None)
    elif batch.y is not None and checked:
        values.check(batch.y, "y", form.unit, remedy=REMEDY, missing=form.missing)
    return batch._replace(w=_checked_weights(batch.w, labels, class_weight))


def _equal(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two arrays of one shape are the same data, bytes and their pixels in [0, 1] alike."""
    if x.dtype == y.dtype:
        return np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
    x, y = (one / np.float32(255) if one.dtype == np.uint8 else one for one in (x, y))
    return np.allclose(x, y, rtol=0, atol=1e-6)


def _array(value, what: str, words: bool = False) -> np.ndarray:
    """Returns value as an array of numbers or, with `words`, of anything; raises UserError."""
    if hasattr(value, "toarray"):
        raise UserError(f"{what} is a sparse matrix; give {what}.toarray().")
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise UserError(f"{what} is a list whose parts do not make one array ({error}). Give one array, and targets or "
                        "labels as y.")
    if not words and found.dtype.kind not in _NUMBERS and found.dtype.name != "bfloat16":
        raise UserError(f"{what} holds values of type {found.dtype}; allowed are numbers. Turn words and dates into "
                        "numbers first.")
    return found


def _floats(form: Form, x: np.ndarray) -> np.ndarray:
    """Returns x in the model's float type; bytes stay bytes where the model divides them by 255."""
    return x if form.bytes_are_pixels and x.dtype == np.uint8 else x.astype(form.dtype, copy=False)


def _checked_weights(w, labels, class_weight: Optional[Mapping]) -> Optional[np.ndarray]:
    if class_weight:
        if w is not None:
            raise UserError("class_weight and sample_weight exclude each other; give one of them.")
        if labels is None:
            raise UserError("class_weight needs labels: give them as y, (n,), not in the shape of x, or weigh the data "
                            "by sample_weight.")
        flat = labels.argmax(axis=1) if labels.ndim > 1 and labels.shape[1] > 1 else labels.reshape(-1)
        w = np.ones(len(flat), np.float32)
        for label, weight in class_weight.items():
            w[flat == label] = weight
    if w is None:
        return None
    w = np.asarray(w, np.float32)
    if not np.isfinite(w).all() or (w < 0).any():
        raise UserError(f"sample_weight holds {w[~(np.isfinite(w) & (w >= 0))][0]}; weights are 0 or more.")
    return w
