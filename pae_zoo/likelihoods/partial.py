"""Data of which some values are missing: the observation model of what was seen."""

from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.core.errors import UserError
from pae_zoo.likelihoods.base import Likelihood

tfd = tfp.distributions


class Wrapping(Likelihood):
    """An observation model made of another, `component`, whose weights it keeps."""

    def __init__(self, component: Likelihood, **kwargs: Any) -> None:
        super().__init__(component.event_shape, **kwargs)
        self.component = component
        self.channels_factor = component.channels_factor

    @property
    def scale(self) -> Any:
        """The standard deviation of a Gaussian component."""
        return self.component.scale

    def adapt(self, y: np.ndarray) -> None:
        self.component.adapt(y)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["event_shape"]
        return {**config, "component": keras.saving.serialize_keras_object(self.component)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Wrapping":
        return cls(**{**config, "component": keras.saving.deserialize_keras_object(config["component"])})


def innermost(likelihood: Likelihood) -> Likelihood:
    """Returns the observation model that others are made of, or `likelihood` itself."""
    while isinstance(likelihood, Wrapping):
        likelihood = likelihood.component
    return likelihood


def takes_gaps(likelihood: Likelihood) -> bool:
    """Whether an observation model, or one that it is made of, takes NaN for values that are missing."""
    while isinstance(likelihood, Wrapping) and not isinstance(likelihood, Partial):
        likelihood = likelihood.component
    return isinstance(likelihood, Partial)


@keras.saving.register_keras_serializable("pae_zoo")
class Partial(Wrapping):
    """The observation model of the values that were seen; NaN stands for one that was not.

        log p(y_seen|z) = sum over seen p of log p(y_p|z)

    The right marginal where values are missing at random (Mattei & Frellsen, arXiv 1812.02633, eq. 3). Mean, variance
    and draws are those of all values. A datum of which nothing was seen has log density 0.

    Args: component, an observation model whose values are independent given z. Raises UserError for another.
    """

    def __init__(self, component: Likelihood, **kwargs: Any) -> None:
        super().__init__(component, **kwargs)
        if not component.has_independent_values or isinstance(component, Partial):
            raise UserError(f"Missing values need a likelihood of independent values; {type(component).__name__} has "
                            "none. Take gaussian_learned, or another of pae_zoo.likelihoods.")
        self.is_discrete, self.is_linear = component.is_discrete, component.is_linear
        self.has_gaussian_values = component.has_gaussian_values

    def call(self, output: tf.Tensor) -> tfd.Distribution:
        """Returns the distribution over all values of y, missing or not, a tfd.Independent."""
        return self.component(output)

    def mean(self, output: tf.Tensor) -> tf.Tensor:
        return self.component.mean(output)

    def variance(self, output: tf.Tensor) -> tf.Tensor:
        return self.component.variance(output)

    def log_prob(self, output: tf.Tensor, y: tf.Tensor, scale: Optional[tf.Tensor] = None) -> tf.Tensor:
        """Returns log p(y_seen|z) in nats, (..., batch); see `Likelihood.log_prob`."""
        output, y = self._both(output, y)
        seen = ~tf.math.is_nan(y)
        terms = self.component.log_probs(output, _filled(y), scale=scale)
        return self._sum(tf.where(seen, terms, tf.zeros_like(terms)))

    def score_and_fisher(self, output: tf.Tensor, y: tf.Tensor,
                         scale: Optional[tf.Tensor] = None) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Likelihood.score_and_fisher`: values that are missing have a score and an information of 0."""
        output, y = self._both(output, y)
        seen = tf.concat([~tf.math.is_nan(y)] * self.channels_factor, axis=-1)
        pair = self.component.score_and_fisher(output, _filled(y), scale=scale)
        return tuple(tf.where(seen, one, tf.zeros_like(one)) for one in pair)


def _filled(y: tf.Tensor) -> tf.Tensor:
    # 0 has a density under every observation model of the package, so that neither it nor its gradient is NaN.
    return tf.where(tf.math.is_nan(y), tf.zeros_like(y), y)
