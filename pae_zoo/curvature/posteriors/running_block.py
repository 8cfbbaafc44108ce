"""A posterior with a full matrix for each layer that moves while a network trains."""

from typing import Any, Sequence, Union

import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core import seeds
from pae_zoo.curvature.posteriors.dense import BlockPosterior


@register_keras_serializable("pae_zoo")
class RunningBlock(BlockPosterior):
    """`BlockPosterior` whose matrices move, with the Cholesky factors of the precision that draws are made with.

    It has the methods of `RunningKron`; its draws are exact, from Lambda_l = kappa G_l + gamma I as it was at the last
    `factorise`. See `WeightPosterior` for the arguments.
    """

    def _make(self) -> None:
        super()._make()
        sizes = enumerate(self.layout.sizes)
        self.roots = [self._weight(f"root_{index}", (size, size), "identity") for index, size in sizes]
        # log |Lambda| and tr Lambda^-1 of each layer, as the roots have them.
        self.sums = self._weight("sums", (len(self.layout.sizes), 2))

    def factors_now(self) -> list[tf.Tensor]:
        """Returns the matrices of all layers, in order."""
        return [tf.convert_to_tensor(one) for one in self.curvature]

    def moved(self, found: Sequence[tf.Tensor], share: tf.Tensor, scale: tf.Tensor) -> list[tf.Tensor]:
        """Returns the matrices taken by a share of the way to `scale` times those that `ggn` found."""
        return [old + share * (tf.cast(scale * goal, old.dtype) - old) for old, goal in zip(self.factors_now(), found)]

    def assign_factors(self, values: Sequence[tf.Tensor]) -> None:
        """Sets the matrices of all layers; draws go by those of the last `factorise`."""
        for variable, value in zip(self.curvature, values, strict=True):
            variable.assign(value)

    def rescale(self, factor: tf.Tensor) -> None:
        """Multiplies the curvature by a number."""
        self.assign_factors([factor * one for one in self.factors_now()])
        self.factorise()

    def factorise(self, now: Union[bool, tf.Tensor] = True) -> None:
        """Sets the roots to those of the matrices as they are now, where `now` is true."""
        variables = [*self.roots, self.sums]
        old = [tf.convert_to_tensor(variable) for variable in variables]
        for variable, value in zip(variables, tf.cond(tf.convert_to_tensor(now), self._roots, lambda: old)):
            variable.assign(value)

    def _roots(self) -> list[tf.Tensor]:
        lowers = self.prepare()
        traces = [tf.reduce_sum(diagonal) for diagonal in self._inverse_diagonals(lowers)]
        log_dets = [2.0 * tf.reduce_sum(tf.math.log(tf.linalg.diag_part(lower))) for lower in lowers]
        sums = tf.stack([tf.stack(log_dets), tf.stack(traces)], axis=1)
        return [*(lower[0] for lower in lowers), sums]

    def deviation(self, seed: seeds.Seed) -> list[tf.Tensor]:
        """Returns one draw of the weights about their mean, flat, (P_l,) of each chosen layer."""
        noise = seeds.normal((1, self.layout.num_chosen), seed, tf.as_dtype(self.mean.dtype), None)
        lowers: list[Any] = [tf.convert_to_tensor(root)[None] for root in self.roots]
        return [part[0] for part in self._split(self.root(noise, lowers))]

    def settle(self) -> None:
        """Sets the roots to those of the matrices as they are now."""
        self.factorise()
