"""TFP distributions whose draws come from `pae_zoo.seeds`: the same eagerly and under XLA.

`sample` takes a pair of integers as seed and raises ValueError for anything else, so that no draw has hidden
state.
"""

import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo import seeds


class Normal(tfp.distributions.Normal):
    """N(loc, scale^2); the shapes of loc and scale broadcast."""

    def _sample_n(self, n, seed=None):
        loc, scale = tf.convert_to_tensor(self.loc), tf.convert_to_tensor(self.scale)
        shape = tf.broadcast_dynamic_shape(tf.shape(loc), tf.shape(scale))
        return loc + scale * seeds.normal(tf.concat([[n], shape], axis=0), seed, self.dtype)


class Bernoulli(tfp.distributions.Bernoulli):
    """Bernoulli(sigmoid(logits)) or Bernoulli(probs)."""

    def _sample_n(self, n, seed=None):
        probs = self.probs_parameter()
        shape = tf.concat([[n], tf.shape(probs)], axis=0)
        return tf.cast(seeds.uniform(shape, seed, probs.dtype) < probs, self.dtype)
