"""From what Keras' fit takes to a source: arrays, tables, lists, dicts, data sets, generators."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, Optional

import keras
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.core.fit_data import datasets
from pae_zoo.core.fit_data.arrays import arrays
from pae_zoo.core.fit_data.batch import Batch, Form, parts
from pae_zoo.core.fit_data.sources import Arrays, Batches, Source


def read(form: Form, x: Any, y: Any = None, w: Any = None, class_weight: Optional[Mapping] = None, checked: bool = True,
         keep: bool = False) -> Source:
    """Returns the source of what Keras' fit takes: arrays, tables, lists, dicts, data sets, generators.

    Args:
      form: what the model takes.
      x, y, w: data, targets or labels, weights; y and w belong to arrays alone.
      class_weight: {label: weight}, for labels y.
      checked: whether values are looked at, as training needs it: finite, images in [0, 1].
      keep: whether stages that follow read the data again.

    Raises UserError for what cannot be taken, at once or, of batches, when they are met.
    """
    if x is None:
        raise UserError(f"{form.name} needs data; received x=None. Give an array (n, "
                        f"{', '.join(map(str, form.event_shape))}) or a data set of batches.")
    if isinstance(x, str) or not (hasattr(x, "shape") or isinstance(x, (Iterable, keras.utils.PyDataset))):
        raise UserError(f"x is a {type(x).__name__}; allowed: an array, a tf.data.Dataset, a generator or a PyDataset.")
    if isinstance(x, tf.distribute.DistributedDataset):
        raise UserError("x is distributed already; give the tf.data.Dataset itself, which Keras hands out to replicas.")
    if isinstance(x, Mapping):
        x, own_y, own_w = parts(x)
        y, w = own_y if y is None else y, own_w if w is None else w
    if hasattr(x, "shape") or isinstance(x, (list, tuple)):
        return Arrays(form, arrays(form, x, y, w, class_weight, checked))
    if y is not None or w is not None:
        raise UserError("y and sample_weight are for arrays; a data set or generator yields them itself, as (x, y) or "
                        "(x, y, sample_weight).")
    if isinstance(x, tf.data.Dataset):
        mapped = datasets.mapped(form, x, class_weight, checked)
        once = datasets.comes_once(x)
        return Batches(form, lambda: (Batch(*datasets.of_element(one)) for one in mapped), mapped, once, keep)
    table = dict(class_weight or {})
    if isinstance(x, keras.utils.PyDataset):
        found: Any = _Indexed(form, x, table, checked)
        return Batches(form, lambda: (Batch(*datasets.of_element(found[i])) for i in range(len(found))), found)
    once = iter(x) is x
    length = len(x) if not once and isinstance(x, Sized) else None
    given: Any = x
    return Batches(form, lambda: _numbered(form, given, table, checked), one_pass=once, keep=keep, length=length)


def read_pair(form: Form, given: Any, checked: bool = True) -> Source:
    """Returns the source of what Keras takes as validation_data: (x, y), (x, y, sample_weight), or x alone."""
    if isinstance(given, (tuple, list)) and 1 <= len(given) <= 3 and all(
            one is None or hasattr(one, "shape") for one in given):
        return read(form, *given, checked=checked)
    return read(form, given, checked=checked)


def _numbered(form: Form, batches: Iterable, class_weight: Mapping, checked: bool) -> Iterator[Batch]:
    """Yields the batches of a Python iterable in one form."""
    for number, given in enumerate(batches):
        yield arrays(form, *parts(given), class_weight, checked, f"batch {number}")


class _Indexed(keras.utils.PyDataset):
    """The batches of another PyDataset in one form, with as many workers."""

    def __init__(self, form: Form, inner: keras.utils.PyDataset, class_weight: Mapping, checked: bool):
        if inner.num_batches is None:
            raise UserError("A PyDataset needs a known number of batches: define __len__.")
        super().__init__(inner.workers, inner.use_multiprocessing, inner.max_queue_size)
        self.form, self.inner, self.class_weight, self.checked = form, inner, class_weight, checked

    def __len__(self) -> int:
        return self.inner.num_batches

    def __getitem__(self, index: int) -> tuple:
        given = parts(self.inner[index])
        return arrays(self.form, *given, self.class_weight, self.checked, f"batch {index}").for_keras()

    def on_epoch_begin(self) -> None:
        self.inner.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.inner.on_epoch_end()
