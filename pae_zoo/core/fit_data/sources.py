"""Sources of batches: what Keras is handed, and what fit itself may read without using it up."""

import contextlib
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, Optional, Union

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.core.fit_data.batch import Batch, Form

# Keras' own batch size.
KERAS_BATCH = 32
# What a failed assertion of `pae_zoo.core.fit_data.datasets` begins with.
_MARK = re.compile(r"pae_zoo: (.*?\.)\]", re.DOTALL)


class Arrays:
    """A source of arrays: x (n, *event), and y and w as in `Batch`."""

    #: whether Keras makes a data set of tf.data of it
    is_dataset = True

    def __init__(self, form: Form, batch: Batch):
        self.form, self.batch = form, batch
        self.can_shuffle = True

    def keras(self) -> tuple:
        """Returns what Keras takes: a tuple of arrays."""
        return self.batch.for_keras()

    def size_of_batch(self, batch_size: Optional[int]) -> Optional[int]:
        """Returns the size of a batch, for Keras' `batch_size`."""
        return batch_size or KERAS_BATCH

    def num_batches(self, batch_size: Optional[int]) -> Optional[int]:
        """Returns how many batches an epoch has, for Keras' `batch_size`."""
        return -(-len(self.batch.x) // (batch_size or KERAS_BATCH))

    def batches(self) -> Iterator[Batch]:
        """Yields all data at once."""
        yield self.batch

    def epoch(self, steps: Optional[int] = None) -> Iterator[Batch]:
        """Yields all data at once, however many steps an epoch has."""
        return self.batches()

    def split(self, fraction: float) -> tuple["Arrays", "Arrays"]:
        """Returns all but the last `fraction` of the data, and that, as Keras splits; raises UserError."""
        count = len(self.batch.x)
        place = int(np.floor(count * (1.0 - fraction)))
        if not 0 < place < count:
            raise UserError(f"validation_split={fraction} leaves {place} of {count} data for training and "
                            f"{count - place} for validation; both need one at least.")
        first, last = (Batch(*(None if one is None else one[chosen] for one in self.batch))
                       for chosen in (slice(None, place), slice(place, None)))
        return Arrays(self.form, first), Arrays(self.form, last)

    def reason(self, error: Exception) -> Optional[UserError]:
        """Returns what was wrong with the data, where that is why Keras failed."""
        return None


class Batches:
    """A source of batches that come one after the other.

    Args:
      form: what the model takes.
      iterate: starts an iteration over standard batches.
      dataset: the same as a data set that Keras can iterate again and again; None makes one.
      one_pass: whether the data may come only once; then what is read here is kept, for Keras to meet it too.
      keep: whether what Keras reads is kept as well, for stages that follow.
      length: batches of an epoch, None where that is not known.
    """

    def __init__(self, form: Form, iterate: Callable[[], Iterable[Batch]], dataset: Optional[tf.data.Dataset] = None,
                 one_pass: bool = False, keep: bool = False, length: Optional[int] = None):
        self.form, self.iterate, self.one_pass, self.keep, self.length = form, iterate, one_pass, keep, length
        self._kept: list[Batch] = []
        self._left: Optional[Iterator[Batch]] = None  # of the one pass
        self._started, self._error = False, None
        #: whether Keras can put the batches in another order
        self.can_shuffle = isinstance(dataset, keras.utils.PyDataset)
        self._dataset = dataset if dataset is not None and not one_pass else self._replayed()

    def keras(self) -> tuple:
        """Returns what Keras takes: a data set."""
        return (self._dataset,)

    @property
    def is_dataset(self) -> bool:
        """Whether Keras is given a data set of tf.data."""
        return not self.can_shuffle

    def size_of_batch(self, batch_size: Optional[int]) -> Optional[int]:
        """Returns the size of the first batch, None where there is none."""
        first = next(iter(self.batches()), None)
        return None if first is None else len(first.x)

    def num_batches(self, batch_size: Optional[int]) -> Optional[int]:
        """Returns how many batches an epoch has; None where that is not known, or there is no end."""
        if isinstance(self._dataset, keras.utils.PyDataset):
            return self._dataset.num_batches
        number = int(self._dataset.cardinality())
        return number if number >= 0 else None

    def batches(self) -> Iterator[Batch]:
        """Yields the batches from the first one on, without end where there is none."""
        return self._once() if self.one_pass else iter(self.iterate())

    def epoch(self, steps: Optional[int] = None) -> Iterator[Batch]:
        """Yields the batches of an epoch, of `steps` steps where the data come once or have no end.

        Raises UserError for data without end whose steps are not known.
        """
        endless = isinstance(self._dataset, tf.data.Dataset) and (
            int(self._dataset.cardinality()) == tf.data.INFINITE_CARDINALITY)
        if endless and not steps:
            raise UserError(f"The data set has no end, and {self.form.name} needs all data of an epoch. Give fit "
                            "steps_per_epoch.")
        return itertools.islice(self.batches(), steps if endless or self.one_pass else None)

    def split(self, fraction: float) -> NoReturn:
        """Raises UserError: only arrays can be split."""
        raise UserError(f"validation_split={fraction} is for arrays; received a data set. Give validation_data.")

    def reason(self, error: Exception) -> Optional[UserError]:
        """Returns what was wrong with the data, where that is why Keras failed."""
        found = _MARK.search(str(error))
        return self._error or (UserError(found.group(1)) if found else None)

    def _once(self, keep: bool = True) -> Iterator[Batch]:
        """Yields what was kept, then what is left of the one pass."""
        yield from list(self._kept)
        if self._left is None:
            self._left = iter(self.iterate())
        for batch in self._left:
            if keep:
                self._kept.append(batch)
            yield batch

    def _replayed(self) -> tf.data.Dataset:
        """Returns a data set whose first iteration gives what was read here, too."""
        first = next(self.batches(), None)
        if first is None:
            raise UserError("The data hold no batch. A generator that has been read already is used up: make it anew.")
        element = first.for_keras()
        signature = tuple(tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in element)
        found = tf.data.Dataset.from_generator(self._iteration, output_signature=signature)
        if self.length is not None:
            found = found.apply(tf.data.experimental.assert_cardinality(self.length))
        return found.prefetch(2)

    def _iteration(self) -> Iterator[tuple]:
        again, self._started, empty = self._started, True, True
        try:
            for batch in self.iterate() if again or not self.one_pass else self._once(self.keep):
                empty = False
                yield batch.for_keras()
            if empty:
                raise UserError("The data could be read once only, and another epoch found none left. Give epochs=1, "
                                "arrays, or a data set that can be iterated again.")
        except UserError as error:
            self._error = error
            raise


Source = Union[Arrays, Batches]


def examples(source: Source, num: int) -> np.ndarray:
    """Returns the first `num` data of positive weight, in whole batches, (n, *event); (0, *event) if there is none."""
    found, count = [], 0
    for batch in source.batches():
        found.append(_weighty(batch.x, batch.w))
        count += len(found[-1])
        if count >= num:
            break
    return np.concatenate(found) if found else np.zeros((0, *source.form.event_shape), np.float32)


def weighted(source: Source, steps: Optional[int] = None) -> Iterator[tuple[np.ndarray, Optional[np.ndarray]]]:
    """Yields (x, w) of an epoch, without data of weight 0; w is None where there are no weights."""
    return ((x, w) for x, _, w in standing(source, steps))


def standing(source: Source, steps: Optional[int] = None) -> Iterator[tuple]:
    """Yields (x, y, w) of an epoch, without data of weight 0; y and w are None where there are none."""
    for batch in source.epoch(steps):
        w = None if batch.w is None else np.asarray(batch.w)
        y = None if batch.y is None else _weighty(batch.y, w)
        yield _weighty(batch.x, w), y, None if w is None else w[w > 0]


def labels_and_weights(source: Source, steps: Optional[int] = None) -> tuple[np.ndarray, Optional[np.ndarray]]:
    """Returns the labels (n,) of an epoch of data that have some, and the weights, None where there are none."""
    found = [(y, w) for _, y, w in standing(source, steps)]
    weights = None if found[0][1] is None else np.concatenate([w for _, w in found])
    return np.concatenate([y for y, _ in found]), weights


def count(source: Source, steps: Optional[int] = None) -> float:
    """Returns the number of data of an epoch, or the sum of their weights."""
    return float(sum(len(x) if w is None else w.sum(dtype=np.float64) for x, w in weighted(source, steps)))


def _weighty(x, w) -> np.ndarray:
    x = np.asarray(x)
    return x if w is None or np.all(np.asarray(w) > 0) else x[np.asarray(w) > 0]


@contextlib.contextmanager
def telling(*sources: Optional[Source], steps: Optional[int] = None) -> Iterator[None]:
    """Turns a failure of Keras that bad data are the reason of into a UserError that says so.

    Without `steps` an epoch ends where the data do, which Keras would warn of.
    """
    try:
        with warnings.catch_warnings():
            if steps is None:
                warnings.filterwarnings("ignore", "Your input ran out of data")
            yield
    except Exception as error:
        for source in sources:
            found = source and source.reason(error)
            if found:
                raise found from error
        raise
