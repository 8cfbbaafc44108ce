"""Decoders as the geometry of latents wants them: functions of z alone, cheap to call inside a compiled loop."""

from collections.abc import Callable
from typing import Any, Optional

import tensorflow as tf

from pae_zoo import likelihoods, networks
from pae_zoo.core.inputs import TensorLike

#: members drawn where the caller does not say how many
DEFAULT_MEMBERS = 10


class Members:
    """Several decoders and the means of their observation model.

    Args:
      stacked: the decoders.
      mean: maps outputs (S, n, ...) to means of y (S, n, *event).
      alignment: (rotations (S, K, K), shifts (S, K)) where member s decodes (z - shift_s) rotation_s' instead of z.
    """

    def __init__(self, stacked: networks.StackedDecoder, mean: Callable[[tf.Tensor], tf.Tensor],
                 alignment: Optional[tuple[tf.Tensor, tf.Tensor]] = None):
        self.stacked, self.mean, self.alignment = stacked, mean, alignment

    @property
    def num_members(self) -> int:
        """S."""
        return self.stacked.num_members

    def members(self, z: TensorLike) -> tf.Tensor:
        """Returns the means of y of every member at latents z (n, K), (S, n, *event)."""
        latents: tf.Tensor = tf.convert_to_tensor(z)
        if self.alignment is None:
            return self.mean(self.stacked.members(latents))
        rotations, shifts = self.alignment
        return self.mean(self.stacked.each(tf.matmul(latents[None] - shifts[:, None], rotations, transpose_b=True)))

    def mean_and_members(self, z: TensorLike) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the mean over members (n, *event) and `members(z)`."""
        members = self.members(z)
        return tf.reduce_mean(members, axis=0), members


class MeanAndStd:
    """A decoder with a mean and a standard deviation of every value of y; `function` maps z (n, K) to both."""

    def __init__(self, function: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]):
        self.mean_and_std = function


def of(model: Any) -> Any:
    """Returns the geometry decoder of a model with one decoder: mean and std if it gives both, else the mean."""
    likelihood = model.likelihood

    def mean(z):
        return likelihood.mean(model.decoder_outputs(tf.convert_to_tensor(z)))

    def mean_and_std(z):
        outputs = model.decoder_outputs(tf.convert_to_tensor(z))
        return likelihood.mean(outputs), tf.sqrt(likelihood.variance(outputs))

    return MeanAndStd(mean_and_std) if isinstance(likelihood, likelihoods.GaussianDecoder) else mean
