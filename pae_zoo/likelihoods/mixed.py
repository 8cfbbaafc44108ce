"""The observation model of a table: each column by its kind."""

from collections.abc import Sequence
from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.core import columns, seeds
from pae_zoo.core.errors import UserError, check_choice
from pae_zoo.likelihoods.base import Bernoulli, GaussianLearned, Likelihood, full_precision
from pae_zoo.likelihoods.classes import Categorical
from pae_zoo.likelihoods.counts import NegativeBinomial, Poisson
from pae_zoo.likelihoods.spread import StudentT

tfd = tfp.distributions
REALS = {"gaussian": GaussianLearned, "student_t": StudentT}
COUNTS = {"negative_binomial": NegativeBinomial, "poisson": Poisson}


@keras.saving.register_keras_serializable("pae_zoo")
class Mixed(Likelihood):
    """The product over the columns of a table of what suits each: Gaussians, counts, bits and categories.

    `kinds` are words such as real, count, binary and category:3, in the order of the values. Reals are `real`, gaussian
    or student_t, with one learned scale for each column; counts are `count`, negative_binomial or poisson; bits and
    categories have logits. Reals are what preprocessing makes of them, all else is as it was in the table. Raises
    UserError for kinds that do not fill a vector.
    """

    is_linear = True
    has_gaussian_values = False

    def __init__(self, event_shape: Sequence[int], kinds: Sequence[str] = (), real: str = "gaussian",
                 count: str = "negative_binomial", **kwargs: Any) -> None:
        super().__init__(event_shape, **kwargs)
        check_choice(real, tuple(REALS), "real")
        check_choice(count, tuple(COUNTS), "count")
        self.kinds, self.real, self.count = tuple(kinds), real, count
        if len(self.event_shape) != 1 or not self.kinds:
            raise UserError("likelihood 'mixed' is for tables, whose columns have kinds: take a --dataset of a csv or "
                            f"parquet file, or give --column_kinds; the data have shape {self.event_shape}.")
        found = columns.stretches(self.kinds, self.num_values)
        self.parts: list[Likelihood] = []
        self.places: list[np.ndarray] = []
        for kind in columns.KINDS:
            ours = [one for one in found if one.kind == kind]
            if ours:
                self.places.append(np.concatenate([np.arange(one.start, one.stop) for one in ours]).astype(np.int32))
                self.parts.append(self._part(kind, len(self.places[-1]), [one.stop - one.start for one in ours]))
        self.back = np.argsort(np.concatenate(self.places)).astype(np.int32)
        self.has_diagonal_fisher = all(part.has_diagonal_fisher for part in self.parts)

    def _part(self, kind: str, width: int, sizes: list[int]) -> Likelihood:
        options: dict[str, Any] = dict(dtype=self.dtype_policy, name=kind)
        if kind == columns.REAL:
            return REALS[self.real]((width,), per_value=True, **options)
        if kind == columns.COUNT:
            return COUNTS[self.count]((width,), **options)
        return Bernoulli((width,), **options) if kind == columns.BINARY else Categorical((width,), sizes, **options)

    def _each(self, function: Any, *values: tf.Tensor) -> list[Any]:
        """Returns function(part, its values) of every part."""
        return [function(part, *(tf.gather(value, places, axis=-1) for value in values))
                for part, places in zip(self.parts, self.places)]  # fmt: skip

    def whole(self, parts: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns values of the parts (..., width of it) as vectors (..., d)."""
        return tf.gather(tf.concat(parts, axis=-1), self.back, axis=-1)

    def split(self, values: tf.Tensor) -> list[tf.Tensor]:
        """Returns vectors (..., d) as values of the parts."""
        return self._each(lambda part, own: own, values)

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        return tfd.Independent(_Columns.of(self, full_precision(output)), reinterpreted_batch_ndims=0)

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        return self.whole(self._each(lambda part, own: part.mean(own), full_precision(output)))

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        return self.whole(self._each(lambda part, own: part.variance(own), full_precision(output)))

    def adapt(self, y: np.ndarray) -> None:
        """Sets the scales of reals by training data y (n, d); raises UserError for a column that is not of its kind."""
        for part, places in zip(self.parts, self.places):
            part.adapt(np.asarray(y)[:, places])

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        output, y = self._both(output, y)
        return tf.add_n(self._each(lambda part, own, data: part.log_prob(own, data), output, y))

    def log_probs(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        self._no_scale(scale)
        output, y = self._both(output, y)
        return self.whole(self._each(lambda part, own, data: part.log_probs(own, data), output, y))

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        self._no_scale(scale)
        output, y = self._both(output, y)
        scores, fishers = zip(*self._each(lambda part, own, data: part.score_and_fisher(own, data), output, y))
        return self.whole(scores), self.whole(fishers)

    def fisher_root(self, output: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        return self.whole(self._each(self._root, output, noise))

    def fisher_product(self, output: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        return self.whole(self._each(self._product, output, v))

    @staticmethod
    def _root(part: Likelihood, output: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        if not part.has_diagonal_fisher:
            return part.fisher_root(output, noise)
        return noise * tf.sqrt(part.score_and_fisher(output, tf.zeros_like(output))[1])

    @staticmethod
    def _product(part: Likelihood, output: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        if not part.has_diagonal_fisher:
            return part.fisher_product(output, v)
        return v * part.score_and_fisher(output, tf.zeros_like(output))[1]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kinds": self.kinds, "real": self.real, "count": self.count}


class _Columns(tfd.OneHotCategorical):
    """Vectors whose columns are drawn part by part, from a pair of integers."""

    # With an `__init__` of its own, TFP would warn that it knows no parameters of the class.
    @classmethod
    def of(cls, likelihood: Mixed, output: tf.Tensor) -> "_Columns":
        found = cls(logits=output, dtype=output.dtype, name="Columns")
        found.of_columns, found.output = likelihood, output
        return found

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return self.of_columns.log_prob(self.output, value)

    def _mean(self) -> tf.Tensor:
        return self.of_columns.mean(self.output)

    def _variance(self) -> tf.Tensor:
        return self.of_columns.variance(self.output)

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        parts = self.of_columns.parts
        own = zip(parts, self.of_columns.split(self.output), seeds.split(seed, len(parts)))
        return self.of_columns.whole([part(output).sample(n, seed=part_seed) for part, output, part_seed in own])
