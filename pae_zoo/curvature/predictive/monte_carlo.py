"""Prediction from drawn networks, for any Keras model."""

from typing import Any, Sequence, Union

import keras
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.curvature.network.graph import as_list
from pae_zoo.curvature.posteriors.base import WeightPosterior, variables_of


def sample_outputs(posterior: WeightPosterior, models: Union[keras.Model, Sequence[keras.Model]], x: Any,
                   num_samples: int, seed: seeds.Seed) -> tf.Tensor:
    """Returns the outputs of networks drawn from a posterior, (num_samples, B, *out).

    The networks are drawn and applied one after another, and the models are left as they are: a draw takes the place of
    their weights in a `keras.StatelessScope`. The same seed gives the same networks, whatever the data.

    Args:
      posterior: over the weights of the models.
      models: one model, or several that are applied in turn, such as (encoder, decoder).
      x: (B, *event).
      num_samples: networks.
      seed: a pair of integers.

    Raises UserError for a model of another architecture, and where there is no network to draw.
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples!r} must be at least 1.")
    posterior.layout.check(models)
    models = as_list(models)
    variables, x, seed = variables_of(models), tf.convert_to_tensor(x), seeds.as_seed(seed)

    @tf.function(autograph=False)
    def one(number, x):
        values = posterior.sample_one(seeds.fold_in(seed, number))
        with keras.StatelessScope(state_mapping=list(zip(variables, values))):
            for model in models:
                x = model(x, training=False)
        return x

    return tf.stack([one(tf.constant(number), x) for number in range(num_samples)])
