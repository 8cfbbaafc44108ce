"""Data with missing values, NaN there: what a model of such data does with the values that were seen."""

from typing import Optional

import keras
import tensorflow as tf

from pae_zoo import likelihoods, networks
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.models import capabilities


class TakesGaps:
    """The part of a model that knows whether NaN stands for a value that is missing, and what then counts.

    It does where the encoder begins with `networks.WithMask`.
    """

    #: whether models of the class may take data with missing values
    may_take_gaps = False
    takes_gaps = False
    likelihood: likelihoods.Likelihood

    def with_gaps(self, encoder: keras.Model, likelihood: likelihoods.Likelihood) -> likelihoods.Likelihood:
        """Returns the observation model for what `encoder` takes; raises UserError as `check_gaps` does."""
        self.takes_gaps = networks.sees_mask(encoder)
        if not self.takes_gaps:
            return likelihood
        self.check_gaps()
        return likelihood if likelihoods.takes_gaps(likelihood) else likelihoods.Partial(likelihood)

    @classmethod
    def check_gaps(cls) -> None:
        """Raises UserError where the model cannot take data with missing values."""
        if not cls.may_take_gaps:
            raise UserError(f"{cls.__name__} takes no data with missing values; vae, vlae, iaf, hf, savae, flow_vae, "
                            "ensemble_vae, mmd_vae, ae, pae, rae and wae do. Fill them in, or take one of those.")

    @property
    def component(self) -> likelihoods.Likelihood:
        """The observation model that the model's own is made of, or itself."""
        return likelihoods.innermost(self.likelihood)

    def filled(self, y: tf.Tensor) -> tf.Tensor:
        """Returns y (batch, *event) with 0 where a value is missing, in a model that takes such data."""
        return tf.where(tf.math.is_nan(y), tf.zeros_like(y), y) if self.takes_gaps else y

    def residual(self, y: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
        """Returns y - mean of values that were seen, (..., batch, *event), and 0 of those that are missing."""
        return tf.where(tf.math.is_nan(y), tf.zeros_like(y), y - mean) if self.takes_gaps else y - mean

    def mean_square(self, residual: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Returns the mean over the values of y that were seen of squared residuals (batch, *event), (batch,)."""
        axes = list(range(1, y.shape.rank))
        if not self.takes_gaps:
            return tf.reduce_mean(tf.square(residual), axis=axes)
        seen = tf.reduce_sum(tf.cast(~tf.math.is_nan(y), y.dtype), axis=axes)
        return tf.reduce_sum(tf.square(residual), axis=axes) / tf.maximum(seen, 1.0)

    def impute(self, x: TensorLike, num_samples: int = 1, seed: Optional[seeds.Seed] = None,
               num_proposals: int = 100) -> tf.Tensor:
        """Returns draws of what is missing in x, NaN there, given what was seen: (num_samples, batch, *event)."""
        raise capabilities.lacking(self, "impute")

    def impute_mean(self, x: TensorLike, seed: Optional[seeds.Seed] = None,
                    num_proposals: int = 100) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and std of what is missing in x given what was seen, each (batch, *event)."""
        raise capabilities.lacking(self, "impute")
