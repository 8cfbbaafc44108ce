"""The mean of several densities, which is a density too."""

from collections.abc import Sequence
from typing import Any, NoReturn, Optional

import keras
import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.core.trainable import Trainable


@register_keras_serializable("pae_zoo")
class Ensemble(Trainable):
    """p(z) = (p_1(z) + ... + p_M(z)) / M of fitted densities p_i, each a `pae_zoo.flows.Flow` or an `Ensemble`.

    It has no base and no map to one. `ensemble(z)` and `predict` give log p(z); `fit` goes on training all members on
    the likelihood of the mean.

    Args:
      members: one density or more, over as many dimensions and with contexts of the same width.
      seed: of the next samples.
      dtype: as that of the first member where it is None.

    Raises UserError for no member, or members that do not fit each other.

    Examples:
      >>> import numpy as np
      >>> from pae_zoo import densities
      >>> x = np.random.default_rng(0).normal(size=(200, 2)).astype("float32")
      >>> both = densities.Ensemble([densities.fit(x, "gaussian"), densities.fit(x, "student_mixture", components=2)])
      >>> both.log_prob(x).shape, both.sample(5, seed=(0, 1)).shape
      (TensorShape([200]), TensorShape([5, 2]))
    """

    tracked = ("nll",)

    def __init__(self, members: Sequence[Any], seed: int = 0, dtype: Any = None, **kwargs: Any) -> None:
        members = list(members)
        if not members:
            raise UserError("An ensemble has one density or more; received none.")
        sizes = [(one.num_dims, one.context_dim) for one in members]
        if len(set(sizes)) > 1:
            raise UserError("The densities of an ensemble have the same numbers of dimensions and of context; received "
                            f"{', '.join(map(str, sizes))}.")
        super().__init__(seed=seed, dtype=dtype or members[0].dtype_policy, **kwargs)
        self.members = members
        self.num_dims, self.context_dim = sizes[0]
        self.built = True

    def log_prob(self, z: Any, context: Any = None) -> tf.Tensor:
        """Returns log p(z) in nats, (..., K) -> (...); with a context (..., C), log p(z|c)."""
        given = () if context is None else (context,)
        return self._mean([one.log_prob(z, *given) for one in self.members])

    def call(self, z: Any, training: bool = False) -> tf.Tensor:
        """Returns log p(z) in nats, (..., K) -> (...); with a context log p(z|c), (..., K + C) -> (...)."""
        return self._mean([one(z) for one in self.members])

    def _mean(self, logs: list[tf.Tensor]) -> tf.Tensor:
        stacked = tf.stack([tf.cast(one, self.compute_dtype) for one in logs])
        return tf.reduce_logsumexp(stacked, axis=0) - float(np.log(len(logs)))

    def sample(self, num: int, seed: Optional[seeds.Seed] = None, context: Any = None) -> tf.Tensor:
        """Draws `num` data, each from a member drawn for it, (num, K); with a context (..., C), (num, ..., K)."""
        which_seed, *each = seeds.split(self.next_seed(seed), 1 + len(self.members))
        given = {} if context is None else {"context": context}
        drawn = [tf.cast(one.sample(num, of, **given), self.compute_dtype) for one, of in zip(self.members, each)]
        stacked = tf.stack(drawn)
        shares = seeds.uniform(tf.shape(stacked)[1:-1], which_seed, stacked.dtype) * len(drawn)
        which = tf.minimum(tf.cast(shares, tf.int32), len(drawn) - 1)
        numbers = tf.reshape(tf.range(len(drawn)), (-1, *[1] * len(which.shape)))
        chosen = tf.equal(numbers, which)[..., None]
        # Not by a product, in which a draw that is not finite would reach the others.
        return tf.reduce_sum(tf.where(chosen, stacked, tf.zeros_like(stacked)), axis=0)

    def forward(self, u: Any, context: Any = None) -> NoReturn:
        """Raises NotImplementedError: a mean of densities has no base."""
        raise NotImplementedError("An Ensemble has no base space that maps to the data; its members have one each. "
                                  "Take sample, or forward of a member.")

    def inverse(self, z: Any, context: Any = None) -> NoReturn:
        """Raises NotImplementedError: a mean of densities has no base."""
        raise NotImplementedError("An Ensemble has no base space that data map to; its members have one each. Take "
                                  "log_prob, or inverse of a member.")

    def objective(self, x: tf.Tensor, seed: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        """Returns "loss" and "nll", both -log p(x) in nats, (batch,)."""
        nll = -self.call(x)
        return {"loss": nll, "nll": nll}

    @property
    def event_shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The shape of one datum, (K,), or (K + C,) with a context."""
        return (self.num_dims + self.context_dim,)

    def form(self) -> Any:
        return self.members[0].form()

    def as_input(self, x: tf.Tensor) -> tf.Tensor:
        return self.members[0].as_input(x)

    def build(self, input_shape: Any = None) -> None:
        # The members are built before; Keras calls this again on loading.
        self.built = True

    def get_config(self) -> dict[str, Any]:
        members = [keras.saving.serialize_keras_object(one) for one in self.members]
        return {"members": members, "seed": self.seed, "name": self.name, "dtype": self.dtype_policy.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Ensemble":
        members = [keras.saving.deserialize_keras_object(one, custom_objects) for one in config["members"]]
        return cls(**{**config, "members": members})
