"""savae_published: savae with the steps of the code of Park et al., ICML 2019, faults included."""

import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.models import savae

HParams = savae.HParams


@register_keras_serializable("pae_zoo")
class SAVAEPublished(savae.SAVAE):
    """`SAVAE` with the steps of the code of Park et al., Variational Laplace Autoencoders, ICML 2019.

    Their sign is wrong, so that they go down the bound; their gradient is that of the batch mean, so that a step is
    shorter the larger the batch; and clip(g) = g / max(1, |g|^2 / c) makes long gradients short ones.

    Args: those of `SAVAE`.
    """

    former = None

    def climbed(self, bound: tf.Tensor) -> tf.Tensor:
        return -tf.reduce_mean(bound)

    def clip(self, gradient: tf.Tensor) -> tf.Tensor:
        if not self.svi_clip:
            return gradient
        return gradient / tf.maximum(1.0, tf.reduce_sum(tf.square(gradient), axis=-1, keepdims=True) / self.svi_clip)


MODEL = SAVAEPublished
